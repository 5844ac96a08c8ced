"""train: a run file and the good images of split `train` -> a detector's weights.

Weights are fitted on most groups of the split; the rule's own statistics on the rest, which no
weight has seen, since residuals of images a model was fitted on are too small; where the run file
asks for it, both without the images that a first fit finds the oddest (feeding.py). The members of a
fusion are trained one after the other, each in a folder of its own; the curves that join them
are fitted on good images of split `calibrate`, of groups that the threshold does not see. So is a
first stage, before the model that learns on its codes.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from inspect_ai import feeding, progress, steps
from inspect_ai.assembly import fused, new_detector, single
from inspect_ai.data import manifest as manifests
from inspect_ai.data.conditions import Condition
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import NoSuchDevice
from inspect_ai.feeding import Dropped
from inspect_ai.models.fusion import Config as Fused
from inspect_ai.preprocess import Preprocess
from inspect_ai.recipe import Recipe
from inspect_ai.telling import glimpse, telling
from inspect_ai.tracking import Log
from inspect_ai.training import batches as feed
from inspect_ai.training.checkpoint import Checkpoints
from inspect_ai.training.collapse import doubts
from inspect_ai.training.descent import Run
from inspect_ai.training.detector import Detector, Given, Model, Single
from inspect_ai.training.history import History

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
MANIFEST, PICTURES, FIRST_STAGE = "manifest.parquet", "pictures", "first_stage"
BATCH = feeding.BATCH
LEARNT_LATER = tuple(f"rule.{name}" for name in ("window", "limit", "centre", "spread"))
GLIMPSES = 20  # pictures of what a generator draws in the course of a training


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint that was read back."""

    detector: Detector
    recipe: Recipe
    spec: DataSpec


def train(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    log: Log,
    device: str = "cpu",
    dropped: Dropped = frozenset(),
) -> Path:
    """Fits a detector on the good images of split `train`; a fusion's curves on some of `calibrate`.

    Args:
        dropped: image_ids that were trimmed, and are not learnt from.

    Raises:
        MissingData: the split has no good image.
        BadImages: a training image breaks the image rule.
    """
    manifests.require_groups(manifest)
    require_conditions(recipe, manifest)
    step = steps.Step("train", out, inputs(recipe, manifest) | feeding.inputs(dropped))
    if step.finished:
        return out
    with steps.disk(out):
        fit = _fuse if recipe.members else _trim if recipe.trim else _fit
        counts = fit(recipe, manifest, out, log, device, dropped)
        told: dict[str, float] = counts.get("told", {})  # type: ignore[assignment]
        step.finish(**counts, notes=[*manifest.notes, *doubts(told)])
    return out


def _trim(
    recipe: Recipe, manifest: Manifest, out: Path, log: Log, device: str, dropped: Dropped
) -> dict[str, object]:
    """A first fit in a folder of its own, and a second one, from scratch, without its oddest images."""
    whole, share = recipe.model_copy(update={"trim": None}), recipe.trim or 0.0
    first = train(whole, manifest, out / feeding.FIRST_FIT, log, device, dropped)
    detector, parts = load(first).detector, hold_out(manifest.good("train"), recipe, dropped)
    scored = ((rows, feeding.scores(detector, given(recipe, rows, manifest))) for rows in parts)
    odd = feeding.trimmed(scored, share, out / feeding.TRIMMED)
    log.numbers(recipe.budget.steps, {"trimmed_images": len(odd)})
    dropped |= frozenset(odd["image_id"])
    require_conditions(recipe, manifest, dropped)
    counts = _fit(recipe, manifest, out, log, device, dropped)
    seconds = float(str(steps.read_record(first, "train")["train_seconds"]))
    seconds = round(seconds + float(str(counts["train_seconds"])), 1)
    return counts | {"trimmed_images": len(odd), "train_seconds": seconds}


