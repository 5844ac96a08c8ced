"""Thresholds counted (promises.py): by image, and p-values that hold at all levels at once."""

from collections.abc import Iterator

import numpy as np

from inspect_ai.calibration.conformal import How, allowed_rank, calibrate, conditional
from inspect_ai.scores import Float64
from pipelines.counting import DELTA, KINDS, Asked, Kind, Row, judged

ASKED: tuple[tuple[float, int, float | None], ...] = (
    (0.05, 200, None),
    (0.01, 200, None),
    (0.002, 1000, None),
    (0.05, 200, 1 - DELTA),
    (0.01, 500, 1 - DELTA),
)
ALL_LEVELS = 500  # images whose p-values hold at all levels at once


def rows(splits: int) -> Iterator[Row]:
    """One threshold, of images that are exchangeable."""
    for kind in KINDS:
        for rate, n, confidence in ASKED:
            sure = "on average" if confidence is None else "95 % confidence"
            asked = Asked(f"threshold, {sure}", kind.name, f"{n:,}", rate, confidence)
            shares, law = overkill(kind, rate, n, confidence, splits)
            yield judged(asked, shares, law=law if kind.smooth else None)
    hows: tuple[How, ...] = ("simes", "dkw")
    for kind in KINDS:
        for how in hows:
            yield _all_levels(kind, how, splits)


def overkill(
    kind: Kind, rate: float, n: int, confidence: float | None, splits: int
) -> tuple[Float64, tuple[int, int]]:
    """(splits,) shares of the law above the thresholds, and the Beta law that they follow."""
    r = allowed_rank(n, rate, confidence)
    rng = kind.generator(n, r)
    at = [calibrate(kind.draw(rng, n), rate, confidence).threshold for _ in range(splits)]
    return kind.above(np.array(at)), (r, n + 1 - r)


def _all_levels(kind: Kind, how: How, splits: int) -> Row:
    """p-values of one calibration, at every level at once; the mean is of those up to 5 %."""
    n, limits = ALL_LEVELS, conditional(ALL_LEVELS, DELTA, how)[:-1]
    rng = kind.generator(n)
    good = np.stack([np.sort(kind.draw(rng, n))[::-1] for _ in range(splits)])
    shares = kind.above(good.astype(np.float64))  # flagged at the i-th smallest p-value
    broken = np.asarray((shares > limits * (1 + 1e-9)).any(axis=1))
    up_to = int((limits <= 0.05).sum())
    flagged = shares[:, up_to - 1] if up_to else np.zeros(splits)
    name = f"p-values up to 5 %, all levels at once, {'Simes' if how == 'simes' else 'DKW'}"
    asked = Asked(name, kind.name, f"{n:,}", 0.05, 1 - DELTA)
    return judged(asked, flagged, broken)
