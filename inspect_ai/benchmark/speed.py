"""How fast a bundle scans: end to end, on a batch as the floor sees it, 2 % defects.

A labelled set is scanned with all its maps kept, and most of its test images are defects; its
rate says little. So good test images and 2 % bad ones are scanned by themselves: read, scored,
decided and written, with pictures of what was flagged, on the CPU with all its cores.
"""

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inspect_ai.batch.scan import Options, scan
from inspect_ai.bundle.bundle import Bundle
from inspect_ai.data import images, layouts
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadImages, MissingData
from inspect_ai.scores import Pixels

MOST = 4285  # images of a batch
DEFECTS = 0.02
REPEATS = 3
CANVAS = (64, 64)  # dies; smallest stack of wafer maps


@dataclass(frozen=True, slots=True)
class Speed:
    """Images a second, and how many times that of the reference, scanned in turns with it."""

    rate: float | None
    ratio: float | None = None


def measured(
    bundle: Bundle, manifest: Manifest, folder: Path, reference: Bundle | None = None
) -> Speed:
    """Median rate of three scans; None without an image.

    Args:
        manifest: labelled images that the bundle was not made from.
        folder: for the scans; removed afterwards.
        reference: scanned in turns with the bundle: what else the machine does slows both.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a kill
    folder.mkdir(parents=True)
    try:
        told = bundle.card.condition.columns if bundle.card.condition else ()
        made = prepared(batch(manifest), folder / "images", told)
        rates = [
            [_rate(b, made, folder / f"scan{i}{k}") for k, b in enumerate((bundle, reference)) if b]
            for i in range(REPEATS)
        ]
        ours, *theirs = (statistics.median(column) for column in zip(*rates, strict=True))
        return Speed(ours, ours / theirs[0] if theirs else None)
    except (BadImages, MissingData):
        return Speed(None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rate(bundle: Bundle, made: Manifest, folder: Path) -> float:
    found = scan(bundle, made, folder, Options("cpu"))
    return found.images / max(found.seconds, 1e-9)


def batch(manifest: Manifest) -> Manifest:
    """Good images and 2 % bad ones, at most `MOST`, mixed; of a small set all good ones."""
    table = manifest.table
    good, bad = table[table["gt_label"] == 0], table[table["gt_label"] == 1]
    good = good.sample(min(len(good), round((1 - DEFECTS) * MOST)), random_state=0)
    few = min(len(bad), round(len(good) * DEFECTS / (1 - DEFECTS)))
    rows = pd.concat([good, bad.sample(few, random_state=0)]).sample(frac=1, random_state=0)
    rows = rows.assign(mask_path=pd.Series(None, rows.index, dtype="string"))
    return Manifest(rows.reset_index(drop=True), manifest.spec, manifest.root, (), "speed")


def prepared(manifest: Manifest, folder: Path, told: Sequence[str] = ()) -> Manifest:
    """Wafer maps as a stack of their own: reading on through a large one would count as ours.

    Args:
        told: columns that a conditional model is told.
    """
    if manifest.spec.image.kind != "wafer_map":
        return manifest
    columns = {name: manifest.table[name].astype(str).to_numpy(str) for name in told}
    stack(manifest.spec, manifest.root, manifest.table["image_path"].tolist(), folder, columns)
    fields = {"name": "speed", "root": folder, "source": manifest.spec.name}
    layout: dict[str, object] = {
        "kind": "stack",
        "file": "maps.npz",
        "shapes": "shapes",
        "label": None,
    }
    layout |= {"columns": list(columns)}
    more = {"licence": manifest.spec.licence, "layout": layout, "image": {"kind": "wafer_map"}}
    return manifests.listing(DataSpec.checked(fields | more, "the benchmark"), folder)


def stack(
    spec: DataSpec,
    root: Path,
    paths: list[str],
    folder: Path,
    columns: Mapping[str, NDArray[np.str_]] = MappingProxyType({}),
) -> Pixels:
    """Writes maps.npz with these maps; gives them padded, (N, 1, H, W).

    Args:
        columns: what is known of each map beside its dies.

    Raises:
        BadImages: one cannot be read.
    """
    read = layouts.reader(spec, root)
    found = {path: read(path) for path in sorted(set(paths), key=_row)}
    native = [found[path] for path in paths]
    maps = images.padded(native, CANVAS)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = np.array([m.shape[1:] for m in native])
    np.savez_compressed(folder / "maps.npz", maps=maps[:, 0], shapes=shapes, **columns)  # type: ignore[arg-type]
    return maps


def _row(path: str) -> tuple[str, int]:
    """Place in the file, where a path is a row of one: a stack is one stream."""
    name, _, row = path.rpartition("#")
    return (name, int(row)) if row.isdigit() else (path, 0)
