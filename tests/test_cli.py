"""The command line as a user types it: what it says, what it writes, how it ends."""

import json
import shutil
import signal
import subprocess
import time

import pandas as pd
import pytest

from inspect_ai import models
from inspect_ai.bundle import bundle as bundles

COMMANDS = [
    "build",
    "train",
    "calibrate",
    "export",
    "scan",
    "report",
    "operating-point",
    "monitor",
    "recalibrate",
    "suspects",
    "sample",
    "benchmark",
    "models",
    "demo",
    "doctor",
    "specs check",
    "simulate maps",
    "simulate dies",
]


@pytest.fixture
def folder(dies, tmp_path):
    """A few files of the line."""
    (tmp_path / "in").mkdir()
    for path in sorted((dies.root / "images").iterdir())[:30]:
        shutil.copy(path, tmp_path / "in")
    return tmp_path / "in"


def changed(path, out, *pairs):
    """A spec or run file with some words replaced."""
    text = path.read_text("utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    out.write_text(text, "utf-8")
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(say, command):
    code, out, err = say(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert "Usage: inspect-ai " + command in " ".join(out.split())


def test_help_names_every_command(say):
    code, out, _ = say("--help")
    assert code == 0
    assert {c.split()[0] for c in COMMANDS} <= set(out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([], ""),
        (["paint"], "paint"),
        (["scan", "--colour", "red"], "--colour"),
        (["scan"], "Missing argument"),
        (["scan", "x", "--batch", "0"], "--batch"),
        (["scan", "x", "--device", "tpu"], "tpu"),
    ],
)
def test_what_cannot_be_parsed_ends_with_2(say, arguments, advice):
    code, out, err = say(*arguments)
    assert code == 2
    assert advice in " ".join((out + err).replace("│", " ").split())


def test_a_users_mistake_ends_with_2_and_one_message_without_a_traceback(say, tmp_path):
    code, out, err = say("specs", "check", tmp_path / "absent.toml")
    assert (code, out) == (2, "")
    assert err.startswith("error: No file ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_debug_anywhere_shows_the_traceback(say, tmp_path, place):
    arguments = ["specs", "check", tmp_path / "absent.toml"]
    arguments.insert(place, "--debug")
    code, _, err = say(*arguments)
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert "error: No file " in err


def test_a_mistake_of_ours_ends_with_1_and_says_so(say, tmp_path, monkeypatch):
    monkeypatch.setattr("inspect_ai.data.simulate.write", lambda *_: 1 / 0)
    code, _, err = say("simulate", "maps", "--out", tmp_path / "out")
    assert code == 1
    assert "ZeroDivisionError: division by zero" in err
    assert "This is our mistake. Run again with --debug" in err
    assert "Traceback" not in err


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(shell, tmp_path):
    process = subprocess.Popen(
        shell("simulate", "dies", "--lots", 900, "--out", tmp_path / "out"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not any(tmp_path.glob(".out.*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted: run the same command again and it goes on"
    assert list(tmp_path.iterdir()) == []


def test_models_are_named_one_to_a_line(say):
    code, out, _ = say("models")
    assert code == 0
    assert out.splitlines() == models.names()


def test_doctor_says_what_is_there(say):
    code, out, _ = say("doctor")
    assert code == 0
    for word in ("inspect-ai-wafer", "Python", "cores", "free disk", "ONNX Runtime", "MLflow"):
        assert word in out


def test_the_demo_outside_a_checkout_says_what_to_do(say, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = say("demo")
    assert code == 2
    assert "Clone the repository" in err
    assert list(tmp_path.iterdir()) == []


def test_simulate_maps_writes_a_set_once(say, tmp_path):
    arguments = ["simulate", "maps", "--lots", 2, "--wafers", 3, "--out", tmp_path / "out"]
    code, out, _ = say(*arguments)
    assert (code, out) == (0, f"simulated: {tmp_path / 'out'}\n")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"maps.npz", "simulate.json"}
    code, _, err = say(*arguments)
    assert code == 2
    assert "is not an empty folder" in err


def test_simulate_dies_writes_images_masks_and_a_table(say, tmp_path):
    given = ["--lots", 1, "--wafers", 1, "--dies", 4, "--side", 32, "--depth", 16]
    code, _, _ = say("simulate", "dies", *given, "--out", tmp_path / "out")
    assert code == 0
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4
    assert len(pd.read_csv(tmp_path / "out" / "manifest.csv")) == 4


def test_simulate_dies_of_an_impossible_depth_is_refused(say, tmp_path):
    code, _, err = say("simulate", "dies", "--depth", 12, "--out", tmp_path / "out")
    assert code == 2
    assert "'depth': Input should be 8 or 16, got 12" in err


def test_a_spec_is_checked_with_counts_labels_and_sizes(say, dies):
    code, out, _ = say("specs", "check", dies.spec)
    assert code == 0
    assert "few_dies: 240 images in 12 groups" in out
    assert "duplicates: 0 images" in out
    assert "leaks: none" in out
    assert "sizes 32 x 32 (240)" in out
    assert "unreadable or out of spec: 0" in out
    good = int((pd.read_csv(dies.root / "manifest.csv")["label"] == "good").sum())
    assert f"good {good}" in out


def a_spec(root, path):
    """A spec of MVTec-like folders."""
    path.write_text(
        f'name = "own"\nroot = "{root.as_posix()}"\nsource = "own"\nlicence = "own"\n'
        '[layout]\nkind = "folders"\n[split]\nby = "folder"\n',
        "utf-8",
    )
    return path


def test_a_spec_check_counts_duplicates_and_unreadable_files(say, folder, tmp_path):
    good = tmp_path / "data" / "train" / "good"
    shutil.copytree(folder, good)
    shutil.copy(sorted(folder.iterdir())[0], good / "zz_twin.png")
    (good / "zz_text.png").write_bytes(b"not an image")
    code, out, _ = say("specs", "check", a_spec(tmp_path / "data", tmp_path / "spec.toml"))
    assert code == 0
    assert "duplicates: 1 images" in out
    assert "unreadable or out of spec: 1\n  good/zz_text.png: not a whole PNG" in out


def test_a_spec_whose_given_splits_leak_is_refused_with_the_files(say, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data" / "train" / "good")
    (tmp_path / "data" / "test" / "good").mkdir(parents=True)
    shutil.copy(sorted(folder.iterdir())[0], tmp_path / "data" / "test" / "good" / "same.png")
    code, _, err = say("specs", "check", a_spec(tmp_path / "data", tmp_path / "spec.toml"))
    assert code == 2
    assert "stand in two splits" in err
    assert "test/good/same.png" in err


def test_a_missing_root_says_root(say, dies, tmp_path):
    spec = changed(dies.spec, tmp_path / "spec.toml", (dies.root.as_posix(), "nowhere"))
    code, _, err = say("specs", "check", spec)
    assert code == 2
    assert "with --root DIR" in err
    code, _, _ = say("specs", "check", spec, "--root", dies.root)
    assert code == 0


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("[split]", "[split]\nsede = 1"), "'split.sede': unknown key. Known keys beside it: by"),
        (('licence = "Apache-2.0"', ""), "'licence': missing. Add it."),
        (("train = 0.4", "train = 0.5"), "train + calibrate + test must be 1"),
        (("[split]", "[split"), "is not a TOML file"),
    ],
)
def test_a_wrong_spec_is_named_by_key(say, dies, tmp_path, pair, message):
    code, _, err = say("specs", "check", changed(dies.spec, tmp_path / "spec.toml", pair))
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("steps = 20", "steps = 20\nstpes = 20"), "'budget.stpes': unknown key"),
        (("width = 4", "widht = 4"), "'widht': unknown key"),
        (('"autoencoder"', '"vea"'), "No model 'vea'. Known models: autoencoder"),
        (("grid = [16, 16]", "grid = [18, 18]"), "cannot be halved 2 times"),
        (("false_alarm_rate = 0.05", "false_alarm_rate = 0.001"), "needs at least 999 good"),
        (('rule = "l2"', 'rule = "density"\nstatistics = ["moran"]'), "needs wafer maps"),
    ],
)
def test_a_wrong_run_file_is_refused_before_any_work(say, dies, tmp_path, pair, message):
    run = changed(dies.run, tmp_path / "run.toml", pair)
    code, _, err = say("build", run, "--out", tmp_path / "out", "--no-track")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["build", "train"])
