"""Autoregressive models: an image's probability is that of each cell, given those before it.

    -log p(x) = - sum_i log p(x_i | x_1 .. x_(i-1)),    cells row by row, each from the left

exact, in one pass. A model file gives the causal network; what its cells are told stands in
training/context.py, what is said of a cell in training/outputs.py. Cells that are not covered
have no term and no say; with output "states" what is told is the rectangle that holds all dies,
and where dies are is part of x. A simpler model may stand beside it:

    background = "independent"    each cell of the grid has one distribution, whatever the others
               = "mutated"        a smaller network of the same kind, trained on images whose
                                  values are redrawn evenly with probability `mutation`: it knows
                                  the broad background, and what both know cancels in the ratio

Sources: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016,
section 2.1. Ren et al., "Likelihood ratios for out-of-distribution detection", NeurIPS 2019,
sections 2 and 3 (mutated background). van den Oord et al., "Conditional image generation with
PixelCNN decoders", NeurIPS 2016, section 2.3 (condition).

Shapes: N images, h, w cells (on wafer maps of a native model H, W dies), P numbers of a cell.
"""

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.errors import BadSettings
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training import outputs
from inspect_ai.training.context import Context, Independent, Told, rectangle
from inspect_ai.training.descent import Batch, Drawn, Run, descend
from inspect_ai.training.detector import Model
from inspect_ai.training.outputs import COVERED, Binary, Levels, Output, States

CHUNK = 32  # images looked at together in the records
DRAWN = 8  # samples on a sheet


class Likelihoods(Settings):
    """What is said of a cell, what it is told, and the model beside; shared by model files."""

    conditional: ClassVar[bool] = True
    output: Literal["levels", "binary", "states"] = "levels"  # dies: "binary" or "states"
    levels: int = Field(default=16, ge=2, le=256)  # L of "levels"
    mixture: int = Field(default=1, ge=1)  # M of "levels": several where grey levels come in groups
    place: int = Field(default=4, ge=0)  # learned numbers of each cell of the grid
    so_far: bool = True  # whether a cell is told the mean of all before it
    background: Literal["none", "independent", "mutated"] = "none"
    mutation: float = Field(default=0.2, gt=0, lt=1)  # share of values redrawn, of "mutated"

    def network(self, sizes: tuple[int, int, int], small: bool) -> nn.Module:
        """An untrained `Network`.

        Args:
            sizes: channels it reads, those it gives, and those of what a cell is told.
            small: whether it is the background's.
        """
        raise NotImplementedError

    def says(self) -> Output:
        """The output that is asked for."""
        if self.output == "levels":
            return Levels(self.levels, self.mixture)
        return Binary() if self.output == "binary" else States()


