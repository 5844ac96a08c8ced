"""One-line and ten-line statistics of a wafer map: what a trained detector must beat.

From the field's own practice: the size of the largest cluster of failing dies, and the Fisher
sum of ten such statistics' ranks among normal wafers (R. A. Fisher, "Statistical methods for
research workers", 4th ed., 1932, section 21.1).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Map = NDArray[np.uint8]

EIGHT = np.ones((3, 3), int)  # neighbours of a die
SCALES = (0.7, 1.2, 2.0)  # dies
LAGS = ((0, 1), (1, 0), (1, 1), (1, -1))


def largest_cluster(wafer: Map) -> float:
    """Log area of the largest 8-connected cluster of failing dies, in dies, plus one."""
    return float(np.log1p(_clusters(wafer)[0].max(initial=0)))


def ten_statistics(wafer: Map) -> Floats:
    """(10,) cluster area, extent, size-weighted mean area; residual energies; Moran products."""
    areas, extents = _clusters(wafer)
    total = max(areas.sum(), 1)
    dies = wafer > 0
    fails = (wafer == 2).astype(float)
    residual = np.where(dies, fails - fails.sum() / dies.sum(), 0)
    cluster = [areas.max(initial=0), extents.max(initial=0), (areas**2).sum() / total]
    energy = [float((_smooth(residual, s) ** 2 * dies).sum() / dies.sum()) for s in SCALES]
    moran = [float((residual * np.roll(residual, lag, (0, 1))).sum() / dies.sum()) for lag in LAGS]
    return np.array([*cluster, *energy, *moran], float)


def fisher_sum(statistics: Floats, normal: Floats) -> Floats:
    """(N,) sum over statistics of -log of the share of normal wafers at least as large.

    Args:
        statistics: (N, K). normal: (M, K) of normal wafers.
    """
    score = np.zeros(len(statistics))
    for column, reference in zip(statistics.T, np.sort(normal, axis=0).T, strict=True):
        at_least = len(reference) - np.searchsorted(reference, column, side="left")
        score -= np.log((1 + at_least) / (len(reference) + 1))
    return score


def _clusters(wafer: Map) -> tuple[Floats, Floats]:
    """Area and larger side of each cluster of failing dies."""
    labels, count = ndimage.label(wafer == 2, EIGHT)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(float)
    boxes = ndimage.find_objects(labels)
    extents = [max(b[0].stop - b[0].start, b[1].stop - b[1].start) for b in boxes]
    return areas, np.array(extents, float)


def _smooth(image: Floats, sigma: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="constant"))
