"""Adversarial rules: how far image and redrawn image are apart for the eye, a critic and an encoder.

With image x, expectation x', n covered cells, D_f the mean squared difference of a critic's features
of both, D_z the squared distance of two codes, and D(x) the critic's own output,

    score = residual * mean |x - x'|^p + features * D_f + codes * D_z - unreal * D(x)

Known scores are choices of weights: f-AnoGAN residual 1, features 1 (its kappa), p = 2; BiGAN
residual .9, features .1, p = 1; GANomaly codes 1 alone. Terms are as they are: none is divided by
what it is over a test set, so that the score of an image does not depend on its neighbours. How
rare several are together, each in its own spread over good images, is told by rule "density" of
l2, features, codes, unreal.

The map shows, per cell, the residual and the share of the features' distance; its mean over covered
cells is their part of the score (pooling "mean"); other poolings look at the oddest cells.

Sources: Schlegl, Seeboeck, Waldstein, Langs, Schmidt-Erfurth, "f-AnoGAN", Medical Image Analysis 54,
2019, equation 6. Zenati, Foo, Lecouat, Manek, Chandrasekhar, "Efficient GAN-based anomaly
detection", 2018, section 3. Akcay, Atapour-Abarghouei, Breckon, "GANomaly", ACCV 2018, equation 6.

Shapes: N images, C channels, H, W cells.
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import override

from inspect_ai.scoring.filters import gaussian, local_mean
from inspect_ai.scoring.likelihood import said
from inspect_ai.scoring.pooling import Pooling
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.settings import Settings

TERMS = ("features", "codes", "unreal")  # fields of Seen, and weights of a config


class Config(Settings):
    """Weights of the terms, and how the map becomes one number."""

    rule: Literal["adversarial"]
    norm: Literal["l1", "l2"] = "l2"  # p of the residual
    residual: float = Field(default=1.0, ge=0)
    features: float = Field(default=1.0, ge=0)
    codes: float = Field(default=0.0, ge=0)
    unreal: float = Field(default=0.0, ge=0)
    blur: float = Field(default=0.0, ge=0)  # of the map: standard deviation in cells; 0 is none
    pooling: Pooling = Pooling(kind="mean")

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if not (self.residual or any(getattr(self, term) for term in TERMS)):
            raise ValueError("all weights are 0; give one of residual, features, codes, unreal")
        return self

    def build(self, channels: int, grid: tuple[int, int]) -> "Adversarial":
        """The rule; it fits any grid."""
        del channels, grid
        return Adversarial(self)


class Adversarial(Rule):
    """See the module's docstring."""

    blur: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.needs = tuple(term for term in TERMS if getattr(config, term))
        self.placed = bool(config.residual or config.features)  # terms that have a place
        self.pool = config.pooling.build()
        self.register_buffer("blur", gaussian(config.blur or 1.0))

    @override
    def forward(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        x, w = image[:, :-1], image[:, -1:]
        gap = x - seen.expected
        residual = (gap.abs() if self.config.norm == "l1" else gap.square()).mean(1) * w[:, 0]
        shown = self._shown(residual, w, seen)
        score = self.pool(shown, w[:, 0]) if self.placed else residual.new_zeros(x.shape[0])
        for term in TERMS[1:]:
            if weight := getattr(self.config, term):
                score = score + weight * said(getattr(seen, term))
        return score, shown

    def _shown(self, residual: Tensor, w: Tensor, seen: Seen) -> Tensor:
        """The map; of codes, which have no place, a reviewer sees the residual."""
        shown = residual * (self.config.residual if self.placed else 1.0)
        if self.config.features:
            count = w.sum((1, 2, 3))[:, None, None]
            shown = shown + self.config.features * count * said(seen.features) * (w[:, 0] > 0)
        if self.config.blur > 0:
            shown = (local_mean(shown[:, None], w, self.blur) * w)[:, 0]
        return shown
