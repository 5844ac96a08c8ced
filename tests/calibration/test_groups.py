import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm

from inspect_ai.calibration.groups import demand, yardsticks
from inspect_ai.calibration.promise import Promise
from inspect_ai.errors import BadFit, BadSettings, MissingData, TooFewGoodImages

SHIFT = {"A": 0.0, "B": 3.0}  # good images of product B score higher


def table(rng, counts, lots=None):
    """Good images of products, each in a lot of its own unless told otherwise."""
    product = np.repeat(list(counts), list(counts.values()))
    score = rng.normal(size=len(product)) + [SHIFT.get(p, 0.0) for p in product]
    names = [f"image {i}" for i in range(len(product))]
    return pd.DataFrame(
        {
            "image_id": names,
            "group": names if lots is None else lots,
            "product": product,
            "pred_score": score.astype(np.float32),
        }
    )


def promise(**fields):
    return Promise(**{"false_alarm_rate": 0.05, "groups": ("product",)} | fields)


def overkill(asked, draws, counts=None, seed=0):
    """Exact share of good images of each product that is flagged, for each of many calibrations."""
    rng, found = np.random.default_rng(seed), {"A": [], "B": []}
    for _ in range(draws):
        kept = yardsticks(table(rng, counts or {"A": 200, "B": 100}), "pred_score", asked)
        threshold = kept.threshold(kept.level(pd.DataFrame({"product": ["A", "B"]})))
        for name, limit in zip("AB", threshold, strict=True):
            found[name].append(norm.sf(limit - SHIFT[name]))
    return {name: np.array(shares) for name, shares in found.items()}


def test_the_promise_on_average_is_kept_in_every_group():
    for shares in overkill(promise(), 120).values():
        assert abs(shares.mean() - 0.05) <= 3 * shares.std() / np.sqrt(len(shares))


def test_the_confident_promise_is_kept_in_every_group():
    for shares in overkill(promise(confidence=0.9), 120).values():
        assert (shares > 0.05).sum() <= binom.ppf(0.999, len(shares), 0.1)


def test_without_groups_one_product_pays_for_the_other():
    shares = overkill(promise(groups=()), 50)
    assert shares["A"].mean() < 0.001
    assert shares["B"].mean() > 0.1


def test_a_group_too_small_for_the_promise_backs_off_and_says_so():
    t = table(np.random.default_rng(1), {"A": 200, "B": 18})
    kept = yardsticks(t, "pred_score", promise())
    new = pd.DataFrame({"product": ["A", "B", "C", None]})
    assert kept.level(new).tolist() == ["product=A", "all", "all", "all"]
    assert set(kept.levels) == {"all", "product=A"}
    assert kept.levels["all"].units == 218


def test_levels_go_from_coarse_to_fine():
    t = table(np.random.default_rng(2), {"A": 200, "B": 100})
    t["tool"] = np.where(np.arange(300) % 200 < 150, 1.0, 2.0)  # read back from a file as floats
    kept = yardsticks(t, "pred_score", promise(groups=("product", "tool"), false_alarm_rate=0.01))
    new = pd.DataFrame({"product": ["A", "A", "B", "C"], "tool": [1, 2, 1, 1]})
    assert kept.level(new).tolist() == ["product=A/tool=1", "product=A", "product=B/tool=1", "all"]
    assert kept.images["product=A/tool=1"] == 150


