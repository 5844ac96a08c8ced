"""Promises about the pixels of good images.

By image: conformal.calibrate on the largest map value of each good image gives a threshold at
which at most a share alpha of good images has any flagged pixel.

By pixel: of all pixels of good images at most a share alpha is flagged, on average over images and
calibrations. With L_i(t) the share of pixels of good image i that lie strictly above t, the
threshold is the smallest t with

    (n R(t) + 1) / (n + 1) <= alpha,    R(t) = mean over i of L_i(t)

It is lower than the one by image, and shows more of a defect: a few good images may take most of
the share. Maps are large, so of each stays a summary: for shares u = 1, 1/2, 1/4, .. 2^-20, 0 the
smallest value v_u that at most a share u of its pixels exceeds. From it

    L_i(t) <= min {u : v_u <= t},

less than twice the share itself, down to 2^-20. The rule is run on these bounds: they fall with t
and are as exchangeable as the images, so the promise holds for them, and all the more for the
shares.

Sources: Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal risk control", ICLR 2024, theorem 1.
"""

import numpy as np

from inspect_ai.calibration.conformal import needed, tightest
from inspect_ai.errors import BadSettings, TooFewGoodImages
from inspect_ai.scores import Bool, Float32, Float64

# powers of two: shares of whole pixels, and sums of them, are exact
SHARES: tuple[float, ...] = (*(2.0**-k for k in range(21)), 0.0)
LEAST = np.finfo(np.float32).min


def summary(anomaly_map: Float32, counted: Bool | None = None) -> Float32:
    """What stays of a map: for each of SHARES the smallest value that no more pixels exceed.

    Args:
        anomaly_map: (H, W); a value that is not a number counts as larger than all.
        counted: (H, W), False where a pixel has no say, as off the wafer; None counts all.

    Returns:
        (len(SHARES),) rising: the smallest value first, the largest last. Without any pixel
        that counts, the lowest number there is.
    """
    values = anomaly_map.ravel() if counted is None else anomaly_map[counted]
    if not len(values):
        return np.full(len(SHARES), LEAST, np.float32)
    ordered = np.sort(values)  # what is not a number goes last
    allowed = np.floor(np.array(SHARES) * len(values)).astype(np.intp)  # pixels above
    kept = ordered[np.maximum(len(values) - 1 - allowed, 0)]
    return np.asarray(np.where(np.isnan(kept), np.inf, kept), np.float32)


def share_above(summaries: Float32, threshold: float) -> Float64:
    """At most this share of an image's pixels lies above a threshold.

    Args:
        summaries: (n, len(SHARES)).

    Returns:
        (n,) bounds, each one of SHARES.
    """
    reached = np.asarray(summaries) <= np.float32(threshold)
    return np.asarray(np.where(reached, np.array(SHARES), 1.0).min(axis=1), np.float64)


def rate_threshold(summaries: Float32, rate: float) -> float:
    """The threshold that keeps the rate of flagged pixels of good images.

    Args:
        summaries: (n, len(SHARES)) of good images nothing was fitted on, one of each
            exchangeable unit: where lots are, of one image a lot.
        rate: alpha, share of good pixels that may be flagged, in (0, 1).

    Raises:
        BadSettings: a rate outside (0, 1).
        ValueError: a summary that is not finite.
        TooFewGoodImages: n below 1 / alpha - 1; says which n is enough, and what n can promise.
    """
    if not 0.0 < rate < 1.0:
        raise BadSettings(f"pixel_rate must be in (0, 1), got {rate}. 0.001 is one in a thousand.")
    n = len(summaries)
    require(n, rate)
    wrong = int((~np.isfinite(summaries)).any(axis=1).sum())
    if wrong:
        raise ValueError(f"{wrong} of {n} calibration maps have values that are not finite")
    shares = np.array(SHARES)
    values = np.asarray(summaries, np.float32)[:, 1:].ravel()
    order = np.argsort(values)
    falls = np.tile(shares[:-1] - shares[1:], n)[order]
    above = n - np.cumsum(falls)  # n R at each value; exact, as are the shares
    first = int(np.argmax((above + 1) / (n + 1) <= rate))
    return float(values[order[first]])


def require(n: int, rate: float) -> None:
    """Refuses a rate of pixels that n good images, or lots, cannot keep; asked before training.

    Raises:
        TooFewGoodImages: says how many are needed, and what n can promise.
    """
    if 1 / (n + 1) > rate:
        advice = f", or ask for a rate of {tightest(n, None):g} or more" if n else ""
        raise TooFewGoodImages(
            f"A pixel_rate of {rate:g} needs at least {needed(rate, None)} good calibration images "
            f"(lots, where they count), got {n}. Add some to the 'calibrate' split{advice}, or "
            "drop it."
        )
