"""GANomaly: encoder, decoder, encoder; odd is what is read from its own copy as something else.

An image x is redrawn from its code z and the copy is read again; a critic D with features f learns
to tell good images from their copies:

    z = E1(x),    x' = G(z),    z' = E2(x')

The three networks lower, together and with weights a, b, c (`adversarial`, `context`, `encode`),

    plain    a mean (f(x) - f(x'))^2  +  b mean |x - x'|^p +  c mean (z - z')^2
    skip     a L_G(D(x'))             +  b mean |x - x'|^p +  c mean (f(x) - f(x'))^2

where L_G is the objective of the game (adversarial/game.py). Variant "skip" redraws through a U-Net:
every level but the finest has a way round the code. It has no second encoder; its distance of codes
is that of the critic's features. Told are the expectation x', the distance of features and of codes,
and -D(x). The papers' scores are rule "adversarial" with codes 1 and all else 0 of the distance that
c weighs (`reread` "second"), and for "skip" residual .9 and features .1.

What collapses when this is run again, and what is ours: E2 learns to undo G, for codes of defects
too, and nothing holds the scale of codes while c lowers it; their distance was near chance on some
seeds. With `reread` "first" the first encoder reads the copy too, and codes are compared without
their scale, mean (n(z) - n(E1(x')))^2 with n(z) = z / rms(z). L1 is lowest at the median, and on maps
where few dies fail that is one empty copy for all: squares (`norm` "l2") are lowest at the fail rate.
Copies are smoother than images, so that a critic of both takes a defect for more real than a
good image: no score should rely on -D(x) here. Copies lack what is chance, which is no collapse; the
watch stops a run where they hardly differ at all.

Sources: Akcay, Atapour-Abarghouei, Breckon, "GANomaly: Semi-supervised anomaly detection via
adversarial training", ACCV 2018, section 3 (weights 1, 50, 1 on |x - x'|; distance of codes squared,
as in the authors' program). Akcay, Atapour-Abarghouei, Breckon, "Skip-GANomaly: Skip connected and
adversarially trained encoder-decoder anomaly detection", IJCNN 2019, section 3 (weights 1, 40, 1).

Shapes: N images, C channels, h, w cells, Z latent numbers.
"""

import math
from itertools import pairwise
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.adversarial.critics import Critic, Encoder
from inspect_ai.adversarial.game import Game, Rival, feature_distance, misfit, psnr, with_coverage
from inspect_ai.adversarial.generators import Sizes, generator
from inspect_ai.adversarial.growth import doubled_conv
from inspect_ai.adversarial.leaky import begin, leaky, normed
from inspect_ai.adversarial.watch import Watch
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Batch, Drawn, Run, descend
from inspect_ai.training.detector import Model

# of the diversity of good images: copies lack all that is chance, and a critic may well see that
ALIKE = 0.01


class Config(Settings):
    """Size, variant, weights and game."""

    latent: int = Field(default=64, ge=1)  # Z
    width: int = Field(default=16, ge=4)  # channels at the finest level; doubled at each halving
    depth: int = Field(default=3, ge=1, le=6)  # halvings
    variant: Literal["plain", "skip"] = "plain"
    adversarial: float = Field(default=1.0, ge=0)  # a
    context: float = Field(default=50.0, ge=0)  # b
    norm: Literal["l1", "l2"] = "l2"  # p: l1 is the paper's
    encode: float = Field(default=1.0, ge=0)  # c
    reread: Literal["first", "second"] = "first"  # encoder of the copy in the score; plain only
    game: Game = Game()

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if not (self.adversarial or self.context or self.encode):
            raise ValueError("all weights are 0; give one of adversarial, context, encode")
        if self.reread == "second" and (self.variant == "skip" or not self.encode):
            raise ValueError(
                'reread = "second" needs variant = "plain" and encode above 0, from which alone '
                'the second encoder learns; give them, or reread = "first"'
            )
        return self

    @property
    def sizes(self) -> Sizes:
        """Of encoders, decoder and critic."""
        return Sizes(latent=self.latent, width=self.width, depth=self.depth)

    def build(self, channels: int, grid: tuple[int, int]) -> "GANomaly":
        """The model for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: the grid cannot be halved `depth` times.
        """
        return GANomaly(self, channels, grid)


