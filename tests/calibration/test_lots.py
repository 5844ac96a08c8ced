import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm

from inspect_ai.calibration.lots import chosen, effective, units, yardstick
from inspect_ai.errors import TooFewGoodImages


def table(scores, lots):
    names = [f"image {i}" for i in range(len(scores))]
    return pd.DataFrame({"image_id": names, "group": lots, "pred_score": np.float32(scores)})


def alike(rng, lots, images, correlation):
    """Scores of lots of so many images, N(0, 1), with so much in common within a lot."""
    common = np.sqrt(correlation) * rng.normal(size=lots)
    own = np.sqrt(1 - correlation) * rng.normal(size=(lots, images))
    return table((common[:, None] + own).ravel(), np.repeat([f"L{i}" for i in range(lots)], images))


def overkill(unit, confidence, rate=0.05, draws=400, lots=120, seed=0):
    """Share of all good images flagged, exactly, of calibrations on lots that are much alike."""
    rng = np.random.default_rng(seed)
    made = (alike(rng, lots, 5, 0.8) for _ in range(draws))
    kept = [yardstick(t, "pred_score", rate, confidence, unit).threshold for t in made]
    return norm.sf(kept)


def test_images_of_lots_taken_as_independent_break_the_confident_promise():
    broken = (overkill("image", 0.9) > 0.05).sum()
    assert broken > binom.ppf(0.999, 400, 0.1)


@pytest.mark.parametrize("unit", ["lot", "lot_share"])
def test_counted_by_lot_the_confident_promise_is_kept_on_the_same_lots(unit):
    broken = (overkill(unit, 0.9) > 0.05).sum()
    assert broken <= binom.ppf(0.999, 400, 0.1)


@pytest.mark.parametrize("unit", ["lot", "lot_share"])
def test_counted_by_lot_no_more_good_images_are_flagged_on_average_than_promised(unit):
    shares = overkill(unit, None, seed=1)
    assert shares.mean() <= 0.05 + 3 * shares.std() / np.sqrt(len(shares))
    assert shares.mean() > 0.03


def test_all_images_of_a_lot_say_more_than_one_of_it():
    assert overkill("lot_share", None, seed=2).std() < overkill("lot", None, seed=2).std()


def test_by_the_largest_of_a_lot_at_most_so_many_new_lots_have_any_alarm():
    rng = np.random.default_rng(3)
    kept, alarms = 0, []
    for _ in range(200):
        t = alike(rng, 99, 4, 0.5)
        threshold = yardstick(t, "pred_score", 0.1, None, "lot_maximum").threshold
        new = alike(rng, 50, 4, 0.5)
        flagged = (new["pred_score"] > threshold).groupby(new["group"]).any()
        alarms.append(flagged.mean())
        kept += 1
    assert np.mean(alarms) <= 0.1 + 3 * np.std(alarms) / np.sqrt(kept)


def test_one_image_stands_for_a_lot_whatever_the_order_of_rows():
    t = alike(np.random.default_rng(4), 30, 4, 0.5)
    first = set(t["image_id"][chosen(t["image_id"], t["group"])])
    mixed = t.sample(frac=1, random_state=1)
    assert set(mixed["image_id"][chosen(mixed["image_id"], mixed["group"])]) == first
    assert len(first) == t["group"].nunique()


def test_which_image_stands_for_a_lot_has_nothing_to_do_with_its_place():
    t = alike(np.random.default_rng(5), 2000, 4, 0.5)
    places = np.arange(len(t))[chosen(t["image_id"], t["group"])] % 4
    assert np.bincount(places).min() > binom.ppf(0.0001, 2000, 0.25)


def test_with_one_image_a_lot_every_way_of_counting_gives_the_threshold_of_images():
    scores = np.random.default_rng(6).normal(size=100)
    t = table(scores, [f"L{i}" for i in range(100)])
    found = {
        unit: yardstick(t, "pred_score", 0.05, None, unit).threshold
        for unit in ("image", "lot", "lot_share", "lot_maximum")
    }
    assert len(set(found.values())) == 1


