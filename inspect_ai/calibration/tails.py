"""False-alarm rates below 1 / (n + 1), by a fitted tail: a model, no guarantee.

Above a high start t, what n good scores exceed it by tends to a generalised Pareto law (peaks over
threshold). With N_t exceedances, scale sigma and shape xi:

    P(score > t + x) = (N_t / n) (1 + xi x / sigma)^(-1 / xi)
    score of a rate q   t + (sigma / xi) ((q n / N_t)^-xi - 1),   xi -> 0: t - sigma ln(q n / N_t)

sigma and xi are those of maximum likelihood (pareto.py): the same as scipy's genpareto.fit with
floc = 0, and 200 of them in the time of one. Margin, intervals and the p-value of the fit are a parametric
bootstrap: tails drawn from the fitted law and fitted again, always the same draws.

The score of a rate alone would flag more than the rate on average: where the fit is short by luck,
more good images lie beyond than are missing where it is long. So a threshold lies at
t + c (score of q - t), with the margin c with which tails drawn from the fitted one flag q on
average. Scores are seldom quite of the law: what a threshold truly flags, and how often its
interval holds, is counted by `python -m pipelines.promises count`.

A tail is refused where it should not be believed: few exceedances, ties, a shape of 0.5 and more
(the variance is infinite), a bad fit (Anderson-Darling), a rate far below 1 / n.

Sources: Pickands, "Statistical inference using extreme order statistics", Ann. Statist. 3, 1975.
Davison, Smith, "Models for exceedances over high thresholds", J. R. Statist. Soc. B 52, 1990.
Siffer, Fouque, Termier, Largouet, "Anomaly detection in streams with extreme value theory", KDD
2017. For the fit see pareto.py.
"""

import math

import numpy as np
from pydantic import Field
from scipy.optimize import brentq
from scipy.stats import genpareto

from inspect_ai.calibration import pareto
from inspect_ai.calibration.conformal import PROMISED, Unit
from inspect_ai.errors import BadFit, BadSettings
from inspect_ai.scores import Float32, Float64
from inspect_ai.settings import Settings

SHARE = 0.1  # of good scores that make the tail
FEWEST, MOST = 50, 1000  # exceedances that a fit needs, and all that it uses
HEAVIEST = 0.5  # shape from which on a tail is refused
DISTINCT = 0.9  # share of exceedances that must differ from one another
WORST = 0.05  # p-value below which a fit is bad
FARTHEST = 100.0  # how many times below 1 / n a rate may lie
QUANTILES = 50  # pairs kept for a plot


class Tail(Settings):
    """A fitted tail, with all that a bundle must keep of it."""

    start: float  # t; scores above it are exceedances
    shape: float = Field(lt=HEAVIEST)  # xi; below 0 the tail ends
    scale: float = Field(gt=0)  # sigma, in units of the score
    above: int = Field(ge=1)  # N_t
    images: int = Field(ge=FEWEST)  # n
    anderson_darling: float = Field(ge=0)  # A^2
    fit_p_value: float = Field(ge=0, le=1)  # share of tails of this very law that fit no better
    quantiles: tuple[tuple[float, float], ...] = ()  # (score by the law, score seen), for a QQ plot

    def score(self, rate: float) -> float:
        """The score that a share `rate` of good images lies above, by the formula alone.

        Raises:
            BadSettings: a rate of N_t / n or more, where no tail is needed.
            BadFit: a rate more than 100 times below 1 / n.
        """
        self._check(rate)
        x = pareto.excess(np.array([rate / self._share]), np.array([self.shape]), self.scale)
        return self.start + float(x[0])

    def threshold(self, rate: float) -> float:
        """Scores strictly above it are flagged: about a share `rate` of good images, on average.

        Raises:
            BadSettings, BadFit: as `score`.
        """
        return self.start + self._margin(rate) * (self.score(rate) - self.start)

    def rate(self, score: Float32) -> Float64:
        """Estimated share of good images with a larger score: (N,) in [0, N_t / n].

        N_t / n at and below the start, of which the tail says nothing. A score that is not a
        number counts as odder than all.
        """
        x = np.asarray(score, np.float64) - self.start
        return self._beyond(np.where(np.isnan(x), np.inf, x))

    def interval(self, rate: float) -> tuple[float, float]:
        """Where 95 of 100 thresholds lie that are set on tails drawn from this one."""
        low, high = np.quantile(self._margin(rate) * self._redrawn(rate), [0.025, 0.975])
        return self.start + float(low), self.start + float(high)

    def flagged(self, rate: float) -> tuple[float, float]:
        """Between which shares of good images 95 of 100 such thresholds flag."""
        shares = self._beyond(self._margin(rate) * self._redrawn(rate))
        low, high = np.quantile(shares, [0.025, 0.975])
        return float(low), float(high)

    def promise(self, rate: float, unit: Unit = "image") -> str:
        """What the threshold of a rate says, in one sentence that promises nothing.

        Args:
            unit: what the scores stand for that the tail was fitted to.
        """
        low, high = (100 * end for end in self.flagged(rate))
        likely = f"{low:.1g} to {high:.1g} %" if low >= 0.01 * high else f"up to {high:.1g} %"
        what = "good images" if unit == "image" else "lots"
        share = PROMISED[unit].format(rate=f"{100 * rate:.4g} %").replace("at most", "about")
        return (
            f"By a fitted tail (no guarantee): {share}, likely {likely}; fitted to the "
            f"{self.above:,} largest scores of {self.images:,} {what}."
        )

    @property
    def _share(self) -> float:
        return self.above / self.images

    def _check(self, rate: float) -> None:
        if not 0.0 < rate < self._share:
            raise BadSettings(
                f"A fitted tail speaks of rates below {self._share:.3g}, the share of good images "
                f"it was fitted to, got {rate:g}. Calibrate larger rates without a tail."
            )
        least = 1 / (FARTHEST * self.images)
        if rate < least:
            raise BadFit(
                f"A rate of {rate:g} lies too far beyond {self.images:,} good images: a tail fitted "
                f"to them may be asked for {_up(least):g} or more. Ask for that, or calibrate on "
                f"{math.ceil(1 / (FARTHEST * rate)):,} good images."
            )

    def _margin(self, rate: float) -> float:
        """c: how much farther from the start than the formula's score a threshold lies."""
        self._check(rate)
        x = self._redrawn(rate)

        def too_many(c: float) -> float:
            return float(self._beyond(c * x).mean()) - rate

        return float(brentq(too_many, 1e-3, 1e6, xtol=1e-9))

    def _redrawn(self, rate: float) -> Float64:
        """By how much tails drawn from this one put a rate's score above the start: (DRAWS,)."""
        shape, scale = pareto.refits(self.shape, self.above)
        above = np.random.default_rng(pareto.SEED).binomial(self.images, self._share, pareto.DRAWS)
        return pareto.excess(rate * self.images / np.maximum(above, 1), shape, self.scale * scale)

    def _beyond(self, x: Float64) -> Float64:
        """Share of good images that lie more than x above the start."""
        kept = genpareto.sf(np.maximum(x, 0.0), self.shape, scale=self.scale)
        return np.asarray(kept * self._share, np.float64)


