"""What models have in common that draw images from a code z ~ N(0, I).

Samples take a coverage, and of conditional models a class, from good images: what is not covered is
no part of a draw. Noise in a generator's layers is fresh in a sample and the same for all images in
a score.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.adversarial.game import psnr, with_coverage
from inspect_ai.adversarial.generators import Generator
from inspect_ai.adversarial.growth import Stage
from inspect_ai.adversarial.watch import diversity
from inspect_ai.training.descent import Drawn
from inspect_ai.training.detector import Model

SHOWN = (4, 8)  # rows and columns of a sheet of samples


class Drawing(Model):
    """A model with a generator."""

    stage: Stage | None = None  # that a growing generator is in; None: full resolution
    coverage: Tensor
    places: Tensor

    def __init__(
        self, generator: Generator, latent: int, grid: tuple[int, int], classes: int
    ) -> None:
        super().__init__()
        self.generator, self.latent, self.classes = generator, latent, classes
        count = SHOWN[0] * SHOWN[1]
        self.register_buffer("coverage", torch.ones(count, 1, *grid))
        self.register_buffer("places", torch.zeros(count, dtype=torch.int64))

    def remember(self, batches: Drawn) -> None:
        """Keeps coverage and classes of the first images, for sheets of samples to take."""
        images, condition = batches.at(0), batches.condition(0)
        turn = torch.arange(self.coverage.shape[0]) % images.shape[0]
        self.coverage.copy_(images[turn, -1:])
        if condition is not None:
            self.places.copy_(condition[turn])

    def draw(self, like: Tensor, condition: Tensor | None, stage: Stage | None = None) -> Tensor:
        """Samples (N, C, h, w), one for each of `like`, by torch's global generator."""
        z = torch.randn(like.shape[0], self.latent, device=like.device)
        drawn: Tensor = self.generator(z, condition, stage)
        return drawn

    @override
    @torch.no_grad()
    def sample(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        return self._sampled(like, seed, condition, None)

    def _sampled(
        self, like: Tensor, seed: int, condition: Tensor | None, stage: Stage | None
    ) -> Tensor:
        training = self.generator.training
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = self.draw(like, condition, stage) if training else self._fresh(like, condition)
        whole = F.interpolate(drawn, like.shape[2:], mode="nearest")  # of a coarse stage
        return whole * (like[:, -1:] > 0)

    def _fresh(self, like: Tensor, condition: Tensor | None) -> Tensor:
        self.generator.train()
        drawn = self.draw(like, condition)
        self.generator.eval()
        return drawn

    @override
    def glimpse(self) -> Tensor | None:
        like = with_coverage(self.coverage, self.coverage)
        drawn = self._sampled(like, 0, self.places if self.classes else None, self.stage)
        return torch.stack(torch.split(drawn, SHOWN[1]))

    @override
    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """Samples, and good images above what they are redrawn as."""
        drawn, x, w = self.glimpse(), images[:8, :-1], images[:8, -1:]
        assert drawn is not None
        redrawn = self(images[:8], None if condition is None else condition[:8]).expected
        return {"samples": drawn, "reconstructions": torch.stack([x * w, redrawn * w])}

    @override
    @torch.no_grad()
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        drawn = with_coverage(self.sample(images, 0, condition), images[:, -1:])
        return {
            "redrawn_psnr_db": psnr(images, self(images, condition).expected),
            "sample_diversity": diversity(images, drawn),
        }
