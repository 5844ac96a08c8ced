import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from inspect_ai import metrics

SCORES = st.lists(st.integers(-5, 5) | st.floats(-5, 5, width=32), min_size=1, max_size=30)
NAN = float("nan")


@given(SCORES, SCORES)
def test_auroc_is_the_area_under_the_curve_ties_included(good, bad):
    truth = [0] * len(good) + [1] * len(bad)
    assert metrics.auroc(good, bad) == pytest.approx(roc_auc_score(truth, good + bad))


@given(SCORES, SCORES, st.sampled_from([0.0, 0.1, 0.29, 0.5]))
def test_a_threshold_is_exceeded_by_no_more_good_images_than_allowed(good, bad, overkill):
    threshold = metrics.threshold_at(good, overkill)
    assert np.mean(np.array(good) > threshold) <= overkill
    assert np.mean(np.array(good) >= threshold) > overkill
    captured = metrics.capture_at(good, bad, overkill, fewest=0)
    assert captured == np.mean(np.array(bad) > threshold)


@given(SCORES, SCORES, st.sampled_from([0.5, 0.95, 1.0]))
def test_no_higher_threshold_reaches_the_true_positive_rate(good, bad, tpr):
    enough = [t for t in bad if np.mean(np.array(bad) >= t) >= tpr]
    expected = np.mean(np.array(good) >= max(enough))
    assert metrics.fpr_at_tpr(good, bad, tpr) == expected


def test_a_score_that_is_not_a_number_is_larger_than_everything():
    assert metrics.auroc([0, 1, 9e9], [NAN, NAN]) == 1.0
    assert metrics.auroc([NAN, NAN], [0, 1, 9e9]) == 0.0
    assert metrics.capture_at(np.arange(100), [NAN], 0.1) == 1.0
    assert metrics.fpr_at_tpr([1, NAN], [NAN]) == 0.5


def test_capture_is_not_told_when_fewer_than_ten_good_images_may_be_flagged():
    assert metrics.capture_at(np.arange(999), [5000], 0.01) is None
    assert metrics.capture_at(np.arange(1000), [5000], 0.01) == 1.0