def require(n: int, share: float = SHARE) -> None:
    """Refuses a tail of too few good scores; costs nothing, so ask before training.

    Raises:
        BadFit: says how many are needed.
    """
    if round(share * n) < FEWEST:
        raise BadFit(
            f"A fitted tail needs {FEWEST} good scores in the largest {100 * share:g} %, got "
            f"{round(share * n)} of {n:,}. Calibrate on {math.ceil(FEWEST / share):,} good images "
            "(or lots, where they count), or ask for a rate that needs no tail."
        )


def fit(good_scores: Float32, share: float = SHARE) -> Tail:
    """Fits the tail of good scores.

    Args:
        good_scores: (n,) image scores of good, held-out images, any order; independent.
        share: of them, the largest, that make the tail; no more than 1,000 are used, so that the
            start climbs as n grows.

    Raises:
        BadSettings: a share outside (0, 0.5].
        ValueError: a score that is not finite.
        BadFit: too few or tied scores, too heavy a tail, or one that is not of this law.
    """
    if not 0.0 < share <= 0.5:
        raise BadSettings(f"share must be in (0, 0.5], got {share}. 0.1 is the largest tenth.")
    scores = np.sort(np.asarray(good_scores, np.float64))
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(scores)} calibration scores are not finite")
    n = len(scores)
    k = min(round(share * n), MOST)
    require(n, share)
    start = float(scores[n - k - 1])
    x = scores[n - k :] - start
    x = x[x > 0]
    distinct = len(np.unique(x))
    if distinct < DISTINCT * k:
        raise BadFit(
            f"A fitted tail needs scores that differ, got {distinct} values above the start among "
            f"the {k} largest. Use a model or rule with finer scores, or ask for a rate that needs "
            "no tail."
        )
    return _believed(start, x, n)


def _believed(start: float, x: Float64, n: int) -> Tail:
    """A tail from its exceedances, upwards, if it is to be believed."""
    shape, scale = (float(number[0]) for number in pareto.fitted(x[None]))
    if not shape < HEAVIEST:
        raise BadFit(
            f"The tail of good scores is too heavy: its shape is {shape:.2f}, needed is less than "
            f"{HEAVIEST:g}. Some good images score far above the others: look at those first, or "
            "ask for a rate that needs no tail."
        )
    statistic = float(pareto.anderson_darling(x[None], np.array([shape]), np.array([scale]))[0])
    drawn = pareto.drawn(shape, len(x))
    worse = int((pareto.anderson_darling(drawn, *pareto.refits(shape, len(x))) >= statistic).sum())
    p_value = (1 + worse) / (pareto.DRAWS + 1)
    if p_value < WORST:
        raise BadFit(
            f"The tail of good scores is not of the fitted law: Anderson-Darling {statistic:.2f}, "
            f"p = {p_value:.3f}, needed {WORST:g}. The largest good scores may be of another kind "
            "than the rest: look at those first, or ask for a rate that needs no tail."
        )
    places = np.unique(np.linspace(0, len(x) - 1, QUANTILES).round().astype(int))
    law = genpareto.ppf((places + 0.5) / len(x), shape, scale=scale)
    return Tail(
        start=start,
        shape=shape,
        scale=scale,
        above=len(x),
        images=n,
        anderson_darling=statistic,
        fit_p_value=p_value,
        quantiles=tuple(zip((start + law).tolist(), (start + x[places]).tolist(), strict=True)),
    )


def _up(rate: float) -> float:
    """Rounded up to three digits."""
    digits = 2 - math.floor(math.log10(rate))
    return float(math.ceil(rate * 10**digits * (1 - 1e-12)) / 10**digits)
