import numpy as np
import pandas as pd
import pytest

from inspect_ai.bundle.thresholds import Beyond, derive
from inspect_ai.calibration.promise import Promise


def good(n, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=n).astype(np.float32)
    names = [f"image {i}" for i in range(n)]
    return pd.DataFrame(
        {"image_id": names, "group": names, "pred_score": scores, "map_max": 2 * scores}
    )


def tail(rate, n=1000, **fields):
    return derive(good(n), Promise(false_alarm_rate=rate, tail=True, **fields))


def test_a_rate_that_the_good_images_support_needs_no_tail():
    found = tail(0.01)
    assert found.tail is None
    assert found.levels["all"].promise.startswith("On average over calibrations")


def test_beyond_that_a_fitted_tail_sets_the_threshold_and_says_that_it_is_a_model():
    found = tail(0.0002)
    assert found.tail is not None
    assert found.levels["all"].promise.startswith("By a fitted tail (no guarantee)")
    assert found.levels["all"].image_threshold > good(1000)["pred_score"].max()


def test_the_rarer_the_alarm_the_higher_the_threshold_across_the_change_to_a_tail():
    rates = (0.01, 0.002, 0.0011, 0.00099, 0.0009, 0.0005, 0.0002)
    thresholds = [tail(rate).levels["all"].image_threshold for rate in rates]
    assert thresholds == sorted(thresholds)


def test_pixels_and_p_values_keep_to_what_the_good_images_support():
    found = tail(0.0002)
    assert found.levels["all"].pixel_threshold == good(1000)["map_max"].max()
    level = found.scores.level(good(3))
    assert found.scores.p_value(np.float32([1e9, 1e9, 0]), level).min() == 1 / 1001


def test_a_tail_of_lots_speaks_of_lots():
    assert "good images of new lots are flagged" in tail(0.0002, unit="lot").levels["all"].promise
    assert "of 1,000 lots" in tail(0.0002, unit="lot").levels["all"].promise


def test_a_threshold_that_a_tail_gave_before_is_not_fitted_again():
    once, promise = tail(0.0002), Promise(false_alarm_rate=0.0002, tail=True)
    known = Beyond(once.tail, 1234.5, "as it was said")
    again = derive(good(1000), promise, known)
    assert again.levels["all"].image_threshold == 1234.5
    assert again.levels["all"].promise == "as it was said"


@pytest.mark.parametrize("unit", ["image", "lot", "lot_share", "lot_maximum"])
def test_a_card_says_what_the_images_are_worth(unit):
    table = good(400).assign(group=lambda t: (np.arange(len(t)) // 4).astype(str))
    fields = derive(table, Promise(false_alarm_rate=0.05, unit=unit)).fields()
    assert (fields["calibration_images"], fields["lots"], fields["unit"]) == (400, 100, unit)
    assert fields["lots"] <= fields["worth"] <= 400
