"""Timer: how noisy an image looks, without being told.

A small network tells from a noised image x_t which of B equal shares of the diffusion's course t
lies in; it learns by the cross-entropy of the share. Of an image as it is, an odd one looks as if
noise had been added to a good one: the expected time is its score, at one call of a network.

Nothing in it is normalised: that would take away how loud the noise is.

Source: Livernoche, Jain, Hezaveh, Ravanbakhsh, "On diffusion modeling for anomaly detection",
ICLR 2024, section 3 (diffusion time estimation, the categorical one).

Shapes: N images, C channels, h, w cells, B bins.
"""

import itertools

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

LAYERS = 3  # each on half the cells of the one before


class Timer(nn.Module):
    """See the module's docstring."""

    def __init__(self, inputs: int, width: int, bins: int, grid: tuple[int, int]) -> None:
        """For C = `inputs`, the coverage among them, on a grid of (h, w) cells, 1 x 1 too."""
        super().__init__()
        side = 3 if max(grid) > 1 else 1  # a kernel's border would meet zeros alone
        widths = [inputs, *(width * 2**n for n in range(LAYERS))]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, side, stride=2, padding=side // 2)
            for a, b in itertools.pairwise(widths)
        )
        self.out = nn.Linear(widths[-1], bins)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Noised images (N, C, h, w) to logits (N, B) of the share their time lies in."""
        for layer in self.layers:
            x = F.silu(layer(x))
        out: Tensor = self.out(x.mean((2, 3)))
        return out
