"""Coupling flow on patches: the exact density of every patch of an image, given its place.

The image, smoothed if `blur` asks for it, is cut into patches of p x p cells without overlap,
each a vector x of its d = C p p numbers, standardised by mean m and deviation v of its own place.
Invertible steps (training/couplings.py) turn x into z ~ N(0, I), and

    -log p(x) = sum over i of z_i^2 / 2 + ln(2 pi) / 2 - ln |dz_i / dx_i| + ln v_i

Each number keeps its place in the flow, so the sum over i is each cell's own share of it, exactly.
The networks see the patch's coverage and position; with reach = 3 the patches around it too: then
it is one flow of the whole image, as exact. Variants:

    affine     log-scales depend on the image (Real NVP)
    uniform    they do not: one constant Jacobian, the surprise is a squared length plus a
               constant (NICE)

Numbers of cells that are not covered (less than LEAST of a cell) are left out: the density is one
of the covered numbers, and the others are 0, not moved and have no share. How a patch is covered
is given, not modelled.

A density of images with 256 levels, or of maps with a few, is bounded by added noise: training
adds Gaussian noise of deviation `noise`; scoring adds none. Bits per dimension are those of 8-bit
levels, log2 256 more than the density's own.

The expectation is each patch drawn back to the shell on which good ones lie, the image of
z min(1, sqrt(d) / |z|): a Gaussian's |z|^2 is d on average, so that a good patch stays about as
it is, and what is odd shrinks to the length of a usual one. It is cut to [0, 1], since nothing
bounds the inverse. With `blur` it is the smoothed image that is expected.

Sources: Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017. Dinh,
Krueger, Bengio, "NICE", ICLR workshop 2015. Yu et al., "FastFlow", 2021, arXiv 2111.07677,
section 3 (3 x 3 and 1 x 1 networks on a grid). Gudovskiy, Ishizaka, Kozuka, "CFLOW-AD", WACV 2022
(the position told; bounded log-scales).

Shapes: N images, C channels, h, w cells, p cells a side of a patch, d = C p p.
"""

import math
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.errors import BadSettings
from inspect_ai.scoring.filters import gaussian, local_mean
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.couplings import Flow, halves
from inspect_ai.training.descent import Drawn, Run, descend
from inspect_ai.training.detector import Model

LEAST = 0.0501  # of a cell; one covered less is not modelled. No ratio of few dies, to avoid ties
WAVES = (1, 2, 4)  # half periods over the grid that tell a patch its position
SEEN_FIRST = 16  # batches that the standardisation is taken from
ROUNDING = 1 / 255 / 12**0.5  # deviation of rounding to 8 bits
LOG_2_PI = math.log(2 * math.pi)


class Config(Settings):
    """Size and variant of a flow."""

    patch: int = Field(default=8, ge=1)  # cells a side
    steps: int = Field(default=8, ge=0)  # couplings
    width: int = Field(default=64, ge=1)  # channels of their networks
    reach: Literal[1, 3] = 1  # patches a side that a network sees
    variant: Literal["affine", "uniform"] = "uniform"
    clamp: float = Field(default=1.9, gt=0)  # affine: bound of a log-scale
    noise: float = Field(default=0.05, ge=0)  # deviation, on [0, 1]; in training alone
    blur: float = Field(default=0.0, ge=0)  # standard deviation in cells; 0 is none
    mixing_seed: int = Field(default=0, ge=0, lt=2**31)  # of the halves that steps keep

    def build(self, channels: int, grid: tuple[int, int]) -> "PatchFlow":
        """The model for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: the grid cannot be cut into such patches, or they are single numbers.
        """
        if grid[0] % self.patch or grid[1] % self.patch:
            fits = [p for p in range(2, min(grid) + 1) if not (grid[0] % p or grid[1] % p)]
            raise BadSettings(
                f"A grid of {grid[0]} x {grid[1]} cannot be cut into patches of "
                f"{self.patch} x {self.patch}. Use multiples of {self.patch}"
                + (f", or a patch of {', '.join(map(str, fits))}." if fits else ".")
            )
        if self.steps and channels * self.patch**2 < 2:
            raise BadSettings(
                "patch = 1 with one channel is one number, of which no half can move the other. "
                "Use a patch of 2 or more, or steps = 0."
            )
        return PatchFlow(self, channels, grid)


class Patches(NamedTuple):
    """What the flow is given; d numbers of each patch at its place, (N, ., h / p, w / p)."""

    x: Tensor  # (N, d, ...) standardised, 0 where it does not count
    counts: Tensor  # (N, d, ...) 1 where a number counts
    told: Tensor  # (N, K, ...) coverage and position