def test_a_group_is_counted_in_lots_where_lots_count():
    lots = np.concatenate([np.arange(200) // 2, 1000 + np.arange(100) // 10]).astype(str)
    t = table(np.random.default_rng(3), {"A": 200, "B": 100}, lots)
    kept = yardsticks(t, "pred_score", promise(unit="lot"))
    assert kept.levels["product=A"].units == 100
    assert "product=B" not in kept.levels  # ten lots do not support one in twenty


def test_each_row_has_the_p_value_of_its_own_level():
    t = table(np.random.default_rng(4), {"A": 200, "B": 100})
    kept = yardsticks(t, "pred_score", promise(confidence=0.9))
    rows = pd.DataFrame({"product": ["B", "A", "B"]})
    score, level = np.float32([3.0, 3.0, np.nan]), kept.level(rows)
    found = kept.p_value(score, level)
    wanted = [kept.levels[name].p_value(score[i : i + 1])[0] for i, name in enumerate(level)]
    assert found.tolist() == wanted
    assert found[1] < 0.02 < found[0]
    assert kept.is_anomalous(score, level).tolist() == [False, True, True]
    assert (kept.p_value_conditional(score, level) > found).all()


def test_a_column_that_is_not_there_is_refused_by_name():
    t = table(np.random.default_rng(5), {"A": 200})
    with pytest.raises(MissingData, match=r"no column layer\. Use a data spec whose table has it"):
        demand(t, promise(groups=("product", "layer")))


def test_too_few_images_in_all_are_refused():
    t = table(np.random.default_rng(6), {"A": 10, "B": 8})
    for ask in (demand, lambda t, p: yardsticks(t, "pred_score", p)):
        with pytest.raises(TooFewGoodImages, match="at least 19 good calibration images, got 18"):
            ask(t, promise())


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"groups": ("tool", "tool")}, "groups name tool twice"),
        ({"tail": True, "groups": ("tool",)}, "tail and groups do not go together"),
        ({"tail": True, "groups": (), "unit": "lot_share"}, "tail needs independent scores"),
        ({"unit": "wafer"}, "'unit'"),
    ],
)
def test_a_promise_that_cannot_be_is_refused(fields, wrong):
    with pytest.raises(BadSettings, match=wrong):
        Promise.checked({"false_alarm_rate": 0.05, "groups": ("product",)} | fields, "run.toml")


def small_products(rng):
    """A large product, and ten small ones whose good images score higher."""
    t = table(rng, {"A": 400} | {f"s{i}": 15 for i in range(10)})
    t["pred_score"] += np.where(t["product"] == "A", 0, 2).astype(np.float32)
    return t


def test_what_has_no_yardstick_of_its_own_is_judged_among_its_like():
    """By all images together the small products would be flagged ten times as often."""
    rng, shares = np.random.default_rng(7), []
    for _ in range(60):
        kept = yardsticks(small_products(rng), "pred_score", promise())
        assert set(kept.levels) == {"all", "product=A"}
        assert (kept.images["all"], kept.mixed) == (150, frozenset())
        shares.append(norm.sf(kept.thresholds["all"] - 2))
    assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / np.sqrt(len(shares))


def test_where_too_few_are_left_a_level_is_calibrated_on_the_mixture_and_said_to_be():
    t = table(np.random.default_rng(8), {"A": 200, "B": 18})
    kept = yardsticks(t, "pred_score", promise())
    assert kept.mixed == {"all"}
    assert kept.images["all"] == 218


def test_a_value_with_the_signs_of_a_level_is_no_other_level():
    t = table(np.random.default_rng(9), {"A": 100, "A/tool=3": 100})
    t["tool"] = np.where(t["product"] == "A", "3", "4")
    kept = yardsticks(t, "pred_score", promise(groups=("product", "tool")))
    assert kept.level(t.iloc[[0, -1]]).tolist() == [
        "product=A/tool=3",
        "product=A%2Ftool%3D3/tool=4",
    ]


def test_the_truth_and_an_images_own_name_make_no_groups():
    with pytest.raises(BadSettings, match="groups name label, which no new image shares or which"):
        Promise.checked({"false_alarm_rate": 0.05, "groups": ("label",)}, "run.toml")


def test_a_rate_of_pixels_is_refused_before_any_work_too():
    t = table(np.random.default_rng(10), {"A": 200})
    with pytest.raises(TooFewGoodImages, match=r"pixel_rate of 0.001 needs at least 999 good"):
        demand(t, promise(pixel_rate=0.001))


def test_a_tail_with_confidence_is_refused():
    t = table(np.random.default_rng(11), {"A": 600})
    asked = promise(groups=(), tail=True, confidence=0.95, false_alarm_rate=0.001)
    with pytest.raises(BadFit, match=r"promises nothing with confidence\. Drop the confidence"):
        demand(t, asked)
