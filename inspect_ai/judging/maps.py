"""How near drawn wafer maps are to good ones, in what a wafer map is read by.

    W1(a, b)     integral of |F_a - F_b|, F the distribution of a number: how far it has to move
    fail share   failing dies over dies of a wafer
    profile      fail rate in RINGS rings of one width, r of a die's place in the wafer's own
                 ellipse; W1 of how fails spread over the radius, and the mean difference in rate
    Moran's I    (n / sum_ij w_ij) sum_ij w_ij z_i z_j / sum_i z_i^2,    z = x - mean,
                 w_ij = 1 for dies side by side: 1 for halves, 0 for noise, -1 for a checkerboard

On a grid a cell counts with its coverage c: as n = sum c, w_ij = c_i c_j, and in the mean. A map
without a difference has no Moran's I and is left out there.

Sources: Ramdas, Garcia, Cuturi, "On Wasserstein two sample testing", Entropy 19, 2017, section 4
(W1 by distribution functions). Moran, "Notes on continuous stochastic phenomena", Biometrika 37,
1950. Cliff, Ord, "Spatial processes", 1981, chapter 1 (weights; its mean -1 / (n - 1) for noise).

Shapes: N maps, h, w cells or dies, R rings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import wasserstein_distance

from inspect_ai.scores import Float32, Float64

RINGS = 8
FLAT = 1e-9  # variance of a map without a difference


class Maps(NamedTuple):
    """What is read off N wafer maps."""

    share: Float64  # (N,) of dies that fail
    moran: Float64  # (N,) Moran's I, NaN without a difference
    fails: Float64  # (N, R) failing dies by ring
    dies: Float64  # (N, R)


def measured(images: Float32) -> Maps:
    """Reads (N, 2, h, w) maps: fail rate, and coverage in [0, 1]."""
    x, w = images[:, 0].astype(np.float64), images[:, 1].astype(np.float64)
    dies = w.sum((1, 2))
    ring = rings(w)
    inside = ring[:, None] == np.arange(RINGS)[:, None, None]
    return Maps(
        (x * w).sum((1, 2)) / np.maximum(dies, 1e-12),
        moran(x, w),
        np.einsum("nrij,nij->nr", inside, x * w),
        np.einsum("nrij,nij->nr", inside, w),
    )


def joined(parts: Sequence[Maps]) -> Maps:
    """What is read off all maps of several batches."""
    return Maps(*(np.concatenate(of) for of in zip(*parts, strict=True)))


def figures(drawn: Maps, good: Maps) -> dict[str, float | None]:
    """How far drawn maps are from good ones, by name; None where it cannot be told."""
    profiles = [m.fails.sum(0) / np.maximum(m.dies.sum(0), 1e-12) for m in (drawn, good)]
    there = (drawn.dies.sum(0) > 0) & (good.dies.sum(0) > 0)
    apart = np.abs(profiles[0] - profiles[1])[there]
    middles = (np.arange(RINGS) + 0.5) / RINGS
    spread = all(p.sum() > 0 for p in profiles)
    morans = [m.moran[np.isfinite(m.moran)] for m in (drawn, good)]
    return {
        "W1 of the fail share": wasserstein_distance(drawn.share, good.share),
        "W1 of the radial profile": wasserstein_distance(middles, middles, *profiles)
        if spread
        else None,
        "difference of fail rate by ring": float(apart.mean()) if len(apart) else None,
        "W1 of Moran's I": wasserstein_distance(*morans) if all(map(len, morans)) else None,
        "share of maps without a difference": float(np.isnan(drawn.moran).mean()),
    }


def moran(x: Float64, w: Float64) -> Float64:
    """Moran's I of maps (N, h, w) with coverage (N, h, w): (N,), NaN without a difference."""
    n = np.maximum(w.sum((1, 2)), 1e-12)
    z = x - ((x * w).sum((1, 2)) / n)[:, None, None]
    along = [(slice(None), slice(1, None)), (slice(None), slice(None), slice(1, None))]
    before = [(slice(None), slice(-1)), (slice(None), slice(None), slice(-1))]
    pairs, products = np.zeros(len(x)), np.zeros(len(x))
    for a, b in zip(along, before, strict=True):
        weight = w[a] * w[b]
        pairs += weight.sum((1, 2))
        products += (weight * z[a] * z[b]).sum((1, 2))
    variance = (w * z**2).sum((1, 2)) / n
    known = (variance > FLAT) & (pairs > 0)
    found = products / np.where(known, pairs * variance, 1.0)
    return np.where(known, found, np.nan)


def rings(w: Float64) -> np.ndarray:
    """The ring of each cell of (N, h, w) coverage: 0 in the middle, RINGS - 1 at the edge."""
    down, across = (_place(w.max(axis)) for axis in (2, 1))
    r = np.sqrt(down[:, :, None] ** 2 + across[:, None, :] ** 2)
    return np.minimum((r * RINGS).astype(np.int64), RINGS - 1)


def _place(covered: Float64) -> Float64:
    """Where each of (N, L) cells lies between the first and the last covered one: -1 to 1."""
    there = covered > 0
    first = there.argmax(1)
    length = np.maximum(there.shape[1] - there[:, ::-1].argmax(1) - first, 1)
    middle = np.arange(there.shape[1]) + 0.5 - first[:, None]
    place: Float64 = 2 * middle / length[:, None] - 1
    return place
