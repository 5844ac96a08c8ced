"""What commands share: options, manifests, tracking. Imports nothing heavy by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_ai.errors import NotInstalled

if TYPE_CHECKING:
    from inspect_ai.data.manifest import Manifest
    from inspect_ai.tracking import Nothing, Tracked


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Split(StrEnum):
    """Which images of a data spec."""

    all = "all"
    train = "train"
    calibrate = "calibrate"
    test = "test"


class Unit(StrEnum):
    """What a promise counts."""

    image = "image"
    lot = "lot"
    lot_share = "lot_share"
    lot_maximum = "lot_maximum"


Out = Annotated[Path, typer.Option(help="New folder for what is written.")]
Root = Annotated[Path | None, typer.Option(help="Another copy of the data than the spec's root.")]
RunFile = Annotated[Path, typer.Argument(help="Run file, as in pipelines/runs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, then say what to do.")]
Track = Annotated[bool, typer.Option(help="Record the run in MLflow.")]
Compute = Annotated[Device, typer.Option(help="auto takes a GPU that works; cuda insists on it.")]


def made_manifest(spec_path: Path, root: Path | None) -> "Manifest":
    """The manifest of a data spec, with a bar and its notes."""
    from inspect_ai import progress
    from inspect_ai.data import manifest as manifests
    from inspect_ai.data.specs import DataSpec

    spec = DataSpec.from_toml(spec_path)
    with progress.bar("look at images") as bar:
        manifest = manifests.make(spec, root, bar)
    say_notes(manifest)
    return manifest


def say_notes(manifest: "Manifest") -> None:
    """What a user should see before anything is done."""
    for note in manifest.notes:
        typer.echo(f"note: {note}", err=True)


@contextmanager
def tracked(name: str, wanted: bool, key: str | None = None) -> Iterator["Tracked | Nothing"]:
    """A log that is closed whatever happens, and says where the run went."""
    from inspect_ai.tracking import Nothing, Tracked

    if not wanted:
        yield Nothing()
        return
    log = Tracked(name, key)
    try:
        yield log
    except BaseException:
        log.close(finished=False)
        raise
    typer.echo(log.close())


@contextmanager
def workshop() -> Iterator[None]:
    """Names the extra to install where torch is missing.

    Raises:
        NotInstalled: this environment has the shop floor only.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnx", "onnxscript", "safetensors", "sklearn"):
            raise
        raise NotInstalled(
            f"This command needs {error.name}, which the shop floor does without. Install the "
            "workshop: pip install 'inspect-ai-wafer[train]'"
        ) from None
