"""A promise travels: from the run file through calibration and bundle into a scan's rows."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from inspect_ai import build
from inspect_ai.batch.scan import scan
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.bundle import SCORES
from inspect_ai.errors import BadFit, TooFewGoodImages
from inspect_ai.export import export

ASKED = {"false_alarm_rate": 0.1, "confidence": 0.8, "groups": ["product"], "pixel_rate": 0.05}


@pytest.fixture(scope="module")
def bundle(dies, tmp_path_factory):
    """The dies' detector, calibrated for each product, and for a rate of pixels."""
    folder, manifest = tmp_path_factory.mktemp("promised"), dies.manifest()
    made = build.calibrate(dies.built / "checkpoint", manifest, folder / "calibration", ASKED)
    return bundles.read(export(dies.built / "checkpoint", made, manifest, folder / "bundle"))


@pytest.fixture(scope="module")
def scanned(dies, bundle, tmp_path_factory):
    """The scan of all images."""
    out = tmp_path_factory.mktemp("scanned") / "out"
    scan(bundle, dies.manifest(), out)
    return out


def rows(folder):
    return pd.concat(pd.read_parquet(p) for p in sorted((folder / "scores").iterdir()))


def test_the_bundle_carries_all_of_the_promise(bundle):
    card = bundle.card
    assert (card.false_alarm_rate, card.confidence, card.groups) == (0.1, 0.8, ("product",))
    assert {"all", "product=lines-a"} <= set(card.levels)
    assert card.levels["all"].promise == card.promise
    assert card.lots > 1
    assert card.worth <= card.calibration_images
    assert card.pixel_rate_threshold < card.pixel_threshold


def test_the_good_images_of_a_bundle_keep_what_the_promise_was_made_from(bundle):
    kept = pd.read_parquet(bundle.folder / SCORES)
    assert {
        "image_id",
        "group",
        "product",
        "map_shares",
        "input_brightness",
        "input_sharpness",
    } <= set(kept)
    assert len(kept) == bundle.card.calibration_images


def test_every_row_of_a_scan_says_what_its_verdict_stands_on(bundle, scanned):
    found = rows(scanned)
    levels = bundle.card.levels
    wanted = "product=" + found["product"]
    assert (found["group_level"] == wanted.where(wanted.isin(levels), "all")).all()
    assert found["group_level"].nunique() > 1
    for name, of in found.groupby("group_level"):
        assert set(of["image_threshold"]) == {levels[name].image_threshold}
        assert set(of["promise"]) == {levels[name].promise}
    assert (found["pred_label"] == (found["pred_score"] > found["image_threshold"])).all()
    assert (found["p_value_conditional"] >= found["p_value"]).all()
    assert found["p_value_conditional"].nunique() > 5
    assert set(found["pixel_threshold"]) == {bundle.card.pixel_rate_threshold}
    assert (found["q_value"] >= found["p_value"] - 1e-12).mean() > 0.5
    assert (
        found[["input_brightness", "input_sharpness", "q_value", "q_value_lot"]]
        .notna()
        .all(axis=None)
    )


def test_masks_and_regions_of_flagged_images_are_of_the_images_own_size(scanned):
    found, regions = rows(scanned), pd.read_parquet(scanned / "regions.parquet")
    flagged = found[found["pred_label"] == 1]
    assert len(flagged)
    assert set(regions["image_path"]) <= set(flagged["image_path"])
    assert found.loc[found["pred_label"] == 0, "pred_mask"].isna().all()
    for name, path in zip(flagged["image_id"], flagged["pred_mask"], strict=True):
        mask = cv2.imread(str(scanned / path), cv2.IMREAD_GRAYSCALE)
        boxes = regions[regions["image_id"] == name].drop_duplicates(["x", "y", "width"])
        inside = np.zeros(mask.shape, bool)
        for box in boxes.itertuples():
            inside[box.y : box.y + box.height, box.x : box.x + box.width] = True
        assert mask.shape == (32, 32)
        assert not (mask > 0)[~inside].any()
        assert mask.any() == bool(len(boxes))
    assert not (scanned / "regions").exists()


def test_the_calibration_says_what_its_images_are_worth(dies, tmp_path):
    changed = {"false_alarm_rate": 0.2, "unit": "lot"}
    manifest = dies.manifest()
    made = build.calibrate(dies.built / "checkpoint", manifest, tmp_path / "calibration", changed)
    said = json.loads((made / "calibration.json").read_text("utf-8"))
    assert (
        said["lots"]
        == said["levels"]["all"]["units"]
        == manifest.good("calibrate")["group"].nunique()
    )
    assert said["lots"] <= said["worth"] <= said["calibration_images"]
    assert "one good image of each of" in said["promise"]


def test_too_few_lots_are_refused_with_the_number_needed_and_the_rate_that_is_possible(
    dies, tmp_path
):
    changed = {"false_alarm_rate": 0.01, "confidence": 0.95, "unit": "lot"}
    out = tmp_path / "calibration"
    with pytest.raises(
        TooFewGoodImages,
        match=r"at least 299 good calibration lots, got \d+\. .* or ask for a rate of",
    ):
        build.calibrate(dies.built / "checkpoint", dies.manifest(), out, changed)
    assert not out.exists()


def test_a_tail_of_too_few_images_is_refused_with_the_number_needed(dies, tmp_path):
    changed = {"false_alarm_rate": 0.001, "tail": True}
    with pytest.raises(BadFit, match="Calibrate on 500 good images"):
        build.calibrate(dies.built / "checkpoint", dies.manifest(), tmp_path / "out", changed)
