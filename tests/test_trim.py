import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from inspect_ai import build, feeding, train
from inspect_ai.data import manifest as manifests
from inspect_ai.data import simulate
from inspect_ai.data.simulate_maps import MapSettings
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings
from inspect_ai.recipe import Recipe
from inspect_ai.tracking import Nothing

STACK = {"kind": "stack", "file": "maps.npz", "shapes": "shapes", "columns": ["lot", "wafer"]}
PCA = {"name": "pca", "components": 2, "blur": 1.5}
TOP = {"rule": "l2", "pooling": {"kind": "top", "share": 0.1}}
NET = {"name": "autoencoder", "width": 4, "depth": 2, "latent": 4}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def contaminated(tmp_path_factory):
    """300 wafer maps, all called good; about 1 in 20 bears a pattern."""
    root = tmp_path_factory.mktemp("contaminated") / "data"
    shape = {"largest": 28, "canvas": 32, "products": 1}
    simulate.write(
        MapSettings(lots=30, wafers_per_lot=10, defect_share=0.05, seed=4, **shape), root
    )
    given = {"name": "small", "root": root, "source": "a test", "licence": "none"}
    given |= {"layout": STACK, "image": {"kind": "wafer_map"}, "group": {"column": "lot"}}
    given |= {"label": {"all_good": True}, "split": {"train": 0.7, "calibrate": 0.2, "test": 0.1}}
    return manifests.make(DataSpec.checked(given, "a test"))


def recipe(model=PCA, steps=12, **fields):
    given = {"data_spec": "spec.toml", "grid": [16, 16], "false_alarm_rate": 0.1}
    budget = {"steps": steps, "batch_size": 16, "save_every": 4}
    given |= {"model": model, "score": TOP, "budget": budget}
    return Recipe.checked(given | fields, "a test")


