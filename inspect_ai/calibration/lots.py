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
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from inspect_ai.calibration.conformal import Calibration, Unit, calibrate, require
from inspect_ai.scores import Bool, Float32

Draws = NDArray[np.uint64]  # (N,)


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
    draws: Draws | None = None,
) -> Calibration:
    """Good scores kept as the yardstick, counted by image or by lot.

    Args:
        table: image_id, group (the lot) and `column`, a score, of good, held-out images.
        draws: as `drawn` gives them for these rows; None draws them.

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
        scores = scores[_first(drawn(table["image_id"], lots) if draws is None else draws, lots)]
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
    return _first(drawn(image_ids, lots), lots)


def drawn(image_ids: pd.Series, lots: pd.Series) -> Draws:
    """A random number for each image, (N,), from its lot and name.

    From its lot too: equal images of several lots are drawn in each by itself; and equal ones of
    one lot each have their own number.
    """
    names = lots.astype(str) + "/" + image_ids.astype(str)
    again = names.groupby(names.to_numpy()).cumcount() if names.duplicated().any() else 0
    texts = (names + "/" + (pd.Series(0, names.index) + again).astype(str)).tolist()
    digests = b"".join(hashlib.blake2b(t.encode(), digest_size=8).digest() for t in texts)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _first(draws: Draws, lots: pd.Series) -> Bool:
    """The least number of each lot."""
    order = np.argsort(draws, kind="stable")
    codes = lots.factorize()[0][order]
    found = np.zeros(len(codes), bool)
    found[order[np.unique(codes, return_index=True)[1]]] = True
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
