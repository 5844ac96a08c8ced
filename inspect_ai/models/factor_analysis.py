"""Factor analysis: a Gaussian with a few common factors, and a noise of its own in each cell.

    x = m + W z + e,    z ~ N(0, I),    e ~ N(0, Psi), Psi diagonal
    -log p(x) = 1/2 [(x - m)' C^-1 (x - m) + ln |C| + d ln 2 pi],    C = W W' + Psi

Unlike PPCA, a cell that is noisy on every good image may be so on the next one too. What is
expected is the redraw from the posterior mean, m + W E[z | x].

A cell that never varied, off the wafer say, would have no noise, and any change there would
count without limit. So Psi is at least `floor` times the mean variance of a number, and at
least the variance of rounding to 8 bits; W is fitted without the floor.

The fit sees the images of the first [budget] steps, batch_size of each, in one go; with as many
as there are, each counts once. With `blur`, x is the smoothed image.

Sources: Rubin, Thayer, "EM algorithms for ML factor analysis", Psychometrika 47(1), 1982.
Barber, "Bayesian reasoning and machine learning", 2012, section 21.2. Exact against
scikit-learn's `FactorAnalysis.score_samples` where no floor is reached.

Shapes: N images, C channels, h, w cells, d = C h w numbers, q factors.
"""

import warnings
from typing import Self

import numpy as np
from pydantic import Field
from sklearn.decomposition import FactorAnalysis as Fitted
from sklearn.exceptions import ConvergenceWarning
from typing_extensions import override

from inspect_ai.settings import Settings
from inspect_ai.training.descent import Drawn, Run
from inspect_ai.training.vectors import (
    ROUNDING,
    LinearGaussian,
    Vectors,
    one_thread,
    require_images,
)

ROUNDS = 200  # at most; the likelihood then grows by little


class Config(Settings):
    """How many factors, and how little noise a cell may have."""

    components: int = Field(default=20, ge=1)
    blur: float = Field(default=0.0, ge=0)  # standard deviation in cells; 0 is none
    floor: float = Field(default=0.01, ge=0, le=1)  # of the mean variance of a number

    def build(self, channels: int, grid: tuple[int, int]) -> "FactorAnalysis":
        """The model for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: as many components as numbers in an image, or more.
        """
        return FactorAnalysis(self, channels, grid)


class FactorAnalysis(LinearGaussian):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        super().__init__(Vectors(channels, grid, config.blur), config.components)
        self.floor = config.floor

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        """Learns factors and noise.

        Raises:
            MissingData: too few different images for the factors and the noise.
        """
        vectors = self.vectors.draw(batches, run)
        require_images(vectors, self.components, self.components + 2)
        made = Fitted(self.components, max_iter=ROUNDS, random_state=run.budget.seed)
        with warnings.catch_warnings(), np.errstate(all="ignore"), one_thread():
            # any W and Psi are a density, even where images span less than the factors could
            warnings.simplefilter("ignore", ConvergenceWarning)
            made.fit(vectors)
        floor = max(self.floor * float(vectors.var(0).mean()), ROUNDING)
        self.set(made.mean_, made.components_, np.maximum(made.noise_variance_, floor))
        return self
