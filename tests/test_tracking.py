"""Runs in MLflow, on one SQLite file for the session; and what happens without it."""

import json
import os
import threading
import time
import uuid

import cv2
import numpy as np
import pytest

from inspect_ai import tracking
from inspect_ai.commands import options
from inspect_ai.tracking import KEY, Tracked

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own code warns, as we do not
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def waiting(tmp_path, monkeypatch):
    """Where this test's records wait."""
    monkeypatch.setenv("INSPECT_AI_WAITING", str(tmp_path / "waiting"))
    return tmp_path / "waiting"


@pytest.fixture
def nobody_answers(monkeypatch):
    """Takes the server away; gives a function that brings it back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        yield patch.undo


def runs(client, key):
    """All runs of one key."""
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    return client.search_runs([experiment], f"tags.`{KEY}` = '{key}'")


def files(folder):
    return sorted(folder.glob("*.json")) if folder.is_dir() else []


def test_a_run_arrives_with_settings_figures_and_files(mlflow_client, waiting, tmp_path):
    (tmp_path / "page.html").write_text("page", "utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a", "utf-8")
    log = Tracked("a run")
    log.settings({"budget": {"steps": 20}, "long": "x" * 9000})
    for step in (1, 2):
        log.numbers(step, {"loss": 1 / step})
    log.artefact(tmp_path / "page.html")
    log.artefact(tmp_path / "folder")
    assert log.close() == f"tracked in MLflow, run {log.run_id}"
    run = mlflow_client.get_run(log.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a run")
    assert run.data.params["budget.steps"] == "20"
    assert len(run.data.params["long"]) == 6000
    history = mlflow_client.get_metric_history(log.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]
    assert {f.path for f in mlflow_client.list_artifacts(log.run_id)} == {"page.html", "folder"}
    assert files(waiting) == []


def test_pictures_of_steps_arrive_as_images_of_those_steps(mlflow_client, tmp_path):
    log = Tracked("pictures")
    for step in (50, 100):
        path = tmp_path / f"samples-{step:06d}.png"
        cv2.imwrite(str(path), np.full((4, 6, 3), (step, 0, 255), np.uint8))
        log.picture(step, path)
    log.picture(150, tmp_path / "samples-000150.png")  # gone when it is sent
    assert log.close().startswith("tracked in MLflow")
    kept = [f.path for f in mlflow_client.list_artifacts(log.run_id, "images")]
    shown = {
        step: p for p in kept for step in (50, 100) if p.endswith(".png") and f"step+{step}+" in p
    }
    assert set(shown) == {50, 100}, kept
    file = mlflow_client.download_artifacts(log.run_id, shown[50])
    assert cv2.imread(file)[0, 0].tolist() == [50, 0, 255]
    assert mlflow_client.get_run(log.run_id).data.tags[tracking.MISSING].endswith("000150.png")


def test_no_setting_is_lost_however_many_there_are(mlflow_client):
    log = Tracked("many")
    log.settings({f"name{i}": i for i in range(250)})
    log.numbers(0, {f"figure{i}": i for i in range(1200)})
    log.close()
    data = mlflow_client.get_run(log.run_id).data
    assert len(data.params) == 250
    assert len(data.metrics) == 1200


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_no_number_stops_nothing(mlflow_client, value):
    log = Tracked("odd")
    log.numbers(0, {"loss": value, "other": 1.0})
    assert log.close().startswith("tracked in MLflow")
    assert mlflow_client.get_run(log.run_id).data.metrics["other"] == 1.0


@pytest.fixture(scope="module")
def registered(dies, mlflow_client, tmp_path_factory):
    """A run that made a bundle, sent while another run of the same thread was open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSPECT_AI_WAITING", str(tmp_path_factory.mktemp("waiting")))
        log = Tracked("build")
        log.artefact(dies.bundle)
        import mlflow

        other = mlflow.start_run(
            experiment_id=mlflow_client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
        )
        try:
            assert log.close().startswith("tracked in MLflow")
            assert mlflow.active_run().info.run_id == other.info.run_id
        finally:
            mlflow.end_run()
    return log


