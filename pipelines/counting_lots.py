"""Lots and products counted (promises.py).

Made lots: 100 lots of 25 images, which share half of their variance. Real scores are the good
images of calibrate and test lots that a scan has left, and are cut by lot. For a promise on
average, half of the lots, at random, set the threshold, and the other half is observed. For one
with confidence the lots at hand stand for all there will ever be: so many are drawn from them with
replacement, and overkill is that of all, so that no luck of a test hides which draws broke it.

Where lots count alike, so do they in what is observed: overkill is the mean over lots of the share
of their images that is flagged, and for the largest score of a lot the share of lots with any.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from inspect_ai.calibration import groups, lots
from inspect_ai.calibration.conformal import Calibration, Unit, allowed_rank, calibrate, sure
from inspect_ai.calibration.promise import Promise
from inspect_ai.scores import Float32, Float64
from pipelines.counting import DELTA, Asked, Row, judged
from pipelines.observing import Scanned

LOTS, SIZE, RHO = 100, 25, 0.5  # made lots, images of one, and how alike those are
UNITS: dict[Unit, str] = {
    "image": "all images, lots forgotten",
    "lot": "one image a lot",
    "lot_share": "all images, lots count alike",
    "lot_maximum": "largest score of each lot",
}
SURE = 1 - DELTA
PROMISES: tuple[tuple[float, float | None], ...] = (
    (0.05, None),
    (0.01, None),
    (0.05, SURE),
    (0.01, SURE),
)
MADE = {"A": (300, 0.0, 1.0), "B": (100, 1.0, 2.0), "C": (10, 0.5, 1.0)}  # n, mean, deviation
Lots = NDArray[np.intp]
Key = tuple[Unit, float, float | None]


def made(splits: int) -> dict[Key, Float64]:
    """(splits,) overkill of made lots by each rule, for each promise."""
    found = [_made_thresholds(seed) for seed in range(splits)]
    at = {key: np.array([one[key] for one in found]) for key in found[0]}
    return {k: _any_above(at[k]) if k[0] == "lot_maximum" else 1 - ndtr(at[k]) for k in at}


def made_rows(overkill: dict[Key, Float64]) -> Iterator[Row]:
    """Of made lots: the rule that forgets them, and three that do not."""
    for rate, confidence in PROMISES:
        for unit, name in UNITS.items():
            if (shares := overkill.get((unit, rate, confidence))) is not None:
                n = f"{LOTS} lots of {SIZE}"
                yield judged(
                    Asked(_named(name, confidence), "lots alike", n, rate, confidence), shares
                )


def _named(name: str, confidence: float | None) -> str:
    return f"{name}, {'on average' if confidence is None else '95 % confidence'}"


@cache
def _supports(count: int, unit: Unit, rate: float, confidence: float | None) -> bool:
    """Whether so many lots can promise this; images are promised wherever their lots could be."""
    return allowed_rank(count, rate, sure(confidence, unit)) >= 1


def _made_thresholds(seed: int) -> dict[Key, float]:
    rng = np.random.default_rng([3, seed])
    level, own = rng.standard_normal((LOTS, 1)), rng.standard_normal((LOTS, SIZE))
    score = (math.sqrt(RHO) * level + math.sqrt(1 - RHO) * own).astype(np.float32).ravel()
    lot = np.repeat(np.arange(LOTS), SIZE)
    drawn = pd.DataFrame({"image_id": np.arange(len(lot)), "group": lot, "pred_score": score})
    found = dict[Key, float]()
    for unit in UNITS:
        kept = lots.yardstick(drawn, "pred_score", PROMISES[0][0], PROMISES[0][1], unit)
        for rate, confidence in PROMISES:
            if _supports(LOTS, unit, rate, confidence):
                one = replace(kept, false_alarm_rate=rate, confidence=confidence)
                found[unit, rate, confidence] = one.threshold
    return found


def _any_above(at: Float64) -> Float64:
    """Share of made lots with any image above each threshold: (N,)."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    below = ndtr((at[:, None] - math.sqrt(RHO) * points) / math.sqrt(1 - RHO))
    return np.asarray(1 - below**SIZE @ (weights / weights.sum()), np.float64)


