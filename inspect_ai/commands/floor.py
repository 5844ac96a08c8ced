"""Commands of the shop floor: scan, report. They never load torch."""

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_ai.commands.options import (
    Compute,
    Device,
    DryRun,
    Out,
    Root,
    Split,
    Track,
    made_manifest,
    say_notes,
    tracked,
)
from inspect_ai.errors import BadSettings, MissingData

if TYPE_CHECKING:
    from inspect_ai.batch.scan import ScanResult
    from inspect_ai.bundle.bundle import Bundle
    from inspect_ai.data.manifest import Manifest

RUN_KEY = "tracking.txt"  # names the scan's run, so that its report joins it


def scan(
    bundle: Annotated[Path, typer.Argument(help="Folder that export or build wrote.")],
    folder: Annotated[Path | None, typer.Argument(help="Plain folder of images.")] = None,
    spec: Annotated[Path | None, typer.Option(help="Data spec, instead of a folder.")] = None,
    root: Root = None,
    split: Annotated[Split, typer.Option(help="Which images of the spec.")] = Split.all,
    out: Out = Path("artefacts/scan"),
    device: Compute = Device.auto,
    threads: Annotated[int, typer.Option(min=0, help="Of ONNX Runtime; 0 takes all cores.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images a call.")] = 64,
    dry_run: DryRun = False,
    track: Track = True,
) -> None:
    """Score a batch of images; started again after a kill, it goes on where it was."""
    from inspect_ai import progress
    from inspect_ai.batch import scan as floor
    from inspect_ai.bundle import bundle as bundles

    made = bundles.read(bundle)
    manifest = _images(made, folder, spec, root, split)
    if dry_run:
        typer.echo(f"dry run: {len(manifest.table):,} images of {manifest.root} would be scored")
        return
    given = floor.Options(device.value, threads, batch)
    with progress.bar("scan") as bar:
        result = floor.scan(made, manifest, out, given, bar)
    _say(result, made, len(manifest.table))
    if track:
        _track(result, made, manifest)
    typer.echo(f"scan: {out}")


def _say(result: "ScanResult", bundle: "Bundle", listed: int) -> None:
    """What a scan found, and what a user should look at."""
    typer.echo(
        f"{result.images:,} scored, {result.flagged:,} flagged "
        f"({result.flagged / max(result.images, 1):.2%}), {result.rejected:,} rejected"
    )
    if result.rejected:
        typer.echo(f"rejected, with reasons: {result.out / 'rejected.parquet'}")
    if result.rejected and not result.images:
        rule = bundle.card.image
        note = f"note: nothing could be scored. The bundle is for {rule.kind}s of {rule.channels} "
        typer.echo(f"{note}channel(s), {rule.depth} bits.", err=True)
    late = listed - result.images - result.rejected
    if late > 0:
        note = f"note: {late:,} image(s) came after this scan had begun and are not in it. "
        typer.echo(note + "Scan them into a new folder with --out.", err=True)
    if bundle.card.guard and bundle.card.guard.forced:
        doubts = " ".join(bundle.card.guard.doubts)
        typer.echo(f"warning: this bundle was exported by force. {doubts}", err=True)


def _track(result: "ScanResult", bundle: "Bundle", manifest: "Manifest") -> None:
    """Records a scan once, however often it was stopped on the way."""
    from inspect_ai import steps

    key, sent = _tracking(result.out)
    if sent:
        return
    with steps.disk(result.out):  # kept first: stopped while it is sent, the run is found again
        (result.out / RUN_KEY).write_text(key, encoding="utf-8")
    with tracked(f"scan {manifest.spec.name}", True, key) as log:
        settings = {"bundle": bundle.folder, "bundle_hash": bundle.hash, "split": manifest.chosen}
        log.settings(settings)
        names = ("images", "flagged", "rejected", "seconds")
        log.numbers(0, {name: float(getattr(result, name)) for name in names})
        log.artefact(result.out / "run.json")
        log.artefact(result.out / "rejected.parquet")
    with steps.disk(result.out):
        (result.out / RUN_KEY).write_text(f"{key} sent", encoding="utf-8")


def report(
    scan: Annotated[Path, typer.Argument(help="Folder that scan wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default SCAN.")] = None,
    track: Track = True,
) -> None:
    """Write report.html and metrics.json of a scan."""
    from inspect_ai.review import report as page
    from inspect_ai.tracking import Tracked

    made = page.render(scan, out)
    known = scan / RUN_KEY
    if track and known.is_file():
        log = Tracked("report", _tracking(scan)[0])
        log.artefact(made)
        log.artefact(made.with_name("metrics.json"))
        typer.echo(log.close())
    typer.echo(f"report: {made}")


def _tracking(out: Path) -> tuple[str, bool]:
    """The key of a scan's run, a new one at first, and whether the run is on its way."""
    path = out / RUN_KEY
    known = path.read_text(encoding="utf-8").split() if path.is_file() else []
    return (known[0] if known else uuid.uuid4().hex), "sent" in known


def _images(
    bundle: "Bundle", folder: Path | None, spec: Path | None, root: Path | None, split: Split
) -> "Manifest":
    """What to scan: a plain folder, or a split of a data spec."""
    from inspect_ai.data import manifest as manifests
    from inspect_ai.data.specs import DataSpec, plain_folder

    if (folder is None) == (spec is None):
        raise BadSettings(
            "A scan needs a folder of images or --spec FILE, one of them. "
            "Try: inspect-ai scan BUNDLE FOLDER"
        )
    if folder is not None and (root is not None or split is not Split.all):
        raise BadSettings("--root and --split go with --spec FILE. A FOLDER is scanned whole.")
    if folder is not None:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "is not there"
            raise MissingData(f"{folder} {what}. Pass an existing folder of images.")
        manifest = manifests.listing(plain_folder(bundle.card.image), folder)
    elif split is Split.all:
        assert spec is not None
        manifest = manifests.listing(DataSpec.from_toml(spec), root)
    else:
        assert spec is not None
        return made_manifest(spec, root).part(split.value)
    say_notes(manifest)
    return manifest
