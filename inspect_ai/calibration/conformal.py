"""From raw scores to a verdict with a promised false-alarm rate, from good images alone.

The threshold is the r-th largest score of n good, held-out images, and what scores strictly
more is flagged. As long as good images today are exchangeable with those, the share of good
images flagged is a draw from Beta(r, n + 1 - r), whatever the model (ties only lower it).
Two promises follow, with r as large as they allow:

    on average       r = floor(alpha (n + 1)): the mean share is at most alpha. The same as
                     flagging p-values up to alpha, p = (1 + #{good >= score}) / (n + 1)
    with confidence  the largest r with P(Binomial(n, alpha) < r) <= delta: the share is at
                     most alpha in all but a share delta of calibrations

A p-value is one on average over calibrations. With confidence, p becomes b_{(n + 1) p}, where the
i-th smallest of n uniform numbers is below b_i for all i at once but for a share delta: then the
p-values of one calibration are valid at every level. Simes's b are tight for small p, DKW's
(p + sqrt(log(2 / delta) / 2 n)) never below that margin.

Scores may carry weights, each lot's adding up to 1 (lots.py). Then n counts lots, #{good >= score}
is a sum of weights, and with confidence a weighted sum of K shares needs a factor e more:
e P(Binomial(K, alpha) < r) <= delta.

Sources: Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", 2005, chapter 2
(on average). Bates, Candes, Lei, Romano, Sesia, "Testing for outliers with conformal p-values",
Annals of Statistics 51(1), 2023 (p-value; section 3: with confidence). Wilks, "Determination of
sample sizes for setting tolerance limits", Ann. Math. Stat. 12, 1941 (with confidence). Lee,
Barber, Willett, "Distribution-free inference with hierarchical data", 2023 (weights, on average).
Bates, Angelopoulos, Lei, Malik, Jordan, "Distribution-free, risk-controlling prediction sets",
J. ACM 68, 2021, section 3 (the factor e, after Bentkus).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import binom

from inspect_ai.errors import BadSettings, TooFewGoodImages
from inspect_ai.scores import Bool, Float32, Float64

Unit = Literal["image", "lot", "lot_share", "lot_maximum"]
How = Literal["simes", "dkw"]
CALIBRATED = {
    "image": "{images:,} good images",
    "lot": "one good image of each of {units:,} lots",
    "lot_share": "{images:,} good images of {units:,} lots, each lot counted once",
    "lot_maximum": "the oddest good image of each of {units:,} lots",
}
PROMISED = {
    "image": "at most {rate} of good images are flagged",
    "lot": "at most {rate} of good images of new lots are flagged",
    "lot_share": "at most {rate} of good images of new lots are flagged",
    "lot_maximum": "in at most {rate} of new lots any good image is flagged",
}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Good scores kept as the yardstick, and the rate they were asked to hold.

    Args:
        good_scores: (n,) image scores of good images nothing was fitted on, sorted upwards.
        false_alarm_rate: alpha, share of good images that may be flagged, in (0, 1).
        confidence: 1 - delta in (0, 1); None promises the rate on average.
        unit: what each score stands for, and what is exchangeable.
        weights: (n,) of the scores, those of a lot adding up to 1; None where each counts 1.
    """

    good_scores: Float32
    false_alarm_rate: float
    confidence: float | None = None
    unit: Unit = "image"
    weights: Float64 | None = None

    @property
    def units(self) -> int:
        """n: exchangeable good scores, or lots."""
        return len(self.good_scores) if self.weights is None else round(float(self.weights.sum()))

    @property
    def rank(self) -> int:
        """r: the threshold is the r-th largest good score; with weights, about that."""
        return allowed_rank(self.units, self.false_alarm_rate, sure(self.confidence, self.unit))

    @property
    def threshold(self) -> float:
        """Scores strictly above it are flagged."""
        if self.weights is None:
            return float(self.good_scores[-self.rank])
        above = self._at_least(np.searchsorted(self.good_scores, self.good_scores, side="right"))
        if self.confidence is None:
            kept = (1 + above) / (self.units + 1) <= self.false_alarm_rate
        else:
            kept = above <= self.rank - 1
        return float(self.good_scores[kept][0])

    @property
    def promise(self) -> str:
        """What the threshold promises, in one sentence."""
        share = PROMISED[self.unit].format(rate=f"{100 * self.false_alarm_rate:.4g} %")
        n = CALIBRATED[self.unit].format(images=len(self.good_scores), units=self.units)
        if self.confidence is None:
            return f"On average over calibrations on {n}, {share}."
        return f"With {100 * self.confidence:.4g} % confidence, calibrated on {n}, {share}."

    def p_value(self, pred_score: Float32) -> Float64:
        """Share of good images at least this odd, the image counted in: (N,) in (0, 1].

        A score that is not a number counts as odder than all.
        """
        first = np.searchsorted(self.good_scores, pred_score, side="left")
        return np.asarray((1 + self._at_least(first)) / (self.units + 1), dtype=np.float64)

    def p_value_conditional(self, pred_score: Float32, how: How = "simes") -> Float64:
        """p-values that hold, at all levels at once, with the promised confidence: (N,) in (0, 1].

        Raises:
            BadSettings: no confidence is promised, or scores carry weights.
        """
        if self.confidence is None or self.weights is not None:
            raise BadSettings(
                f"p-values with confidence {self.confidence} of unit '{self.unit}' are not known. "
                "Set a confidence, and unit = 'image', 'lot' or 'lot_maximum'."
            )
        first = np.searchsorted(self.good_scores, pred_score, side="left")
        return conditional(self.units, 1 - self.confidence, how)[self.units - first]

    def is_anomalous(self, pred_score: Float32) -> Bool:
        """(N,) verdicts; True is flagged. A score that is not a number is flagged."""
        return ~(np.asarray(pred_score) <= np.float32(self.threshold))

    def _at_least(self, first: NDArray[np.intp]) -> Float64:
        """Weight of the good scores from each place on."""
        if self.weights is None:
            return np.asarray(len(self.good_scores) - first, np.float64)
        return np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)[first]


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


