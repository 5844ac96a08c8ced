import json
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from inspect_ai import build, train
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.data import manifest as manifests
from inspect_ai.data import simulate
from inspect_ai.data.simulate_dies import DieSettings
from inspect_ai.data.simulate_maps import MapSettings
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings, MissingData, OutputInUse, TooFewGoodImages
from inspect_ai.recipe import Recipe
from inspect_ai.tracking import Nothing
from inspect_ai.training import history as history_room

MODEL = {"name": "autoencoder", "width": 4, "depth": 2, "latent": 4}
STRUCTURE = {"rule": "density", "statistics": ["moran", "walks_4"]}
STACK = {"kind": "stack", "file": "maps.npz", "shapes": "shapes", "columns": ["lot", "wafer"]}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def recipe(rule="l2", steps=30, **fields):
    given = {"data_spec": "spec.toml", "grid": [16, 16], "false_alarm_rate": 0.1}
    budget = {"steps": steps, "batch_size": 16, "save_every": 7}
    score = STRUCTURE if rule == "density" else {"rule": rule}
    given |= {"model": MODEL, "score": score, "budget": budget}
    return Recipe.checked(given | fields, "a test")


def spec(root, layout, image, **fields):
    given = {"name": "small", "root": root, "source": "a test", "licence": "none"}
    given |= {"split": {"train": 0.5, "calibrate": 0.4, "test": 0.1}}
    return DataSpec.checked(given | {"layout": layout, "image": image} | fields, "a test")


