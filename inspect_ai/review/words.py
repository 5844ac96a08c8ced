"""Numbers in words: how the page spells counts, shares, times, and its verdict."""

import numpy as np

from inspect_ai.review.scanned import Run
from inspect_ai.review.summary import Numbers

THIN = "\u202f"  # narrow space that does not break
NOTHING = "–"


def verdict(run: Run, batch: Numbers, overkill: Numbers | None, standouts: str) -> Numbers:
    """The page's first lines.

    `standing` is "as promised", "more", "fewer" or "nothing scanned": of the known good
    images (or lots of them) where labels are known, else of all images against what good ones would do.
    """
    images, flagged = batch["images"], batch["flagged"]
    headline = f"{count(flagged)} of {count(images)} images flagged"
    if images:
        headline += f" ({share(batch['flagged_rate'])})"
    known = overkill if overkill is not None else batch
    return {
        "headline": headline + ".",
        "promise": run.promise,
        "observed": _observed(run, batch) if overkill is None else _overkill(overkill, run),
        "standing": known["standing"],
        "by_label": overkill is not None,
        "standouts": standouts,
    }


def count(value: object) -> str:
    """1,234; a dash for None."""
    return NOTHING if value is None else f"{value:,}"


def share(value: object) -> str:
    """0.0187 as 1.9 %; 0.00034 as 0.034 %; a dash for None."""
    if not isinstance(value, (int, float)):
        return NOTHING
    percent = 100 * value
    if 0 < abs(percent) < 0.1:
        return f"{number(percent, 2)}{THIN}%"
    return f"{percent:.1f}".removesuffix(".0") + f"{THIN}%"


def rate(value: float) -> str:
    """A promised rate, not rounded as what was seen is: 0.0015 as 0.15 %."""
    return f"{number(100 * value, 4)}{THIN}%"


def number(value: object, digits: int = 3) -> str:
    """Three digits that count, never 1e-05; a dash for None."""
    if not isinstance(value, (int, float)) or not np.isfinite(value):
        return NOTHING
    if abs(value) >= 10 ** (digits + 3):
        return f"{value:.{digits - 1}e}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return str(
        np.format_float_positional(
            value, precision=digits, fractional=False, trim="-", unique=False
        )
    )


def when(iso: object) -> str:
    """An ISO 8601 time to the minute: 2025-01-06 06:00 UTC."""
    text = str(iso or "")
    if len(text) < 16 or text[10] not in "T ":
        return text or NOTHING
    zone = " UTC" if text.endswith(("Z", "+00:00")) else ""
    return f"{text[:10]} {text[11:16]}{zone}"


def span(seconds: object) -> str:
    """A duration: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if not isinstance(seconds, (int, float)):
        return NOTHING
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes = int(seconds // 60)
    return (
        f"{minutes} min {seconds % 60:.0f} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60} min"
    )


def _overkill(overkill: Numbers, run: Run) -> str:
    interval = overkill["interval"]
    assert isinstance(interval, list)
    low, high = (share(end) for end in interval)
    told = f"{share(overkill['rate'])} (95{THIN}% interval {low} to {high})"
    if run.unit == "lot_maximum":
        return (
            f"Of {count(overkill['units'])} lots with images known to be good, "
            f"{count(overkill['units_flagged'])} had one or more of these flagged: {told}; "
            f"promised is {rate(run.false_alarm_rate)} of lots."
        )
    were = "was" if overkill["flagged"] == 1 else "were"
    return (
        f"Of {count(overkill['good_images'])} images known to be good, "
        f"{count(overkill['flagged'])} {were} flagged: {told}; "
        f"promised is {rate(run.false_alarm_rate)}."
    )


def _observed(run: Run, batch: Numbers) -> str:
    if not batch["images"]:
        return "No image was scored."
    expected = batch["expected_if_all_good"]
    assert isinstance(expected, float)
    about = f"{expected:,.0f}" if expected >= 10 else number(expected, 2)
    if run.unit == "lot_maximum":
        return (
            f"Of {count(batch['units'])} lots, {count(batch['units_flagged'])} have a flagged image. "
            f"If all images were good, at most about {about} would have one, and seldom more than "
            f"{count(batch['most_if_all_good'])}."
        )
    return (
        f"If all images were good, {'about' if run.confidence is None else 'at most about'} {about} "
        f"would be flagged, and seldom more than {count(batch['most_if_all_good'])}."
    )
