"""Noise that images are diffused with: Gaussian in pairs of opposite sign, and simplex.

Antithetic: e and -e come together. In a pair's mean all that is odd in e cancels: its first moment
is exact, and where odd parts prevail the mean is steadier than that of as many free draws.

Simplex noise is smooth: it hides and redraws whole patches, as defects are, where Gaussian noise
hides single cells. On a lattice of equilateral triangles each point has a gradient g of length 1,
in one of 256 directions, chosen by hashing with a permutation p: the direction at (i, j) is
p[i + p[j]]. At d from its triangle's corners a cell has

    n = sum_corners (1/2 - |d|^2)_+^4 <g, d>

It is a sum over octaves k = 0, 1, ..: period / 2^k, times persistence^k. Lattices are turned and
shifted at random, evenly, so no place or direction is special, and only over such draws is the mean
0 and the variance 1 (an image has its own). With A = 1 / sqrt(3) the area per lattice point,

    Var n = 1/A int (1/2 - r^2)^8 r^2/2 dx dy = pi sqrt(3) / 180 * 2^-10

A period is the unit of the lattice's plane, sqrt(3/2) edges; power is highest at about one wave in
1.2 periods. Octaves whose period is below a cell are white.

Sources: Perlin, "Noise hardware", SIGGRAPH course 2001, chapter 2 (simplex noise). Gustavson,
"Simplex noise demystified", 2005 (skewing, corners and fall-off of two dimensions). Wyatt, Leach,
Schmon, Willcocks, "AnoDDPM", CVPR workshops 2022 (6 octaves, persistence 0.8, the first of 64 cells
in images of 256). Hammersley, Morton, "A new Monte Carlo technique: antithetic variates",
Mathematical Proceedings of the Cambridge Philosophical Society 52(3), 1956.

Shapes: N images, C channels, h, w cells, F = N C fields of P = h w cells.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inspect_ai.training.draws import opposite

SKEW = (math.sqrt(3) - 1) / 2  # makes the triangles' lattice one of squares
BACK = (3 - math.sqrt(3)) / 6
REACH = 0.5  # squared: height of a triangle, beyond which a corner has no say
VARIANCE = math.pi * math.sqrt(3) / 180 * 2**-10
HASHED = 256  # lattice points a side until the pattern repeats, and directions


def antithetic(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Draws (count, *shape) from N(0, 1), the same for the same seed.

    Draws 2 k and 2 k + 1 are of opposite sign; of an odd count the last is alone.
    """
    generator = torch.Generator().manual_seed(seed)
    return opposite(torch.randn((count + 1) // 2, *shape, generator=generator), count)


def simplex(
    count: int,
    shape: tuple[int, int, int],
    generator: torch.Generator | None = None,
    octaves: int = 6,
    persistence: float = 0.8,
    period: float | None = None,
) -> Tensor:
    """Simplex noise (N, C, h, w) of mean 0 and variance 1; images and channels are independent.

    Args:
        count: N.
        shape: (C, h, w).
        generator: on its device; None is torch's global one, on the default device.
        octaves: at least 1, each of half the period of the one before.
        persistence: an octave's amplitude as a share of the one before's, above 0.
        period: of the first octave in cells, above 0; None is a quarter of the longer side.
    """
    grid, fields = shape[1:], count * shape[0]
    where = torch.get_default_device() if generator is None else generator.device

    def drawn(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, device=where)

    p = drawn(fields, HASHED).argsort(1)
    turn = 2 * math.pi * p / HASHED
    lattice = Lattice(p, turn.cos(), turn.sin())
    first = max(grid) / 4 if period is None else period
    n = torch.zeros(fields, math.prod(grid), device=where)
    for k in range(octaves):
        u, v = _placed(grid, first / 2**k, drawn(fields, 3))
        n = n + persistence**k * _noise(lattice, u, v)
    energy = sum(persistence ** (2 * k) for k in range(octaves))
    return (n / math.sqrt(energy * VARIANCE)).reshape(count, *shape)


class Lattice(NamedTuple):
    """Of each field: the permutation that hashes, and hashed gradients, each (F, 256)."""

    p: Tensor
    g_x: Tensor
    g_y: Tensor


def _placed(grid: tuple[int, int], period: float, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Cells' skewed coordinates u, v (F, P) on lattices turned and shifted by draws (F, 3)."""
    rows = torch.arange(grid[0], device=drawn.device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=drawn.device).repeat(grid[0])
    turn = 2 * math.pi * drawn[:, :1]
    cos, sin = turn.cos() / period, turn.sin() / period
    x, y = cos * columns - sin * rows, sin * columns + cos * rows
    skew = SKEW * (x + y)
    return x + skew + HASHED * drawn[:, 1:2], y + skew + HASHED * drawn[:, 2:]


def _noise(lattice: Lattice, u: Tensor, v: Tensor) -> Tensor:
    """Values (F, P) at skewed coordinates, of variance VARIANCE."""
    i, j = u.floor(), v.floor()
    u, v = u - i, v - j
    below = (u > v).float()  # of the two triangles of a square
    i, j = i.long(), j.long()
    n = _corner(lattice, i, j, u, v)
    n = n + _corner(lattice, i + below.long(), j + 1 - below.long(), u - below, v - 1 + below)
    return n + _corner(lattice, i + 1, j + 1, u - 1, v - 1)


def _corner(lattice: Lattice, i: Tensor, j: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """What lattice point (i, j) adds at skewed distances u, v from it; each (F, P)."""
    back = BACK * (u + v)
    d_x, d_y = u - back, v - back
    hashed = (i + lattice.p.gather(1, j % HASHED)) % HASHED
    slope = lattice.g_x.gather(1, hashed) * d_x + lattice.g_y.gather(1, hashed) * d_y
    return (REACH - d_x.square() - d_y.square()).clamp(min=0).pow(4) * slope
