"""PCA-64, the rival of every model: what the simplest one makes of the same grid, in seconds.

    v = w x,    v' its nearest point in the plane through the mean along the 64 directions in
                which good images vary most
    Q = |v - v'|^2 / sum w        the score
    x' = v' / w, in [0, 1]        the expectation

It learns from some thousand good images at most and is told of no condition. Nothing is tuned,
so that a model which finds less has no excuse.

Source: Jackson, Mudholkar, "Control procedures for residuals associated with principal
component analysis", Technometrics 21(3), 1979 (Q).

Shapes: N images, M to fit on, C channels, H, W pixels of the file, h, w cells of the grid (x
their content, w their coverage), d = C h w numbers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn import decomposition

from inspect_ai.preprocess import Preprocess
from inspect_ai.scores import Float32, Pixels
from inspect_ai.training.vectors import one_thread

DIRECTIONS, FITTED_ON = 64, 2000  # images at most
NUMBERS = 2**26  # that it is fitted on at most: 256 MB
SEED = 0


@dataclass(frozen=True, slots=True)
class Rival:
    """PCA behind the view of another model."""

    view: Preprocess
    made: decomposition.PCA

    @property
    def name(self) -> str:
        """As tables give it; fewer than 64 where the images allow no more."""
        return f"PCA-{self.components}"

    @property
    def components(self) -> int:
        """How many directions there are."""
        return int(self.made.n_components_)

    def score(self, pixels: Pixels) -> Float32:
        """Q of each of N images, (N,)."""
        images = _seen(self.view, pixels)
        left = _vectors(images) - self._redrawn(images)
        return np.asarray((left**2).sum(1) / images[:, -1].sum((1, 2)), np.float32)

    def expected(self, pixels: Pixels) -> Float32:
        """x': (N, C, h, w) of pictures, (N, 1, H, W) at the dies of maps."""
        images = _seen(self.view, pixels)
        shown = self._redrawn(images).reshape(images[:, :-1].shape)
        cells = np.where(images[:, -1:] > 0, shown / images[:, -1:].clip(1e-6), 0).clip(0, 1)
        spread = self.view.spread(torch.from_numpy(cells), torch.from_numpy(pixels))
        return np.asarray(spread.numpy())

    def _redrawn(self, images: Float32) -> Float32:
        """v', (N, d)."""
        with one_thread():
            return np.asarray(
                self.made.inverse_transform(self.made.transform(_vectors(images))), np.float32
            )


def most(view: Preprocess) -> int:
    """How many images it wants at most: two or more."""
    return max(2, min(FITTED_ON, NUMBERS // _numbers(view)))


def fit(view: Preprocess, good: Iterable[Pixels]) -> Rival:
    """PCA of good images, M in all."""
    vectors = np.concatenate([_vectors(_seen(view, pixels)) for pixels in good])
    directions = max(1, min(DIRECTIONS, len(vectors) - 1, _numbers(view)))
    with one_thread(), np.errstate(all="ignore"):  # one image has no variance
        return Rival(view, decomposition.PCA(directions, random_state=SEED).fit(vectors))


def _numbers(view: Preprocess) -> int:
    """d."""
    return view.view.channels * math.prod(view.view.grid)


def _seen(view: Preprocess, pixels: Pixels) -> Float32:
    """(N, C + 1, h, w): what a model of the grid sees."""
    return np.asarray(view(torch.from_numpy(pixels)).numpy())


def _vectors(images: Float32) -> Float32:
    """v, (N, d)."""
    return np.asarray((images[:, :-1] * images[:, -1:]).reshape(len(images), -1))
