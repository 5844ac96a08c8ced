import re

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binom, cauchy, expon, genpareto, lognorm, norm

from inspect_ai.calibration import pareto, tails
from inspect_ai.errors import BadFit, BadSettings

LAWS = {"exponential": expon(), "normal": norm(), "lognormal": lognorm(0.5)}
N, RATE, DRAWS = 2000, 1e-4, 18
LEAST = binom.ppf(0.001, DRAWS, 0.93)  # a good fit is refused in one draw of 20


def drawn(law, n=N, seed=0):
    return law.rvs(size=n, random_state=np.random.default_rng(seed)).astype(np.float32)


@pytest.fixture(scope="module")
def tail():
    return tails.fit(drawn(expon()))


@pytest.fixture(scope="module")
def truly():
    """By law: share truly flagged in many draws, and the ends of the interval told: (draws, 3)."""
    found = {}
    for name, law in LAWS.items():
        rows = []
        for i in range(DRAWS):
            try:
                tail = tails.fit(drawn(law, seed=100 + i))
            except BadFit:
                continue
            rows.append([law.sf(tail.threshold(RATE)), *tail.flagged(RATE)])
        found[name] = np.array(rows)
    return found


@pytest.mark.parametrize("xi", [-0.6, -0.2, 0.0, 0.2, 0.45])
def test_shape_and_scale_are_those_of_scipys_maximum_likelihood(xi):
    x = genpareto.rvs(xi, scale=3, size=(2, 150), random_state=np.random.default_rng(1))
    shape, scale = pareto.fitted(x)
    for row, fit_shape, fit_scale in zip(x, shape, scale, strict=True):
        theirs = genpareto.fit(row, floc=0)
        ours = genpareto.logpdf(row, fit_shape, scale=fit_scale).sum()
        assert ours >= genpareto.logpdf(row, theirs[0], scale=theirs[2]).sum() - 1e-4
        assert fit_shape == pytest.approx(theirs[0], abs=2e-3)


def test_the_anderson_darling_statistic_is_its_sum():
    x = np.sort(drawn(expon(), 60).astype(float))
    u, n = genpareto.cdf(x, 0.1, scale=1.2), 60
    terms = [(2 * i - 1) * np.log(u[i - 1] * (1 - u[n - i])) for i in range(1, n + 1)]
    found = pareto.anderson_darling(x[None], np.array([0.1]), np.array([1.2]))
    assert found[0] == pytest.approx(-n - sum(terms) / n)


def test_the_score_of_a_rate_is_the_formula_and_rate_is_its_inverse(tail):
    q = tail.above / tail.images
    x = tail.score(RATE) - tail.start
    assert x == pytest.approx(genpareto.isf(RATE / q, tail.shape, scale=tail.scale))
    assert tail.rate(np.array([tail.score(RATE)]))[0] == pytest.approx(RATE)
    flat = tail.model_copy(update={"shape": 0.0})
    assert flat.score(RATE) - flat.start == pytest.approx(-flat.scale * np.log(RATE / q), rel=1e-6)


def test_a_threshold_lies_farther_out_than_the_formula_and_within_its_interval(tail):
    low, high = tail.interval(RATE)
    assert tail.score(RATE) < tail.threshold(RATE)
    assert low < tail.threshold(RATE) < high
    assert tail.threshold(RATE / 10) > tail.threshold(RATE)


@pytest.mark.parametrize("law", LAWS)
def test_the_share_of_good_images_truly_flagged_is_about_the_rate(truly, law):
    times = truly[law][:, 0] / RATE
    assert len(times) >= LEAST
    assert 0.3 < times.mean() < 3
    assert (times > 8).sum() <= binom.ppf(0.999, len(times), 0.04)
    assert (times < 0.01).sum() <= binom.ppf(0.999, len(times), 0.04)


def test_the_share_truly_flagged_lies_in_the_interval_told(truly):
    share, low, high = np.concatenate(list(truly.values())).T
    assert ((low <= share) & (share <= high)).sum() >= binom.ppf(0.001, len(share), 0.9)


