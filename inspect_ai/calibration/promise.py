"""What a run file asks of a calibration."""

from typing import Self

from pydantic import Field, model_validator

from inspect_ai.calibration.conformal import Unit
from inspect_ai.settings import Settings

NOT_GROUPS = {"group", "gt_label", "image_id", "image_path", "label", "mask_path", "split"}


class Basis(Settings):
    """What the promise counts, for which groups it is kept apart, and what it says of pixels."""

    unit: Unit = "image"  # what is exchangeable, and counts once
    groups: tuple[str, ...] = ()  # columns with yardsticks of their own, from coarse to fine
    pixel_rate: float | None = Field(default=None, gt=0, lt=1)  # of good pixels, flagged at most
    tail: bool = False  # a rate beyond what the images support, by a fitted tail: no guarantee

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if twice := sorted({name for name in self.groups if self.groups.count(name) > 1}):
            raise ValueError(f"groups name {', '.join(twice)} twice; drop one")
        if wrong := sorted(set(self.groups) & NOT_GROUPS):
            raise ValueError(
                f"groups name {', '.join(wrong)}, which no new image shares or which tells the "
                "truth; name what is known of each image beforehand, as product or tool"
            )
        if self.tail and self.unit == "lot_share":
            raise ValueError("tail needs independent scores; use unit = 'lot' or 'lot_maximum'")
        if self.tail and self.groups:
            raise ValueError("tail and groups do not go together; drop one")
        return self


class Promise(Basis):
    """All of it: the rate, how sure, and on what basis."""

    false_alarm_rate: float = Field(gt=0, lt=1)  # share of good images that may be flagged
    confidence: float | None = Field(default=None, gt=0, lt=1)  # None: on average
