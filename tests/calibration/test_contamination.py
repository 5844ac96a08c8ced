import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from inspect_ai.calibration import contamination
from inspect_ai.calibration.contamination import decided, share, suspects


def planted(n, bad, seed, far=12.0):
    """Exponential scores of good images, and bad ones far out; the bad ones come first."""
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=n)
    scores[:bad] = far + rng.normal(size=bad)
    return scores.astype(np.float32)


CLEAN = {
    "exponential": lambda rng, n: rng.exponential(size=n),
    "normal": lambda rng, n: rng.normal(size=n),
    "gamma": lambda rng, n: rng.gamma(4, size=n),
    "uniform": lambda rng, n: rng.random(n),
}


@pytest.mark.parametrize("kind", CLEAN)
@pytest.mark.parametrize("n", [50, 500])
def test_nothing_sticks_out_of_clean_scores_but_in_one_sample_of_forty(kind, n):
    rng = np.random.default_rng(1)
    noise = np.quantile(
        [contamination._ahead(contamination._clean(n, rng))[0] for _ in range(2000)],
        contamination.LEVEL,
    )
    found = [contamination._settled(np.sort(CLEAN[kind](rng, n)), noise)[0] > 0 for _ in range(400)]
    assert sum(found) <= binom.ppf(0.999, 400, 0.025)


@pytest.mark.parametrize(("n", "bad"), [(200, 10), (1000, 30), (1000, 80), (5000, 250)])
def test_what_was_planted_far_out_is_counted(n, bad):
    for seed in range(3):
        found = share(planted(n, bad, seed))
        assert found.interval[0] <= bad / n <= found.interval[1]
        assert 0 < found.interval[0] <= found.share <= found.interval[1] <= 0.11
        assert found.share == pytest.approx(bad / n, abs=0.015)
        assert found.observed_above - found.expected_above == pytest.approx(n * found.share)


def test_clean_scores_have_no_share_and_an_honest_upper_limit():
    found = share(planted(1000, 0, seed=3))
    assert found.share == found.interval[0] == 0
    assert 0 < found.interval[1] < 0.05
    assert found.words.startswith("Nothing sticks out of 1,000 scores (by a model of the tail")


def test_the_words_say_that_it_is_a_model_and_how_many_stick_out():
    found = share(planted(1000, 50, seed=4))
    assert "by a model of the tail, no promise" in found.words
    assert f"{found.observed_above} where {found.expected_above:.1f} good ones" in found.words
    assert "Bad images that score as good ones do are not counted" in found.words


def test_the_same_scores_in_any_order_and_scale_give_the_same_answer():
    scores = planted(400, 20, seed=5)
    found = share(scores)
    assert share(scores[::-1]) == found
    other = share(4 * scores)  # a power of two: exact
    assert (other.share, other.interval) == (found.share, found.interval)


def test_scores_that_are_no_numbers_stick_out():
    scores = planted(1000, 0, seed=6)
    scores[:60] = np.nan
    assert share(scores).share == pytest.approx(0.06, abs=0.015)


@pytest.mark.parametrize(
    "scores", [np.zeros(500), np.full(100, np.nan), np.repeat([0, 1], [460, 40])]
)
def test_equal_scores_are_not_judged(scores):
    found = share(scores.astype(np.float32))
    assert (found.share, found.interval) == (0.0, (0.0, 1.0))
    assert found.words.startswith("Too many scores are equal or no numbers")


@pytest.mark.parametrize("n", [0, 1, 29])
def test_few_scores_are_not_judged(n):
    found = share(np.arange(n, dtype=np.float32))
    assert (found.share, found.interval) == (0.0, (0.0, 1.0))
    assert found.words == f"{n} scores say nothing of how many images are no good ones; 30 do."


def test_as_many_scores_as_are_judged_at_least_are_judged():
    assert share(planted(30, 0, seed=7)).interval[1] < 1


NUMBERS = st.floats(width=32, allow_nan=True) | st.sampled_from([0.0, 1.0])


@given(st.lists(NUMBERS, max_size=40), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_suspects_are_at_most_the_share_and_odder_than_all_others(values, portion):
    scores = np.array(values, np.float32)
    marked = suspects(scores, portion)
    assert marked.sum() <= portion * len(scores) * (1 + 1e-9)
    odd = np.nan_to_num(scores.astype(np.float64), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    if marked.any() and not marked.all():
        assert odd[marked].min() > odd[~marked].max()


def test_suspects_of_different_scores_are_exactly_the_share():
    scores = np.random.default_rng(8).permutation(np.arange(200)).astype(np.float32)
    assert sorted(scores[suspects(scores, 0.05)]) == list(range(190, 200))
    assert suspects(scores, 0.3)[scores == 140].all()  # 0.3 * 200 is 60 in spite of rounding
    assert suspects(scores, 1.0).all()
    assert not suspects(scores, 0.0).any()


def test_equal_scores_stand_or_fall_together():
    assert suspects(np.float32([1, 2, 2, 3]), 0.5).tolist() == [False, False, False, True]
    assert not suspects(np.zeros(10, np.float32), 0.3).any()


def test_what_reviewers_found_is_counted_with_an_exact_interval():
    scores = np.arange(100, dtype=np.float32)
    said = np.full(100, "", object)
    said[90:] = ["good"] * 6 + ["defect"] * 3 + ["unsure"]
    found = decided(scores, said)
    assert (found.reviewed, found.bad, found.unsure) == (9, 3, 1)
    assert found.share == pytest.approx(1 / 3)
    assert found.interval == pytest.approx((0.07485, 0.70070), abs=1e-5)  # Clopper-Pearson
    assert found.at_least == 0.03
    assert "3 of 9 reviewed images are no good ones" in found.words


def test_the_words_tell_the_oddest_from_others():
    scores = np.arange(10, dtype=np.float32)
    top, low = np.full((2, 10), "", object)
    top[8:], low[:2] = "defect", "good"
    assert "they are the oddest)" in decided(scores, top).words
    assert "not the oddest" in decided(scores, low).words


def test_no_verdict_is_told():
    found = decided(np.zeros(5, np.float32), np.array(["", "", "unsure", None, ""], object))
    assert (found.reviewed, found.share, found.interval, found.unsure) == (0, None, (0.0, 1.0), 1)
    assert found.words == "None of 5 images was decided."


def test_the_interval_of_what_was_counted_covers_as_often_as_it_says():
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(300):
        bad = np.where(rng.random(40) < 0.1, "defect", "good").astype(object)
        low, high = decided(np.zeros(40, np.float32), bad).interval
        covered += low <= 0.1 <= high
    assert covered >= binom.ppf(0.001, 300, 0.95)
