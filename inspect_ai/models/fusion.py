"""Fusion: several detectors, joined by how rare each finds an image.

Each member's score s is turned into L(s) = -log P(S >= s), S the score of a good image, in nats;
the fused score is the sum over members. Up to a high quantile u the curve is read off good
images that no member was fitted on; above it, scores are taken to fall off exponentially,

    L(s) = -log P(S >= u) + (s - u) / m,    m the mean of s - u over good scores above u,

so that two wafers beyond all good ones still differ. The sum is not a p-value: members agree on
good images. The threshold is set anew on further good images, for the sum itself.

The map is the mean of the members' maps, each over its usual peak on good images.

Sources: Fisher, "Statistical methods for research workers", 4th ed., 1932, section 21.1 (the sum
of -log p). Bates, Candes, Lei, Romano, Sesia, "Testing for outliers with
conformal p-values", Ann. Statist. 51, 2023, section 2 (why the sum needs its own calibration).

Shapes: N images, K members, Q knots of a curve, M good images.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.preprocess import View
from inspect_ai.scores import Float64, Pixels
from inspect_ai.scoring.rarity import KNOTS, curve, rarity
from inspect_ai.settings import Settings
from inspect_ai.training.detector import Detector, Outputs

FEWEST = 20  # good images, for a curve with a tail


class Config(Settings):
    """How the members' curves are fitted."""

    curve_share: float = Field(default=0.4, gt=0, lt=1)  # of the calibrate split, by group
    tail: float = Field(default=0.05, gt=0, le=0.5)  # share of good scores that make up the tail

    def build(self, members: Sequence[Detector]) -> "Fusion":
        """The fusion of members, which it is handed as values.

        Raises:
            BadSettings: fewer than two, or members whose maps do not lie on one another.
        """
        views = [member.view for member in members]
        if len(members) < 2:
            raise BadSettings(f"A fusion needs two members or more, got {len(members)}. Add some.")
        if views[0].kind == "picture" and any(view.grid != views[0].grid for view in views):
            grids = ", ".join(f"{view.grid[0]} x {view.grid[1]}" for view in views)
            raise BadSettings(f"Members on pictures need one grid, got {grids}. Make them equal.")
        return Fusion(self, members)


def require_curves(images: int) -> None:
    """Refuses good images too few for curves with a tail.

    Raises:
        MissingData: fewer than FEWEST.
    """
    if images < FEWEST:
        raise MissingData(
            f"{images} good image(s) for the curves of a fusion, needed are {FEWEST}. Add images "
            "to the 'calibrate' split, or raise curve_share in [model]."
        )


class Fusion(Detector):
    """See the module's docstring for the method."""

    knots: Tensor
    slopes: Tensor
    peaks: Tensor

    def __init__(self, config: Config, members: Sequence[Detector]) -> None:
        super().__init__()
        self.config, self.members = config, nn.ModuleList(members)
        self.register_buffer("knots", torch.zeros(len(members), KNOTS))
        self.register_buffer("slopes", torch.zeros(len(members), KNOTS))
        self.register_buffer("peaks", torch.ones(len(members)))

    @property
    @override
    def view(self) -> View:
        first: Detector = self.members[0]  # type: ignore[assignment]
        return first.view

    def fit(self, good: Iterable[Pixels]) -> None:
        """Fits the curves on good pixels that no member was fitted on.

        Raises:
            MissingData: too few of them for a tail.
        """
        scores, peaks = self._measured(good)
        require_curves(len(scores))
        for k, own in enumerate(scores.T):
            knots, slopes = curve(own.astype(np.float64), self.config.tail)
            self.knots[k], self.slopes[k] = torch.from_numpy(knots), torch.from_numpy(slopes)
        self.peaks.copy_(torch.from_numpy(np.maximum(peaks.mean(0), 1e-6)))

    @override
    def forward(self, pixels: Tensor, condition: Tensor | None = None) -> Outputs:
        said = [member(pixels) for member in self.members]
        nats = rarity(torch.stack([out.pred_score for out in said], 1), self.knots, self.slopes)
        maps = [out.anomaly_map / peak for out, peak in zip(said, self.peaks, strict=True)]
        return Outputs(nats.sum(1), torch.stack(maps).mean(0), said[0].expected)

    @torch.no_grad()
    def _measured(self, good: Iterable[Pixels]) -> tuple[Float64, Float64]:
        """Scores and peaks of the maps by member, (M, K) each."""
        scores, peaks = [], []
        for pixels in good:
            said = [member(torch.from_numpy(pixels)) for member in self.members]
            scores.append(torch.stack([out.pred_score for out in said], 1))
            peaks.append(torch.stack([out.anomaly_map.amax((1, 2)) for out in said], 1))
        if not scores:
            return np.empty((0, 0)), np.empty((0, 0))
        return torch.cat(scores).double().numpy(), torch.cat(peaks).double().numpy()
