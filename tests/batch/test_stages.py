import numpy as np
import pandas as pd
import pytest

from inspect_ai.batch import stages
from inspect_ai.bundle.thresholds import derive
from inspect_ai.calibration.promise import Promise
from inspect_ai.data.conditions import Condition
from inspect_ai.data.images import content_id
from inspect_ai.errors import BadImages, MissingData
from inspect_ai.scores import Scores

GOOD = pd.DataFrame(
    {
        "image_id": [f"good {i}" for i in range(19)],
        "group": [f"lot {i}" for i in range(19)],
        "tool": ["A"] * 19,
        "pred_score": np.arange(1, 20, dtype=np.float32),
        "map_max": np.arange(101, 120, dtype=np.float32),
    }
)
THRESHOLDS = derive(GOOD, Promise(false_alarm_rate=0.05))
PLAN = pd.DataFrame(
    {
        "image_path": pd.Series(["a.png", "b.png", "c.png", "d.png"], dtype="string"),
        "lot": ["L1", "L1", "L2", "L2"],
        "gt_label": pd.array([0, 1, None, 0], "Int8"),
        "image_id": pd.Series(["old"] * 4, dtype="string"),
    }
)


def image(value, side=(4, 4)):
    return np.full((1, *side), value, np.uint8)


def read(path):
    """a is 1, b is 2, c cannot be read, d has another size."""
    if path == "c.png":
        raise BadImages("c.png: 0 bytes. Copy the file again or drop it.")
    return image(4, (4, 6)) if path == "d.png" else image("?ab".index(path[0]))


def run(pixels, condition=None):
    """An image's score is its largest pixel; refuses what no graph would take."""
    assert pixels.ndim == 4
    heat = pixels[:, 0].astype(np.float32)
    return Scores(heat.max(axis=(1, 2)), heat, pixels.astype(np.float32))


def seen(*pixels):
    return [stages.Seen(i, p, content_id(p), None) for i, p in enumerate(pixels)]


@pytest.mark.parametrize(("rows", "size"), [(0, 4), (1, 4), (4, 4), (5, 4), (9, 1)])
def test_parts_hold_every_row_once_in_order(rows, size):
    parts = stages.parts(rows, size)
    assert [row for part in parts for row in part] == list(range(rows))
    assert all(0 < len(part) <= size for part in parts)


def test_what_cannot_be_read_is_kept_with_its_reason():
    found = stages.see([4, 5], ["a.png", "c.png"], read)
    assert [s.row for s in found] == [4, 5]
    assert (found[0].reason, found[0].image_id) == (None, content_id(image(1)))
    assert (found[1].pixels, found[1].image_id) == (None, None)
    assert found[1].reason.startswith("c.png: 0 bytes")


def test_every_readable_image_is_scored_once_whatever_its_size():
    ready = stages.ready(stages.see(range(4), list(PLAN["image_path"]), read), None, 64)
    found = [scored for call in stages.score(ready.calls, run) for scored in call]
    assert [s.row for s in ready.refused] == [2]
    assert {s.seen.row: s.pred_score for s in found} == {0: 1.0, 1: 2.0, 3: 4.0}
    assert {s.anomaly_map.shape for s in found} == {(4, 4), (4, 6)}


def test_wafer_maps_that_fit_share_a_canvas_and_a_larger_one_is_alone():
    shapes = []

    def noted(pixels, condition=None):
        shapes.append(pixels.shape)
        return run(pixels)

    maps = seen(image(1, (5, 5)), image(2, (8, 3)), image(1, (9, 9)), image(2, (8, 8)))
    calls = stages.ready(maps, (8, 8), 64).calls
    found = [scored for call in stages.score(calls, noted) for scored in call]
    assert sorted(shapes) == [(1, 1, 9, 9), (3, 1, 8, 8)]
    assert {s.seen.row: s.pred_score for s in found} == {0: 1.0, 1: 2.0, 2: 1.0, 3: 2.0}


def test_wafer_maps_of_about_one_size_go_together_in_calls_of_at_most_so_many():
    sides = (10, 40, 12, 16, 33, 17, 60, 15)
    ready = stages.ready(seen(*(image(1, (s, s - 4)) for s in sides)), (50, 64), 3)
    found = [([s.row for s in group], pixels.shape[2:]) for group, pixels in ready.calls]
    assert found == [
        ([0, 2, 3], (16, 16)),
        ([7], (16, 16)),
        ([1, 4], (48, 48)),
        ([5], (32, 32)),
        ([6], (60, 56)),
    ]


def test_no_readable_image_runs_no_model():
    assert stages.ready(stages.see([2], ["c.png"], read), None, 64).calls == []


def decided(*rows, thresholds=THRESHOLDS, plan=PLAN):
    found = pd.DataFrame(rows, columns=["row", "image_id", "pred_score"]).set_index("row")
    return stages.decide(plan, found, thresholds)