class PatchFlow(Model):
    """See the module's docstring for the method."""

    gives: ClassVar[tuple[str, ...]] = ("surprise",)

    window: Tensor
    position: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.channels, self.grid = config, channels, grid
        p, d = config.patch, channels * config.patch**2
        places = (grid[0] // p, grid[1] // p)
        self.register_buffer("window", gaussian(config.blur or 1.0))
        self.register_buffer("position", positions(places))
        self.register_buffer("mean", torch.zeros(d, *places))  # m
        self.register_buffer("deviation", torch.ones(d, *places))  # v
        clamp = config.clamp if config.variant == "affine" else 0.0
        kept = halves(d, config.steps, config.mixing_seed)
        told = p * p + self.position.shape[0]
        self.flow = Flow(kept, told, config.width, config.reach, clamp)

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        self.begin(torch.from_numpy(batches.first(min(SEEN_FIRST, run.budget.steps))))
        descend({"flow": self}, lambda _, batch: self.loss(batch.images), batches, run)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        seen = self.patches(self.shown(images), images[:, -1:])
        z, share = self.flow(seen.x, seen.counts, seen.told)
        return Seen(self.image(drawn_back(z, seen.counts), seen), self.cells(z, share, seen))

    @override
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        seen = self.patches(self.shown(images), images[:, -1:])
        z, share = self.flow(seen.x, seen.counts, seen.told)
        count = seen.counts.sum().clamp(min=1)
        bits = self.cells(z, share, seen).sum() / count / math.log(2) + 8
        length = (z.square().sum() / count).sqrt()  # 1 if the flow is right
        return {"bits_per_dim": bits.item(), "latent_norm": length.item()}

    @override
    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        shown = images[:8]
        covered = (shown[:, -1:] > 0).to(shown.dtype)
        real = self.shown(shown).clamp(0, 1) * covered
        made = self.sample(shown, 0)
        return {
            "samples": torch.stack([real, made]),  # in rows
            "expected": torch.stack([real, self(shown).expected]),
        }

    def loss(self, images: Tensor) -> Tensor:
        """Mean nats of a covered number of (N, C + 1, h, w) images with noise added."""
        x = self.shown(images)
        noisy = x + self.config.noise * torch.randn_like(x)
        seen = self.patches(noisy, images[:, -1:])
        z, share = self.flow(seen.x, seen.counts, seen.told)
        return self.cells(z, share, seen).sum() / seen.counts.sum().clamp(min=1)

    def shown(self, images: Tensor) -> Tensor:
        """The (N, C, h, w) picture whose density it is: smoothed if asked for."""
        x, w = images[:, :-1], images[:, -1:]
        return local_mean(x, w, self.window) if self.config.blur > 0 else x

    def patches(self, x: Tensor, coverage: Tensor) -> Patches:
        """(N, C, h, w) and (N, 1, h, w) as the flow is given them."""
        p = self.config.patch
        counts = self._counts(coverage)
        standard = (F.pixel_unshuffle(x, p) - self.mean) / self.deviation
        told = [F.pixel_unshuffle(coverage, p), self.position.expand(x.shape[0], -1, -1, -1)]
        return Patches(torch.where(counts > 0, standard, 0.0), counts, torch.cat(told, 1))

    def image(self, z: Tensor, seen: Patches) -> Tensor:
        """The (N, C, h, w) image in [0, 1] of latent patches; 0 where nothing is covered."""
        x = self.flow.inverse(z, seen.counts, seen.told)
        grey = (x * self.deviation + self.mean).clamp(0, 1)  # the mean in slivers of cells
        coverage = F.pixel_shuffle(seen.told[:, : self.config.patch**2], self.config.patch)
        return F.pixel_shuffle(grey, self.config.patch) * (coverage > 0)

    def cells(self, z: Tensor, share: Tensor, seen: Patches) -> Tensor:
        """Each cell's own nats, (N, h, w), of z and its log-determinant."""
        own = seen.counts * (0.5 * z.square() + 0.5 * LOG_2_PI + self.deviation.log()) - share
        return F.pixel_shuffle(own, self.config.patch).sum(1)

    @torch.no_grad()
    def begin(self, images: Tensor) -> None:
        """Takes mean and deviation of each number, noise included, from (M, C + 1, h, w) images."""
        images = images.to(self.mean.device)
        counts = self._counts(images[:, -1:])
        x = torch.where(counts > 0, F.pixel_unshuffle(self.shown(images), self.config.patch), 0.0)
        n = counts.sum(0)
        mean = x.sum(0) / n.clamp(min=1)
        spread = (counts * (x - mean).square()).sum(0)
        typical = spread.sum() / n.sum().clamp(min=1)  # for places that few images cover
        variance = (spread + typical) / (n + 1) + self.config.noise**2
        self.mean.copy_(mean)
        self.deviation.copy_(variance.sqrt().clamp(min=ROUNDING))

    @override
    @torch.no_grad()
    def sample(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        seen = self.patches(like[:, :-1], like[:, -1:])
        draw = torch.Generator().manual_seed(seed)
        z = torch.randn(seen.x.shape, generator=draw).to(seen.x)
        return self.image(z * seen.counts, seen)

    def _counts(self, coverage: Tensor) -> Tensor:
        """(N, d, ...) 1 where a number counts."""
        covered = F.pixel_unshuffle((coverage > LEAST).to(coverage.dtype), self.config.patch)
        return covered.repeat(1, self.channels, 1, 1)


def drawn_back(z: Tensor, counts: Tensor) -> Tensor:
    """Each patch's z no longer than the root of how many of its numbers count."""
    length = z.square().sum(1, keepdim=True).clamp(min=1e-12)
    return z * (counts.sum(1, keepdim=True) / length).sqrt().clamp(max=1)


def positions(places: tuple[int, int]) -> Tensor:
    """Waves along rows and columns that tell each place where it is, (K, h, w)."""
    found = []
    for axis, size in enumerate(places):
        at = (torch.arange(size) + 0.5) / size
        along = at[:, None].expand(places) if axis == 0 else at[None, :].expand(places)
        for k in WAVES:
            found += [torch.sin(math.pi * k * along), torch.cos(math.pi * k * along)]
    return torch.stack(found)
