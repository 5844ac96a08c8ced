"""The command that says where a threshold could stand, and what it would cost."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_ai.errors import BadSettings, MissingData

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inspect_ai.calibration.operating_point import Point
    from inspect_ai.review.scanned import Scan

Number = float | None


def operating_point(
    scan: Annotated[Path, typer.Argument(help="Folder that scan wrote.")],
    images_per_hour: Annotated[Number, typer.Option(help="To be inspected.")] = None,
    reviews_per_hour: Annotated[Number, typer.Option(help="That people can look at.")] = None,
    defect_share: Annotated[
        Number, typer.Option(help="Of all images; without it, capacity takes 0.")
    ] = None,
    cost_overkill: Annotated[Number, typer.Option(help="Of a good image flagged.")] = None,
    cost_escape: Annotated[Number, typer.Option(help="Of a defect missed.")] = None,
    escape: Annotated[Number, typer.Option(help="Share of defects that may pass.")] = None,
    confidence: Annotated[float, typer.Option(help="Of the escape.")] = 0.95,
    out: Annotated[Path | None, typer.Option(help="Folder for a plot and the numbers.")] = None,
) -> None:
    """Say which threshold fits a capacity, costs or an escape; changes nothing."""
    from inspect_ai.calibration import operating_point as ways
    from inspect_ai.review import scanned, trade

    _together("--images-per-hour and --reviews-per-hour", images_per_hour, reviews_per_hour)
    _together("--cost-overkill and --cost-escape", cost_overkill, cost_escape)
    read = scanned.read(scan)
    good, defects = trade.scores(read.calibration), trade.labelled(read)
    if not len(good):
        raise MissingData(f"{scan} holds no calibration scores. Finish the scan first.")
    points: list[Point] = []
    if images_per_hour is not None and reviews_per_hour is not None:
        asked = images_per_hour, reviews_per_hour, defect_share or 0.0
        points.append(ways.from_capacity(good, *asked))
    if cost_overkill is not None and cost_escape is not None:
        if defect_share is None:
            raise BadSettings("Costs need the share of defects. Add --defect-share 0.01, say.")
        costs = cost_overkill, cost_escape
        points.append(ways.from_costs(good, defects, costs, defect_share, trade.defect_lots(read)))
    if escape is not None:
        points.append(ways.from_defects(good, defects, escape, confidence))
    _say(read, points)
    if out is not None:
        _write(read, points, out)


def _together(names: str, one: Number, other: Number) -> None:
    if (one is None) != (other is None):
        raise BadSettings(f"{names} go together. Give both, or neither.")


def _say(read: "Scan", points: "Sequence[Point]") -> None:
    """The table at usual rates, and each point in words."""
    from inspect_ai.review import trade, words

    told = trade.numbers(read)
    rows = told["rows"]
    assert isinstance(rows, list)
    typer.echo("overkill  threshold    flagged here  escape (95 % interval)")
    for row in rows:
        low, high = words.share(row["escape_low"]), words.share(row["escape_high"])
        missed = (
            f"{words.share(row['escape'])} ({low} to {high})" if told["defects"] else "not known"
        )
        typer.echo(
            f"{words.share(row['rate']):>8}  {words.number(row['threshold'], 4):<11}  "
            f"{words.count(row['flagged']):>12}  {missed}"
        )
    lots = read.calibration["group"].nunique()
    if lots < len(read.calibration):
        typer.echo(
            f"note: the {len(read.calibration):,} good images are of {lots:,} lot(s). Overkill is "
            "counted by image, so its intervals are too narrow.",
            err=True,
        )
    for point in points:
        typer.echo(f"\nby {point.way}: threshold {point.threshold:.6g}")
        for sentence in point.words:
            typer.echo(f"  {sentence}")
        typer.echo(
            "  To adopt it: inspect-ai calibrate CHECKPOINT --unit image --on-average --no-groups "
            f"--false-alarm-rate {point.false_alarm_rate:.15g} --out NEW"
        )
    run = read.run
    if points and (run.unit != "image" or run.confidence is not None or len(run.levels) > 1):
        typer.echo(
            "note: this bundle promises more (over lots, with confidence, or for groups). With its "
            "own promise at such a rate the threshold is another: leave those options out, and look "
            "at the one that calibrate prints.",
            err=True,
        )


def _write(read: "Scan", points: "Sequence[Point]", out: Path) -> None:
    from inspect_ai import steps
    from inspect_ai.review import trade

    told = trade.numbers(read)
    marks = {point.way: point.threshold for point in points}
    with steps.disk(out):
        out.mkdir(parents=True, exist_ok=True)
        trade.picture(trade.curve(read), marks, out / "operating_point.png")
        points_said = [asdict(point) for point in points]
        fields = {"bundle_hash": read.run.bundle_hash, "points": points_said, "trade": told}
        steps.write_json(out / "operating_point.json", fields)
    typer.echo(f"\nplot: {out / 'operating_point.png'}")
    typer.echo(f"numbers: {out / 'operating_point.json'}")
