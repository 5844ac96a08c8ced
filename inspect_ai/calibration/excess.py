"""Are more images flagged than good ones explain? A test of one batch, lot by lot.

Of K lots the shares x_1 .. x_K are flagged, each in [0, 1]. If the lots are drawn at random and a
share of at most a is flagged on average, then whatever the law of the shares

    P(mean of x >= t) <= exp(-K kl(t, a)),   kl(t, a) = t ln(t / a) + (1 - t) ln((1 - t) / (1 - a))

for t > a: exact, and weak where all lots have about the same share. So Student's t of the shares is
asked too, its variance no smaller than binomial luck within lots would have it; shares of good lots
are skewed to the right, which makes t cautious on this side. Of the two the smaller counts, twice.
Where each share is 0 or 1, as of images that are each their own lot, the binomial tail is exact. a
is not just the promised rate: the calibration had its luck too. A threshold that the r-th largest of n good scores sets is exceeded by a share of good ones that follows Beta(r,
n + 1 - r). Its quantile takes half of the level, the lots the other half; with lots that are alike,
n is what their images are worth.

Sources: Student, "The probable error of a mean", Biometrika 6, 1908. Hoeffding, "Probability
inequalities for sums of bounded random variables", J. Am. Stat. Assoc. 58, 1963, theorem 1. Wilks,
"Determination of sample sizes for setting tolerance limits", Ann. Math. Stat. 12, 1941.
"""

import numpy as np
from scipy.special import xlogy
from scipy.stats import beta, binom
from scipy.stats import t as student

from inspect_ai.scores import Float64


def chance(shares: Float64, rate: float, images: float = 1) -> float:
    """At most about the probability of such a mean share, or a larger one, where `rate` holds.

    Args:
        shares: (K,) of each lot, in [0, 1].
        rate: in (0, 1).
        images: of a lot, on average.
    """
    n = len(shares)
    if not n or (t := float(np.mean(shares))) <= rate:
        return 1.0
    if np.isin(shares, (0, 1)).all():
        return float(binom.sf(round(n * t) - 1, n, rate))
    kl = xlogy(t, t / rate) + xlogy(1 - t, (1 - t) / (1 - rate))
    sure = float(np.exp(-n * kl))
    if n < 2:
        return sure
    variance = max(float(np.var(shares, ddof=1)), rate * (1 - rate) / images)
    return min(1.0, 2 * min(sure, float(student.sf((t - rate) / np.sqrt(variance / n), n - 1))))


def explained(rate: float, rank: float, n: float, level: float) -> float:
    """The largest share that good images explain: the promised rate, or what luck made of it.

    Args:
        rate: promised.
        rank: r, above 0. n: good scores, at least r; no whole numbers where images are alike.
        level: of the quantile.
    """
    return max(rate, float(beta.ppf(1 - level, rank, n + 1 - rank)))
