"""PixelCNN: odd is what the cells before it do not foretell.

    -log p(x) = - sum_i log p(x_i | x_1 .. x_(i-1))

exact and in one pass, each term from a gated causal network without a blind spot. What a cell
may be (two values, three states of a die, grey levels), what it is told beside the cells before
it, and the background models are described in training/autoregressive.py; the network in
training/causal.py.

Wafer maps are seen die by die, pictures on the grid. On maps, set output "binary": dies are known
to be there, and each passes or fails; or "states": where dies are is modelled too.

Sources: van den Oord et al., "Conditional image generation with PixelCNN decoders", NeurIPS 2016.
Salimans et al., "PixelCNN++", ICLR 2017, section 2.1 (mixture of logistics). Ren et al.,
"Likelihood ratios for out-of-distribution detection", NeurIPS 2019 (background).
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn
from typing_extensions import override

from inspect_ai.training.autoregressive import Autoregressive, Likelihoods
from inspect_ai.training.causal import Causal


class Config(Likelihoods):
    """Size of the network; see `Likelihoods` for the rest."""

    width: int = Field(default=16, ge=2)  # channels of either stack
    layers: int = Field(default=4, ge=1)
    kernel: Literal[3, 5, 7] = 3  # cells; of the first layer 2 kernel + 1

    @override
    def network(self, sizes: tuple[int, int, int], small: bool) -> nn.Module:
        inside, outside, context = sizes
        width, layers = self.width, self.layers
        if small:
            width, layers = max(2, width // 2), max(1, layers // 2)
        return Causal(inside, outside, width, layers, self.kernel, context)

    def build(self, channels: int, grid: tuple[int, int], classes: int = 0) -> "PixelCNN":
        """The model; of maps it fits any canvas, and keeps what it knows of places on the grid.

        Raises:
            BadSettings: more than one channel.
        """
        return PixelCNN(self, channels, grid, classes)


class PixelCNN(Autoregressive):
    """See the module's docstring."""

    native: ClassVar[bool] = True
