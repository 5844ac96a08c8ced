"""What a scan brings to the monitor: one row for each image that calibration has not seen.

Images of the calibration and of the training split are left out: they are no news, and the
training images score too low. So are the other images of their lots, and all that reviewers saw
when the bundle was calibrated again: of such a scan its good images have joined, and those that are
left are its defects. Where images of the calibration make up most of a scan's split, all of that
split is left out. Each image has a key, so that none counts twice however often it is
scanned. A picture's key is its content. Wafer maps of different wafers may be alike, so where they
lie belongs to theirs.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import steps
from inspect_ai.data import inputs
from inspect_ai.review import scanned
from inspect_ai.scores import Bool
from inspect_ai.watching.memory import Names

TIME, GROUP = "taken_at", "group"
CARD, REVIEWED = "bundle.json", ("audit.parquet", "verdicts.parquet")
USED = ("train", "calibrate", "duplicate")  # splits that made the bundle


@dataclass(frozen=True, slots=True)
class Arrivals:
    """One scan, read for the monitor.

    Args:
        folder: of the scan.
        scan: names it, also where the folder is copied.
        run: what its run.json says.
        rows: of its images in scan order, without those that made the bundle.
        calibration: of the bundle.
        measures: input measures that both have.
        left_out: how many images made the bundle.
    """

    folder: Path
    scan: str
    run: scanned.Run
    rows: pd.DataFrame
    calibration: pd.DataFrame
    measures: tuple[str, ...]
    left_out: int


def arrivals(folder: Path) -> Arrivals:
    """A finished scan, read.

    Raises:
        MissingData: the folder is no scan, or an unfinished one.
        BadSettings: run.json was not written by a scan.
    """
    record = steps.read_record(folder, "scan")
    read = scanned.read(folder)
    known = _made_the_bundle(read)
    names = [
        name
        for name in inputs.names(read.run.data_spec.image)
        if all(
            name in table and table[name].notna().any() for table in (read.scores, read.calibration)
        )
    ]
    scan = _hash(record.get("fingerprint"), record.get("started_at"))
    rows = read.scores[~known].reset_index(drop=True)
    return Arrivals(
        folder, f"{scan:016x}", read.run, rows, read.calibration, tuple(names), int(known.sum())
    )


def keys(rows: pd.DataFrame, run: scanned.Run) -> Names:
    """(N,) names of images, the same in every scan."""
    columns = ["image_id"]
    if run.data_spec.image.kind == "wafer_map":
        columns += [c for c in ("image_path", GROUP, TIME) if c in rows]
        root = str(run.root)
    else:
        root = ""
    said = rows[columns].astype("string").fillna("").itertuples(index=False, name=None)
    return np.array([_hash(root, *one) for one in said], np.uint64)


def lot_keys(rows: pd.DataFrame, images: Names) -> Names:
    """(N,) names of lots; an image that is its own lot has its own.

    Args:
        images: as `keys` gives them.
    """
    lots = np.array([_hash("lot", lot) for lot in rows[GROUP].astype(str)], np.uint64)
    return np.where(_own_lot(rows), images, lots)


def times(rows: pd.DataFrame) -> pd.Series:
    """(N,) when images were taken, in UTC; a time without a zone counts as UTC, NaT is not known."""
    if TIME not in rows:
        return pd.Series(pd.NaT, rows.index, dtype="datetime64[s, UTC]")
    said = pd.to_datetime(rows[TIME], errors="coerce", utc=True, format="ISO8601")
    return said.astype("datetime64[s, UTC]")


def _made_the_bundle(read: scanned.Scan) -> Bool:
    rows, kept = read.scores, read.calibration
    maps = read.run.data_spec.image.kind == "wafer_map"
    old_lot = rows[GROUP].isin(kept[GROUP].astype("string")).to_numpy(np.bool_)
    seen = rows["image_id"].isin(kept["image_id"]).to_numpy(np.bool_)
    seen = (seen & old_lot if maps else seen) | _reviewed(rows, read.run, maps)
    split = (
        rows["split"].astype("string").fillna("") if "split" in rows else pd.Series("", rows.index)
    )
    mostly = pd.Series(seen, rows.index).groupby(split).transform("mean") > 0.5
    used = split.isin(USED).to_numpy(np.bool_) | mostly.to_numpy(np.bool_)
    return seen | used | (old_lot & ~_own_lot(rows))


def _reviewed(rows: pd.DataFrame, run: scanned.Run, maps: bool) -> Bool:
    """Images that joined when the bundle was calibrated again, or were decided then.

    Of wafer maps, which may be alike, only those of which it is kept where they lay.
    """
    folder, names = Path(run.bundle), ["image_id", "image_path"] if maps else ["image_id"]
    found = np.zeros(len(rows), np.bool_)
    if not run.bundle or not (folder / CARD).is_file():
        return found
    if steps.sha256(folder / CARD) != run.bundle_hash:
        return found
    for path in (folder / name for name in REVIEWED):
        if path.is_file():
            table = pd.read_parquet(path)
            if set(names) <= set(table):
                known = pd.MultiIndex.from_frame(table[names].astype(str))
                found |= pd.MultiIndex.from_frame(rows[names].astype(str)).isin(known)
    return found


def _own_lot(rows: pd.DataFrame) -> Bool:
    """Which images are their own lot, since the data name none: (N,)."""
    group = rows[GROUP].astype(str)
    return np.asarray((group == "") | (group == rows["image_path"].astype(str)), np.bool_)


def _hash(*words: object) -> int:
    text = "\0".join(map(str, words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
