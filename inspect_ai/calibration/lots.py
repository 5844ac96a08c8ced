"""Lots: images that were made together are alike, and what is exchangeable is the lot.

A threshold set on n images of few lots is as good as one on far fewer independent images: with m
images a lot and a correlation rho within it, on about n / (1 + (m - 1) rho). So a promise may be
made over lots, by what stands for each:

    lot           one image, drawn by a hash of its name: K lots are K exchangeable scores, and
                  all that holds for images holds, for a good image of a new lot
    lot_share     all images, each with the weight 1 / (images of its lot): less luck in the
                  draw; dearer with confidence
    lot_maximum   the largest score: at most a share alpha of good lots has any image flagged,
                  as long as new lots have about as many images

Lots count alike, however many images they have: the rate is that of an image drawn from a lot
drawn at random.

Sources: Dunn, Wasserman, Ramdas, "Distribution-free prediction sets for two-layer hierarchical
models", J. Am. Stat. Assoc. 118, 2023 (one of each, and all). Lee, Barber, Willett, 2023 (weights;
see conformal.py). Kish, "Survey sampling", 1965, section 5.4 (effective number). Donner, "A review
of inference procedures for the intraclass correlation coefficient", Int. Stat. Rev. 54, 1986.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import rankdata

from inspect_ai.calibration.conformal import Calibration, Unit, calibrate, require
from inspect_ai.scores import Bool, Float32


@dataclass(frozen=True, slots=True)
class Effective:
    """How many independent images the images of lots are worth.

    Args:
        correlation: of the scores of one lot, by rank, in [0, 1]; None where no lot has two.
        worth: about so many independent images, at least the number of lots.
    """

    images: int
    lots: int
    correlation: float | None
    worth: float


def yardstick(
    table: pd.DataFrame,
    column: str,
    false_alarm_rate: float,
    confidence: float | None = None,
    unit: Unit = "image",
) -> Calibration:
    """Good scores kept as the yardstick, counted by image or by lot.

    Args:
        table: image_id, group (the lot) and `column`, a score, of good, held-out images.

    Raises:
        BadSettings: a rate outside (0, 1).
        ValueError: a score that is not finite.
        TooFewGoodImages: the images or lots cannot support the promise.
    """
    scores = table[column].to_numpy(np.float32)
    if unit == "image":
        return calibrate(scores, false_alarm_rate, confidence)
    lots = table["group"].astype(str)
    if unit == "lot":
        scores = scores[chosen(table["image_id"], lots)]
    elif unit == "lot_maximum":
        code = lots.factorize()[0]
        order = np.argsort(code, kind="stable")
        first = np.searchsorted(code[order], np.arange(code.max(initial=-1) + 1))
        scores = np.maximum.reduceat(scores[order], first) if len(first) else scores
    require(lots.nunique(), false_alarm_rate, confidence, unit)
    if unit != "lot_share":
        kept = calibrate(scores, false_alarm_rate, confidence)
        return Calibration(kept.good_scores, false_alarm_rate, confidence, unit)
    kept = calibrate(scores, false_alarm_rate)
    share = 1 / lots.groupby(lots).transform("size").to_numpy(np.float64)
    weights = share[np.argsort(scores, kind="stable")]
    return Calibration(kept.good_scores, false_alarm_rate, confidence, unit, weights)


def chosen(image_ids: pd.Series, lots: pd.Series) -> Bool:
    """One image of each lot, the same whatever the order of rows: (N,), True for the chosen."""
    draw = [hashlib.sha256(str(name).encode()).hexdigest() for name in image_ids]
    order = np.argsort(draw, kind="stable")
    first = ~lots.iloc[order].duplicated().to_numpy()
    found = np.zeros(len(lots), bool)
    found[order[first]] = True
    return found


def units(lots: pd.Series, unit: Unit) -> int:
    """What a promise can count: images, or lots."""
    return len(lots) if unit == "image" else int(lots.nunique())


def effective(scores: Float32, lots: pd.Series) -> Effective:
    """What the images are worth, by the correlation of the scores' ranks within a lot.

    By one-way analysis of variance of the ranks' normal scores, lots of unequal size.
    """
    n, names = len(scores), lots.astype(str).to_numpy()
    sizes = pd.Series(names).value_counts()
    k = len(sizes)
    if n == k or k < 2:
        return Effective(n, k, None, float(n if n == k else k))
    z = pd.Series(ndtri((rankdata(scores) - 0.5) / n)).groupby(names)
    within = float((z.var(ddof=0) * z.size()).sum()) / (n - k)
    between = float((z.size() * z.mean() ** 2).sum()) / (k - 1)  # the mean of all is 0
    usual = (n - float((sizes**2).sum()) / n) / (k - 1)
    total = between + (usual - 1) * within
    correlation = max(0.0, (between - within) / total) if total > 0 else 1.0
    alike = float((sizes**2).sum()) / n  # images of the lot of an image
    return Effective(n, k, correlation, max(float(k), n / (1 + (alike - 1) * correlation)))
