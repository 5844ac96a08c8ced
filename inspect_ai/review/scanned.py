"""The folder that a scan leaves, read back: what was scanned, by what, and every score.

run.json                  what was scanned, by what bundle, and what was promised
scores/part-*.parquet     one row per scored image
rejected.parquet          one row per file that could not be read
regions.parquet           one row per flagged region of a flagged image
calibration.parquet       scores of the good images that set the threshold
maps/                     pictures and anomaly maps of flagged images
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from inspect_ai.bundle.thresholds import Level
from inspect_ai.calibration.conformal import Unit
from inspect_ai.data import inputs
from inspect_ai.data.specs import DataSpec, LabelRule
from inspect_ai.errors import MissingData
from inspect_ai.settings import Settings

OWN = frozenset(
    [
        "image_id",
        "image_path",
        "pred_score",
        "p_value",
        "pred_label",
        "pred_mask",
        "p_value_conditional",
        "q_value",
        "q_value_lot",
        "image_threshold",
        "pixel_threshold",
        "group_level",
        "promise",
        "group",
        "split",
        "gt_label",
        "label",
        "mask_path",
        "reason",
        *inputs.PICTURE,
        *inputs.WAFER_MAP,
    ]
)  # every other column is the source's


class Run(Settings, extra="ignore"):
    """What run.json says; keys that a newer scan adds are left alone."""

    state: str
    version: str = ""
    spec_name: str
    spec_hash: str = ""
    data_spec: DataSpec
    root: Path = Path()
    split: str = ""
    bundle: str = ""
    bundle_hash: str = ""
    model: str
    rule: str = ""
    false_alarm_rate: float
    confidence: float | None = None
    image_threshold: float | None = None
    pixel_threshold: float | None = None
    promise: str = ""
    calibration_images: int = 0
    unit: Unit = "image"
    pixel_rate: float | None = None
    pixel_rate_threshold: float | None = None
    lots: int | None = None
    worth: float | None = None
    levels: dict[str, Level] = Field(default_factory=dict)
    images: int | None = None
    flagged: int | None = None
    rejected: int | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    device: str = ""
    started_at: str = ""
    finished_at: str | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()  # of the guard, where the bundle was exported by force


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan folder in memory.

    Args:
        folder: where maps/ lies.
        run: the content of run.json.
        scores: one row per image that was scored; pred_score NaN became infinity.
        rejected: one row per file that could not be read.
        calibration: one row per good calibration image.
    """

    folder: Path
    run: Run
    scores: pd.DataFrame
    rejected: pd.DataFrame
    calibration: pd.DataFrame

    @property
    def flagged(self) -> pd.DataFrame:
        """Flagged images, oddest first."""
        flagged = self.scores[self.scores["pred_label"] == 1]
        return flagged.sort_values(
            ["p_value", "pred_score"], ascending=[True, False], kind="stable"
        )


def read(folder: Path, labels: Path | None = None) -> Scan:
    """A scan folder, with labels from a later table where one is given.

    Raises:
        MissingData: no run.json or no scores, or a label table without its columns.
        BadSettings: run.json was not written by a scan.
    """
    if not (folder / "run.json").is_file():
        raise MissingData(
            f"{folder} holds no run.json, so it is not the folder of a scan. "
            "Pass the folder that 'inspect-ai scan' wrote."
        )
    run = _run(folder / "run.json")
    parts = sorted((folder / "scores").glob("part-*.parquet"))
    if not parts:
        raise MissingData(
            f"{folder} holds no scores/part-*.parquet: the scan stopped before its first part. "
            "Start the same scan again; it goes on where it stopped."
        )
    tables = [pd.read_parquet(part) for part in parts]
    scores = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    scores = _typed(scores)
    if labels is not None:
        scores = _labelled(scores, labels, run.data_spec.label)
    return Scan(
        folder,
        run,
        scores,
        _table(folder / "rejected.parquet", ["image_path", "reason", "group"]),
        _table(folder / "calibration.parquet", ["image_id", "group", "pred_score", "map_max"]),
    )


def source_columns(table: pd.DataFrame) -> list[str]:
    """Columns that came with the data: lot, wafer, tool and whatever else."""
    return [str(column) for column in table.columns if column not in OWN]


def _run(path: Path) -> Run:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MissingData(f"{path} is not JSON ({error}). Start the same scan again.") from None
    command = fields.get("command") if isinstance(fields, dict) else None
    if command != "scan":
        raise MissingData(
            f"{path} is of '{command}', not of a scan. Pass the folder that 'inspect-ai scan' wrote."
        )
    if "spec_name" not in fields:
        raise MissingData(
            f"The scan in {path.parent} has hardly begun. Start the same scan again to finish it."
        )
    return Run.checked(fields, str(path))


def _typed(scores: pd.DataFrame) -> pd.DataFrame:
    """A part of nulls alone has lost its types; NaN scores become infinity."""
    for column in ("gt_label", "label", "mask_path"):
        values = scores[column] if column in scores else pd.Series(None, scores.index, dtype=object)
        scores[column] = values.astype(object).where(values.notna(), None)
    return scores.assign(
        pred_score=scores["pred_score"].astype(float).fillna(np.inf),
        pred_label=scores["pred_label"].astype(int),
        group=scores["group"].astype("string").fillna(""),
        gt_label=scores["gt_label"].astype("Int8"),
        label=scores["label"].astype("string"),
        mask_path=scores["mask_path"].astype("string"),
    )


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table of the folder, or an empty one: an unfinished scan may lack it."""
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame({c: [] for c in columns})


def _labelled(scores: pd.DataFrame, path: Path, rule: LabelRule) -> pd.DataFrame:
    """Scores with the labels of a CSV or parquet table: columns image_path and label."""
    if not path.is_file():
        raise MissingData(f"No label table {path}. Pass a CSV or parquet file.")
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    if not {"image_path", "label"} <= set(table.columns):
        raise MissingData(
            f"{path} needs the columns image_path and label; it has {list(table.columns)}. "
            "Rename its columns."
        )
    named = dict(zip(table["image_path"], table["label"].replace("", None), strict=True))
    label = scores["image_path"].map(named).astype("string")
    gt = (~label.isin(rule.good)).astype("Int8")
    gt = gt.mask(label.isna() | label.isin(rule.unknown))
    return scores.assign(label=label, gt_label=gt)