def require(
    n: int, false_alarm_rate: float, confidence: float | None = None, unit: Unit = "image"
) -> None:
    """Refuses a promise that n good images cannot keep; costs nothing, so ask before training.

    Args:
        n: good images, or lots, where `unit` is one of a lot.

    Raises:
        BadSettings: a rate outside (0, 1).
        TooFewGoodImages: says how many are needed, and what n can promise.
    """
    for name, value in (("false_alarm_rate", false_alarm_rate), ("confidence", confidence)):
        if value is not None and not 0.0 < value < 1.0:
            raise BadSettings(f"{name} must be in (0, 1), got {value}. 0.01 is one in a hundred.")
    if allowed_rank(n, false_alarm_rate, sure(confidence, unit)) < 1:
        raise TooFewGoodImages(_too_few(n, false_alarm_rate, confidence, unit))


def sure(confidence: float | None, unit: Unit) -> float | None:
    """The confidence to ask of a binomial law, so that weighted shares keep the one promised."""
    if confidence is None or unit != "lot_share":
        return confidence
    return 1 - (1 - confidence) / math.e


def conditional(n: int, delta: float, how: How = "simes") -> Float64:
    """b_1 .. b_n and 1: what each marginal p-value 1 / (n + 1), 2 / (n + 1), .. becomes: (n + 1,).

    Args:
        delta: share of calibrations whose p-values may not hold, in (0, 1).
        how: "simes" with k = n / 2, or "dkw".
    """
    j = np.arange(1, n + 1)
    if how == "dkw":
        return np.append(np.minimum(1.0, j / n + math.sqrt(math.log(2 / delta) / (2 * n))), 1.0)
    k, i = max(1, n // 2), n + 1 - j
    # log of i (i - 1) .. (i - k + 1) / n (n - 1) .. (n - k + 1); 0 where i < k
    falling = gammaln(i + 1) - gammaln(np.maximum(i - k, 0) + 1)
    ratio = np.where(i < k, -np.inf, falling - (gammaln(n + 1) - gammaln(n - k + 1)))
    return np.append(-np.expm1((math.log(delta) + ratio) / k), 1.0)


@lru_cache
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


def _too_few(n: int, alpha: float, confidence: float | None, unit: Unit) -> str:
    said = "" if confidence is None else f" with confidence {confidence:g}"
    asked = sure(confidence, unit)
    least, what = tightest(n, asked), "images" if unit == "image" else "lots"
    advice = f", or ask for a rate of {least:g} or more" if n and least < 1 else ""
    return (
        f"A false-alarm rate of {alpha:g}{said} needs at least {needed(alpha, asked)} good "
        f"calibration {what}, got {n}. Add {what} to the 'calibrate' split{advice}."
    )