def test_a_bundle_is_registered_as_the_candidate_with_its_hash_and_promise(
    registered, dies, mlflow_client
):
    bundle = dies.read()
    version = mlflow_client.get_model_version_by_alias("inspect-ai-few_dies", "candidate")
    assert version.run_id == registered.run_id
    assert version.tags["bundle_hash"] == bundle.hash
    assert version.tags["promise"] == bundle.card.promise


def test_a_registered_bundle_has_the_signature_of_its_graph(registered, mlflow_client):
    from mlflow.models import get_model_info

    signature = get_model_info("models:/inspect-ai-few_dies@candidate").signature
    assert [(s.name, s.type.name, s.shape) for s in signature.inputs] == [
        ("input", "uint8", (-1, 1, -1, -1))
    ]
    assert [s.name for s in signature.outputs] == ["pred_score", "anomaly_map", "expected"]


def test_the_whole_bundle_can_be_got_back_from_its_version(registered, dies, tmp_path):
    import mlflow

    uri = "models:/inspect-ai-few_dies@candidate"
    got = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path))
    for path in dies.bundle.iterdir():
        assert (type(path)(got) / path.name).read_bytes() == path.read_bytes()


def test_a_bundles_run_is_finished_and_holds_its_files(registered, mlflow_client):
    assert mlflow_client.get_run(registered.run_id).info.status == "FINISHED"
    kept = {f.path for f in mlflow_client.list_artifacts(registered.run_id, "bundle")}
    assert {"bundle/model.onnx", "bundle/bundle.json", "bundle/calibration.parquet"} <= kept


def test_a_run_leaves_no_run_open_in_any_thread(mlflow_client):
    import mlflow

    left = []

    def work():
        log = Tracked("in a thread")
        log.numbers(0, {"a": 1})
        log.close()
        left.append(mlflow.active_run())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert left == [None]
    assert mlflow.active_run() is None


def test_a_command_that_fails_is_recorded_as_failed(mlflow_client):
    with pytest.raises(ZeroDivisionError), options.tracked("broken", wanted=True) as log:
        log.settings({"a": 1})
        raise ZeroDivisionError
    (run,) = runs(mlflow_client, log.name)
    assert run.info.status == "FAILED"
    assert run.data.params == {"a": "1"}


def test_untracked_work_leaves_no_record(waiting, capsys):
    with options.tracked("quiet", wanted=False) as log:
        log.settings({"a": 1})
        log.numbers(0, {"a": 1})
    assert not waiting.exists()
    assert capsys.readouterr().out == ""


def test_without_a_server_work_goes_on_and_the_run_waits(nobody_answers, waiting):
    log = Tracked("alone")
    log.settings({"a": 1})
    told = log.close()
    (path,) = files(waiting)
    assert told.startswith("MLflow not reached (")
    assert told.endswith(f"the run waits in {path}")
    assert json.loads(path.read_text("utf-8"))["state"] == "FINISHED"


def test_a_server_that_is_away_costs_seconds_in_a_long_step(nobody_answers, monkeypatch):
    monkeypatch.setattr(tracking, "SEND_EVERY", -1.0)
    log = Tracked("long")
    tries = 0
    for step in range(50):
        before = log.sent
        log.numbers(step, {"loss": 1.0})
        tries += log.sent != before
    assert tries == 1
    assert len(log.record["metrics"]) == 50


def test_what_waited_is_sent_once_by_the_next_run(mlflow_client, nobody_answers, waiting, tmp_path):
    (tmp_path / "page.html").write_text("page", "utf-8")
    earlier = Tracked("earlier")
    earlier.settings({f"p{i}": i for i in range(120)})
    earlier.numbers(0, {"figure": 7})
    earlier.artefact(tmp_path / "page.html")
    earlier.close()
    nobody_answers()
    assert runs(mlflow_client, earlier.name) == []
    assert Tracked("next").close().endswith(", 1 earlier one(s) too")
    assert files(waiting) == []
    assert not Tracked("last").close().endswith("too")
    (run,) = runs(mlflow_client, earlier.name)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "earlier")
    assert run.info.start_time == earlier.record["begun"]
    assert len(run.data.params) == 120
    assert len(mlflow_client.get_metric_history(run.info.run_id, "figure")) == 1
    assert [f.path for f in mlflow_client.list_artifacts(run.info.run_id)] == ["page.html"]


