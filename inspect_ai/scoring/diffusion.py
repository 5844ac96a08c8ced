"""Diffusion rules: an image is odd where a model of noise guesses the noise in it badly.

With coverage w and e_k the squared error of the noise that is guessed at level k of K, the score
is one of

    error, per image   z_k = (d_k - m_k) / s_k, averaged over levels; d_k is the pooled map of level
                       k (the mean of e_k over covered cells by default), m_k and s_k its
                       mean and deviation over good images
    error, per cell    z_k = (e_k - m_k) / s_k cell by cell, averaged over levels and pooled; for
                       pictures of one place, which are good in one way at each of their cells
    pull               |grad log p(x)|^2 at the clean image, pooled: how hard it is drawn elsewhere
    inversion          |x_T|^2 / 2 pooled, x_T the noise that DDIM inversion leads the image to
    time               the time at which a noisy good image would look like this one

Levels differ in what their errors are and how they spread: without z one of them would be all of
the sum. `over = "max"` lets the level that finds most decide. An image can lead to too little noise
as well as to too much, or look less noisy than good ones: `sides = "both"` takes |s - mean| /
deviation over good images, "low" the negative.

The map of "per image" is that of e_k / s_k over levels (with means everywhere its own mean is the
score, up to a constant); that of "per cell" is z where it is above 0 (0 where it is not covered: the
oddest cells are looked for in it, and means are taken of z itself); pull and inversion show
themselves; a time has no place, and a reviewer sees |x - x'|.

Sources: Graham, Pinaya, Tudosiu, Nachev, Ourselin, Cardoso, "Denoising diffusion models for
out-of-distribution detection", CVPR Workshops 2023, section 3 (z by level; there of a redrawn
image, here of one step). Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, "Score-based generative
modeling through stochastic differential equations", ICLR 2021 (score, and the noise an image comes
from). Nalisnick, Matsukawa, Teh, Lakshminarayanan, "Detecting out-of-distribution inputs to deep
generative models using typicality", 2019 (both sides). Livernoche, Jain, Hezaveh, Ravanbakhsh, "On
diffusion modeling for anomaly detection", ICLR 2024 (time).

Shapes: N images, C channels, K levels, H, W cells, M good images.
"""

from collections.abc import Iterable
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import override

from inspect_ai.scoring.filters import gaussian, local_mean
from inspect_ai.scoring.likelihood import said
from inspect_ai.scoring.pooling import Pooling
from inspect_ai.scoring.rule import Rule, Seen, require_two
from inspect_ai.settings import Settings

Kind = Literal["error", "pull", "inversion", "time"]
NEEDS: dict[Kind, str] = {
    "error": "errors",
    "pull": "pull",
    "inversion": "inverted",
    "time": "time",
}
PLACED: tuple[Kind, ...] = ("error", "pull", "inversion")  # their maps are pooled
ONLY: dict[str, tuple[Kind, ...]] = {  # settings that some kinds alone read
    "per": ("error",),
    "over": ("error",),
    "sides": ("inversion", "time"),
    "blur": PLACED,
    "pooling": PLACED,
}
STILL = 1e-3  # of a level's mean: its least deviation, or rounding would be odd
ENOUGH = 2.0  # good images that cover a cell, for numbers of its own


class Config(Settings):
    """What is made of the noise, and how its map becomes one number."""

    rule: Literal["diffusion"]
    kind: Kind = "error"
    per: Literal["image", "cell"] = "image"  # error: whose mean and deviation are usual
    over: Literal["mean", "max"] = "mean"  # error: of the levels
    sides: Literal["high", "low", "both"] = "high"  # inversion, time
    blur: float = Field(default=0.0, ge=0)  # of the map: standard deviation in cells; 0 is none
    pooling: Pooling = Pooling(kind="mean")

    @model_validator(mode="after")
    def _asks_for_nothing_in_vain(self) -> Self:
        self.require_read(self.kind, ONLY)
        return self

    def build(self, channels: int, grid: tuple[int, int]) -> "Diffusion":
        """The rule; it fits any grid, and learns the number of levels."""
        del channels, grid
        return Diffusion(self)