def _fit(
    recipe: Recipe, manifest: Manifest, out: Path, log: Log, device: str, dropped: Dropped
) -> dict[str, object]:
    stage, seconds = _first_stage(recipe, manifest, out, log, device, dropped)
    detector = single(recipe, manifest.spec, manifest.root, stage)
    fit_rows, held_rows = hold_out(manifest.good("train"), recipe, dropped)
    history, kept = History(out / "history.jsonl"), Checkpoints(out / "state.safetensors")
    saved = kept.load()
    # a picture an epoch; small sets have hundreds, of which GLIMPSES are kept
    epoch = -(-len(fit_rows) // recipe.budget.batch_size)
    every = max(epoch, -(-recipe.budget.steps // GLIMPSES))
    began = time.monotonic() - (float(saved[1]["seconds"]) if saved else 0.0)
    with progress.bar("train") as bar:

        def report(number: int, losses: Mapping[str, float]) -> None:
            history.add(number, losses)
            if (number + 1) % 50 == 0:
                log.numbers(number + 1, history.recent(50))
            bar(number + 1, recipe.budget.steps)
            if (number + 1) % every == 0:
                glimpse(detector.model, number + 1, out / PICTURES, log)

        run = Run(recipe.budget, report, kept, device)
        with feed.Pool(out / "pool.part") as pool:
            images, budget = feeding.prepared(pool, detector, fit_rows, manifest), recipe.budget
            sizes = feed.sides(images) if images.dtype == np.uint8 else None
            places = recipe.places(fit_rows)
            drawn = feed.Batches(images, budget.batch_size, budget.seed, recipe.turn, sizes, places)
            detector.fit(drawn, lambda: given(recipe, held_rows, manifest), run)
    seconds = round(seconds + time.monotonic() - began, 1)
    told = telling(detector, recipe, held_rows, manifest, out / PICTURES)
    log.numbers(recipe.budget.steps, told)
    _keep(detector, recipe, manifest, out)
    history.draw(out)
    kept.drop()
    counts = {"images": len(fit_rows), "held_out_images": len(held_rows)}
    return {**counts, "train_seconds": seconds, "told": told}


def _first_stage(
    recipe: Recipe, manifest: Manifest, out: Path, log: Log, device: str, dropped: Dropped
) -> tuple[Model | None, float]:
    """The trained first stage of a recipe that has one, and the seconds that took."""
    if recipe.first_stage is None:
        return None, 0.0
    folder = train(recipe.first_stage, manifest, out / FIRST_STAGE, log, device, dropped)
    seconds = float(str(steps.read_record(folder, "train")["train_seconds"]))
    made: Single = load(folder).detector  # type: ignore[assignment]
    return made.model, seconds


def _fuse(
    recipe: Recipe, manifest: Manifest, out: Path, log: Log, device: str, dropped: Dropped
) -> dict[str, object]:
    seconds, members = 0.0, list[Detector]()
    for number, member in enumerate(recipe.members, start=1):
        folder = out / member_folder(number, member)
        train(member, manifest, folder, log, device, dropped)
        seconds += float(str(steps.read_record(folder, "train")["train_seconds"]))
        members.append(load(folder).detector)
    fusion = fused(recipe, members)
    rows, _ = yardsticks(recipe, manifest)
    fusion.fit(feed.raw(rows, manifest, BATCH))
    _keep(fusion, recipe, manifest, out)
    return {"members": len(members), "curve_images": len(rows), "train_seconds": round(seconds, 1)}


def figures(checkpoint: Path) -> list[str]:
    """What the models of a checkpoint said of themselves, in words, and what that warns of."""
    said = list[str]()
    for folder in (checkpoint, *sorted(p.parent for p in checkpoint.glob(f"*/{DESCRIPTION}"))):
        record = steps.read_record(folder, "train")
        told = record.get("told") or {}
        if dropped := record.get("trimmed_images", 0):
            seen = record["images"] + record["held_out_images"]
            said.append(
                f"trimmed: the {dropped} of {seen + dropped} training images oddest at first"
            )
        named = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in told.items())
        said += [f"on held-out good images: {named}"] * bool(named)
        said += [f"warning: {doubt}" for doubt in doubts(told)]
    return said


def member_folder(number: int, member: Recipe) -> str:
    """Where the checkpoint of a fusion keeps that of its n-th member, counted from 1."""
    return f"{number}_{member.model['name']}"


def load(checkpoint: Path) -> Trained:
    """A trained detector.

    Raises:
        MissingData: the folder is not finished work of train.
    """
    steps.read_record(checkpoint, "train")
    fields = json.loads((checkpoint / DESCRIPTION).read_text(encoding="utf-8"))
    recipe = Recipe.checked(fields["recipe"], str(checkpoint / DESCRIPTION))
    spec = DataSpec.checked(fields["data_spec"], str(checkpoint / DESCRIPTION))
    detector = new_detector(recipe, spec, None)
    tensors = load_file(checkpoint / WEIGHTS)
    own = detector.state_dict()  # likelihoods of before these were learnt had no such numbers
    tensors = {k: own[k] for k in own.keys() & set(LEARNT_LATER)} | tensors
    for name, part in detector.named_modules():
        if isinstance(part, Preprocess):
            part.region = tensors[f"{name}.region"]  # of its own size
    detector.load_state_dict(tensors)
    return Trained(detector.eval(), recipe, spec)


def require_conditions(recipe: Recipe, manifest: Manifest, dropped: Dropped = frozenset()) -> None:
    """Refuses images to learn from of which the model could not be told, or values without any.

    Raises:
        MissingData: so it is.
    """
    if recipe.condition is None:
        return
    fit_rows, held_rows = hold_out(manifest.good("train"), recipe, dropped)
    recipe.condition.require_each(fit_rows, "train on")
    recipe.condition.require(held_rows)
    recipe.condition.require_each(manifest.good("calibrate"), "calibrate on")


def hold_out(
    rows: pd.DataFrame, recipe: Recipe, dropped: Dropped = frozenset()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cuts rows by group into those for the weights and those for the rule's statistics."""
    fit, held = feeding.cut(rows, recipe.held_out, recipe.budget.seed, "train")
    return feeding.left(fit, dropped), feeding.left(held, dropped)


def yardsticks(recipe: Recipe, manifest: Manifest) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Good rows of split `calibrate`: for a fusion's curves (none else), for the threshold."""
    rows = manifest.good("calibrate")
    if not recipe.members:
        return rows[:0], rows
    config: Fused = recipe.model_config_()
    rest, first = feeding.cut(rows, config.curve_share, recipe.budget.seed, "calibrate")
    return first, rest


def given(recipe: Recipe, rows: pd.DataFrame, manifest: Manifest) -> Iterator[Given]:
    """Pixels of rows in order, with their conditions where the model is told of one."""
    return feed.told(feed.raw(rows, manifest, BATCH), recipe.places(rows))


def _keep(detector: Detector, recipe: Recipe, manifest: Manifest, out: Path) -> None:
    tensors = {k: v.contiguous() for k, v in detector.state_dict().items()}
    save_file(tensors, out / WEIGHTS)
    manifests.write(manifest, out / MANIFEST)
    description = {
        "recipe": recipe.model_dump(mode="json"),
        "data_spec": manifest.spec.model_dump(mode="json"),
        "root": str(manifest.root),
        "weights": sum(p.numel() for p in detector.parameters()),
    }
    steps.write_json(out / DESCRIPTION, description)


def torch_device(wanted: str) -> str:
    """The device to train on: "auto" takes a GPU that torch sees.

    Raises:
        NoSuchDevice: "cuda" was asked for and torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise NoSuchDevice(
            "--device cuda was asked for, but torch sees no GPU. Install a CUDA build of torch "
            "and a driver, or pass --device cpu."
        )
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def kept_manifest(checkpoint: Path, root: Path | None) -> Manifest:
    """The manifest a checkpoint was trained on, read at the same root or another."""
    steps.read_record(checkpoint, "train")
    fields = json.loads((checkpoint / DESCRIPTION).read_text(encoding="utf-8"))
    spec = DataSpec.checked(fields["data_spec"], str(checkpoint / DESCRIPTION))
    return manifests.read(checkpoint / MANIFEST, spec, spec.located(root or Path(fields["root"])))


def inputs(recipe: Recipe, manifest: Manifest) -> dict[str, object]:
    """What a training run depends on."""
    return {"recipe": recipe.hash(), **named(manifest, recipe.condition)}


def named(manifest: Manifest, condition: Condition | None = None) -> dict[str, object]:
    """What identifies the data: the spec, every image with its split, and its condition."""
    rows = manifest.table[["image_id", "image_path", "split"]]
    content = hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()
    told = {"conditions": condition.hash(manifest.table)} if condition else {}
    return {"spec": manifest.spec.hash(), "images": content, **told}
