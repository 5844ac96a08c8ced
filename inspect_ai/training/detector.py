"""Single = preprocessing + model + scoring rule. Read this to add a model.

A model file gives a `Config` whose `build(channels, grid)` makes a `Model`: what it makes of an
image, above all what it expects to see. A rule turns image and expectation into scores. A single
detector puts them in a row, from the file's own pixels to the score; `forward` is what is
exported. Detectors can be members of another one (models/fusion.py).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.errors import BadImages
from inspect_ai.preprocess import Preprocess, View
from inspect_ai.scores import Pixels, Scores
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.training.descent import Drawn, Run


class Model(nn.Module):
    """What a model file defines. Images are (N, C + 1, h, w), the last channel coverage."""

    gives: ClassVar[tuple[str, ...]] = ()  # fields of Seen beyond the expectation
    maps_only: ClassVar[bool] = False  # whether it reads dies, which pictures do not have
    native: ClassVar[bool] = False  # sees a map's own dies, on a canvas, instead of the grid

    def fit(self, batches: Drawn, run: Run) -> Self:
        """Learns from good images."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Seen:
        """What it makes of images; the same image, the same answer."""
        raise NotImplementedError


class Buildable(Protocol):
    """A model file's Config."""

    def build(self, channels: int, grid: tuple[int, int]) -> Model:
        """The model for C channels on a grid of (h, w) cells."""


class Outputs(NamedTuple):
    """What a detector says, under the names of the exported graph's outputs."""

    pred_score: Tensor  # (N,)
    anomaly_map: Tensor  # (N, H, W)
    expected: Tensor  # (N, C, H, W)


class Detector(nn.Module):
    """Pixels of a file in, scores out."""

    @property
    def view(self) -> View:
        """How pixels become what a model sees."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Outputs:
        """Scores of (N, C, H, W) pixels in the file's own type."""
        raise NotImplementedError

    @torch.no_grad()
    def score(self, pixels: Pixels) -> Scores:
        """Scores of a batch; no gradient, input checked.

        Raises:
            BadImages: not (N, C, H, W), or a pixel outside the declared range.
        """
        self._check(pixels)
        self.eval()
        out = self(torch.from_numpy(pixels))
        return Scores(*(np.asarray(t.numpy()) for t in out))

    def _check(self, pixels: Pixels) -> None:
        view = self.view
        if pixels.ndim != 4 or pixels.shape[1] != view.channels:
            raise BadImages(
                f"Pixels of shape {pixels.shape}; needed (N, {view.channels}, H, W). "
                "Add the missing axes, or read images through a data spec."
            )
        low, high = float(pixels.min()), float(pixels.max())
        # as images.checked: a dark pixel of an integer file may lie below `minimum`, and is 0
        smallest = view.minimum if pixels.dtype.kind == "f" else 0.0
        if not (smallest <= low and high <= view.maximum):
            raise BadImages(
                f"Pixels must lie in [{smallest:g}, {view.maximum:g}], got [{low:g}, {high:g}]. "
                "Correct 'depth', 'minimum' or 'maximum' in the data spec."
            )


class Single(Detector):
    """One model and one rule."""

    def __init__(self, preprocess: Preprocess, model: Model, rule: Rule) -> None:
        super().__init__()
        self.preprocess, self.model, self.rule = preprocess, model, rule

    @property
    @override
    def view(self) -> View:
        return self.preprocess.view

    def fit(self, batches: Drawn, held_out: Callable[[], Iterable[Pixels]], run: Run) -> Self:
        """Fits the model on `batches`, then the rule on good pixels the model has not seen."""
        self.to(run.device).train()
        self.model.fit(batches, run)
        self.to("cpu").eval()
        self.rule.fit(self._pairs(held_out()))
        return self

    @override
    def forward(self, pixels: Tensor) -> Outputs:
        image, seen = self._look(pixels)
        score, anomaly_map = self.rule(image, seen)
        if self._at_dies:
            return Outputs(score, anomaly_map, seen.expected)
        spread = self.preprocess.spread
        return Outputs(
            score, spread(anomaly_map[:, None], pixels)[:, 0], spread(seen.expected, pixels)
        )

    @torch.no_grad()
    def _pairs(self, batches: Iterable[Pixels]) -> Iterator[tuple[Tensor, Seen]]:
        for pixels in batches:
            yield self._look(torch.from_numpy(pixels))

    @property
    def _at_dies(self) -> bool:
        """Whether the rule sees a map's dies; a picture has none."""
        return self.view.kind == "wafer_map" and (self.rule.at_dies or self.model.native)

    def _look(self, pixels: Tensor) -> tuple[Tensor, Seen]:
        """The image at the view where it is scored, and what the model makes of it there."""
        view = self.preprocess
        if not self._at_dies:
            image = view(pixels)
            return image, self.model(image)
        dies = view.detail(pixels)
        if self.model.native:
            return dies, self.model(dies)
        seen = self.model(view(pixels))
        surprise = seen.surprise
        if surprise is not None:
            surprise = view.spread(surprise[:, None], pixels, total=True)[:, 0]
        return dies, Seen(view.spread(seen.expected, pixels), surprise, seen.odds)