@pytest.mark.parametrize("call", [metrics.auroc, metrics.fpr_at_tpr])
@pytest.mark.parametrize(("good", "bad"), [([], [1.0]), ([1.0], [])])
def test_refuses_to_judge_without_good_or_without_bad_scores(call, good, bad):
    with pytest.raises(ValueError, match="at least one is needed"):
        call(good, bad)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: metrics.threshold_at([1], 1.0), "overkill"),
        (lambda: metrics.fpr_at_tpr([1], [1], 0.0), "tpr"),
        (lambda: metrics.aupro([np.zeros((2, 2))], [np.eye(2) > 0], 1.5), "fpr_limit"),
        (lambda: metrics.binomial_interval(3, 2), "hits"),
    ],
)
def test_refuses_a_rate_out_of_range_by_name(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def defects(rng, images=6, side=16):
    masks = np.zeros((images, side, side), bool)
    masks[0, 2:5, 2:5] = masks[0, 10:12, 3:12] = masks[1, 0, :] = True
    masks[2, 3, 3] = masks[2, 4, 4] = True  # touching corners: one defect
    return rng.normal(size=masks.shape).astype(np.float32) + 1.5 * masks, masks


def aupro_by_every_threshold(maps, masks, regions, limit):
    """The definition, with each pixel's value as a threshold."""
    x, y = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        x.append((maps[~masks] >= threshold).mean())
        y.append(np.mean([(maps[region] >= threshold).mean() for region in regions]))
    inside = np.array(x) < limit
    ends = np.append(np.array(x)[inside], limit)
    return np.trapezoid(np.append(np.array(y)[inside], np.interp(limit, x, y)), ends) / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_agrees_with_its_definition(limit):
    maps, masks = defects(np.random.default_rng(0))
    regions = [np.zeros_like(masks) for _ in range(4)]
    regions[0][0, 2:5, 2:5] = regions[1][0, 10:12, 3:12] = regions[2][1, 0, :] = True
    regions[3][2] = masks[2]
    exact = aupro_by_every_threshold(maps, masks, regions, limit)
    assert metrics.aupro(maps, masks, limit) == pytest.approx(exact, abs=0.005)


def test_aupro_is_one_for_a_perfect_map_and_chance_for_a_flat_one():
    _, masks = defects(np.random.default_rng(0))
    assert metrics.aupro(masks.astype(np.float32), masks) == pytest.approx(1.0)
    assert metrics.aupro(np.ones(masks.shape, np.float32), masks) == pytest.approx(0.15)


def test_a_map_is_enlarged_to_its_mask_and_a_nan_pixel_is_a_false_alarm():
    mask = np.zeros((16, 16), bool)
    mask[:, 8:] = True
    small = np.array([[0, 0, 1, 1]] * 4, np.float32)
    assert metrics.aupro([small], [mask]) > 0.95
    broken = np.where(mask, 0.5, NAN).astype(np.float32)
    assert metrics.aupro([broken], [mask]) < 0.2


def test_aupro_needs_a_defect_and_a_pixel_without_one():
    flat, none = [np.zeros((4, 4), np.float32)], [np.zeros((4, 4), bool)]
    with pytest.raises(ValueError, match="AUPRO needs"):
        metrics.aupro(flat, none)
    with pytest.raises(ValueError, match="defect-free"):
        metrics.aupro(flat, [~none[0]])


def test_pooling_the_images_of_a_group_leaves_aupro_as_it_was():
    counted = metrics.overlaps(*defects(np.random.default_rng(0)))
    pooled = counted.pooled(list("ababcc"))
    assert len(pooled.free) == 3
    assert pooled.aupro() == pytest.approx(counted.aupro(), rel=1e-5)
    assert pooled.aupro(np.array([0])) == pytest.approx(counted.aupro(np.array([0, 2])), rel=1e-5)


@given(st.integers(0, 40), st.integers(0, 40))
def test_binomial_interval_is_that_of_scipy(hits, misses):
    low, high = metrics.binomial_interval(hits, hits + misses)
    if hits + misses == 0:
        assert (low, high) == (0, 1)
    else:
        exact = stats.binomtest(hits, hits + misses).proportion_ci(method="exact")
        assert (float(low), float(high)) == pytest.approx((exact.low, exact.high))


def test_binomial_interval_covers_as_often_as_it_says():
    hits = np.random.default_rng(0).binomial(200, 0.03, size=4000)
    low, high = metrics.binomial_interval(hits, 200)
    assert np.mean((low <= 0.03) & (high >= 0.03)) >= 0.95


def test_images_that_come_in_alike_groups_get_a_wider_interval():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=40), 25) + 0.1 * rng.normal(size=1000)
    widths = []
    for groups in (np.arange(1000), np.repeat(np.arange(40), 25)):
        low, high = metrics.bootstrap_interval(lambda rows: values[rows].mean(), groups)
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.96 * values.std() / 1000**0.5, rel=0.15)
    assert widths[1] == pytest.approx(5 * widths[0], rel=0.25)  # the square root of 25


def test_a_draw_is_made_of_whole_groups():
    groups, sizes = np.array(list("abacbab")), {"a": 3, "b": 3, "c": 1}
    seen = []
    metrics.bootstrap_interval(lambda rows: seen.append(rows) or 0.0, groups, resamples=50)
    for rows in seen:
        times = np.bincount(rows, minlength=7)
        assert all(len(set(times[groups == name])) == 1 for name in sizes)
        assert sum(times[groups == name][0] for name in sizes) == 3
    assert {len(rows) for rows in seen} > {7}


def test_equal_seeds_give_equal_intervals_and_other_seeds_others():
    values = np.random.default_rng(0).normal(size=50)

    def interval(seed):
        return metrics.bootstrap_interval(lambda rows: values[rows].mean(), range(50), seed=seed)

    assert interval(1) == interval(1)
    assert interval(1) != interval(2)


def test_an_interval_is_nan_where_draws_do_not_tell_or_one_group_is_all():
    low, high = metrics.bootstrap_interval(lambda rows: [1.0, NAN], range(9))
    assert low[0] == high[0] == 1.0
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(metrics.bootstrap_interval(lambda rows: 1.0, ["one"] * 9)).all()


def test_500_redraws_of_auroc_on_15000_scores_take_seconds():
    rng = np.random.default_rng(0)
    score, bad = rng.normal(size=15_000), rng.random(15_000) < 0.1
    groups = np.arange(15_000) // 25
    start = time.perf_counter()
    low, high = metrics.bootstrap_interval(
        lambda rows: metrics.auroc(score[rows][~bad[rows]], score[rows][bad[rows]]), groups
    )
    assert time.perf_counter() - start < 15
    assert low < metrics.auroc(score[~bad], score[bad]) < high
