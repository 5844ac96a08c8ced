"""The one place where pixels are scaled and resized; exported in front of the model.

A file's own pixels come in, any size. Two views go out, both with the coverage as a last
channel: how much of a cell is wafer, or valid region. It lies in [0, 1]; what it does not
cover enters no loss and no score.

* the model's view: a grid of fixed size, filled by area average;
* the detail view, one cell per die, for models and rules that need it: a scratch is one die
  wide, and an average would drown it. Of a picture it is the model's view.

A wafer map is cut to the dies it has, so zeros around it change nothing. Its one channel is
the fail rate: failing dies over dies.

Area average as two matrix products: out = A image B^T, where row i of A holds the overlap of
cell i with each pixel, in cells. It is exact, the same for every size, and the same in torch
and ONNX Runtime, which a library's resize is not.

Shapes: N images, C channels, H, W pixels of the file, h, w cells of the grid.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from inspect_ai.settings import Settings


class View(Settings):
    """How the pixels of one data set become the model's view; kept with the weights."""

    kind: Literal["picture", "wafer_map"]
    channels: int
    minimum: float
    maximum: float
    resize: Literal["stretch", "fit"]
    grid: tuple[int, int]  # h, w


class Preprocess(nn.Module):
    """(N, C, H, W) pixels in the file's own type to (N, C + 1, h, w) float32 in [0, 1]."""

    region: Tensor

    def __init__(self, view: View, region: Tensor | None = None) -> None:
        """With `region`, 1 where a picture counts and 0 where not, of any size; default all."""
        super().__init__()
        self.view = view
        self.register_buffer("region", torch.ones(1, 1) if region is None else region)

    def forward(self, pixels: Tensor) -> Tensor:
        """The model's view."""
        if self.view.kind == "wafer_map":
            rows, columns = self._die_matrices(pixels)
            return _rate(rows @ _fails_and_dies(pixels) @ columns.transpose(2, 3))
        rows, columns = self._picture_matrices(pixels)
        scaled = self._scaled(pixels)
        if self.region.numel() == 1:
            coverage = rows.sum(1)[:, None] * columns.sum(1)[None, :]
        else:  # pixel by pixel: a cell that counts in part shows that part alone
            valid = self._valid(pixels)
            scaled = scaled * valid
            coverage = rows @ valid @ columns.T
        coverage = coverage[None, None].expand(pixels.shape[0], -1, -1, -1)
        mean = rows @ scaled @ columns.T
        return torch.cat([mean / coverage.clamp(min=1e-6), coverage], 1)

    def detail(self, pixels: Tensor) -> Tensor:
        """The detail view: (N, C + 1, H, W) of a map's dies; the model's view of a picture."""
        return _fails_and_dies(pixels) if self.view.kind == "wafer_map" else self(pixels)

    def spread(self, cells: Tensor, pixels: Tensor, total: bool = False) -> Tensor:
        """(N, C, h, w) numbers on the grid to the detail view's cells.

        A die averages its cells; with `total`, it shares them out, and their sum is kept.
        """
        if self.view.kind != "wafer_map":
            return cells
        rows, columns = self._die_matrices(pixels)
        side = 3 if total else 2
        rows = rows / rows.sum(side, keepdim=True).clamp(min=1e-6)
        columns = columns / columns.sum(side, keepdim=True).clamp(min=1e-6)
        return rows.transpose(2, 3) @ cells @ columns

    def _scaled(self, pixels: Tensor) -> Tensor:
        span = self.view.maximum - self.view.minimum
        return ((pixels.float() - self.view.minimum) / span).clamp(min=0)

    def _valid(self, pixels: Tensor) -> Tensor:
        """Share of each pixel that counts, (H, W); the region is stretched over the picture."""
        (tall, wide), one = self.region.shape, torch.ones(1, device=pixels.device)
        rows = overlap(0 * one, one * tall, pixels.shape[2], tall)[0]
        columns = overlap(0 * one, one * wide, pixels.shape[3], wide)[0]
        return rows @ self.region @ columns.T

    def _picture_matrices(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """A (h, H) and B (w, W), shared by the batch."""
        (h, w), height, width = self.view.grid, pixels.shape[2], pixels.shape[3]
        one = torch.ones(1, device=pixels.device)
        tall, wide = one * height, one * width
        if self.view.resize == "fit":  # one scale for both sides: the larger needs all cells
            scale = torch.maximum(tall / h, wide / w)
            top, left = (tall - scale * h) / 2, (wide - scale * w) / 2
            tall, wide = scale * h, scale * w
        else:
            top, left = 0 * one, 0 * one
        return overlap(top, tall, h, height)[0], overlap(left, wide, w, width)[0]

    def _die_matrices(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """A (N, 1, h, H) and B (N, 1, w, W): each map's own rows and columns of dies."""
        (h, w), height, width = self.view.grid, pixels.shape[2], pixels.shape[3]
        dies = (pixels.float() > 0).float().amax(1)
        top, tall = extent(dies.amax(2))
        left, wide = extent(dies.amax(1))
        return overlap(top, tall, h, height)[:, None], overlap(left, wide, w, width)[:, None]


def overlap(start: Tensor, length: Tensor, cells: int, pixels: int) -> Tensor:
    """Share of each cell that each pixel covers, when `cells` cells fill start..start+length.

    Args:
        start, length: (N,) in pixels; may reach outside the picture.

    Returns:
        (N, cells, pixels); a row sums to 1 where its cell lies inside the picture.
    """
    size = (length / cells)[:, None, None]
    cell = torch.arange(cells, dtype=torch.float32, device=start.device)[None, :, None]
    pixel = torch.arange(pixels, dtype=torch.float32, device=start.device)[None, None, :]
    lower = start[:, None, None] + cell * size
    shared = torch.minimum(lower + size, pixel + 1) - torch.maximum(lower, pixel)
    return shared.clamp(min=0) / size.clamp(min=1e-6)


def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and length, each (N,), of what is 1 in (N, L); length 0 where nothing is."""
    index = torch.arange(occupied.shape[1], dtype=occupied.dtype, device=occupied.device)
    first = torch.where(occupied > 0, index, torch.full_like(occupied, 1e4)).amin(1)
    last = torch.where(occupied > 0, index, torch.full_like(occupied, -1.0)).amax(1)
    return first, (last + 1 - first).clamp(min=0)


def _fails_and_dies(pixels: Tensor) -> Tensor:
    """(N, 1, H, W) bin map to (N, 2, H, W): 1 where a die fails, 1 where a die is."""
    states = pixels.float()
    return torch.cat([(states == 2).float(), (states > 0).float()], 1)


def _rate(sums: Tensor) -> Tensor:
    """(fails, dies) per cell to (fails / dies, dies)."""
    fails, dies = sums.chunk(2, 1)
    return torch.cat([fails / dies.clamp(min=1e-6), dies], 1)
