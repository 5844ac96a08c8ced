"""Density: several numbers of one model's output, and how rare they are together.

A vector of statistics (statistics.py) is standardised on good images; the score is one of

    sum          sum of the standardised statistics: large is odd
    fisher       sum of -log of the share of good images at least as large, statistic by statistic,
                 between good images by straight lines (rarity.py), never more than -log 1 / (M + 1)
    gaussian     Mahalanobis distance: far from the middle is odd, on either side
    gmm          negative log-likelihood under a mixture of Gaussians
    neighbours   mean distance to the nearest good images

The map of a wafer shows, per die, the smoothed Pearson residual above expectation, that of a
picture the smoothed squared residual.

A model that can redraw a pattern takes it out of the residuals and hides it: give it a code of
one or two numbers.

Sources: Morningstar, Ham, Gallagher, Lakshminarayanan, Alemi, Dillon, "Density of States
Estimation for Out-of-Distribution Detection", AISTATS 2021 (DoSE: a density over statistics of
a model). Fisher, "Statistical methods for research workers", 4th ed., 1932, section 21.1.
Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J.
Multivariate Analysis 88, 2004. Ramaswamy, Rastogi, Shim, "Efficient algorithms for mining
outliers from large data sets", SIGMOD 2000 (neighbours).

Shapes: N images, H, W cells, K statistics, M good images kept.
"""

import math
from collections.abc import Iterable
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from sklearn.covariance import LedoitWolf
from torch import Tensor
from typing_extensions import override

from inspect_ai.errors import MissingData
from inspect_ai.scoring.filters import gaussian, local_mean, smooth
from inspect_ai.scoring.mixture import Mixture
from inspect_ai.scoring.rarity import KNOTS, curve, rarity
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.scoring.statistics import NEEDS, ON_MAPS, STATISTICS, Evidence
from inspect_ai.settings import Settings

BLUR = 1.0  # cells, of the map
FAR = 1e6  # stands where no good image was kept


class Config(Settings):
    """Which statistics, and which density on them."""

    rule: Literal["density"]
    statistics: tuple[str, ...] = Field(min_length=1)
    density: Literal["sum", "fisher", "gaussian", "gmm", "neighbours"] = "sum"
    components: int = Field(default=2, ge=1)  # gmm
    nearest: int = Field(default=5, ge=1)  # neighbours
    kept: int = Field(default=1000, ge=2)  # neighbours: most good images kept

    @field_validator("statistics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in STATISTICS]
        if unknown or len(set(names)) < len(names):
            raise ValueError(
                f"{', '.join(unknown) or 'a name'} unknown or twice; known: {', '.join(STATISTICS)}"
            )
        return names

    @model_validator(mode="after")
    def _enough_kept(self) -> Self:
        if self.nearest > self.kept:
            raise ValueError(f"nearest = {self.nearest} of {self.kept} kept; raise 'kept'")
        return self

    def build(self, channels: int, grid: tuple[int, int]) -> "Density":
        """The rule; it fits any grid."""
        del channels, grid
        return Density(self)


class Density(Rule):
    """See the module's docstring for the densities."""

    mean: Tensor
    spread: Tensor
    kept: Tensor
    knots: Tensor
    slopes: Tensor
    most: Tensor
    precision: Tensor
    blur: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, size = config, len(config.statistics)
        self.needs = tuple(sorted({f for s in config.statistics for f in NEEDS.get(s, ())}))
        self.maps_only = self.at_dies = any(name in ON_MAPS for name in config.statistics)
        self.any_size = not self.at_dies
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.register_buffer("blur", gaussian(BLUR))
        if config.density == "neighbours":
            self.register_buffer("kept", torch.full((config.kept, size), FAR))
        if config.density == "fisher":
            self.register_buffer("knots", torch.zeros(size, KNOTS))
            self.register_buffer("slopes", torch.zeros(size, KNOTS))
            self.register_buffer("most", torch.zeros(()))
        if config.density == "gaussian":
            self.register_buffer("precision", torch.eye(size))
        if config.density == "gmm":
            self.mixture = Mixture(config.components, size)

    @override
    def fit(self, pairs: Iterable[tuple[Tensor, Seen]]) -> None:
        found = torch.cat([self.statistics(Evidence(*pair)) for pair in pairs])
        needed = {"neighbours": self.config.nearest, "gmm": self.config.components}
        least = max(2, needed.get(self.config.density, 2))
        if len(found) < least:
            raise MissingData(
                f"{len(found)} good image(s) held out of training; rule 'density' needs {least} or "
                "more. Add images, or raise 'held_out' in the run file."
            )
        self.mean.copy_(found.mean(0))
        self.spread.copy_(found.std(0).clamp(min=1e-6))
        z = (found - self.mean) / self.spread
        if self.config.density == "neighbours":
            order = np.random.default_rng(0).permutation(len(z))[: self.config.kept]
            self.kept[: len(order)] = z[torch.from_numpy(order)]
        if self.config.density == "fisher":
            self.most.fill_(math.log(len(z) + 1))
            for k, own in enumerate(z.T):
                knots, slopes = curve(own.double().numpy(), 1 / (len(z) + 1))
                self.knots[k], self.slopes[k] = torch.from_numpy(knots), torch.from_numpy(slopes)
        if self.config.density == "gaussian":
            self.precision.copy_(torch.from_numpy(LedoitWolf().fit(z.numpy()).precision_))
        if self.config.density == "gmm":
            self.mixture.fit(z.double().numpy())

    @override
    def forward(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        of = Evidence(image, seen)
        z = (self.statistics(of) - self.mean) / self.spread
        return self._rarity(z), self._map(of)

    def statistics(self, of: Evidence) -> Tensor:
        """The statistics as they are, (N, K)."""
        return torch.stack([STATISTICS[name](of) for name in self.config.statistics], 1)

    def _rarity(self, z: Tensor) -> Tensor:
        if self.config.density == "fisher":
            return torch.minimum(rarity(z, self.knots, self.slopes), self.most).sum(1)
        if self.config.density == "gaussian":
            return ((z @ self.precision) * z).sum(1).clamp(min=0).sqrt()
        if self.config.density == "gmm":
            nats: Tensor = self.mixture(z)
            return nats
        if self.config.density == "neighbours":
            square = z.square().sum(1)[:, None] + self.kept.square().sum(1) - 2 * z @ self.kept.T
            near = torch.topk(square, self.config.nearest, dim=1, largest=False).values
            return near.clamp(min=0).sqrt().mean(1)
        return z.sum(1)

    def _map(self, of: Evidence) -> Tensor:
        if self.maps_only:
            return (smooth(of.e, self.blur) * of.w)[:, 0].clamp(min=0)
        square = (of.x - of.seen.expected).square().mean(1, keepdim=True)
        return (local_mean(square, of.w, self.blur) * of.w)[:, 0]
