"""Generators: codes to images, level by level from coarse to fine.

A body makes maps m_0 .. m_D of a code, each with twice the cells of the one before. Two bodies,

    plain    m_l = norm(leaky(conv(doubled(m_l-1)))), norm over the channels of each cell
    style    the same with modulated convolutions and noise (style.py), from a learned constant

and two ways to an image x, a = conv(m) being the logits of a level and f its fade (growth.py):

    last     x = (1 - f) doubled(sigmoid(a_l-1)) + f sigmoid(a_l)
    sum      x = sigmoid(b_l),    b_l = doubled(b_l-1) + f a_l,    b_0 = a_0

make four kinds: "dcgan" (plain, last), "progressive" (plain, last, grown), "laplacian" (plain,
sum, grown: each level adds detail to a pyramid) and "style" (style, sum). Nothing is normalised
over a batch. Told a class, they read an embedding of it beside the code.

Sources: Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional
generative adversarial networks", ICLR 2016. Karras et al., "Progressive growing of GANs", ICLR
2018, sections 2 and 4.2 (fade, norm). Denton et al., "Deep generative image models using a
Laplacian pyramid of adversarial networks", NIPS 2015, section 2.2. Karras et al., "Analyzing and
improving the image quality of StyleGAN", CVPR 2020, section 4.1 (sum).

Shapes: N images, C channels, h, w cells, Z latent numbers, D doublings, l a level.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.adversarial.growth import Stage, doubled, doubled_conv
from inspect_ai.adversarial.leaky import begin, leaky, normed
from inspect_ai.adversarial.style import Mapping, Modulated, Noise, Styled
from inspect_ai.settings import Settings
from inspect_ai.training.blocks import require_halvings

Kind = Literal["dcgan", "progressive", "laplacian", "style"]
GROWN: tuple[Kind, ...] = ("progressive", "laplacian")  # kinds that can be given a stage
WIDEST = 8  # times the width; a coarser level has no more channels


class Sizes(Settings):
    """Size of a generator, a critic or an encoder."""

    latent: int = Field(default=64, ge=1)  # Z, numbers of the code
    width: int = Field(default=16, ge=4)  # channels at the finest level; doubled at each coarser
    depth: int = Field(default=3, ge=1, le=6)  # D, doublings

    @property
    def widths(self) -> list[int]:
        """Channels of the levels 0 .. D."""
        return [self.width * min(2 ** (self.depth - n), WIDEST) for n in range(self.depth + 1)]

    def coarsest(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Cells of level 0.

        Raises:
            BadSettings: the grid cannot be halved `depth` times.
        """
        require_halvings(grid, self.depth)
        return grid[0] >> self.depth, grid[1] >> self.depth


def generator(
    kind: Kind, sizes: Sizes, channels: int, grid: tuple[int, int], classes: int = 0
) -> "Generator":
    """A generator of C channels on a grid of (h, w) cells, told one of so many classes.

    Raises:
        BadSettings: the grid cannot be halved `depth` times.
    """
    return Generator(kind, sizes, channels, grid, classes)


class Generator(nn.Module):
    """See the module's docstring."""

    def __init__(
        self, kind: Kind, sizes: Sizes, channels: int, grid: tuple[int, int], classes: int
    ) -> None:
        super().__init__()
        self.depth, self.grown = sizes.depth, kind in GROWN
        self.summed = kind in ("laplacian", "style")
        self.body = (StyleBody if kind == "style" else PlainBody)(sizes, grid, classes > 0)
        self.condition = nn.Embedding(classes, sizes.latent) if classes else None
        widths = sizes.widths[-1:] if kind == "dcgan" else sizes.widths
        self.heads = nn.ModuleList(nn.Conv2d(a, channels, 1) for a in widths)
        begin(self.heads, 0.5 / math.sqrt(len(widths) if self.summed else 1))

    @override
    def forward(
        self, z: Tensor, condition: Tensor | None = None, stage: Stage | None = None
    ) -> Tensor:
        """Codes (N, Z) to images (N, C, h, w) in [0, 1], of the stage's level.

        Args:
            condition: (N,) int64, where there are classes.
            stage: None is full resolution; otherwise of kinds that grow.
        """
        assert stage is None or self.grown
        level, fade = stage or Stage(self.depth, 1.0)
        if self.condition is not None:
            z = torch.cat([z, self.condition(condition)], 1)
        maps = self.body(z, level)
        return self._sum(maps, fade) if self.summed else self._last(maps, fade)

    def _last(self, maps: Sequence[Tensor], fade: float) -> Tensor:
        fine = torch.sigmoid(self._logits(maps, len(maps) - 1))
        if fade >= 1:
            return fine
        coarse = torch.sigmoid(self._logits(maps, len(maps) - 2))
        return (1 - fade) * doubled(coarse) + fade * fine

    def _sum(self, maps: Sequence[Tensor], fade: float) -> Tensor:
        logits = self._logits(maps, 0)
        for level in range(1, len(maps)):
            share = fade if level == len(maps) - 1 else 1.0
            logits = doubled(logits) + share * self._logits(maps, level)
        return torch.sigmoid(logits)

    def _logits(self, maps: Sequence[Tensor], level: int) -> Tensor:
        logits: Tensor = self.heads[level - self.depth - 1](maps[level])  # of one head, the last
        return logits


class PlainBody(nn.Module):
    """Codes to maps by convolutions; `told`: the code has a class's embedding beside it."""

    def __init__(self, sizes: Sizes, grid: tuple[int, int], told: bool) -> None:
        super().__init__()
        widths, small = sizes.widths, sizes.coarsest(grid)
        self.small = (widths[0], *small)
        self.first = nn.Linear(sizes.latent * (1 + told), math.prod(self.small))
        self.doublings = nn.ModuleList(Doubling(a, b, 3) for a, b in pairwise(widths))
        begin(self)

    @override
    def forward(self, codes: Tensor, level: int) -> list[Tensor]:
        """Codes (N, Z or 2 Z) to maps of the levels 0 .. `level`."""
        maps = [_norm(self.first(codes).unflatten(1, self.small))]
        for doubling in self.doublings[:level]:
            maps.append(_norm(doubling(maps[-1])))
        return maps


class StyleBody(nn.Module):
    """Codes to maps by styles; `told`: the code has a class's embedding beside it."""

    def __init__(self, sizes: Sizes, grid: tuple[int, int], told: bool) -> None:
        super().__init__()
        widths, (h, w) = sizes.widths, sizes.coarsest(grid)
        self.constant = nn.Parameter(torch.randn(1, widths[0], h, w))
        self.mapping = Mapping(sizes.latent * (1 + told), sizes.latent)
        self.layers = nn.ModuleList(
            Styled(Modulated(a, b, sizes.latent, doubles=n > 0), Noise((h << n, w << n), seed=n))
            for n, (a, b) in enumerate(zip([widths[0], *widths], widths, strict=False))
        )

    @override
    def forward(self, codes: Tensor, level: int) -> list[Tensor]:
        """Codes (N, Z or 2 Z) to maps of the levels 0 .. `level`."""
        styles = self.mapping(codes)
        maps = [self.layers[0](self.constant, styles)]
        for layer in self.layers[1 : level + 1]:
            maps.append(layer(maps[-1], styles))
        return maps


class Doubling(nn.Conv2d):
    """A convolution with 3 x 3 kernels of the doubled maps."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return doubled_conv(input, self.weight, self.bias)


def _norm(x: Tensor) -> Tensor:
    return normed(leaky(x))
