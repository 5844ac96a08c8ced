"""inspect-ai sample, from a small build to the figures."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from made_nets import graph

from inspect_ai import recipe
from inspect_ai.data import manifest as manifests
from inspect_ai.data import simulate
from inspect_ai.data.simulate_maps import MapSettings
from inspect_ai.data.specs import DataSpec
from inspect_ai.judging import sample as step
from inspect_ai.judging.compare import FEWEST, Figure, table
from inspect_ai.models.vae import VAE
from inspect_ai.tracking import Nothing
from inspect_ai.train import train

SPEC = """\
name = "wafers"
root = "{root}"
source = "simulated"
licence = "Apache-2.0"

[group]
column = "lot"

[split]
train = 0.6
calibrate = 0.2
test = 0.2

[layout]
kind = "stack"
file = "maps.npz"
shapes = "shapes"
columns = ["lot", "wafer"]

[image]
kind = "wafer_map"

[label]
good = ["none"]
"""

RUN = """\
data_spec = "spec.toml"
grid = [12, 12]
held_out = 0.4
false_alarm_rate = 0.05

[model]
{model}

[score]
rule = "l2"

[budget]
steps = 20
batch_size = 16
"""

SMALL_VAE = 'name = "vae"\noutput = "bernoulli"\nwidth = 4\ndepth = 2\nlatent = 4'
NADE = 'name = "nade"\nhidden = 4'
PIXELCNN = 'name = "pixelcnn"\noutput = "binary"\nwidth = 4\nlayers = 1'
PLAIN = 'name = "autoencoder"\nwidth = 4\ndepth = 2\nlatent = 4'
L2, LIKELIHOOD = 'rule = "l2"', 'rule = "likelihood"'
TURN = ("held_out", "turn = true\nheld_out")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def wafers(tmp_path_factory):
    """200 good maps of 20 lots."""
    folder = tmp_path_factory.mktemp("wafers")
    settings = MapSettings(
        lots=20, wafers_per_lot=10, defect_share=0, smallest=12, largest=20, canvas=24, seed=1
    )
    simulate.write(settings, folder / "data")
    (folder / "spec.toml").write_text(SPEC.format(root=(folder / "data").as_posix()), "utf-8")
    return manifests.make(DataSpec.from_toml(folder / "spec.toml"))


def trained(manifest, folder, model, *pairs):
    """A checkpoint of a few steps, where build would leave it."""
    folder.mkdir(exist_ok=True)
    text = RUN.format(model=model)
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (folder / "run.toml").write_text(text, "utf-8")
    train(recipe.read(folder / "run.toml"), manifest, folder / "checkpoint", Nothing())
    return folder


@pytest.fixture(scope="module")
def vae(wafers, tmp_path_factory):
    return trained(wafers, tmp_path_factory.mktemp("vae"), SMALL_VAE)


@pytest.fixture(scope="module")
def sampled(vae, tmp_path_factory):
    out = tmp_path_factory.mktemp("sampled") / "out"
    return step.sample(vae, out, step.Asked(count=100, seed=3))


def figures(out):
    return json.loads((out / step.FIGURES).read_text(encoding="utf-8"))


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_samples_are_images_in_a_plain_array(sampled):
    cells = np.load(sampled / step.SAMPLES, allow_pickle=False)
    assert cells.shape == (100, 1, 12, 12)
    assert cells.dtype == np.float16
    assert 0 <= cells.min() < cells.max() <= 1
    assert {p.name for p in sampled.iterdir()} == {
        *(step.SAMPLES, step.SHEET, step.FIGURES, "run.json")
    }


def test_every_figure_stands_beside_what_training_images_reach(sampled):
    told = figures(sampled)
    assert told["feature_net"] == "random convolutions"
    assert told["samples"] == 100
    found = told["figures"]
    assert "FID-like on random convolutions" in found
    assert "W1 of Moran's I" in found
    assert all(set(pair) == {"samples", "good"} for pair in found.values())
    # twenty steps of training draw no wafer maps
    assert found["FID-like on random convolutions"]["samples"] > (
        2 * found["FID-like on random convolutions"]["good"]
    )
    good = {name: pair["good"] for name, pair in found.items()}
    assert good["precision on random convolutions"] > 0.4
    assert found["precision on random convolutions"]["samples"] < 0.1
    assert good["recall on random convolutions"] > 0.4
    assert good["nearest-train distance on random convolutions, over held-out"] == 1
    kernel = "KID-like on random convolutions"
    assert abs(good[kernel]) < 5 * good[f"{kernel}: standard error"]


def test_the_sheet_has_good_images_samples_and_the_nearest_training_images(sampled):
    picture = cv2.imread(str(sampled / step.SHEET))
    rows, side = step.REAL + 1 + step.DRAWN + 1 + 2, 96
    assert picture.shape == (rows * (side + 2) + 2, step.COLUMNS * (side + 2) + 2, 3)
    blank = picture[step.REAL * (side + 2) + 2 :][:side]
    assert (blank == 255).all()
    assert (picture < 200).any()


def test_the_same_call_again_changes_nothing_and_another_is_refused(vae, sampled, say):
    before = contents(sampled)
    step.sample(vae, sampled, step.Asked(count=100, seed=3))
    assert contents(sampled) == before
    code, _, err = say("sample", vae, "--out", sampled, "--count", "101", "--no-track")
    assert code == 2
    assert "with other inputs" in err
    assert contents(sampled) == before


def test_stopped_on_the_way_it_draws_the_same_images(vae, sampled, tmp_path, monkeypatch):
    calls, own = [], step.figures

    def stopped(*given):
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "figures", stopped)
    with pytest.raises(KeyboardInterrupt):
        step.sample(vae, tmp_path / "out", step.Asked(count=100, seed=3))
    cells = tmp_path / "out" / step.SAMPLES
    whole = np.load(cells)
    # as if the process had been killed in the second of two batches
    (tmp_path / "out/samples.part").write_bytes(whole[:80].tobytes())
    cells.unlink()
    monkeypatch.setattr(step, "figures", own)
    step.sample(vae, tmp_path / "out", step.Asked(count=100, seed=3))
    again, first = contents(tmp_path / "out"), contents(sampled)
    assert {k: v for k, v in again.items() if k != "run.json"} == {
        k: v for k, v in first.items() if k != "run.json"
    }


def test_another_seed_draws_others(vae, sampled, tmp_path):
    out = step.sample(vae, tmp_path / "out", step.Asked(count=100, seed=4))
    first, other = (np.load(folder / step.SAMPLES) for folder in (sampled, out))
    assert (first != other).mean() > 0.3
    assert ((first == 0) == (other == 0)).all()  # the wafers' shapes are those of good images


def test_the_command_prints_a_table_that_people_can_read(vae, tmp_path, say, mlflow_client):
    code, out, err = say("sample", vae, "--out", tmp_path / "out", "--count", "64")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["samples", "good"]
    named = [row for row in lines if row.startswith("FID-like on random convolutions ")]
    assert re.fullmatch(r"FID-like on random convolutions +[\d.e+]+ +[\d.e+]+", named[0])
    assert len({len(row) for row in lines[: len(figures(tmp_path / "out")["figures"]) + 1]}) == 1
    assert "64 samples against" in out
    run = mlflow_client.get_run(re.search(r"run (\w+)", out).group(1))
    assert run.data.metrics["fid_like_on_random_convolutions"] > 0
    assert "good_w1_of_moran_s_i" in run.data.metrics
    kept = {f.path for f in mlflow_client.list_artifacts(run.info.run_id)}
    assert {step.SHEET, step.FIGURES} <= kept


@pytest.mark.parametrize(("model", "pairs"), [(NADE, ()), (PIXELCNN, [TURN])])
def test_other_models_on_maps_draw_too_on_the_grid_or_die_by_die(wafers, tmp_path, model, pairs):
    run = trained(wafers, tmp_path / "run", model, (L2, LIKELIHOOD), *pairs)
    out = step.sample(run, tmp_path / "out", step.Asked(count=16))
    cells = np.load(out / step.SAMPLES)
    assert set(np.unique(cells)) == {0, 1}
    assert figures(out)["figures"]["W1 of the fail share"]["good"] < 0.1


def test_pictures_are_measured_on_a_net_of_ones_own(products, tmp_path, say):
    run = trained(products.manifest(), tmp_path / "run", SMALL_VAE, ("[12, 12]", "[16, 16]"))
    net = graph(tmp_path / "mine.onnx", ["n", 3, 24, 24])
    code, out, err = say(
        *("sample", run, "--out", tmp_path / "out", "--count", "20", "--features", net),
        "--no-track",
    )
    assert code == 0, err
    assert "FID-like on mine.onnx" in out
    assert "Moran" not in out


def test_copies_of_training_images_are_reported_as_such(vae, tmp_path, monkeypatch):
    source = step._opened(step.checkpoint_of(vae), None, step.Asked())
    known = np.concatenate([np.asarray(v) for v in step._views(source, source.training)])

    def by_heart(self, like, seed, condition=None):
        rows = np.random.default_rng(seed).integers(0, len(known), len(like))
        return torch.from_numpy(known[rows, :1])

    monkeypatch.setattr(VAE, "sample", by_heart)
    out = step.sample(vae, tmp_path / "out", step.Asked(count=64))
    found = figures(out)["figures"]
    assert found["memorised share on random convolutions"]["samples"] > 0.9


# refusals


def test_a_model_that_draws_nothing_is_refused_and_no_folder_is_made(wafers, say, tmp_path):
    run = trained(wafers, tmp_path / "run", PLAIN)
    code, _, err = say("sample", run, "--out", tmp_path / "out", "--no-track")
    assert code == 2
    assert "redraws the images that it is shown and draws none of its own" in err
    assert "vae" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [0, FEWEST - 1])
def test_too_few_samples_are_refused(vae, say, tmp_path, count):
    code, _, err = say("sample", vae, "--out", tmp_path / "out", "--count", count, "--no-track")
    assert code == 2
    assert f"--count {count}: figures need 8 images or more" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_refused(say, tmp_path):
    code, _, err = say("sample", tmp_path, "--out", tmp_path / "out", "--no-track")
    assert code == 2
    assert "not a folder that 'inspect-ai build' or 'inspect-ai train' wrote" in err


def test_columns_stand_below_each_other_and_what_is_not_known_is_a_dash():
    shown = table([Figure("a", 1.23456, None), Figure("longer", 1e-7, 12)])
    assert shown.splitlines() == [
        "        samples  good",
        "a         1.235     -",
        "longer    1e-07    12",
    ]
