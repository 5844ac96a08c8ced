"""What models with a diffusion process draw, and what they tell of themselves.

Samples take a coverage, and of conditional models a class, from good images.

Shapes: N images, C channels, H, W cells of an image; D numbers, h, w cells of what is diffused.
"""

import math
from typing import ClassVar, Self

import torch
from torch import Tensor
from typing_extensions import override

from inspect_ai.diffusing.looks import Looks
from inspect_ai.diffusing.process import Image, Process
from inspect_ai.scoring.rule import Seen
from inspect_ai.training.descent import Drawn, Run
from inspect_ai.training.detector import Model

SHOWN, QUICK = (2, 8), 10  # rows and columns of a sheet while training, and its network calls
FIRST = 20  # batches that centre and scale are learnt from, at most
FEWER = 4  # batches that the network's error is measured on
FEW, CALLS = 32, 50  # images whose bound is told, and its network calls


class Tale(Model):
    """A model with a diffusion process; a model file says what is diffused."""

    bits: ClassVar[float] = 8.0  # of a number's unit, 1 / 256 of [0, 1]
    process: Process
    looks: Looks
    coverage: Tensor
    places: Tensor

    def __init__(self, process: Process, grid: tuple[int, int]) -> None:
        """For images of (H, W) cells."""
        super().__init__()
        self.process, self.looks, self.classes = process, Looks(process), process.classes
        count = SHOWN[0] * SHOWN[1]
        self.register_buffer("coverage", torch.ones(count, 1, *grid))
        self.register_buffer("places", torch.zeros(count, dtype=torch.int64))

    def image(self, images: Tensor, condition: Tensor | None) -> Image:
        """What is diffused of (N, C + 1, H, W) images."""
        raw = self.raw(images, condition)
        return self.process.image(raw, self.covered(images[:, -1:]), condition)

    def shown(self, raw: Tensor, w: Tensor, condition: Tensor | None) -> Tensor:
        """Raw numbers (N, D, h, w) as an image (N, C, H, W) in [0, 1] of coverage (N, 1, H, W)."""
        raise NotImplementedError

    def raw(self, images: Tensor, condition: Tensor | None) -> Tensor:
        """Raw numbers (N, D, h, w) of images."""
        raise NotImplementedError

    def covered(self, w: Tensor) -> Tensor:
        """Coverage (N, 1, H, W) to that of what is diffused, (N, 1, h, w)."""
        return w

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        self._learn_scale(batches, run)
        images, condition = batches.at(0), batches.condition(0)
        turn = torch.arange(self.coverage.shape[0]) % images.shape[0]
        self.coverage.copy_(images[turn, -1:])
        if condition is not None:
            self.places.copy_(condition[turn])
        self.process.fit(self.image, batches, run)
        self.eval()
        self.process.measure([self._at(step, batches, run) for step in range(FEWER)])
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        image, config, errors = self.image(images, condition), self.process.config, None
        if config.redraw == "levels" or "errors" in self.wanted:
            errors, x0 = self.looks.levels(image)
        if config.redraw == "partial":
            x0 = self.looks.partial(image)
        asked = self.wanted.intersection(self.gives) - {"errors"}
        more = {name: getattr(self.looks, name)(image) for name in sorted(asked)}
        expected = self.shown(self.process.raw(x0), images[:, -1:], condition)
        return Seen(expected, errors=errors, **more)

    @override
    @torch.no_grad()
    def sample(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        return self._sampled(like, seed, condition, self.process.config.sampling)

    @override
    def glimpse(self) -> Tensor | None:
        told = self.places if self.classes else None
        calls = min(QUICK, self.process.config.sampling)
        drawn = self._sampled(self.coverage, 0, told, calls)  # all that is taken of an image
        return torch.stack(torch.split(drawn, SHOWN[1]))

    @override
    @torch.no_grad()
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        parts = torch.split(images, FEW)  # of all at once, K copies would go through the network
        places = [None] * len(parts) if condition is None else torch.split(condition, FEW)
        pieces = [self.image(*part) for part in zip(parts, places, strict=True)]
        covered = torch.stack([image.there.sum() for image in pieces]).sum().clamp(min=1)
        errors = torch.stack([self.looks.levels(image)[0].sum((0, 2, 3)) for image in pieces])
        each = errors.sum(0) / covered
        figures = {f"denoising_error_{k}": float(e) for k, e in enumerate(each)}
        return figures | (self._bits(pieces[0]) if "surprise" in self.gives else {})

    @override
    @torch.no_grad()
    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """Samples; and good images above what is expected of them, level by level."""
        images = images[: SHOWN[1]]
        turn = torch.arange(SHOWN[0] * SHOWN[1]) % images.shape[0]
        told = None if condition is None else condition[: SHOWN[1]]
        drawn = self.sample(images[turn], 0, None if told is None else told[turn])
        x, there = images[:, :-1], images[:, -1:] > 0
        rows = [x, *self.levels(images, told)]
        return {
            "samples": torch.stack(torch.split(drawn, SHOWN[1])),
            "denoised": torch.stack([row * there for row in rows]),
        }

    def levels(self, images: Tensor, condition: Tensor | None) -> list[Tensor]:
        """What is expected of images at each noise level, (N, C, H, W)."""
        each = self.looks.expected(self.image(images, condition)).unbind(1)
        return [self.shown(self.process.raw(x0), images[:, -1:], condition) for x0 in each]

    def _sampled(self, like: Tensor, seed: int, told: Tensor | None, calls: int) -> Tensor:
        w = like[:, -1:]
        drawn = self.process.draw(self.covered(w), seed, told, calls)
        return self.shown(drawn, w, told) * (w > 0)

    @torch.no_grad()
    def _learn_scale(self, batches: Drawn, run: Run) -> None:
        # nothing is standardised yet: x is as it was
        found = [self._at(step, batches, run) for step in range(min(FIRST, run.budget.steps))]
        self.process.standardise(
            torch.cat([image.x for image in found]), torch.cat([image.w for image in found])
        )

    @torch.no_grad()
    def _at(self, step: int, batches: Drawn, run: Run) -> Image:
        images, condition = batches.at(step).to(run.device), batches.condition(step)
        return self.image(images, None if condition is None else condition.to(run.device))

    def _bits(self, image: Image) -> dict[str, float]:
        """The bound's parts in bits a number, of the process on raw numbers."""
        process = self.process
        times = process.schedule.even(min(CALLS, process.config.steps))
        parts = self.looks.bound(image, process.fixed(len(times), 3).to(image.x), times)
        numbers = (image.w.sum() * process.shape[0]).clamp(min=1) * math.log(2)
        named = parts._asdict().items()
        found = {f"{n}_bits_per_dim": float((p * image.w).sum() / numbers) for n, p in named}
        unit = float(process.scale.log2().mean()) + self.bits
        return found | {"bound_bits_per_dim": sum(found.values()) + unit}