class Diffusion(Rule):
    """See the module's docstring for the kinds."""

    window: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.needs = (NEEDS[config.kind],)
        self.by_cell = config.kind == "error" and config.per == "cell"
        self.pool = config.pooling.build()
        self.register_buffer("window", gaussian(config.blur or 1.0))
        # (K,) in double precision: a mean of many cells varies little; by cell (K, H, W)
        kind = torch.float32 if self.by_cell else torch.float64
        self.register_buffer("mean", torch.zeros(1, dtype=kind))
        self.register_buffer("spread", torch.ones(1, dtype=kind))
        self.register_load_state_dict_pre_hook(_take_size)  # type: ignore[no-untyped-call]

    @override
    def fit(self, pairs: Iterable[tuple[Tensor, Seen]]) -> None:
        if self.by_cell:
            self._fit_cells(pairs)
        elif self.config.kind == "error" or self.config.sides == "both":
            numbers = [self._numbers(*pair) for pair in pairs]
            found = torch.cat(numbers) if numbers else torch.empty(0, 1)
            require_two(len(found), "diffusion")
            self.mean = found.mean(0)
            self.spread = found.std(0).clamp(min=_least(self.mean))

    def _fit_cells(self, pairs: Iterable[tuple[Tensor, Seen]]) -> None:
        good, sums = 0, torch.zeros(3, 1, 1, 1, dtype=torch.float64)
        for image, seen in pairs:
            w, e = image[:, -1:].double(), said(seen.errors).double()
            good += w.shape[0]
            sums = sums + torch.stack(
                [(part * w).sum(0) for part in (e.new_ones(e.shape), e, e * e)]
            )
        require_two(good, "diffusion")
        weight, total, square = sums
        enough = weight >= ENOUGH
        own = total / weight.clamp(min=ENOUGH)
        apart = (square / weight.clamp(min=ENOUGH) - own.square()).clamp(min=0).sqrt()
        # a cell that few good images cover is as the others are
        usual = (total.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6))[:, None, None]
        count = enough.sum((1, 2)).clamp(min=1)[:, None, None]
        typical = (apart * enough).sum((1, 2), keepdim=True) / count
        least = torch.maximum(0.1 * typical, _least(usual))
        self.mean = torch.where(enough, own, usual).float()
        self.spread = torch.maximum(torch.where(enough, apart, typical), least).float()

    @override
    def forward(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        w = image[:, -1]
        if self.config.kind == "time":
            shown = (image[:, :-1] - seen.expected).abs().mean(1) * w
            return self._score(self._numbers(image, seen)).float(), shown
        if self.by_cell:
            z = self._usual_cells(image, seen)
            shown = z.clamp(min=0)
            pooled = z if self.config.pooling.kind == "mean" else shown
            return self.pool(pooled.double(), w).float(), shown
        cells = self._cells(image, seen)
        return self._score(self._pooled(cells, w)).float(), self._shown(cells)

    def _numbers(self, image: Tensor, seen: Seen) -> Tensor:
        """The number of each image and level, (N, K); one level but for errors."""
        if self.config.kind == "time":
            return said(seen.time)[:, None].double()
        return self._pooled(self._cells(image, seen), image[:, -1])

    def _score(self, numbers: Tensor) -> Tensor:
        """(N, K) levels to (N,)."""
        if self.config.kind == "error":
            return self._over_levels((numbers - self.mean) / self.spread)
        number = numbers[:, 0]
        if self.config.sides == "both":
            return (number - self.mean[0]).abs() / self.spread[0]
        return -number if self.config.sides == "low" else number

    def _shown(self, cells: Tensor) -> Tensor:
        """The map of (N, K, H, W) cells that are pooled level by level."""
        if self.config.kind != "error":
            return cells[:, 0]
        return self._over_levels(cells / self.spread.float()[:, None, None])

    def _usual_cells(self, image: Tensor, seen: Seen) -> Tensor:
        """How far each cell is from what it usually is, in deviations, smoothed: (N, H, W)."""
        z = self._over_levels((said(seen.errors) - self.mean) / self.spread)
        return self._smoothed(z[:, None], image[:, -1:])[:, 0]

    def _cells(self, image: Tensor, seen: Seen) -> Tensor:
        """What is pooled, smoothed, (N, K, H, W); one level but for errors."""
        field = said(getattr(seen, self.needs[0]))
        levels = field if self.config.kind == "error" else field[:, None]
        return self._smoothed(levels, image[:, -1:])

    def _smoothed(self, cells: Tensor, w: Tensor) -> Tensor:
        return (local_mean(cells, w, self.window) if self.config.blur > 0 else cells) * w

    def _pooled(self, cells: Tensor, w: Tensor) -> Tensor:
        """(N, K, H, W) to (N, K); in double precision, as deviations are small beside the mean."""
        levels = cells.double().unbind(1)
        return torch.stack([self.pool(level, w) for level in levels], 1)

    def _over_levels(self, z: Tensor) -> Tensor:
        return z.amax(1) if self.config.over == "max" else z.mean(1)


def _least(mean: Tensor) -> Tensor:
    """The least deviation that is taken for one; above 0 where all is 0."""
    return (STILL * mean.abs()).clamp(min=1e-12)


def _take_size(
    rule: torch.nn.Module, tensors: dict[str, Tensor], prefix: str, *others: object
) -> None:
    """Buffers of a saved rule have the levels of the model that it was fitted with."""
    del others
    for name in ("mean", "spread"):
        if (saved := tensors.get(f"{prefix}{name}")) is not None:
            setattr(rule, name, torch.empty_like(saved))
