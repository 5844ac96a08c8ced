"""Networks of a variational autoencoder with one level of latent numbers or several.

Bottom up, images become features d_i of half the side each; top down, features u_i come back from
the code z_1: of the whole image or, spatial, of each coarsest cell. A level l > 1 is a map of
latent numbers beside u_i:

    ladder    p(z_l | z_<l) = N(m_p, s_p^2) from u_i,   estimate N(m, s^2) from d_i,
              q(z_l | z_<l, x) = N(m, s^2) N(m_p, s_p^2) / Z,   precision-weighted
    narrow    p(z_l) = N(0, 1),   q(z_l | x) = N(tanh a(d_i), 1): a skip connection that cannot copy

A narrow path is a channel whose noise is never weaker than its signal: it carries 1/2 ln 2 nats a
number at most, and what it carries is paid for in the KL like any other code, so that a bound
with skip connections is one still. u_i then takes the level in, u_i + V z_l.

A condition (product, layer) is added, as one learned vector each, to the first features and to
the decoder's entrance, which is what a one-hot number beside the code would do.

Sources: Sonderby et al., "Ladder variational autoencoders", NIPS 2016, section 2.2. Sohn, Lee,
Yan, "Learning structured output representation using deep conditional generative models",
NIPS 2015 (condition).

Shapes: N images, C channels, h, w cells of the image, a, b cells of a level, Z latent numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.training.blocks import Up, down
from inspect_ai.training.gaussian import Normal, halves, kl, log_density, product, standard
from inspect_ai.training.pullback import trace


class Level(NamedTuple):
    """One level of a pass: what is thought of it with the image and without, and its value."""

    q: Normal  # (N, Z), or (N, Z, a, b) below the first level and where the code is spatial
    p: Normal
    z: Tensor


class Slopes(NamedTuple):
    """Slopes of some number L with the code's mean and log-variance, and with the logits."""

    mean: Tensor  # as the code: (N, Z), or (N, Z, a, b)
    log_var: Tensor
    logits: Tensor  # (N, C, h, w)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the networks.

    Args:
        channels: C of the image. grid: its h and w, multiples of 2 to the number of widths.
        widths: channels of the features at h / 2, h / 4, ...; none: all is linear.
        latent: numbers of the code.
        rungs: levels below the code, fewer than widths. maps: their numbers a cell.
        narrow: whether these are narrow paths instead of a ladder's.
        classes: conditions that are told apart; 0 for none.
        spatial: whether each cell of the coarsest features has a code of its own.
    """

    channels: int
    grid: tuple[int, int]
    widths: tuple[int, ...]
    latent: int
    rungs: int = 0
    maps: int = 1
    narrow: bool = False
    classes: int = 0
    spatial: bool = False

    def side(self, halvings: int) -> tuple[int, int]:
        """Cells of the grid after so many halvings."""
        return self.grid[0] >> halvings, self.grid[1] >> halvings


class Ladder(nn.Module):
    """See the module's docstring."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        channels, widths, depth = sizes.channels, sizes.widths, len(sizes.widths)
        enter = (channels + 1, *widths)
        coarse = (enter[-1], *sizes.side(depth))
        back = (widths[-1] if widths else channels, *sizes.side(depth))
        self.encoder = nn.ModuleList(down(a, b) for a, b in pairwise(enter))
        self.code, self.enter, unfold = _ends(sizes, coarse, back)
        self.unfold = nn.Sequential(*[nn.SiLU()] * bool(widths), *unfold)
        self.ups = nn.ModuleList(Up(a, b) for a, b in pairwise(widths[::-1]))
        self.last = nn.Sequential()
        if widths:  # the last doubling; half the network's cost otherwise
            out = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)
            self.last = nn.Sequential(out, nn.PixelShuffle(2))
        below = range(depth - 1, depth - 1 - sizes.rungs, -1)  # halvings of each level
        kind = Narrow if sizes.narrow else Rung
        self.rungs = nn.ModuleList(kind(widths[i - 1], sizes.maps) for i in below)
        first = (sizes.latent, *coarse[1:]) if sizes.spatial else (sizes.latent,)
        self.shapes = [first, *((sizes.maps, *sizes.side(i)) for i in below)]
        self.classes = sizes.classes
        if sizes.classes:
            self.first_told = nn.Embedding(sizes.classes, enter[min(1, depth)])
            each = back[0] if sizes.spatial else math.prod(back)
            self.enter_told = nn.Embedding(sizes.classes, each)
            for told in (self.first_told, self.enter_told):
                nn.init.normal_(told.weight, std=0.1)  # 1 would drown the features

    def bottom_up(self, images: Tensor, condition: Tensor | None) -> list[Normal]:
        """(N, C + 1, h, w) images to an estimate of each level, the code's first."""
        x = images
        for layer in self.encoder[:1]:
            x = layer(x)
        features = [x + self._first(condition) if self.classes else x]
        for layer in self.encoder[1:]:
            features.append(layer(features[-1]))
        beside = features[-2::-1][: len(self.rungs)]
        rungs = zip(self._rungs, beside, strict=True)
        return [halves(self.code(features[-1])), *(rung.estimate(d) for rung, d in rungs)]

    def top_down(
        self,
        estimates: Sequence[Normal] | None,
        noise: Sequence[Tensor | None] | None,
        condition: Tensor | None,
    ) -> tuple[Tensor, list[Level]]:
        """Logits (N, C, h, w) and what each level became.

        Args:
            estimates: of `bottom_up`; None draws from the prior, where noise gives N.
            noise: standard, of each level's shape, the code's first; None stands for the mean.
        """
        noise = noise or [None] * len(self.shapes)
        p = standard(estimates[0].mean if estimates else _given(noise[0]))
        q = estimates[0] if estimates else p
        levels = [Level(q, p, q.at(noise[0]))]
        entrance = self.enter(levels[0].z)
        u = self.unfold(entrance + self._enter(condition) if self.classes else entrance)
        for place, up in enumerate(self.ups):
            u = up(u)
            if place < len(self.rungs):
                estimate = estimates[place + 1] if estimates else None
                u, level = self._rungs[place](u, estimate, noise[place + 1])
                levels.append(level)
        return self.last(u), levels

    def traced(
        self, images: Tensor, condition: Tensor | None
    ) -> tuple[Normal, Tensor, Callable[[Slopes], Tensor]]:
        """Code and logits at the code's mean, and the map from slopes there to the images'.

        For a network without levels below the code.
        """
        assert not self.rungs
        first, to_images = trace(self.encoder[:1], images)
        first = first + self._first(condition) if self.classes else first
        pair, to_first = trace([*self.encoder[1:], self.code], first)
        code = halves(pair)
        entrance, to_code = trace([self.enter], code.mean)
        entrance = entrance + self._enter(condition) if self.classes else entrance
        logits, to_entrance = trace([self.unfold, *self.ups, self.last], entrance)

        def pull(slopes: Slopes) -> Tensor:
            mean = slopes.mean + to_code(to_entrance(slopes.logits))
            inside = (pair[:, code.mean.shape[1] :] == code.log_var).to(mean.dtype)
            return to_images(to_first(torch.cat([mean, slopes.log_var * inside], 1)))

        return code, logits, pull

    @property
    def _rungs(self) -> "list[Rung | Narrow]":
        return list(self.rungs)  # type: ignore[arg-type]

    def _first(self, condition: Tensor | None) -> Tensor:
        told: Tensor = self.first_told(_given(condition))[:, :, None, None]
        return told

    def _enter(self, condition: Tensor | None) -> Tensor:
        told: Tensor = self.enter_told(_given(condition))
        return told if len(self.shapes[0]) == 1 else told[:, :, None, None]


