"""Commands of the workshop: build, train, calibrate, export, models."""

from pathlib import Path
from typing import Annotated

import typer

from inspect_ai.commands.options import (
    Compute,
    Device,
    DryRun,
    Out,
    Root,
    RunFile,
    Track,
    Unit,
    made_manifest,
    tracked,
    workshop,
)
from inspect_ai.errors import BadSettings

Checkpoint = Annotated[Path, typer.Argument(help="Folder that train wrote.")]


def build(
    run: RunFile,
    out: Out,
    root: Root = None,
    device: Compute = Device.auto,
    dry_run: DryRun = False,
    track: Track = True,
    force: Annotated[
        bool, typer.Option("--force", help="Export a model that is worse than PCA too.")
    ] = False,
) -> None:
    """Train, calibrate and export one run file into a bundle; refuse what PCA does better."""
    with workshop():
        from inspect_ai import build as steps
        from inspect_ai import guard
        from inspect_ai import recipe as recipes
        from inspect_ai.bundle import bundle as bundles
        from inspect_ai.steps import is_finished
        from inspect_ai.train import figures as train_figures
        from inspect_ai.train import torch_device

    recipe = recipes.read(run)
    manifest = made_manifest(recipe.data_spec, root)
    steps.check(recipe, manifest)
    typer.echo(
        f"{run}: {recipe.model['name']} + {recipe.rule}, {recipe.steps:,} steps; good "
        f"images: {len(manifest.good('train')):,} train, {len(manifest.good('calibrate')):,} calibrate"
    )
    if dry_run:
        typer.echo(f"dry run: nothing was written to {out}")
        return
    # finished work is in MLflow already, and a bundle is registered once
    with tracked(f"build {manifest.spec.name}", track and not is_finished(out)) as log:
        log.settings({"run": str(run), **recipe.model_dump(mode="json")})
        bundle = steps.build(recipe, manifest, out, log, torch_device(device.value), force)
    card = bundles.read(bundle).card
    for line in train_figures(out / "checkpoint"):
        typer.echo(line)
    for line in guard.told(card.guard):
        typer.echo(line)
    typer.echo(f"threshold {card.image_threshold:.6g}. {card.promise}")
    _say_calibrated(bundle)
    typer.echo(f"bundle: {bundle}")


def train(
    run: RunFile,
    out: Out,
    root: Root = None,
    device: Compute = Device.auto,
    dry_run: DryRun = False,
) -> None:
    """Fit a detector to the good images of split 'train'."""
    with workshop():
        from inspect_ai import recipe as recipes
        from inspect_ai import train as step
        from inspect_ai.assembly import new_detector
        from inspect_ai.tracking import Nothing

    recipe = recipes.read(run)
    manifest = made_manifest(recipe.data_spec, root)
    new_detector(recipe, manifest.spec, manifest.root)
    step.require_conditions(recipe, manifest)
    if dry_run:
        typer.echo(f"dry run: nothing was written to {out}")
        return
    made = step.train(recipe, manifest, out, Nothing(), step.torch_device(device.value))
    for line in step.figures(made):
        typer.echo(line)
    typer.echo(f"checkpoint: {made}")


def calibrate(
    checkpoint: Checkpoint,
    out: Out,
    root: Root = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of good images that may be flagged.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Promise the rate with this confidence.")
    ] = None,
    on_average: Annotated[
        bool, typer.Option("--on-average", help="Promise it on average, without a confidence.")
    ] = False,
    group: Annotated[
        list[str] | None, typer.Option(help="Column with thresholds of its own, coarse to fine.")
    ] = None,
    no_groups: Annotated[
        bool, typer.Option("--no-groups", help="One threshold for all, whatever the run file says.")
    ] = False,
    pixel_rate: Annotated[
        float | None, typer.Option(help="Share of good pixels that may be marked; 0 for none.")
    ] = None,
    unit: Annotated[
        Unit | None, typer.Option(help="What the promise counts: images, or one a lot.")
    ] = None,
    tail: Annotated[
        bool | None,
        typer.Option("--tail/--no-tail", help="Rates beyond the images, by a fitted tail."),
    ] = None,
) -> None:
    """Set the threshold from the good images of split 'calibrate'."""
    with workshop():
        from inspect_ai import build as steps
        from inspect_ai.steps import read_record
        from inspect_ai.train import kept_manifest

    manifest = kept_manifest(checkpoint, root)
    asked: dict[str, object] = {"false_alarm_rate": false_alarm_rate, "confidence": confidence}
    asked |= {"tail": tail, "unit": unit.value if unit else None}
    given = {name: value for name, value in asked.items() if value is not None}
    if on_average and confidence is not None:
        raise BadSettings("--on-average and --confidence exclude each other. Drop one.")
    given |= {"confidence": None} if on_average else {}
    if group or no_groups:
        given["groups"] = () if no_groups else tuple(group or ())
    if pixel_rate is not None:
        given["pixel_rate"] = pixel_rate or None
    made = steps.calibrate(checkpoint, manifest, out, given)
    typer.echo(read_record(made, "calibrate")["promise"])
    _say_calibrated(made)
    typer.echo(f"calibration: {made}")


def export(
    checkpoint: Checkpoint,
    calibration: Annotated[Path, typer.Argument(help="Folder that calibrate wrote.")],
    out: Out,
    root: Root = None,
) -> None:
    """Write a bundle, if ONNX Runtime gives torch's verdicts."""
    with workshop():
        from inspect_ai import export as step
        from inspect_ai.train import kept_manifest

    made = step.export(checkpoint, calibration, kept_manifest(checkpoint, root), out)
    typer.echo(f"bundle: {made}")


def _say_calibrated(folder: Path) -> None:
    """What the good images are worth, and what to look at among them."""
    from inspect_ai.review import calibrated

    said = calibrated.told(folder)
    for line in said.lines:
        typer.echo(line)
    for warning in said.warnings:
        typer.echo(f"warning: {warning}", err=True)


def models() -> None:
    """Name the models a run file can ask for."""
    with workshop():
        from inspect_ai import models as known

    for name in known.names():
        typer.echo(name)
