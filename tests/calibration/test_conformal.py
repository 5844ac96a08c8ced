import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta, binom, kstest

from inspect_ai.calibration.conformal import (
    Calibration,
    allowed_rank,
    calibrate,
    conditional,
    needed,
    require,
    tightest,
)
from inspect_ai.errors import BadSettings, TooFewGoodImages

RATES = st.floats(1e-4, 1 - 1e-6)
SURE = st.one_of(st.none(), st.floats(0.01, 0.999999))
# the corners of a score: ties, one value for all, a few levels, far out, tiny
LEVELS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]),
    st.floats(-(2.0**127), 2.0**127, width=32),
    st.integers(-3, 3).map(float),
)


def scores(size):
    return arrays(np.float32, size, elements=LEVELS)


def overkill(n, rate, confidence, draws, seed):
    """Share of all good images flagged, exactly, for each of many calibrations on n of them."""
    rng = np.random.default_rng(seed)
    shares = np.empty(draws)
    for i in range(draws):
        kept = calibrate(rng.random(n, np.float32), rate, confidence)
        shares[i] = 1 - kept.threshold  # scores are uniform: what lies above is flagged
    return shares


@pytest.mark.parametrize(
    ("n", "rate", "confidence"),
    [(99, 0.01, None), (250, 0.05, None), (300, 0.01, 0.95), (500, 0.05, 0.9)],
)
def test_overkill_over_calibrations_follows_the_beta_law(n, rate, confidence):
    shares = overkill(n, rate, confidence, draws=3000, seed=1)
    r = allowed_rank(n, rate, confidence)
    assert kstest(shares, beta(r, n + 1 - r).cdf).pvalue > 0.01


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (200, 0.05), (1000, 0.003)])
def test_on_average_no_more_good_images_are_flagged_than_promised(n, rate):
    shares = overkill(n, rate, None, draws=3000, seed=2)
    error = shares.std() / np.sqrt(len(shares))
    assert shares.mean() <= rate + 3 * error


@pytest.mark.parametrize(("n", "rate", "confidence"), [(300, 0.01, 0.95), (1000, 0.05, 0.9)])
def test_the_confident_promise_is_broken_no_more_often_than_said(n, rate, confidence):
    shares = overkill(n, rate, confidence, draws=2000, seed=3)
    broken = int((shares > rate).sum())
    limit = binom.ppf(0.999, len(shares), 1 - confidence)
    assert broken <= limit


def test_ties_flag_fewer_good_images_never_more():
    rng = np.random.default_rng(4)
    levels = rng.integers(0, 4, (2000, 100)).astype(np.float32)  # each level a quarter
    flagged = [1 - (calibrate(row, 0.1).threshold + 1) / 4 for row in levels]
    assert np.mean(flagged) <= 0.1


@pytest.mark.parametrize(
    ("rate", "n", "rank"),
    [
        (0.05, 200, 5),
        (0.05, 1000, 39),
        (0.01, 298, 0),
        (0.01, 299, 1),
        (0.01, 300, 1),
        (0.01, 1000, 5),
        (0.01, 5000, 39),
        (0.001, 1000, 0),
        (0.001, 2994, 0),
        (0.001, 2995, 1),
        (0.001, 3000, 1),
        (0.001, 10000, 5),
    ],
)
def test_the_rank_for_95_percent_confidence_is_the_tables(rate, n, rank):
    assert allowed_rank(n, rate, 0.95) == rank


@pytest.mark.parametrize(
    ("rate", "confidence", "n"),
    [(0.01, 0.95, 299), (0.001, 0.95, 2995), (0.01, None, 99), (0.05, None, 19), (0.5, None, 1)],
)
def test_the_smallest_number_of_good_images_is_the_tables(rate, confidence, n):
    assert needed(rate, confidence) == n


@given(st.integers(1, 5000), RATES, SURE)
@settings(max_examples=150, deadline=None)
def test_the_rank_keeps_the_promise_and_the_next_one_breaks_it(n, rate, confidence):
    def kept(r):
        if confidence is None:
            return r / (n + 1) <= rate
        return r == 0 or binom.cdf(r - 1, n, rate) <= (1 - confidence) * (1 + 1e-9)

    r = allowed_rank(n, rate, confidence)
    assert 0 <= r <= n
    assert kept(r)
    assert r == n or not kept(r + 1)


