"""Figures of a scan of labelled images, as a row holds them; the report's own numbers."""

from typing import Any

from inspect_ai.benchmark.rows import RATES, ClassFigures, Figure
from inspect_ai.metrics import capture_at
from inspect_ai.review import quality
from inspect_ai.review.scanned import Scan

KEYS = {"capture_at_1": "capture_at_0.01", "capture_at_01": "capture_at_0.001"}  # quality's names


def figures(scan: Scan) -> dict[str, Any]:
    """Fields of a Row; those that the labels do not tell are left out."""
    known = scan.scores[scan.scores["gt_label"].notna()]
    fields: dict[str, Any] = {
        "good_images": int((known["gt_label"] == 0).sum()),
        "bad_images": int((known["gt_label"] == 1).sum()),
        "groups": int(known["group"].nunique()),
        "promised": scan.run.false_alarm_rate,
        "aupro": _figure(quality.localisation(scan)["aupro"]),
    }
    overkill: Any = quality.overkill(scan)
    if overkill is not None:
        low, high = overkill["interval"]
        fields["overkill"] = Figure(value=overkill["rate"], low=low, high=high)
    separated: Any = quality.separation(scan)
    if separated is None:
        return fields
    total, *classes = separated["rows"]
    return fields | {
        "fpr_at_95_tpr": _figure(separated["fpr_at_95_tpr"]),
        **_of_class(scan, total, None),
        "classes": tuple(
            ClassFigures(name=c["name"], images=c["images"], **_of_class(scan, c, c["name"]))
            for c in classes
        ),
    }


def _of_class(scan: Scan, told: Any, name: str | None) -> dict[str, Any]:
    """What total and classes have in common."""
    low, high = told["escape_interval"]
    captures = {key: _capture(scan, told, key, name) for key in RATES}
    escape = Figure(value=told["escape"], low=low, high=high)
    return {"auroc": _figure(told["auroc"]), "escape": escape, **captures}


def _capture(scan: Scan, told: Any, key: str, name: str | None) -> Figure:
    """With its interval; where too few good images bear it, the bare value."""
    number = _figure(told[KEYS[key]])
    if number is not None:
        return number
    score, gt = scan.scores["pred_score"], scan.scores["gt_label"]
    bad = gt == 1
    if name is not None:
        bad &= scan.scores["label"].fillna("unnamed") == name
    bad, good = bad.fillna(False), (gt == 0).fillna(False)
    share = capture_at(score[good].to_numpy(), score[bad].to_numpy(), RATES[key], fewest=0)
    assert share is not None, "with fewest = 0 there is always a share"
    return Figure(value=share)


def _figure(told: Any) -> Figure | None:
    if told is None:
        return None
    low, high = told["interval"] or (None, None)
    return Figure(value=told["value"], low=low, high=high)
