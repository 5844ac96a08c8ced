"""Variational autoencoder: odd is what the prior over good images can neither code nor redraw.

    -ELBO = E_q(z|x) [-log p(x | z)] + KL(q(z | x) || p(z))          an upper bound on -log p(x)
    -IWAE = -log 1/K sum_k p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)    a tighter one
    loss  = E_q [-log p(x | z)] + beta(t) sum_j max(KL_j, free_bits)   over good images, a number

p(x | z) is N(x', s^2) (output "gaussian") or, for wafer maps, the binomial of the fail rate x'
with coverage as trials ("bernoulli"; up to its coefficients, which no weight changes). s is held
fixed, learned, learned for each cell, or "optimal": the root of the batch's mean squared error,
which is where its own loss is least; so beta has nothing left to balance. beta(t) rises from 0
over the first `warm_up` of the budget; KL_j is the batch's mean of latent number j.

    levels >= 2   a ladder: maps of latent numbers below the code (training/ladder.py)
    skip >= 1     narrow paths from encoder to decoder, whose noise is as strong as their signal
    spatial       `latent` numbers for each cell of the coarsest features, not for the whole image

The bound is scored with beta = 1, by `samples` draws whose noise is the same for all images and in
pairs of opposite sign. A cell's share of it is its own -log p(x_i | z), weighted as the draws are;
the code's cost is dealt out over the covered cells. x' = decoder at the mean of q(z | x). With
depth = 0 everything is linear, and the model PPCA's.

Sources: Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, section 3. Burda, Grosse,
Salakhutdinov, "Importance weighted autoencoders", ICLR 2016 (bound, active units). Higgins et al.,
"beta-VAE", ICLR 2017. Rybkin, Daniilidis, Levine, "Simple and effective VAE training with
calibrated decoders", ICML 2021 (s). Kingma et al., "Improved variational inference with inverse
autoregressive flow", NIPS 2016 (free bits). Sonderby et al., NIPS 2016 (levels, warm-up). Slope:
Zimmerer et al., "Unsupervised anomaly localization using variational auto-encoders", MICCAI 2019.

Shapes: N images, C channels, h, w cells, Z latent numbers, K draws, M = N K.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.errors import BadSettings
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training import draws, ladder
from inspect_ai.training.blocks import require_halvings
from inspect_ai.training.codes import regret, walks
from inspect_ai.training.descent import Batch, Drawn, Run, descend
from inspect_ai.training.detector import Stage
from inspect_ai.training.gaussian import Normal, Spread, kl
from inspect_ai.training.vectors import ROUNDING

ACTIVE = 0.01  # least variance, over images, of an active unit's posterior mean


class Config(Settings):
    """Size, output, latent numbers and bound."""

    conditional: ClassVar[bool] = True

    width: int = Field(default=16, ge=4)  # channels of the first layer; doubled at each halving
    depth: int = Field(default=3, ge=0, le=6)  # halvings; 0: a linear model
    latent: int = Field(default=8, ge=1)  # numbers of the code
    spatial: bool = False  # a code for each cell of the coarsest features
    output: Literal["gaussian", "bernoulli"] = "gaussian"
    noise: Literal["optimal", "learned", "cells", "fixed"] = "optimal"  # gaussian: how s is found
    sigma: float = Field(default=0.1, gt=0)  # gaussian: s if fixed, and at the start; on [0, 1]
    beta: float = Field(default=1.0, ge=0)  # weight of the KL in the loss
    warm_up: float = Field(default=0.2, ge=0, le=1)  # share of the budget in which beta rises
    free_bits: float = Field(default=0.0, ge=0)  # nats a latent number may cost for nothing
    levels: int = Field(default=1, ge=1)  # 1 is plain; each more is half as coarse
    maps: int = Field(default=2, ge=1)  # levels: latent numbers of a cell below the code
    skip: int = Field(default=0, ge=0, le=8)  # numbers of a cell of each narrow path; 0 is none
    bound: Literal["elbo", "iwae"] = "elbo"  # which the surprise sums to
    samples: int = Field(default=4, ge=1)  # K

    def build(self, channels: int, grid: tuple[int, int], classes: int = 0) -> "VAE":
        """The model for C channels on a grid of (h, w) cells, and so many conditions.

        Raises:
            BadSettings: the grid cannot be halved `depth` times, or has no room for the levels.
        """
        require_halvings(grid, self.depth)
        room = max(1, self.depth)
        if self.levels > room:
            raise BadSettings(
                f"levels = {self.levels}, and a network of depth {self.depth} has room for "
                f"{room}. Use levels = {room} or less, or a larger depth."
            )
        if self.skip and (self.levels > 1 or self.depth < 2):
            raise BadSettings(
                f"skip = {self.skip} with levels = {self.levels} and depth = {self.depth}; needed "
                "are levels = 1 and a depth of 2 or more. Set those, or skip = 0."
            )
        sizes = ladder.Sizes(
            channels,
            grid,
            widths=tuple(self.width * 2**i for i in range(self.depth)),
            latent=self.latent,
            rungs=self.depth - 1 if self.skip else self.levels - 1,
            maps=self.skip or self.maps,
            narrow=self.skip > 0,
            classes=classes,
            spatial=self.spatial,
        )
        return (VAE if sizes.rungs else Plain)(self, sizes)


class VAE(Stage):
    """See the module's docstring."""

    gives: ClassVar[tuple[str, ...]] = ("surprise", "kl")

    def __init__(self, config: Config, sizes: ladder.Sizes) -> None:
        super().__init__()
        self.config, self.channels = config, sizes.channels
        self.classes, self.grid = sizes.classes, sizes.grid
        self.linear = config.depth == 0 and config.output == "gaussian"
        self.net = ladder.Ladder(sizes)
        self.latent = None if sizes.rungs else (*self.net.shapes[0], 1, 1)[:3]
        kind = config.noise if config.output == "gaussian" else "fixed"
        self.spread = Spread(kind, config.sigma, (sizes.channels, *sizes.grid))
        self.draws = draws.Draws(self.net.shapes, config.samples)

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        descend({"vae": self}, lambda _, batch: self.loss(batch), batches, run)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        estimates = self.net.bottom_up(ladder.shown(images), condition)
        logits, levels = self.net.top_down(estimates, None, condition)
        seen = Seen(self.mean(logits).clamp(0, 1), kl=ladder.cost(levels))
        if "surprise" not in self.wanted:
            return seen
        return seen._replace(surprise=self.bound(images, estimates, condition))

    def loss(self, batch: Batch) -> Tensor:
        """Nats a covered number, averaged over the batch."""
        images, condition = batch.images, batch.condition
        estimates = self.net.bottom_up(ladder.shown(images), condition)
        noise = [torch.randn_like(e.mean) for e in estimates]
        logits, levels = self.net.top_down(estimates, noise, condition)
        x, w = images[:, :-1], images[:, -1:]
        numbers = (w.sum() * self.channels).clamp(min=1)
        error = (w * (x - self.mean(logits)).square()).sum() / numbers
        misfit = self.misfit(logits, images, self.spread.of(error)).sum()
        kls = [kl(level.q, level.p).mean(0).clamp(min=self.config.free_bits) for level in levels]
        coded = torch.stack([each.sum() for each in kls]).sum() * images.shape[0]
        return (misfit + self.beta(batch.course) * coded) / numbers

    def beta(self, course: float) -> float:
        """Weight of the KL where a share `course` of the budget is spent."""
        warm_up = self.config.warm_up
        return self.config.beta * (min(1.0, course / warm_up) if warm_up else 1.0)

    def misfit(self, logits: Tensor, images: Tensor, s2: Tensor | None = None) -> Tensor:
        """-log p(x | z) of each cell, (N, h, w) nats: channels summed, weighted with coverage."""
        x, w = images[:, :-1], images[:, -1:]
        if self.config.output == "bernoulli":
            error = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        else:
            s2 = self.spread() if s2 is None else s2
            error = 0.5 * ((x - self.mean(logits)).square() / s2 + (2 * math.pi * s2).log())
        return (w * error).sum(1)

    def mean(self, logits: Tensor) -> Tensor:
        """x' of logits; in [0, 1], but for a linear model's."""
        return logits if self.linear else torch.sigmoid(logits)

    def bound(
        self,
        images: Tensor,
        estimates: Sequence[Normal],
        condition: Tensor | None,
        kind: str | None = None,
    ) -> Tensor:
        """The bound on -log p(x) that is asked for, shared out over cells: (N, h, w) nats.

        Args:
            estimates: of each level, as the network's `bottom_up` gives them.
            kind: "elbo" or "iwae"; None is the one of the settings.
        """
        k, w = self.config.samples, images[:, -1]
        many = [Normal(draws.copies(e.mean, k), draws.copies(e.log_var, k)) for e in estimates]
        told = None if condition is None else draws.copies(condition, k)
        logits, levels = self.net.top_down(many, self.draws(w.shape[0]), told)
        misfit = self.misfit(logits, draws.copies(images, k)).reshape(-1, k, *w.shape[1:])
        whole = misfit.sum((2, 3))
        if (kind or self.config.bound) == "elbo":
            shares = misfit.mean(1)
            total = (whole + ladder.cost(levels).reshape(-1, k)).mean(1)
        else:
            paid = -(whole + ladder.excess(levels).reshape(-1, k))  # log p(x, z) / q(z | x)
            shares = (misfit * torch.softmax(paid, 1)[:, :, None, None]).sum(1)
            total = math.log(k) - torch.logsumexp(paid, 1)
        evenly = w / w.sum((1, 2), keepdim=True).clamp(min=ROUNDING)
        return shares + (total - shares.sum((1, 2)))[:, None, None] * evenly

    def regret(
        self, images: Tensor, steps: int, rate: float, condition: Tensor | None = None
    ) -> Tensor:
        """How much the ELBO gains if the code may suit each image: (N,) nats, at least 0.

        Part of the gain is that it suits the draws: the less, the more `samples`. Not exported.
        """
        with torch.no_grad():
            start = self.net.bottom_up(ladder.shown(images), condition)
        return regret(lambda q: self.bound(images, q, condition, "elbo"), start, steps, rate)

    @override
    def encode(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Means of q(z | x); a vector's is one cell."""
        code = self.net.bottom_up(ladder.shown(images), condition)[0].mean
        return code if self.config.spatial else code[:, :, None, None]

    @override
    def decode(self, z: Tensor, coverage: Tensor, condition: Tensor | None = None) -> Tensor:
        code = z if self.config.spatial else z[:, :, 0, 0]
        return self.mean(self.net.top_down(None, [code], condition)[0]).clamp(0, 1)

    @override
    @torch.no_grad()
    def sample(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        noise = [torch.randn(like.shape[0], *s, generator=draw) for s in self.net.shapes]
        logits, _ = self.net.top_down(None, noise, condition)
        return self.mean(logits).clamp(0, 1) * (like[:, -1:] > 0)  # without the noise of cells

    @override
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        estimates = self.net.bottom_up(ladder.shown(images), condition)
        levels = self.net.top_down(estimates, None, condition)[1]
        units = [ladder.shift(level).var(0, correction=0) for level in levels]
        few = slice(0, 64)  # each is drawn `samples` times
        some = [Normal(*(part[few] for part in e)) for e in estimates]
        numbers = (images[few, -1].sum() * self.channels).clamp(min=1)
        told = None if condition is None else condition[few]
        nats = self.bound(images[few], some, told).sum() / numbers
        unit = 8 * (self.config.output == "gaussian")  # bits: a density's is 1 / 256
        figures = {
            "active_units": float(sum((u > ACTIVE).sum() for u in units)),
            "latent_units": float(sum(u.numel() for u in units)),
            "kl_nats": float(ladder.cost(levels).mean()),
            "bound_bits_per_dim": float(nats) / math.log(2) + unit,
        }
        if self.config.output == "gaussian":
            figures["noise"] = float(self.spread().mean().sqrt())
        return figures

    @override
    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        x, w = images[:8, :-1], images[:8, -1:]
        turn = torch.arange(32) % images.shape[0]
        told = None if condition is None else condition[turn]
        redrawn = self(images[:8], None if told is None else told[: x.shape[0]]).expected
        return {
            "reconstructions": torch.stack([x * w, redrawn * w]),
            "samples": torch.stack(torch.split(self.sample(images[turn], 0, told), 8)),
            "traversal": self.traversal(images, condition),
        }

    def traversal(self, images: Tensor, condition: Tensor | None) -> Tensor:
        """One latent number a row, the most active first, from -3 to 3: (R, 7, C, h, w).

        The others, and the levels below the code, stay at the prior's mean.
        """
        estimates = self.net.bottom_up(ladder.shown(images), condition)
        codes = walks(estimates[0].mean).flatten(0, 1)
        told = None if condition is None else condition[:1].expand(codes.shape[0])
        noise = [codes, *[None] * (len(estimates) - 1)]
        drawn = self.mean(self.net.top_down(None, noise, told)[0]).clamp(0, 1)
        return torch.stack(torch.split(drawn, 7))


class Plain(VAE):
    """One code and no skip connections: how the bound changes with the image can be told too."""

    gives: ClassVar[tuple[str, ...]] = ("surprise", "kl", "slope")

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        seen = super().forward(images, condition)
        if "slope" not in self.wanted:
            return seen
        return seen._replace(slope=self.slope(images, condition))

    def slope(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """|d(-ELBO at the code's mean) / dx|, channels summed: (N, h, w) nats a unit of x."""
        x, w = images[:, :-1], images[:, -1:]
        code, logits, pull = self.net.traced(ladder.shown(images), condition)
        redrawn = self.mean(logits)
        if self.config.output == "bernoulli":
            direct, drawn = -w * logits, w * (redrawn - x)
        else:
            direct = w * (x - redrawn) / self.spread()
            drawn = -direct * (1.0 if self.linear else redrawn * (1 - redrawn))
        slopes = ladder.Slopes(code.mean, 0.5 * torch.expm1(code.log_var), drawn)
        return (direct + w * pull(slopes)[:, :-1]).abs().sum(1)
