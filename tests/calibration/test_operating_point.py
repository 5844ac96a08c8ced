import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta, binom, norm

from inspect_ai.calibration import trade_off
from inspect_ai.calibration.conformal import allowed_rank, calibrate
from inspect_ai.calibration.operating_point import (
    SPLIT,
    _halves,
    curve,
    from_capacity,
    from_costs,
    from_defects,
)
from inspect_ai.errors import BadSettings, TooFewGoodImages

LEVELS = st.integers(-4, 4).map(float) | st.floats(-100, 100, width=32)
GOOD = st.integers(20, 60).flatmap(lambda n: arrays(np.float32, n, elements=LEVELS))
DEFECTS = st.integers(1, 60).flatmap(lambda d: arrays(np.float32, d, elements=LEVELS))


def scores(n=400, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, n).astype(np.float32)


def missed(defects, threshold):
    return int((defects <= np.float32(threshold)).sum())


@given(st.integers(30, 500), st.floats(10, 1e4), st.floats(0.15, 0.95), st.floats(0, 0.09))
@settings(max_examples=50, deadline=None)
def test_capacity_takes_the_largest_rank_whose_reviews_fit(n, images, share, defects):
    good, reviews = scores(n), share * images
    point = from_capacity(good, images, reviews, defects)
    rank = int((good > point.threshold).sum()) + 1
    needed = [images * ((1 - defects) * r / (n + 1) + defects) for r in (rank, rank + 1)]
    assert needed[0] <= reviews * (1 + 1e-9)
    assert needed[1] >= reviews * (1 - 1e-9)
    assert point.reviews_per_hour == pytest.approx(needed[0])


@given(GOOD, DEFECTS, st.floats(0.1, 100), st.floats(0.01, 0.9))
@settings(max_examples=50, deadline=None)
def test_costs_take_the_cheapest_of_all_good_scores(good, defects, escape_cost, share):
    point = from_costs(good, defects, (1.0, escape_cost), share)
    n, d = len(good), len(defects)

    def cost(threshold):
        overkill = ((good > threshold).sum() + 1) / (n + 1)
        return 1000 * (
            (1 - share) * overkill + share * escape_cost * missed(defects, threshold) / d
        )

    assert point.threshold in good
    assert point.cost == pytest.approx(cost(point.threshold))
    assert point.cost <= min(cost(t) for t in good) * (1 + 1e-9)


@given(GOOD, DEFECTS, st.floats(0.05, 0.9), st.floats(0.5, 0.99))
@settings(max_examples=50, deadline=None)
def test_defects_take_the_highest_good_score_with_a_bound_as_asked(
    good, defects, escape, confidence
):
    def bound(threshold):  # Clopper-Pearson, of one side
        m, d = missed(defects, threshold), len(defects)
        return 1.0 if m == d else beta.ppf(confidence, m + 1, d - m)

    allowed = [float(t) for t in good if bound(t) <= escape * (1 + 1e-9)]
    if not allowed:
        with pytest.raises(BadSettings, match=r"labelled defects, got|all would be flagged"):
            from_defects(good, defects, escape, confidence)
        return
    assert from_defects(good, defects, escape, confidence).threshold == max(allowed)


@given(GOOD, DEFECTS)
@settings(max_examples=50, deadline=None)
def test_calibrate_finds_the_same_threshold_by_the_rate(good, defects):
    points = [from_capacity(good, 100, 40, 0.1), from_costs(good, defects, (1, 5), 0.1)]
    for point in points:
        assert calibrate(good, point.false_alarm_rate).threshold == point.threshold


def test_a_rate_is_told_in_as_few_digits_as_will_do():
    assert from_capacity(scores(1000), 1000, 20).false_alarm_rate == 0.02
    assert from_capacity(scores(333), 700, 37, 0.01).false_alarm_rate == 0.042


@pytest.mark.parametrize(("d", "escape", "confidence"), [(100, 0.05, 0.95), (300, 0.05, 0.9)])
def test_the_escape_asked_is_kept_though_the_same_defects_chose(d, escape, confidence):
    good, draws = scores(500, seed=1), 300
    true = [
        norm.cdf(from_defects(good, scores(d, 2.5, seed), escape, confidence).threshold - 2.5)
        for seed in range(draws)
    ]
    broken = int((np.array(true) > escape).sum())
    assert broken <= binom.ppf(0.999, draws, 1 - confidence)
    assert broken > 0  # it is not far too careful


def test_the_overkill_interval_holds_for_a_threshold_from_defects():
    hits, draws = 0, 200
    for seed in range(draws):
        good, defects = scores(200, seed=seed), scores(100, 2.0, seed + draws)
        point = from_defects(good, defects, 0.1)
        low, high = point.overkill_interval
        hits += low <= norm.sf(point.threshold) <= high
    assert hits >= binom.ppf(0.001, draws, 0.95)


def test_intervals_of_a_curve_cover_the_truth():
    overkill, escape, draws = [], [], 200
    for seed in range(draws):
        row = trade_off.at_rates(scores(200, seed=seed), [0.05], scores(80, 2, seed + draws))
        at = row.iloc[0]
        overkill.append(at["overkill_low"] <= norm.sf(at["threshold"]) <= at["overkill_high"])
        truth = norm.cdf(at["threshold"] - 2)
        escape.append(at["escape_low"] <= truth <= at["escape_high"])
    assert sum(overkill) >= binom.ppf(0.001, draws, 0.95)
    assert sum(escape) >= binom.ppf(0.001, draws, 0.95)