@pytest.fixture(scope="module")
def wafers(tmp_path_factory):
    """120 wafer maps of 12 lots."""
    root = tmp_path_factory.mktemp("wafers") / "data"
    settings = MapSettings(lots=12, wafers_per_lot=10, largest=28, canvas=32, seed=4)
    simulate.write(settings, root)
    label, group = {"good": ["none"]}, {"column": "lot"}
    return manifests.make(
        spec(root, STACK, {"kind": "wafer_map"}, label=label, group=group, split={"seed": 1})
    )


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(checkpoint):
    return load_file(checkpoint / train.WEIGHTS)


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def built(wafers, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("built") / "run"
    build.build(recipe("density"), wafers, out, Nothing())
    return out


def test_a_build_leaves_a_bundle_that_loads_and_keeps_its_promise(built, wafers):
    bundle = bundles.read(built / "bundle")
    good = len(wafers.good("calibrate"))
    assert bundle.card.calibration_images == good
    assert bundle.card.parity.verdicts_flipped == 0
    assert bundle.card.image_threshold == bundle.calibration.threshold
    assert bundle.calibration.is_anomalous(bundle.calibration.good_scores).sum() <= 0.1 * good


def test_the_bundle_gives_the_scores_that_calibrated_it(built, wafers):
    detector = train.load(built / "checkpoint").detector
    rows = wafers.good("calibrate")
    kept = pd.read_parquet(built / "bundle" / bundles.SCORES)
    scorer = Scorer(built / "bundle", "cpu", threads=1)
    near = float(1e-3 * kept["pred_score"].std())
    at = 0
    for pixels in train.feed.raw(rows, wafers, 16):
        wanted = kept["pred_score"].to_numpy()[at : at + len(pixels)]
        assert scorer.score(pixels).pred_score == pytest.approx(wanted, abs=near)
        assert detector.score(pixels).pred_score == pytest.approx(wanted, abs=near)
        at += len(pixels)
    assert at == len(rows) == len(kept)


def test_training_leaves_a_record_and_nothing_half_done(built):
    history = pd.read_parquet(built / "checkpoint" / history_room.HISTORY)
    assert history["step"].tolist() == list(range(30))
    assert np.isfinite(history["autoencoder"]).all()
    names = {p.name for p in (built / "checkpoint").iterdir()}
    kept = {train.WEIGHTS, train.DESCRIPTION, history_room.HISTORY, history_room.CURVE}
    assert names == kept | {"run.json", "manifest.parquet"}


def test_the_same_call_again_changes_nothing(built, wafers):
    before = contents(built)
    assert build.build(recipe("density"), wafers, built, Nothing()) == built / "bundle"
    assert contents(built) == before


@pytest.mark.parametrize(
    "other", [recipe("density", steps=31), recipe("density", false_alarm_rate=0.2)]
)
def test_another_recipe_in_the_same_folder_is_refused(built, wafers, other):
    before = contents(built)
    with pytest.raises(OutputInUse, match="with other inputs"):
        build.build(other, wafers, built, Nothing())
    assert contents(built) == before


def test_other_images_in_the_same_folder_are_refused(built, wafers):
    fewer = manifests.Manifest(wafers.table.iloc[:-1], wafers.spec, wafers.root)
    with pytest.raises(OutputInUse, match="with other inputs"):
        build.build(recipe("density"), fewer, built, Nothing())


def test_a_promise_too_few_images_can_keep_is_refused_before_training(wafers, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(TooFewGoodImages, match="needs at least 999 good"):
        build.build(recipe("density", false_alarm_rate=0.001), wafers, out, Nothing())
    assert not out.exists()


def test_settings_that_do_not_fit_are_refused_before_training(wafers, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(BadSettings, match="cannot be halved"):
        build.build(recipe("density", model=MODEL | {"depth": 5}), wafers, out, Nothing())
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "wanted"), [({"false_alarm_rate": 0.05}, 0.05), ({}, 0.1), (None, 0.1)]
)
def test_calibrate_takes_a_rate_of_its_own_or_the_recipes(built, wafers, tmp_path, changed, wanted):
    out = build.calibrate(built / "checkpoint", wafers, tmp_path / "calibration", changed)
    assert json.loads((out / "calibration.json").read_text())["false_alarm_rate"] == wanted


def test_a_rate_of_0_is_refused_and_not_taken_for_none(built, wafers, tmp_path):
    zero = {"false_alarm_rate": 0.0}
    with pytest.raises(BadSettings, match=r"'false_alarm_rate': .* greater than 0, got 0"):
        build.calibrate(built / "checkpoint", wafers, tmp_path / "calibration", zero)


KILLED = """\
import sys, time
from pathlib import Path
import torch
from inspect_ai import build, train
from inspect_ai.data import manifest as manifests
from inspect_ai.data.specs import DataSpec
from inspect_ai.recipe import Recipe
torch.set_num_threads(1)
folder = Path(sys.argv[1])

class Stuck:
    def settings(self, fields): ...
    def artefact(self, path): ...
    def numbers(self, step, values):
        if step == 100:
            (folder / "stuck").touch()
            time.sleep(600)

recipe = Recipe.model_validate_json((folder / "recipe.json").read_text())
spec = DataSpec.model_validate_json((folder / "spec.json").read_text())
manifest = manifests.read(folder / "manifest.parquet", spec, spec.root)
build.build(recipe, manifest, folder / "run", Stuck())
"""


def kill_at_step_100(asked, manifest, folder):
    """Builds in a process of its own and ends it the hard way in the middle of training."""
    (folder / "recipe.json").write_text(asked.model_dump_json())
    (folder / "spec.json").write_text(manifest.spec.model_dump_json())
    manifests.write(manifest, folder / "manifest.parquet")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])
    try:
        for _ in range(1200):
            if (folder / "stuck").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert (folder / "stuck").exists()
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_build_killed_in_training_ends_with_the_weights_of_one_that_was_not(wafers, tmp_path):
    asked = recipe("density", steps=120)
    manifests.write(wafers, tmp_path / "whole.parquet")
    wafers = manifests.read(tmp_path / "whole.parquet", wafers.spec, wafers.root)
    kill_at_step_100(asked, wafers, tmp_path)
    checkpoint = tmp_path / "run" / "checkpoint"
    assert not (checkpoint / train.WEIGHTS).exists()
    with (checkpoint / "history.jsonl").open("a") as file:
        file.write('\n{"step": 99, "autoen')  # as a power cut leaves it
    bundle = build.build(asked, wafers, tmp_path / "run", Nothing())
    assert bundles.read(bundle).card.calibration_images == len(wafers.good("calibrate"))
    whole = train.train(asked, wafers, tmp_path / "whole", Nothing())
    assert same(weights(checkpoint), weights(whole))
    histories = [pd.read_parquet(c / history_room.HISTORY) for c in (checkpoint, whole)]
    pd.testing.assert_frame_equal(*histories)
    assert len(histories[0]) == 120


