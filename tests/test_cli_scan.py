"""inspect-ai scan as a user types it."""

import shutil

import pytest


@pytest.fixture
def folder(dies, tmp_path):
    """A few files of the line."""
    (tmp_path / "in").mkdir()
    for path in sorted((dies.root / "images").iterdir())[:30]:
        shutil.copy(path, tmp_path / "in")
    return tmp_path / "in"


def test_a_scan_says_what_it_found_and_where(say, dies, folder, tmp_path):
    (folder / "text.png").write_bytes(b"not an image")
    code, out, _ = say("scan", dies.bundle, folder, "--out", tmp_path / "out", "--no-track")
    assert code == 0
    assert out.splitlines()[0].startswith("30 scored, ")
    assert out.splitlines()[0].endswith(" rejected")
    assert out.splitlines()[1:] == [
        f"rejected, with reasons: {tmp_path / 'out' / 'rejected.parquet'}",
        f"scan: {tmp_path / 'out'}",
    ]
    assert not (tmp_path / "out" / "tracking.txt").exists()


def test_images_that_came_after_a_scan_began_are_not_passed_over_in_silence(
    say, dies, folder, tmp_path
):
    arguments = ["scan", dies.bundle, folder, "--out", tmp_path / "out", "--no-track"]
    assert "came after" not in say(*arguments)[2]
    shutil.copy(sorted(folder.iterdir())[0], folder / "late.png")
    code, out, err = say(*arguments)
    assert code == 0
    assert out.startswith("30 scored, ")
    assert "note: 1 image(s) came after this scan had begun" in err


def test_a_scan_of_one_split_scans_that_split(say, dies, tmp_path):
    arguments = ["--spec", dies.spec, "--split", "calibrate", "--out", tmp_path / "out"]
    code, out, _ = say("scan", dies.bundle, *arguments, "--no-track")
    table = dies.manifest().table
    assert code == 0
    assert out.startswith(f"{(table['split'] == 'calibrate').sum()} scored, ")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "needs a folder of images or --spec FILE, one of them"),
        (["FOLDER", "--spec", "SPEC"], "needs a folder of images or --spec FILE, one of them"),
        (["absent"], "absent is not there. Pass an existing folder"),
        (["FOLDER", "--split", "test"], "--root and --split go with --spec FILE"),
        (["FOLDER", "--root", "FOLDER"], "--root and --split go with --spec FILE"),
        (["--spec", "absent.toml"], "No file absent.toml"),
    ],
)
def test_a_scan_of_nothing_or_of_two_things_is_refused(say, dies, folder, tmp_path, extra, message):
    names = {"FOLDER": folder, "SPEC": dies.spec}
    extra = [names.get(word, word) for word in extra]
    code, _, err = say("scan", dies.bundle, *extra, "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_scan_with_no_bundle_is_refused(say, folder, tmp_path):
    code, _, err = say("scan", folder, folder, "--out", tmp_path / "out")
    assert code == 2
    assert "is no bundle" in err


def test_a_tracked_scan_says_where_it_went_and_is_sent_once(
    say, dies, folder, mlflow_client, tmp_path
):
    from inspect_ai.tracking import EXPERIMENT, KEY

    arguments = ["scan", dies.bundle, folder, "--out", tmp_path / "out"]
    code, out, _ = say(*arguments)
    assert code == 0
    assert "tracked in MLflow, run " in out
    assert "tracked in MLflow" not in say(*arguments)[1]
    key, sent = (tmp_path / "out" / "tracking.txt").read_text("utf-8").split()
    assert sent == "sent"
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id
    (run,) = mlflow_client.search_runs([experiment], f"tags.`{KEY}` = '{key}'")
    assert run.data.metrics["images"] == 30
    assert run.data.params["bundle_hash"] == dies.read().hash


def test_a_scan_without_a_tracking_server_is_whole_and_says_so(
    say, dies, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("INSPECT_AI_WAITING", str(tmp_path / "waiting"))
    code, out, _ = say("scan", dies.bundle, folder, "--out", tmp_path / "out")
    assert code == 0
    assert out.startswith("30 scored, ")
    assert "MLflow not reached (" in out
    assert len(list((tmp_path / "waiting").iterdir())) == 1