@dataclass(frozen=True, slots=True)
class Pool:
    """Good scores of a detector, lot after lot.

    Args:
        score: (N,) scores.
        first, size: (K,) place of each lot's first image, and how many it has.
    """

    name: str
    score: Float32
    first: Lots
    size: Lots

    @classmethod
    def of(cls, seen: Scanned) -> "Pool":
        """The good images of calibrate and test lots."""
        columns = ["group", "pred_score"]
        every = pd.concat([seen.calibration[columns], seen.good[columns]]).sort_values("group")
        size = np.bincount(pd.factorize(every["group"])[0]).astype(np.intp)
        score = every["pred_score"].to_numpy(np.float32)
        return cls(f"{seen.data}, {seen.detector}", score, np.cumsum(size) - size, size)

    def images(self, lots_: Lots) -> Lots:
        """Places of all images of these lots, which may come up twice."""
        size = self.size[lots_]
        start = np.repeat(self.first[lots_] - (np.cumsum(size) - size), size)
        return start + np.arange(len(start))

    def thresholds(
        self, lots_: Lots, unit: Unit, promises: Sequence[tuple[float, float | None]], u: Float64
    ) -> list[float]:
        """Thresholds set on these lots, as lots.py sets them.

        Args:
            u: (K,) in [0, 1): which image stands for each lot, where one does.
        """
        score, weights = self.score[self.images(lots_)], None
        if unit == "lot":
            score = self.score[self.first[lots_] + (u * self.size[lots_]).astype(int)]
        elif unit == "lot_maximum":
            score = np.maximum.reduceat(self.score, self.first)[lots_]
        elif unit == "lot_share":
            weights = np.repeat(1 / self.size[lots_], self.size[lots_])[
                np.argsort(score, kind="stable")
            ]
        kept = calibrate(score, promises[0][0])
        made = (
            Calibration(kept.good_scores, rate, sure_, unit, weights) for rate, sure_ in promises
        )
        return [one.threshold for one in made]

    def overkill(self, lots_: Lots, unit: Unit, threshold: float) -> float:
        """What a threshold flags of these lots, as the unit counts it."""
        above = self.score[self.images(lots_)] > threshold
        if unit == "image":
            return float(above.mean())
        size = self.size[lots_]
        flagged = np.add.reduceat(above.astype(np.intp), np.cumsum(size) - size)
        return float((flagged > 0).mean() if unit == "lot_maximum" else (flagged / size).mean())


def real_rows(seen: Scanned, splits: int) -> Iterator[Row]:
    """Of the good scores of a detector, as far as half of its lots support a promise."""
    pool = Pool.of(seen)
    half = len(pool.size) // 2
    n = f"{half:,} lots, {len(pool.score) // 2:,} images"
    for unit, name in UNITS.items():
        for sure_ in (None, SURE):
            able = [p for p in PROMISES if p[1] == sure_ and _supports(half, unit, *p)]
            if not able:
                continue
            found = (_halves if sure_ is None else _redrawn)(pool, unit, able, splits)
            for (rate, confidence), shares in zip(able, found.T, strict=True):
                asked = Asked(_named(name, confidence), pool.name, n, rate, confidence)
                yield judged(asked, shares)


def _halves(
    pool: Pool, unit: Unit, promises: Sequence[tuple[float, float | None]], splits: int
) -> Float64:
    """Overkill on the other half of the lots: (splits, promises)."""
    rng, count = np.random.default_rng(5), len(pool.size)
    found = np.empty((splits, len(promises)))
    for i in range(splits):
        order = rng.permutation(count)
        mine, other = order[: count // 2], order[count // 2 :]
        at = pool.thresholds(mine, unit, promises, rng.random(len(mine)))
        found[i] = [pool.overkill(other, unit, one) for one in at]
    return found


def _redrawn(
    pool: Pool, unit: Unit, promises: Sequence[tuple[float, float | None]], splits: int
) -> Float64:
    """Overkill on all lots, of which as many as half were drawn: (splits, promises)."""
    rng, count = np.random.default_rng(6), len(pool.size)
    found, every = np.empty((splits, len(promises))), np.arange(count)
    for i in range(splits):
        mine = rng.integers(count, size=count // 2)
        at = pool.thresholds(mine, unit, promises, rng.random(len(mine)))
        found[i] = [pool.overkill(every, unit, one) for one in at]
    return found


def group_rows(splits: int) -> Iterator[Row]:
    """Of products that score differently: one threshold for all, and one for each."""
    for confidence in (None, SURE):
        promise = Promise(false_alarm_rate=0.05, confidence=confidence, groups=("product",))
        found = np.array([_group_thresholds(seed, promise) for seed in range(splits)])
        for place, (product, (n, mean, deviation)) in enumerate(MADE.items()):
            shares = 1 - ndtr((found[:, place] - mean) / deviation)
            backs_off = bool((found[:, place, 0] == found[:, place, 1]).all())
            for column, name in enumerate(("one threshold for all products", "one a product")):
                asked = Asked(
                    _named(name, confidence), f"product {product}", f"{n:,}", 0.05, confidence
                )
                row = judged(asked, shares[:, column])
                if column and backs_off:
                    row = replace(row, promised=None, allowed=None, broken=None, kept=None)
                    row = replace(row, note="too few: judged by all products")
                yield row


def _group_thresholds(seed: int, promise: Promise) -> list[tuple[float, float]]:
    """For each product: the threshold of all, and the one that judges it."""
    rng = np.random.default_rng([4, seed])
    product = np.repeat(list(MADE), [n for n, _, _ in MADE.values()])
    mean, deviation = (np.array([MADE[p][i] for p in product]) for i in (1, 2))
    score = (mean + deviation * rng.standard_normal(len(product))).astype(np.float32)
    drawn = pd.DataFrame({"image_id": np.arange(len(product)), "product": product})
    drawn = drawn.assign(group=drawn["image_id"], pred_score=score)
    yardsticks = groups.yardsticks(drawn, "pred_score", promise)
    at = dict(yardsticks.thresholds)
    return [(at[groups.ALL], at.get(f"product={name}", at[groups.ALL])) for name in MADE]
