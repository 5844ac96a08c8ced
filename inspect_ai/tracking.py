"""MLflow behind a small Log; the only import of mlflow.

A run is written down first, in a small file under `.inspect_ai/waiting`, and sent from there.
When the server is down nothing stops: the file waits, and the next run sends it. MLflow records
what the folders hold and is never read back to decide anything.
"""

import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from typing_extensions import override

from inspect_ai import steps
from inspect_ai.bundle import bundle as bundles
from inspect_ai.errors import NotInstalled

EXPERIMENT = "inspect-ai"
KEY = "inspect_ai.key"  # a tag by which a scan's report finds the scan's run
MISSING = "inspect_ai.missing"  # a tag that names an artefact that was gone when it was sent
ALIAS = "candidate"  # of the newest registered bundle; a person promotes it further
SEND_EVERY = 30.0  # seconds between two sendings of a running step
DEAD_AFTER = 3600.0  # seconds without a word from a running step: it was killed
WAITING = Path(".inspect_ai") / "waiting"


class Log(Protocol):
    """Where a step reports to."""

    def settings(self, fields: Mapping[str, Any]) -> None:
        """What the step was given; nested tables are flattened."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Figures at one step."""

    def artefact(self, path: Path) -> None:
        """A file or folder the step made; a bundle is registered too."""

    def picture(self, step: int, path: Path) -> None:
        """A PNG of one step, named for what it shows: `samples-0003.png` shows samples."""


class Nothing(Log):
    """A log that keeps nothing."""

    @override
    def settings(self, fields: Mapping[str, Any]) -> None:
        return

    @override
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        return

    @override
    def artefact(self, path: Path) -> None:
        return

    @override
    def picture(self, step: int, path: Path) -> None:
        return


