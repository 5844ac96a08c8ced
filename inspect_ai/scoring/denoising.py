"""Denoising: an image is odd by what a denoiser takes away from it.

    odds      the denoiser's own log-odds that there is something to take away
    removed   what it takes away, |x - x'|, summed over covered cells

The map is what is taken away, cell by cell.

Source: Alain, Bengio, "What regularized auto-encoders learn from the data-generating
distribution", JMLR 15, 2014, section 3 (what a denoiser removes points to where data are dense).
"""

from typing import Literal

from torch import Tensor
from typing_extensions import override

from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.settings import Settings


class Config(Settings):
    """Which of the two."""

    rule: Literal["odds", "removed"]

    def build(self, channels: int, grid: tuple[int, int]) -> "Denoising":
        """The rule; it fits any grid."""
        del channels, grid
        return Denoising(self)


class Denoising(Rule):
    """See the module's docstring."""

    at_dies = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.needs = ("odds",) if config.rule == "odds" else ()

    @override
    def forward(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        x, w = image[:, :-1], image[:, -1:]
        removed = ((x - seen.expected).abs() * w).mean(1)
        if self.config.rule == "odds":
            assert seen.odds is not None
            return seen.odds, removed
        return removed.sum((1, 2)), removed
