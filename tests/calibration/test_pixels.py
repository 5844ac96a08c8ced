import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from inspect_ai.calibration.conformal import calibrate
from inspect_ai.calibration.pixels import SHARES, rate_threshold, share_above, summary
from inspect_ai.errors import BadSettings, TooFewGoodImages

LEVELS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan]),
    st.floats(-(2.0**127), 2.0**127, width=32),
    st.integers(-3, 3).map(float),
)
MAPS = array_shapes(min_dims=2, max_dims=2, max_side=24).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=LEVELS, fill=st.just(0.0)), arrays(bool, shape)
    )
)
CALIBRATIONS = 500


def good_maps(rng, n, law, side=16):
    """n maps whose pixels are alike within a map: some images are brighter, some have a spot."""
    maps = (
        rng.standard_t(3, (n, side, side)) if law == "heavy tails" else rng.random((n, side, side))
    )
    maps += rng.gamma(1.0, 1.0, (n, 1, 1))
    spot = rng.random(n) < 0.1
    maps[spot, :4, :4] += 3
    if law == "ties":
        maps = np.round(maps)
    return maps.astype(np.float32)


def summaries(maps):
    return np.stack([summary(heat) for heat in maps])


@pytest.mark.parametrize("law", ["plain", "heavy tails", "ties"])
@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (40, 0.1), (99, 0.02)])
def test_of_good_pixels_no_more_are_flagged_than_promised(law, n, rate):
    rng = np.random.default_rng(11)
    pool = good_maps(rng, 1500, law)
    kept = summaries(pool)
    shares = np.empty(CALIBRATIONS)
    for i in range(CALIBRATIONS):
        drawn = rng.choice(len(pool), n + 100, replace=False)
        shares[i] = (pool[drawn[n:]] > rate_threshold(kept[drawn[:n]], rate)).mean()
    assert shares.mean() <= rate + 3.1 * shares.std() / np.sqrt(CALIBRATIONS)


def test_the_rule_is_not_far_below_what_it_promises():
    rng = np.random.default_rng(12)
    threshold = rate_threshold(summaries(good_maps(rng, 1500, "plain")), 0.02)
    assert (good_maps(rng, 1500, "plain") > threshold).mean() > 0.008


@pytest.mark.parametrize("law", ["plain", "heavy tails", "ties"])
def test_by_the_largest_value_no_more_good_images_have_a_flagged_pixel_than_promised(law):
    rng = np.random.default_rng(13)
    maps = good_maps(rng, 4000, law)
    peaks = maps.max(axis=(1, 2))
    flagged = np.empty(CALIBRATIONS)
    for i in range(CALIBRATIONS):
        drawn = rng.permutation(len(maps))[:300]
        threshold = calibrate(peaks[drawn[:199]], 0.05).threshold
        flagged[i] = (maps[drawn[199:]] > threshold).any(axis=(1, 2)).mean()
    assert flagged.mean() <= 0.05 + 3.1 * flagged.std() / np.sqrt(CALIBRATIONS)


@given(MAPS, LEVELS)
@settings(max_examples=100, deadline=None)
def test_a_summary_bounds_the_share_above_every_value_by_less_than_twice(drawn, level):
    heat, counted = drawn
    kept = summary(heat, counted)
    inside = heat[counted]
    for threshold in {0.0 if np.isnan(level) else level, *inside[~np.isnan(inside)][:20].tolist()}:
        share = (~(inside <= np.float32(threshold))).mean() if len(inside) else 0.0
        bound = share_above(kept[None], threshold)[0]
        assert share <= bound
        assert bound == 0 if share == 0 else bound < 2 * share


@given(MAPS)
@settings(max_examples=100, deadline=None)
def test_a_summary_rises_from_the_smallest_value_to_the_largest(drawn):
    heat, _ = drawn
    kept = summary(heat)
    known = np.where(np.isnan(heat), np.inf, heat)
    assert (kept[0], kept[-1]) == (known.min(), known.max())
    assert (kept[1:] >= kept[:-1]).all()


def test_shares_fall_from_all_to_none():
    assert (SHARES[0], SHARES[-1], len(SHARES)) == (1.0, 0.0, 22)
    assert list(SHARES) == sorted(SHARES, reverse=True)


def test_a_pixel_that_has_no_say_is_not_counted():
    heat = np.float32([[1, 2], [3, 99]])
    counted = np.array([[True, True], [True, False]])
    assert summary(heat, counted)[-1] == 3
    assert share_above(summary(heat, counted)[None], 2.0)[0] == 0.5


def test_an_image_without_pixels_that_count_has_none_above_any_threshold():
    kept = summary(np.ones((3, 3), np.float32), np.zeros((3, 3), bool))
    assert np.isfinite(kept).all()
    assert share_above(kept[None], -1e30)[0] == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 60), st.floats(0.001, 0.999))
@settings(max_examples=200, deadline=None)
def test_the_threshold_is_the_smallest_that_keeps_the_rate(seed, n, levels, rate):
    drawn = np.random.default_rng(seed).integers(0, levels, (n, len(SHARES)))
    kept = np.sort(drawn, axis=1).astype(np.float32)

    def holds(threshold):
        return (share_above(kept, threshold).sum() + 1) / (n + 1) <= rate

    if 1 / (n + 1) > rate:
        with pytest.raises(TooFewGoodImages):
            rate_threshold(kept, rate)
        return
    found = rate_threshold(kept, rate)
    assert holds(found)
    assert not holds(np.nextafter(np.float32(found), np.float32(-np.inf)))


def test_as_few_images_as_can_be_give_the_largest_value():
    kept = summaries(good_maps(np.random.default_rng(1), 99, "plain"))
    assert rate_threshold(kept, 0.01) == kept.max()
    with pytest.raises(TooFewGoodImages, match=r"needs at least 99 .* got 98\. .* 0\.0102 or more"):
        rate_threshold(kept[:98], 0.01)


def test_no_image_at_all_promises_nothing_and_advises_no_rate():
    with pytest.raises(TooFewGoodImages, match=r"needs at least 9 .* got 0\.") as told:
        rate_threshold(np.empty((0, len(SHARES)), np.float32), 0.1)
    assert "ask for a rate" not in str(told.value)


def test_good_maps_of_one_value_flag_only_what_is_above_it():
    kept = summaries(np.full((20, 4, 4), 0.25, np.float32))
    assert rate_threshold(kept, 0.1) == 0.25


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_good_map_with_a_value_that_is_not_finite_is_refused(wrong):
    maps = np.zeros((30, 4, 4), np.float32)
    maps[3, 1, 1] = wrong
    with pytest.raises(ValueError, match="1 of 30 calibration maps"):
        rate_threshold(summaries(maps), 0.1)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_outside_0_and_1_is_refused(rate):
    with pytest.raises(BadSettings, match=r"pixel_rate must be in \(0, 1\)"):
        rate_threshold(np.zeros((30, len(SHARES)), np.float32), rate)
