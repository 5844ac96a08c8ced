"""What a person should know of a calibration before trusting its promise.

Images of one lot are alike, so that many of them are worth few; a category with too few has no
threshold of its own; and images that are called good need not be. None of this changes a
threshold: calibration is never trimmed.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from inspect_ai.bundle.thresholds import Level
from inspect_ai.calibration import contamination, groups, lots
from inspect_ai.calibration.conformal import Unit, allowed_rank, needed, sure
from inspect_ai.calibration.groups import ALL
from inspect_ai.calibration.lots import Effective
from inspect_ai.calibration.promise import Promise
from inspect_ai.calibration.tails import Tail
from inspect_ai.errors import MissingData
from inspect_ai.review.words import number
from inspect_ai.scores import Bool
from inspect_ai.settings import Settings

CARDS = ("bundle.json", "calibration.json")
ODDEST = 5  # images named
NAMED = 8  # categories named


class Kept(Settings, extra="ignore"):
    """What a bundle or a calibration says of its promise."""

    false_alarm_rate: float
    confidence: float | None = None
    unit: Unit = "image"
    groups: tuple[str, ...] = ()
    levels: dict[str, Level] = Field(default_factory=dict)
    tail: Tail | None = None

    @property
    def asked(self) -> tuple[float, float | None]:
        """Rate and confidence, as the binomial law is asked."""
        return self.false_alarm_rate, sure(self.confidence, self.unit)


class Told(NamedTuple):
    """Sentences: what is so, and what to look at."""

    lines: list[str]
    warnings: list[str]


def told(folder: Path) -> Told:
    """What is to be said of a bundle or of the folder that calibrate wrote.

    Raises:
        MissingData: the folder is neither.
    """
    path = next((folder / name for name in CARDS if (folder / name).is_file()), None)
    if path is None:
        raise MissingData(
            f"{folder} holds neither {' nor '.join(CARDS)}. Pass a folder that 'inspect-ai build', "
            "'calibrate' or 'export' wrote."
        )
    kept = Kept.checked(json.loads(path.read_text(encoding="utf-8")), str(path))
    table = pd.read_parquet(folder / "calibration.parquet")
    whole = _effective(table)
    lines = [f"the {_worth(whole, ' are')}"] * (whole.lots < whole.images)
    of_levels = {ALL: whole}
    if kept.groups:
        rows, alone = _cut(table, kept)
        of_levels = {name: _effective(table[own]) for name, own in rows.items()}
        lines += [
            f"{name}: threshold {number(kept.levels[name].image_threshold, 4)}; {_worth(found)}"
            for name, found in of_levels.items()
            if name in kept.levels and len(of_levels) > 1
        ]
        lines += alone
    return Told(lines, [*_alike(of_levels, kept), *_sticks_out(table)])


def _effective(table: pd.DataFrame) -> Effective:
    return lots.effective(table["pred_score"].to_numpy(np.float32), table["group"])


def _worth(found: Effective, are: str = "") -> str:
    said = f"{found.images:,} good images"
    if found.lots == found.images:
        return said
    of = _count(found.lots, "lots")
    return f"{said}{are} of {of}, worth about {found.worth:,.0f} independent ones"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what if n != 1 else what.removesuffix('s')}"


def _cut(table: pd.DataFrame, kept: Kept) -> tuple[dict[str, Bool], list[str]]:
    """The images that each level was calibrated on, and the categories without a level."""
    promise = Promise(
        false_alarm_rate=kept.false_alarm_rate,
        confidence=kept.confidence,
        unit=kept.unit,
        groups=kept.groups,
    )
    made = groups.yardsticks(table, "pred_score", promise)
    # a promise that one image can keep gives each category a level
    any_at_all = promise.model_copy(update={"false_alarm_rate": 0.5, "confidence": None})
    finest = groups.yardsticks(table, "pred_score", any_at_all).level(table)
    judged, rows = made.level(table), dict[str, Bool]()
    for name in made.levels:
        rows[name] = (
            _within(finest, name) if name in made.mixed else (judged == name).to_numpy(bool)
        )
    return rows, _without(table, finest, set(made.levels), kept)


def _within(finest: "pd.Series[str]", name: str) -> Bool:
    """Rows of a category and of the finer ones in it."""
    inside = (finest == name) | finest.str.startswith(f"{name}/") | (name == ALL)
    return inside.to_numpy(bool)


def _without(
    table: pd.DataFrame, finest: "pd.Series[str]", levels: set[str], kept: Kept
) -> list[str]:
    """One line that names categories without a threshold of their own, if there are any."""
    parts = [name.split("/") for name in finest.unique() if name != ALL]
    every = sorted({"/".join(p[:n]) for p in parts for n in range(1, len(p) + 1)} - levels)
    if not every:
        return []
    least, what = needed(*kept.asked), "images" if kept.unit == "image" else "lots"
    every.sort(key=lambda name: name.count("/"))
    said = []
    for name in every[:NAMED]:
        n = lots.units(table["group"][_within(finest, name)], kept.unit)
        said.append(f"{name} ({_count(n, what)}, needs {least:,})")
    more = f" and {len(every) - NAMED:,} more" if len(every) > NAMED else ""
    return [f"none of {'its' if len(every) == 1 else 'their'} own: {', '.join(said)}{more}"]


def _alike(of_levels: dict[str, Effective], kept: Kept) -> list[str]:
    """A warning where a promise counts images that are worth too few."""
    if kept.unit != "image":
        return []
    if kept.tail is not None:
        found = of_levels[ALL]
        return [
            f"the tail was fitted as if its {found.images:,} images were independent; they are "
            f"worth about {found.worth:,.0f}, so the range it names is too narrow. Set unit = "
            '"lot" in [calibration].'
        ] * (found.worth < 0.5 * found.images)
    short = [
        f"{found.images:,} good images{f' of {name}' if name != ALL else ''} are worth about "
        f"{found.worth:,.0f}"
        for name, found in of_levels.items()
        if not allowed_rank(int(found.worth), *kept.asked)
    ]
    if not short:
        return []
    more = f"; and {len(short) - NAMED:,} more" if len(short) > NAMED else ""
    return [
        f"the promise takes images for independent ones and needs {needed(*kept.asked):,}: "
        f"{'; '.join(short[:NAMED])}{more}. It may not hold for new lots. "
        'Set unit = "lot" in [calibration].'
    ]


def _sticks_out(table: pd.DataFrame) -> list[str]:
    """A warning where some calibration images do not look like good ones."""
    found = contamination.share(table["pred_score"].to_numpy(np.float32))
    if not found.share:
        return []
    oddest = table.sort_values("pred_score", ascending=False, kind="stable").head(ODDEST)
    named = oddest["image_path" if "image_path" in table else "image_id"].astype(str)
    return [
        f"the calibrate images may not all be good. {found.words} The oddest: {', '.join(named)}. "
        "Look at them ('inspect-ai suspects' looks at the train images); calibration is never "
        "trimmed, so a bad image in it only makes alarms rarer."
    ]
