"""Likelihood: an image is odd where the model gives it a low probability.

The score is the negative log-likelihood, in nats; the map holds each cell's share of it, which
can be negative where a density exceeds 1. With `pooling`, the map's odd cells count instead of
the whole: a likely background then hides nothing.

Source: Bishop, "Novelty detection and neural network validation", IEE Proc. Vision 141, 1994.
"""

from typing import Literal

from torch import Tensor
from typing_extensions import override

from inspect_ai.scoring.pooling import Pooling
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.settings import Settings


class Config(Settings):
    """The whole image's likelihood, or a pooling of its map."""

    rule: Literal["likelihood"]
    pooling: Pooling | None = None  # None: the sum over the image

    def build(self, channels: int, grid: tuple[int, int]) -> "Likelihood":
        """The rule; it fits any grid."""
        del channels, grid
        return Likelihood(self)


class Likelihood(Rule):
    """See the module's docstring."""

    needs = ("surprise",)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.pool = config.pooling.build() if config.pooling else None

    @override
    def forward(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        assert seen.surprise is not None
        surprise, w = seen.surprise, image[:, -1]
        shown = surprise * (w > 0)
        return (self.pool(shown, w) if self.pool else surprise.sum((1, 2))), shown
