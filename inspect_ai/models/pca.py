"""PCA: odd is what lies outside the plane that good images span.

An image is redrawn from its coordinates along the directions in which good images vary most,

    x' = m + V V' (x - m)

and a rule measures what is left, x - x'; its squared length is the classical Q statistic.

The fit sees the images of the first [budget] steps, batch_size of each, in one go; with as many
as there are, each counts once. With `blur`, x is the smoothed image, and so is x'.

Sources: Pearson, "On lines and planes of closest fit to systems of points in space",
Philosophical Magazine 2(11), 1901. Jackson, Mudholkar, "Control procedures for residuals
associated with principal component analysis", Technometrics 21(3), 1979 (Q). Fitted by
scikit-learn's `PCA`.

Shapes: N images, C channels, h, w cells, d = C h w numbers, q directions.
"""

from typing import Self

import torch
from pydantic import Field
from sklearn import decomposition
from torch import Tensor
from typing_extensions import override

from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Drawn, Run
from inspect_ai.training.detector import Model
from inspect_ai.training.vectors import Vectors, fill, one_thread, require_images, require_numbers


class Config(Settings):
    """How many directions."""

    components: int = Field(default=20, ge=1)
    blur: float = Field(default=0.0, ge=0)  # standard deviation in cells; 0 is none

    def build(self, channels: int, grid: tuple[int, int]) -> "PCA":
        """The model for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: more components than numbers in an image.
        """
        return PCA(self, channels, grid)


class PCA(Model):
    """See the module's docstring."""

    mean: Tensor
    directions: Tensor

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.vectors, self.components = Vectors(channels, grid, config.blur), config.components
        require_numbers(self.components, self.vectors.size)
        self.register_buffer("mean", torch.zeros(self.vectors.size))  # m
        self.register_buffer("directions", torch.zeros(self.components, self.vectors.size))  # V'

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        """Learns the plane.

        Raises:
            MissingData: too few different images to span it.
        """
        vectors = self.vectors.draw(batches, run)
        require_images(vectors, self.components, self.components + 1)
        solver = "full" if len(vectors) < self.vectors.size else "covariance_eigh"
        with one_thread():
            made = decomposition.PCA(self.components, svd_solver=solver).fit(vectors)
        fill(self.mean, made.mean_)
        fill(self.directions, made.components_)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        return Seen(self.vectors.image(self.redraw(self.vectors(images)), images[:, -1:]))

    def redraw(self, vectors: Tensor) -> Tensor:
        """The nearest points of the plane, (N, d) to (N, d)."""
        return self.mean + (vectors - self.mean) @ self.directions.T @ self.directions
