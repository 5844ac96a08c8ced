"""PixelRNN with row LSTM: as PixelCNN, with a memory that runs down the image row by row.

    [o, i, f, g] = K_ss * h_(r-1) + K_is * x_r + U c_r
    c_r = s(f) c_(r-1) + s(i) tanh(g),    h_r = s(o) tanh(c_r)

for all cells of a row at once, s the logistic function. K_ss reads three cells of the state above,
so that the state sees a triangle that widens up to the image's top; K_is reads x to the left, and
the cell itself of what is already moved. The first layer is a causal convolution of 7 x 7. Each
row waits for the one above: slower than PixelCNN, of a view of fixed size, and here for
completeness. What a cell may be, what it is told and the backgrounds: training/autoregressive.py.

On wafer maps it sees the grid: with output "binary", a cell is 1 where half its dies fail.

Sources: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016,
sections 3.1 (row LSTM), 3.3 and 3.4. Ren et al., "Likelihood ratios for out-of-distribution
detection", NeurIPS 2019 (background).

Shapes: N images, h, w cells, D channels of a layer.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.training.autoregressive import Autoregressive, Likelihoods
from inspect_ai.training.causal import Causal

FIRST = 3  # cells to either side that the first layer reads


class Config(Likelihoods):
    """Size of the network; see `Likelihoods` for the rest."""

    width: int = Field(default=16, ge=2)  # channels of a layer
    layers: int = Field(default=1, ge=1, le=8)  # of row LSTM
    reach: int = Field(default=1, ge=1)  # cells to either side that a state hears of in the next

    @override
    def network(self, sizes: tuple[int, int, int], small: bool) -> nn.Module:
        width, layers = self.width, self.layers
        if small:
            width, layers = max(2, width // 2), max(1, layers // 2)
        return RowNetwork(sizes, width, layers, self.reach)

    def build(self, channels: int, grid: tuple[int, int], classes: int = 0) -> "PixelRNN":
        """The model for images on a grid of (h, w) cells.

        Raises:
            BadSettings: more than one channel.
        """
        return PixelRNN(self, channels, grid, classes)


class PixelRNN(Autoregressive):
    """See the module's docstring."""

    slow = 1024  # each cell that is drawn asks for all rows above


class RowNetwork(nn.Module):
    """A causal convolution, row LSTMs that add to it, and a head."""

    def __init__(self, sizes: tuple[int, int, int], width: int, layers: int, reach: int) -> None:
        """For (inside, outside, context) channels."""
        super().__init__()
        inside, outside, context = sizes
        self.first = Causal(inside, width, width, 1, FIRST, context)
        self.layers = nn.ModuleList(RowLSTM(width, context, reach) for _ in range(layers))
        self.head = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, outside, 1)
        )

    @override
    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        seen = self.first(x, context, mask) * mask
        for layer in self.layers:
            seen = seen + layer(seen, context) * mask
        said: Tensor = self.head(seen)
        return said

    def peek(self, x: Tensor, context: Tensor, mask: Tensor, place: tuple[int, int]) -> Tensor:
        """What is said of one cell, (N, outside), from the rows down to its own."""
        rows = (..., slice(0, place[0] + 1), slice(None))
        said: Tensor = self(x[rows], context[rows], mask[rows])[:, :, place[0], place[1]]
        return said


class RowLSTM(nn.Module):
    """(N, D, h, w) to states (N, D, h, w), row by row."""

    def __init__(self, width: int, context: int, reach: int) -> None:
        super().__init__()
        self.width = width
        self.read = nn.Conv2d(width, 4 * width, (1, 3))
        self.told = nn.Conv2d(context, 4 * width, 1, bias=False)
        self.pass_on = nn.Conv1d(width, 4 * width, 2 * reach + 1, padding=reach, bias=False)

    @override
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        gates = self.read(F.pad(x, (2, 0, 0, 0))) + self.told(context)
        c, states = torch.zeros_like(x[:, :, 0]), list[Tensor]()
        for row, heard in enumerate(gates.unbind(2)):
            asked = heard + self.pass_on(states[-1]) if row else heard
            open_, g = asked[:, : 3 * self.width].sigmoid(), asked[:, 3 * self.width :].tanh()
            o, i, f = open_.chunk(3, 1)
            c = f * c + i * g
            states.append(o * torch.tanh(c))
        return torch.stack(states, 2)