@given(st.integers(20, 120).flatmap(lambda n: st.tuples(scores(n), scores(30))), RATES)
@settings(max_examples=200, deadline=None)
def test_flagged_is_the_same_as_a_p_value_up_to_the_rate(drawn, rate):
    good, fresh = drawn
    if allowed_rank(len(good), rate, None) < 1:
        rate = 0.05
    kept = calibrate(good, rate)
    fresh = np.concatenate([fresh, good])  # ties with the yardstick itself
    assert ((kept.p_value(fresh) <= rate) == kept.is_anomalous(fresh)).all()


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_rates_that_are_a_count_over_n_plus_1_are_not_lost_to_rounding(n, k):
    rate = k / (n + 1)
    if rate < 1:
        assert allowed_rank(n, rate, None) == k
        assert allowed_rank(n, np.nextafter(rate, 0), None) == k - 1


def test_a_p_value_counts_the_image_itself_among_those_as_odd():
    kept = calibrate(np.float32([1, 2, 2, 4]), 0.2)
    p = kept.p_value(np.float32([0, 2, 3, 4, 5]))
    assert p.tolist() == [5 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5]


def test_an_image_as_odd_as_the_threshold_is_not_flagged():
    kept = calibrate(np.arange(1, 20, dtype=np.float32), 0.05)
    assert kept.threshold == 19
    above = np.nextafter(np.float32(19), np.float32(20))
    assert kept.is_anomalous(np.float32([19, above])).tolist() == [False, True]


def test_one_score_for_all_good_images_flags_only_what_is_above_it():
    kept = calibrate(np.full(30, 0.25, np.float32), 0.1)
    assert kept.is_anomalous(np.float32([0.2, 0.25, 0.26])).tolist() == [False, False, True]


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_score_that_is_not_a_number_is_an_alarm_with_the_smallest_p_value(confidence):
    kept = calibrate(np.arange(99, dtype=np.float32), 0.1, confidence)
    odd = np.float32([np.nan, np.inf])
    assert kept.is_anomalous(odd).all()
    assert kept.p_value(odd).tolist() == [0.01, 0.01]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_calibration_score_that_is_not_finite_is_refused(wrong):
    with pytest.raises(ValueError, match="1 of 100 calibration scores"):
        calibrate(np.append(np.zeros(99, np.float32), np.float32(wrong)), 0.05)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_rate_outside_0_and_1_is_refused(rate):
    with pytest.raises(BadSettings, match=r"false_alarm_rate must be in \(0, 1\)"):
        require(1000, rate)
    with pytest.raises(BadSettings, match=r"confidence must be in \(0, 1\)"):
        require(1000, 0.01, rate)


def test_too_few_names_the_number_needed_and_a_rate_that_can_be_kept():
    with pytest.raises(
        TooFewGoodImages, match=r"needs at least 99 .* got 40\. Add images .* 0\.0244 or more"
    ):
        require(40, 0.01)


def test_no_good_image_at_all_promises_nothing_and_advises_no_rate():
    with pytest.raises(TooFewGoodImages, match=r"needs at least 99 .* got 0\. Add images") as told:
        require(0, 0.01)
    assert "ask for a rate" not in str(told.value)


@given(st.integers(0, 3000), RATES, SURE)
@settings(max_examples=300, deadline=None)
def test_following_either_piece_of_advice_works(n, rate, confidence):
    if allowed_rank(n, rate, confidence) >= 1:
        return
    with pytest.raises(TooFewGoodImages) as told:
        require(n, rate, confidence)
    message = str(told.value)
    require(int(message.split("at least ")[1].split(maxsplit=1)[0]), rate, confidence)
    if "ask for a rate of " in message:
        require(n, float(message.split("ask for a rate of ")[1].split(maxsplit=1)[0]), confidence)
    else:
        assert n == 0 or tightest(n, confidence) >= 1


@given(st.floats(0.0002, 0.9))
@settings(max_examples=150, deadline=None)
def test_one_image_fewer_than_needed_is_too_few(rate):
    for confidence in (None, 0.95):
        least = needed(rate, confidence)
        assert allowed_rank(least, rate, confidence) >= 1
        assert least == 1 or allowed_rank(least - 1, rate, confidence) == 0