class Tracked(Log):
    """A log that goes to MLflow, now or when it can be reached."""

    def __init__(self, title: str, key: str | None = None) -> None:
        """Begins a run, or goes on with the one that was called `key`."""
        self.name = key or uuid.uuid4().hex
        self.record: dict[str, Any] = {
            "title": title,
            "key": self.name,
            "run_id": None,
            "begun": int(time.time() * 1000),
            "params": {},
            "metrics": [],
            "artefacts": [],
            "pictures": [],
            "state": "RUNNING",
        }
        folder = Path(os.environ.get("INSPECT_AI_WAITING", WAITING))
        self.path = folder / f"{time.time_ns()}-{os.getpid()}.json"
        self.sent = time.monotonic()
        self.trouble: str | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run, once it was reached."""
        found: str | None = self.record["run_id"]
        return found

    @override
    def settings(self, fields: Mapping[str, Any]) -> None:
        self.record["params"] |= _flat(fields)

    @override
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        # as text: strict JSON has no NaN, and a figure that is none must not stop the work
        self.record["metrics"] += [[k, str(float(v)), now, step] for k, v in values.items()]
        if time.monotonic() - self.sent > SEND_EVERY and not self.trouble:
            self._send()

    @override
    def artefact(self, path: Path) -> None:
        self.record["artefacts"].append(str(path.resolve()))

    @override
    def picture(self, step: int, path: Path) -> None:
        self.record["pictures"].append([str(path.resolve()), step])

    def close(self, finished: bool = True) -> str:
        """Sends what is left, and what earlier runs left waiting; says how it went."""
        self.record["state"] = "FINISHED" if finished else "FAILED"
        self._send()
        waiting = 0 if self.trouble else send_waiting(self.path.parent)
        if self.trouble:
            kept = f"the run waits in {self.path}" if self.path.is_file() else "the run is not kept"
            return f"MLflow not reached ({self.trouble}); {kept}"
        earlier = f", {waiting} earlier one(s) too" if waiting else ""
        return f"tracked in MLflow, run {self.run_id}{earlier}"

    def _send(self) -> None:
        self.sent = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.trouble = _deliver(self.record, self.path)
        except OSError as error:  # a full or forbidden disk
            self.trouble = str(error)


def send_waiting(folder: Path) -> int:
    """Sends finished runs that wait in a folder; gives how many went."""
    sent = 0
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            silent = time.time() - path.stat().st_mtime
        except (OSError, ValueError):  # sent by another process just now; or no record
            continue
        if record["state"] == "RUNNING":
            if silent < DEAD_AFTER:
                continue
            record["state"] = "KILLED"
        sent += _deliver(record, path) is None
    return sent


def _deliver(record: dict[str, Any], path: Path) -> str | None:
    """Sends a record and drops its file; gives what stood in the way, and keeps the file."""
    steps.write_json(path, record)
    try:
        _send_record(record)
    except Exception as error:  # whatever a server or its client does, work goes on
        steps.write_json(path, record)  # what did arrive is not sent twice
        lines = str(error).splitlines() or [type(error).__name__]
        return lines[0][:200]
    if record["state"] == "RUNNING":
        steps.write_json(path, record)
    else:
        path.unlink(missing_ok=True)
    return None


def _send_record(record: dict[str, Any]) -> None:
    """Sends all that is new, and empties what was sent."""
    mlflow = _mlflow()
    from mlflow.entities import Metric, Param

    client = mlflow.MlflowClient()
    if record["run_id"] is None:
        record["run_id"] = _found_or_new(client, record)
    run_id = record["run_id"]
    while record["params"]:  # MLflow takes 100 params or 1,000 metrics at a time
        names = list(record["params"])[:100]
        client.log_batch(run_id, params=[Param(k, record["params"][k]) for k in names])
        for name in names:
            del record["params"][name]
    while record["metrics"]:
        some = record["metrics"][:1000]
        client.log_batch(run_id, metrics=[Metric(k, float(v), t, s) for k, v, t, s in some])
        del record["metrics"][:1000]
    while record["artefacts"]:
        _send_artefact(mlflow, client, run_id, Path(record["artefacts"][0]))
        del record["artefacts"][0]
    while pictures := record.get("pictures"):  # an older record that waits has none
        _send_picture(client, run_id, Path(pictures[0][0]), pictures[0][1])
        del pictures[0]
    if record["state"] != "RUNNING":
        client.set_terminated(run_id, record["state"])


def _found_or_new(client: Any, record: dict[str, Any]) -> str:
    """The run that carries this record's key; made where there is none."""
    experiment = _experiment(client)
    found = client.search_runs([experiment], f"tags.`{KEY}` = '{record['key']}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {KEY: record["key"]}
    return str(client.create_run(experiment, record["begun"], tags, record["title"]).info.run_id)


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # a dead server must cost seconds, not the minutes of MLflow's own patience
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import logging

    import mlflow

    for name in ("mlflow", "alembic"):  # table migrations are no news to a user
        logging.getLogger(name).setLevel(logging.WARNING)

    return mlflow


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    experiment_id: str = found.experiment_id if found else client.create_experiment(name)
    return experiment_id


def _send_picture(client: Any, run_id: str, path: Path, step: int) -> None:
    """Sends a PNG as MLflow's image of a step, which its page plays through."""
    picture = cv2.imread(str(path)) if path.exists() else None
    if picture is None:
        client.set_tag(run_id, MISSING, str(path))
    else:
        shown = np.ascontiguousarray(picture[..., ::-1])
        client.log_image(run_id, shown, key=path.stem.split("-")[0], step=step)


def _send_artefact(mlflow: Any, client: Any, run_id: str, path: Path) -> None:
    if not path.exists():  # removed while the record waited
        client.set_tag(run_id, MISSING, str(path))
    elif (path / bundles.CARD).is_file():
        client.log_artifacts(run_id, str(path), "bundle")
        _register(mlflow, client, run_id, path)
    elif path.is_dir():
        client.log_artifacts(run_id, str(path), path.name)
    else:
        client.log_artifact(run_id, str(path))


def _register(mlflow: Any, client: Any, run_id: str, folder: Path) -> None:
    """Registers a bundle as the newest version of its data set's model."""
    try:
        import onnx
    except ImportError:
        raise NotInstalled("Registering a bundle needs onnx: pip install '.[train]'") from None
    bundle = bundles.read(folder)
    name = f"inspect-ai-{bundle.card.name}"
    with mlflow.start_run(run_id=run_id, nested=True):  # the caller may have a run open
        logged = mlflow.onnx.log_model(
            onnx.load(bundle.model),
            name="model",
            signature=_signature(bundle),
            pip_requirements=["inspect-ai-wafer"],
            registered_model_name=name,
            save_as_external_data=False,
        )
    version = logged.registered_model_version
    client.log_model_artifacts(logged.model_id, str(folder))
    client.set_model_version_tag(name, version, "bundle_hash", bundle.hash)
    client.set_model_version_tag(name, version, "promise", bundle.card.promise)
    client.set_registered_model_alias(name, ALIAS, version)


def _signature(bundle: bundles.Bundle) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    rule = bundle.card.image
    single = np.dtype(np.float32)
    pixels = TensorSpec(np.dtype(rule.dtype), (-1, rule.channels, -1, -1), "input")
    outputs = [
        TensorSpec(single, (-1,), "pred_score"),
        TensorSpec(single, (-1, -1, -1), "anomaly_map"),
        TensorSpec(single, (-1, rule.channels, -1, -1), "expected"),
    ]
    return ModelSignature(inputs=Schema([pixels]), outputs=Schema([*outputs]))


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1}} to {"a.b": "1"}; MLflow cuts values at 6,000 characters."""
    flat: dict[str, str] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:6000]
    return flat
