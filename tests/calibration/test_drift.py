import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import binom, gamma, kstest, spearmanr

from inspect_ai.calibration import drift
from inspect_ai.calibration.drift import SIDES, cusum, log_martingale, log_mixture, ranked, uniforms

DELTA = 0.05


def p_values(rng, bag, new):
    """(N, T) p-values of N streams, each with a bag of its own."""
    u = rng.random(new.shape)
    pairs = zip(np.sort(bag, axis=1), new, u, strict=True)
    return np.stack([ranked(*one)[0] for one in pairs])


def draws(kind, rng, shape):
    """Scores without a change: of any tail, with ties, or one value for all."""
    return {
        "normal": lambda: rng.normal(size=shape),
        "heavy": lambda: rng.standard_t(2, shape),
        "discrete": lambda: rng.integers(0, 3, shape).astype(float),
        "constant": lambda: np.zeros(shape),
    }[kind]()


def null(kind, streams=1000, bag=200, new=500, seed=0):
    rng = np.random.default_rng(seed)
    return p_values(rng, draws(kind, rng, (streams, bag)), draws(kind, rng, (streams, new)))


@pytest.mark.parametrize(("kind", "streams"), [("normal", 1000), ("discrete", 300)])
def test_at_most_delta_of_streams_without_a_change_ever_alarm(kind, streams):
    ever = log_martingale(null(kind, streams)).max(axis=1) >= -np.log(DELTA)
    assert ever.sum() <= binom.ppf(0.999, len(ever), DELTA)


def test_p_values_among_a_fixed_bag_would_break_that_promise():
    rng = np.random.default_rng(1)
    bag, new = np.sort(rng.normal(size=(100, 100))), rng.normal(size=(100, 2000))
    above = np.stack([100 - np.searchsorted(b, s) for b, s in zip(bag, new, strict=True)])
    p = np.clip((above + rng.random(new.shape)) / 101, drift.LEAST, 1 - drift.LEAST)
    ever = log_martingale(p).max(axis=1) >= -np.log(DELTA)
    assert ever.sum() > binom.ppf(0.999999, len(ever), DELTA)


@pytest.mark.parametrize("kind", ["normal", "heavy", "discrete", "constant"])
def test_p_values_are_uniform_and_independent_with_or_without_ties(kind):
    p = null(kind, streams=100, bag=7, new=60, seed=2)
    assert kstest(p.ravel(), "uniform").pvalue > 0.001
    assert kstest(p[:, 0], "uniform").pvalue > 0.001
    assert spearmanr(p[:, :-1].ravel(), p[:, 1:].ravel()).pvalue > 0.001


@pytest.mark.parametrize("side", [1, -1])
def test_a_shift_of_one_sigma_is_found_within_200_images(side):
    rng = np.random.default_rng(3)
    p = p_values(rng, rng.normal(size=(200, 500)), rng.normal(side, 1, (200, 200)))
    found = log_martingale(p).max(axis=1) >= -np.log(DELTA)
    assert found.mean() >= 0.99
    assert (cusum(p, 10_000).height >= 10_000).any(axis=1).mean() >= 0.99


def test_the_side_that_alarms_is_the_one_that_moved_and_since_is_when():
    rng = np.random.default_rng(4)
    new = rng.normal(size=(3, 400))
    new[:, 200:] = np.array([[1.5], [-1.5], [0]]) + new[:, 200:] * np.array([[1], [1], [3]])
    found = cusum(p_values(rng, rng.normal(size=(3, 500)), new), 10_000)
    at = (found.height >= 10_000).argmax(axis=1)
    rows = np.arange(3)
    assert [SIDES[k] for k in found.side[rows, at]] == ["up", "down", "wider"]
    assert (abs(found.since[rows, at] - 200) < 50).all()


def test_images_between_false_quick_alarms_are_as_many_as_stated():
    c, streams, longest = 50.0, 300, 1000
    height = cusum(np.random.default_rng(5).random((streams, longest)), c).height
    rang = height >= c
    first = np.where(rang.any(axis=1), rang.argmax(axis=1) + 1, longest)
    assert first.mean() + 3 * first.std() / np.sqrt(streams) >= c
    assert first.mean() < 20 * c  # and the statement is not empty


def test_after_a_quick_alarm_it_starts_again():
    p = np.full(60, 0.01)
    height = cusum(p, 1000).height
    at = np.flatnonzero(height >= 1000)
    assert len(at) > 2
    assert height[at[0] + 1] == pytest.approx(height[0])


