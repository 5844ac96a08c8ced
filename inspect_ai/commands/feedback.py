"""Commands that bring reviewers' verdicts back: recalibrate, suspects."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from inspect_ai.commands.options import Out, Root, workshop


class Counted(StrEnum):
    """What flagged images without a decision count as."""

    good = "good"
    defect = "defect"


def recalibrate(
    bundle: Annotated[Path, typer.Argument(help="Folder that export or build wrote.")],
    scans: Annotated[list[Path], typer.Argument(help="Finished scans by this bundle.")],
    out: Out,
    verdicts: Annotated[
        Path | None, typer.Option(help="Table: image_id, verdict, reviewer, decided_at.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="Name of who accepts the proposal; makes it a bundle.")
    ] = None,
    undecided: Annotated[
        Counted | None, typer.Option(help="What flagged images nobody decided count as.")
    ] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Another rate than the bundle's.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Another confidence than the bundle's.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Leave the good images of before out: after a change.")
    ] = False,
    root: Root = None,
) -> None:
    """Propose a threshold from reviewed scans; with --accept NAME, write the new bundle."""
    from inspect_ai import progress
    from inspect_ai import recalibrate as step

    if accept is not None:
        with workshop():
            import onnx  # noqa: F401  # asked for before an hour of scoring, not after
    given = {"false_alarm_rate": false_alarm_rate, "confidence": confidence}
    asked = step.Asked(
        bundle=bundle,
        scans=scans,
        verdicts=verdicts,
        undecided=undecided.value if undecided else None,
        changed={name: value for name, value in given.items() if value is not None},
        alone=alone,
        root=root,
    )
    with progress.bar("score again") as bar:
        proposal = step.recalibrate(asked, out, accept, bar)
    for line in proposal.words():
        typer.echo(line)
    typer.echo(f"picture: {out / step.PICTURE}")
    if accept is None:
        typer.echo(
            f"proposal: {out}; nothing was changed. To accept it: the same with --accept NAME"
        )
    else:
        typer.echo(f"bundle: {out}")


def suspects(
    checkpoint: Annotated[Path, typer.Argument(help="Folder that train wrote.")],
    out: Annotated[Path, typer.Option(help="New CSV file: a table of verdicts to fill in.")],
    count: Annotated[
        int, typer.Option(min=1, help="Images to list at least, the oddest first.")
    ] = 20,
    verdicts: Annotated[
        Path | None, typer.Option(help="Verdicts on some of them: count what was found.")
    ] = None,
    root: Root = None,
) -> None:
    """List training images that stick out of the good ones, for a reviewer to decide."""
    with workshop():
        from inspect_ai import suspects as step

    for line in step.listed(checkpoint, out, count, verdicts, root):
        typer.echo(line)
    typer.echo(f"suspects: {out}")