def test_a_report_joins_the_run_of_its_scan(mlflow_client, tmp_path):
    scan = Tracked("scan")
    scan.numbers(0, {"images": 60})
    scan.close()
    (tmp_path / "report.html").write_text("page", "utf-8")
    report = Tracked("report", scan.name)
    report.artefact(tmp_path / "report.html")
    report.close()
    (run,) = runs(mlflow_client, scan.name)
    assert run.data.metrics == {"images": 60}
    assert [f.path for f in mlflow_client.list_artifacts(run.info.run_id)] == ["report.html"]


def test_a_report_joins_a_scan_that_still_waited(mlflow_client, nobody_answers):
    scan = Tracked("scan")
    scan.numbers(0, {"images": 60})
    scan.close()
    nobody_answers()
    Tracked("report", scan.name).close()
    (run,) = runs(mlflow_client, scan.name)
    assert run.data.metrics == {"images": 60}
    assert run.info.status == "FINISHED"


def begun(monkeypatch, title):
    """A run that was sent while it ran, and then says nothing more."""
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "SEND_EVERY", -1.0)
        log = Tracked(title)
        log.numbers(0, {"loss": 1.0})
    return log


def test_a_run_that_was_killed_is_recorded_as_killed_after_an_hour(
    mlflow_client, monkeypatch, waiting
):
    log = begun(monkeypatch, "killed")
    assert mlflow_client.get_run(log.run_id).info.status == "RUNNING"
    long_ago = time.time() - tracking.DEAD_AFTER - 60
    os.utime(log.path, (long_ago, long_ago))
    Tracked("next").close()
    assert mlflow_client.get_run(log.run_id).info.status == "KILLED"
    assert files(waiting) == []


def test_a_run_that_is_still_running_is_left_alone_and_can_finish(
    mlflow_client, monkeypatch, waiting
):
    log = begun(monkeypatch, "running")
    Tracked("next").close()
    assert mlflow_client.get_run(log.run_id).info.status == "RUNNING"
    assert files(waiting) == [log.path]
    log.numbers(1, {"loss": 0.5})
    log.close()
    assert mlflow_client.get_run(log.run_id).info.status == "FINISHED"
    assert len(mlflow_client.get_metric_history(log.run_id, "loss")) == 2
    assert files(waiting) == []


def test_a_file_that_is_gone_when_the_run_is_sent_is_named(mlflow_client, nobody_answers, tmp_path):
    (tmp_path / "page.html").write_text("page", "utf-8")
    log = Tracked("earlier")
    log.artefact(tmp_path / "page.html")
    log.close()
    (tmp_path / "page.html").unlink()
    nobody_answers()
    Tracked("next").close()
    (run,) = runs(mlflow_client, log.name)
    assert run.info.status == "FINISHED"
    assert run.data.tags[tracking.MISSING].endswith("page.html")


def test_a_record_that_is_none_stops_nobody(mlflow_client, waiting):
    waiting.mkdir()
    (waiting / "0.json").write_text('{"state": "FIN', "utf-8")
    assert Tracked("next").close().startswith("tracked in MLflow")


def test_a_place_to_wait_that_cannot_be_written_stops_nobody(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine", "utf-8")
    monkeypatch.setenv("INSPECT_AI_WAITING", str(tmp_path / "file" / "waiting"))
    assert Tracked("next").close().startswith("MLflow not reached (")


def test_every_run_has_a_name_of_its_own():
    assert uuid.UUID(Tracked("a").name) != uuid.UUID(Tracked("a").name)
