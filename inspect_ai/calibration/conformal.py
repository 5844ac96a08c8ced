"""From raw scores to a verdict with a promised false-alarm rate, from good images alone.

The threshold is the r-th largest score of n good, held-out images, and what scores strictly
more is flagged. As long as good images today are exchangeable with those, the share of good
images flagged is a draw from Beta(r, n + 1 - r), whatever the model (ties only lower it).
Two promises follow, with r as large as they allow:

    on average       r = floor(alpha (n + 1)): the mean share is at most alpha. The same as
                     flagging p-values up to alpha, p = (1 + #{good >= score}) / (n + 1)
    with confidence  the largest r with P(Binomial(n, alpha) < r) <= delta: the share is at
                     most alpha in all but a share delta of calibrations

Sources: Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", 2005, chapter 2
(on average). Bates, Candes, Lei, Romano, Sesia, "Testing for outliers with conformal p-values",
Annals of Statistics 51(1), 2023 (p-value). Wilks, "Determination of sample sizes for setting
tolerance limits", Ann. Math. Stat. 12, 1941 (with confidence).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from inspect_ai.errors import BadSettings, TooFewGoodImages
from inspect_ai.scores import Bool, Float32, Float64


@dataclass(frozen=True, slots=True)
class Calibration:
    """Good scores kept as the yardstick, and the rate they were asked to hold.

    Args:
        good_scores: (n,) image scores of good images nothing was fitted on, sorted upwards.
        false_alarm_rate: alpha, share of good images that may be flagged, in (0, 1).
        confidence: 1 - delta in (0, 1); None promises the rate on average.
    """

    good_scores: Float32
    false_alarm_rate: float
    confidence: float | None = None

    @property
    def rank(self) -> int:
        """r: the threshold is the r-th largest good score."""
        return allowed_rank(len(self.good_scores), self.false_alarm_rate, self.confidence)

    @property
    def threshold(self) -> float:
        """Scores strictly above it are flagged."""
        return float(self.good_scores[-self.rank])

    @property
    def promise(self) -> str:
        """What the threshold promises, in one sentence."""
        share = f"at most {100 * self.false_alarm_rate:.4g} % of good images are flagged"
        n = f"{len(self.good_scores):,} good images"
        if self.confidence is None:
            return f"On average over calibrations on {n}, {share}."
        return f"With {100 * self.confidence:.4g} % confidence, calibrated on {n}, {share}."

    def p_value(self, pred_score: Float32) -> Float64:
        """Share of good images at least this odd, the image counted in: (N,) in (0, 1].

        A score that is not a number counts as odder than all.
        """
        n = len(self.good_scores)
        at_least_as_odd = n - np.searchsorted(self.good_scores, pred_score, side="left")
        return np.asarray((1 + at_least_as_odd) / (n + 1), dtype=np.float64)

    def is_anomalous(self, pred_score: Float32) -> Bool:
        """(N,) verdicts; True is flagged. A score that is not a number is flagged."""
        return ~(np.asarray(pred_score) <= np.float32(self.threshold))


def calibrate(
    good_scores: Float32, false_alarm_rate: float, confidence: float | None = None
) -> Calibration:
    """Keeps held-out good scores as the yardstick.

    Args:
        good_scores: (n,) image scores of good, held-out images, any order.
        false_alarm_rate: alpha in (0, 1); 0.01 flags about 1 good image in 100.
        confidence: in (0, 1), or None.

    Raises:
        BadSettings: a rate outside (0, 1).
        ValueError: a score that is not finite.
        TooFewGoodImages: n cannot support the promise; says which n can, and what n can.
    """
    wrong = int((~np.isfinite(good_scores)).sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(good_scores)} calibration scores are not finite")
    require(len(good_scores), false_alarm_rate, confidence)
    return Calibration(np.sort(good_scores).astype(np.float32), false_alarm_rate, confidence)


def require(n: int, false_alarm_rate: float, confidence: float | None = None) -> None:
    """Refuses a promise that n good images cannot keep; costs nothing, so ask before training.

    Raises:
        BadSettings: a rate outside (0, 1).
        TooFewGoodImages: says how many are needed, and what n can promise.
    """
    for name, value in (("false_alarm_rate", false_alarm_rate), ("confidence", confidence)):
        if value is not None and not 0.0 < value < 1.0:
            raise BadSettings(f"{name} must be in (0, 1), got {value}. 0.01 is one in a hundred.")
    if allowed_rank(n, false_alarm_rate, confidence) < 1:
        raise TooFewGoodImages(_too_few(n, false_alarm_rate, confidence))


def allowed_rank(n: int, alpha: float, confidence: float | None) -> int:
    """The largest r that keeps the promise with n good scores; 0 where none does."""
    if confidence is None:  # the same division as in a p-value, so that verdicts agree with it
        r = math.floor(alpha * (n + 1)) + 1
        while r / (n + 1) > alpha:
            r -= 1
        return r
    delta = (1 - confidence) * (1 + 1e-12)  # rounding must not cost a rank
    r = int(binom.ppf(1 - confidence, n, alpha))  # near the answer, then exact
    while r > 0 and binom.cdf(r - 1, n, alpha) > delta:
        r -= 1
    while r < n and binom.cdf(r, n, alpha) <= delta:
        r += 1
    return r


def needed(alpha: float, confidence: float | None) -> int:
    """The smallest n with which alpha can be promised."""
    exact = 1 / alpha if confidence is None else math.log1p(-confidence) / math.log1p(-alpha)
    n = max(1, math.floor(exact) - 1)  # near the answer, then exact
    while allowed_rank(n, alpha, confidence) < 1:
        n += 1
    return n


def tightest(n: int, confidence: float | None) -> float:
    """The smallest alpha that n good scores can promise, rounded up to three digits."""
    exact = 1 / (n + 1) if confidence is None else 1 - (1 - confidence) ** (1 / max(n, 1))
    digits = 2 - math.floor(math.log10(exact))
    return float(math.ceil(exact * 10**digits) / 10**digits)


def _too_few(n: int, alpha: float, confidence: float | None) -> str:
    sure = "" if confidence is None else f" with confidence {confidence:g}"
    least = tightest(n, confidence)
    advice = f", or ask for a rate of {least:g} or more" if n and least < 1 else ""
    return (
        f"A false-alarm rate of {alpha:g}{sure} needs at least {needed(alpha, confidence)} good "
        f"calibration images, got {n}. Add images to the 'calibrate' split{advice}."
    )
