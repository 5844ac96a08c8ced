"""Denoiser: odd is a wafer map from which a network would take a pattern away.

Synthetic patterns (training/painting.py) are painted on half of a batch of good maps, at native
dies. A U-Net learns which fails were painted, and a head whether anything was,

    loss = H(t, q) + weight * mean over failing dies of H(t_i, q_i)

H the cross-entropy, t whether the map was painted, t_i whether a pattern killed die i. It expects
the map without what it takes away, x' = f (1 - q_i). With equal shares of painted and clean maps
the head's logit log q / (1 - q) is an estimate of log p(x | painted) / p(x | good): the
likelihood ratio of a good map against one with a pattern of the painter's.

Convolutions run at half the die resolution, 2 x 2 dies as channels; features are multiplied by
the die mask, so that zeros around a wafer change nothing; nothing is normalised over a batch.
Maps of which a pattern killed fewer than `least` dies are left out of the loss.

What it learns depends on its painter: choose settings on patterns of another one
(data/simulate_patterns.py).

Sources: Vincent et al., "Stacked denoising autoencoders", JMLR 11, 2010, section 3. Zavrtanik,
Kristan, Skocaj, "DRAEM", ICCV 2021. Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. Gutmann,
Hyvarinen, "Noise-contrastive estimation", AISTATS 2010 (the logit as a ratio of densities).

Shapes: N maps, H, W dies of the canvas, C channels of a layer.
"""

from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.preprocess import extent
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Drawn, Run, descend
from inspect_ai.training.detector import Model
from inspect_ai.training.painting import paint

STEP = 8  # dies; the canvas is padded to a multiple


class Config(Settings):
    """Size of the network and how it is trained."""

    width: int = Field(default=16, ge=4)  # channels at half the die resolution, twice at the next
    head: int = Field(default=64, ge=1)  # hidden numbers of the head
    weight: float = Field(default=0.5, ge=0)  # of the dies' loss
    painted: float = Field(default=0.5, gt=0, lt=1)  # share of a batch
    least: int = Field(default=4, ge=1)  # dies; a pattern of fewer is not to be found
    views: int = Field(default=1, ge=1, le=4)  # mirrored views of a map whose logits are averaged

    def build(self, channels: int, grid: tuple[int, int]) -> "Denoiser":
        """The model; it fits any canvas."""
        del channels, grid
        return Denoiser(self)