def test_the_cusum_lies_below_shiryaev_roberts():
    p = np.random.default_rng(6).random(200)
    r = np.zeros((len(SIDES), len(drift.BETS)))
    for t, loss in enumerate(drift.losses(p)):
        r = (1 + r) * drift.BETS * np.exp((1 - drift.BETS) * loss[:, None])
        assert cusum(p[: t + 1], 1e9).height[-1] <= r.mean() * (1 + 1e-12)


@given(st.integers(0, 10**6), st.floats(0, 4))
@settings(max_examples=150, deadline=None)
def test_the_closed_form_is_the_integral(n, ratio):
    S = ratio * max(n, 1)

    def log_f(eps):
        return n * np.log(eps) + (1 - eps) * S

    best = min(1.0, n / S) if n and S else (0.0 if S else 1.0)
    top = log_f(best) if n else (1 - best) * S
    width = 1 / np.sqrt(n + 1) if best < 1 else 1 / (1 + abs(n - S))
    cuts = np.clip(best + width * np.array([-60, -9, -3, -1, 0, 1, 3, 9, 60]), 0, 1)
    ends = np.unique(np.concatenate([[0, 1], cuts]))
    pieces = [
        quad(lambda e: np.exp(log_f(e) - top) if e else float(n == 0), a, b)[0]
        for a, b in itertools.pairwise(ends)
    ]
    assert log_mixture(n, np.array([S]))[0] == pytest.approx(top + np.log(sum(pieces)), abs=2e-5)


@given(st.lists(st.integers(-3, 3), max_size=40), st.lists(st.integers(-3, 3), max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_p_value_counts_what_came_before_and_a_tie_by_a_draw(bag, new):
    u = np.linspace(0.1, 0.9, len(new))
    p, after = ranked(np.sort(np.array(bag, float)), np.array(new, float), u)
    seen = list(bag)
    for score, draw, found in zip(new, u, p, strict=True):
        above, equal = sum(s > score for s in seen), sum(s == score for s in seen)
        assert found == pytest.approx((above + draw * (1 + equal)) / (len(seen) + 1))
        seen.append(score)
    assert after.tolist() == sorted(seen)


def test_blocks_of_scores_leave_no_seam(monkeypatch):
    rng = np.random.default_rng(7)
    bag, new, u = np.sort(rng.normal(size=50)), rng.normal(size=300), rng.random(300)
    whole = ranked(bag, new, u)
    monkeypatch.setattr(drift, "BLOCK", 7)
    cut = ranked(bag, new, u)
    assert (whole[0] == cut[0]).all()
    assert (whole[1] == cut[1]).all()


def test_a_score_that_is_not_a_number_is_larger_than_all():
    p, after = ranked(np.arange(99.0), np.array([np.nan, np.inf]), np.array([0.5, 0.5]))
    assert p.tolist() == pytest.approx([0.5 / 100, 0.5 * 2 / 101])
    assert np.isinf(after[-2:]).all()


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_no_draw_makes_a_bet_infinite(u):
    p, _ = ranked(np.empty(0), np.zeros(1), np.array([u]))
    assert np.isfinite(drift.losses(p)).all()
    assert np.isfinite(log_martingale(p)).all()


def test_draws_depend_on_the_name_and_the_place_alone():
    whole = uniforms("a", 0, 100)
    assert (uniforms("a", 37, 63) == whole[37:]).all()
    assert not (uniforms("b", 0, 100) == whole).any()


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_bet_on_one_side_is_worth_1_on_average(n):
    def value(S):  # of the mixture, times the density of the sum of n losses
        return np.exp(log_mixture(n, np.array([S]))[0] + gamma(n).logpdf(S))

    # beyond `far` the mixture is e^S S^-(n + 1) n!, so that what is left is n / far
    far = 1000.0 * n
    ends = [0, n / 4, n, 4 * n, 20 * n, 100 * n, far]
    worth = sum(quad(value, a, b)[0] for a, b in itertools.pairwise(ends))
    assert worth + n / far == pytest.approx(1, abs=1e-5)


def test_a_million_images_keep_the_martingale_a_number():
    n = np.array([10**6, 10**6, 10**6])
    log_m = log_mixture(n, np.array([0.0, 1e6, 1e8]))
    assert log_m[0] == pytest.approx(-np.log(10**6 + 1))
    assert np.isfinite(log_m).all()
    assert logsumexp(log_m) > 1e6
