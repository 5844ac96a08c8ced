"""f-AnoGAN: a generator that only draws good images, and an encoder that looks for each image.

First a game: a generator G of codes z ~ N(0, I) against a critic D (adversarial/game.py has the
objectives, penalties and rates; the paper's are "wasserstein" with penalty "gradient", weight 10,
penalty_every 1 and five turns). Then both stay as they are, at the running means of their weights,
and an encoder E learns to find the code from which G redraws a good image, for the eye and for the
critic's features f ("izi_f"):

    L(E) = mean (x - x')^2 + kappa mean (f(x) - f(x'))^2,    x' = G(E(x))

An image that G cannot draw is redrawn badly. Told are the expectation x', the distance of features
D_f(x, x'), of codes |E(x) - E(x')|^2, and -D(x). Rule "adversarial" with residual 1 and features
kappa is the paper's score.

Sources: Schlegl, Seeboeck, Waldstein, Langs, Schmidt-Erfurth, "f-AnoGAN: Fast unsupervised anomaly
detection with generative adversarial networks", Medical Image Analysis 54, 2019, sections 3.1 and
3.2 (equations 3 and 6).

Shapes: N images, C channels, h, w cells, Z latent numbers.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal, Self

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from inspect_ai.adversarial import growth
from inspect_ai.adversarial.critics import Critic, Encoder
from inspect_ai.adversarial.drawing import Drawing
from inspect_ai.adversarial.game import Game, Rival, feature_distance, misfit, with_coverage
from inspect_ai.adversarial.generators import GROWN, Kind, Sizes, generator
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Batch, Drawn, Player, Run, descend


class Config(Settings):
    """Size, generator, game and encoder."""

    conditional: ClassVar[bool] = True

    latent: int = Field(default=64, ge=1)  # Z
    width: int = Field(default=16, ge=4)  # channels at the finest level; doubled at each halving
    depth: int = Field(default=3, ge=1, le=6)  # halvings
    generator: Kind = "dcgan"
    game: Game = Game()
    encode_from: float = Field(default=0.5, gt=0, lt=1)  # share of the budget that is the game's
    kappa: float = Field(default=1.0, ge=0)  # weight of the features in the encoder's loss
    norm: Literal["l1", "l2"] = "l2"  # of the residual in the encoder's loss

    @property
    def sizes(self) -> Sizes:
        """Of generator, critic and encoder."""
        return Sizes(latent=self.latent, width=self.width, depth=self.depth)

    def build(self, channels: int, grid: tuple[int, int], classes: int = 0) -> "FAnoGAN":
        """The model for C channels on a grid of (h, w) cells, told one of so many classes.

        Raises:
            BadSettings: the grid cannot be halved `depth` times.
        """
        return FAnoGAN(self, channels, grid, classes)


class FAnoGAN(Drawing):
    """See the module's docstring."""

    gives: ClassVar[tuple[str, ...]] = ("features", "codes", "unreal")

    def __init__(
        self, config: Config, channels: int, grid: tuple[int, int], classes: int = 0
    ) -> None:
        made = generator(config.generator, config.sizes, channels, grid, classes)
        super().__init__(made, config.latent, grid, classes)
        self.config = config
        critic = Critic(config.sizes, channels, grid, classes, config.game.spectral)
        self.rival = Rival(config.game, critic)
        self.encoder = Encoder(config.sizes, channels, grid, classes)

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        self.remember(batches)
        game, end = self.config.game, self.config.encode_from
        players = {
            "critic": replace(game.critic(self.rival), span=(0.0, end)),
            "generator": replace(game.generator(self.generator), span=(0.0, end)),
            "encoder": Player(self.encoder, span=(end, 1.0)),
        }
        descend(players, self.loss, batches, run)
        self.stage = None
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        codes = self.codes(images, condition)
        again = with_coverage(self.generator(codes, condition), images[:, -1:])
        told = dict[str, Tensor]()
        if "features" in self.wanted:
            told["features"] = self.features_apart(images, again, condition)
        if "codes" in self.wanted:
            told["codes"] = (codes - self.codes(again, condition)).square().mean(1)
        if "unreal" in self.wanted:
            told["unreal"] = -self.rival.critic(images, condition)
        return Seen(again[:, :-1], **told)

    def codes(self, images: Tensor, condition: Tensor | None) -> Tensor:
        """Codes (N, Z) of (N, C + 1, h, w) images."""
        found: Tensor = self.encoder(images, condition)
        return found

    def loss(self, player: str, batch: Batch) -> Tensor:
        """What a player lowers."""
        if player == "encoder":
            self.stage = None
            return self.encoder_loss(batch.images, batch.condition)
        judge, stage, real = self._stage(batch)
        fake = with_coverage(self.draw(real, batch.condition, stage), real[:, -1:])
        if player == "critic":
            return self.rival.loss(real, fake, judge, judge)
        return self.rival.generator_loss(fake, judge)

    def encoder_loss(self, images: Tensor, condition: Tensor | None) -> Tensor:
        """L(E) of (N, C + 1, h, w) images: a scalar."""
        x, w = images[:, :-1], images[:, -1:]
        redrawn = self.generator(self.codes(images, condition), condition)
        loss = misfit(x, redrawn, w, self.config.norm)
        if not self.config.kappa:
            return loss
        apart = self.features_apart(images, with_coverage(redrawn, w), condition)
        return loss + self.config.kappa * apart.sum((1, 2)).mean()

    def features_apart(self, images: Tensor, again: Tensor, condition: Tensor | None) -> Tensor:
        """D_f of image and redrawn image, shared out over cells: (N, h, w)."""
        a, b = (self.rival.critic.features(part, condition) for part in (images, again))
        return feature_distance(a, b, images[:, -1:])

    def _stage(
        self, batch: Batch
    ) -> tuple[Callable[[Tensor], Tensor], growth.Stage | None, Tensor]:
        """Critic, stage and good images as a growing network has them now."""
        if self.config.generator not in GROWN:
            return partial(self._judged, batch.condition, None), None, batch.images
        stage = growth.stage(batch.course / self.config.encode_from, self.config.depth)
        self.stage = stage
        real = growth.as_of(stage, batch.images, self.config.depth)
        return partial(self._judged, batch.condition, stage), stage, real

    def _judged(
        self, condition: Tensor | None, stage: growth.Stage | None, images: Tensor
    ) -> Tensor:
        logits: Tensor = self.rival.critic(images, condition, stage)
        return logits
