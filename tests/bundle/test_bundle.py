import json
import shutil

import numpy as np
import onnx
import pandas as pd
import pytest

from inspect_ai import steps
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.bundle import CARD, MODEL, SCORES
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.bundle.thresholds import derive
from inspect_ai.calibration.conformal import calibrate
from inspect_ai.calibration.promise import Promise
from inspect_ai.errors import BadBundle


@pytest.fixture
def copy(dies, tmp_path):
    """A bundle that may be spoilt."""
    return shutil.copytree(dies.bundle, tmp_path / "bundle")


PASSED = {
    "bundle_hash": "0", "accepted_by": "Eve", "accepted_at": "2026-11-22", "verdicts_hash": "0",
    "scans": [], "joined": 1, "left_out": 0, "image_threshold_before": 1.0,
    "image_threshold": 2.0, "promise_before": "",
}  # fmt: skip


def edit(folder, **fields):
    """Changes fields of bundle.json by hand."""
    card = json.loads((folder / CARD).read_text("utf-8"))
    (folder / CARD).write_text(json.dumps(card | fields), "utf-8")


def card(folder):
    return json.loads((folder / CARD).read_text("utf-8"))


def rehashed(folder):
    """Makes the hashes of bundle.json fit the files and thresholds, as a forger would."""
    edit(folder, hashes={name: steps.sha256(folder / name) for name in (MODEL, SCORES)})
    edit(folder, thresholds_hash=bound(card(folder)))


def bound(fields):
    """The hash of what a card says."""
    return bundles.bound(bundles.Card.checked(fields, "card")).thresholds_hash


def flip_byte(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_bundle_is_read_with_its_yardstick(copy):
    bundle = bundles.read(copy)
    kept = pd.read_parquet(copy / SCORES)
    again = calibrate(kept["pred_score"].to_numpy(), 0.05)
    assert bundle.calibration.threshold == again.threshold == bundle.card.image_threshold
    assert bundle.card.promise == again.promise


def test_a_bundle_may_be_moved(copy, tmp_path):
    before = bundles.read(copy).hash
    assert bundles.read(copy.rename(tmp_path / "elsewhere")).hash == before


@pytest.mark.parametrize("name", [MODEL, SCORES])
@pytest.mark.parametrize("at", [0, -1, 1000])
def test_one_changed_bit_is_found(copy, name, at):
    flip_byte(copy / name, at)
    with pytest.raises(BadBundle, match=rf"{name} was changed after export\. Export the bundle"):
        bundles.read(copy)


@pytest.mark.parametrize("name", [MODEL, SCORES])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(BadBundle, match=rf"{name} is missing\. Export the bundle again"):
        bundles.read(copy)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_threshold": 1e9},
        {"pixel_threshold": 0.0},
        {"false_alarm_rate": 0.01},
        {"confidence": 0.95},
        {"thresholds_hash": "0" * 64},
        {"promise": "No good image is ever flagged."},
        {"unit": "lot"},
        {"groups": ["lot"]},
        {"levels": {}},
        {"pixel_rate": 0.5},
        {"pixel_rate_threshold": 1.0},
        {"calibration_images": 99_999},
        {"worth": 99_999.0},
        {"canvas": [64, 64]},
        {"guard": None},
        {"rule": "l1"},
        {"history": [PASSED]},
    ],
)
def test_a_promise_or_threshold_edited_by_hand_is_found(copy, fields):
    edit(copy, **fields)
    with pytest.raises(BadBundle, match=r"changed by hand\. Export the bundle again"):
        bundles.read(copy)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_threshold": 1e9},
        {"pixel_threshold": 0.0},
        {"false_alarm_rate": 0.2},
        {"pixel_rate_threshold": 1.0},
        {"levels": {}},
    ],
)
def test_an_edit_is_found_even_with_its_hash_corrected(copy, fields):
    edit(copy, **fields)
    rehashed(copy)
    with pytest.raises(BadBundle, match=r"do not follow from calibration\.parquet"):
        bundles.read(copy)