class Autoregressive(Model):
    """See the module's docstring."""

    gives: ClassVar[tuple[str, ...]] = ("surprise", "usual", "varied", "background")
    slow: ClassVar[int] = 4096  # cells; samples of a larger image are not drawn for the records

    def __init__(
        self, config: Likelihoods, channels: int, grid: tuple[int, int], classes: int
    ) -> None:
        """An untrained one.

        Raises:
            BadSettings: more than one channel.
        """
        super().__init__()
        if channels != 1:
            raise BadSettings(
                f"{channels} channels, and the order of cells is one of a single channel. Set "
                "channels = 1 in the data spec: files of several are then read as grey."
            )
        self.plan, self.classes, self.output = config, classes, config.says()
        self.model: nn.Module = self._network(config, grid, small=False)
        self.background: nn.Module | None = None
        if config.background == "none":
            self.gives = tuple(g for g in self.gives if g != "background")  # type: ignore[misc]
        elif config.background == "mutated":
            self.background = self._network(config, grid, small=True)
        else:
            self.background = Independent(self.output.size, grid, classes)

    def _network(self, config: Likelihoods, grid: tuple[int, int], small: bool) -> Told:
        inside = self.output.inside
        context = Context(inside * config.so_far, config.place, grid, self.classes)
        sizes = (inside, self.output.size, context.size)
        return Told(config.network(sizes, small), self.output, context)

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        players = {"likelihood": self.model}
        if self.background is not None:
            players["background"] = self.background
        descend(players, self.loss, batches, run)
        return self

    def loss(self, player: str, batch: Batch) -> Tensor:
        """Mean nats of a cell, for one of the two models."""
        values, mask = self.read(batch.images)
        if player == "likelihood":
            return self._mean(self.model, values, mask, batch.condition)
        assert self.background is not None
        if self.plan.background == "mutated":
            values = self.mutated(values, mask)
        return self._mean(self.background, values, mask, batch.condition)

    def _mean(
        self, part: nn.Module, values: Tensor, mask: Tensor, condition: Tensor | None
    ) -> Tensor:
        nats = self.nats(part(values, mask, condition), values, mask)
        return nats.sum() / mask.sum().clamp(min=1)

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        values, mask = self.read(images)
        params = self.model(values, mask, condition)
        there = (images[:, 1:] > 0).float()
        seen = Seen(
            self.output.mean(params)[:, None] * there, surprise=self.nats(params, values, mask)
        )
        if {"usual", "varied"} & self.wanted:
            log_p = self.output.log_probs(params)
            usual, varied = outputs.usual(log_p), outputs.varied(log_p)
            seen = seen._replace(usual=usual * mask[:, 0], varied=varied * mask[:, 0])
        if "background" in self.wanted and self.background is not None:
            beside = self.background(values, mask, condition)
            seen = seen._replace(background=self.nats(beside, values, mask))
        return seen

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Values (N, h, w) int64, and which cells have a term, (N, 1, h, w) of 0 and 1."""
        values = self.output.discretise(images)
        there = (images[:, 1:] > COVERED).float()
        return values, rectangle(there) if self.plan.output == "states" else there

    def nats(self, params: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """-log p of each cell, (N, h, w)."""
        return -self.output.log_prob(params, values) * mask[:, 0]

    def mutated(self, values: Tensor, mask: Tensor) -> Tensor:
        """Values of which some are redrawn, all values as likely, inside the mask."""
        chosen = torch.rand(values.shape, device=values.device) < self.plan.mutation
        redrawn = torch.randint(self.output.count, values.shape, device=values.device)
        return torch.where(chosen & (mask[:, 0] > 0), redrawn, values)

    @override
    def sample(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        return self.drawn(like, seed, condition)[:, :1] * (like[:, 1:] > 0)

    @torch.no_grad()
    def drawn(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        """Images drawn cell by cell, each from those before it; slow.

        Args:
            like: (N, 2, h, w), of which the coverage alone is used; with output "states" the
                rectangle that it fills, where dies are is drawn.

        Returns:
            (N, 2, h, w) in [0, 1], coverage last.
        """
        assert isinstance(self.model, Told)
        mask, draw = self.read(like)[1], torch.Generator().manual_seed(seed)
        fixed = self.model.fixed(mask, condition)
        values = torch.zeros(mask[:, 0].shape, dtype=torch.int64)
        for place in mask.amax((0, 1)).nonzero().tolist():
            params = self.model.peek(values, mask, fixed, (place[0], place[1]))
            p = self.output.log_probs(params[:, :, None, None])[:, :, 0, 0].exp()
            drawn = torch.multinomial(p, 1, generator=draw)[:, 0]
            here = (slice(None), place[0], place[1])
            values[here] = torch.where(mask[:, 0][here] > 0, drawn, values[here])
        there = (values > 0).float()[:, None] if self.plan.output == "states" else like[:, 1:]
        return torch.cat([self.output.grey(values)[:, None], there], 1)

    @override
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        found = {"bits_per_dim": self._bits(self.model, images, condition)}
        if self.background is not None:
            found["background_bits_per_dim"] = self._bits(self.background, images, condition)
        return found

    @torch.no_grad()
    def _bits(self, part: nn.Module, images: Tensor, condition: Tensor | None) -> float:
        total, cells = 0.0, 0.0
        for start in range(0, len(images), CHUNK):
            some = slice(start, start + CHUNK)
            values, mask = self.read(images[some])
            params = part(values, mask, None if condition is None else condition[some])
            total += float(self.nats(params, values, mask).sum())
            cells += float(mask.sum())
        return total / (max(cells, 1.0) * math.log(2))

    @override
    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """Good images above, samples below; of small images."""
        if images.shape[2] * images.shape[3] > self.slow:
            return {}
        real = images[:DRAWN]
        drawn = self.drawn(real, 0, None if condition is None else condition[:DRAWN])
        return {"samples": torch.stack([self._shown(real), self._shown(drawn)])}

    def _shown(self, images: Tensor) -> Tensor:
        """Grey levels, (N, 1, h, w); of dies: none dark, passing grey, failing bright."""
        x, w = images[:, :1], (images[:, 1:] > COVERED).float()
        return (x if self.plan.output == "levels" else (x > 0.5).float() / 2 + 0.5) * w
