"""Images of finished scans scored again, for what a scan does not keep of images it did not flag.

A calibration holds of each good image the largest value of its map and a summary of it. The images
are read where they were scanned, must be the same, and must score the same through the same bundle.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai.batch import stages
from inspect_ai.bundle.bundle import Bundle
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.calibration.rows import noted, table
from inspect_ai.data import layouts
from inspect_ai.data.manifest import Report
from inspect_ai.errors import MissingData
from inspect_ai.review.joining import Source

TOGETHER, CALL = 256, 16  # images read, and scored, at a time
NEAR = 1e-3  # of the good scores' spread: as near as a score must come to itself


def measured(
    bundle: Bundle,
    scans: Sequence[Source],
    rows: pd.DataFrame,
    root: Path | None,
    report: Report,
) -> pd.DataFrame:
    """Rows of calibration.parquet of the images that join, scored again through the bundle.

    Args:
        rows: of all scans, with `scan` and whether they are `good`.
        root: where the images lie now; None: where they were.

    Raises:
        MissingData: an image is not as it was scanned, or cannot be read.
    """
    scorer, total, done = Scorer(bundle, "auto"), int(rows["good"].sum()), 0
    found = []
    for source in scans:
        ours = rows[rows["good"] & (rows["scan"] == source.name)].reset_index(drop=True)
        for start in range(0, len(ours), TOGETHER):
            part = ours.iloc[start : start + TOGETHER].reset_index(drop=True)
            found.append(_again(scorer, source, part, root))
            done += len(part)
            report(done, total)
    return pd.concat(found, ignore_index=True)


def _again(scorer: Scorer, source: Source, rows: pd.DataFrame, root: Path | None) -> pd.DataFrame:
    """What is kept of each image, which must be the one that the scan saw, with its score.

    Raises:
        MissingData: it is not, or cannot be read.
    """
    run, card = source.scan.run, scorer.bundle.card
    read = layouts.reader(run.data_spec, root or run.root)
    places = stages.told(rows, card.condition)
    seen = stages.see(range(len(rows)), rows["image_path"].tolist(), read, places)
    notes = []
    for group, pixels in stages.ready(seen, card.canvas, CALL).calls:
        told = [s.place for s in group if s.place is not None]
        scores = scorer.score(pixels, np.asarray(told, np.int64) if told else None)
        notes.append(noted(pixels, scores, card.image).set_index(pd.Index([s.row for s in group])))
    ids = pd.Series([s.image_id for s in seen], dtype="string")
    changed = np.asarray((ids != rows["image_id"]).fillna(True), np.bool_)
    if not changed.any():
        kept = table(rows, pd.concat(notes).sort_index(), card.groups)
        gap = kept["pred_score"].to_numpy(np.float64) - rows["pred_score"].to_numpy(np.float64)
        changed = np.abs(gap) > NEAR * card.parity.score_spread
    if changed.any():
        raise MissingData(
            f"{int(changed.sum())} image(s) of {source.scan.folder} are not there as they were "
            f"scanned; the first is {rows.loc[changed, 'image_path'].iloc[0]} under "
            f"{root or run.root}. Restore them, pass their folder with --root, or leave out the scan."
        )
    return kept