def test_format_1_is_no_way_around_the_hash_of_format_2(copy):
    edit(copy, format=1, unit="lot")
    with pytest.raises(BadBundle, match="format 1 knows no unit, groups"):
        bundles.read(copy)


def test_a_bundle_of_before_there_were_lots_and_groups_is_read_as_what_it_said(copy):
    fields, levels = card(copy), card(copy)["levels"]
    for name in ("unit", "groups", "levels", "lots", "correlation", "worth", "history"):
        del fields[name]
    fields |= {"format": 1} | dict.fromkeys(("pixel_rate", "pixel_rate_threshold", "tail"))
    fields["thresholds_hash"] = bound(fields)
    (copy / CARD).write_text(json.dumps(fields), "utf-8")
    assert {n: of.model_dump() for n, of in bundles.read(copy).thresholds.levels.items()} == levels
    edit(copy, promise="No good image is ever flagged.")
    with pytest.raises(BadBundle, match="changed by hand"):
        bundles.read(copy)


def test_an_edited_image_rule_is_found(copy):
    spec = card(copy)["data_spec"]
    spec["image"]["maximum"] = 128.0
    edit(copy, data_spec=spec)
    with pytest.raises(BadBundle, match="changed by hand"):
        bundles.read(copy)


def test_the_model_names_the_good_scores_it_was_calibrated_with(copy):
    named = {p.key: p.value for p in onnx.load(copy / MODEL).metadata_props}
    assert named["calibration"] == steps.sha256(copy / SCORES)


def test_good_scores_of_another_model_are_found_even_with_all_hashes_corrected(copy):
    kept = pd.read_parquet(copy / SCORES)
    kept["pred_score"] += np.float32(1)
    kept.to_parquet(copy / SCORES, index=False)
    again = derive(kept, Promise(false_alarm_rate=0.05)).fields()
    levels = {name: level.model_dump() for name, level in again["levels"].items()}
    edit(copy, image_threshold=again["image_threshold"], levels=levels)
    rehashed(copy)
    with pytest.raises(BadBundle, match=r"calibrated with another calibration\.parquet"):
        Scorer(copy, "cpu")


@pytest.mark.parametrize(
    "table",
    [
        None,
        pd.DataFrame({"pred_score": [1.0]}),
        pd.DataFrame({"pred_score": np.float32([]), "map_max": np.float32([])}),
    ],
)
def test_good_scores_that_are_none_are_found(copy, table):
    if table is None:
        (copy / SCORES).write_bytes(b"PAR1 and no more")
    else:
        table.to_parquet(copy / SCORES, index=False)
    rehashed(copy)
    with pytest.raises(BadBundle, match="Export the bundle again"):
        bundles.read(copy)


@pytest.mark.parametrize("version", [3, 99])
def test_a_newer_bundle_asks_for_an_update(copy, version):
    edit(copy, format=version, something_new=True)
    with pytest.raises(BadBundle, match=r"written by a newer version\. Update inspect-ai-wafer"):
        bundles.read(copy)


@pytest.mark.parametrize("version", ["2", None, [1], -1])
def test_a_format_that_is_none_is_refused(copy, version):
    edit(copy, format=version)
    with pytest.raises(BadBundle, match=r"'format'(?s:.*)The bundle was changed"):
        bundles.read(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"bundle"', "{}", "\xff\xfe"])
def test_a_card_that_is_none_is_refused(copy, text):
    (copy / CARD).write_bytes(text.encode("latin-1"))
    with pytest.raises(BadBundle, match=r"Pass the folder|The bundle was changed"):
        bundles.read(copy)


def test_a_key_nobody_knows_is_refused(copy):
    edit(copy, note="hand made")
    with pytest.raises(BadBundle, match="'note': unknown key"):
        bundles.read(copy)


def test_what_is_no_bundle_is_refused_and_says_which_folder_is_meant(dies, tmp_path):
    (tmp_path / "file").write_text("x", "utf-8")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "file", tmp_path / "empty", tmp_path / "absent", dies.built):
        with pytest.raises(BadBundle, match=r"is no bundle.*<out>/bundle of 'inspect-ai build'"):
            bundles.read(path)