@pytest.fixture(scope="module")
def trimmed(contaminated, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("trimmed") / "checkpoint"
    return train.train(recipe(trim=0.06), contaminated, out, Nothing())


def weights(checkpoint):
    return load_file(checkpoint / train.WEIGHTS)


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_trimming_drops_mostly_the_planted_defects(trimmed, contaminated):
    train_rows = contaminated.good("train")
    planted = set(train_rows.loc[train_rows["label"] != "none", "image_id"])
    dropped = set(pd.read_parquet(trimmed / feeding.TRIMMED)["image_id"])
    assert len(planted) == 13
    assert len(dropped) <= 0.06 * len(train_rows)
    assert len(dropped & planted) >= 0.6 * len(planted)
    assert len(dropped & planted) > 0.7 * len(dropped)


def test_the_trimmed_images_are_listed_with_the_score_that_condemned_them(trimmed, contaminated):
    table = pd.read_parquet(trimmed / feeding.TRIMMED)
    assert table.columns.tolist() == ["image_id", "image_path", "group", "pred_score"]
    first = train.load(trimmed / feeding.FIRST_FIT).detector
    for rows in train.hold_out(contaminated.good("train"), recipe()):
        batches = train.given(recipe(), rows, contaminated)
        scores = pd.Series(feeding.scores(first, batches), rows["image_id"])
        ours = table[table["image_id"].isin(rows["image_id"])]
        assert (scores[ours["image_id"]].to_numpy() == ours["pred_score"].to_numpy()).all()
        kept = scores.drop(ours["image_id"])
        assert kept.max() <= ours["pred_score"].min()


def test_the_second_fit_is_one_on_the_rest_alone(trimmed, contaminated, tmp_path):
    dropped = frozenset(pd.read_parquet(trimmed / feeding.TRIMMED)["image_id"])
    rest = train.train(recipe(), contaminated, tmp_path / "rest", Nothing(), dropped=dropped)
    assert same(weights(trimmed), weights(rest))
    assert not same(weights(trimmed), weights(trimmed / feeding.FIRST_FIT))


def test_the_record_tells_how_many_were_trimmed(trimmed, contaminated):
    record = json.loads((trimmed / "run.json").read_text())
    dropped = pd.read_parquet(trimmed / feeding.TRIMMED)
    seen = record["images"] + record["held_out_images"]
    assert record["trimmed_images"] == len(dropped)
    assert seen + len(dropped) == len(contaminated.good("train"))
    assert f"{len(dropped)} of {seen + len(dropped)}" in " ".join(train.figures(trimmed))


def test_the_calibrate_split_is_never_trimmed(trimmed, contaminated, tmp_path):
    out = build.calibrate(trimmed, contaminated, tmp_path / "calibration")
    kept = pd.read_parquet(out / "calibration.parquet")
    assert sorted(kept["image_id"]) == sorted(contaminated.good("calibrate")["image_id"])


class Killed:
    """A log that stops the run, as a kill would, at the n-th call that asks for a number."""

    def __init__(self, calls):
        self.calls = calls

    def settings(self, fields): ...
    def artefact(self, path): ...
    def picture(self, step, path): ...
    def numbers(self, step, values):
        self.calls -= 1
        if not self.calls:
            raise KeyboardInterrupt


def test_a_run_killed_in_either_fit_ends_as_one_that_was_not(contaminated, tmp_path):
    asked, out = recipe(NET, steps=50, trim=0.06), tmp_path / "run"
    first = out / feeding.FIRST_FIT / train.WEIGHTS
    with pytest.raises(KeyboardInterrupt):
        train.train(asked, contaminated, out, Killed(1))
    assert not first.is_file()
    with pytest.raises(KeyboardInterrupt):
        train.train(asked, contaminated, out, Killed(4))
    kept = first.stat().st_mtime_ns
    assert not (out / train.WEIGHTS).is_file()
    train.train(asked, contaminated, out, Nothing())
    assert first.stat().st_mtime_ns == kept
    whole = train.train(asked, contaminated, tmp_path / "whole", Nothing())
    assert same(weights(out), weights(whole))


def test_each_part_is_trimmed_by_itself(tmp_path):
    rows = pd.DataFrame({"image_id": [f"i{k}" for k in range(30)], "image_path": "", "group": "g"})
    low, high = np.arange(20, dtype=np.float32), 100 + np.arange(10, dtype=np.float32)
    parts = [(rows[:20], low), (rows[20:], high)]
    found = feeding.trimmed(parts, 0.1, tmp_path / "trimmed.parquet")
    assert found["image_id"].tolist() == ["i19", "i18", "i29"]


def test_a_score_that_is_not_a_number_is_trimmed_first(tmp_path):
    rows = pd.DataFrame({"image_id": list("abcde"), "image_path": "", "group": "g"})
    scores = np.float32([1, np.nan, 3, 2, 9])
    found = feeding.trimmed([(rows, scores)], 0.4, tmp_path / "trimmed.parquet")
    assert found["image_id"].tolist() == ["b", "e"]


def test_a_run_without_trimming_keeps_the_name_it_had():
    fields = recipe().model_dump(mode="json")
    assert fields.pop("trim") is None
    assert Recipe.checked(fields, "a run of before").hash() == recipe().hash()
    assert recipe(trim=0.05).hash() != recipe().hash()


@pytest.mark.parametrize("share", [0, 0.5, -0.1])
def test_a_share_that_cannot_be_trimmed_is_refused(share):
    with pytest.raises(BadSettings, match="'trim'"):
        recipe(trim=share)


def test_trimming_twice_the_steps_are_told_and_half_the_time_is_for_each_fit():
    asked = recipe(trim=0.05)
    assert asked.steps == 2 * recipe().steps
    assert asked.seeded(0, 10.0).budget.seconds == 5.0


def test_a_fusion_and_a_first_stage_leave_trimming_to_others():
    member = recipe(trim=0.05).model_dump()
    with pytest.raises(BadSettings, match="'trim' belong to the members' run files"):
        Recipe.checked(
            {
                "data_spec": "spec.toml",
                "false_alarm_rate": 0.1,
                "trim": 0.05,
                "members": [member, member],
                "model": {"name": "fusion"},
            },
            "a test",
        )
    with pytest.raises(BadSettings, match="move 'trim' to this run file"):
        recipe(
            {"name": "latent_diffusion"},
            first_stage=recipe({"name": "vae"}, trim=0.05).model_dump(),
        )
