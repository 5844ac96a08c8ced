"""A mixture of Gaussians: good images, or good patches of them, come in a few kinds.

    -log p(u) = -log sum_g w_g N(u; m_g, S_g)

with full covariances, on vectors u standardised number by number over training (so the density
is that of u). Two spaces:

    pixels    one vector an image, averaged down to `cells` a side
    patches   one vector a cell: the patch of `patch` cells a side around it, edges repeated

In pixel space a cell's surprise is 1/2 sum_g r_g (u - m_g)_i (S_g^-1 (u - m_g))_i, r_g being the
responsibilities; what is missing to the whole is dealt out evenly, so that the sum is the
negative log-likelihood. In patch space it is that of its own patch, and 0 where nothing is
covered; patches overlap, so the sum is no likelihood of an image, but ranks as one. Expected is
the mean of the components, weighted by responsibility: the image, or the patch's centre.

A number that hardly varies, off the wafer say, is divided by no less than a tenth of the usual
spread, and 1 / 255; `ridge` is added to the variances of u. The fit sees the images of the first
[budget] steps, batch_size of each, in one go, and at most `patches` patches drawn from them.

Sources: Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm",
JRSS B 39, 1977. Zoran, Weiss, "From learning models of natural image patches to whole image
restoration", ICCV 2011 (patches). Exact against scikit-learn's `GaussianMixture.score_samples`.

Shapes: N images, C channels, h, w cells, K numbers of a vector, G components, B vectors.
"""

import math
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.errors import BadSettings
from inspect_ai.scoring.mixture import RIDGE, Mixture
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Drawn, Run
from inspect_ai.training.detector import Model
from inspect_ai.training.vectors import Vectors, fill, uncovered

LEAST = 0.1  # of the usual spread of a number


class Config(Settings):
    """Which vectors, and how many kinds of them."""

    space: Literal["pixels", "patches"] = "pixels"
    components: int = Field(default=8, ge=1)
    cells: int = Field(default=8, ge=1)  # pixels: a side, after averaging
    patch: int = Field(default=5, ge=1)  # patches: cells a side; odd
    patches: int = Field(default=50_000, ge=2)  # patches: most that the fit sees
    blur: float = Field(default=0.0, ge=0)  # standard deviation in cells; 0 is none
    ridge: float = Field(default=RIDGE, gt=0)

    def build(self, channels: int, grid: tuple[int, int]) -> "GMM":
        """The model for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: `cells` does not divide the grid, or `patch` has no centre.
        """
        if self.space == "pixels":
            if grid[0] % self.cells or grid[1] % self.cells:
                raise BadSettings(
                    f"A grid of {grid[0]} x {grid[1]} cannot be averaged down to {self.cells} "
                    "cells a side. Use cells that divide both sides of the grid."
                )
            return Pixels(self, channels, grid)
        if self.patch % 2 == 0 or self.patch > min(grid):
            raise BadSettings(
                f"patch = {self.patch} on a grid of {grid[0]} x {grid[1]}; needed is an odd number "
                "of cells, no more than a side. Use 3, 5 or 7."
            )
        return Patches(self, channels, grid)