def _ends(
    sizes: Sizes, coarse: tuple[int, int, int], back: tuple[int, int, int]
) -> tuple[nn.Sequential, nn.Module, list[nn.Module]]:
    """From the coarsest features to the code, from there to the decoder, and to its shape."""
    if sizes.spatial:
        look = nn.Conv2d(coarse[0], 2 * sizes.latent, 1)
        return nn.Sequential(look), nn.Conv2d(sizes.latent, back[0], 1), []
    flat = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(coarse), 2 * sizes.latent))
    return flat, nn.Linear(sizes.latent, math.prod(back)), [nn.Unflatten(1, back)]


class Rung(nn.Module):
    """A level of a ladder, beside features of one width."""

    def __init__(self, width: int, maps: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, 2 * maps, 1)
        self.expect = nn.Conv2d(width, 2 * maps, 1)
        self.take = nn.Conv2d(maps, width, 1, bias=False)

    def estimate(self, d: Tensor) -> Normal:
        """What the image alone says of the level."""
        return halves(self.look(d))

    @override
    def forward(
        self, u: Tensor, estimate: Normal | None, noise: Tensor | None
    ) -> tuple[Tensor, Level]:
        p = halves(self.expect(u))
        q = product(estimate, p) if estimate else p
        z = q.at(noise)
        return u + self.take(z), Level(q, p, z)


class Narrow(nn.Module):
    """A narrow path beside features of one width."""

    def __init__(self, width: int, maps: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, maps, 1)
        self.take = nn.Conv2d(maps, width, 1, bias=False)

    def estimate(self, d: Tensor) -> Normal:
        """What the path carries of the image: at most as strong as its noise."""
        mean = torch.tanh(self.look(d))
        return Normal(mean, torch.zeros_like(mean))

    @override
    def forward(
        self, u: Tensor, estimate: Normal | None, noise: Tensor | None
    ) -> tuple[Tensor, Level]:
        p = standard(estimate.mean if estimate else self.look(u))
        q = estimate or p
        z = q.at(noise)
        return u + self.take(z), Level(q, p, z)


def shown(images: Tensor) -> Tensor:
    """Channels times coverage, and coverage: what is not covered is not seen."""
    return torch.cat([images[:, :-1] * images[:, -1:], images[:, -1:]], 1)


def cost(levels: Sequence[Level]) -> Tensor:
    """KL of all levels at their values, (M,) nats."""
    return _summed([kl(level.q, level.p) for level in levels])


def excess(levels: Sequence[Level]) -> Tensor:
    """log q(z | x) - log p(z) of all levels at their values, (M,) nats."""
    return _summed([log_density(z, q) - log_density(z, p) for q, p, z in levels])


def _summed(parts: Sequence[Tensor]) -> Tensor:
    """Sums tensors (M, ...) of several shapes to (M,)."""
    return torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)


def shift(level: Level) -> Tensor:
    """How far the image moves a level's mean from the prior's, in its standard deviations."""
    return (level.q.mean - level.p.mean) * (-0.5 * level.p.log_var).exp()


def _given(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
