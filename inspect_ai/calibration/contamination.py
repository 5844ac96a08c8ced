"""How many of the images that are called good are not, and which they may be.

Two ways. A reviewer looks at some of them, the oddest first: then it is counted. Or, with scores
alone, it is estimated from a model of the tail, and is no promise. The model: above their median t,
scores of good images thin out at least as fast as an exponential does,

    P(score > t + y) = 1/2 exp(-y / s),      s = (sum of y_i + (n - m) y_m) / (m - n / 2)

with s fitted by maximum likelihood to the excesses y up to the 90th percentile, the m-th of n,
those above it counted and not measured. What sticks out is then

    K = max over k of  k - n_good P(score > the k-th largest),       n_good = n - K

the most that any number of images is ahead of the model; since the K images spoil the fit, they
are taken out and it is made again until K stays as it is. K is 0 unless it is larger than what one
sample in forty of clean exponential scores shows: that has no unknown in it and is simulated. A
tail that is heavier by nature sticks out too, and more than a tenth of the images cannot be found.

Sources: Epstein, Sobel, "Life testing", J. Am. Stat. Assoc. 48, 1953 (s). Meinshausen, Rice,
"Estimating the proportion of false null hypotheses among a large number of independently tested
hypotheses", Annals of Statistics 34(1), 2006 (the excess, and a bound below). Efron, Tibshirani,
"An introduction to the bootstrap", 1993, chapter 13 (percentiles). Clopper, Pearson, Biometrika
26(4), 1934 (counted share).

Shapes: n images, N of them above the median.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.stats import binomtest

from inspect_ai.scores import Bool, Float32, Float64

BULK, CENSORED = 0.5, 0.9  # shares of the images below t, and below those that are only counted
FEWEST = 30  # scores; of fewer nothing can be said
LEVEL = 0.975  # one side of an interval of 95 %
DRAWS = 200  # of either bootstrap
ROUNDS = 20  # of taking out and fitting again


@dataclass(frozen=True, slots=True)
class Contaminated:
    """What an estimate from scores alone says.

    Args:
        share: of the images that stick out of the good ones, in [0, 0.1].
        interval: of the share, 95 %; (0, 1) where nothing can be said.
        expected_above: good images that the model expects above the level where most stick out.
        observed_above: images that lie there.
        words: the same as sentences.
    """

    share: float
    interval: tuple[float, float]
    expected_above: float
    observed_above: int
    words: str


@dataclass(frozen=True, slots=True)
class Decided:
    """What reviewers found among images that are called good.

    Args:
        reviewed, bad, unsure: images decided "good" or "defect", "defect", and neither.
        share: bad of reviewed; None where none is.
        interval: of the share, 95 %, by Clopper and Pearson.
        at_least: bad of all images; as few as that are no good ones.
        words: the same as sentences.
    """

    reviewed: int
    bad: int
    unsure: int
    share: float | None
    interval: tuple[float, float]
    at_least: float
    words: str


def share(good_scores: Float32, seed: int = 0) -> Contaminated:
    """Estimates the share of images that stick out, by a model of the tail: no promise.

    Args:
        good_scores: (n,) of images that are called good; one that is not a number sticks out.
        seed: of both bootstraps.
    """
    scores = np.sort(_odd(good_scores))
    n = len(scores)
    if n < FEWEST:
        return _silent(f"{n} scores say nothing of how many images are no good ones; {FEWEST} do.")
    if not 0 < _tail(scores)[1] < np.inf:
        return _silent("Too many scores are equal or no numbers: no tail can be fitted to them.")
    rng = np.random.default_rng(seed)
    # clean scores of any scale stick out alike, so that the noise is that of a standard exponential
    noise = float(np.quantile([_ahead(_clean(n, rng))[0] for _ in range(DRAWS)], LEVEL))
    found, above, expected = _settled(scores, noise)
    again = [_settled(_drawn(scores, rng), noise)[0] for _ in range(DRAWS)]
    low = max(0.0, found - noise) / n
    high = max(float(np.quantile(again, LEVEL)), found, noise) / n
    words = _words(n, found / n, (low, high), (expected, above))
    return Contaminated(found / n, (low, high), expected, above, words)


def suspects(scores: Float32, share: float) -> Bool:
    """Marks the oddest images, at most a share of them; equal scores stand or fall together.

    Args:
        scores: (N,); one that is not a number is the oddest.
        share: in [0, 1].
    """
    odd = _odd(scores)
    most = int(share * len(odd) * (1 + 1e-12))  # rounding must not cost an image
    if most >= len(odd):
        return np.ones(len(odd), np.bool_)
    return np.asarray(odd > np.sort(odd)[::-1][most])


def decided(scores: Float32, verdicts: "np.ndarray[tuple[int], np.dtype[np.object_]]") -> Decided:
    """Counts what reviewers found among images that are called good.

    Args:
        scores: (N,) of the images.
        verdicts: (N,) "good", "defect" or "unsure"; anything else is not reviewed.
    """
    said = np.asarray(verdicts, dtype=object)
    bad, good, unsure = (int((said == v).sum()) for v in ("defect", "good", "unsure"))
    seen = (said == "defect") | (said == "good")
    reviewed, n = bad + good, len(said)
    if not reviewed:
        return Decided(0, 0, unsure, None, (0.0, 1.0), 0.0, f"None of {n:,} images was decided.")
    found = binomtest(bad, reviewed).proportion_ci(0.95, "exact")
    interval = (float(found.low), float(found.high))
    oddest = seen[np.argsort(-_odd(scores), kind="stable")][:reviewed].all()
    which = "the oddest" if oddest else "not the oddest, so it says nothing of odder ones"
    words = (
        f"{bad:,} of {reviewed:,} reviewed images are no good ones ({bad / reviewed:.1%}, 95 % "
        f"interval {interval[0]:.1%} to {interval[1]:.1%}; they are {which}): at least "
        f"{bad / n:.2%} of all {n:,}."
    )
    return Decided(reviewed, bad, unsure, bad / reviewed, interval, bad / n, words)


def _odd(scores: Float32) -> Float64:
    """Scores in which what is no number is the oddest of all."""
    return np.nan_to_num(np.asarray(scores, np.float64), nan=np.inf, posinf=np.inf, neginf=-np.inf)


def _tail(scores: Float64) -> tuple[float, float, int]:
    """t, s and N of sorted scores."""
    n = len(scores)
    first, last = int(BULK * n), int(np.ceil(CENSORED * n))
    t = float(scores[first - 1])
    with np.errstate(invalid="ignore"):
        y = scores[first:last] - t
        s = (y.sum() + (n - last) * y[-1]) / len(y)
    return t, float(s), n - first


def _ahead(scores: Float64, without: int = 0) -> tuple[float, int, float]:
    """The excess of sorted scores over the model, the images above its level, and those expected.

    Args:
        without: the oddest images, which the fit leaves out.
    """
    t, s, above_t = _tail(scores[: len(scores) - without])
    top = scores[int(np.ceil(CENSORED * len(scores))) :][::-1]
    if not 0 < s < np.inf or not len(top):
        return 0.0, 0, 0.0
    expected = above_t * np.exp(-(top - t) / s)
    excess = np.arange(1, len(top) + 1) - expected
    k = int(excess.argmax())
    return max(0.0, float(excess[k])), k + 1, float(expected[k])


def _settled(scores: Float64, noise: float) -> tuple[float, int, float]:
    """The same, 0 where it is no more than noise, else with what sticks out left out of the fit."""
    found = _ahead(scores)
    if found[0] <= noise:
        return 0.0, found[1], found[2]
    without = 0
    for _ in range(ROUNDS):
        if round(found[0]) == without:
            break
        without = round(found[0])
        found = _ahead(scores, without)
    return found


def _clean(n: int, rng: Generator) -> Float64:
    """n sorted scores whose upper half is exponential, by their spacings (Renyi); the rest is 0."""
    above = n - int(BULK * n)
    gaps = rng.exponential(size=above) / np.arange(above, 0, -1)
    return np.concatenate([np.zeros(n - above), np.cumsum(gaps)])


def _drawn(scores: Float64, rng: Generator) -> Float64:
    """As many sorted scores, drawn from these with replacement."""
    n = len(scores)
    return np.repeat(scores, np.bincount(rng.integers(0, n, n), minlength=n))


def _silent(words: str) -> Contaminated:
    return Contaminated(0.0, (0.0, 1.0), 0.0, 0, words)


def _words(n: int, found: float, interval: tuple[float, float], above: tuple[float, int]) -> str:
    method = "by a model of the tail, no promise"
    unseen = "Bad images that score as good ones do are not counted."
    if not found:
        return f"Nothing sticks out of {n:,} scores ({method}; at most {interval[1]:.1%}). {unseen}"
    return (
        f"About {found:.1%} of {n:,} images stick out ({method}; 95 % interval {interval[0]:.1%} to "
        f"{interval[1]:.1%}): {above[1]:,} where {above[0]:.1f} good ones are expected. {unseen}"
    )
