"""Likelihood: an image is odd where the model gives it a low probability, or an unusual one.

With n_i a cell's surprise (its share of -log p(x), in nats), u_i and v_i the mean and variance of
n_i under the model's own prediction, b_i the surprise of a simpler model, n the covered cells and
L(x) the nats that a simple coder needs for the image, the score is one of

    sum            sum n_i, the negative log-likelihood, less its mean over good images: as large
                   a number in single precision would lose the digits that tell images apart
    typicality     |sum n_i / n - its mean over good images|
    standardised   sum (n_i - u_i) / sqrt(sum v_i): 0 where the image is as likely as expected
    thresholded    sum of max(0, n_i - t), t a high quantile of n_i over good images: only what is
                   unlikely counts, and a simple image is not too likely
    ratio          sum (n_i - b_i): the model's surprise beyond that of a background model
    corrected      sum n_i - L(x): what complexity does not explain; both less their mean, too
    conditioned    (sum n_i - m(t)) / s(t), m and s the mean and spread over good images that are
                   alike in t, their mean grey level (on wafer maps the share of failing dies) or
                   L(x) / n; t is held within the range of good images
    kl             nats of the latent code
    slope          pooled |d surprise / d x|

A raw likelihood calls simple images too likely, and a wafer map with many fails too unlikely: it
is a yield meter. `sides = "both"` finds a score unusual on either side, |s - mean| / deviation
over good images; "low" one that is too low. A wafer whose fails stand together is *more* likely
to a model that has seen clusters than to one of independent dies.
With `pooling`, the odd cells of the map count instead of the whole; with `blur` it is smoothed
before, and odd areas count instead of odd cells.

L(x) is the entropy of a histogram times n: of grey levels (on dies: of the wafer's own fail
count), or of differences between neighbours in a row.

Sources: Bishop, "Novelty detection and neural network validation", IEE Proc. Vision 141, 1994.
Nalisnick, Matsukawa, Teh, Lakshminarayanan, "Detecting out-of-distribution inputs to deep
generative models using typicality", arXiv 1906.02994, section 3. Ren et al., "Likelihood ratios
for out-of-distribution detection", NeurIPS 2019, section 3. Serra et al., "Input complexity and
out-of-distribution detection with likelihood-based generative models", ICLR 2020, section 3.
Naval Marimont, Tarroni, "Anomaly detection through latent space restoration using vector
quantized variational autoencoders", ISBI 2021 (thresholded). Zimmerer et al., "Context-encoding
variational autoencoder for unsupervised anomaly detection", MIDL 2019 (slope).

Shapes: N images, H, W cells, M good images.
"""

from collections.abc import Iterable
from typing import Literal, Self, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import override

from inspect_ai.scoring.filters import gaussian, local_mean
from inspect_ai.scoring.pooling import Pooling
from inspect_ai.scoring.rule import Rule, Seen, require_two
from inspect_ai.scoring.trend import Trend
from inspect_ai.settings import Settings

Kind = Literal[
    "sum",
    "typicality",
    "standardised",
    "thresholded",
    "ratio",
    "corrected",
    "conditioned",
    "kl",
    "slope",
]
NEEDS: dict[Kind, tuple[str, ...]] = {
    "standardised": ("surprise", "usual", "varied"),
    "ratio": ("surprise", "background"),
    "kl": ("kl", "surprise"),
    "slope": ("slope",),
}
BY_CELL = ("sum", "standardised", "thresholded", "ratio", "slope")  # their maps can be pooled
ONLY: dict[str, tuple[Kind, ...]] = {  # settings that some kinds alone read
    "quantile": ("thresholded",),
    "alike": ("conditioned",),
    "coder": ("corrected", "conditioned"),
    "sides": tuple(kind for kind in get_args(Kind) if kind != "typicality"),
}
TOTALS = ("sum", "ratio", "corrected")
LEVELS = 32  # grey levels of the coder's histogram
BESIDE = 0.0131  # of a level: half of a cell's dies is no border, where rounding would decide
NONE = torch.empty(0)
MOST = 200_000  # cells a quantile is taken from


class Config(Settings):
    """What is made of the surprise."""

    rule: Literal["likelihood"]
    kind: Kind = "sum"
    sides: Literal["high", "low", "both"] = "high"
    quantile: float = Field(default=0.98, gt=0, lt=1)  # thresholded: of good cells' surprise
    alike: Literal["level", "complexity"] = "level"  # conditioned: in what
    coder: Literal["levels", "differences"] = "levels"  # L(x): entropy of which histogram
    blur: float = Field(default=0.0, ge=0)  # standard deviation in cells, of a pooled map
    pooling: Pooling | None = None  # None: the sum over the image

    @model_validator(mode="after")
    def _pools_a_map(self) -> Self:
        if self.pooling and self.kind not in BY_CELL:
            raise ValueError(f"kind = '{self.kind}' is one number; drop 'pooling'")
        if self.blur and not (self.pooling or self.kind == "slope"):
            raise ValueError("'blur' smooths a map that is pooled; add 'pooling', or drop it")
        return self

    @model_validator(mode="after")
    def _asks_for_nothing_in_vain(self) -> Self:
        self.require_read(self.kind, ONLY)
        return self

    def build(self, channels: int, grid: tuple[int, int]) -> "Likelihood":
        """The rule; it fits any grid."""
        del channels, grid
        return Likelihood(self)


