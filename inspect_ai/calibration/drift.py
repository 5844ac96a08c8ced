"""Has anything changed since calibration? Tests on a stream of scores that may run for years.

Each new score s is ranked among all before it (the bag, at first the calibration scores), and
then joins them:

    p = (#{bag > s} + U (1 + #{bag = s})) / (|bag| + 1)      U uniform, drawn anew for each score

As long as new scores are exchangeable with those of calibration, the p are independent and uniform
on (0, 1), whatever the model and however many ties; p-values among a fixed bag would all lean on
the same luck. Three sides are bet on: p itself (scores rose), 1 - p (they fell), 2 min(p, 1 - p)
(they spread). A bet of strength eps multiplies its stake by eps p^(eps - 1), which is 1 on average.

    martingale   M_n = mean over sides of int_0^1 prod_i eps p_i^(eps - 1) d eps
                 = e^S S^-(n + 1) gamma(n + 1, S), S = -sum ln p_i, for each side.
                 It starts at 1 and nobody gains by betting on uniform p, so
                 P(M_n ever reaches 1 / delta) <= delta: an alarm for life
    CUSUM        C_t = max(1, C_t-1) eps p_t^(eps - 1), averaged over sides and a few eps; at c
                 it alarms and starts again. The time between false alarms is c scores or more

Why c: let R_t = (1 + R_t-1) eps p_t^(eps - 1), R_0 = 0. Then C_t <= R_t as max(1, C) <= 1 + R, and
R_t - t is a martingale; so at the time T of an alarm E[T] >= E[R_T] >= c (Fatou), as for averages.

Sources: Vovk, Nouretdinov, Gammerman, "Testing exchangeability on-line", ICML 2003 (p-values,
simple mixture). Fedorova, Gammerman, Nouretdinov, Vovk, "Plug-in martingales for testing
exchangeability on-line", ICML 2012. Ville, "Etude critique de la notion de collectif", 1939.
Page, "Continuous inspection schemes", Biometrika 41, 1954. Roberts, "A comparison of some control
chart procedures", Technometrics 8, 1966. Vovk et al., "Retrain or not retrain: conformal test
martingales for change-point detection", COPA 2021.

Shapes: T scores in time; leading axes are streams side by side; 3 sides, K bets.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaln, logsumexp

from inspect_ai.scores import Float64

SIDES = ("up", "down", "wider")
BETS = np.array([0.15, 0.3, 0.5, 0.7, 0.85])  # eps of the CUSUM; the smaller, the larger a change
BLOCK = 256  # scores ranked among each other at once
MILD = 0.7  # eps of one bet beside them that no alarm ends: it tells where a rise began
HIGHEST = 1e6  # of that one, so that the end of a change is seen
Places = NDArray[np.int64]
LEAST = 2.0**-53  # no p-value is nearer to 0 or 1


def uniforms(name: str, start: int, count: int) -> Float64:
    """(count,) draws in [0, 1) that depend on the stream's name and the place in it alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")
    bits = np.random.PCG64(seed)
    bits.advance(start)
    return np.random.Generator(bits).random(count)


def ranked(bag: Float64, scores: Float64, u: Float64) -> tuple[Float64, Float64]:
    """The p-values of new scores, one after the other, and the bag with them in it.

    Args:
        bag: (n,) earlier scores, sorted upwards, none NaN; may be empty.
        scores: (T,) in order of time; one that is not a number counts as infinite.
        u: (T,) uniform draws that settle ties.

    Returns:
        (T,) in (0, 1), small for a large score; and the (n + T,) sorted bag.
    """
    s = np.where(np.isnan(scores), np.inf, np.asarray(scores, np.float64))
    p = np.empty(len(s))
    for start in range(0, len(s), BLOCK):
        now = slice(start, start + BLOCK)
        p[now] = _ranked_block(bag, s[now], u[now])
        bag = np.sort(np.concatenate([bag, s[now]]), kind="stable")
    return p, bag


def _ranked_block(bag: Float64, s: Float64, u: Float64) -> Float64:
    """As `ranked`, each with each: for a few scores."""
    earlier = np.tri(len(s), k=-1, dtype=np.bool_)
    above = len(bag) - np.searchsorted(bag, s, side="right")
    equal = np.searchsorted(bag, s, side="right") - np.searchsorted(bag, s, side="left")
    above = above + ((s[None] > s[:, None]) & earlier).sum(axis=1)
    equal = equal + ((s[None] == s[:, None]) & earlier).sum(axis=1)
    p = (above + u * (1 + equal)) / (len(bag) + np.arange(len(s)) + 1)
    return np.asarray(np.clip(p, LEAST, 1 - LEAST))