def test_escape_on_the_defects_that_chose_is_too_small_and_on_the_other_half_is_not():
    same, other = [], []
    for seed in range(150):
        good = scores(60, seed=seed)
        for d, told in ((SPLIT - 1, same), (2 * SPLIT, other)):
            point = from_costs(good, scores(d, 1.5, seed + 1000), (1, 1), 0.5)
            told.append(point.escape - norm.cdf(point.threshold - 1.5))
    error = np.std(other) / np.sqrt(len(other))
    assert np.mean(same) < -0.005
    assert abs(np.mean(other)) < 4 * error


def test_no_lot_both_chooses_and_counts():
    lots = [f"lot{i % 9}" for i in range(SPLIT)]
    chooses, counts = _halves(SPLIT, lots)
    assert set(np.array(lots)[chooses]).isdisjoint(np.array(lots)[counts])
    assert (chooses ^ counts).all()
    assert _halves(SPLIT, ["one"] * SPLIT)[0].all()
    assert _halves(SPLIT - 1, None)[1].all()


def test_words_say_whether_the_escape_is_a_promise():
    few = from_costs(scores(), scores(SPLIT - 1, 3), (1, 10), 0.01).words
    many = from_costs(scores(), scores(SPLIT, 3), (1, 10), 0.01).words
    assert "no promise, since the same 119 defects chose" in few[2]
    assert "counted on 60 defects that did not choose" in many[2]
    sure = from_defects(scores(), scores(100, 3), 0.1)
    assert sure.words[0].startswith("With 95 % confidence at most 10 % of defects escape, if")


def test_too_few_defects_are_refused_and_the_number_needed_is_enough():
    with pytest.raises(BadSettings, match=r"needs 59 labelled defects, got 58") as told:
        from_defects(scores(), scores(58, 9), 0.05)
    enough = int(re.search(r"needs (\d+)", str(told.value))[1])
    assert from_defects(scores(), scores(enough, 9), 0.05).escape == 0


def test_defects_that_look_like_good_images_are_refused():
    with pytest.raises(BadSettings, match="all would be flagged"):
        from_defects(scores(), scores(100, -20), 0.05)


def test_a_defect_whose_score_is_not_a_number_does_not_escape():
    defects = np.append(scores(99, 3), np.float32(np.nan))
    assert from_defects(scores(), defects, 0.05) == from_defects(
        scores(), np.append(defects[:-1], np.float32(np.inf)), 0.05
    )
    assert (curve(scores(), np.float32([np.nan]))["escape"] == 0).all()


def test_no_defect_means_that_escape_is_not_known():
    none = np.zeros(0, np.float32)
    for ask in (
        lambda: from_defects(scores(), none, 0.1),
        lambda: from_costs(scores(), none, (1, 1), 0.1),
    ):
        with pytest.raises(BadSettings, match="Escape is not known"):
            ask()
    assert curve(scores(), none)["escape"].isna().all()
    assert from_capacity(scores(), 100, 5).escape is None


def test_capacity_beyond_what_images_can_bear_is_refused():
    with pytest.raises(TooFewGoodImages, match="needs at least 999"):
        from_capacity(scores(100), 1000, 1)
    with pytest.raises(BadSettings, match="enough for all 10 images"):
        from_capacity(scores(), 10, 10)
    with pytest.raises(BadSettings, match="Defects alone may need 20 reviews"):
        from_capacity(scores(), 100, 15, 0.2)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(BadSettings, match="images_per_hour must be a number above 0"):
        from_capacity(scores(), wrong, 1)
    with pytest.raises(BadSettings, match="cost_escape must be a number above 0"):
        from_costs(scores(), scores(), (1, wrong), 0.1)
    with pytest.raises(BadSettings, match=r"escape must be in \(0, 1\)"):
        from_defects(scores(), scores(), wrong)


@given(GOOD | st.integers(0, 99).map(lambda seed: scores(3000, seed=seed)), DEFECTS)
@settings(max_examples=15, deadline=None)
def test_a_curve_counts_what_lies_above_each_threshold(good, defects):
    table, n = curve(good, defects), len(good)
    assert 1 <= len(table) <= trade_off.ROWS
    assert table["threshold"].iloc[0] == good.max()
    assert table["threshold"].iloc[-1] == good.min()
    assert table["threshold"].is_monotonic_decreasing
    assert table["threshold"].is_unique
    for row in table.itertuples():
        assert row.overkill == ((good > row.threshold).sum() + 1) / (n + 1)
        assert row.escape == missed(defects, row.threshold) / len(defects)
        assert row.overkill_low <= row.overkill <= row.overkill_high
        assert row.escape_low <= row.escape <= row.escape_high


def test_no_good_image_gives_no_curve_and_a_rate_too_small_no_row():
    assert curve(np.zeros(0, np.float32)).empty
    table = trade_off.at_rates(scores(300), [0.05, 0.01, 0.001])
    assert table["rate"].tolist() == [0.05, 0.01]
    assert table["threshold"].tolist() == [
        calibrate(scores(300), r).threshold for r in (0.05, 0.01)
    ]
    assert [allowed_rank(300, r, None) / 301 for r in (0.05, 0.01)] == table["overkill"].tolist()
    assert trade_off.at_rates(np.zeros(0, np.float32), [0.05]).empty
