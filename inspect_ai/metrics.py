"""How well scores tell good images from bad, and how sure a number of it is.

Scores are raw and higher is odder. A score that is not a number counts as infinite: larger
than everything, so it is flagged. Shares and rates lie in [0, 1].

Fab words: overkill is the share of good images that are flagged, capture the share of bad
images that are flagged, escape the share of bad images that are not.

Sources: Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27, 2006.
Bergmann, Fauser, Sattlegger, Steger, "Uninformed Students", CVPR 2020 (per-region overlap).
Clopper, Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934. Davison,
Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8 (whole groups).
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from inspect_ai.scores import Bool, Float32, Float64

Rows = NDArray[np.intp]

FEWEST = 10  # good images above a threshold; with fewer, a rate is hearsay
STEPS = 300  # thresholds of a per-region overlap curve
SAMPLE = 4_000_000  # pixels that place those thresholds: 32 MB


def auroc(good: ArrayLike, bad: ArrayLike) -> float:
    """Chance that a bad image scores above a good one, a tie counting one half.

    Args:
        good: (N,) scores of good images.
        bad: (M,) scores of bad images.

    Raises:
        ValueError: no good or no bad score.
    """
    return float(places(_ordered(good, "good"), _ordered(bad, "bad")).mean())


def places(good: Float64, bad: Float64) -> Float64:
    """Share of good scores below each bad one, a tie counting one half: (M,) in [0, 1].

    Args:
        good: (N,) scores, sorted upwards, none of them NaN.
        bad: (M,) scores, none of them NaN.
    """
    below = np.searchsorted(good, bad, "left") + np.searchsorted(good, bad, "right")
    return np.asarray(below / (2 * len(good)), dtype=np.float64)


def threshold_at(good: ArrayLike, overkill: float) -> float:
    """The lowest good score that at most a share `overkill` of good scores lie above.

    Raises:
        ValueError: no good score, or `overkill` outside [0, 1).
    """
    if not 0 <= overkill < 1:
        raise ValueError(f"overkill must lie in [0, 1), got {overkill}")
    ordered = _ordered(good, "good")
    return float(ordered[len(ordered) - 1 - math.floor(overkill * len(ordered) + 1e-9)])


def capture_at(
    good: ArrayLike, bad: ArrayLike, overkill: float, fewest: int = FEWEST
) -> float | None:
    """Share of bad images strictly above the threshold that `overkill` of good ones exceed.

    Args:
        good: (N,) scores of good images.
        bad: (M,) scores of bad images.
        overkill: share of good images that may be flagged, in [0, 1).
        fewest: None is returned where fewer good images than this may be flagged.

    Raises:
        ValueError: no good or no bad score, or `overkill` out of range.
    """
    threshold = threshold_at(good, overkill)
    if overkill * np.size(good) < fewest - 1e-9:
        return None
    return float((_ordered(bad, "bad") > threshold).mean())


def fpr_at_tpr(good: ArrayLike, bad: ArrayLike, tpr: float = 0.95) -> float:
    """Share of good images flagged when the threshold just flags a share `tpr` of bad ones.

    Raises:
        ValueError: no good or no bad score, or `tpr` outside (0, 1].
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must lie in (0, 1], got {tpr}")
    ordered = _ordered(bad, "bad")
    threshold = ordered[len(ordered) - math.ceil(tpr * len(ordered) - 1e-9)]
    return float((_ordered(good, "good") >= threshold).mean())


def aupro(maps: Sequence[Float32], masks: Sequence[Bool], fpr_limit: float = 0.3) -> float:
    """Mean overlap with the true defects at low false-positive rates; see `overlaps`.

    Raises:
        ValueError: no defect, no defect-free pixel, or `fpr_limit` outside (0, 1].
    """
    return overlaps(maps, masks, fpr_limit).aupro()