def test_the_promise_on_average_says_so_in_percent():
    kept = calibrate(np.zeros(1234, np.float32), 0.005)
    assert kept.promise == (
        "On average over calibrations on 1,234 good images, at most 0.5 % of good images are flagged."
    )


def test_the_promise_with_confidence_names_the_confidence():
    kept = Calibration(np.zeros(300, np.float32), 0.01, 0.95)
    assert kept.promise == (
        "With 95 % confidence, calibrated on 300 good images, at most 1 % of good images are flagged."
    )


@pytest.mark.parametrize("how", ["simes", "dkw"])
@pytest.mark.parametrize(("n", "delta"), [(40, 0.1), (199, 0.05)])
def test_p_values_with_confidence_hold_at_all_levels_at_once_but_for_so_many_calibrations(
    n, delta, how
):
    """A calibration's p-values hold where its i-th smallest score lies below b_i, for all i."""
    drawn = np.sort(np.random.default_rng(5).random((4000, n)), axis=1)
    broken = int((drawn > conditional(n, delta, how)[:n]).any(axis=1).sum())
    assert broken <= binom.ppf(0.999, 4000, delta)


def test_simes_is_tight():
    drawn = np.sort(np.random.default_rng(6).random((4000, 100)), axis=1)
    broken = int((drawn > conditional(100, 0.1)[:100]).any(axis=1).sum())
    assert broken >= binom.ppf(0.001, 4000, 0.08)


@pytest.mark.parametrize("how", ["simes", "dkw"])
@pytest.mark.parametrize("n", [1, 2, 3, 1000, 100_000])
def test_p_values_with_confidence_rise_with_those_on_average_and_lie_above_them(n, how):
    b = conditional(n, 0.05, how)
    assert (np.diff(b) >= 0).all()
    assert (b[:n] >= np.arange(1, n + 1) / n - 1e-9).all() or how == "simes"
    assert (b >= np.arange(1, n + 2) / (n + 1) - 1e-12).all()
    assert b[-1] == 1


def test_the_first_numbers_of_simes_are_those_of_its_formula():
    n, k, delta = 10, 5, 0.1
    falling = [math.prod(range(i - k + 1, i + 1)) / math.prod(range(6, 11)) for i in (10, 9, 8)]
    wanted = [1 - delta ** (1 / k) * f ** (1 / k) for f in falling]
    assert conditional(n, delta)[:3].tolist() == pytest.approx(wanted)


def test_a_score_that_is_not_a_number_has_the_smallest_p_value_with_confidence_too():
    kept = calibrate(np.arange(300, dtype=np.float32), 0.05, 0.9)
    found = kept.p_value_conditional(np.float32([np.nan, 1e9, -1.0]))
    assert found[0] == found[1] == conditional(300, 1 - 0.9)[0]
    assert found[2] == 1


def test_p_values_with_confidence_are_refused_where_none_is_promised():
    kept = calibrate(np.arange(300, dtype=np.float32), 0.05)
    with pytest.raises(BadSettings, match=r"p-values with confidence None .* Set a confidence"):
        kept.p_value_conditional(np.float32([1.0]))


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, size: rng.standard_cauchy(size),
        lambda rng, size: rng.lognormal(0, 3, size),
        lambda rng, size: rng.integers(0, 6, size),
        lambda rng, size: np.zeros(size),
    ],
    ids=["Cauchy", "lognormal", "six values", "constant"],
)
def test_both_promises_are_kept_whatever_the_scores_are_like(draw):
    rng = np.random.default_rng(7)
    for confidence in (None, 0.9):
        shares = np.empty(300)
        for i in range(300):
            kept = calibrate(draw(rng, 150).astype(np.float32), 0.05, confidence)
            shares[i] = kept.is_anomalous(draw(rng, 2000).astype(np.float32)).mean()
        if confidence is None:
            assert shares.mean() <= 0.05 + 3 * shares.std() / math.sqrt(300)
        else:  # counted on 2,000: a share at the limit is above it half the time
            assert (shares > 0.05 + 3 * math.sqrt(0.05 / 2000)).sum() <= binom.ppf(0.999, 300, 0.1)
