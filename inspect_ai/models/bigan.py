"""BiGAN and ALI: a generator and its inverse, learnt in one game over pairs of image and code.

The critic D sees pairs. A good image comes with its code, a drawn code with its sample,

    (x, E(x)) against (G(z), z),    z ~ N(0, I)

and G and E play on one side. Where D can tell neither from the other, both pairs have the same
distribution, and E inverts G. Far from there nothing holds x and G(E(x)) together; two terms of
our weights do ("cycle", "code_cycle"; 0 and 0 are the plain papers), and s is the squared
difference's or the absolute one's mean over what is covered:

    L(G, E) = E c(D(G(z), z)) + L_E(D(x, E(x))) + cycle s(x - G(E(x))) + code_cycle |z - E(G(z))|^2 / Z

(game.py has c and L_E). In "bigan" E is a function. In "ali" it gives a mean m and a variance v,
no larger than that of all codes: codes are m + v^1/2 e, e ~ N(0, I), in the game, and m in a score.

Told are the expectation x' = G(E(x)), the distance of the critic's features of (x, E(x)) and
(x', E(x)), |E(x) - E(x')|^2 / Z, and -D(x, E(x)). Rule "adversarial" with norm "l1", residual 0.9
and features 0.1 is Zenati's score. An augmented image keeps the code of the image it was made
from; with penalty "gradient", points between a good image and a sample are judged with the code of
the good one.

Sources: Donahue, Kraehenbuehl, Darrell, "Adversarial feature learning", ICLR 2017, section 3.
Dumoulin, Belghazi, Poole, Mastropietro, Lamb, Arjovsky, Courville, "Adversarially learned
inference", ICLR 2017, section 2. Li, Liu, Chen, Pu, Chen, Henao, Carin, "ALICE: towards
understanding adversarial learning for joint distribution matching", NIPS 2017, section 3.2
(cycle). Zenati, Foo, Lecouat, Manek, Chandrasekhar, "Efficient GAN-based anomaly detection",
2018, section 3 (score).

Shapes: N images, C channels, h, w cells, Z latent numbers.
"""

from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.adversarial.critics import Critic, Encoder
from inspect_ai.adversarial.drawing import Drawing
from inspect_ai.adversarial.game import Game, Rival, feature_distance, misfit, with_coverage
from inspect_ai.adversarial.generators import Sizes, generator
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Batch, Drawn, Run, descend


class Config(Settings):
    """Size, generator, game and what holds images and codes together."""

    conditional: ClassVar[bool] = True

    variant: Literal["bigan", "ali"] = "bigan"
    latent: int = Field(default=64, ge=1)  # Z
    width: int = Field(default=16, ge=4)  # channels at the finest level; doubled at each halving
    depth: int = Field(default=3, ge=1, le=6)  # halvings
    generator: Literal["dcgan", "style"] = "dcgan"  # a coarse stage of a growing one has no pairs
    game: Game = Game()
    cycle: float = Field(default=10.0, ge=0)  # weight of image against redrawn image
    norm: Literal["l1", "l2"] = "l2"  # of that; "l1" redraws sparse maps as empty ones
    code_cycle: float = Field(default=0.0, ge=0)  # weight of code against code found again

    def build(self, channels: int, grid: tuple[int, int], classes: int = 0) -> "BiGAN":
        """The model for C channels on a grid of (h, w) cells, told one of so many classes.

        Raises:
            BadSettings: the grid cannot be halved `depth` times.
        """
        return BiGAN(self, channels, grid, classes)


class BiGAN(Drawing):
    """See the module's docstring."""

    gives: ClassVar[tuple[str, ...]] = ("features", "codes", "unreal")

    def __init__(
        self, config: Config, channels: int, grid: tuple[int, int], classes: int = 0
    ) -> None:
        sizes = Sizes(latent=config.latent, width=config.width, depth=config.depth)
        made = generator(config.generator, sizes, channels, grid, classes)
        super().__init__(made, config.latent, grid, classes)
        self.config = config
        critic = Critic(sizes, channels, grid, classes, config.game.spectral, code=config.latent)
        self.rival = Rival(config.game, critic)
        numbers = config.latent * (2 if config.variant == "ali" else 1)
        self.encoder = Encoder(
            sizes.model_copy(update={"latent": numbers}), channels, grid, classes
        )

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        self.remember(batches)
        side = nn.ModuleDict({"generator": self.generator, "encoder": self.encoder})
        game = self.config.game
        players = {"critic": game.critic(self.rival), "generator": game.generator(side)}
        descend(players, self.loss, batches, run)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        codes = self.codes(images, condition)
        again = with_coverage(self.generator(codes, condition), images[:, -1:])
        told = dict[str, Tensor]()
        if "features" in self.wanted:
            both = [self.rival.critic.features(part, None, codes) for part in (images, again)]
            told["features"] = feature_distance(both[0], both[1], images[:, -1:])
        if "codes" in self.wanted:
            told["codes"] = (codes - self.codes(again, condition)).square().mean(1)
        if "unreal" in self.wanted:
            told["unreal"] = -self.rival.critic(images, condition, code=codes)
        return Seen(again[:, :-1], **told)

    def codes(self, images: Tensor, condition: Tensor | None, drawn: bool = False) -> Tensor:
        """Codes (N, Z) of (N, C + 1, h, w) images; of "ali" their means, unless they are drawn."""
        found: Tensor = self.encoder(images, condition)
        if self.config.variant == "bigan":
            return found
        mean, spread = found.chunk(2, 1)
        if not drawn:
            return mean
        return mean + torch.exp(F.logsigmoid(spread) / 2) * torch.randn_like(mean)

    def loss(self, player: str, batch: Batch) -> Tensor:
        """What a player lowers: a scalar."""
        return self.critic_loss(batch) if player == "critic" else self.generator_loss(batch)

    def critic_loss(self, batch: Batch) -> Tensor:
        """Of telling good images with their codes from drawn codes with their samples."""
        real, condition = batch.images, batch.condition
        with torch.no_grad():
            z, fake = self._drawn(real, condition)
            codes = self.codes(real, condition, drawn=True)
        of_real, of_fake = (partial(self._judged, condition, part) for part in (codes, z))
        return self.rival.loss(real, fake, of_real, of_fake)

    def generator_loss(self, batch: Batch) -> Tensor:
        """L(G, E) of the module's docstring."""
        real, condition = batch.images, batch.condition
        z, fake = self._drawn(real, condition)
        codes = self.codes(real, condition, drawn=True)
        of_real, of_fake = (partial(self._judged, condition, part) for part in (codes, z))
        loss = self.rival.generator_loss(fake, of_fake) + self.rival.encoder_loss(real, of_real)
        if self.config.cycle:
            again = self.generator(codes, condition)
            gap = misfit(real[:, :-1], again, real[:, -1:], self.config.norm)
            loss = loss + self.config.cycle * gap
        if self.config.code_cycle:
            gap = (z - self.codes(fake, condition)).square().mean()
            loss = loss + self.config.code_cycle * gap
        return loss

    @override
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        power = float(self.codes(images, condition).square().mean())  # 1 where E inverts G
        return super().told(images, condition) | {"code_power": power}

    def _drawn(self, like: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes (N, Z) and their samples (N, C + 1, h, w), covered as `like` is."""
        z = torch.randn(like.shape[0], self.latent, device=like.device)
        return z, with_coverage(self.generator(z, condition), like[:, -1:])

    def _judged(self, condition: Tensor | None, codes: Tensor, images: Tensor) -> Tensor:
        logits: Tensor = self.rival.critic(images, condition, code=codes)
        return logits
