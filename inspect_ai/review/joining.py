"""Which images of finished scans join a calibration, once reviewers have decided.

Good scores must be an unbiased sample of good images. So all images of a scan join but those
decided to be defects, not the confirmed false alarms alone: these are the oddest good images, and a
calibration of them would raise the threshold as high as one likes. An image that was not flagged
counts as good. Defects that escaped are among these; they lie below the threshold, so they can lower
the new one a little and never raise it: with e of them among n good ones, a promise on average of
alpha holds up to alpha (1 + e / n). Every flagged image must be decided, or the user says how the
others count: as good is the cautious side for the promise, as defects that for escapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from inspect_ai import steps
from inspect_ai.bundle.bundle import Bundle
from inspect_ai.calibration.conformal import allowed_rank, sure
from inspect_ai.calibration.excess import chance, explained
from inspect_ai.errors import MissingData
from inspect_ai.review import scanned, verdicts
from inspect_ai.review.scanned import Scan
from inspect_ai.scores import Bool, Float64

NOT_FLAGGED = "not flagged"
LEVEL = 0.025  # above a 95 % interval
Undecided = Literal["good", "defect"]


@dataclass(frozen=True, slots=True)
class Source:
    """A finished scan, and the hash of its record, which names it."""

    scan: Scan
    name: str


def sources(folders: Sequence[Path], bundle: Bundle) -> list[Source]:
    """The scans, each finished, made by this very bundle, of images that it was not made from.

    Raises:
        MissingData: one is not; says which.
    """
    found = list[Source]()
    for folder in folders:
        steps.read_record(folder, "scan")  # finished
        source = Source(scanned.read(folder), steps.sha256(folder / steps.RECORD))
        if source.name in [other.name for other in found]:
            raise MissingData(f"{folder} was given twice, by itself or as a copy. Name it once.")
        _require_made_by(source.scan, bundle)
        found.append(source)
    if not found:
        raise MissingData("No scan was given. Pass folders that 'inspect-ai scan' wrote.")
    return found


def told(found: Sequence[Source], decisions: pd.DataFrame) -> pd.DataFrame:
    """One row for each scored image of the scans, with what was decided of it.

    Args:
        decisions: as verdicts.read gives them.

    Returns:
        The rows of the scans, with `scan` (its name), verdict ("not flagged", or null where nobody
        decided), reviewer and decided_at.

    Raises:
        MissingData: an image stands in two of the scans.
    """
    ours = ["scan", "good", *verdicts.COLUMNS[1:]]  # the source may have columns of these names
    tables = [
        source.scan.scores.drop(columns=ours, errors="ignore").assign(scan=source.name)
        for source in found
    ]
    rows = pd.concat(tables, ignore_index=True)
    names = _names(found[0].scan.run.data_spec.image.kind)
    again = rows["scan"] != rows.groupby(names)["scan"].transform("first")
    if again.any():
        raise MissingData(
            f"{int(again.sum())} image(s) stand in two of the scans; the first is "
            f"{rows.loc[again, 'image_path'].iloc[0]}. Each may count once: leave out one of them."
        )
    last = decisions[decisions["decides"]].set_index("image_id")
    rows = rows.join(last[["verdict", "reviewer", "decided_at"]], on="image_id")
    calm = rows["verdict"].isna() & (rows["pred_label"] == 0)
    return rows.assign(verdict=rows["verdict"].mask(calm, NOT_FLAGGED))


def undecided(rows: pd.DataFrame) -> Bool:
    """Which flagged images nobody has decided, or nobody is sure of: (N,)."""
    unsure = rows["verdict"].isna() | (rows["verdict"] == verdicts.UNSURE).fillna(True)
    return np.asarray((rows["pred_label"] == 1) & unsure, np.bool_)


def refusal(rows: pd.DataFrame) -> str:
    """Why the undecided must be decided."""
    return (
        f"{int(undecided(rows).sum())} of {int((rows['pred_label'] == 1).sum())} flagged images are "
        "not decided as good or defect. A threshold follows from all good images, not from those "
        "that somebody had the time for: decide them, or pass --undecided good (the promise of "
        "false alarms is kept, more defects may escape) or --undecided defect."
    )


def good(rows: pd.DataFrame, counted: Undecided | None) -> Bool:
    """Which images count as good ones: (N,).

    Args:
        rows: as `told` gives them.
        counted: what the undecided count as; None refuses them.

    Raises:
        MissingData: a flagged image is not decided, or a good one has no finite score.
    """
    waiting = undecided(rows)
    if waiting.any() and counted is None:
        raise MissingData(refusal(rows))
    found = np.asarray(rows["verdict"].fillna("") != verdicts.DEFECT, np.bool_)
    found = found & (~waiting | (counted == "good"))
    endless = found & ~np.isfinite(rows["pred_score"].to_numpy(np.float64))
    if endless.any():
        raise MissingData(
            f"{int(endless.sum())} image(s) that count as good have a score that is no number; the "
            f"first is {rows.loc[endless, 'image_path'].iloc[0]}. Such a score is always an alarm and "
            "sets no threshold: look at these images, and leave out their scan."
        )
    if not found.any():
        raise MissingData("No image of the scans counts as good. Pass scans of good images.")
    return found


def notes(rows: pd.DataFrame, found: Sequence[Source], bundle: Bundle) -> list[str]:
    """What a person should know before accepting."""
    said = [
        f"{source.scan.folder} is split 'test' of the bundle's own data: rates measured on it later "
        "are no test of the new bundle"
        for source in found
        if _own_data(source.scan, bundle) and source.scan.run.split == "test"
    ]
    assumed = int(undecided(rows).sum())
    if assumed:
        as_good = int((undecided(rows) & rows["good"].to_numpy(bool)).sum())
        said.append(f"{assumed:,} undecided images count as {'good' if as_good else 'defects'}")
    if bundle.card.guard:
        said.append("what the guard of build found was at the threshold of before")
    return said


def unknown(decisions: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """A note where verdicts are on images that the scans do not have."""
    lost = decisions.loc[decisions["decides"] & ~decisions["image_id"].isin(rows["image_id"])]
    return [f"{len(lost):,} verdicts name no image of these scans"] * bool(len(lost))


def more_than_promised(rows: pd.DataFrame, bundle: Bundle) -> bool:
    """Whether the good images of the scans were flagged more often than promised.

    By the 95 % interval of their rate, lot by lot: those of a lot are alike. A threshold made on
    average is exceeded more often or less, as the calibration's luck was: that is no change.
    """
    card, found = bundle.card, rows[rows["good"]]
    flags = found["pred_label"].groupby(found["group"].astype(str))
    by_lot = flags.max() if card.unit == "lot_maximum" else flags.mean()
    shares: Float64 = by_lot.to_numpy(np.float64)
    known = bundle.thresholds.effective
    units = known.images if card.unit == "image" else known.lots
    asked = card.false_alarm_rate, sure(card.confidence, card.unit)
    rank = max(1, allowed_rank(units, *asked))
    worth = known.worth / known.images if card.unit == "image" else 1.0
    limit = explained(card.false_alarm_rate, rank * worth, units * worth, LEVEL / 2)
    return chance(shares, limit, len(found) / max(1, len(shares))) <= LEVEL / 2


def require_new(rows: pd.DataFrame, kept: pd.DataFrame, kind: str) -> None:
    """Refuses images that the calibration has already.

    Args:
        rows: of the scans. kept: of calibration.parquet.
        kind: of the images.

    Raises:
        MissingData: so it is.
    """
    names = _names(kind)
    known = pd.MultiIndex.from_frame(kept[names].astype(str))
    again = pd.MultiIndex.from_frame(rows[names].astype(str)).isin(known)
    if again.any():
        raise MissingData(
            f"{int(again.sum())} of {len(rows)} scanned images are in the calibration already; the "
            f"first is {rows.loc[again, 'image_path'].iloc[0]}. Each may count once: scan other "
            "images."
        )


def open_list(rows: pd.DataFrame) -> pd.DataFrame:
    """The undecided flagged images as a table of verdicts to fill in, the oddest first."""
    waiting = rows[undecided(rows)].sort_values("pred_score", ascending=False, kind="stable")
    table = waiting[["image_id", "image_path", "pred_score"]].drop_duplicates("image_id")
    return table.assign(verdict="", reviewer="", decided_at="")


def _names(kind: str) -> list[str]:
    """What tells images apart; wafer maps of equal content are common, in one lot they are rare."""
    return ["image_id", "group"] if kind == "wafer_map" else ["image_id"]


def _require_made_by(scan: Scan, bundle: Bundle) -> None:
    run, card = scan.run, bundle.card
    if run.bundle_hash != bundle.hash:
        raise MissingData(
            f"{scan.folder} was made by bundle {run.bundle_hash[:12]} ({run.bundle}), and "
            f"{bundle.folder} is {bundle.hash[:12]}. Scores of another bundle are other scores: "
            "scan with this one, or pass that one."
        )
    if _same_root(scan, bundle) and not (_own_data(scan, bundle) and run.split == "test"):
        raise MissingData(
            f"{scan.folder} holds images of the folder that the bundle was made from (split "
            f"'{run.split}'), and those that the model was trained on score too low for a "
            "threshold. Scan new images, or the bundle's own spec with --split test."
        )
    if card.unit != "image" and run.data_spec.group is None:
        raise MissingData(
            f"The promise of {bundle.folder} counts lots, and {scan.folder} does not know them: "
            "each image would count as a lot. Scan with --spec, a data spec that names [group]."
        )


def _own_data(scan: Scan, bundle: Bundle) -> bool:
    """Whether a scan is of the data that the bundle was made from, this split or another."""
    return _same_root(scan, bundle) and scan.run.spec_hash == bundle.card.data_spec_hash


def _same_root(scan: Scan, bundle: Bundle) -> bool:
    return scan.run.root.resolve() == bundle.card.data_spec.root.resolve()