class Likelihood(Rule):
    """See the module's docstring for the kinds."""

    window: Tensor
    limit: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.needs = NEEDS.get(config.kind, ("surprise",))
        self.pool = (config.pooling or Pooling()).build()
        self.pooled = config.pooling is not None or config.kind == "slope"
        # a share of the cells is one of a grid: around a map on a canvas lie more or fewer of them
        self.any_size = not (self.pooled and self.pool.settings.kind == "top")
        self.register_buffer("window", gaussian(config.blur or 1.0))
        self.register_buffer("limit", torch.zeros(()))  # t of thresholded
        self.register_buffer("centre", torch.zeros((), dtype=torch.float64))
        self.register_buffer("spread", torch.ones((), dtype=torch.float64))
        if config.kind == "conditioned":
            self.trend = Trend()

    @override
    def fit(self, pairs: Iterable[tuple[Tensor, Seen]]) -> None:
        if self.config.kind == "conditioned":
            found = [(self._alike(image), said(seen.surprise).sum((1, 2))) for image, seen in pairs]
            t, nll = (
                (torch.cat(part) for part in zip(*found, strict=True)) if found else (NONE, NONE)
            )
            require_two(len(t), "likelihood")
            self.trend.fit(t, nll)
            raw = self.trend(t, nll)
        else:
            if self.config.kind == "thresholded":
                pairs = list(pairs)  # looked at twice: for the limit, and beyond it
                self._fit_limit(pairs)
            numbers = [self._raw(image, seen)[0] for image, seen in pairs]
            raw = torch.cat(numbers) if numbers else NONE
            require_two(len(raw), "likelihood")
        self.centre.copy_(raw.double().mean())
        self.spread.copy_(raw.double().std().clamp(min=1e-6))

    def _fit_limit(self, pairs: list[tuple[Tensor, Seen]]) -> None:
        cells = [said(seen.surprise)[image[:, -1] > 0] for image, seen in pairs]
        found = torch.cat(cells) if cells else NONE
        require_two(len(found), "likelihood")
        some = found[torch.randperm(len(found), generator=_seeded())[:MOST]]
        self.limit.copy_(torch.quantile(some, self.config.quantile))

    @override
    def forward(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        raw, shown = self._raw(image, seen)
        if self.config.kind == "typicality":
            return (raw - self.centre).abs().float(), shown
        if self.config.sides == "both":
            return ((raw - self.centre).abs() / self.spread).float(), shown
        raw = raw - self.centre if self._is_total else raw
        return (-raw if self.config.sides == "low" else raw).float(), shown

    @property
    def _is_total(self) -> bool:
        """Whether the score is a sum over all cells: thousands of nats, of which tens matter."""
        return not self.pooled and self.config.kind in TOTALS

    def _raw(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """The number of each image before its sides are looked at, and the map."""
        w = image[:, -1]
        shown = self._cells(image, seen) * (w > 0)
        if self.config.blur > 0:
            shown = local_mean(shown[:, None], image[:, -1:], self.window)[:, 0] * (w > 0)
        if self.pooled:
            return self.pool(shown, w), shown
        return self._number(image, seen), shown

    def _number(self, image: Tensor, seen: Seen) -> Tensor:
        kind = self.config.kind
        if kind == "kl":
            return said(seen.kl)
        if kind == "standardised":
            return standardised(seen)
        total = self._cells(image, seen).double().sum((1, 2))
        if kind == "typicality":
            return total / covered(image)
        if kind == "corrected":
            return total - code_length(image, self.config.coder)
        return self.trend(self._alike(image), total.float()) if kind == "conditioned" else total

    def _cells(self, image: Tensor, seen: Seen) -> Tensor:
        """The map, (N, H, W)."""
        kind = self.config.kind
        if kind == "slope":
            return said(seen.slope)
        surprise = said(seen.surprise)
        if kind == "thresholded":
            there = (image[:, -1] > 0) | (surprise > 0)  # a limit may lie below 0: so do densities
            return (surprise - self.limit).clamp(min=0) * there
        if kind == "ratio":
            return surprise - said(seen.background)
        if kind == "standardised":
            return (surprise - said(seen.usual)).abs() / said(seen.varied).clamp(min=1e-6).sqrt()
        return surprise

    def _alike(self, image: Tensor) -> Tensor:
        """What conditioned images have in common, (N,)."""
        if self.config.alike == "complexity":
            return code_length(image, self.config.coder) / covered(image)
        x, w = image[:, :-1], image[:, -1:]
        return (x * w).sum((1, 2, 3)) / (covered(image) * x.shape[1])


def covered(image: Tensor) -> Tensor:
    """Covered cells of (N, C + 1, H, W) images, at least 1: (N,)."""
    return image[:, -1].sum((1, 2)).clamp(min=1)


def standardised(seen: Seen) -> Tensor:
    """How far the negative log-likelihood is from what the model expects, in deviations, (N,)."""
    beyond = (said(seen.surprise) - said(seen.usual)).sum((1, 2))
    return beyond / said(seen.varied).sum((1, 2)).clamp(min=1e-6).sqrt()


def code_length(image: Tensor, coder: str) -> Tensor:
    """Nats a simple coder needs for (N, C + 1, H, W) images in [0, 1]: (N,).

    Args:
        coder: "levels", or "differences" of neighbours in a row.
    """
    x, w = image[:, :-1], image[:, -1:]
    w, bins = w.expand_as(x), LEVELS
    if coder == "differences":
        x, w = (x[..., 1:] - x[..., :-1] + 1) / 2, w[..., 1:] * w[..., :-1]
        bins = 2 * LEVELS - 1
    place = (x.clamp(0, 1) * (bins - 1) + 0.5 + BESIDE).long()
    none = x.new_zeros(x.shape[0], bins)
    counts = none.scatter_add(1, place.flatten(1), w.flatten(1))
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return -(p * p.clamp(min=1e-12).log()).sum(1) * covered(image) * (image.shape[1] - 1)


def said(field: Tensor | None) -> Tensor:
    """A field of Seen that the rule asked for."""
    assert field is not None, "a rule's needs are checked before a model is built"
    return field


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
