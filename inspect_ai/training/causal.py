"""Gated causal convolutions: what is said of a cell depends on the cells before it alone.

Before is raster order: rows from the top, each from the left. Two stacks run side by side,

    v    reads the rows down to its own, on both sides; moved down one row, it sees those above
    h    reads its own row left of the cell, and v moved down

so that, other than with one masked kernel, no cell above stays unseen (the blind spot). A layer is

    v' = tanh(a) sigmoid(b),        (a, b) = K_v * v + U_v c
    h' = h + M (tanh(a) sigmoid(b)),    (a, b) = K_h * h + L down(v') + U_h c

with c a context that each cell may be told. The first layer is a wide one (7 x 7 where the others
are 3 x 3), reads h strictly from the left, and adds nothing to h. Kernels are cut, not masked:
rows and columns are padded on the sides that may be seen, and no weight is multiplied by 0.

Source: van den Oord et al., "Conditional image generation with PixelCNN decoders", NeurIPS 2016,
sections 2.1 to 2.3 and figure 2. Here h hears v after its gate, not before.

Shapes: N images, h, w cells.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class Causal(nn.Module):
    """(N, inside, h, w) to (N, outside, h, w), each cell from those before it."""

    def __init__(
        self,
        inside: int,
        outside: int,
        width: int,
        layers: int,
        kernel: int = 3,
        context: int = 0,
    ) -> None:
        """One that is not trained.

        Args:
            width: channels of either stack.
            kernel: cells, odd; the first layer's is 2 kernel + 1.
            context: channels of what each cell is told beside the cells before it.
        """
        super().__init__()
        assert kernel % 2
        assert layers >= 1
        later = [Layer(width, width, kernel // 2, context, first=False) for _ in range(layers - 1)]
        self.layers = nn.ModuleList([Layer(inside, width, kernel, context, first=True), *later])
        self.head = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, outside, 1)
        )
        self.reach = kernel + (layers - 1) * (kernel // 2)  # cells to either side; one more up

    @override
    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What is said of every cell.

        Args:
            x: (N, inside, h, w), 0 where the mask is 0.
            context: (N, context, h, w), told to each cell and, through it, to the cells after it.
            mask: (N, 1, h, w) of 0 and 1; with it, what lies around the cells that are 1 changes
                nothing, be it cells that are 0 or the end of the canvas.
        """
        v, h = x, x
        for layer in self.layers:
            v, h = layer(v, h, context, mask)
        said: Tensor = self.head(h)
        return said

    def peek(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, place: tuple[int, int]
    ) -> Tensor:
        """What is said of one cell, (N, outside), at the cost of the cells it depends on."""
        row, column = place
        top, left = max(0, row - self.reach - 1), max(0, column - self.reach)
        window = (..., slice(top, row + 1), slice(left, column + self.reach + 1))
        cut = [None if part is None else part[window] for part in (x, context, mask)]
        assert cut[0] is not None
        said: Tensor = self(*cut)[:, :, row - top, column - left]
        return said


class Layer(nn.Module):
    """One layer of both stacks."""

    def __init__(self, inside: int, width: int, reach: int, context: int, first: bool) -> None:
        """With `first`, the cell itself is not read from the left."""
        super().__init__()
        self.reach, self.first = reach, first
        self.vertical = nn.Conv2d(inside, 2 * width, (reach + 1, 2 * reach + 1))
        self.horizontal = nn.Conv2d(inside, 2 * width, (1, reach if first else reach + 1))
        self.link = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.mix = nn.Conv2d(width, width, 1)
        self.told = nn.Conv2d(context, 4 * width, 1, bias=False) if context else None

    @override
    def forward(
        self, v: Tensor, h: Tensor, context: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        reach = self.reach
        up = self.vertical(F.pad(v, (reach, reach, reach, 0)))
        left = F.pad(h, (reach, 0, 0, 0))
        across = self.horizontal(left[..., :-1] if self.first else left)
        if self.told is not None:
            assert context is not None
            told_up, told_across = self.told(context).chunk(2, 1)
            up, across = up + told_up, across + told_across
        v = masked(gate(up), mask)
        said = masked(self.mix(gate(across + self.link(down(v)))), mask)
        return v, said if self.first else h + said


def gate(x: Tensor) -> Tensor:
    """(N, 2 C, h, w) to (N, C, h, w)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """(N, C, h, w), 0 where the (N, 1, h, w) mask is."""
    return x if mask is None else x * mask


def down(x: Tensor) -> Tensor:
    """(N, C, h, w) moved down by one row, zeros above."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]
