"""The command that watches scans for drift. It never loads torch."""

from pathlib import Path
from typing import Annotated

import typer

ALARM = 4  # exit code of --fail-on-alarm


def monitor(
    scans: Annotated[list[Path], typer.Argument(help="Folders that scan wrote.")],
    state: Annotated[Path, typer.Option(help="Folder that remembers; new at first.")],
    delta: Annotated[
        float | None, typer.Option(help="Chance that a stream ever alarms in vain; 0.05 at first.")
    ] = None,
    run_length: Annotated[
        float | None, typer.Option(help="Images between false quick alarms; 10000 at first.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Column that keeps streams apart; tool and product.")
    ] = None,
    fail_on_alarm: Annotated[
        bool,
        typer.Option("--fail-on-alarm", help="End with exit code 4 where a change is certain."),
    ] = False,
) -> None:
    """Say whether scores or inputs changed since calibration; remembers between calls."""
    from inspect_ai.watching import monitor as room
    from inspect_ai.watching import output
    from inspect_ai.watching.intake import arrivals
    from inspect_ai.watching.memory import Watch

    given = {"delta": delta, "run_length": run_length, "by": tuple(by) if by else None}
    asked = Watch.checked({k: v for k, v in given.items() if v is not None}, "monitor")
    found = [arrivals(scan) for scan in scans]
    told = output.write(state, room.take_in(found, state, asked))
    for line in output.lines(told):
        typer.echo(line)
    left_out = sum(one.left_out for one in found)
    if left_out:
        note = f"note: {left_out:,} image(s) of these scans are the bundle's own and were left out"
        typer.echo(note, err=True)
    if not told:
        typer.echo("nothing to watch: no new image in these scans")
        return
    for line in output.proposals(told, found):
        typer.echo("proposed, where the new scores are of good images; a person accepts it:")
        typer.echo(f"  {line}")
    typer.echo(f"drift: {state / output.PLOT} and {state / output.NUMBERS}")
    if fail_on_alarm and any(judgement.alarm for _, judgement in told):
        raise typer.Exit(ALARM)
