import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspect_ai.scoring.rarity import curve, rarity


def nats(scores, knots, slopes):
    made = [torch.from_numpy(np.asarray(a, np.float32)) for a in (scores, knots, slopes)]
    return rarity(made[0][:, None], made[1][None], made[2][None])[:, 0].numpy()


def test_inside_the_good_scores_a_curve_is_minus_the_log_of_the_share_at_least_as_large():
    good = np.sort(np.random.default_rng(0).normal(size=4000))
    found = nats(good, *curve(good, 0.05))
    share = 1 - np.arange(4000) / 4000
    inside = share > 0.05
    assert found[inside] == pytest.approx(-np.log(share[inside]), abs=0.1)


def test_beyond_the_good_scores_a_curve_rises_as_an_exponential_tail_does():
    good = np.random.default_rng(0).exponential(2.0, 20_000)
    at = np.array([20.0, 40.0, 400.0])
    assert nats(at, *curve(good, 0.05)) == pytest.approx(at / 2, rel=0.05)


@given(st.integers(0, 999), st.integers(20, 300), st.integers(1, 50))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_larger_score_is_never_less_rare_even_where_many_tie(seed, count, values):
    rng = np.random.default_rng(seed)
    good = rng.integers(0, values, count).astype(float)
    found = nats(np.sort(rng.uniform(-5, 2 * values + 5, 200)), *curve(good, 0.05))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= -1e-3).all()


@pytest.mark.parametrize("far", [30, 500, 1e5])
def test_one_good_image_far_out_does_not_make_the_others_a_tie(far):
    good = np.random.default_rng(0).normal(size=1000)
    usual, found = (nats([1.0, 3.0], *curve(g, 0.05)) for g in (good, np.append(good, far)))
    assert found[0] == pytest.approx(usual[0], rel=0.05)
    assert found[1] > 2.9


def test_two_wafers_beyond_all_good_ones_still_differ():
    found = nats([100.0, 101.0], *curve(np.linspace(0, 1, 50), 0.05))
    assert found[1] > found[0] + 1
