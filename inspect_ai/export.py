"""export: checkpoint + calibration -> bundle, if ONNX Runtime gives torch's verdicts."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import parity as gate
from inspect_ai import progress, steps
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle import thresholds
from inspect_ai.bundle.bundle import SCORES
from inspect_ai.bundle.thresholds import Thresholds
from inspect_ai.calibration.promise import Promise
from inspect_ai.calibration.rows import noted, table
from inspect_ai.data import images
from inspect_ai.data.manifest import Manifest
from inspect_ai.errors import MissingData, ParityFailed
from inspect_ai.train import BATCH, DESCRIPTION, WEIGHTS, Trained, given, load, named
from inspect_ai.training import batches as feed
from inspect_ai.training.detector import Given


def export(
    checkpoint: Path,
    calibration: Path,
    manifest: Manifest,
    out: Path,
    guard: bundles.Guarded | None = None,
) -> Path:
    """Writes the bundle, if ONNX Runtime gives torch's verdicts.

    Args:
        guard: what the guard of build found, for the card; it decides nothing here.

    Raises:
        ParityFailed: it does not; no bundle is written.
    """
    _require_ours(checkpoint, calibration)
    given = {f: steps.sha256(p) for f, p in _parts(checkpoint, calibration).items()}
    trained = load(checkpoint)
    step = steps.Step("export", out, given | named(manifest, trained.recipe.condition))
    if step.finished:
        return out
    rows = pd.read_parquet(calibration / SCORES)
    said = json.loads((calibration / "calibration.json").read_text(encoding="utf-8"))
    promise = Promise.checked(said["promised"], str(calibration))
    with steps.disk(out):
        compared, edge, cases = _through_the_gate(trained, rows, manifest, out / bundles.MODEL)
        kept = table(rows, compared.noted, promise.groups)
        ours, theirs = thresholds.derive(rows, promise), thresholds.derive(kept, promise)
        try:
            gate.check(compared, edge, _judged(rows, ours, theirs))
        except ParityFailed:
            (out / bundles.MODEL).unlink()
            raise
        kept.to_parquet(out / bundles.SCORES, index=False)
        gate.annotate(out / bundles.MODEL, {"calibration": steps.sha256(out / bundles.SCORES)})
        parity = bundles.Parity(
            images=len(rows),
            edge_cases=tuple(cases),
            largest_score_difference=compared.score_difference,
            edge_score_difference=edge.score_difference,
            largest_map_difference=max(compared.map_difference, edge.map_difference),
            score_spread=float(np.std(compared.onnx_scores)),
            verdicts_flipped=0,
        )
        card = _card(trained, manifest, theirs, parity, out)
        card = bundles.bound(card.model_copy(update={"guard": guard}))
        steps.write_json(out / bundles.CARD, card.model_dump(mode="json"))
        step.finish()
    bundles.read(out)  # what was written is what a scan will accept
    return out


def _require_ours(checkpoint: Path, calibration: Path) -> None:
    """Refuses a calibration of other weights, or of before there were lots and groups.

    Raises:
        MissingData: it is one, or no finished calibration.
    """
    record = steps.read_record(calibration, "calibrate")
    if record.get("weights") != steps.sha256(checkpoint / WEIGHTS):
        whose = "an older version" if "weights" not in record else "another checkpoint"
        raise MissingData(
            f"{calibration} is the calibration of {whose}, not of {checkpoint}. Pass the one that "
            f"'inspect-ai calibrate {checkpoint}' wrote, or calibrate again into a new folder: "
            "nothing is trained for it."
        )


def _through_the_gate(
    trained: Trained, rows: pd.DataFrame, manifest: Manifest, path: Path
) -> tuple[gate.Compared, gate.Compared, list[str]]:
    """Exports the graph and scores calibration images and edge cases both ways."""
    # the calibration's table has no columns of the data's own
    full = manifest.good("calibrate").set_index("image_path").loc[rows["image_path"]].reset_index()
    few = next(feed.raw(rows, manifest, 3))
    if len(few) < 3:  # pictures of mixed sizes: a batch of equals
        few = images.stacked([few[0]] * 3)
    gate.to_onnx(trained.detector, few, path)
    theirs = gate.scorer(path)
    with progress.bar("compare with ONNX Runtime") as bar:
        counted = _counted(given(trained.recipe, full, manifest), len(rows), bar)
        note = partial(noted, rule=trained.spec.image)
        compared = gate.compare(counted, trained.detector.score, theirs, note)
    cases, classes = gate.edge_cases(trained.spec.image, few), trained.detector.classes
    told = [(case, np.arange(len(case)) % classes if classes else None) for case in cases.values()]
    return compared, gate.compare(told, trained.detector.score, theirs), list(cases)


def _counted(batches: Iterator[Given], total: int, bar: progress.Report) -> Iterator[Given]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch[0])
        bar(done, total)


def _judged(rows: pd.DataFrame, ours: Thresholds, theirs: Thresholds) -> list[gate.Judged]:
    """Which calibration images each threshold judges."""
    level = ours.scores.level(rows)
    before = ours.scores.thresholds
    return [
        gate.Judged((level == name).to_numpy(bool), before[name], threshold)
        for name, threshold in theirs.scores.thresholds.items()
    ]


def _card(
    trained: Trained,
    manifest: Manifest,
    derived: Thresholds,
    parity: bundles.Parity,
    out: Path,
) -> bundles.Card:
    spec, fields = trained.spec, derived.fields()
    return bundles.Card(
        name=spec.name,
        model=trained.recipe.model["name"],
        rule=trained.recipe.rule,
        recipe=trained.recipe.model_dump(mode="json"),
        recipe_hash=trained.recipe.hash(),
        image=spec.image,
        data_spec=spec,
        data_spec_hash=spec.hash(),
        canvas=_canvas(manifest) if spec.image.kind == "wafer_map" else None,
        condition=trained.recipe.condition,
        **fields,
        thresholds_hash="",
        hashes={f: steps.sha256(out / f) for f in (bundles.MODEL, bundles.SCORES)},
        parity=parity,
        versions=gate.versions(),
        created_at=steps.now(),
    )


def _canvas(manifest: Manifest) -> tuple[int, int]:
    """A canvas that holds every good map of the calibrate split."""
    sides = [b.shape[2:] for b in feed.raw(manifest.good("calibrate"), manifest, BATCH)]
    return max(s[0] for s in sides), max(s[1] for s in sides)


def _parts(checkpoint: Path, calibration: Path) -> dict[str, Path]:
    return {
        "weights": checkpoint / WEIGHTS,
        "description": checkpoint / DESCRIPTION,
        "calibration": calibration / "calibration.json",
    }