class GMM(Model):
    """What both spaces share: (B, K) vectors, standardised, and their mixture."""

    gives: ClassVar[tuple[str, ...]] = ("surprise",)

    centre: Tensor
    spread: Tensor

    def __init__(self, config: Config, size: int, vectors: Vectors) -> None:
        super().__init__()
        self.config, self.vectors = config, vectors
        self.mixture = Mixture(config.components, size)
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        """Learns the standardisation and the mixture.

        Raises:
            MissingData: fewer vectors than components.
        """
        images = torch.from_numpy(batches.first(run.budget.steps)).to(run.device)
        drawn = self.drawn(images, np.random.default_rng(run.budget.seed)).cpu().numpy()
        vectors = np.asarray(drawn, dtype=np.float64)
        centre, variance = vectors.mean(0), vectors.var(0)
        floor = max(LEAST * float(np.sqrt(variance.mean())), 1 / 255)
        spread = np.maximum(np.sqrt(variance), floor)
        fill(self.centre, centre)
        fill(self.spread, spread)
        self.mixture.fit((vectors - centre) / spread, run.budget.seed, self.config.ridge)
        return self

    def drawn(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """(B, K) vectors of (M, C + 1, h, w) images to fit on."""
        raise NotImplementedError

    def standard(self, vectors: Tensor) -> Tensor:
        """u of (B, K) vectors."""
        return (vectors - self.centre) / self.spread

    def explained(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-log p(u) (B,), responsibilities (B, G), and their mean of the means as vectors."""
        joint = self.mixture.joint(u)
        r = torch.softmax(joint, 1)
        return -torch.logsumexp(joint, 1), r, self.centre + self.spread * (r @ self.mixture.means)


class Pixels(GMM):
    """One vector an image."""

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        vectors = Vectors(channels, grid, config.blur)
        super().__init__(config, channels * config.cells**2, vectors)
        self.shape = (channels, config.cells, config.cells)
        self.block = (grid[0] // config.cells, grid[1] // config.cells)

    @override
    def drawn(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        return torch.cat([self.shrunk(part) for part in torch.split(images, 256)])

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        u, w = self.standard(self.shrunk(images)), images[:, -1:]
        nll, r, means = self.explained(u)
        shares = self.shares(u, r, nll).reshape(-1, *self.shape) / math.prod(self.block)
        expected = uncovered(means.reshape(-1, *self.shape), F.avg_pool2d(w, self.block))
        return Seen(self._grown(expected) * (w > 0), self._grown(shares).sum(1))

    def shrunk(self, images: Tensor) -> Tensor:
        """(N, C + 1, h, w) images to vectors (N, K)."""
        return F.avg_pool2d(self.vectors.shown(images), self.block).flatten(1)

    def shares(self, u: Tensor, r: Tensor, nll: Tensor) -> Tensor:
        """Each number's part of the negative log-likelihood, (N, K)."""
        whiten = self.mixture.whiten
        centred = (u[:, None] - self.mixture.means).transpose(0, 1)  # (G, N, K)
        solved = centred @ whiten @ whiten.transpose(1, 2)
        own = 0.5 * (r.T[:, :, None] * centred * solved).sum(0)
        return own + (nll - own.sum(1))[:, None] / u.shape[1]

    def _grown(self, cells: Tensor) -> Tensor:
        tall = cells.repeat_interleave(self.block[0], 2)
        return tall.repeat_interleave(self.block[1], 3)


class Patches(GMM):
    """One vector a cell."""

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        vectors = Vectors(channels, grid, config.blur)
        super().__init__(config, channels * config.patch**2, vectors)

    @override
    def drawn(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        covered = torch.nonzero(images[:, -1].flatten(1) > 0)  # (image, cell)
        count = min(self.config.patches, len(covered))
        chosen = np.sort(rng.choice(len(covered), count, replace=False))
        image, cell = covered[torch.from_numpy(chosen).to(covered.device)].T
        # one image at a time: all patches of all images would be many
        one = (self.cut(images[i : i + 1])[0, cell[image == i]] for i in range(len(images)))
        return torch.cat(list(one))

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        (channels, *grid), w = self.vectors.shape, images[:, -1:]
        nll, _, means = self.explained(self.standard(self.cut(images).flatten(0, 1)))
        middle = means.reshape(-1, *grid, channels, self.config.patch**2)
        expected = middle[..., self.config.patch**2 // 2].permute(0, 3, 1, 2)
        return Seen(uncovered(expected, w), nll.reshape(-1, *grid) * (w[:, 0] > 0))

    def cut(self, images: Tensor) -> Tensor:
        """(N, C + 1, h, w) images to the patch around each cell, (N, h w, K)."""
        shown, r = self.vectors.shown(images), self.config.patch // 2
        padded = F.pad(shown, (r, r, r, r), mode="replicate") if r else shown
        return F.unfold(padded, self.config.patch).transpose(1, 2)
