"""The few layers that models truly share, and what they ask of a grid."""

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.errors import BadSettings


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


def require_halvings(grid: tuple[int, int], depth: int) -> None:
    """Refuses a grid whose sides cannot be halved `depth` times.

    Raises:
        BadSettings: they cannot.
    """
    step = 2**depth
    if grid[0] % step or grid[1] % step:
        raise BadSettings(
            f"A grid of {grid[0]} x {grid[1]} cannot be halved {depth} times. Use multiples of "
            f"{step}, or a smaller depth."
        )