class GANomaly(Model):
    """See the module's docstring."""

    gives: ClassVar[tuple[str, ...]] = ("features", "codes", "unreal")

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        self.redrawer = (Narrow if config.variant == "plain" else Skipping)(
            config.sizes, channels, grid
        )
        critic = Critic(config.sizes, channels, grid, spectral=config.game.spectral)
        self.rival = Rival(config.game, critic, Watch(alike=ALIKE, stalled=0.0))

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        game = self.config.game
        players = {"critic": game.critic(self.rival), "redrawer": game.generator(self.redrawer)}
        descend(players, self.loss, batches, run)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        z, again = self.redraw(images)
        told = dict[str, Tensor]()
        if "features" in self.wanted:
            told["features"] = self.features_apart(images, again)
        if "codes" in self.wanted:
            told["codes"] = self.codes(images, z, again)
        if "unreal" in self.wanted:
            told["unreal"] = -self.rival.critic(images)
        return Seen(again[:, :-1], **told)

    def redraw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N, Z) of (N, C + 1, h, w) images, and their copies, as images."""
        z, redrawn = self.redrawer(images)
        return z, with_coverage(redrawn, images[:, -1:])

    def features_apart(self, images: Tensor, again: Tensor) -> Tensor:
        """D_f of image and copy, shared out over cells: (N, h, w)."""
        a, b = (self.rival.critic.features(part) for part in (images, again))
        return feature_distance(a, b, images[:, -1:])

    def codes(self, images: Tensor, z: Tensor, again: Tensor) -> Tensor:
        """The distance of codes that is told, (N,)."""
        if isinstance(self.redrawer, Narrow) and self.config.reread == "first":
            return self.redrawer.turned(z, again)
        return self.codes_apart(images, z, again)

    def codes_apart(self, images: Tensor, z: Tensor, again: Tensor) -> Tensor:
        """The one that is lowered, by `encode`: (N,)."""
        if isinstance(self.redrawer, Skipping):
            return self.features_apart(images, again).sum((1, 2))
        return self.redrawer.apart(z, again)

    def loss(self, player: str, batch: Batch) -> Tensor:
        """What a player lowers."""
        x, w = batch.images[:, :-1], batch.images[:, -1:]
        z, again = self.redraw(batch.images)
        if player == "critic":
            return self.rival.loss(batch.images, again, self.rival.critic, self.rival.critic)
        ours = self.config
        loss = ours.context * misfit(x, again[:, :-1], w, ours.norm)
        loss = loss + ours.encode * self.codes_apart(batch.images, z, again).mean()
        if ours.variant == "skip":
            return loss + ours.adversarial * self.rival.generator_loss(again, self.rival.critic)
        return loss + ours.adversarial * self.features_apart(batch.images, again).sum((1, 2)).mean()

    @override
    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """Good images above their copies."""
        x, w = images[:8, :-1], images[:8, -1:]
        return {"reconstructions": torch.stack([x * w, self.redraw(images[:8])[1][:, :-1]])}

    @override
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        z, again = self.redraw(images)
        apart = self.codes_apart(images, z, again).mean()
        return {
            "redrawn_psnr_db": psnr(images, again[:, :-1]),
            "codes_apart": float(apart),
            "code_spread": float(z.var(0, correction=0).mean()),
        }


class Narrow(nn.Module):
    """Redraws an image from its code alone, and reads the copy again."""

    def __init__(self, sizes: Sizes, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.first = Encoder(sizes, channels, grid)  # E1
        self.decoder = generator("dcgan", sizes, channels, grid)  # G
        self.second = Encoder(sizes, channels, grid)  # E2

    @override
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C + 1, h, w) images to codes (N, Z) and copies (N, C, h, w)."""
        z = self.first(images)
        return z, self.decoder(z)

    def apart(self, z: Tensor, again: Tensor) -> Tensor:
        """mean (z - E2(x'))^2 of copies (N, C + 1, h, w): (N,)."""
        apart: Tensor = (z - self.second(again)).square().mean(1)
        return apart

    def turned(self, z: Tensor, again: Tensor) -> Tensor:
        """mean (n(z) - n(E1(x')))^2 of copies (N, C + 1, h, w): (N,) in [0, 4]."""
        return (normed(z) - normed(self.first(again))).square().mean(1)


class Skipping(nn.Module):
    """A U-Net: redraws an image from its code and from maps of every level but the finest."""

    def __init__(self, sizes: Sizes, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        widths = sizes.widths
        steps = list(pairwise(widths))  # coarse to fine
        self.small = (widths[0], *sizes.coarsest(grid))
        self.enter = nn.Conv2d(channels + 1, widths[-1], 3, padding=1)
        self.downs = nn.ModuleList(
            nn.Conv2d(b, a, 4, stride=2, padding=1) for a, b in reversed(steps)
        )
        self.code = nn.Linear(math.prod(self.small), sizes.latent)
        self.back = nn.Linear(sizes.latent, math.prod(self.small))
        self.ups = nn.ModuleList(Doubling(2 * a, b) for a, b in steps)
        self.leave = nn.Conv2d(widths[-1], channels, 3, padding=1)
        begin(self)
        begin(self.leave, 0.5)

    @override
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C + 1, h, w) images to codes (N, Z) and copies (N, C, h, w)."""
        x, w = images[:, :-1], images[:, -1:]
        maps, seen = leaky(self.enter(torch.cat([x * w, w], 1))), []
        for down in self.downs:
            maps = leaky(down(maps))
            seen.append(maps)
        z = self.code(maps.flatten(1))
        maps = normed(leaky(self.back(z).unflatten(1, self.small)))
        for up in self.ups:
            maps = up(torch.cat([maps, seen.pop()], 1))
        return z, torch.sigmoid(self.leave(maps))


class Doubling(nn.Conv2d):
    """Doubles both sides and mixes 3 x 3 cells, as a generator's plain body does."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, 3, padding=1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """(N, I, h, w) to (N, O, 2 h, 2 w)."""
        return normed(leaky(doubled_conv(x, self.weight, self.bias)))
