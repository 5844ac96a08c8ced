"""A scan in, the numbers a reviewer needs out; every one of them goes to metrics.json.

    batch      how many images, how many flagged, is that more than good images explain
    lots       which lots stand out, worst first
    reasons    which files were rejected, and why
    (quality   with labels: overkill, capture, escape; in quality.py)

A rate that is not known is None, never NaN.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from inspect_ai.metrics import binomial_interval
from inspect_ai.review.scanned import Scan
from inspect_ai.scores import Float64

Numbers = dict[str, object]

SHARES = (0.05, 0.1, 0.2)  # of good images among the flagged
NAMED = 50  # rejected files named on the page


def batch(scan: Scan) -> Numbers:
    """Counts, and whether more are flagged than good images alone explain.

    `standing`: "as promised", "more" (a share that good images alone would reach in one scan
    out of 40), or "nothing scanned". Labels, where known, say it better: see `overkill`. `units`
    are what the promise is a rate of: images, or lots, one flagged where any of its images is.
    """
    run, images = scan.run, len(scan.scores)
    hit = scan.scores["pred_label"] == 1
    flagged, of = int(hit.sum()), hit if by_image(scan) else hit.groupby(scan.scores["group"]).any()
    low, high = binomial_interval(flagged, images)
    most = int(stats.binom.ppf(0.975, len(of), run.false_alarm_rate)) if images else 0
    return {
        "images": images,
        "flagged": flagged,
        "flagged_rate": flagged / images if images else None,
        "flagged_rate_interval": [float(low), float(high)] if images else None,
        "units": len(of),
        "units_flagged": int(of.sum()),
        "expected_if_all_good": run.false_alarm_rate * len(of),
        "most_if_all_good": most,
        "standing": "nothing scanned"
        if not images
        else "more"
        if of.sum() > most
        else "as promised",
        "not_a_number": int(np.isinf(scan.scores["pred_score"]).sum()),
        "rejected": len(scan.rejected),
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
    }


def by_image(scan: Scan) -> bool:
    """Whether the promised rate is one of images; that of lot maxima is one of whole lots."""
    return scan.run.unit != "lot_maximum"


def notes(scan: Scan) -> list[str]:
    """What a reviewer must know before trusting the page."""
    said = list(scan.run.notes)
    counted = {"images": len(scan.scores), "rejected": len(scan.rejected)}
    for name, count in counted.items():
        claimed = getattr(scan.run, name)
        if scan.run.state == "finished" and claimed not in (None, count):
            said.append(f"run.json counts {claimed:,} {name}, the tables hold {count:,}.")
    unknown = int(np.isinf(scan.scores["pred_score"]).sum())
    if unknown:
        said.append(f"{unknown:,} score(s) are not a finite number; such an image is flagged.")
    return said


def discoveries(scan: Scan) -> list[Numbers] | None:
    """How many images have a q-value of at most q; None of a scan without q-values.

    Flagging these keeps the share of good images among them at q, on average.
    """
    if "q_value" not in scan.scores:
        return None
    q_value = scan.scores["q_value"].to_numpy(float)
    return [{"q": q, "images": int((q_value <= q).sum())} for q in SHARES]


def levels(scan: Scan) -> list[Numbers] | None:
    """What was judged by which threshold; None where there is one for all."""
    if len(scan.run.levels) < 2 or "group_level" not in scan.scores:
        return None
    images = scan.scores["group_level"].value_counts().to_dict()
    flagged = scan.flagged["group_level"].value_counts().to_dict()
    return [
        {"name": name, "images": images.get(name, 0), "flagged": flagged.get(name, 0)}
        | {"good_images": level.images, "units": level.units}
        | {"threshold": level.image_threshold, "promise": level.promise}
        for name, level in scan.run.levels.items()
    ]


def lots(scan: Scan) -> tuple[str | None, pd.DataFrame]:
    """The column that images hang together by, and one row for each of its values.

    The group where a group holds several images, else the column `lot`, else nothing.
    """
    for column in ("group", "lot"):
        if column in scan.scores and _repeats(scan.scores[column]):
            name = column
            if "lot" in scan.scores and (scan.scores[column] == scan.scores["lot"]).all():
                name = "lot"
            return name, rolled_up(scan, [column])
    return None, rolled_up(scan, [])


def wafers(scan: Scan) -> pd.DataFrame | None:
    """One row per wafer where an image is a die; None where it is not."""
    if not {"wafer", "die_x", "die_y"} <= set(scan.scores.columns):
        return None
    return rolled_up(scan, [c for c in ("lot", "wafer") if c in scan.scores])


def wafer_names(scores: pd.DataFrame) -> pd.Series:
    """The wafer of each row, with its lot where there is one."""
    return _names(scores, [c for c in ("lot", "wafer") if c in scores])


def standouts(column: str | None, rows: pd.DataFrame) -> str:
    """The worst lots in one sentence."""
    if column is None:
        return ""
    outside = rows[rows["mark"].isin(["far above", "above"])]
    if outside.empty:
        return f"No {column} stands out."
    worst = zip(outside["name"], outside["flagged"], outside["images"], strict=True)
    told = [f"{name} ({flagged:,} of {images:,})" for name, flagged, images in list(worst)[:3]]
    more = f" and {len(outside) - 3:,} more" if len(outside) > 3 else ""
    return f"Standing out by all flagged images, good or not: {', '.join(told)}{more}."


def rolled_up(scan: Scan, columns: list[str]) -> pd.DataFrame:
    """Counts by the values of `columns`, worst first: least likely if all images were good.

    Columns: name, images, flagged, rate, low, high (95 % interval), rejected, mark ("far
    above", "above", "", "below", "far below" the binomial limits), first (earliest taken_at).
    """
    rows = _counts(scan, columns)
    images, flagged = rows["images"].to_numpy(float), rows["flagged"].to_numpy(float)
    rows["rate"] = flagged / np.maximum(images, 1)
    rows["low"], rows["high"] = binomial_interval(flagged, images)
    rows["mark"], rows["chance"] = "", np.nan
    if by_image(scan):
        rows["mark"], rows["chance"] = _against(images, flagged, scan.run.false_alarm_rate)
    order = ["chance", "rate", "images", "name"]
    return rows.sort_values(order, ascending=[True, False, False, True]).reset_index(drop=True)


def _against(images: Float64, flagged: Float64, rate: float) -> tuple[list[str], Float64]:
    """Marks of lots, and the chance of as many flagged if all images were good."""
    outer, inner = (limits(images, rate, level) for level in (0.998, 0.95))
    mark = np.select(
        [flagged > outer[1], flagged > inner[1], flagged < outer[0], flagged < inner[0]],
        ["far above", "above", "far below", "below"],
        "",
    )
    chance = np.asarray(stats.binom.sf(flagged - 1, images, rate))
    return [str(said) for said in mark], chance


def limits(images: Float64, rate: float, level: float) -> tuple[Float64, Float64]:
    """Counts of flagged images that good ones stay within: low and high for each lot size."""
    tail = (1 - level) / 2
    low, high = (np.asarray(stats.binom.ppf(q, images, rate)) for q in (tail, 1 - tail))
    return np.maximum(low, 0), high


def reasons(rejected: pd.DataFrame) -> list[Numbers]:
    """Rejected files by reason, most frequent first; the first `NAMED` of them named."""
    if rejected.empty:
        return []
    pairs = list(
        zip(rejected["image_path"].astype(str), rejected["reason"].astype(str), strict=True)
    )
    plain = [_plain_reason(path, reason) for path, reason in pairs]
    kinds = pd.Series([re.sub(r"\d+(\.\d+)?", "…", reason) for reason in plain])
    table = pd.DataFrame({"path": [path for path, _ in pairs], "reason": plain, "kind": kinds})
    told: list[Numbers] = []
    left = NAMED
    for kind in kinds.value_counts().index:
        same = table[table["kind"] == kind]
        said = same["reason"].iloc[0] if same["reason"].nunique() == 1 else kind
        told.append({"reason": said, "files": len(same), "named": same["path"].head(left).tolist()})
        left = max(0, left - len(same))
    return told


def _repeats(values: pd.Series) -> bool:
    """Whether a column puts images together, and into more than one lot or a whole one."""
    return 0 < values.nunique() <= values.notna().sum() / 2


def _counts(scan: Scan, columns: list[str]) -> pd.DataFrame:
    """name, images, flagged, rejected, first; a lot whose files were all rejected counts too."""
    empty = {"name": str, "images": int, "flagged": int, "rejected": int, "first": str}
    if not columns:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in empty.items()})
    names = _names(scan.scores, columns)
    taken = scan.scores.get("taken_at", pd.Series("", index=scan.scores.index)).astype(str)
    seen = pd.DataFrame({"name": names, "flagged": scan.scores["pred_label"] == 1, "first": taken})
    rows = seen.groupby("name").agg(
        images=("flagged", "size"), flagged=("flagged", "sum"), first=("first", "min")
    )
    lost = pd.Series(dtype=int)
    if set(columns) <= set(scan.rejected.columns):
        lost = _names(scan.rejected, columns).value_counts()
    rows = rows.reindex(rows.index.union(lost.index)).fillna(
        {"images": 0, "flagged": 0, "first": ""}
    )
    rows["rejected"] = lost.reindex(rows.index).fillna(0).astype(int)
    return rows.astype({"images": int, "flagged": int}).rename_axis("name").reset_index()


def _names(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    first, *others = (table[column].astype("string").fillna("unknown") for column in columns)
    for other in others:
        first = first + " / " + other
    return first


def _plain_reason(path: str, reason: str) -> str:
    """The reason without the file's own name, so that equal faults stand together."""
    for name in (path, Path(path).name):
        reason = reason.removeprefix(f"{name}: ")
    return reason


def entries(table: pd.DataFrame) -> list[Mapping[str, object]]:
    """Rows as dictionaries of plain values: None for missing or non-finite ones."""
    return [{str(k): plain(v) for k, v in row.items()} for row in table.to_dict("records")]


def plain(value: object) -> object:
    """A cell as JSON can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if isinstance(value, (int, str)) else str(value)
