"""export: checkpoint + calibration -> bundle, if ONNX Runtime gives torch's verdicts."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import parity as gate
from inspect_ai import progress, steps
from inspect_ai.bundle import bundle as bundles
from inspect_ai.calibration.conformal import Calibration
from inspect_ai.data import images
from inspect_ai.data.manifest import Manifest
from inspect_ai.errors import ParityFailed
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
    steps.read_record(calibration, "calibrate")
    given = {f: steps.sha256(p) for f, p in _parts(checkpoint, calibration).items()}
    trained = load(checkpoint)
    step = steps.Step("export", out, given | named(manifest, trained.recipe.condition))
    if step.finished:
        return out
    promise = json.loads((calibration / "calibration.json").read_text(encoding="utf-8"))
    rows = pd.read_parquet(calibration / "calibration.parquet")
    rate, sure = promise["false_alarm_rate"], promise["confidence"]
    with steps.disk(out):
        compared, edge, cases = _through_the_gate(trained, rows, manifest, out / bundles.MODEL)
        kept, scores, peaks = gate.measured(rows, compared, rate, sure)
        ours = Calibration(np.sort(compared.torch_scores), rate, sure)
        try:
            gate.check(compared, edge, ours, scores)
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
            score_spread=float(np.std(scores.good_scores)),
            verdicts_flipped=0,
        )
        card = _card(trained, manifest, (scores, peaks), parity, out)
        card = card.model_copy(update={"guard": guard})
        steps.write_json(out / bundles.CARD, card.model_dump(mode="json"))
        step.finish()
    bundles.read(out)  # what was written is what a scan will accept
    return out


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
        compared = gate.compare(counted, trained.detector.score, theirs)
    cases, classes = gate.edge_cases(trained.spec.image, few), trained.detector.classes
    told = [(case, np.arange(len(case)) % classes if classes else None) for case in cases.values()]
    return compared, gate.compare(told, trained.detector.score, theirs), list(cases)


def _counted(batches: Iterator[Given], total: int, bar: progress.Report) -> Iterator[Given]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch[0])
        bar(done, total)


def _card(
    trained: Trained,
    manifest: Manifest,
    yardsticks: tuple[Calibration, Calibration],
    parity: bundles.Parity,
    out: Path,
) -> bundles.Card:
    scores, peaks = yardsticks
    rate, sure, spec = scores.false_alarm_rate, scores.confidence, trained.spec
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
        false_alarm_rate=rate,
        confidence=sure,
        image_threshold=scores.threshold,
        pixel_threshold=peaks.threshold,
        promise=scores.promise,
        calibration_images=parity.images,
        thresholds_hash=bundles.thresholds_hash(rate, sure, scores.threshold, peaks.threshold),
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