def test_a_dry_run_checks_and_writes_nothing(say, dies, tmp_path, command):
    code, out, _ = say(command, dies.run, "--out", tmp_path / "out", "--dry-run")
    assert code == 0
    assert f"dry run: nothing was written to {tmp_path / 'out'}" in out
    assert list(tmp_path.iterdir()) == []


def test_training_on_a_gpu_that_is_not_there_is_refused(say, dies, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, _, err = say("train", dies.run, "--out", tmp_path / "out", "--device", "cuda")
    assert code == 2
    assert "pass --device cpu" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_train_calibrate_and_export_alone_give_the_bundle_that_build_gives(
    say, dies, folder, tmp_path
):
    a, b, c = (tmp_path / name for name in ("trained", "calibrated", "bundle"))
    assert say("train", dies.run, "--out", a)[:2] == (0, f"checkpoint: {a}\n")
    code, out, _ = say("calibrate", a, "--out", b)
    assert (code, out.splitlines()[-1]) == (0, f"calibration: {b}")
    assert say("export", a, b, "--out", c)[:2] == (0, f"bundle: {c}\n")
    built, alone = dies.read().card, bundles.read(c).card
    assert alone.image_threshold == pytest.approx(built.image_threshold, rel=1e-5)
    assert alone.recipe_hash == built.recipe_hash
    code, out, _ = say("scan", c, folder, "--out", tmp_path / "out", "--no-track")
    assert code == 0
    assert out.startswith("30 scored, ")


def test_calibrating_at_another_rate_moves_the_threshold_and_the_promise(say, dies, tmp_path):
    checkpoint, kept = dies.built / "checkpoint", {}
    for name, more in {"often": ["0.2"], "sure": ["0.2", "--confidence", "0.9"]}.items():
        options = ["--out", tmp_path / name, "--false-alarm-rate", *more]
        assert say("calibrate", checkpoint, *options)[0] == 0
        kept[name] = json.loads((tmp_path / name / "calibration.json").read_text("utf-8"))
    usual = dies.read().card
    assert kept["often"]["image_threshold"] < kept["sure"]["image_threshold"]
    assert kept["sure"]["image_threshold"] < usual.image_threshold
    assert "at most 20 %" in kept["often"]["promise"]
    assert kept["sure"]["promise"].startswith("With 90 % confidence")


def test_too_few_good_images_say_a_rate_that_then_works_with_the_same_folder(say, dies, tmp_path):
    arguments = ["calibrate", dies.built / "checkpoint", "--out", tmp_path / "out"]
    code, _, err = say(*arguments, "--false-alarm-rate", "0.001")
    assert code == 2
    assert "needs at least 999 good calibration images, got " in err
    rate = err.split("ask for a rate of ")[1].split()[0]
    assert say(*arguments, "--false-alarm-rate", rate)[0] == 0


@pytest.mark.parametrize("rate", ["0", "1", "-0.1", "5"])
def test_a_rate_that_is_none_is_refused(say, dies, tmp_path, rate):
    arguments = ["calibrate", dies.built / "checkpoint", "--out", tmp_path / "out"]
    code, _, err = say(*arguments, "--false-alarm-rate", rate)
    assert code == 2
    assert "'false_alarm_rate': Input should be" in err


def test_steps_refuse_each_others_folders(say, dies, tmp_path):
    code, _, err = say("calibrate", dies.bundle, "--out", tmp_path / "out")
    assert code == 2
    assert "not a folder that 'inspect-ai train' wrote" in err
    code, _, err = say("export", dies.built / "checkpoint", dies.bundle, "--out", tmp_path / "out")
    assert code == 2
    assert "not a folder that 'inspect-ai calibrate' wrote" in err
    assert not (tmp_path / "out").exists()
