"""Commands for looking around: specs, simulate, demo, doctor."""

import platform
import shutil
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_ai import __version__
from inspect_ai.commands.options import Out, Root, made_manifest, workshop
from inspect_ai.errors import LeakyData, MissingData

if TYPE_CHECKING:
    from inspect_ai.data.manifest import Manifest

specs = typer.Typer(no_args_is_help=True, help="Look at data specs.")
simulate = typer.Typer(no_args_is_help=True, help="Make simulated wafers with planted defects.")
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "opencv-python", "pandas", "mlflow")

Lots = Annotated[int, typer.Option(min=1, help="Lots.")]
Wafers = Annotated[int, typer.Option(min=1, max=25, help="Wafers in a lot.")]
FirstLot = Annotated[int, typer.Option(min=1, help="Number of the first lot.")]
DefectShare = Annotated[float, typer.Option(min=0, max=1, help="Share with a planted defect.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed makes the same set.")]


@specs.command("check")
def check_spec(
    file: Annotated[Path, typer.Argument(help="Data spec, as in data_specs.")], root: Root = None
) -> None:
    """Read every image of a spec: counts, sizes, depths, duplicates, leaks, unreadable files."""
    from inspect_ai.data.manifest import require_groups

    manifest = made_manifest(file, root)
    _say_counts(manifest)
    _say_pixels(manifest)
    typer.echo(f"spec hash {manifest.spec.hash()[:16]}, root {manifest.root}")
    require_groups(manifest)
    if not len(manifest.good("train")):
        raise MissingData(
            f"No readable good image in split 'train' of '{manifest.spec.name}': nothing can be "
            "trained. Correct [image] or [label] in the spec, or the images."
        )


@simulate.command("maps")
def simulate_maps(
    out: Out,
    lots: Lots = 40,
    first_lot: FirstLot = 1,
    wafers: Wafers = 25,
    defect_share: DefectShare = 0.1,
    seed: Seed = 0,
) -> None:
    """Wafer bin maps with WM-811K's patterns."""
    from inspect_ai import progress
    from inspect_ai.data.simulate import write
    from inspect_ai.data.simulate_maps import MapSettings

    fields = {"lots": lots, "first_lot": first_lot, "wafers_per_lot": wafers}
    more = {"defect_share": defect_share, "seed": seed}
    settings = MapSettings.checked(fields | more, "simulate maps")
    with progress.bar("simulate") as bar:
        typer.echo(f"simulated: {write(settings, out, bar)}")


@simulate.command("dies")
def simulate_dies(
    out: Out,
    lots: Lots = 6,
    first_lot: FirstLot = 1,
    wafers: Wafers = 5,
    dies: Annotated[int, typer.Option(min=1, help="Dies of a wafer.")] = 20,
    side: Annotated[int, typer.Option(min=32, help="Pixels.")] = 128,
    depth: Annotated[int, typer.Option(help="Bits, 8 or 16.")] = 8,
    defect_share: DefectShare = 0.1,
    seed: Seed = 0,
) -> None:
    """Die images with six kinds of defect and their masks."""
    from inspect_ai import progress
    from inspect_ai.data.simulate import write
    from inspect_ai.data.simulate_dies import DieSettings

    fields = {"lots": lots, "first_lot": first_lot, "wafers_per_lot": wafers}
    image = {"dies_per_wafer": dies, "side": side, "depth": depth}
    more = {"defect_share": defect_share, "seed": seed}
    settings = DieSettings.checked({**fields, **image, **more}, "simulate dies")
    with progress.bar("simulate") as bar:
        typer.echo(f"simulated: {write(settings, out, bar)}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("artefacts/demo"),
) -> None:
    """Simulate, train, scan and report, for wafer maps and for die images."""
    with workshop():
        from inspect_ai.demo import run

    for line in run(out):
        typer.echo(line)


def doctor() -> None:
    """Say what this machine has: versions, devices, MLflow, disk."""
    import os

    from inspect_ai.bundle import runtime

    typer.echo(f"inspect-ai-wafer {__version__}, Python {platform.python_version()}")
    for name in PACKAGES:
        typer.echo(f"  {name:16} {_version(name)}")
    typer.echo(
        f"cores {os.cpu_count()}, free disk {shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB"
    )
    typer.echo(
        f"NVIDIA driver: {'found' if runtime.has_driver() else 'none, scans run on the CPU'}"
    )
    typer.echo(f"ONNX Runtime: {runtime.check_cuda()}")
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd() / 'mlflow.db'} (default)")
    typer.echo(f"MLflow: {uri}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _say_counts(manifest: "Manifest") -> None:
    from inspect_ai.data import manifest as manifests

    table = manifest.table
    sizes = table["group"].value_counts()
    typer.echo(
        f"{manifest.spec.name}: {len(table):,} images in {len(sizes):,} groups of {sizes.min():,} to "
        f"{sizes.max():,} (median {sizes.median():g}; the largest: {sizes.index[0]})"
    )
    kinds = table["gt_label"].map({0: "good", 1: "defect"}).fillna("unknown")
    for split, rows in table.groupby(table["split"].fillna("unused")):
        found = kinds[rows.index].value_counts()
        parts = ", ".join(f"{n:,} {kind}" for kind, n in found.items())
        typer.echo(f"  {split:10} {parts}, {rows['group'].nunique():,} groups")
    labels = table["label"].fillna("(none)").value_counts()
    typer.echo("labels: " + ", ".join(f"{name} {n:,}" for name, n in labels.items()))
    typer.echo(f"duplicates: {manifests.copies(table):,} images repeat the content of another")
    try:
        manifests.check_leaks(table)
        typer.echo("leaks: none, no group and no content stands in two splits")
    except LeakyData as error:
        typer.echo(f"leaks: {error}")


def _say_pixels(manifest: "Manifest") -> None:
    from inspect_ai.data import layouts
    from inspect_ai.errors import BadImages

    read = layouts.reader(manifest.spec, manifest.root)
    sizes: Counter[str] = Counter()
    bad: list[str] = []
    for path in manifest.table["image_path"]:
        try:
            image = read(path)
            sizes[f"{image.shape[1]} x {image.shape[2]}"] += 1
        except BadImages as error:
            bad.append(str(error))
    rule = manifest.spec.image
    shown = ", ".join(f"{size} ({n:,})" for size, n in sizes.most_common(5))
    more = f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
    typer.echo(
        f"pixels: {rule.channels} channel(s) of {rule.depth} bits; sizes {shown or 'none'}{more}"
    )
    typer.echo(f"unreadable or out of spec: {len(bad):,}")
    for reason in bad[:10]:
        typer.echo(f"  {reason}")
