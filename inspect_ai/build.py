"""The workshop: train -> calibrate -> guard -> export, each callable alone.

Each step reads earlier folders and writes one new folder of its own (see steps.py). Weights
are fitted on the good images of split `train`, the rule's own statistics on a part of that
split kept from the weights, thresholds on the good images of split `calibrate`. A model that
the guard doubts (guard.py) is exported by force alone, and its bundle says so.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import guard, progress, steps
from inspect_ai.assembly import new_detector
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle import thresholds
from inspect_ai.calibration.groups import ALL, demand
from inspect_ai.calibration.lots import yardstick
from inspect_ai.calibration.promise import Promise
from inspect_ai.calibration.rows import noted, table
from inspect_ai.data.manifest import Manifest, require_groups
from inspect_ai.errors import InspectError
from inspect_ai.export import export
from inspect_ai.models.fusion import require_curves
from inspect_ai.recipe import Recipe
from inspect_ai.review import curves
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
    demand(rows, recipe.promise)
    new_detector(recipe, manifest.spec, manifest.root)
    require_conditions(recipe, manifest)


def calibrate(
    checkpoint: Path,
    manifest: Manifest,
    out: Path,
    changed: Mapping[str, object] | None = None,
) -> Path:
    """Scores the good images of split `calibrate` and sets the thresholds.

    Args:
        changed: fields of the promise that are to be other than the run file's.

    Raises:
        BadSettings: a field has an impossible value.
        TooFewGoodImages: the split cannot support the promise.
        BadFit: a tail was asked for and does not fit.
        MissingData: a column of the promise's groups is not there.
    """
    trained = load(checkpoint)
    asked = trained.recipe.promise.model_dump(mode="json") | dict(changed or {})
    promise = Promise.checked(asked, "the promise")
    _, rows = yardsticks(trained.recipe, manifest)
    demand(rows, promise)  # before the folder is taken, so that the advice can be followed
    given = {"weights": steps.sha256(checkpoint / WEIGHTS), "promise": asked}
    step = steps.Step("calibrate", out, given | named(manifest, trained.recipe.condition))
    if step.finished:
        return out
    with steps.disk(out):
        kept = table(rows, _noted(trained, rows, manifest), promise.groups)
        try:
            found = thresholds.derive(kept, promise)
        except InspectError:
            shutil.rmtree(out)  # so that the advice can be followed in the same place
            raise
        kept.to_parquet(out / bundles.SCORES, index=False)
        kept_to = found.scores.all.false_alarm_rate, promise.confidence, promise.unit
        whole = yardstick(kept, "pred_score", *kept_to)
        fields = found.fields() | {
            "promised": asked,
            "weights": given["weights"],
            "rank_from_the_top": whole.rank,
            # what all good images support by themselves, without groups or a tail: for the guard
            "supported_rate": whole.false_alarm_rate,
            "supported_threshold": whole.threshold,
            "levels": {name: level.model_dump() for name, level in found.levels.items()},
            "tail": found.tail and found.tail.model_dump(),
        }
        scores = kept["pred_score"].to_numpy(np.float32)
        level = found.levels[ALL]
        curves.good_scores(scores, level.image_threshold, level.promise, out / PICTURE)
        steps.write_json(out / "calibration.json", fields)
        step.finish(**fields)
    return out


def _noted(trained: Trained, rows: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    found, done = [], 0
    with progress.bar("calibrate") as bar:
        for pixels, condition in given(trained.recipe, rows, manifest):
            found.append(
                noted(pixels, trained.detector.score(pixels, condition), manifest.spec.image)
            )
            done += len(pixels)
            bar(done, len(rows))
    return pd.concat(found, ignore_index=True)


def _figures(card: bundles.Card) -> dict[str, float]:
    return {
        "image_threshold": card.image_threshold,
        "pixel_threshold": card.pixel_threshold,
        "calibration_images": float(card.calibration_images),
        "calibration_lots": float(card.lots or 0),
        "calibration_images_worth": card.worth or 0.0,
        "parity_score_difference": card.parity.largest_score_difference,
    }
