"""What the numbers of a scan can and cannot say: how small a p-value gets, which threshold marks.

A yardstick of n units (good images, or lots where lots count) gives no p-value below 1 / (n + 1),
and no q-value much below that. Each group has a yardstick of its own, so these come as ranges.
"""

import numpy as np

from inspect_ai.calibration.conformal import allowed_rank, sure, tightest
from inspect_ai.calibration.groups import ALL
from inspect_ai.review import words
from inspect_ai.review.scanned import Run, Scan
from inspect_ai.review.summary import SHARES, Numbers
from inspect_ai.scores import Float64

MEANING = {
    "image": "The share of good calibration images at least as odd as this image",
    "lot": "The share of lots, one good image drawn of each, at least as odd as this image",
    "lot_share": "The share of good calibration images at least as odd as this image, each lot "
    "counted once",
    "lot_maximum": "The share of lots whose oddest good image is at least as odd as this image",
}


def numbers(scan: Scan) -> Numbers:
    """What a reader of the page needs beside each number; `image_threshold` and `pixel_threshold`
    are the least and the largest that the rows were judged by."""
    run, units = scan.run, _units(scan)
    least = [1 / (units.max() + 1), 1 / (units.min() + 1)]
    return {
        "good_images": len(scan.calibration) or run.calibration_images,
        "p_value": MEANING[run.unit],
        "in_groups": len(run.levels) > 1,
        "least_p_value": least,
        "least": f"The smallest that {_counted(run, units)} can give is {_between(least)}",
        "why_no_q_value": _why_no_q_value(scan, units),
        "image_threshold": used(scan, "image_threshold"),
        "pixel_threshold": used(scan, "pixel_threshold"),
        "pixel_promise": _pixel_promise(run, units),
        "larger_conditional": _larger_conditional(scan),
        "beyond": beyond(run),
    }


def used(scan: Scan, column: str) -> list[float]:
    """The least and the largest threshold that rows were judged by; empty where there is none."""
    found = scan.scores.get(column, np.array([]))
    values = np.asarray(found, np.float64)
    if not len(values) and (kept := getattr(scan.run, column)) is not None:
        values = np.array([kept])
    values = values[np.isfinite(values)]
    return [float(values.min()), float(values.max())] if len(values) else []


def beyond(run: Run) -> bool:
    """Whether the promised rate is below what the good images support: a fitted tail set it."""
    units = run.levels[ALL].units if ALL in run.levels else run.calibration_images
    return units > 0 and not allowed_rank(units, *_asked(run))


def _asked(run: Run) -> tuple[float, float | None]:
    return run.false_alarm_rate, sure(run.confidence, run.unit)


def _units(scan: Scan) -> Float64:
    """What counts, of each level that judged an image."""
    levels = scan.run.levels
    seen = set(scan.scores.get("group_level", ())) & set(levels) or set(levels)
    units = [levels[name].units for name in sorted(seen)]
    return np.array(units or [scan.run.calibration_images], np.float64)


def _counted(run: Run, units: Float64) -> str:
    what = "calibration images" if run.unit == "image" else "lots"
    if units.min() == units.max():
        return f"{units[0]:,.0f} {what}"
    return f"the {units.min():,.0f} to {units.max():,.0f} {what} of a group"


def _between(ends: list[float], digits: int = 2) -> str:
    low, high = (words.number(end, digits) for end in ends)
    return low if low == high else f"{low} to {high}"


def _why_no_q_value(scan: Scan, units: Float64) -> str | None:
    """Why no image has a small q-value, where that is for want of good images, not of odd ones."""
    if "q_value" not in scan.scores or scan.flagged.empty:
        return None
    p_value = scan.scores["p_value"].to_numpy(float)
    least = [1 / (units.max() + 1), 1 / (units.min() + 1)]
    if (scan.scores["q_value"] <= SHARES[0]).any() or p_value.min() > least[1] * (1 + 1e-9):
        return None
    return (
        f"None is at most {words.share(SHARES[0])}: with {_counted(scan.run, units)} p cannot go "
        f"below {_between(least)}, and q is p times all images scanned, divided by those with as "
        "small a p."
    )


def _pixel_promise(run: Run, units: Float64) -> str:
    """What the threshold on the map promises."""
    if run.pixel_rate is not None:
        where = "" if run.unit == "image" else " in images of new lots"
        return (
            f"of all good pixels{where} at most {words.rate(run.pixel_rate)} is marked, on average"
        )
    rate = run.false_alarm_rate
    if beyond(run):
        rate = tightest(int(units.min()), sure(run.confidence, run.unit))
    if run.unit == "lot_maximum":
        return f"in at most {words.rate(rate)} of lots any good image has a pixel above it"
    return f"at most {words.rate(rate)} of good images have a pixel above it"


def _larger_conditional(scan: Scan) -> bool:
    """Whether a flagged image has a p-value with confidence above the promised rate."""
    if "p_value_conditional" not in scan.scores:
        return False
    return bool((scan.flagged["p_value_conditional"] > scan.run.false_alarm_rate).any())
