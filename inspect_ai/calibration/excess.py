"""Are more images flagged than good ones explain? A test of one batch, lot by lot.

Of K lots the shares x_1 .. x_K are flagged, each in [0, 1]. If the lots are drawn at random and a
share of at most a is flagged on average, then whatever the law of the shares

    P(mean of x >= t) <= exp(-K kl(t, a)),   kl(t, a) = t ln(t / a) + (1 - t) ln((1 - t) / (1 - a))

for t > a; where each share is 0 or 1, as of images that each are their own lot, the binomial tail
is exact. a is not just the promised rate: the calibration had its luck too. A threshold that the
r-th largest of n good scores sets is exceeded by a share of good ones that follows Beta(r,
n + 1 - r). Its quantile takes half of the level, the lots the other half; with lots that are alike,
n is what their images are worth.

Sources: Hoeffding, "Probability inequalities for sums of bounded random variables", J. Am. Stat.
Assoc. 58, 1963, theorem 1. Wilks, "Determination of sample sizes for setting tolerance limits",
Ann. Math. Stat. 12, 1941.
"""

import numpy as np
from scipy.special import xlogy
from scipy.stats import beta, binom

from inspect_ai.scores import Float64


def more(shares: Float64, rate: float, level: float) -> bool:
    """Whether the lots show a larger share than `rate`; in vain with probability `level` at most.

    Args:
        shares: (K,) of each lot, in [0, 1].
        rate: in (0, 1).
    """
    return chance(shares, rate) <= level


def chance(shares: Float64, rate: float) -> float:
    """At most the probability of such a mean share, or a larger one, where `rate` holds."""
    n = len(shares)
    if not n or (t := float(np.mean(shares))) <= rate:
        return 1.0
    if np.isin(shares, (0, 1)).all():
        return float(binom.sf(round(n * t) - 1, n, rate))
    kl = xlogy(t, t / rate) + xlogy(1 - t, (1 - t) / (1 - rate))
    return float(np.exp(-n * kl))


def explained(rate: float, rank: float, n: float, level: float) -> float:
    """The largest share that good images explain: the promised rate, or what luck made of it.

    Args:
        rate: promised.
        rank: r, above 0. n: good scores, at least r; no whole numbers where images are alike.
        level: of the quantile.
    """
    return max(rate, float(beta.ppf(1 - level, rank, n + 1 - rank)))
