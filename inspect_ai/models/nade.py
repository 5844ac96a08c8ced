"""NADE: the exact likelihood of a small binary wafer map, cell by cell in a fixed order.

A covered cell of the grid is x_i = 1 where more than the share `fails_above` of its dies fail,
else 0. With D cells in an order o and H hidden numbers,

    p(x_i = 1 | x_<i) = sigmoid(b_i + V_i . h_i)
    h_i = sigmoid(c + U m + sum over j < i of W_j x_j)
    -log p(x) = sum over covered i of -log p(x_i | x_<i)

The sums over j < i of all cells are one cumulative sum, so that all conditionals come from one
pass. It is the likelihood of the map cut to 0 and 1, and exact for that: over all binary maps of
one coverage it sums to 1. Cells that are not covered are skipped: x_i = 0, no term. The coverage
m is given, not modelled; U m tells each cell the shape of the wafer.

Orders: "raster" row by row, "spiral" ring by ring from the middle outwards, "shuffled" by a seed.

The expectation is p(x_i = 1 | x_<i); usual and varied are the mean and the variance of the
surprise under it. The background is a model of independent dies, each with its own fail rate.

Sources: Larochelle, Murray, "The neural autoregressive distribution estimator", AISTATS 2011,
equations 5 to 8 and algorithm 1. Ren et al., "Likelihood ratios for out-of-distribution
detection", NeurIPS 2019 (background).

Shapes: N maps, h, w cells, D = h w, H hidden numbers.
"""

import math
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.errors import BadSettings
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Drawn, Run, descend
from inspect_ai.training.detector import Model

MOST = 2**18  # hidden numbers of one map at all its cells: 1 MB
TOGETHER = 32  # hidden numbers that are summed at a time: their memory bounds that of a batch
LEAST = 0.0501  # of a cell; one covered less is not modelled. No ratio of few dies: see TIE
TIE = 1e-4  # added to the limit: a cell that fails in exactly that share is not for rounding
FEW = 1e-3  # share of fails at which rates end
SEEN_FIRST = 16  # batches from which the cells' own fail rates are counted


class Config(Settings):
    """Size, order of the cells, and what a failing cell is."""

    hidden: int = Field(default=64, ge=1, le=4096)
    order: Literal["raster", "spiral", "shuffled"] = "raster"
    order_seed: int = Field(default=0, ge=0, lt=2**31)  # of the shuffled order
    fails_above: float = Field(default=0.5, ge=0, lt=1)  # fail rate of a cell

    def build(self, channels: int, grid: tuple[int, int]) -> "NADE":
        """The model for a grid of (h, w) cells.

        Raises:
            BadSettings: a map's hidden numbers would take more than 1 MB of memory.
        """
        del channels
        cells = grid[0] * grid[1]
        if cells * self.hidden > MOST:
            fits = [f"a grid of at most {MOST // self.hidden} cells"]
            fits += [f"hidden of at most {MOST // cells}"] * (cells <= MOST)
            raise BadSettings(
                f"hidden = {self.hidden} on a grid of {grid[0]} x {grid[1]} is "
                f"{cells * self.hidden} numbers for each map; needed are at most {MOST}. Use "
                f"{', or '.join(fits)}."
            )
        return NADE(self, grid)


class Bits(NamedTuple):
    """Maps as the model counts them, cells in reading order."""

    x: Tensor  # (N, D), 1 where a covered cell fails
    m: Tensor  # (N, D), 1 where a cell is covered


