"""The command that lets a model draw, and says how good its images are."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from inspect_ai.commands.options import Out, Root, Track, tracked, workshop


def sample(
    run: Annotated[Path, typer.Argument(help="Folder that build or train wrote.")],
    out: Out,
    count: Annotated[int, typer.Option(help="Images to draw, 8 or more.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    root: Root = None,
    features: Annotated[
        Path | None, typer.Option(help="ONNX net to measure on, instead of random convolutions.")
    ] = None,
    track: Track = True,
) -> None:
    """Draw images from a trained model, and measure how near they are to good ones."""
    with workshop():
        from inspect_ai.judging import sample as step
        from inspect_ai.judging.compare import Figure, table
        from inspect_ai.steps import is_finished

    known = is_finished(out)
    made = step.sample(run, out, step.Asked(count, seed, features), root)
    fields = json.loads((made / step.FIGURES).read_text(encoding="utf-8"))
    figures = [Figure(name, **values) for name, values in fields["figures"].items()]
    typer.echo(table(figures))
    typer.echo(
        f"{fields['samples']:,} samples against {fields['held_out']:,} held-out good images; good: "
        f"training images against them ({fields['training']:,} were compared with)"
    )
    with tracked(f"sample {run.name}", track and not known) as log:
        log.settings({"run": run, "count": count, "seed": seed, "features": fields["feature_net"]})
        log.numbers(0, {_slug(f.name): f.samples for f in figures if f.samples is not None})
        log.numbers(0, {f"good_{_slug(f.name)}": f.good for f in figures if f.good is not None})
        log.artefact(made / step.SHEET)
        log.artefact(made / step.FIGURES)
    typer.echo(f"pictures: {made / step.SHEET}")
    typer.echo(f"samples: {made}")


def _slug(name: str) -> str:
    """A figure's name as MLflow takes it."""
    return re.sub(r"\W+", "_", name).lower()