def losses(p: Float64) -> Float64:
    """-ln of each side's p-value: (..., T) to (..., T, 3), exponential with mean 1 under no drift."""
    smaller = np.minimum(p, 1 - p)
    return np.asarray(-np.log(np.stack([p, 1 - p, np.minimum(2 * smaller, 1)], axis=-1)))


def log_martingale(p: Float64) -> Float64:
    """ln M after each of (..., T) p-values."""
    n = np.arange(1, p.shape[-1] + 1)[:, None]
    return log_mean(log_mixture(n, np.cumsum(losses(p), axis=-2)))


def log_mean(log_sides: Float64) -> Float64:
    """ln of the mean over sides: (..., 3) to (...)."""
    return np.asarray(logsumexp(log_sides, axis=-1) - np.log(len(SIDES)))


def log_mixture(n: object, S: Float64) -> Float64:
    """ln of int_0^1 eps^n e^((1 - eps) S) d eps, for n >= 0 and S >= 0 of shapes that go together.

    By the incomplete gamma function, and where that is too small for a number, by the series
    (1 + S / (n + 2) + S^2 / ((n + 2)(n + 3)) + ..) / (n + 1), which is short there.
    """
    a, x = np.broadcast_arrays(np.asarray(n, np.float64) + 1, np.asarray(S, np.float64))
    share = gammainc(a, x)
    near = share > 1e-200
    with np.errstate(divide="ignore", invalid="ignore"):
        found = x - a * np.log(x) + gammaln(a) + np.log(share)
    found = np.where(near, found, 0.0)
    found[~near] = np.log(_series(a[~near], x[~near])) - np.log(a[~near])
    return found


def _series(a: Float64, x: Float64) -> Float64:
    """Sum over k of x^k / ((a + 1) .. (a + k)), for x well below a."""
    total, term, k = np.ones(len(a)), np.ones(len(a)), 0
    while len(a) and (term > 1e-17 * total).any():
        k += 1
        term = term * (x / (a + k))
        total += term
    return total


class Cusum(NamedTuple):
    """The restarting CUSUM, score by score.

    Args:
        height: (..., T) mean over sides and bets; it reaches the run length exactly at an alarm.
        side: (..., T) number of the side that is highest.
        since: (..., T) about where the rise of that side began, as a place in this call; negative
            before it.
        level: (..., 3, K + 1) to go on with; the last is the bet that no alarm ends.
        rise: (..., 3) to go on with: places as in a next call.
    """

    height: Float64
    side: Places
    since: Places
    level: Float64
    rise: Places


def cusum(
    p: Float64, run_length: float, begun: Float64 | None = None, rise: Places | None = None
) -> Cusum:
    """The CUSUM after each of (..., T) p-values; at an alarm it starts again.

    Args:
        run_length: c, above 1: scores between false alarms, on average at least.
        begun, rise: where an earlier call left off; None starts.
    """
    bets = np.append(BETS, MILD)
    factors = bets * np.exp((1 - bets) * losses(p)[..., None])
    streams, sides = p.shape[:-1], len(SIDES)
    level, at = np.zeros((*streams, sides, len(bets))), np.zeros((*streams, sides), np.int64)
    level += 0 if begun is None else begun
    at += 0 if rise is None else rise
    heights, since = np.empty((*p.shape, sides)), np.empty((*p.shape, sides), np.int64)
    for t in range(p.shape[-1]):
        np.copyto(at, t, where=level[..., -1] < 1)
        np.maximum(level, 1, out=level)
        level *= factors[..., t, :, :]
        np.minimum(level[..., -1], HIGHEST, out=level[..., -1])
        heights[..., t, :], since[..., t, :] = level[..., :-1].sum(axis=-1), at
        alarm = heights[..., t, :].sum(axis=-1) / (BETS.size * sides) >= run_length
        if alarm.any():
            level[alarm, :, :-1] = 0
    side = heights.argmax(axis=-1)
    return Cusum(
        heights.sum(axis=-1) / (BETS.size * sides),
        side,
        np.take_along_axis(since, side[..., None], axis=-1)[..., 0],
        level,
        at - p.shape[-1],
    )
