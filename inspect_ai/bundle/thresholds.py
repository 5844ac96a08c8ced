"""All that a verdict follows from: thresholds and promises, made from calibration.parquet alone.

Made once at export, and again at every load: a card whose thresholds do not follow from the good
scores beside it was changed by hand. Only a fitted tail is kept as it was fitted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from inspect_ai.calibration import groups, lots, pixels, tails
from inspect_ai.calibration.conformal import allowed_rank, tightest
from inspect_ai.calibration.groups import ALL, Yardsticks
from inspect_ai.calibration.promise import Promise
from inspect_ai.scores import Float64
from inspect_ai.settings import Settings

MIXED = " This holds over the mixture it was calibrated on, not for each group in it."


class Level(Settings):
    """What judges the images of one category; "all" is every image."""

    images: int  # good calibration images
    units: int  # of those that count: images, or lots
    image_threshold: float  # scores strictly above it are flagged
    pixel_threshold: float  # the same rule on each image's largest map value
    promise: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Yardsticks of scores and of maps, and what they promise."""

    promise: Promise
    scores: Yardsticks
    peaks: Yardsticks  # of each image's largest map value
    levels: Mapping[str, Level]
    effective: lots.Effective
    pixel_rate: float | None = None  # threshold that keeps the promised rate of good pixels
    tail: tails.Tail | None = None  # where the rate is beyond what good images support

    @property
    def conditional(self) -> bool:
        """Whether there are p-values that hold with confidence; see conformal.py."""
        return self.promise.confidence is not None and self.promise.unit != "lot_share"

    def promises(self, level: "pd.Series[str]") -> list[str]:
        """What is promised to each row."""
        codes, names = pd.factorize(level.to_numpy(object))
        said = np.array([self.levels[name].promise for name in names], object)
        return list(said[codes]) if len(names) else []

    def of_pixels(self, level: "pd.Series[str]") -> Float64:
        """(N,) map values above which a pixel is marked: by the rate of pixels, where one is
        promised, else by image."""
        if self.pixel_rate is not None:
            return np.full(len(level), self.pixel_rate)
        return self.peaks.threshold(level)

    def fields(self) -> dict[str, Any]:
        """What a card says of it."""
        whole = self.levels[ALL]
        return {
            "false_alarm_rate": self.promise.false_alarm_rate,
            "confidence": self.promise.confidence,
            "image_threshold": whole.image_threshold,
            "pixel_threshold": whole.pixel_threshold,
            "promise": whole.promise,
            "calibration_images": whole.images,
            "unit": self.promise.unit,
            "groups": self.promise.groups,
            "levels": dict(self.levels),
            "lots": self.effective.lots,
            "correlation": self.effective.correlation,
            "worth": self.effective.worth,
            "pixel_rate": self.promise.pixel_rate,
            "pixel_rate_threshold": self.pixel_rate,
            "tail": self.tail,
        }


class Beyond(NamedTuple):
    """A threshold that a fitted tail gave, and what it says of it."""

    tail: tails.Tail
    threshold: float
    promise: str


def derive(kept: pd.DataFrame, promise: Promise, known: Beyond | None = None) -> Thresholds:
    """Thresholds of good scores.

    Args:
        kept: as in calibration.parquet: image_id, group, pred_score, map_max, the promise's groups
            and, for a pixel rate, map_shares.
        known: of a tail that was fitted before; None fits it, where the promise asks for one.

    Raises:
        TooFewGoodImages: the images cannot support the promise, of images or of pixels.
        BadFit: a tail was asked for and does not fit.
        MissingData: a column is not there.
    """
    n = lots.units(kept["group"], promise.unit)
    beyond = promise.tail and not allowed_rank(n, promise.false_alarm_rate, promise.confidence)
    kept_to = promise
    if beyond:  # p-values and maps are judged by what the images do support
        rate = tightest(n, promise.confidence)
        kept_to = promise.model_copy(update={"false_alarm_rate": rate})
    scores, peaks = (groups.yardsticks(kept, c, kept_to) for c in ("pred_score", "map_max"))
    said = {
        name: yardstick.promise + MIXED * (name in scores.mixed)
        for name, yardstick in scores.levels.items()
    }
    tail = None
    if beyond:
        tail, threshold, promised = known or _beyond(scores, promise)
        scores, said = replace(scores, thresholds={ALL: threshold}), {ALL: promised}
    levels = {
        name: Level(
            images=scores.images[name],
            units=scores.levels[name].units,
            image_threshold=scores.thresholds[name],
            pixel_threshold=peaks.thresholds[name],
            promise=said[name],
        )
        for name in scores.levels
    }
    effective = lots.effective(kept["pred_score"].to_numpy(np.float32), kept["group"])
    return Thresholds(promise, scores, peaks, levels, effective, _pixel_rate(kept, promise), tail)


def _beyond(scores: Yardsticks, promise: Promise) -> Beyond:
    tail, rate = tails.fit(scores.all.good_scores), promise.false_alarm_rate
    # a rarer alarm is not set off sooner than the rarest that good images support
    threshold = max(tail.threshold(rate), scores.thresholds[ALL])
    return Beyond(tail, threshold, tail.promise(rate, promise.unit))


def _pixel_rate(kept: pd.DataFrame, promise: Promise) -> float | None:
    """One image of a lot counts, where lots do: the rate is that of a new lot's image."""
    if promise.pixel_rate is None:
        return None
    if promise.unit != "image":
        kept = kept[lots.chosen(kept["image_id"], kept["group"])]
    summaries = np.stack(kept["map_shares"].to_list()).astype(np.float32)
    return pixels.rate_threshold(summaries, promise.pixel_rate)
