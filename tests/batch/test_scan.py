import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from inspect_ai import cli, steps
from inspect_ai.batch.scan import Options, scan
from inspect_ai.bundle import bundle as bundles
from inspect_ai.data import manifest as manifests
from inspect_ai.data.specs import DataSpec, plain_folder
from inspect_ai.errors import BadSettings, MissingData, OutputInUse


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def noise(side=(32, 32), dtype=np.uint8, channels=()):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (*side, *channels), dtype, endpoint=True)


def scanned(line, folder, out, **options):
    """Scans a plain folder; its verdicts by path."""
    bundle = bundles.read(line.bundle)
    manifest = manifests.listing(plain_folder(bundle.card.data_spec.image), folder)
    scan(bundle, manifest, out, Options(device="cpu", **options))
    return verdicts(out)


def verdicts(out):
    rows = pd.concat([pd.read_parquet(p) for p in sorted((out / "scores").iterdir())])
    return rows.set_index("image_path").sort_index()


def rejected(out):
    return pd.read_parquet(out / "rejected.parquet").set_index("image_path")["reason"]


def content(out):
    return {p.relative_to(out): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def folder(dies, tmp_path_factory):
    """60 good files, of which two have equal content."""
    made = tmp_path_factory.mktemp("folder") / "in"
    made.mkdir()
    for path in sorted((dies.root / "images").iterdir())[:59]:
        shutil.copy(path, made)
    shutil.copy(path, made / "twin.png")
    return made


@pytest.fixture(scope="module")
def reference(dies, folder, tmp_path_factory):
    """That folder's scan."""
    out = tmp_path_factory.mktemp("reference") / "out"
    scanned(dies, folder, out)
    return out


@pytest.fixture(scope="module")
def labelled(dies, tmp_path_factory):
    """The scan of all images with labels and masks."""
    out = tmp_path_factory.mktemp("labelled") / "out"
    scan(dies.read(), manifests.listing(DataSpec.from_toml(dies.spec)), out, Options("cpu"))
    return out


def test_every_file_has_one_row_also_two_of_equal_content(folder, reference):
    rows = verdicts(reference)
    assert list(rows.index) == sorted(p.name for p in folder.iterdir())
    twins = rows[rows["image_id"] == rows.loc["twin.png", "image_id"]]
    assert len(twins) == 2
    assert twins["pred_score"].nunique() == 1


def test_rows_have_the_promised_columns_and_types(labelled):
    rows = pd.read_parquet(labelled / "scores" / "part-00000.parquet")
    promised = {
        "pred_score": "float32",
        "p_value": "float64",
        "pred_label": "int8",
        "image_threshold": "float64",
        "gt_label": "Int8",
    }
    assert {name: str(rows[name].dtype) for name in promised} == promised
    texts = ["image_id", "image_path", "label", "group", "mask_path", "lot", "tool", "taken_at"]
    assert all(pd.api.types.is_string_dtype(rows[name]) for name in texts)


def test_verdicts_follow_from_scores_and_the_bundles_yardstick(dies, labelled):
    rows, yardstick = verdicts(labelled), dies.read().calibration
    score = rows["pred_score"].to_numpy()
    assert (rows["p_value"] == yardstick.p_value(score)).all()
    assert (rows["pred_label"] == yardstick.is_anomalous(score)).all()
    assert (rows["image_threshold"] == yardstick.threshold).all()
    assert set(rows["pred_label"]) == {0, 1}


def test_labels_are_carried_along_and_never_invented(dies, labelled, reference):
    source = pd.read_csv(dies.root / "manifest.csv").set_index("path").sort_index()
    rows = verdicts(labelled)
    assert rows["label"].tolist() == source["label"].tolist()
    assert rows["gt_label"].tolist() == (source["label"] != "good").astype(int).tolist()
    assert verdicts(reference)["gt_label"].isna().all()


def test_the_record_counts_what_the_tables_hold(labelled):
    record, rows = json.loads((labelled / "run.json").read_text("utf-8")), verdicts(labelled)
    assert record["state"] == "finished"
    assert record["images"] == len(rows)
    assert record["flagged"] == rows["pred_label"].sum()
    assert record["rejected"] == len(rejected(labelled)) == 0


def test_without_masks_maps_and_pictures_are_kept_of_flagged_images_alone(reference):
    rows = verdicts(reference)
    flagged = set(rows.loc[rows["pred_label"] == 1, "image_id"])
    for kind in (".tiff", ".png"):
        assert {p.stem for p in (reference / "maps").iterdir() if p.suffix == kind} == flagged
    assert {p.stem for p in (reference / "masks").iterdir()} == flagged
    assert 0 < len(flagged) < rows["image_id"].nunique()


def test_with_masks_every_map_is_kept_and_pictures_of_flagged_images(labelled):
    rows = verdicts(labelled)
    kept = list((labelled / "maps").iterdir())
    assert {p.stem for p in kept if p.suffix == ".tiff"} == set(rows["image_id"])
    flagged = set(rows.loc[rows["pred_label"] == 1, "image_id"])
    assert {p.stem for p in kept if p.suffix == ".png"} == flagged


def test_a_kept_map_is_the_models_own(dies, labelled):
    top = verdicts(labelled)["pred_score"].idxmax()
    name = verdicts(labelled).loc[top, "image_id"]
    kept = cv2.imread(str(labelled / "maps" / f"{name}.tiff"), cv2.IMREAD_UNCHANGED)
    assert kept.dtype == np.float32
    assert kept.max() == pytest.approx(verdicts(labelled).loc[top, "pred_score"], rel=1e-5)


def test_what_cannot_be_scored_is_rejected_with_its_reason_and_the_rest_is_scored(dies, tmp_path):
    folder, good = tmp_path / "in", png(noise())
    folder.mkdir()
    files = {
        "cut.png": good[: len(good) // 2],
        "text.png": b"not an image",
        "empty.png": b"",
        "deep.png": png(noise(dtype=np.uint16)),
        "colour.png": png(noise(channels=(3,))),
        "good.png": good,
        "black.png": png(np.zeros((32, 32), np.uint8)),
        "white.png": png(np.full((32, 32), 255, np.uint8)),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    rows = scanned(dies, folder, tmp_path / "out")
    assert list(rows.index) == ["black.png", "good.png", "white.png"]
    assert np.isfinite(rows["pred_score"]).all()
    reasons = rejected(tmp_path / "out")
    for name, reason in {
        "cut.png": "not a whole PNG",
        "text.png": "not a whole PNG",
        "empty.png": "0 bytes",
        "deep.png": "pixels are uint16, the spec says depth = 8",
        "colour.png": "3 channel",
    }.items():
        assert reason in reasons[name]
    assert len(reasons) == 5


def test_a_folder_of_rejects_alone_is_a_finished_scan_without_rows(dies, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.png").write_bytes(b"not an image")
    rows = scanned(dies, tmp_path / "in", tmp_path / "out")
    assert len(rows) == 0
    assert list(rejected(tmp_path / "out").index) == ["text.png"]


def test_a_part_of_rejects_alone_does_not_change_the_other_parts_columns(dies, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(6):
        data = b"not an image" if i in (0, 1, 4, 5) else png(noise())
        (tmp_path / "in" / f"{i}.png").write_bytes(data)
    rows = scanned(dies, tmp_path / "in", tmp_path / "out", part=2)
    assert list(rows.index) == ["2.png", "3.png"]
    parts = [pd.read_parquet(p) for p in sorted((tmp_path / "out" / "scores").iterdir())]
    assert len(parts) == 3
    assert parts[0].dtypes.to_dict() == parts[1].dtypes.to_dict()


def test_long_and_foreign_names_and_mixed_sizes_are_scored(dies, tmp_path):
    names = ["n" * 196 + ".png", "Wäfer 漢字 №7.png", "deep/er/é.PNG"]
    sides = [(32, 32), (48, 40), (33, 31)]
    for name, side in zip(names, sides, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(noise(side)))
    assert set(scanned(dies, tmp_path / "in", tmp_path / "out").index) == set(names)


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_a_folder_without_an_image_is_refused_and_nothing_is_written(dies, tmp_path, names):
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"x")
    with pytest.raises(MissingData, match=r"holds no image.*Put images there"):
        scanned(dies, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wafer_map_without_a_die_is_rejected_and_shapes_may_differ(maps, tmp_path):
    (tmp_path / "in").mkdir()
    wafer = np.ones((20, 22), np.uint8)
    wafer[5, 3:18] = 2
    images = {"line.png": wafer, "none.png": wafer * 0, "wide.png": np.ones((26, 90), np.uint8)}
    for name, pixels in {**images, "bin3.png": wafer + 1}.items():
        (tmp_path / "in" / name).write_bytes(png(pixels))
    rows = scanned(maps, tmp_path / "in", tmp_path / "out")
    assert list(rows.index) == ["line.png", "wide.png"]
    reasons = rejected(tmp_path / "out")
    assert "a wafer map with no die" in reasons["none.png"]
    assert "a pixel of 3, the spec allows 0 to 2" in reasons["bin3.png"]


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 1, "threads": 1},
        {"batch": 7, "part": 10, "readers": 1},
        {"part": 1, "threads": 2},
        {"batch": 1000, "readers": 16},
    ],
)
def test_scores_do_not_depend_on_how_the_work_is_cut(dies, folder, reference, tmp_path, options):
    wanted, found = verdicts(reference), scanned(dies, folder, tmp_path / "out", **options)
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-5)
    assert (found["pred_label"] == wanted["pred_label"]).all()


def test_scores_do_not_depend_on_the_other_images_of_the_folder(dies, folder, reference, tmp_path):
    (tmp_path / "in").mkdir()
    for path in sorted(folder.iterdir())[::5]:
        shutil.copy(path, tmp_path / "in")
    found = scanned(dies, tmp_path / "in", tmp_path / "out")
    wanted = verdicts(reference).loc[found.index]
    np.testing.assert_allclose(found["pred_score"], wanted["pred_score"], rtol=1e-5)


def test_a_map_scores_the_same_beside_a_larger_one(maps, tmp_path):
    (tmp_path / "a").mkdir()
    wafer = np.ones((20, 22), np.uint8)
    wafer[5, 3:18] = 2
    (tmp_path / "a" / "line.png").write_bytes(png(wafer))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "huge.png").write_bytes(png(np.ones((100, 130), np.uint8)))
    alone, beside = (scanned(maps, tmp_path / n, tmp_path / f"{n}_out") for n in "ab")
    score = alone.loc["line.png", "pred_score"]
    assert beside.loc["line.png", "pred_score"] == pytest.approx(score, rel=1e-6)


