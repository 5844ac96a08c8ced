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

from inspect_ai.data.conditions import Places
from inspect_ai.errors import BadImages, BadSettings
from inspect_ai.preprocess import Preprocess, View
from inspect_ai.scores import Pixels, Scores
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.training.descent import Drawn, Run

# fields of Seen that are sums over cells: shared out
SUMS = ("surprise", "usual", "varied", "background", "slope", "features")
MEANS = ("errors", "pull", "inverted")  # ... and those that a cell has, however fine it is cut
Given = tuple[Pixels, Places | None]  # images of one shape and their conditions


class Model(nn.Module):
    """What a model file defines. Images are (N, C + 1, h, w), the last channel coverage."""

    gives: ClassVar[tuple[str, ...]] = ()  # fields of Seen beyond the expectation
    maps_only: ClassVar[bool] = False  # whether it reads dies, which pictures do not have
    native: ClassVar[bool] = False  # sees a map's own dies, on a canvas, instead of the grid
    classes: int = 0  # products or layers it tells apart; 0: it is told of none
    wanted: frozenset[str] = frozenset()  # fields of Seen that the rule reads: leave out others

    def fit(self, batches: Drawn, run: Run) -> Self:
        """Learns from good images."""
        raise NotImplementedError

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        """What it makes of images; the same image, the same answer.

        Args:
            condition: (N,) int64 in 0 .. classes - 1; None where `classes` is 0.
        """
        raise NotImplementedError

    def sample(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        """New images from the model alone, (N, C, h, w) in [0, 1]; 0 where nothing is covered.

        Args:
            like: (N, C + 1, h, w) images whose coverage, and nothing else, they take.
            condition: (N,) int64 in 0 .. classes - 1; None where `classes` is 0.

        Raises:
            BadSettings: the model redraws images and draws none.
        """
        del like, seed, condition
        raise BadSettings(
            f"{type(self).__name__} redraws the images that it is shown and draws none of its own; "
            "needed is a model that does: f_anogan, bigan, vae, flow, pixelcnn, pixelrnn, nade, "
            "diffusion, latent_diffusion, or vqvae with an ordered prior."
        )

    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        """Figures of a fitted model on good images that no weight has seen, for the records."""
        del images, condition
        return {}

    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """Sheets of pictures by name, (rows, columns, C, h, w) in [0, 1]; drawn after a fit."""
        del images, condition
        return {}

    def glimpse(self) -> Tensor | None:
        """What a generator draws now, (rows, columns, C, h, w) in [0, 1]; looked at in each epoch."""
        return None


class Stage(Model):
    """A model that codes images and redraws them from their codes alone: a first stage of another.

    `latent` is (D, a, b): D numbers for each of a x b patches of `grid`; None where codes are no
    such map.
    """

    latent: tuple[int, int, int] | None = None
    grid: tuple[int, int]

    def encode(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, C + 1, h, w) images to codes (N, D, a, b)."""
        raise NotImplementedError

    def decode(self, z: Tensor, coverage: Tensor, condition: Tensor | None = None) -> Tensor:
        """Codes (N, D, a, b) and coverage (N, 1, h, w) to images (N, C, h, w) in [0, 1]."""
        raise NotImplementedError


class Buildable(Protocol):
    """A model file's Config."""

    def build(self, channels: int, grid: tuple[int, int]) -> Model:
        """The model for C channels on a grid of (h, w) cells."""


class Conditional(Protocol):
    """The Config of a model that can be told a condition; `conditional` is True."""

    conditional: ClassVar[bool]

    def build(self, channels: int, grid: tuple[int, int], classes: int = 0) -> Model:
        """The model for C channels on a grid of (h, w) cells, and so many conditions."""


class Staged(Protocol):
    """The Config of a model of another one's codes."""

    def build(
        self, channels: int, grid: tuple[int, int], classes: int = 0, stage: Model | None = None
    ) -> Model:
        """The model of the codes of a first stage, which it is handed as a value."""


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

    @property
    def classes(self) -> int:
        """Conditions that an image is told apart by; 0: none is asked for."""
        return 0

    def forward(self, pixels: Tensor, condition: Tensor | None = None) -> Outputs:
        """Scores of (N, C, H, W) pixels in the file's own type."""
        raise NotImplementedError

    @torch.no_grad()
    def score(self, pixels: Pixels, condition: Places | None = None) -> Scores:
        """Scores of a batch; no gradient, input checked.

        Args:
            condition: (N,) in 0 .. classes - 1, where the detector is conditional.

        Raises:
            BadImages: not (N, C, H, W), a pixel outside the declared range, or a condition that
                is missing, not asked for or not known.
        """
        self._check(pixels)
        self._check_condition(len(pixels), condition)
        self.eval()
        images = torch.from_numpy(pixels)
        out = self(images) if condition is None else self(images, torch.from_numpy(condition))
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

    def _check_condition(self, images: int, condition: Places | None) -> None:
        places = np.empty(0, np.int64) if condition is None else condition
        known = bool(((places >= 0) & (places < self.classes)).all())
        if condition is None if not self.classes else len(places) == images and known:
            return
        wanted = f"one in 0 .. {self.classes - 1} for each of {images} images"
        raise BadImages(
            f"Conditions of the images: {places.tolist() or 'none'}; needed "
            f"{wanted if self.classes else 'none'}. Pass their places among the [condition] values "
            "of the run file, and nothing to a detector that has none."
        )


class Single(Detector):
    """One model and one rule."""

    def __init__(self, preprocess: Preprocess, model: Model, rule: Rule) -> None:
        super().__init__()
        self.preprocess, self.model, self.rule = preprocess, model, rule
        model.wanted = frozenset(rule.needs)

    @property
    @override
    def view(self) -> View:
        return self.preprocess.view

    @property
    @override
    def classes(self) -> int:
        return self.model.classes

    def fit(self, batches: Drawn, held_out: Callable[[], Iterable[Given]], run: Run) -> Self:
        """Fits the model on `batches`, then the rule on good pixels the model has not seen."""
        self.to(run.device).train()
        self.model.fit(batches, run)
        self.to("cpu").eval()
        self.rule.fit(self._pairs(held_out()))
        return self

    @override
    def forward(self, pixels: Tensor, condition: Tensor | None = None) -> Outputs:
        image, seen = self.look(pixels, condition)
        score, anomaly_map = self.rule(image, seen)
        if self._at_dies:
            return Outputs(score, anomaly_map, seen.expected)
        spread = self.preprocess.spread
        return Outputs(
            score, spread(anomaly_map[:, None], pixels)[:, 0], spread(seen.expected, pixels)
        )

    @torch.no_grad()
    def _pairs(self, batches: Iterable[Given]) -> Iterator[tuple[Tensor, Seen]]:
        for pixels, places in batches:
            condition = None if places is None else torch.from_numpy(places)
            yield self.look(torch.from_numpy(pixels), condition)

    @property
    def _at_dies(self) -> bool:
        """Whether the rule sees a map's dies; a picture has none."""
        return self.view.kind == "wafer_map" and (self.rule.at_dies or self.model.native)

    def look(self, pixels: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Seen]:
        """The image at the view where its rule scores it, and what the model makes of it there."""
        view = self.preprocess
        if not self._at_dies:
            image = view(pixels)
            return image, self.model(image, condition)
        dies = view.detail(pixels)
        if self.model.native:
            return dies, self.model(dies, condition)
        seen: Seen = self.model(view(pixels), condition)
        moved = {
            name: _moved(view, cells, pixels, total=name in SUMS)
            for name in (*SUMS, *MEANS)
            if (cells := getattr(seen, name)) is not None
        }
        return dies, seen._replace(expected=view.spread(seen.expected, pixels), **moved)

    def seen_by_model(self, pixels: Tensor) -> Tensor:
        """What the model is given of pixels: its grid, or a map's own dies."""
        dies = self.model.native and self.view.kind == "wafer_map"
        return self.preprocess.detail(pixels) if dies else self.preprocess(pixels)


def _moved(view: Preprocess, cells: Tensor, pixels: Tensor, total: bool) -> Tensor:
    """(N, h, w) or (N, K, h, w) of the grid to a map's dies."""
    if cells.ndim == 4:
        return view.spread(cells, pixels, total=total)
    return view.spread(cells[:, None], pixels, total=total)[:, 0]
