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
        typer.Option(
            "--fail-on-alarm",
            help="End with exit code 4 where an alarm is open or more is flagged than good explains.",
        ),
    ] = False,
    acknowledge: Annotated[
        str | None, typer.Option(help="Name of who closes the alarms open at these scans' places.")
    ] = None,
) -> None:
    """Say whether scores or inputs changed since calibration; remembers between calls."""
    from inspect_ai.watching import flags, output
    from inspect_ai.watching import monitor as room
    from inspect_ai.watching.intake import arrivals
    from inspect_ai.watching.memory import Watch, load_all

    given = {"delta": delta, "run_length": run_length, "by": tuple(by) if by else None}
    asked = Watch.checked({k: v for k, v in given.items() if v is not None}, "monitor")
    found = [arrivals(scan) for scan in scans]
    before = {output.life(place) for place in load_all(state)} if acknowledge else set()
    places = room.take_in(found, state, asked, acknowledge)
    written = output.write(state, places, {one.run.bundle_hash for one in found})
    compared = flags.compared(found, state, asked)
    if acknowledge:
        _say(output.acknowledged(places, before, acknowledge))
    _say(output.lines(written.told, compared))
    _say(output.open_elsewhere(written.others))
    left_out = sum(one.left_out for one in found)
    if left_out:
        note = f"note: {left_out:,} image(s) of these scans are the bundle's own and were left out"
        typer.echo(note, err=True)
    if not written.told:
        typer.echo("nothing to watch: no new image in these scans")
    for line in output.proposals(written.told):
        typer.echo("proposed, where the new scores are of good images; a person accepts it:")
        typer.echo(f"  {line}")
    if written.told:
        typer.echo(f"drift: {state / output.PLOT} and {state / output.NUMBERS}")
    alarms = [judgement.alarm for _, judgement in (*written.told, *written.others)]
    if fail_on_alarm and (any(alarms) or any(one.more for one in compared)):
        raise typer.Exit(ALARM)


def _say(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line)
