"""What a causal model's cells are told beside the cells before them, and a network that is told.

    coverage   which cells are there
    place      the cell's place in the rectangle of cells that are there, and a few learned
               numbers of each cell of the grid, spread over dies as the grid is
    condition  learned numbers of a product or layer
    so far     mean a of what was read in all cells before: a yield, a brightness, as a/(|a| + 0.1)

What the network says is added to numbers that each cell of the grid has for itself, so that it
need only learn what its neighbours add to a cell's place.

Numbers that a cell has for itself are held on a scale of PULL: a step of training moves each
weight alike, and they have far to go.

Shapes: N images, h, w cells, gh, gw cells of the grid, E channels of what is read, P numbers
that are said of a cell.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.preprocess import extent, overlap
from inspect_ai.training.outputs import Output

PULL = 40.0
CONDITION = 8  # learned numbers of a product or layer


class Network(Protocol):
    """What a model file gives: (N, E, h, w) to (N, P, h, w), causal in x."""

    def __call__(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """What is said of every cell, from those before it and from what it is told itself."""

    def peek(self, x: Tensor, context: Tensor, mask: Tensor, place: tuple[int, int]) -> Tensor:
        """What is said of one cell, (N, P)."""


class Context(nn.Module):
    """What each cell is told, (N, size, h, w)."""

    where: Tensor

    def __init__(self, so_far: int, place: int, grid: tuple[int, int], classes: int) -> None:
        """An untrained one.

        Args:
            so_far: channels E of the mean so far; 0 leaves it out.
            place: learned numbers of each cell of the grid.
            classes: products or layers; 0 for none.
        """
        super().__init__()
        y, x = (torch.linspace(-1, 1, side + 2)[1:-1] for side in grid)
        y, x = y[:, None].expand(grid), x[None, :].expand(grid)
        self.register_buffer("where", torch.stack([y, x, y.square() + x.square() - 1]))
        self.own = nn.Parameter(torch.zeros(place, *grid))
        self.classes = nn.Embedding(classes, CONDITION) if classes else None
        self.grid, self.told_apart = grid, classes
        self.so_far, self.size = so_far, 4 + place + CONDITION * bool(classes) + so_far

    @override
    def forward(self, x: Tensor, mask: Tensor, fixed: Tensor) -> Tensor:
        return torch.cat([fixed, so_far(x, mask)], 1) if self.so_far else fixed

    def fixed(self, mask: Tensor, condition: Tensor | None) -> Tensor:
        """The part that does not depend on x."""
        parts = [mask, spread(torch.cat([self.where, PULL * self.own])[None], mask)]
        if self.classes is not None:
            assert condition is not None
            parts.append(self.classes(condition)[:, :, None, None] * mask)
        return torch.cat(parts, 1)


class Told(nn.Module):
    """A network whose cells are told a context, beside what is said of their place alone."""

    def __init__(self, net: nn.Module, output: Output, context: Context) -> None:
        super().__init__()
        self.net, self.context, self.encode = net, context, output.encode
        self.alone = Independent(output.size, context.grid, context.told_apart)

    @override
    def forward(self, values: Tensor, mask: Tensor, condition: Tensor | None) -> Tensor:
        x = self.encode(values) * mask
        fixed, alone = self.fixed(mask, condition)
        params: Tensor = self.net(x, self.context(x, mask, fixed), mask)
        return params + alone

    def peek(
        self, values: Tensor, mask: Tensor, fixed: tuple[Tensor, Tensor], place: tuple[int, int]
    ) -> Tensor:
        """What is said of one cell, (N, P), given `fixed`."""
        x = self.encode(values) * mask
        net: Network = self.net  # type: ignore[assignment]
        said = net.peek(x, self.context(x, mask, fixed[0]), mask, place)
        return said + fixed[1][:, :, place[0], place[1]]

    def fixed(self, mask: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """What does not depend on values: of the context, and of what is said."""
        return self.context.fixed(mask, condition), self.alone.say(mask, condition)


class Independent(nn.Module):
    """Each cell of the grid has one distribution, of each product or layer its own."""

    def __init__(self, size: int, grid: tuple[int, int], classes: int) -> None:
        """For P = size numbers of a cell."""
        super().__init__()
        self.own = nn.Parameter(torch.zeros(max(1, classes), size, *grid))

    @override
    def forward(self, values: Tensor, mask: Tensor, condition: Tensor | None) -> Tensor:
        del values
        return self.say(mask, condition)

    def say(self, mask: Tensor, condition: Tensor | None) -> Tensor:
        """(N, P, h, w), whatever the values are."""
        own = self.own if condition is None else self.own[condition]
        return PULL * spread(own, mask)


def spread(cells: Tensor, mask: Tensor) -> Tensor:
    """Numbers of the grid to the rectangle of each (N, 1, h, w) mask: (N, E, h, w).

    Args:
        cells: (N, E, gh, gw), or (1, E, gh, gw) for all.
    """
    rows = _shares(mask.amax((1, 3)), cells.shape[2])
    columns = _shares(mask.amax((1, 2)), cells.shape[3])
    return rows.transpose(1, 2)[:, None] @ cells @ columns[:, None]


def _shares(occupied: Tensor, cells: int) -> Tensor:
    """How much of each place of (N, L) is each cell's: (N, cells, L), columns summing to 1."""
    first, length = extent(occupied)
    found = overlap(first, length, cells, occupied.shape[1])
    return found / found.sum(1, keepdim=True).clamp(min=1e-6)


def rectangle(there: Tensor) -> Tensor:
    """1 in the smallest rectangle that holds the ones of (N, 1, h, w)."""
    sides = []
    for axes in ((1, 3), (1, 2)):
        occupied = there.amax(axes)
        first, length = extent(occupied)
        index = torch.arange(occupied.shape[1], device=there.device)
        sides.append((index >= first[:, None]) & (index < (first + length)[:, None]))
    return (sides[0][:, :, None] & sides[1][:, None, :]).float()[:, None]


def so_far(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of (N, E, h, w) over the cells of the mask strictly before each, drawn towards 0."""
    flat, counted = x.flatten(2), mask.flatten(2)
    before, count = flat.cumsum(2) - flat, counted.cumsum(2) - counted
    mean = (before / (count + 8)).reshape(x.shape)
    return mean / (mean.abs() + 0.1) * mask
