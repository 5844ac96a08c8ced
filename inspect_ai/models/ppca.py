"""Probabilistic PCA: a Gaussian with a few free directions and the same noise in all others.

    -log p(x) = 1/2 [T^2 + Q / s^2 + sum_k ln l_k + (d - q) ln s^2 + d ln 2 pi]

with T^2 = sum_k t_k^2 / l_k over the coordinates t_k along the first q principal directions, l_k
the variances there, Q the squared distance to their plane, and s^2 the mean of the left-out
variances (with fewer images than numbers: of those that there are, as scikit-learn has it). It
is computed as a linear Gaussian (training/vectors.py) with W = V (L - s^2 I)^1/2, Psi = s^2 I.
What is expected is the redraw from the posterior mean, m + W E[z | x]: PCA's, drawn towards the
mean where noise is strong.

s^2 is at least the variance of rounding to 8 bits. The fit sees the images of the first [budget]
steps, batch_size of each, in one go; with as many as there are, each counts once. With `blur`,
x is the smoothed image.

Source: Tipping, Bishop, "Probabilistic principal component analysis", JRSS B 61(3), 1999,
equations 4 to 8. Exact against scikit-learn's `PCA.score_samples`.

Shapes: N images, C channels, h, w cells, d = C h w numbers, q directions.
"""

from typing import Self

import numpy as np
from pydantic import Field
from sklearn.decomposition import PCA
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


class Config(Settings):
    """How many directions."""

    components: int = Field(default=20, ge=1)
    blur: float = Field(default=0.0, ge=0)  # standard deviation in cells; 0 is none

    def build(self, channels: int, grid: tuple[int, int]) -> "PPCA":
        """The model for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: as many components as numbers in an image, or more.
        """
        return PPCA(Vectors(channels, grid, self.blur), self.components)


class PPCA(LinearGaussian):
    """See the module's docstring."""

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        """Learns the directions, their variances and the noise.

        Raises:
            MissingData: too few different images for the directions and the noise.
        """
        vectors = self.vectors.draw(batches, run)
        require_images(vectors, self.components, self.components + 2)
        solver = "full" if len(vectors) < self.vectors.size else "covariance_eigh"
        with one_thread():
            made = PCA(self.components, svd_solver=solver).fit(vectors)
        s2 = max(float(made.noise_variance_), ROUNDING)
        lengths = np.sqrt(np.maximum(made.explained_variance_ - s2, 0))
        noise = np.full(self.vectors.size, s2)
        self.set(made.mean_, made.components_ * lengths[:, None], noise)
        return self
