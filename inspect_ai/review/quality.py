"""What the labels of a scan say about it: overkill, capture and escape, with intervals.

Intervals of counts at the shipped threshold are binomial (Clopper-Pearson). Those of AUROC,
AUPRO and capture redraw whole groups, so they are as wide as lots differ from each other.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from inspect_ai.data import layouts, specs
from inspect_ai.data.specs import DataSpec
from inspect_ai.data.stack import Stack
from inspect_ai.errors import BadImages, MissingData
from inspect_ai.metrics import (
    FEWEST,
    Rows,
    binomial_interval,
    bootstrap_interval,
    fpr_at_tpr,
    overlaps,
    places,
    threshold_at,
)
from inspect_ai.review.scanned import Scan
from inspect_ai.review.summary import Numbers, by_image
from inspect_ai.scores import Bool, Float32, Float64

RATES = (0.01, 0.001)  # overkill at which capture is told
RESAMPLES = 500


def overkill(scan: Scan) -> Numbers | None:
    """Share of known good images that were flagged, against the promise; None without any.

    Of `units`: images, or, where the promise is one of whole lots, lots with a known good image,
    flagged where any of these is. The 95 % interval is the wider of the binomial one and of lots
    redrawn: wafers of one lot are alike, and a binomial interval alone would call a few bad lots a
    broken promise. `standing`: "more" or "fewer" where it leaves the promised rate out, else "as
    promised"; of a promise that says "at most" with confidence, or of whole lots, fewer is as
    promised.
    """
    good = scan.scores[scan.scores["gt_label"] == 0]
    if good.empty:
        return None
    at_most = scan.run.confidence is not None or not by_image(scan)
    promised, of = scan.run.false_alarm_rate, good["pred_label"] == 1
    flagged, groups = int(of.sum()), good["group"].tolist()
    if not by_image(scan):
        of = of.groupby(good["group"]).any()
        groups = of.index.tolist()
    low, high = _share_interval(of.to_numpy(bool), groups)
    fewer = high < promised and not at_most
    standing = "more" if low > promised else "fewer" if fewer else "as promised"
    return {
        "good_images": len(good),
        "flagged": flagged,
        "units": len(of),
        "units_flagged": int(of.sum()),
        "rate": float(of.mean()),
        "interval": [low, high],
        "promised": promised,
        "standing": standing,
    }


def _share_interval(hit: Bool, groups: list[str]) -> tuple[float, float]:
    """The wider of the binomial interval of a share and that of groups redrawn."""
    low, high = (float(end) for end in binomial_interval(int(hit.sum()), len(hit)))
    redrawn = bootstrap_interval(lambda rows: hit[rows].mean(), groups, RESAMPLES)
    lowest, highest = (float(end) for end in redrawn)  # NaN where there is one group alone
    return float(np.fmin(low, lowest)), float(np.fmax(high, highest))


def separation(scan: Scan) -> Numbers | None:
    """AUROC, capture and escape, in total and by class; None unless good and bad are known."""
    known = scan.scores[scan.scores["gt_label"].notna()].reset_index(drop=True)
    bad = known["gt_label"] == 1
    if not bad.any() or bad.all():
        return None
    classes = known["label"].astype("string").fillna("unnamed")
    names = sorted(classes[bad].unique())
    code = classes.where(bad).map({name: i for i, name in enumerate(names)}).fillna(-1)
    score, kind = known["pred_score"].to_numpy(float), code.to_numpy(int)
    everything = np.arange(len(known))

    def table(rows: Rows) -> Float64:
        return _table(score[rows], kind[rows], len(names))

    value = table(everything)
    low, high = bootstrap_interval(table, known["group"].tolist(), RESAMPLES)
    good_images = int((~bad).sum())
    escapes = [_escape(known[bad])] + [_escape(known[bad & (classes == n)]) for n in names]
    counts = [int(bad.sum()), *np.bincount(kind[kind >= 0]).tolist()]
    ends = zip(value, low, high, counts, strict=True)
    told = [_row(at, lowest, highest, (good_images, n)) for at, lowest, highest, n in ends]
    by_class = zip(["all", *names], told, escapes, strict=True)
    return {
        "good_images": good_images,
        "bad_images": int(bad.sum()),
        "groups": int(known["group"].nunique()),
        "resamples": RESAMPLES,
        "worse_than_chance": bool(value[0, 0] < 0.5),
        "fpr_at_95_tpr": _number(value[0, 3], low[0, 3], high[0, 3]),
        "rows": [{"name": name} | row | escape for name, row, escape in by_class],
    }


def localisation(scan: Scan) -> Numbers:
    """AUPRO where masks and maps exist; else `why_not` says what is missing."""
    rows = _with_maps(scan)
    if rows is None:
        return {
            "aupro": None,
            "why_not": "the scan kept no anomaly maps, or the data have no masks",
        }
    try:
        masks = _Masks(scan, rows)
        counted = overlaps(_Maps(scan, rows, masks), masks)
        value = counted.aupro()
    except (OSError, ValueError, BadImages, MissingData) as error:
        return {"aupro": None, "why_not": f"masks or maps could not be used: {error}"}

    by_group = counted.pooled(rows["group"].tolist())

    def aupro(groups: Rows) -> float:
        return by_group.aupro(groups) if by_group.defects[groups].any() else np.nan

    low, high = bootstrap_interval(aupro, np.arange(len(by_group.free)), RESAMPLES)
    return {
        "aupro": _number(value, float(low), float(high)),
        "why_not": None,
        "fpr_limit": counted.fpr_limit,
        "images": len(rows),
        "defects": int(counted.defects.sum()),
    }


def _table(score: Float64, kind: Rows, classes: int) -> Float64:
    """(1 + classes, 4): AUROC, capture at each of RATES, FPR at 95 % TPR; first row in total.

    NaN where a draw holds no image that tells; the last column is known for the total alone.
    """
    good, bad, of_class = np.sort(score[kind < 0]), score[kind >= 0], kind[kind >= 0]
    table = np.full((1 + classes, 4), np.nan)
    if not (len(good) and len(bad)):
        return table
    hits = [bad > threshold_at(good, rate) for rate in RATES]
    parts = np.stack([places(good, bad), *hits])
    images = np.bincount(of_class, minlength=classes)
    sums = [np.bincount(of_class, weights=part, minlength=classes) for part in parts]
    table[0, :3] = parts.mean(axis=1)
    table[1:, :3] = np.where(images, sums, np.nan).T / np.maximum(images, 1)[:, None]
    table[0, 3] = fpr_at_tpr(good, bad)
    return table


def _row(value: Float64, low: Float64, high: Float64, images: tuple[int, int]) -> Numbers:
    """One row of the table by name, for (good, bad) images.

    A capture that too few good images bear is None. Redraws of a class of a few images that
    all agree give no width at all, so a capture has the wider of redrawn and binomial ends,
    and the AUROC of such a class has none.
    """
    good, bad = images
    ends = (low[0], high[0]) if bad >= FEWEST else (np.nan, np.nan)
    told: Numbers = {"auroc": _number(value[0], *ends)}
    for rate, share, lowest, highest in zip(RATES, value[1:], low[1:], high[1:], strict=False):
        at_least, at_most = binomial_interval(round(share * bad), bad)
        number = _number(share, np.fmin(lowest, at_least), np.fmax(highest, at_most))
        told[f"capture_at_{rate:g}"] = number if rate * good >= FEWEST - 1e-9 else None
    return told


def _number(value: float, low: float, high: float) -> Numbers:
    interval = None if np.isnan(low) else [float(low), float(high)]
    return {"value": float(value), "interval": interval}


def _escape(bad: pd.DataFrame) -> Numbers:
    """How many bad images the shipped threshold let pass."""
    missed = int((bad["pred_label"] == 0).sum())
    low, high = (float(end) for end in binomial_interval(missed, len(bad)))
    rate = missed / len(bad)
    return {"images": len(bad), "missed": missed, "escape": rate, "escape_interval": [low, high]}


def _with_maps(scan: Scan) -> pd.DataFrame | None:
    """Rows with a kept map and a known mask (good images have an empty one), in file order."""
    known = scan.scores[scan.scores["gt_label"].notna()]
    known = known[known["mask_path"].notna() | (known["gt_label"] == 0)]
    kept = {path.stem for path in (scan.folder / "maps").glob("*.tiff")}
    known = known[known["image_id"].isin(kept)].sort_values("image_path", kind="stable")
    whole = len(known) and known["mask_path"].notna().any()
    return known.reset_index(drop=True) if whole else None


class _Masks(Sequence[Bool]):
    """Ground-truth masks, read one by one; a good image without one has an empty mask."""

    def __init__(self, scan: Scan, rows: pd.DataFrame) -> None:
        self.paths = (
            rows["mask_path"].astype(object).where(rows["mask_path"].notna(), None).tolist()
        )
        self.read = _mask_reader(scan.run.data_spec, scan.run.root)
        self.last, self.mask = -1, np.zeros((0, 0), np.bool_)
        self.shape = self[next(i for i, path in enumerate(self.paths) if path)].shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Bool:  # type: ignore[override]
        if row != self.last:
            path = self.paths[row]
            self.last, self.mask = row, self.read(path) if path else np.zeros(self.shape, np.bool_)
        return self.mask


class _Maps(Sequence[Float32]):
    """Anomaly maps, read one by one; that of a wafer on a larger canvas is cut to the wafer."""

    def __init__(self, scan: Scan, rows: pd.DataFrame, masks: _Masks) -> None:
        self.paths = [scan.folder / "maps" / f"{name}.tiff" for name in rows["image_id"]]
        self.masks, self.cut = masks, scan.run.data_spec.image.kind == "wafer_map"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Float32:  # type: ignore[override]
        anomaly_map = cv2.imread(str(self.paths[row]), cv2.IMREAD_UNCHANGED)
        if anomaly_map is None:
            raise OSError(f"{self.paths[row].name} is not a readable map")
        rows, columns = self.masks[row].shape if self.cut else anomaly_map.shape
        return np.asarray(anomaly_map[:rows, :columns], np.float32)


def _mask_reader(spec: DataSpec, root: Path) -> Callable[[str], Bool]:
    """Reads (H, W) masks; those of a stack quickest in file order."""
    layout = spec.layout
    if not isinstance(layout, specs.Stack):
        return lambda path: np.asarray(layouts.read_mask(spec, root, path), np.bool_)
    stack = Stack(root / layout.file)
    shapes = stack.column(layout.shapes) if layout.shapes else None
    masks = stack.rows(str(layout.masks))

    def read(path: str) -> Bool:
        row = int(path.rpartition("#")[2])
        rows, columns = masks.shape if shapes is None else shapes[row]
        return np.asarray(masks[row][:rows, :columns] > 0)

    return read
