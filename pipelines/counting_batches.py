"""Batches, pixels and tails counted (promises.py).

A batch holds BATCH images, a share of them odd; each batch has a calibration of its own. Maps are
smooth noise, of a strength that differs from image to image; a pool of them stands for all.
"""

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter

from inspect_ai.calibration import batch_fdr, pixels, tails
from inspect_ai.calibration.conformal import calibrate
from inspect_ai.errors import BadFit
from inspect_ai.scores import Float32, Float64
from pipelines.counting import KINDS, Asked, Kind, Row, judged, mean_of

BATCH, GOOD, Q = 200, 1000, 0.1  # images, good calibration images, share of false alarms
ODD = (0.0, 0.1, 0.5)  # shares of a batch
POOL, SIDE, MAPS = 4000, 32, 300  # maps of a pool, cells of an edge, maps of a calibration
PIXEL_RATES, IMAGE_RATES = (0.01, 0.005), (0.05, 0.01)
TAIL, FAR, FEWER = 2000, 1e-4, 10  # good images, the rate asked of them, splits for one fit


def batch_rows(splits: int) -> Iterator[Row]:
    """The mean share of good images among the flagged, by Benjamini-Hochberg."""
    for kind in KINDS[:4]:  # where all scores are equal nothing is ever flagged
        for share in ODD:
            found = np.array(list(_false_shares(kind, share, splits)))
            for column, name in enumerate(("", ", Storey")):
                scores = f"{kind.name}, {100 * share:g} % odd"
                asked = Asked(f"batch{name}: good among flagged", scores, f"{GOOD:,}", Q)
                yield judged(asked, found[:, column])


def _false_shares(kind: Kind, share: float, splits: int) -> Iterator[list[float]]:
    """For each batch: the share of good images among the flagged, plain and by Storey."""
    rng = kind.generator(BATCH, round(100 * share))
    odd = np.arange(BATCH) < round(share * BATCH)
    away = float(np.quantile(kind.draw(rng, 100_000), 0.999))
    for _ in range(splits):
        made = calibrate(kind.draw(rng, GOOD), Q)
        p = made.p_value(kind.draw(rng, BATCH) + (away * odd).astype(np.float32))
        both = (batch_fdr.q_values(p, storey, n=GOOD) <= Q for storey in (False, True))
        yield [float((flagged & ~odd).sum() / max(1, flagged.sum())) for flagged in both]


def pixel_rows(splits: int) -> Iterator[Row]:
    """Images with any flagged pixel, and the share of pixels that are flagged."""
    maps = _maps()
    largest, every = np.sort(maps.max(axis=(1, 2))), np.sort(maps.ravel())
    summaries = np.stack([pixels.summary(one) for one in maps])
    rng = np.random.default_rng(8)
    drawn = rng.integers(POOL, size=(splits, MAPS))
    for rate in IMAGE_RATES:
        at = np.array([calibrate(summaries[rows, -1], rate).threshold for rows in drawn])
        asked = Asked(
            "images with any pixel flagged, by the largest value", "maps", f"{MAPS}", rate
        )
        yield judged(asked, _above(largest, at))
    for rate in PIXEL_RATES:
        at = np.array([pixels.rate_threshold(summaries[rows], rate) for rows in drawn])
        yield judged(
            Asked("pixels flagged, by their rate", "maps", f"{MAPS}", rate), _above(every, at)
        )


def _maps() -> Float32:
    """(POOL, SIDE, SIDE) smooth noise, each image of its own strength."""
    rng = np.random.default_rng(9)
    noise = gaussian_filter(rng.standard_normal((POOL, SIDE, SIDE)), (0, 1.5, 1.5))
    return np.asarray(noise * rng.lognormal(0, 0.5, (POOL, 1, 1)), np.float32)


def _above(values: Float32, at: Float64) -> Float64:
    """Share of the sorted values strictly above each threshold."""
    return 1 - np.searchsorted(values, at.astype(np.float32), side="right") / len(values)


def tail_rows(splits: int) -> Iterator[Row]:
    """A rate far below 1 / (n + 1), by a fitted tail: a model, which promises nothing."""
    for kind in KINDS:
        rng, fits = kind.generator(TAIL), max(1, splits // FEWER)
        found = [_far(kind, rng) for _ in range(fits)]
        true = np.array([one[0] for one in found if one is not None])
        refused = 1 - len(true) / fits
        note = f"a model; refused {100 * refused:.3g} % of {fits:,} fits"
        if len(true):
            inside = float(
                np.mean([low <= share <= high for share, low, high in filter(None, found)])
            )
            note += f"; half at most {100 * np.median(true):.2g} %, within its interval "
            note += f"{100 * inside:.3g} %"
        name, mean = f"fitted tail, asked for {100 * FAR:g} %", mean_of(true) if len(true) else None
        observed, low, high = mean or (None, None, None)
        yield Row(name, kind.name, f"{TAIL:,}", None, observed, low, high, note=note)


def _far(kind: Kind, rng: np.random.Generator) -> tuple[float, float, float] | None:
    """The true rate at a threshold, and the interval told beside it; None if refused."""
    try:
        tail = tails.fit(kind.draw(rng, TAIL))
        share = float(kind.above(np.array([tail.threshold(FAR)]))[0])
    except BadFit:
        return None
    return share, *tail.flagged(FAR)
