"""What build and calibrate tell of the good images that a promise stands on."""

import json

import numpy as np
import pandas as pd
import pytest

from inspect_ai.bundle import thresholds
from inspect_ai.calibration import lots
from inspect_ai.calibration.promise import Promise
from inspect_ai.errors import MissingData
from inspect_ai.review import calibrated


def good(each, alike, product="A", seed=0):
    """Scores of `each` lots of ten images, each lot shifted by `alike` times a normal number."""
    rng = np.random.default_rng(seed)
    n = 10 * each
    score = rng.normal(size=n) + alike * np.repeat(rng.normal(size=each), 10)
    names = [f"{product}{i}" for i in range(n)]
    group = np.repeat([f"{product}-lot{i}" for i in range(each)], 10)
    table = pd.DataFrame({"image_id": names, "image_path": names, "group": group, "tool": "1"})
    score = score.astype(np.float32)
    return table.assign(product=product, pred_score=score, map_max=score)


def told(folder, kept, **promise):
    asked = Promise(**({"false_alarm_rate": 0.01} | promise))
    fields = thresholds.derive(kept, asked).fields()
    fields["levels"] = {name: level.model_dump() for name, level in fields["levels"].items()}
    fields["tail"] = fields["tail"] and fields["tail"].model_dump()
    kept.to_parquet(folder / "calibration.parquet")
    (folder / "calibration.json").write_text(json.dumps(fields))
    return calibrated.told(folder)


def test_what_images_of_lots_are_worth_is_told_and_warned_of_where_it_is_too_little(tmp_path):
    kept = good(20, alike=2)
    worth = lots.effective(kept["pred_score"].to_numpy(), kept["group"]).worth
    said = told(tmp_path, kept)
    line = f"the 200 good images are of 20 lots, worth about {worth:.0f} independent ones"
    assert said.lines == [line]
    assert len(said.warnings) == 1
    assert "needs 99: 200 good images are worth about" in said.warnings[0]
    assert 'unit = "lot" in [calibration]' in said.warnings[0]
    assert told(tmp_path, kept, false_alarm_rate=0.1) == (said.lines, [])
    assert told(tmp_path, kept, false_alarm_rate=0.1, unit="lot").warnings == []


def test_images_that_are_each_their_own_lot_need_no_word(tmp_path):
    kept = good(20, alike=0)
    assert told(tmp_path, kept.assign(group=kept["image_id"])) == ([], [])


def test_each_level_is_told_and_categories_without_one_are_named(tmp_path):
    kept = pd.concat([good(30, 1, "A"), good(12, 1, "B"), good(25, 1, "A/C")], ignore_index=True)
    said = told(tmp_path, kept, false_alarm_rate=0.05, unit="lot", groups=("product",))
    assert said.lines[0].startswith("the 670 good images are of 67 lots, worth about ")
    levels = [line.split(":")[0] for line in said.lines[1:-1]]
    assert levels == ["all", "product=A", "product=A%2FC"]
    assert "; 300 good images of 30 lots, worth about " in said.lines[2]
    assert "; 670 good images of 67 lots, worth about " in said.lines[1]  # 12 lots are too few
    assert said.lines[-1] == "none of its own: product=B (12 lots, needs 19)"


def test_finer_categories_count_for_the_coarser_one_that_they_are_of(tmp_path):
    kept = good(24, 1, "A").assign(tool=lambda t: np.arange(len(t)) // 10 % 4)
    asked = {"false_alarm_rate": 0.05, "unit": "lot", "groups": ("product", "tool")}
    said = told(tmp_path, kept, **asked)
    assert [line.split(":")[0] for line in said.lines[1:]] == [
        "all",
        "product=A",
        "none of their own",
    ]
    assert "; 240 good images of 24 lots" in said.lines[2]
    assert "product=A/tool=3 (6 lots, needs 19)" in said.lines[-1]
    assert "product=A (" not in said.lines[-1]


def test_bad_images_among_the_good_are_warned_of_by_name(tmp_path):
    kept = good(50, alike=0)
    assert told(tmp_path, kept, unit="lot", false_alarm_rate=0.05).warnings == []
    kept.loc[:24, "pred_score"] = np.arange(40, 15, -1)
    warning = told(tmp_path, kept, unit="lot", false_alarm_rate=0.05).warnings[0]
    assert "stick out" in warning
    assert "The oddest: A0, A1, A2, A3, A4." in warning
    assert "never trimmed" in warning


def test_a_fitted_tail_of_images_that_are_alike_is_warned_of(tmp_path):
    kept = good(60, alike=2)
    warnings = told(tmp_path, kept, false_alarm_rate=0.0005, tail=True).warnings
    assert "the tail was fitted as if its 600 images were independent" in warnings[0]


def test_a_folder_that_is_neither_bundle_nor_calibration_is_refused(tmp_path):
    with pytest.raises(MissingData, match=r"neither bundle\.json nor calibration\.json"):
        calibrated.told(tmp_path)