class NADE(Model):
    """See the module's docstring for the method."""

    gives: ClassVar[tuple[str, ...]] = ("surprise", "usual", "varied", "background")
    maps_only: ClassVar[bool] = True

    order: Tensor
    place: Tensor
    alone: Tensor

    def __init__(self, config: Config, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        order = ordered(config.order, grid, config.order_seed)
        cells = len(order)
        self.register_buffer("order", order)  # (D,), which cell comes i-th
        self.register_buffer("place", torch.argsort(order))  # (D,), when each cell comes
        self.register_buffer("alone", torch.zeros(cells))  # logits of independent dies
        # a tenth of the cells fails: their sum should move a sigmoid, and not fill it
        self.W = nn.Parameter(torch.randn(cells, config.hidden) * min(1.0, (10 / cells) ** 0.5))
        self.V = nn.Parameter(0.1 * torch.randn(cells, config.hidden) / config.hidden**0.5)
        self.U = nn.Parameter(0.1 * torch.randn(cells, config.hidden) / cells**0.5)
        self.b, self.c = nn.Parameter(torch.zeros(cells)), nn.Parameter(torch.zeros(config.hidden))

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        self.begin(torch.from_numpy(batches.first(min(SEEN_FIRST, run.budget.steps))))
        descend({"nade": self}, lambda _, batch: self.loss(batch.images), batches, run)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        x, m = bits = self.bits(images)
        logits = self.logits(bits)
        p = torch.sigmoid(logits)
        usual = F.softplus(logits) - p * logits  # the entropy of a coin
        return Seen(
            expected=self.cells(p)[:, None] * (images[:, -1:] > 0),
            surprise=self.cells(m * (F.softplus(logits) - x * logits)),
            usual=self.cells(m * usual),
            varied=self.cells(m * p * (1 - p) * logits.square()),
            background=self.cells(m * (F.softplus(self.alone) - x * self.alone)),
        )

    @override
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        seen, covered = self(images), self.bits(images).m.sum().clamp(min=1)
        named = {"bits_per_dim": seen.surprise, "independent_bits_per_dim": seen.background}
        return {n: (nats.sum() / covered).item() / math.log(2) for n, nats in named.items()}

    @override
    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        shown = images[:8]
        real = self.cells(self.bits(shown).x)[:, None]
        made = self.sample(shown, 0)
        return {
            "samples": torch.stack([real, made]),  # in rows
            "expected": torch.stack([real, self(shown).expected]),
        }

    def loss(self, images: Tensor) -> Tensor:
        """Mean nats of a covered cell of (N, 2, h, w) images."""
        x, m = bits = self.bits(images)
        logits = self.logits(bits)
        return (m * (F.softplus(logits) - x * logits)).sum() / m.sum().clamp(min=1)

    def bits(self, images: Tensor) -> Bits:
        """What of (N, 2, h, w) images the model counts."""
        covered = images[:, -1].flatten(1) > LEAST
        fails = images[:, 0].flatten(1) > self.config.fails_above + TIE
        return Bits((fails & covered).to(images.dtype), covered.to(images.dtype))

    def logits(self, bits: Bits) -> Tensor:
        """Log-odds of a fail at each cell given those before it, (N, D)."""
        x = bits.x.index_select(1, self.order)
        before = F.pad(x[:, :-1], (1, 0))[:, :, None]  # W_i belongs to the cell before the i-th
        start = (self.c + bits.m @ self.U)[:, None]
        total = self.b.expand_as(x)
        for part in range(0, self.config.hidden, TOGETHER):
            some = slice(part, part + TOGETHER)
            h = torch.sigmoid(start[:, :, some] + (before * self.W[:, some]).cumsum(1))
            total = total + (h * self.V[:, some]).sum(2)
        return total.index_select(1, self.place)

    def cells(self, numbers: Tensor) -> Tensor:
        """(N, D) as (N, h, w)."""
        return numbers.reshape(-1, *self.grid)

    @torch.no_grad()
    def begin(self, images: Tensor) -> None:
        """Starts from independent dies at their fail rates in (M, 2, h, w) images."""
        x, m = self.bits(images.to(self.b.device))
        mean = x.sum() / m.sum().clamp(min=1)
        rates = ((x.sum(0) + mean) / (m.sum(0) + 1)).clamp(FEW, 1 - FEW)
        self.alone.copy_(torch.logit(rates))
        h = torch.sigmoid(self.c)  # where nothing failed yet
        self.b.copy_(self.alone[self.order] - self.V @ h)

    @override
    @torch.no_grad()
    def sample(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        m = self.bits(like).m  # cell by cell, 1 where it fails
        draw = torch.Generator().manual_seed(seed)
        chance = torch.rand(m.shape, generator=draw).to(m)
        a, x = self.c + m @ self.U, torch.zeros_like(m)
        for i, cell in enumerate(self.order.tolist()):
            p = torch.sigmoid(self.b[i] + torch.sigmoid(a) @ self.V[i])
            x[:, cell] = (chance[:, i] < p).to(m) * m[:, cell]
            if i + 1 < len(self.order):
                a = a + x[:, cell, None] * self.W[i + 1]
        return self.cells(x)[:, None]


def ordered(order: str, grid: tuple[int, int], seed: int) -> Tensor:
    """The (D,) cells, numbered in reading order, in the order in which they are predicted."""
    cells = grid[0] * grid[1]
    if order == "shuffled":
        return torch.randperm(cells, generator=torch.Generator().manual_seed(seed))
    if order == "raster":
        return torch.arange(cells)
    down = (torch.arange(grid[0]) - (grid[0] - 1) / 2)[:, None].expand(grid)
    right = (torch.arange(grid[1]) - (grid[1] - 1) / 2)[None, :].expand(grid)
    ring = torch.maximum(down.abs(), right.abs()).ceil()
    turn = torch.atan2(down, right) / 10  # less than a ring
    return torch.argsort((ring + turn).flatten(), stable=True)