class Denoiser(Model):
    """See the module's docstring for the method."""

    gives: ClassVar[tuple[str, ...]] = ("odds",)
    maps_only: ClassVar[bool] = True
    native: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        a, b, c = (config.width * k for k in (1, 2, 4))
        self.stem = nn.Conv2d(12, a, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(x, y, 3, 2, 1) for x, y in ((a, b), (b, c)))
        self.encoder = nn.ModuleList(Residual(x) for x in (a, b, c))
        self.whole = nn.Linear(2 * c + 2, c)  # the wafer as a whole, told to every cell
        self.middle = Residual(c)
        self.up = nn.ModuleList(nn.Conv2d(x, y, 1) for x, y in ((c, b), (b, a)))
        self.decoder = nn.ModuleList(Residual(x) for x in (b, a))
        self.dies = nn.Conv2d(a, 4, 1)
        self.head = nn.Sequential(
            nn.Linear(2 * (a + b + c) + 4, config.head), nn.SiLU(), nn.Linear(config.head, 1)
        )

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        descend({"denoiser": self}, lambda _, batch: self.loss(batch.images), batches, run)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        said = [self.logits(turned(images, way)) for way in range(self.config.views)]
        odds = torch.stack([odds for odds, _ in said]).mean(0)
        logits = [turned(dies, way) for way, (_, dies) in enumerate(said)]
        fails = images[:, :1] * images[:, 1:]
        return Seen(fails * torch.sigmoid(-torch.stack(logits).mean(0)), odds=odds)

    def loss(self, images: Tensor) -> Tensor:
        """Mean over the maps of a batch (N, 2, H, W), the first of which are painted."""
        dies = images[:, 1:]
        count = max(1, round(self.config.painted * len(images)))
        fails, kills, new = paint(images[:, :1] * dies, dies, count)
        odds, logits = self.logits(torch.cat([fails, dies], 1))
        painted = (torch.arange(len(images), device=images.device) < count).float()
        counts = ((new >= self.config.least) | (painted == 0)).float()
        entropy = F.binary_cross_entropy_with_logits
        whole = entropy(odds, painted, reduction="none")
        part = (entropy(logits, kills, reduction="none") * fails).sum((1, 2, 3))
        part = part / fails.sum((1, 2, 3)).clamp(min=10)  # each map counts alike
        return (counts * (whole + self.config.weight * part)).sum() / counts.sum().clamp(min=1)

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, 2, H, W) to the head's logits (N,) and the dies' (N, 1, H, W)."""
        height, width = images.shape[2:]
        dies = images[:, 1]
        top, left = extent(dies.amax(2))[0].long(), extent(dies.amax(1))[0].long()
        images = F.pad(moved(images, top, left), (0, -width % STEP, 0, -height % STEP))
        fail, die = images[:, :1] * images[:, 1:], images[:, 1:]
        dies, fails = die.sum((1, 2, 3)), fail.sum((1, 2, 3))
        rate = (fails / dies.clamp(min=1))[:, None, None, None]
        counts = torch.stack([dies.clamp(min=1).log() / 3 - 2, fails.log1p() / 3 - 1], 1)
        m1 = F.max_pool2d(die, 2)
        m2 = F.max_pool2d(m1, 2)
        m3 = F.max_pool2d(m2, 2)
        x1 = self.stem(F.pixel_unshuffle(torch.cat([fail, die, rate * die], 1), 2)) * m1
        x1 = self.encoder[0](x1, m1)
        x2 = self.encoder[1](self.down[0](F.silu(x1)) * m2, m2)
        x3 = self.encoder[2](self.down[1](F.silu(x2)) * m3, m3)
        whole = self.whole(torch.cat([pooled(x3, m3), counts], 1))
        x3 = self.middle(x3 + whole[:, :, None, None] * m3, m3)
        x2 = self.decoder[0](x2 + doubled(self.up[0](F.silu(x3))) * m2, m2)
        x1 = self.decoder[1](x1 + doubled(self.up[1](F.silu(x2))) * m1, m1)
        logits = F.pixel_shuffle(self.dies(F.silu(x1)), 2)
        removed = (logits.sigmoid() * fail).sum((1, 2, 3)).clamp(min=0.05).log() / 2
        # of failing dies; where none fails, of dies: what is no die has no say
        most = torch.logsumexp((logits - 30 * (2 - fail - die)).flatten(1), 1) / 4
        seen = [pooled(x1, m1), pooled(x2, m2), pooled(x3, m3), counts]
        odds = self.head(torch.cat([*seen, torch.stack([removed, most], 1)], 1))
        return odds[:, 0], moved(logits[:, :, :height, :width], -top, -left)


def turned(images: Tensor, way: int) -> Tensor:
    """(N, C, H, W) as they are, turned by half a turn, or mirrored; twice is nothing."""
    axes = ((), (2, 3), (2,), (3,))[way]
    return images.flip(axes) if axes else images


def moved(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each map of (N, C, H, W) moved up and left by its own (N,) cells, zeros behind it.

    Strides see a wafer on one grid, wherever it lies on its canvas.
    """
    for axis, by in ((2, down), (3, right)):
        shape = [-1 if i == axis else 1 for i in range(4)]
        index = (
            torch.arange(x.shape[axis], device=x.device).reshape(shape) + by[:, None, None, None]
        )
        inside = ((index >= 0) & (index < x.shape[axis])).to(x.dtype)
        index = index.clamp(min=0, max=x.shape[axis] - 1)
        x = x.gather(axis, index.expand_as(x)) * inside
    return x


class Residual(nn.Module):
    """x + conv(silu(x)) inside the mask; begins as x alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.mix.weight)

    @override
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mixed: Tensor = self.mix(F.silu(x)) * mask
        return x + mixed


def pooled(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and largest value of silu(x) over the cells of the mask: (N, 2 C)."""
    x = F.silu(x) * mask
    largest = (x + mask - 1).amax((2, 3))  # silu is above -1
    return torch.cat([x.sum((2, 3)) / mask.sum((2, 3)).clamp(min=1), largest], 1)


def doubled(x: Tensor) -> Tensor:
    """Each cell as 2 x 2 cells."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
