"""Affine couplings: invertible steps whose log-determinant is a sum.

A step keeps half of a vector's numbers, A, and moves the others by what it reads from those,

    y_A = x_A,    y_B = x_B * exp(s(x_A)) + t(x_A),    ln |dy / dx| = sum of s

and the next step keeps B. Which half is drawn once, by a seed, anew for every pair of steps: the
same as halves of a vector that a fixed permutation mixes between them. Each number keeps its
place, so that its own scales, and with them its share of the log-determinant, are its own.

The log-scale is bounded, s = k tanh(s' / k), or left out: then the step keeps volume and the flow
scales all images alike. A last learned scale for each number, the same for all images, follows
the steps. Numbers that do not count are 0, are not moved, and have no share: the flow is one of
the numbers that count, whichever those are.

Sources: Dinh, Krueger, Bengio, "NICE", ICLR workshop 2015, section 3 (additive, last scale).
Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017, equations 4 to 9
(affine, masks).

Shapes: N images, d numbers at each place of a grid of (h, w) places, K numbers that are told.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class Coupling(nn.Module):
    """One step; its network sees what is kept, what counts and what is told, place by place."""

    kept: Tensor

    def __init__(self, kept: Tensor, told: int, width: int, reach: int, clamp: float) -> None:
        """One that does nothing yet.

        Args:
            kept: (d,) 1 where a number is kept.
            reach: side of the square of places that the network sees; odd.
            clamp: bound of the log-scale; 0 for none at all, a step that keeps volume.
        """
        super().__init__()
        d = kept.shape[0]
        self.clamp = clamp
        self.register_buffer("kept", kept[:, None, None])
        self.enter = nn.Conv2d(2 * d + told, width, reach, padding=reach // 2)
        self.mix = nn.Conv2d(width, width, 1)
        self.leave = nn.Conv2d(width, (2 if clamp else 1) * d, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    @override
    def forward(self, x: Tensor, counts: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """y and each number's log-scale, both (N, d, h, w)."""
        s, t = self._read(x, counts, told)
        return x * s.exp() + t, s

    def inverse(self, y: Tensor, counts: Tensor, told: Tensor) -> Tensor:
        """x of y."""
        s, t = self._read(y, counts, told)
        return (y - t) * (-s).exp()

    def _read(self, x: Tensor, counts: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        seen = F.silu(self.enter(torch.cat([x * self.kept, counts, told], 1)))
        moved = counts * (1 - self.kept)
        read: Tensor = self.leave(F.silu(self.mix(seen)))
        if not self.clamp:
            return torch.zeros_like(x), read * moved
        s, t = read.chunk(2, 1)
        return self.clamp * torch.tanh(s / self.clamp) * moved, t * moved


class Flow(nn.Module):
    """Steps in a row, and the last scale."""

    def __init__(self, halves: Tensor, told: int, width: int, reach: int, clamp: float) -> None:
        """See Coupling.

        Args:
            halves: (steps, d) 1 where a step keeps a number.
        """
        super().__init__()
        self.steps = nn.ModuleList(Coupling(kept, told, width, reach, clamp) for kept in halves)
        self.scale = nn.Parameter(torch.zeros(halves.shape[1], 1, 1))  # its logarithm

    @override
    def forward(self, x: Tensor, counts: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """z and each number's share of ln |dz / dx|.

        Args:
            x: (N, d, h, w), 0 where it does not count.
            counts: (N, d, h, w), 1 where a number counts, else 0.
            told: (N, K, h, w), whatever else the networks may know.
        """
        share = counts * self.scale
        for step in self.steps:
            x, s = step(x, counts, told)
            share = share + s
        return x * self.scale.exp(), share

    def inverse(self, z: Tensor, counts: Tensor, told: Tensor) -> Tensor:
        """x of z."""
        x = z * (-self.scale).exp()
        for step in reversed(self.steps):
            x = step.inverse(x, counts, told)  # type: ignore[operator]
        return x


def halves(numbers: int, steps: int, seed: int) -> Tensor:
    """Which numbers each step keeps, (steps, numbers): random halves, each followed by the rest."""
    draw = torch.Generator().manual_seed(seed)
    found = list[Tensor]()
    for step in range(steps):
        if step % 2:
            found.append(1 - found[-1])
            continue
        first = torch.randperm(numbers, generator=draw)[: numbers // 2]
        found.append(torch.zeros(numbers).scatter(0, first, 1.0))
    return torch.stack(found) if found else torch.zeros(0, numbers)
