"""The few layers that models truly share."""

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


def down(inside: int, outside: int) -> nn.Sequential:
    """Halves both sides: (N, inside, h, w) to (N, outside, h / 2, w / 2)."""
    return nn.Sequential(nn.Conv2d(inside, outside, 4, stride=2, padding=1), nn.SiLU())


class Up(nn.Module):
    """Doubles both sides by repeating cells, then mixes; leaves no checkerboard."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inside, outside, 3, padding=1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.mix(F.interpolate(x, scale_factor=2.0, mode="nearest")))