def test_one_split_of_a_spec_can_be_scanned(dies, tmp_path):
    manifest = dies.manifest()
    scan(dies.read(), manifest.part("test"), tmp_path / "out", Options("cpu"))
    test = manifest.table[manifest.table["split"] == "test"]
    assert set(verdicts(tmp_path / "out").index) == set(test["image_path"])


def test_a_second_scan_is_no_work(dies, folder, reference):
    before = content(reference)
    scanned(dies, folder, reference)
    assert content(reference) == before


def test_a_scan_killed_while_tidying_is_tidied(dies, folder, reference, tmp_path):
    out = shutil.copytree(reference, tmp_path / "out")
    (out / "rejected").mkdir()
    scanned(dies, folder, out)
    assert not (out / "rejected").exists()


def test_other_images_into_the_same_folder_are_refused(dies, folder, reference, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    before = content(reference)
    with pytest.raises(OutputInUse, match=r"with other inputs\. Pass a new folder"):
        scanned(dies, tmp_path / "other", reference)
    assert content(reference) == before


def test_another_bundle_into_the_same_folder_is_refused(maps, dies, reference):
    manifest = manifests.listing(DataSpec.from_toml(maps.spec))
    with pytest.raises(OutputInUse, match="with other inputs"):
        scan(maps.read(), manifest, reference, Options("cpu"))


def test_a_folder_of_something_else_is_refused(dies, folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", "utf-8")
    with pytest.raises(OutputInUse, match="did not write"):
        scanned(dies, folder, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_images_of_another_kind_than_the_bundles_are_refused(maps, dies, tmp_path):
    manifest = manifests.listing(DataSpec.from_toml(dies.spec))
    with pytest.raises(BadSettings, match=r"kind = wafer_map; spec 'few_dies' says kind = picture"):
        scan(maps.read(), manifest, tmp_path / "out", Options("cpu"))
    assert not (tmp_path / "out").exists()


def modules(*arguments):
    """What a command has imported, in a process of its own."""
    call = "import sys; from inspect_ai.cli import run; code = run(sys.argv[1:]); "
    call += "sys.stdout.write('|' + ' '.join(sys.modules)); sys.exit(code)"
    given = [sys.executable, "-c", call, *map(str, arguments)]
    done = subprocess.run(given, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("|")[2].split())


def test_help_imports_nothing_heavy():
    heavy = {"torch", "mlflow", "pandas", "cv2", "onnxruntime", "matplotlib", "sklearn", "scipy"}
    assert not heavy & modules("--help")
    assert not heavy & modules("scan", "--help")


def test_a_scan_never_imports_the_workshop(dies, folder, mlflow_client, tmp_path):
    found = modules("scan", dies.bundle, folder, "--out", tmp_path / "out", "--device", "cpu")
    assert not {"torch", "onnx", "safetensors"} & found
    assert {"onnxruntime", "mlflow"} <= found


def test_a_dry_run_writes_nothing(dies, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.run(["scan", str(dies.bundle), str(folder), "--out", str(out), "--dry-run"]) == 0
    assert "60 images" in capsys.readouterr().out
    assert not out.exists()


def test_a_file_name_that_is_not_utf_8_is_one_rejected_row(dies, folder, tmp_path):
    images = tmp_path / "in"
    shutil.copytree(folder, images)
    try:
        (images / os.fsdecode(b"bad\xff\xfe.png")).write_bytes(png(noise()))
    except OSError:
        pytest.skip("this disk takes no such name")
    found = scanned(dies, images, tmp_path / "out")
    assert len(found) == 60
    assert list(rejected(tmp_path / "out").index) == [r"bad\xff\xfe.png"]


def test_a_second_process_on_the_same_folder_is_refused(dies, folder, tmp_path, say):
    out = tmp_path / "out"
    out.mkdir()
    with steps.alone(out):
        code, _, err = say("scan", dies.bundle, folder, "--out", out, "--no-track")
    assert (code, "Another process writes to" in err) == (2, True)
    assert say("scan", dies.bundle, folder, "--out", out, "--no-track")[0] == 0
    assert len(verdicts(out)) == 60


def test_a_scan_that_is_stopped_while_it_is_recorded_is_one_run(
    dies, folder, tmp_path, say, mlflow_client, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert say("scan", dies.bundle, folder, "--out", out)[0] == 0
    key = (out / "tracking.txt").read_text().split()[0]
    (out / "tracking.txt").write_text(key)  # stopped before it could say that all is sent
    monkeypatch.undo()
    assert say("scan", dies.bundle, folder, "--out", out)[0] == 0
    runs = mlflow_client.search_runs(
        [mlflow_client.get_experiment_by_name("inspect-ai").experiment_id],
        f"tags.`inspect_ai.key` = '{key}'",
    )
    assert len(runs) == 1
    assert (out / "tracking.txt").read_text() == f"{key} sent"


def test_images_the_bundle_was_made_from_are_noted_and_test_images_are_not(dies, tmp_path):
    bundle = bundles.read(dies.bundle)
    spec = bundle.card.data_spec.model_copy(update={"root": dies.root})
    manifest = manifests.make(spec)
    for split, noted in (("train", True), ("test", False)):
        scan(bundle, manifest.part(split), tmp_path / split, Options(device="cpu"))
        notes = json.loads((tmp_path / split / "run.json").read_text())["notes"]
        assert any("trained or calibrated on" in note for note in notes) == noted


def test_a_lock_that_a_kill_left_behind_a_finished_scan_is_let_go(
    dies, folder, reference, tmp_path
):
    out = shutil.copytree(reference, tmp_path / "out")
    (out / steps.LOCK).touch()
    scanned(dies, folder, out)
    assert not (out / steps.LOCK).exists()
