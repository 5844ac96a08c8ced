"""A row of the benchmark: one run file, one data set, one seed, one profile, one state of the code.

Every figure is of the test split, which is scored once a row; nothing is chosen by it. Rates and
shares lie in [0, 1]; intervals are of 95 %, of whole groups redrawn (review/quality.py). Overkill
is the share of good images that are flagged, capture the share of bad ones, escape the rest.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from inspect_ai.metrics import FEWEST
from inspect_ai.settings import Settings

RATES = {"capture_at_1": 0.01, "capture_at_01": 0.001}  # overkill at which capture is told
FORMAT = 1  # goes up when a figure changes its meaning: older rows are then measured again


class Figure(Settings):
    """A number and its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


class ClassFigures(Settings):
    """One class of defects against all good images; `images` of it stand in the test split."""

    name: str
    images: int
    auroc: Figure
    capture_at_1: Figure
    capture_at_01: Figure
    escape: Figure


class Row(Settings, extra="ignore"):
    """What the table, the page and MLflow say; None is not known, or does not apply.

    auroc: chance that a bad image scores above a good one, a tie counting one half.
    aupro: mean overlap with the true defects at up to 30 % false pixels; where masks exist.
    fpr_at_95_tpr: share of good images flagged when 95 % of the bad ones are.
    capture_at_1, capture_at_01: capture at the threshold that 1 % and 0.1 % of the good test
        images exceed; the interval is the wider of groups redrawn and binomial, and absent where
        fewer than ten good images may exceed it.
    overkill: observed at the shipped threshold, which was set to keep `promised`; the interval is
        the wider of Clopper-Pearson and groups redrawn.
    escape: of all bad images, at the shipped threshold; Clopper-Pearson.
    auroc_difference, capture_difference: ours minus that of the baseline `against` on the same
        images, the latter at 1 % overkill, with groups redrawn for both at once.
    train_seconds, build_seconds: wall clock of the training step, and of training, calibration
        and export together; None where the work was stopped and went on.
    images_per_second: median of three scans, end to end; see speed.py.
    speed_ratio: that over the autoencoder's on the same data, scanned in turns; None without one.
    guard_capture, guard_pca_capture: of defects planted on calibration images, at the shipped
        threshold and at PCA-64's for the same promise; guard_refused: whether `inspect-ai build`
        would have refused the bundle without --force.
    model_bytes: the ONNX file; weights: numbers that were fitted by descent.
    """

    format: int = FORMAT
    run: str  # name of the run file
    data: str
    seed: int
    profile: str
    code_hash: str
    trained_on: str = ""  # another data set, where the row is of a transfer
    state: Literal["done", "failed"] = "done"
    error: str = ""
    kind: str = "picture"  # of the images; or wafer_map
    model: str = ""
    rule: str = ""
    family: str = ""
    commit: str = "unknown"
    created_at: str = ""
    cores: int = 0
    device: str = "cpu"  # of the training; scans are timed on the CPU
    folder: str = ""  # under --out, where the scores are
    good_images: int = 0
    bad_images: int = 0
    groups: int = 0
    promised: float | None = None
    auroc: Figure | None = None
    aupro: Figure | None = None
    fpr_at_95_tpr: Figure | None = None
    capture_at_1: Figure | None = None
    capture_at_01: Figure | None = None
    overkill: Figure | None = None
    escape: Figure | None = None
    auroc_difference: Figure | None = None
    capture_difference: Figure | None = None
    against: str = ""  # the baseline's run
    against_folder: str = ""
    train_seconds: float | None = None
    build_seconds: float | None = None
    images_per_second: float | None = None
    speed_ratio: float | None = None
    guard_capture: float | None = None
    guard_pca_capture: float | None = None
    guard_refused: bool | None = None
    model_bytes: int | None = None
    weights: int | None = None
    classes: tuple[ClassFigures, ...] = ()

    @property
    def key(self) -> str:
        """Names this measurement for MLflow."""
        parts = [self.run, self.data, str(self.seed), self.profile, self.code_hash, self.created_at]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]

    @property
    def rank(self) -> float:
        """What rows of one data set are ordered by: capture at 1 %, AUROC where that is hearsay."""
        told = self.capture_at_1 if enough(self, "capture_at_1") else self.auroc
        return -math.inf if told is None else told.value

    @property
    def verdict(self) -> str:
        """ "loses", "beats" or "level" against the baseline; empty where there is none.

        One difference surely below 0 is a loss, whatever the other says.
        """
        told = [d for d in (self.auroc_difference, self.capture_difference) if d is not None]
        if not told:
            return ""
        if any(d.high is not None and d.high < 0 for d in told):
            return "loses"
        return "beats" if any(d.low is not None and d.low > 0 for d in told) else "level"


FIGURES = (
    "auroc", "aupro", "fpr_at_95_tpr", "capture_at_1", "capture_at_01", "overkill", "escape",
    "auroc_difference", "capture_difference",
)  # fmt: skip


def enough(row: Row, name: str) -> bool:
    """Whether ten good test images or more may exceed the threshold of this capture."""
    return RATES[name] * row.good_images >= FEWEST - 1e-9


def flat(row: Row) -> dict[str, Any]:
    """Columns of a table: a figure becomes value, _low and _high; the classes become JSON."""
    columns: dict[str, Any] = {}
    for name, value in row.model_dump(mode="json").items():
        if name in FIGURES:
            ends = value or {"value": None, "low": None, "high": None}
            parts = {"": ends["value"], "_low": ends["low"], "_high": ends["high"]}
            columns |= {f"{name}{end}": part for end, part in parts.items()}
        else:
            columns[name] = json.dumps(value) if name == "classes" else value
    return columns


def unflat(columns: Mapping[str, Any], where: str) -> Row:
    """The row that `flat` took apart.

    Raises:
        BadSettings: these are not a row's columns.
    """
    known = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in columns.items()}
    fields = {k: v for k, v in known.items() if k.removesuffix("_low").removesuffix("_high") == k}
    for name in FIGURES:
        ends = {"low": known.get(f"{name}_low"), "high": known.get(f"{name}_high")}
        value = known.get(name)
        fields[name] = None if value is None else {"value": value, **ends}
    fields["classes"] = json.loads(known.get("classes") or "[]")
    return Row.checked(fields, where)


def numbers(row: Row) -> dict[str, float]:
    """Every number of a row by name, the classes' capture among them."""
    plain = {k: float(v) for k, v in flat(row).items() if isinstance(v, (int, float))}
    return plain | {f"capture_at_1.{c.name}": c.capture_at_1.value for c in row.classes}
