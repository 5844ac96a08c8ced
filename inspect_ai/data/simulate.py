"""Writes a simulated data set into a folder that looks like any other data set.

    <root>/maps.npz                                           kind "maps"
    <root>/manifest.csv  images/*.png  masks/*_mask.png       kind "dies"
    <root>/simulate.json                                      settings and version, both kinds

The folder appears whole or not at all: it is written beside its place and renamed.
"""

import csv
import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import inspect_ai
from inspect_ai.data.simulate_dies import Die, DieSettings, dies
from inspect_ai.data.simulate_maps import MapSettings, wafer_maps
from inspect_ai.errors import NoSpace, OutputInUse

SimulateSettings = Annotated[MapSettings | DieSettings, Field(discriminator="kind")]
Report = Callable[[int, int], None]  # (done, in all)

COLUMNS = ["path", "label", "mask"]
COLUMNS += [field.name for field in fields(Die) if field.name not in ("image", "mask", "label")]


def _silent(_done: int, _total: int) -> None:
    pass


def write(settings: SimulateSettings, root: Path, report: Report = _silent) -> Path:
    """Simulates a data set into the folder `root` and returns `root`.

    `maps.npz` holds the arrays of `SimulatedMaps` and one array per column, no pickle.
    `manifest.csv` has one row per die: path and mask relative to `root`, mask empty for good
    dies, then label and the fields of `Die`. Equal settings give equal arrays and images.

    Args:
        settings: what to simulate.
        root: a folder that is missing or empty; its parents are made.
        report: called with (done, in all) wafers or dies, for a progress bar.

    Raises:
        OutputInUse: `root` holds something, or is a file.
        NoSpace: the disk is full; nothing is left behind.
    """
    _refuse_used(root)
    place = root.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{uuid4().hex[:8]}.part")
    try:
        part.mkdir()
        _write_all(settings, part, report)
        _refuse_used(root)
        if place.exists():
            place.rmdir()  # Windows does not rename onto an empty folder
        part.rename(place)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise NoSpace(
            f"The disk of {root} is full. Free some space or pass another folder."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _refuse_used(root: Path) -> None:
    if root.is_dir() and not any(root.iterdir()):
        return
    if root.exists():
        raise OutputInUse(
            f"{root} exists and is not an empty folder; a simulated data set needs a new or empty "
            f"folder. Pass another path, or remove {root} yourself."
        )


def _write_all(settings: SimulateSettings, folder: Path, report: Report) -> None:
    if isinstance(settings, MapSettings):
        _write_maps(settings, folder / "maps.npz", report)
    else:
        _write_dies(settings, folder, report)
    note = {"version": inspect_ai.__version__, "settings": settings.model_dump(mode="json")}
    (folder / "simulate.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _write_maps(settings: MapSettings, path: Path, report: Report) -> None:
    """Texts are stored as fixed-width strings: an array of objects would need pickle."""
    made = wafer_maps(settings, report)
    lot, product, layer, tool, taken_at = (
        made.columns[name].to_numpy(dtype=np.str_)
        for name in ("lot", "product", "layer", "tool", "taken_at")
    )
    np.savez_compressed(
        path,
        maps=made.maps,
        shapes=made.shapes,
        labels=made.labels,
        masks=made.masks,
        lot=lot,
        wafer=made.columns["wafer"].to_numpy(dtype=np.int64),
        product=product,
        layer=layer,
        tool=tool,
        taken_at=taken_at,
    )


def _write_dies(settings: DieSettings, folder: Path, report: Report) -> None:
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    total = settings.lots * settings.wafers_per_lot * settings.dies_per_wafer
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for done, die in enumerate(dies(settings), start=1):
            table.writerow(_write_die(die, folder))
            report(done, total)


def _write_die(die: Die, folder: Path) -> list[object]:
    """Writes the files of one die; its row of the manifest."""
    name = f"{die.lot}_{die.wafer}_{die.die_x}_{die.die_y}"
    path, mask = f"images/{name}.png", ""
    _write_png(folder / path, die.image)
    if die.label != "good":
        mask = f"masks/{name}_mask.png"
        _write_png(folder / mask, die.mask)
    return [path, die.label, mask, *(getattr(die, column) for column in COLUMNS[3:])]


def _write_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Encoded by OpenCV, written by Python: a full disk then raises, on any file name."""
    ok, encoded = cv2.imencode(".png", pixels)
    assert ok
    path.write_bytes(encoded.tobytes())
