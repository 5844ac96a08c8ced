"""Of what we flag in a batch, at most a share q is good, on average over batches.

Benjamini-Hochberg over the m p-values of a batch flags the k smallest, with the largest k for
which p_(k) <= q k / m. An image's q-value is the smallest q at which it is flagged:

    q_(k) = min over j >= k of pi0 m p_(j) / j        pi0 = 1

Conformal p-values of one calibration are alike (an unlucky one makes all of them small), but in
the way that does no harm: they are positively dependent (PRDS), and the mean share of good images
among the flagged is at most q times the share of good images in the batch.

Storey's correction gives that factor back where much of a batch is odd. Good images have large
p-values, so counting those tells how many are good:

    pi0 = (1 + #{p >= lambda}) / (m (1 - lambda)),    flagged is no p above lambda

Three things are asked for, and kept here: the 1 in the count; lambda = K / (n + 1), a value that
p can take (hence `n`); and no cut of pi0 at 1, usual as it is: small batches of good images would
have false alarms more often than q. Good images must also be independent of each other given the
calibration. Those of one lot are not, and the correction takes their common mood for defects. So
within lots there is none, and over a batch it is for batches of many lots. Plain
Benjamini-Hochberg needs positive dependence only.

Sources: Benjamini, Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57, 1995.
Benjamini, Yekutieli, Ann. Stat. 29, 2001 (PRDS). Storey, Taylor, Siegmund, J. R. Stat. Soc. B 66,
2004, theorem 3 (correction). Bates, Candes, Lei, Romano, Sesia, "Testing for outliers with
conformal p-values", Ann. Stat. 51, 2023, section 2 (PRDS and correction of conformal p-values).
Marandon, Lei, Mary, Roquain, "Adaptive novelty detection with false discovery rate guarantee",
Ann. Stat. 52, 2024 (lambda = K / (n + 1)).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inspect_ai.scores import Float64

DIGITS = 12  # of a q-value: beyond them stands rounding, which must not cost an alarm


def q_values(
    p_value: Float64,
    storey: bool = True,
    level: float = 0.5,
    n: int | NDArray[np.int64] | None = None,
) -> Float64:
    """The smallest share q at which each image of a batch is flagged: (N,) in (0, 1].

    {q-value <= q} is what Benjamini-Hochberg flags at q, for every q below 1.

    Args:
        p_value: (N,) in (0, 1], of all images of the batch, flagged or not.
        storey: with Storey's correction; only for a batch of independent images, or many lots.
        level: lambda of the correction, in (0, 1).
        n: good scores behind the p-values, or (N,) of each; moves lambda up to a value that p
            can take. Without it, q may be exceeded by a factor of about 1 + 1 / n.

    Raises:
        ValueError: a p-value or level out of range.
    """
    p = _checked(p_value)
    everything = np.zeros(len(p), np.intp)
    if not (storey and len(p)):
        return _step_up(p, everything)
    low = np.where(p <= _reachable(level, n), p, np.inf)
    return _step_up(low * good_share(p, level, n), everything)


def by_lot(p_value: Float64, lots: "Sequence[str] | pd.Series[str]") -> Float64:
    """q-values of each lot as a batch of its own: (N,) in (0, 1].

    Without Storey's correction: images of a lot share its mood, which the correction takes for
    defects, and a lot is too small to tell its share of good images. That costs little: most of
    a lot is good.

    Args:
        p_value: (N,) in (0, 1].
        lots: (N,) names; images without one make up one lot.

    Raises:
        ValueError: a p-value out of range.
    """
    codes, _ = pd.Series(lots).factorize(use_na_sentinel=False)
    return _step_up(_checked(p_value), codes)


def good_share(
    p_value: Float64, level: float = 0.5, n: int | NDArray[np.int64] | None = None
) -> float:
    """pi0, the share of good images by Storey's count; on the high side, so it may exceed 1.

    Args:
        p_value: (N,) in (0, 1], N of 1 or more.
        level, n: as in `q_values`.

    Raises:
        ValueError: a level out of range.
    """
    top = _reachable(level, n)
    return float((1 + (p_value >= top).sum()) / (len(p_value) * (1 - top)))


def _checked(p_value: Float64) -> Float64:
    p = np.asarray(p_value, np.float64)
    wrong = int((~((p > 0) & (p <= 1))).sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(p)} p-values are not in (0, 1]")
    return p


def _reachable(level: float, n: int | NDArray[np.int64] | None) -> float:
    """The level, moved up to the next K / (n + 1); of several n, the highest of theirs."""
    top = level
    if n is not None and np.size(n):
        whole = np.asarray(n) + 1
        top = float((np.ceil(level * whole - 1e-9) / whole).max())
    if not 0.0 < top < 1.0:
        raise ValueError(f"level must be in (0, 1), and below 1 as a share of n + 1, got {level}")
    return top


def _step_up(weighted: Float64, codes: NDArray[np.intp]) -> Float64:
    """Benjamini-Hochberg within each code; (N,) p-values, infinite where never to be flagged."""
    sizes = np.bincount(codes)
    order = np.lexsort((weighted, codes))
    lot = codes[order]
    rank = np.arange(len(lot)) - (np.cumsum(sizes) - sizes)[lot] + 1
    ratio = np.minimum(weighted[order] * (sizes[lot] / rank), 1.0)
    best = pd.Series(ratio[::-1]).groupby(lot[::-1]).cummin().to_numpy()[::-1]
    found = np.empty(len(lot))
    found[order] = _rounded(best)
    return found


def _rounded(share: Float64) -> Float64:
    """To a fixed number of digits, so that 3 of 60 is 0.05, not a bit more."""
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(share)))
    return np.asarray(np.rint(share * scale) / scale, np.float64)
