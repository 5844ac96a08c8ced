"""An adversarial game: what critic and generator are paid, how fast they learn, who is watching.

The critic D lowers the objective's critic loss plus a penalty, the generator its own loss:

    L_D = E a(D(x)) + E b(D(x')) + weight * penalty,    L_G = E c(D(x'))

(objectives.py has a, b, c; x good images, x' samples, both augmented the same way). Each has a rate
of its own and the critic may have several turns a step (descent.Player); the weights that score
are running means of those that played, which for a generator is the usual "EMA generator".

An encoder that plays on the generator's side, of pairs (x, E(x)) against (G(z), z), lowers the
objective with good and generated exchanged, `encoder_loss`.

The penalty costs as much as the rest of a critic's turn: it is taken every few turns ("lazy").

Sources: objectives.py. Heusel et al., "GANs trained by a two time-scale update rule", NeurIPS 2017.
Yaz, Foo, Winkler, Yap, Piliouras, Chandrasekhar, "The unusual effectiveness of averaging in GAN
training", ICLR 2019 (EMA). Karras et al., "Analyzing and improving the image quality of StyleGAN",
CVPR 2020, section 3.1 (lazy regularisation). Donahue, Kraehenbuehl, Darrell, "Adversarial feature learning", ICLR
2017, section 3 (the encoder's side).

Shapes: N images, C channels, h, w cells, F features at h', w'.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from inspect_ai.adversarial.augment import Augment, augmented
from inspect_ai.adversarial.critics import Critic
from inspect_ai.adversarial.objectives import (
    TERMS,
    Objective,
    critic_loss,
    generator_loss,
    gradient_penalty,
    r1,
)
from inspect_ai.adversarial.watch import Watch
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Player

Share = Annotated[float, Field(ge=0, lt=1)]
Judge = Callable[[Tensor], Tensor]  # (N, C + 1, h, w) images to (N,) logits


class Game(Settings):
    """Table [model.game] of a run file."""

    objective: Objective = "non_saturating"
    penalty: Literal["none", "gradient", "r1"] = "r1"
    weight: float = Field(default=1.0, ge=0)  # of the penalty: lambda, or gamma / 2
    penalty_every: int = Field(default=4, ge=1)  # turns; it then counts as many times as much
    spectral: bool = False  # spectral normalisation of the critic
    critic_rate: float = Field(default=1.0, gt=0)  # times the learning rate
    generator_rate: float = Field(default=0.5, gt=0)
    critic_turns: int = Field(default=1, ge=1, le=10)
    momentum: tuple[Share, Share] = (0.0, 0.99)  # Adam's betas, of both
    augment: tuple[Augment, ...] = ()  # for small sets

    def critic(self, module: "Rival") -> Player:
        """The critic as a player."""
        turns, rate = self.critic_turns, self.critic_rate
        return Player(module, rate, self.momentum, turns, told=module.watch.numbers)

    def generator(self, module: nn.Module) -> Player:
        """The generator, or all on its side, as a player."""
        return Player(module, self.generator_rate, self.momentum)


class Rival(nn.Module):
    """A critic with the rules it plays by and its watch, which is saved with it."""

    def __init__(self, game: Game, critic: Critic, watch: Watch | None = None) -> None:
        super().__init__()
        self.game, self.critic, self.watch = game, critic, watch or Watch()

    def loss(self, real: Tensor, fake: Tensor, of_real: Judge, of_fake: Judge) -> Tensor:
        """What the critic lowers: a scalar.

        Args:
            real, fake: (N, C + 1, h, w) good images and samples, of one coverage each.
            of_real, of_fake: the critic, told what belongs to them.

        Raises:
            Collapsed: the game is lost; see watch.py.
        """
        shown, made = (augmented(part, self.game.augment) for part in (real, fake.detach()))
        won, lost = of_real(shown), of_fake(made)
        self.watch.see(won, lost, real, fake)
        loss = critic_loss(self.game.objective, won, lost)
        due = int(self.watch.looks) % self.game.penalty_every == 0
        if self.game.penalty == "none" or not self.game.weight or not due:
            return loss
        weight = self.game.weight * self.game.penalty_every
        if self.game.penalty == "r1":
            return loss + weight * self._penalty(shown, made, of_real)
        return loss + weight * self._penalty(
            real, fake, of_real
        )  # points between need one coverage

    def _penalty(self, shown: Tensor, made: Tensor, judge: Judge) -> Tensor:
        x, w = shown[:, :-1], shown[:, -1:]

        def of_channels(x: Tensor) -> Tensor:
            return judge(torch.cat([x, w], 1))

        if self.game.penalty == "r1":
            return r1(of_channels, x)
        return gradient_penalty(of_channels, x * w, made[:, :-1] * w)

    def generator_loss(self, fake: Tensor, judge: Judge) -> Tensor:
        """What a generator lowers, of its samples (N, C + 1, h, w): a scalar."""
        return generator_loss(self.game.objective, judge(augmented(fake, self.game.augment)))

    def encoder_loss(self, real: Tensor, judge: Judge) -> Tensor:
        """What an encoder lowers whose pairs with good images `judge` reads: a scalar."""
        logits = judge(augmented(real, self.game.augment))
        if self.game.objective == "least_squares":
            return TERMS["least_squares"].fake(logits).mean()
        return generator_loss(self.game.objective, -logits)


def feature_distance(a: Tensor, b: Tensor, coverage: Tensor) -> Tensor:
    """Mean squared difference of features (N, F, h', w'), shared out over covered cells (N, h, w).

    A cell has the share of the feature's place it lies in; all sum to the mean.

    Args:
        coverage: (N, 1, h, w).
    """
    places = (a - b).square().mean(1, keepdim=True)
    step = coverage.shape[2] // places.shape[2]
    shares = (F.interpolate(places, scale_factor=float(step), mode="nearest") * coverage)[:, 0]
    total = shares.sum((1, 2), keepdim=True).clamp(min=1e-12)
    return shares * (places.mean((2, 3)) / total[:, 0])[:, :, None]


def with_coverage(x: Tensor, coverage: Tensor) -> Tensor:
    """(N, C, h, w) channels as an image, 0 where nothing is covered: (N, C + 1, h, w)."""
    return torch.cat([x * coverage, coverage], 1)


def misfit(x: Tensor, redrawn: Tensor, coverage: Tensor, norm: Literal["l1", "l2"]) -> Tensor:
    """Mean |x - x'| or its square over covered cells and channels: a scalar."""
    gap = x - redrawn
    apart = gap.abs() if norm == "l1" else gap.square()
    return (coverage * apart).sum() / (coverage.sum() * x.shape[1]).clamp(min=1e-6)


def psnr(images: Tensor, redrawn: Tensor) -> float:
    """Peak signal-to-noise ratio over covered cells of (N, C + 1, h, w) images, dB."""
    error = misfit(images[:, :-1], redrawn, images[:, -1:], "l2")
    return float(-10 * error.clamp(min=1e-10).log10())
