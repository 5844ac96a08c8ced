"""The eight failure patterns of WM-811K, as probabilities of a die to fail.

Each pattern draws its size, place, density and gaps widely, as real ones vary.

Source of the names: Wu, Jang, Chen, "Wafer Map Failure Pattern Recognition and Similarity
Ranking for Large-Scale Data Sets", IEEE Trans. Semicond. Manuf. 28(1), 2015, figure 1.
"""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.special import expit

from inspect_ai.scores import Bool, Float64


class Grid(NamedTuple):
    """Where the dies of a product are: (R, C) arrays, the wafer's radius is 1."""

    x: Float64
    y: Float64
    r: Float64  # distance from the centre
    on: Bool  # on the wafer
    die: float  # longer side of a die


Pattern = Callable[[Generator, Grid], Float64]  # to the (R, C) probability of a kill


def waves(rng: Generator, grid: Grid, count: int, cycles: float) -> Float64:
    """(count, R, C) noise of variance 1: three plane waves, at most `cycles` across the wafer."""
    turn, phase = rng.uniform(0, 2 * np.pi, (2, count, 3, 1, 1))
    k = np.pi * rng.uniform(0.3 * cycles, cycles, turn.shape)
    waves = np.cos(k * (np.cos(turn) * grid.x + np.sin(turn) * grid.y) + phase)
    return np.asarray(np.sqrt(2 / 3) * waves.sum(axis=1))


def soft(margin: Float64, softness: float) -> Float64:
    """How surely a die fails: 1 inside a shape, 1/2 at its edge (margin 0), 0 outside."""
    return np.asarray(expit(margin / softness))


def _turned(rng: Generator, grid: Grid) -> Float64:
    """(R, C) angle from a random direction, radians in [-pi, pi]."""
    angle = np.arctan2(grid.y, grid.x) + rng.uniform(0, 2 * np.pi)
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)


def _blob(rng: Generator, grid: Grid, centre: float, size: tuple[float, float]) -> Float64:
    """(R, C) ragged ellipse at a distance from the centre: 1 in the middle, 0 at its edge."""
    turn, tilt = rng.uniform(0, 2 * np.pi, 2)
    x, y = grid.x - centre * np.cos(turn), grid.y - centre * np.sin(turn)
    u, v = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    ragged = rng.uniform(0.05, 0.3) * waves(rng, grid, 1, 5.0)[0]
    return np.asarray(1 - np.hypot(u / size[0], v / size[1]) + ragged)


def _center(rng: Generator, grid: Grid) -> Float64:
    size = float(np.clip(rng.lognormal(np.log(0.28), 0.45), 0.12, 0.8))
    margin = _blob(rng, grid, abs(rng.normal(0, 0.06)), (size, size * rng.uniform(0.75, 1)))
    hollow = rng.uniform(0, 0.7) * (rng.random() < 0.25) * (margin > 0.6)
    return rng.uniform(0.6, 1.0) * soft(margin, rng.uniform(0.03, 0.2)) * (1 - hollow)


def _donut(rng: Generator, grid: Grid) -> Float64:
    radius, half = rng.uniform(0.3, 0.55), rng.uniform(0.1, 0.22)
    shift = rng.normal(0, 0.07, 2)
    distance = abs(np.hypot(grid.x - shift[0], grid.y - shift[1]) - radius)
    open_side = rng.uniform(0, 0.9) * (1 - np.cos(_turned(rng, grid))) / 2
    margin = half - distance + 0.03 * waves(rng, grid, 1, 4.0)[0]
    return rng.uniform(0.5, 1.0) * soft(margin, rng.uniform(0.02, 0.06)) * (1 - open_side)


def _edge_loc(rng: Generator, grid: Grid) -> Float64:
    depth = max(1.6 * grid.die, rng.uniform(0.06, 0.32))
    lens = depth * (1 - (_turned(rng, grid) / rng.uniform(0.25, 1.0)) ** 2)
    return rng.uniform(0.7, 1.0) * soft(grid.r - 1 + lens, 0.25 * grid.die)


def _edge_ring(rng: Generator, grid: Grid) -> Float64:
    depth = grid.die * rng.uniform(1.0, 1.7)
    weak_side = rng.beta(0.4, 3.0) * (1 - np.cos(_turned(rng, grid))) / 2
    return rng.uniform(0.88, 1.0) * (1 - weak_side) * soft(grid.r - 1 + depth, 0.1 * grid.die)


def _loc(rng: Generator, grid: Grid) -> Float64:
    size = max(1.5 * grid.die, rng.uniform(0.08, 0.35))
    margin = _blob(rng, grid, rng.uniform(0.3, 0.75), (size, size * rng.uniform(0.4, 1)))
    return rng.uniform(0.65, 1.0) * soft(margin, rng.uniform(0.03, 0.15))


def _near_full(rng: Generator, grid: Grid) -> Float64:
    unevenness = rng.uniform(0.3, 2.0) * waves(rng, grid, 1, 0.8)[0]
    return soft(rng.uniform(1.4, 3.4) + unevenness, 1.0)


def _random(rng: Generator, grid: Grid) -> Float64:
    level = rng.uniform(-0.9, 0.5) + rng.uniform(0.1, 0.9) * waves(rng, grid, 1, 1.0)[0]
    rows, cols = np.indices(grid.on.shape)
    stripes = (rng.random() < 0.15) * ((cols if rng.random() < 0.7 else rows) % 2 - 0.5)
    return soft(level + 2.5 * stripes, 1.0)


def _scratch(rng: Generator, grid: Grid) -> Float64:
    """One curve, or a few side by side, of one or two dies width and with gaps."""
    length = max(6 * grid.die, rng.uniform(0.3, 1.5))  # wafer radii
    s = np.arange(-length / 2, length / 2, grid.die / 4)
    across = np.exp(1j * rng.uniform(0, 2 * np.pi))
    middle = rng.uniform(0, 0.7) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    track = np.cumsum(1j * across * np.exp(1j * rng.normal(0, 0.8) * s)) * grid.die / 4
    track += middle - track[len(s) // 2]
    gaps = np.sin(rng.uniform(6, 18) * s / length + rng.uniform(0, 6)) < rng.uniform(-1.6, -0.5)
    count, spacing = rng.choice([1, 2, 3], p=[0.8, 0.15, 0.05]), rng.uniform(2.0, 4.0)
    shifts = [0.0, 0.7][: 1 + (rng.random() < 0.25)]  # dies; the second makes it two dies wide
    shifts = [n * spacing + wide for n in range(count) for wide in shifts]
    z = np.concatenate([track[~gaps] + shift * grid.die * across for shift in shifts])
    hits, _, _ = np.histogram2d(z.imag, z.real, grid.on.shape, ((-1, 1), (-1, 1)))
    return np.where(hits > 0, rng.uniform(0.75, 1.0), 0.0)


PATTERNS: dict[str, Pattern] = {
    "Center": _center,
    "Donut": _donut,
    "Edge-Loc": _edge_loc,
    "Edge-Ring": _edge_ring,
    "Loc": _loc,
    "Near-full": _near_full,
    "Random": _random,
    "Scratch": _scratch,
}
_RIVALS = (("Center", "Donut"), ("Edge-Loc", "Edge-Ring"), ("Loc",), ("Scratch",))
MIXTURES = [f"{a}+{b}" for A, B in combinations(_RIVALS, 2) for a in A for b in B]