def test_a_verdict_carries_the_score_its_p_value_and_the_rows_own_columns():
    rows = decided((0, "x", 3.0), (3, "y", 99.0))
    assert rows["image_path"].tolist() == ["a.png", "d.png"]
    assert rows["image_id"].tolist() == ["x", "y"]
    assert rows["p_value"].tolist() == [18 / 20, 1 / 20]
    assert rows["pred_label"].tolist() == [0, 1]
    assert rows["lot"].tolist() == ["L1", "L2"]
    assert (rows["image_threshold"] == 19).all()
    assert (rows["pixel_threshold"] == 119).all()


def test_a_verdict_says_which_promise_it_stands_on():
    promise = Promise(false_alarm_rate=0.2, confidence=0.9, groups=("tool",))
    thresholds = derive(GOOD, promise)
    rows = decided(
        (0, "x", 3.0),
        (1, "y", 99.0),
        thresholds=thresholds,
        plan=PLAN.assign(tool=["A", "B", "A", "B"]),
    )
    assert rows["group_level"].tolist() == ["tool=A", "all"]
    assert rows["promise"].tolist() == [
        thresholds.levels[name].promise for name in ("tool=A", "all")
    ]
    assert (rows["p_value_conditional"] > rows["p_value"]).all()


def test_a_scan_without_the_column_that_thresholds_are_kept_apart_by_is_refused():
    thresholds = derive(GOOD, Promise(false_alarm_rate=0.2, groups=("tool",)))
    with pytest.raises(
        MissingData, match="Thresholds are kept apart by tool, and there is no column tool"
    ):
        decided((0, "x", 3.0), thresholds=thresholds)


def test_of_what_a_scan_flags_by_q_value_a_share_is_good_over_the_scan_and_over_each_lot():
    verdicts = pd.DataFrame(
        {"p_value": [0.05, 0.5, 0.05, 0.05], "group": list("aabb"), "group_level": "all"}
    )
    found = stages.discoveries(verdicts, THRESHOLDS)
    assert found["q_value"].tolist() == pytest.approx([1 / 15, 0.5, 1 / 15, 1 / 15])
    assert found["q_value_lot"].tolist() == pytest.approx([0.1, 0.5, 0.05, 0.05])


def test_a_score_that_is_not_a_number_is_an_alarm():
    rows = decided((1, "x", float("nan")))
    assert rows["pred_label"].tolist() == [1]
    assert rows["p_value"].tolist() == [1 / 20]


def test_a_part_without_a_score_has_the_columns_of_one_with():
    some, none = decided((0, "x", 3.0)), decided()
    assert len(none) == 0
    assert list(none.columns) == list(some.columns)
    assert none.dtypes.to_dict() == some.dtypes.to_dict()


def test_rejected_rows_keep_their_columns_and_gain_a_reason():
    rows = stages.rejected(PLAN, stages.see(range(4), list(PLAN["image_path"]), read))
    assert rows["image_path"].tolist() == ["c.png"]
    assert rows["lot"].tolist() == ["L2"]
    assert rows["reason"].str.contains("Copy the file again").all()


def test_a_part_without_a_reject_has_the_columns_of_one_with():
    some = stages.rejected(PLAN, stages.see([2], ["c.png"], read))
    none = stages.rejected(PLAN, stages.see([0], ["a.png"], read))
    assert len(none) == 0
    assert list(none.columns) == list(some.columns)


PRODUCTS = Condition(columns=("product",), values=("B", "A"))


def test_a_conditional_model_is_told_the_place_of_each_value_beside_its_image():
    table = pd.DataFrame({"image_path": ["a.png", "d.png"], "product": ["A", "B"]})
    told = stages.told(table, PRODUCTS)
    found = []

    def noted(pixels, condition):
        found.extend(zip(pixels[:, 0, 0, 0].tolist(), condition.tolist(), strict=True))
        return run(pixels)

    calls = stages.ready(stages.see([0, 1], list(table["image_path"]), read, told), None, 64).calls
    assert all(list(stages.score(calls, noted)))
    assert sorted(found) == [(1, 1), (4, 0)]


def test_an_image_of_a_value_the_model_never_saw_is_rejected_with_what_it_knows():
    table = pd.DataFrame({"image_path": ["a.png", "d.png"], "product": ["A", "C"]})
    seen = stages.see([0, 1], ["a.png", "d.png"], read, stages.told(table, PRODUCTS))
    assert [s.reason is None for s in seen] == [True, False]
    assert "product is 'C', and the model knows 'B', 'A'" in seen[1].reason
    assert seen[1].pixels is None


def test_an_unconditional_model_is_told_nothing():
    assert stages.told(PLAN, None) is None
