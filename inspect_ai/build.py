"""The workshop: train -> calibrate -> guard -> export, each callable alone.

Each step reads earlier folders and writes one new folder of its own (see steps.py). Weights
are fitted on the good images of split `train`, the rule's own statistics on a part of that
split kept from the weights, thresholds on the good images of split `calibrate`. A model that
the guard doubts (guard.py) is exported by force alone, and its bundle says so.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import guard, progress, steps
from inspect_ai.assembly import new_detector
from inspect_ai.bundle import bundle as bundles
from inspect_ai.calibration.conformal import calibrate as conformal
from inspect_ai.calibration.conformal import require
from inspect_ai.data.manifest import Manifest, require_groups
from inspect_ai.export import export
from inspect_ai.models.fusion import require_curves
from inspect_ai.recipe import Recipe
from inspect_ai.review import curves
from inspect_ai.scores import Float32
from inspect_ai.tracking import Log
from inspect_ai.train import (
    PICTURES,
    WEIGHTS,
    Trained,
    given,
    hold_out,
    inputs,
    load,
    named,
    require_conditions,
    train,
    yardsticks,
)
from inspect_ai.training.history import CURVE

PICTURE = "calibration.png"


def build(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    log: Log,
    device: str = "cpu",
    force: bool = False,
) -> Path:
    """Train, calibrate, examine and export; gives the bundle's folder.

    Writes checkpoint/, calibration/, guard.json and bundle/ under `out`.

    Args:
        force: export a model too that is worse than PCA or chance; the bundle says so.

    Raises:
        WorseThanPCA: it is, and no force; the same call with force goes on from there.
    """
    check(recipe, manifest)
    step = steps.Step("build", out, inputs(recipe, manifest))
    checkpoint = train(recipe, manifest, out / "checkpoint", log, device)
    calibration = calibrate(checkpoint, manifest, out / "calibration")
    passed = None
    if not steps.is_finished(out / "bundle"):  # also one of before there was a guard
        found = guard.examined(checkpoint, calibration, manifest, out / guard.KEPT)
        log.numbers(recipe.steps, guard.numbers(found))
        passed = guard.passed(found, force)
    bundle = export(checkpoint, calibration, manifest, out / "bundle", passed)
    card = bundles.read(bundle).card
    log.numbers(recipe.steps, _figures(card))
    pictures = sorted(p for p in checkpoint.rglob("*.png") if p.parent.name == PICTURES)
    for made in (*sorted(checkpoint.rglob(CURVE)), *pictures, calibration / PICTURE, bundle):
        log.artefact(made)
    if not step.finished:
        step.finish(bundle=str(bundle), image_threshold=card.image_threshold)
    return bundle


def check(recipe: Recipe, manifest: Manifest) -> None:
    """Refuses, before any work, what would fail after training.

    Raises:
        TooFewGoodImages: the calibrate split cannot support the promise.
        MissingData, BadSettings: the train split or the model's settings do not fit.
    """
    require_groups(manifest)
    for member in recipe.members or (recipe,):
        hold_out(manifest.good("train"), member)
    joining, rows = yardsticks(recipe, manifest)
    if recipe.members:
        require_curves(len(joining))
    require(len(rows), recipe.false_alarm_rate, recipe.confidence)
    new_detector(recipe, manifest.spec, manifest.root)
    require_conditions(recipe, manifest)


def calibrate(
    checkpoint: Path,
    manifest: Manifest,
    out: Path,
    false_alarm_rate: float | None = None,
    confidence: float | None = None,
) -> Path:
    """Scores the good images of split `calibrate` and sets the threshold.

    Args:
        false_alarm_rate, confidence: other than the run file's.

    Raises:
        TooFewGoodImages: the split cannot support the promise.
    """
    trained = load(checkpoint)
    rate = trained.recipe.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
    sure = trained.recipe.confidence if confidence is None else confidence
    _, rows = yardsticks(trained.recipe, manifest)
    require(len(rows), rate, sure)  # before the folder is taken, so that the advice can be followed
    given = {"weights": steps.sha256(checkpoint / WEIGHTS), "promise": [rate, sure]}
    step = steps.Step("calibrate", out, given | named(manifest, trained.recipe.condition))
    if step.finished:
        return out
    with steps.disk(out):
        scores = _scores(trained, rows, manifest)
        kept = conformal(scores, rate, sure)
        table = rows[["image_id", "image_path", "group"]].assign(pred_score=scores)
        table.to_parquet(out / "calibration.parquet", index=False)
        fields = {
            "false_alarm_rate": rate,
            "confidence": sure,
            "image_threshold": kept.threshold,
            "rank_from_the_top": kept.rank,
            "images": len(scores),
            "groups": int(rows["group"].nunique()),
            "promise": kept.promise,
        }
        curves.good_scores(kept, out / PICTURE)
        steps.write_json(out / "calibration.json", fields)
        step.finish(**fields)
    return out


def _scores(trained: Trained, rows: pd.DataFrame, manifest: Manifest) -> Float32:
    scores, done = [], 0
    with progress.bar("calibrate") as bar:
        for pixels, condition in given(trained.recipe, rows, manifest):
            scores.append(trained.detector.score(pixels, condition).pred_score)
            done += len(pixels)
            bar(done, len(rows))
    return np.concatenate(scores)


def _figures(card: bundles.Card) -> dict[str, float]:
    return {
        "image_threshold": card.image_threshold,
        "pixel_threshold": card.pixel_threshold,
        "calibration_images": float(card.calibration_images),
        "parity_score_difference": card.parity.largest_score_difference,
    }