@dataclass(frozen=True, slots=True)
class Overlaps:
    """What each of N images adds to the curve of per-region overlap, at T thresholds.

    Args:
        false: (N, T) defect-free pixels above each threshold.
        hit: (N, T) share of a defect above each threshold, summed over the image's defects.
        free: (N,) defect-free pixels.
        defects: (N,) connected defects.
        fpr_limit: right end of the integral, in (0, 1].
    """

    false: Float32
    hit: Float32
    free: Float64
    defects: Float64
    fpr_limit: float

    def pooled(self, groups: Sequence[Hashable]) -> "Overlaps":
        """One row for each group, in sorted order: what `bootstrap_interval` draws."""
        _, code, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        order, starts = np.argsort(code, kind="stable"), np.cumsum(sizes) - sizes
        return Overlaps(
            np.add.reduceat(self.false[order], starts),
            np.add.reduceat(self.hit[order], starts),
            np.add.reduceat(self.free[order], starts),
            np.add.reduceat(self.defects[order], starts),
            self.fpr_limit,
        )

    def aupro(self, rows: Rows | None = None) -> float:
        """Area under overlap against false-positive rate up to the limit, over the limit.

        Args:
            rows: images to count, as often as they come up; all of them by default.

        Raises:
            ValueError: these images have no defect or no defect-free pixel.
        """
        times = np.ones(len(self.free), np.float32)  # the tables' type: else they are copied
        if rows is not None:
            times = np.bincount(rows, minlength=len(times)).astype(np.float32)
        free, defects = times @ self.free, times @ self.defects
        if not (free and defects):
            raise ValueError("AUPRO needs images with a defect mask and defect-free pixels")
        x = np.concatenate([[0.0], times @ self.false / free, [1.0]])
        y = np.concatenate([[0.0], times @ self.hit / defects, [1.0]])
        ends = np.append(x[x < self.fpr_limit], self.fpr_limit)
        heights = np.append(y[x < self.fpr_limit], np.interp(self.fpr_limit, x, y))
        return float(np.trapezoid(heights, ends) / self.fpr_limit)