def test_without_a_margin_more_are_flagged_on_average(tail):
    shares = tail._beyond(tail._redrawn(RATE))
    with_margin = tail._beyond(tail._margin(RATE) * tail._redrawn(RATE))
    assert shares.mean() > 1.3 * RATE
    assert with_margin.mean() == pytest.approx(RATE, rel=1e-4)


def test_scores_at_and_below_the_start_say_nothing_and_no_number_is_the_oddest(tail):
    rate = tail.rate(np.float32([tail.start - 1, tail.start, np.nan, np.inf]))
    assert rate.tolist() == [tail.above / tail.images] * 2 + [0, 0]


def test_a_tail_read_back_gives_the_same_threshold(tail):
    read = tails.Tail.model_validate_json(tail.model_dump_json())
    assert read == tail
    pareto.refits.cache_clear()
    assert read.threshold(RATE) == tail.threshold(RATE)
    with pytest.raises(ValidationError):
        tails.Tail(**tail.model_dump() | {"shape": 0.6})


def test_the_quantiles_for_a_plot_lie_near_the_diagonal(tail):
    law, seen = np.array(tail.quantiles).T
    assert len(law) == tails.QUANTILES
    assert (np.diff(seen) > 0).all()
    assert np.corrcoef(law, seen)[0, 1] > 0.97
    assert abs(np.median(law - seen)) < 0.2 * tail.scale


def test_the_promise_says_that_there_is_none(tail):
    said = tail.promise(RATE)
    assert said.startswith(
        "By a fitted tail (no guarantee): about 0.01 % of good images are flagged"
    )
    assert said.endswith("fitted to the 200 largest scores of 2,000 good images.")


def test_more_images_raise_the_start_rather_than_the_number_of_exceedances():
    assert tails.fit(drawn(expon(), 30_000)).above == tails.MOST


def test_a_heavy_tail_is_refused():
    with pytest.raises(BadFit, match=r"too heavy: its shape is .* needed is less than 0\.5"):
        tails.fit(drawn(cauchy()))


def test_good_scores_of_two_kinds_are_refused():
    scores = drawn(norm())
    scores[:80] += 12
    with pytest.raises(BadFit, match="too heavy"):
        tails.fit(scores)
    scores[80:160] += 12
    with pytest.raises(BadFit, match="not of the fitted law: Anderson-Darling"):
        tails.fit(scores)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(N),
        np.arange(N) % 7,
        np.round(drawn(expon()), 1),
        np.append(np.zeros(N), drawn(expon(), 60)),
    ],
)
def test_tied_scores_are_refused(scores):
    with pytest.raises(BadFit, match="needs scores that differ"):
        tails.fit(scores.astype(np.float32))


def test_too_few_images_are_refused_with_the_number_needed():
    with pytest.raises(BadFit, match=r"got 49 of 490\. Calibrate on 500 good images"):
        tails.fit(drawn(expon(), 490))
    assert tails.fit(drawn(expon(), 500)).above == tails.FEWEST


def test_a_rate_too_far_out_is_refused_and_following_the_advice_works(tail):
    with pytest.raises(BadFit, match="too far beyond 2,000 good images") as told:
        tail.threshold(4e-6)
    least = float(re.search(r"asked for (\S+) or more", str(told.value))[1])
    images = int(re.search(r"calibrate on ([\d,]+)", str(told.value))[1].replace(",", ""))
    assert tail.threshold(least) > tail.threshold(RATE)
    assert tail.model_copy(update={"images": images, "above": 250}).threshold(4e-6) > tail.start


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, -1.0, float("nan")])
def test_a_rate_that_needs_no_tail_is_refused(tail, rate):
    for ask in (tail.threshold, tail.score, tail.interval, tail.flagged, tail.promise):
        with pytest.raises(BadSettings, match=r"speaks of rates below 0\.1"):
            ask(rate)


def test_scores_that_are_not_finite_and_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match="1 of 2001 calibration scores"):
        tails.fit(np.append(drawn(expon()), np.float32(np.nan)))
    with pytest.raises(BadSettings, match=r"share must be in \(0, 0\.5\]"):
        tails.fit(drawn(expon()), share=0.6)
