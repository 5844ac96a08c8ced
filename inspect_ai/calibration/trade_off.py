"""Overkill against escape, at every threshold there is: the good calibration scores.

The r-th largest of n good scores flags r / (n + 1) of good images on average, whatever the model.
Its interval at 95 % is that of the r - 1 good scores above it (Clopper-Pearson): the quantiles of
the share's own law, Beta(r, n + 1 - r), but for a lower end that is a little lower. Escape is the
share of labelled defects up to the threshold. Its interval is for a threshold that was fixed
without looking at those defects; one picked from the curve is better on them than on others.

Source: Clopper, Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inspect_ai.calibration.conformal import allowed_rank, calibrate
from inspect_ai.metrics import binomial_interval
from inspect_ai.scores import Float32

ROWS = 200  # of a curve, at most
Ranks = NDArray[np.intp]
Interval = tuple[float, float]


def curve(good_scores: Float32, defect_scores: Float32 | None = None) -> pd.DataFrame:
    """What each threshold costs: at most 200 rows, from the highest threshold to the lowest.

    Columns: threshold; overkill, r / (n + 1), with overkill_low and overkill_high; escape with
    escape_low and escape_high, NaN without defects.

    Args:
        good_scores: (n,) scores of good calibration images, any order; n = 0 gives no row.
        defect_scores: (d,) scores of defects; one that is not a number is always flagged.

    Raises:
        ValueError: a good score that is not finite.
    """
    if not len(good_scores):
        return _table(np.zeros(0, np.float32), np.zeros(0, np.float32), defect_scores)
    good = upwards(good_scores)
    values, r = thresholds(good)
    wanted = np.geomspace(1, len(good), ROWS)
    rows = np.unique(np.clip(np.searchsorted(r, wanted), 0, len(r) - 1))
    return _table(values[rows], good, defect_scores)


def at_rates(
    good_scores: Float32, rates: Sequence[float], defect_scores: Float32 | None = None
) -> pd.DataFrame:
    """The same at rates promised on average, with a column `rate`.

    Rates below 1 / (n + 1), which n good images cannot bear, are left out.
    """
    kept = [rate for rate in rates if allowed_rank(len(good_scores), rate, None) >= 1]
    values = np.array([calibrate(good_scores, rate).threshold for rate in kept], np.float32)
    table = _table(values, np.sort(good_scores), defect_scores)
    table.insert(0, "rate", np.array(kept, np.float64))
    return table


def upwards(good_scores: Float32) -> Float32:
    """Good scores sorted, and checked as for a calibration; there must be one.

    Raises:
        ValueError: a score that is not finite.
        TooFewGoodImages: no score at all.
    """
    return calibrate(good_scores, 1 - 1e-9).good_scores


def thresholds(good: Float32) -> tuple[Float32, Ranks]:
    """Each different good score, downwards, and its rank: one more than there are above it."""
    values = np.unique(good)[::-1]
    return values, ranks(good, values)


def ranks(good: Float32, values: Float32) -> Ranks:
    """r of each threshold: one more than there are good scores, sorted upwards, above it."""
    return np.asarray(len(good) - np.searchsorted(good, values, side="right") + 1, np.intp)


def numbers(defect_scores: Float32) -> Float32:
    """Scores of defects upwards; one that is not a number is odder than all."""
    scores = np.asarray(defect_scores, np.float32)
    return np.sort(np.where(np.isnan(scores), np.float32(np.inf), scores))


def overkill_interval(r: int, n: int) -> Interval:
    """95 %, of the share of good images above the r-th largest of n."""
    low, high = binomial_interval(r - 1, n)
    return float(low), float(high)


def escape(defects: Float32, threshold: float) -> tuple[float, Interval]:
    """Share of defects not flagged, and its 95 % interval."""
    missed = int((defects <= np.float32(threshold)).sum())
    low, high = binomial_interval(missed, len(defects))
    return missed / len(defects), (float(low), float(high))


def _table(values: Float32, good: Float32, defect_scores: Float32 | None) -> pd.DataFrame:
    """A row for each threshold."""
    n, r = len(good), ranks(good, values)
    low, high = binomial_interval(r - 1, np.full(len(r), n))
    table = pd.DataFrame({"threshold": values.astype(float), "overkill": r / (n + 1)})
    table = table.assign(overkill_low=low, overkill_high=high)
    if defect_scores is None or not len(defect_scores):
        return table.assign(escape=np.nan, escape_low=np.nan, escape_high=np.nan)
    defects = numbers(defect_scores)
    missed = np.searchsorted(defects, values, side="right")
    low, high = binomial_interval(missed, np.full(len(r), len(defects)))
    return table.assign(escape=missed / len(defects), escape_low=low, escape_high=high)
