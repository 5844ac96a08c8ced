"""Each row against the best baseline: differences on the same images, with intervals.

Both detectors see the same redraw of whole groups, so what makes a draw easy or hard for both
cancels (Davison, Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai.benchmark.plan import BASELINE, SCAN
from inspect_ai.benchmark.rows import Figure, Row
from inspect_ai.metrics import FEWEST, Rows, auroc, bootstrap_interval, threshold_at
from inspect_ai.scores import Bool, Float64

RESAMPLES = 200
OVERKILL = 0.01  # at which captures are compared


def compared(rows: Sequence[Row], out: Path) -> list[Row]:
    """Rows of one data set with their differences from the best baseline of their seed.

    The best is the one of the highest capture at 1 % (`Row.rank`) on these test images, which
    favours it. Where no baseline has a row's seed, that of the first seed stands in. A row whose
    scores are not under `out` any more keeps what it had.
    """
    return [_compared(row, _opponent(row, rows), out) for row in rows]


def differences(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[Figure, Figure | None]:
    """AUROC and capture at 1 % overkill, ours minus theirs; the latter None with too few good.

    Args:
        ours, theirs: image_path, group, gt_label (0 good, 1 bad), pred_score of one test split.
    """
    other = theirs.set_index("image_path")["pred_score"]
    known = ours[ours["gt_label"].notna() & ours["image_path"].isin(other.index)]
    score = np.stack([_finite(known["pred_score"]), _finite(other[known["image_path"]])])
    bad = (known["gt_label"] == 1).to_numpy(bool)
    few = OVERKILL * int((~bad).sum()) < FEWEST - 1e-9

    def apart(rows: Rows) -> Float64:
        return _apart(score[:, rows], bad[rows])

    value = apart(np.arange(len(bad)))
    low, high = bootstrap_interval(apart, known["group"].tolist(), RESAMPLES)
    figures = [
        Figure(value=v, low=None if np.isnan(a) else a, high=None if np.isnan(b) else b)
        for v, a, b in zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
    ]
    return figures[0], None if few else figures[1]


def best(rows: Sequence[Row]) -> Row | None:
    """The row of the highest rank that is done; the first by name where two are equal."""
    done = sorted((r for r in rows if r.state == "done" and r.auroc), key=lambda r: r.run)
    return max(done, key=lambda r: r.rank, default=None)


def _opponent(row: Row, rows: Sequence[Row]) -> Row | None:
    if row.state != "done" or row.auroc is None or row.family == BASELINE or row.trained_on:
        return None
    baselines = [r for r in rows if r.family == BASELINE and not r.trained_on]
    same = best([r for r in baselines if r.seed == row.seed])
    return same or best([r for r in baselines if r.seed == min(b.seed for b in baselines)])


def _compared(row: Row, other: Row | None, out: Path) -> Row:
    if other is None or (row.against, row.against_folder) == (other.run, other.folder):
        return row
    tables = [_scores(out / r.folder / SCAN) for r in (row, other)]
    if tables[0] is None or tables[1] is None:
        return row
    difference, capture = differences(tables[0], tables[1])
    fields = {"against": other.run, "against_folder": other.folder}
    figures = {"auroc_difference": difference, "capture_difference": capture}
    return row.model_copy(update=fields | figures)


def _scores(scan: Path) -> pd.DataFrame | None:
    columns = ["image_path", "group", "gt_label", "pred_score"]
    parts = sorted((scan / "scores").glob("part-*.parquet"))
    read = [pd.read_parquet(part, columns=columns) for part in parts]
    return pd.concat(read, ignore_index=True) if read else None


def _finite(score: pd.Series) -> Float64:
    """A score that is not a number is odder than everything."""
    values = score.to_numpy(float)
    return np.where(np.isnan(values), np.inf, values)


def _apart(score: Float64, bad: Bool) -> Float64:
    """(2,) differences of (2, N) scores; NaN where only good or only bad images were drawn."""
    if bad.all() or not bad.any():
        return np.full(2, np.nan)
    areas = [auroc(s[~bad], s[bad]) for s in score]
    shares = [(s[bad] > threshold_at(s[~bad], OVERKILL)).mean() for s in score]
    return np.array([areas[0] - areas[1], shares[0] - shares[1]])
