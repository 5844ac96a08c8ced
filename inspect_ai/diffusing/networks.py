"""Networks that take noise away: a noised image and how noisy it is, to what is asked for.

All are laid on a fixed grid, told the time by adaptive norm, a product or layer by adaptive norm
and cross-attention, and say 0 before they are trained. See unet.py and dit.py for sources.
"""

from torch import nn

from inspect_ai.diffusing.dit import DiT
from inspect_ai.diffusing.sizes import Ends, Sizes
from inspect_ai.diffusing.unet import UNet

__all__ = ["Ends", "Sizes", "network"]


def network(
    sizes: Sizes, inputs: int, outputs: int, grid: tuple[int, int], classes: int = 0
) -> nn.Module:
    """A network called by (x (N, inputs, h, w), time (N,) in [0, 1], condition) for (N, outputs, h, w).

    Its condition is (N,) int64 in 0 .. classes, the last for "told nothing"; None without classes.

    Raises:
        BadSettings: the grid does not fit.
    """
    sizes.require(grid)
    ends = Ends(inputs, outputs, grid, classes)
    return UNet(sizes, ends) if sizes.network == "unet" else DiT(sizes, ends)
