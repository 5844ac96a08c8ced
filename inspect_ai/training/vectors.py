"""Images as vectors, and a Gaussian with few directions on them, for models fitted in one go.

A vector holds an image's channels times its coverage, cell by cell, so that what is not covered
is 0 and has no say. The Gaussian is

    x = m + W z + e,    z ~ N(0, I),    e ~ N(0, Psi), Psi diagonal
    z' = E[z | x] = (I + W' Psi^-1 W)^-1 W' Psi^-1 (x - m)
    x' = m + W z'
    -log p(x) = 1/2 [(x - m)' C^-1 (x - m) + ln |C| + d ln 2 pi],    C = W W' + Psi

and C^-1 (x - m) = Psi^-1 (x - x'), so that no d x d matrix is needed, and cell i has the share
1/2 (x - m)_i (x - x')_i / Psi_i + (ln |C| + d ln 2 pi) / 2 d.

Source: Bishop, "Pattern recognition and machine learning", 2006, section 12.2.

Shapes: N images, M of them to fit on, C channels, h, w cells, d = C h w numbers, q directions.
"""

import math
from typing import ClassVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.scores import Float64
from inspect_ai.scoring.filters import gaussian, local_mean
from inspect_ai.scoring.rule import Seen
from inspect_ai.training.descent import Drawn, Run
from inspect_ai.training.detector import Model

ROUNDING = (1 / 255) ** 2 / 12  # variance of rounding to 8 bits: less than this is not measured
SLIVER = 0.05  # of a cell; a smaller part of one is not scaled up in full


class Vectors(nn.Module):
    """(N, C + 1, h, w) images to vectors (N, d), and back."""

    window: Tensor

    def __init__(self, channels: int, grid: tuple[int, int], blur: float = 0.0) -> None:
        """With `blur`, images are smoothed first: standard deviation in cells."""
        super().__init__()
        self.shape, self.blur = (channels, *grid), blur
        self.register_buffer("window", gaussian(blur or 1.0))

    @property
    def size(self) -> int:
        """d."""
        return math.prod(self.shape)

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.shown(images).flatten(1)

    def shown(self, images: Tensor) -> Tensor:
        """Channels times coverage, (N, C, h, w), smoothed if asked for."""
        x, w = images[:, :-1], images[:, -1:]
        return (local_mean(x, w, self.window) if self.blur > 0 else x) * w

    def image(self, vectors: Tensor, coverage: Tensor) -> Tensor:
        """The (N, C, h, w) image in [0, 1] that vectors stand for; 0 where nothing is covered."""
        return uncovered(vectors.reshape(-1, *self.shape), coverage)

    def draw(self, batches: Drawn, run: Run) -> Float64:
        """Vectors (M, d) of the images of the first `run.budget.steps` batches."""
        images = torch.from_numpy(batches.first(run.budget.steps))
        parts = [self(part.to(run.device)).cpu() for part in torch.split(images, 256)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)


def uncovered(shown: Tensor, coverage: Tensor) -> Tensor:
    """(N, C, h, w) channels times coverage (N, 1, h, w) to the channels alone, in [0, 1]."""
    return (shown / coverage.clamp(min=SLIVER)).clamp(0, 1) * (coverage > 0)


def require_numbers(components: int, most: int) -> None:
    """Refuses more directions than a vector leaves room for.

    Raises:
        BadSettings: components > most.
    """
    if components > most:
        raise BadSettings(
            f"components = {components}, and an image of this grid has room for at most {most}. "
            "Ask for fewer components, or a finer grid."
        )


def require_images(vectors: Float64, components: int, least: int) -> None:
    """Refuses fewer different images than a fit needs; the same one again tells nothing new.

    Raises:
        MissingData: fewer than `least`.
    """
    different = len({row.tobytes() for row in vectors})
    if different < least:
        raise MissingData(
            f"{different} different image(s) for components = {components}; needed are at least "
            f"{least}. Ask for fewer components, or see more images: [budget] steps times "
            "batch_size are drawn."
        )


class LinearGaussian(Model):
    """See the module's docstring; a model file fits m, W and Psi and calls `set`."""

    gives: ClassVar[tuple[str, ...]] = ("surprise",)

    mean: Tensor
    loadings: Tensor
    encode: Tensor
    noise: Tensor
    constant: Tensor

    def __init__(self, vectors: Vectors, components: int) -> None:
        """An unfitted one.

        Raises:
            BadSettings: no number would be left over for the noise.
        """
        super().__init__()
        require_numbers(components, vectors.size - 1)
        self.vectors, self.components = vectors, components
        self.register_buffer("mean", torch.zeros(vectors.size))  # m
        self.register_buffer("loadings", torch.zeros(components, vectors.size))  # W'
        self.register_buffer("encode", torch.zeros(components, vectors.size))  # z' from x - m
        self.register_buffer("noise", torch.ones(vectors.size))  # diagonal of Psi
        self.register_buffer("constant", torch.zeros(()))  # each number's, in nats

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        centred = self.vectors(images) - self.mean
        redrawn = centred @ self.encode.T @ self.loadings
        share = 0.5 * centred * (centred - redrawn) / self.noise + self.constant
        surprise = share.reshape(-1, *self.vectors.shape).sum(1)
        return Seen(self.vectors.image(self.mean + redrawn, images[:, -1:]), surprise)

    def set(self, mean: Float64, loadings: Float64, noise: Float64) -> None:
        """Takes m (d,), W' (q, d) and the diagonal of Psi (d,)."""
        weighted = loadings / noise
        inner = np.eye(len(loadings)) + weighted @ loadings.T
        volume = np.log(noise).sum() + np.linalg.slogdet(inner)[1]  # ln |C|
        fill(self.mean, mean)
        fill(self.loadings, loadings)
        fill(self.encode, np.asarray(np.linalg.solve(inner, weighted), dtype=np.float64))
        fill(self.noise, noise)
        fill(self.constant, np.asarray(volume / (2 * len(noise)) + 0.5 * math.log(2 * math.pi)))


def one_thread() -> threadpool_limits:
    """Fits on one core: threads that wait for each other took 15 times as long on busy ones."""
    return threadpool_limits(1)


def fill(buffer: Tensor, values: Float64) -> None:
    """Copies fitted numbers into a buffer, in its own type and place."""
    # what float32 holds only as a denormal number is 0, and those are slow
    kept = np.where(np.abs(values) < np.finfo(np.float32).tiny, 0, values)
    buffer.copy_(torch.from_numpy(kept))
