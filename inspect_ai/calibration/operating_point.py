"""Where to put the threshold, and what it costs: from capacity, from costs, or from defects.

A threshold is always a good calibration score, the r-th largest of n images, so that `calibrate`,
asked for the rate given here on average, over images and without groups, finds the very same one. Overkill is the share of good images flagged,
escape the share of defects not flagged; a share pi of all images is defective.

    capacity   F images an hour, R reviews: the largest alpha with F ((1 - pi) alpha + pi) <= R,
               if every defect is flagged, which is the most that defects can take of the reviews
    costs      the r with the least (1 - pi) c_overkill r / (n + 1) + pi c_escape escape
    defects    with d defects, the k-th smallest of their scores is still flagged, with the largest
               k that keeps P(Binomial(d, e) < k) <= delta: then escape is at most e with
               confidence 1 - delta

The last is both Wilks's limit and the highest threshold whose Clopper-Pearson bound (of one side)
is at most e. It is a defect's score of a rank that was fixed before, so the bound holds though the
same defects chose the threshold. Costs let the scores choose the rank too: escape counted on the
defects that chose is too small. So with 120 defects and more, half of the lots choose and the
other half count; with fewer, the interval is said to be no promise.

Defects count as independent and like those to come. Those of one lot are alike: an interval from
few lots is too narrow.

Sources: Wilks, "Determination of sample sizes for setting tolerance limits", Ann. Math. Stat. 12,
1941. Elkan, "The foundations of cost-sensitive learning", IJCAI 2001 (costs).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inspect_ai.calibration import trade_off
from inspect_ai.calibration.conformal import allowed_rank, needed, require
from inspect_ai.calibration.trade_off import Interval, curve
from inspect_ai.errors import BadSettings
from inspect_ai.scores import Bool, Float32

__all__ = ["Point", "curve", "from_capacity", "from_costs", "from_defects"]
SPLIT = 120  # defects from which on one half chooses and the other counts
SEED = 5


@dataclass(frozen=True, slots=True)
class Point:
    """A threshold, and what it costs.

    Args:
        way: "capacity", "costs" or "defects".
        false_alarm_rate: `calibrate` on the same good scores finds the threshold by it.
        threshold: scores strictly above it are flagged.
        overkill_interval: 95 %, of the share of good images flagged.
        escape: share of defects not flagged, counted; None where no defects are known.
        escape_interval: 95 %, Clopper-Pearson.
        reviews_per_hour: at most, on average; None where not asked.
        cost: expected, of 1,000 images; None where not asked.
        words: sentences that say all this.
    """

    way: str
    false_alarm_rate: float
    threshold: float
    overkill_interval: Interval
    escape: float | None = None
    escape_interval: Interval | None = None
    reviews_per_hour: float | None = None
    cost: float | None = None
    words: tuple[str, ...] = ()


def from_capacity(
    good_scores: Float32, images_per_hour: float, reviews_per_hour: float, defect_share: float = 0.0
) -> Point:
    """The threshold of the largest false-alarm rate whose reviews fit the reviewers.

    Args:
        good_scores: (n,) scores of good calibration images, any order.
        images_per_hour: F > 0.
        reviews_per_hour: R > 0, how many flagged images can be looked at.
        defect_share: pi in [0, 1); all of them are taken as flagged.

    Raises:
        BadSettings: a number out of range, enough reviews for all images, or too few for defects.
        ValueError: a good score that is not finite.
        TooFewGoodImages: n is too small for a rate so low.
    """
    _positive(images_per_hour=images_per_hour, reviews_per_hour=reviews_per_hour)
    if defect_share:
        _shares(defect_share=defect_share)
    defects = images_per_hour * defect_share
    if reviews_per_hour >= images_per_hour:
        raise BadSettings(
            f"{reviews_per_hour:g} reviews an hour are enough for all {images_per_hour:g} images, "
            "so they set no threshold. Ask from costs, or for an escape."
        )
    if reviews_per_hour <= defects:
        raise BadSettings(
            f"Defects alone may need {defects:g} reviews an hour, given are {reviews_per_hour:g}. "
            "Give more reviews, or correct the share of defects."
        )
    alpha = (reviews_per_hour - defects) / (images_per_hour - defects)
    n = len(good_scores)
    require(n, alpha)
    good, r = trade_off.upwards(good_scores), allowed_rank(n, alpha, None)
    most = r / (n + 1) * (images_per_hour - defects) + defects
    words = (
        f"{reviews_per_hour:g} reviews for {images_per_hour:g} images an hour allow to flag "
        f"{_percent(alpha)} of good images.",
        _overkill_words(r, n),
        f"On average that is at most {most:.3g} reviews an hour, with {_percent(defect_share)} "
        "defects, all of them flagged; some hours have more.",
    )
    ends = trade_off.overkill_interval(r, n)
    rate = _asked(r, n, alpha)
    return Point("capacity", rate, float(good[-r]), ends, reviews_per_hour=most, words=words)


def from_costs(
    good_scores: Float32,
    defect_scores: Float32,
    costs: tuple[float, float],
    defect_share: float,
    lots: Sequence[str] | None = None,
) -> Point:
    """The threshold of least expected cost, among the good scores.

    Args:
        good_scores: (n,) scores of good calibration images, any order.
        defect_scores: (d,) scores of defects; one that is not a number is always flagged.
        costs: (c_overkill, c_escape) > 0, of one good image flagged and of one defect missed.
        defect_share: pi in (0, 1), of the images to come.
        lots: (d,) of the defects, so that no lot both chooses and counts.

    Raises:
        BadSettings: a number out of range, or no defects.
        ValueError: a good score that is not finite.
        TooFewGoodImages: n = 0.
    """
    _positive(cost_overkill=costs[0], cost_escape=costs[1])
    _shares(defect_share=defect_share)
    _some(defect_scores)
    good, n = trade_off.upwards(good_scores), len(good_scores)
    chooses, counts = _halves(len(defect_scores), lots)
    values, ranks = trade_off.thresholds(good)
    per_good, per_defect = 1000 * (1 - defect_share) * costs[0], 1000 * defect_share * costs[1]
    choosing = trade_off.numbers(defect_scores[chooses])
    missed = np.searchsorted(choosing, values, side="right") / len(choosing)
    at = int((per_good * ranks / (n + 1) + per_defect * missed).argmin())
    r, threshold = int(ranks[at]), float(values[at])
    escape, ends = trade_off.escape(trade_off.numbers(defect_scores[counts]), threshold)
    cost = per_good * r / (n + 1) + per_defect * escape
    words = (
        f"At a cost of {costs[0]:g} for a good image flagged and {costs[1]:g} for a defect missed, "
        f"with {_percent(defect_share)} defects, 1,000 images cost about {cost:.3g}.",
        _overkill_words(r, n),
        _escape_words(escape, ends, int(counts.sum()), bool((chooses & counts).any())),
    )
    overkill = trade_off.overkill_interval(r, n)
    rate = _asked(r, n)
    return Point("costs", rate, threshold, overkill, escape, ends, None, cost, words)


def from_defects(
    good_scores: Float32, defect_scores: Float32, escape: float, confidence: float = 0.95
) -> Point:
    """The highest threshold that lets at most a share `escape` of defects pass, with confidence.

    Args:
        good_scores: (n,) scores of good calibration images, any order.
        defect_scores: (d,) scores of defects; one that is not a number is always flagged.
        escape: e in (0, 1).
        confidence: 1 - delta in (0, 1), over draws of the defects.

    Raises:
        BadSettings: a number out of range; too few defects to show it, with the number needed; or
            a threshold below every good score.
        ValueError: a good score that is not finite.
        TooFewGoodImages: n = 0.
    """
    _shares(escape=escape, confidence=confidence)
    _some(defect_scores)
    good, defects = trade_off.upwards(good_scores), trade_off.numbers(defect_scores)
    d, n = len(defects), len(good)
    k = allowed_rank(d, escape, confidence)
    if k < 1:
        raise BadSettings(
            f"An escape of {escape:g} with confidence {confidence:g} needs "
            f"{needed(escape, confidence):,} labelled defects, got {d:,}. Label more defects, or "
            "ask for a larger escape."
        )
    below = int(np.searchsorted(good, defects[k - 1], side="left"))
    if not below:
        raise BadSettings(
            f"An escape of {escape:g} needs a threshold below {defects[k - 1]:.4g}, and no good "
            "image scores less: all would be flagged. Ask for a larger escape, or train another "
            "model."
        )
    threshold = float(good[below - 1])
    r = n - below + 1
    seen, ends = trade_off.escape(defects, threshold)
    words = (
        f"With {_percent(confidence)} confidence at most {_percent(escape)} of defects escape, if "
        f"they are like the {d:,} labelled ones, and those independent of one another.",
        f"Of the labelled ones {_percent(seen)} escape (95 % interval {_percent(ends[0])} to "
        f"{_percent(ends[1])}).",
        _overkill_words(r, n),
    )
    overkill = trade_off.overkill_interval(r, n)
    return Point("defects", _asked(r, n), threshold, overkill, seen, ends, words=words)


def _asked(r: int, n: int, most: float = 1.0) -> float:
    """The shortest number that `calibrate` turns into the rank r, and at most `most`."""
    for digits in range(1, 16):
        rate = math.ceil(r / (n + 1) * 10.0**digits) / 10.0**digits
        if rate <= most and rate < 1 and allowed_rank(n, rate, None) == r:
            return rate
    return r / (n + 1)


def _halves(d: int, lots: Sequence[str] | None) -> tuple[Bool, Bool]:
    """The defects that choose and those that count: halves by lot, or all of them twice."""
    names = np.arange(d).astype(str) if lots is None else np.asarray(lots, str)
    different = np.unique(names)
    if d < SPLIT or len(different) < 2:
        return np.ones(d, bool), np.ones(d, bool)
    first = np.random.default_rng(SEED).permutation(different)[: len(different) // 2]
    chooses = np.isin(names, first)
    return chooses, ~chooses


def _some(defect_scores: Float32) -> None:
    if not len(defect_scores):
        raise BadSettings(
            "Escape is not known: there is no labelled defect. Scan images with labelled defects, "
            "or ask from the reviewers' capacity."
        )


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < np.inf:
            raise BadSettings(f"{name} must be a number above 0, got {value}.")


def _shares(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < 1:
            raise BadSettings(f"{name} must be in (0, 1), got {value}. 0.01 is one in a hundred.")


def _escape_words(escape: float, ends: Interval, defects: int, same: bool) -> str:
    how = f"counted on {defects:,} defects that did not choose the threshold"
    if same:
        how = (
            f"no promise, since the same {defects:,} defects chose the threshold; with {SPLIT} of "
            "several lots, half would count"
        )
    return (
        f"{_percent(escape)} of defects escape (95 % interval {_percent(ends[0])} to "
        f"{_percent(ends[1])}; {how})."
    )


def _overkill_words(r: int, n: int) -> str:
    low, high = trade_off.overkill_interval(r, n)
    return (
        f"On average over calibrations on {n:,} good images, at most {_percent(r / (n + 1))} of "
        f"good images are flagged (95 % interval of this one: {_percent(low)} to {_percent(high)})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