def put(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


@pytest.mark.slow
def test_16_bit_dies_with_a_valid_region_build_and_never_look_outside(tmp_path):
    settings = DieSettings(lots=8, wafers_per_lot=2, dies_per_wafer=8, side=32, depth=16, seed=3)
    simulate.write(settings, tmp_path / "data")
    valid = np.full((32, 32), 255, np.uint8)
    valid[:5] = valid[:, 27:] = 0  # no multiple of a cell
    put(tmp_path / "data" / "valid.png", valid)
    image = {"depth": 16, "valid_region": "valid.png"}
    manifest = manifests.make(
        spec(tmp_path / "data", {"kind": "table"}, image, group={"column": "lot"})
    )
    bundle = build.build(recipe("ssim"), manifest, tmp_path / "run", Nothing(), force=True)
    pixels = next(train.feed.raw(manifest.good("test"), manifest, 5))
    assert pixels.dtype == np.uint16
    other = np.where(valid > 0, pixels, 65535 - pixels).astype(np.uint16)
    scorer = Scorer(bundle, "cpu", threads=1)
    detector = train.load(tmp_path / "run" / "checkpoint").detector
    for score in (scorer.score, detector.score):
        assert (score(pixels).pred_score == score(other).pred_score).all()
        assert score(pixels).anomaly_map.max() > 0


@pytest.mark.slow
def test_pictures_of_mixed_sizes_build(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(48):
        height, width = ((20, 30), (17, 40), (33, 21))[i % 3]
        stripes = 120 + 60 * np.sin(np.arange(width) * 12 / width + rng.random())
        noise = rng.normal(0, 5, (height, width))
        put(tmp_path / "data" / f"{i}.png", (stripes + noise).clip(0, 255).astype(np.uint8))
    manifest = manifests.make(
        spec(tmp_path / "data", {"kind": "files"}, {"resize": "fit"}, label={"all_good": True})
    )
    asked = recipe("gradient", model=MODEL | {"name": "vae"})
    bundle = build.build(asked, manifest, tmp_path / "run", Nothing(), force=True)
    assert bundles.read(bundle).card.canvas is None
    record = json.loads((tmp_path / "run/checkpoint/run.json").read_text(encoding="utf-8"))
    sheet = cv2.imread(str(tmp_path / "run/checkpoint/pictures/reconstructions.png"))
    assert record["held_out_images"] > 2
    columns = min(8, record["held_out_images"])  # the model tells of all of them, whatever size
    assert sheet.shape[:2] == (2 * 98 + 2, columns * 98 + 2)
    kept = pd.read_parquet(bundle / bundles.SCORES)
    assert len(kept) == len(manifest.good("calibrate"))
    assert np.isfinite(kept["pred_score"]).all()


def rows(*sizes):
    groups = np.repeat([f"lot {k}" for k in range(len(sizes))], sizes)
    return pd.DataFrame({"group": groups, "image": range(len(groups))})


@pytest.mark.parametrize("sizes", [(10,) * 20, (1,) * 40, (25, 25), (25, 25, 25), (3, 90, 7)])
def test_holding_out_cuts_between_groups_and_loses_no_image(sizes):
    table = rows(*sizes)
    fit, held = train.hold_out(table, recipe())
    assert set(fit["group"]).isdisjoint(held["group"])
    assert len(fit)
    assert len(held)
    assert sorted([*fit["image"], *held["image"]]) == table["image"].tolist()


def test_holding_out_keeps_to_the_share_where_groups_allow_it():
    _, held = train.hold_out(rows(*(1,) * 200), recipe(held_out=0.15))
    assert len(held) == 30


def test_holding_out_depends_on_the_seed_alone():
    table = rows(*(5,) * 20)
    shuffled = table.sample(frac=1, random_state=0)
    held = [set(train.hold_out(t, recipe())[1]["group"]) for t in (table, shuffled)]
    other = recipe(budget={"steps": 1, "seed": 1})
    assert held[0] == held[1]
    assert held[0] != set(train.hold_out(table, other)[1]["group"])


def test_one_group_cannot_be_cut_and_the_message_says_so():
    with pytest.raises(
        MissingData, match=r"25 good images of split 'train' in 1 group\(s\) cannot be cut"
    ):
        train.hold_out(rows(25), recipe())