def test_shares_of_lots_are_weighed_and_not_images():
    t = table([9.0] * 50 + [*range(9)], ["odd"] * 50 + [f"L{i}" for i in range(9)])
    kept = yardstick(t, "pred_score", 0.2, None, "lot_share")
    assert kept.units == 10
    assert kept.threshold == 8  # one lot of ten, however many images it has, lies above
    assert kept.p_value(np.float32([9.0, 8.0, 0.0])).tolist() == pytest.approx([2 / 11, 3 / 11, 1])


def test_flagged_is_the_same_as_a_weighted_p_value_up_to_the_rate():
    rng = np.random.default_rng(7)
    t = table(rng.integers(0, 40, 300), rng.integers(0, 90, 300).astype(str))
    kept = yardstick(t, "pred_score", 0.07, None, "lot_share")
    new = np.float32(rng.integers(-1, 42, 500))
    assert (kept.is_anomalous(new) == (kept.p_value(new) <= 0.07)).all()


@pytest.mark.parametrize(
    ("unit", "needed"), [("lot", 299), ("lot_share", 398), ("lot_maximum", 299)]
)
def test_too_few_lots_are_refused_however_many_images_they_have(unit, needed):
    t = alike(np.random.default_rng(8), 60, 50, 0.5)
    with pytest.raises(
        TooFewGoodImages, match=f"needs at least {needed} good calibration lots, got 60"
    ):
        yardstick(t, "pred_score", 0.01, 0.95, unit)


@pytest.mark.parametrize("unit", ["lot", "lot_share", "lot_maximum"])
def test_a_score_that_is_not_finite_is_refused_by_every_way_of_counting(unit):
    t = table([np.nan] * 50, [f"L{i}" for i in range(50)])
    with pytest.raises(ValueError, match="not finite"):
        yardstick(t, "pred_score", 0.1, None, unit)


def test_the_promise_says_what_was_counted():
    t = alike(np.random.default_rng(9), 300, 2, 0.5)
    said = {u: yardstick(t, "pred_score", 0.01, 0.95, u).promise for u in ("lot", "lot_maximum")}
    assert said["lot"] == (
        "With 95 % confidence, calibrated on one good image of each of 300 lots, at most 1 % of "
        "good images of new lots are flagged."
    )
    assert "in at most 1 % of new lots any good image is flagged" in said["lot_maximum"]


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_the_correlation_within_lots_is_found_and_with_it_what_the_images_are_worth(correlation):
    t = alike(np.random.default_rng(10), 800, 4, correlation)
    found = effective(t["pred_score"].to_numpy(), t["group"])
    assert found.correlation == pytest.approx(correlation, abs=0.05)
    assert found.worth == pytest.approx(3200 / (1 + 3 * found.correlation))
    assert (found.images, found.lots) == (3200, 800)


def test_images_that_are_copies_within_their_lots_are_worth_their_lots():
    t = table(np.repeat(np.arange(20.0), 5), np.repeat([f"L{i}" for i in range(20)], 5))
    found = effective(t["pred_score"].to_numpy(), t["group"])
    assert (found.correlation, found.worth) == (pytest.approx(1), pytest.approx(20))


def test_lots_of_one_image_have_no_correlation_to_know():
    t = table(np.arange(9.0), list("abcdefghi"))
    found = effective(t["pred_score"].to_numpy(), t["group"])
    assert (found.correlation, found.worth) == (None, 9)


def test_scores_that_are_all_the_same_are_worth_one_a_lot():
    t = table(np.zeros(12), list("aabbccddeeff"))
    assert effective(t["pred_score"].to_numpy(), t["group"]).worth == 6


def test_units_are_images_or_lots():
    lots = pd.Series(list("aabbc"))
    assert (units(lots, "image"), units(lots, "lot"), units(lots, "lot_maximum")) == (5, 3, 3)


def test_copies_that_come_up_in_many_lots_are_drawn_in_each_by_itself():
    """Else one draw would decide for all lots whether the copy stands for them."""
    ids = np.where(np.arange(5000) % 25 < 15, "copy", [f"own {i}" for i in range(5000)])
    lots = pd.Series(np.arange(5000) // 25).astype(str)
    share = (ids[chosen(pd.Series(ids), lots)] == "copy").mean()
    assert binom.ppf(0.0005, 200, 0.6) <= 200 * share <= binom.ppf(0.9995, 200, 0.6)