def overlaps(maps: Sequence[Float32], masks: Sequence[Bool], fpr_limit: float = 0.3) -> Overlaps:
    """Counts false and true pixels of all images at `STEPS` thresholds.

    Defects are the 8-connected parts of a mask, each of the same weight. The thresholds are
    quantiles of (a sample of) the defect-free pixels, evenly spaced in false-positive rate
    up to the limit. Counts at a threshold are exact; between two of them the curve is a line.

    Args:
        maps: N anomaly maps (h, w) of any size, resized to the mask's by linear interpolation.
            Read twice, one after the other, so a sequence may load them as it goes. A cell of
            -infinity was not looked at (off the wafer) and counts nowhere.
        masks: N masks (H, W), True on a defect, all False for a good image.
        fpr_limit: in (0, 1].

    Raises:
        ValueError: `fpr_limit` out of range, or no defect-free pixel at all.
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must lie in (0, 1], got {fpr_limit}")
    thresholds = _thresholds(maps, masks, fpr_limit)
    false, hit = np.zeros((2, len(maps), len(thresholds)), np.float32)
    free, defects = np.zeros((2, len(maps)))
    for i, (pixels, mask) in enumerate(_pairs(maps, masks)):
        parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
        clean = pixels[~mask & (pixels > -np.inf)]
        false[i] = _above(clean, thresholds)
        free[i], defects[i] = len(clean), count
        for box, number in zip(ndimage.find_objects(parts), range(1, count + 1), strict=True):
            part = pixels[box][parts[box] == number]
            hit[i] += _above(part, thresholds) / len(part)
    return Overlaps(false, hit, free, defects, fpr_limit)


def binomial_interval(
    hits: ArrayLike, trials: ArrayLike, level: float = 0.95
) -> tuple[Float64, Float64]:
    """Clopper-Pearson interval of a share, never too short: low and high, element by element.

    Args:
        hits: counts in [0, trials].
        trials: counts; 0 trials give the interval from 0 to 1.
        level: coverage, in (0, 1).

    Raises:
        ValueError: hits outside [0, trials].
    """
    k, n = np.asarray(hits, np.float64), np.asarray(trials, np.float64)
    if (k < 0).any() or (k > n).any():
        raise ValueError(f"hits must lie between 0 and trials, got {k} of {n}")
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, np.maximum(k, 1), n - k + 1)
    high = stats.beta.isf(tail, k + 1, np.maximum(n - k, 1))
    return np.where(k > 0, low, 0.0), np.where(k < n, high, 1.0)


def bootstrap_interval(
    statistic: Callable[[Rows], ArrayLike],
    groups: Sequence[Hashable] | NDArray[np.generic],
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Float64, Float64]:
    """Percentile interval of a statistic when whole groups are drawn with replacement.

    Images of one lot are alike; drawing them one by one would make an interval too short.

    Args:
        statistic: row numbers, some of them several times, to one number or an array of
            them; NaN where these rows do not tell.
        groups: (N,) group of each row.
        resamples: how many draws.
        level: coverage, in (0, 1).
        seed: equal seeds give equal intervals.

    Returns:
        Low and high, each shaped like the statistic. Draws with NaN are left out; where they
        are the majority, or where there is one group alone, both ends are NaN.
    """
    _, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    draws = _group_draws(group_of_row, resamples, np.random.default_rng(seed))
    values = np.array([np.asarray(statistic(rows), np.float64) for rows in draws])
    known = np.isfinite(values)
    told = (known.mean(axis=0) > 0.5) & (group_of_row.max(initial=0) > 0)
    tail = (1 - level) / 2
    low, high = np.nanquantile(np.where(told, values, 0.0), [tail, 1 - tail], axis=0)
    return np.where(told, low, np.nan), np.where(told, high, np.nan)


def _ordered(scores: ArrayLike, name: str) -> Float64:
    """Sorted upwards, NaN as infinity."""
    values = np.asarray(scores, np.float64)
    if not values.size:
        raise ValueError(f"no {name} scores; at least one is needed")
    return np.sort(np.where(np.isnan(values), np.inf, values))


def _group_draws(group_of_row: Rows, resamples: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Rows of as many groups as there are, drawn with replacement."""
    order = np.argsort(group_of_row, kind="stable")
    sizes = np.bincount(group_of_row)
    starts = np.cumsum(sizes) - sizes
    for _ in range(resamples):
        drawn = rng.integers(len(sizes), size=len(sizes))
        ends = np.cumsum(sizes[drawn])
        shift = np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn])
        yield order[np.arange(ends[-1]) + shift]


def _pairs(maps: Sequence[Float32], masks: Sequence[Bool]) -> Iterator[tuple[Float32, Bool]]:
    """Each map at the size of its mask, NaN as infinity; and the mask."""
    for i in range(len(maps)):
        pixels, mask = np.asarray(maps[i], np.float32), np.asarray(masks[i], np.bool_)
        if pixels.shape != mask.shape:
            factors = [new / old for new, old in zip(mask.shape, pixels.shape, strict=True)]
            pixels = ndimage.zoom(pixels, factors, order=1, mode="nearest", grid_mode=True)
        yield np.where(np.isnan(pixels), np.float32(np.inf), pixels), mask


def _thresholds(maps: Sequence[Float32], masks: Sequence[Bool], limit: float) -> Float32:
    """(T,) thresholds, falling, from the largest defect-free pixel to a little past the limit."""
    sample, largest = [], -np.inf
    for pixels, mask in _pairs(maps, masks):
        free = pixels[~mask & (pixels > -np.inf)]
        if free.size:
            largest = max(largest, float(free.max()))
            sample.append(free[:: max(1, free.size * len(maps) // SAMPLE)])
    if not sample:
        raise ValueError("AUPRO needs images with defect-free pixels")
    rates = np.linspace(0, min(1.1 * limit, 1.0), STEPS)
    grid = np.quantile(np.concatenate(sample), 1 - rates, method="inverted_cdf")
    return np.asarray(np.concatenate([[largest], grid]), np.float32)


def _above(values: Float32, thresholds: Float32) -> Rows:
    """(T,) how many values lie strictly above each threshold."""
    return len(values) - np.searchsorted(np.sort(values), thresholds, "right")
