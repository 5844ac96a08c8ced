"""What a fit sees: good images cut in two by group, trimmed if asked for, as the model sees them.

Some images that are called good are not, and a model that learns them expects them. With
`trim = 0.05` in the run file a first fit sees all images, and its own scores say which share of
them is the oddest; a second fit, from scratch, sees the rest. The images for the weights and those
for the rule's statistics are trimmed each by themselves: scores of images that a weight has seen
are lower. A rare kind of good image is odd too, and goes first: look at trimmed.parquet. Images of
split `calibrate` are never trimmed: the promise is about good images as they come.

Source: Hubert, Rousseeuw, Vanden Branden, "ROBPCA: a new approach to robust principal component
analysis", Technometrics 47(1), 2005 (fit, leave out the oddest, fit again).
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import progress
from inspect_ai.calibration.contamination import suspects
from inspect_ai.data.manifest import Manifest
from inspect_ai.errors import MissingData
from inspect_ai.scores import Float32, UInt8
from inspect_ai.training import batches as feed
from inspect_ai.training.detector import Detector, Given, Single

TRIMMED, FIRST_FIT = "trimmed.parquet", "first_fit"
BATCH = 64  # images read at a time
Dropped = frozenset[str]  # image_ids


def cut(
    rows: pd.DataFrame, share: float, seed: int, split: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of most groups, and those of the groups that make up the share.

    Raises:
        MissingData: there are not groups enough.
    """
    names = sorted(
        rows["group"].unique(), key=lambda g: hashlib.sha256(f"{seed}/{g}".encode()).digest()
    )
    sizes = rows.groupby("group").size().reindex(names).cumsum()
    few = max(1, int((sizes <= share * len(rows)).sum()))  # a group at least
    held = rows["group"].isin(names[:few])
    if not held.any() or held.all():
        raise MissingData(
            f"{len(rows)} good images of split '{split}' in {len(names)} group(s) cannot be cut in "
            f"two by group. Add images, or a larger '{split}' share in the data spec."
        )
    return rows[~held], rows[held]


def left(rows: pd.DataFrame, dropped: Dropped) -> pd.DataFrame:
    """Rows without the dropped images."""
    return rows[~rows["image_id"].isin(dropped)] if dropped else rows


def inputs(dropped: Dropped) -> dict[str, object]:
    """What a fit without these images depends on, beyond its recipe and its manifest."""
    text = ",".join(sorted(dropped))
    return {"dropped": hashlib.sha256(text.encode()).hexdigest()} if dropped else {}


def scores(detector: Detector, batches: Iterable[Given]) -> Float32:
    """A detector's scores of all images, (N,)."""
    return np.concatenate([detector.score(*batch).pred_score for batch in batches])


def trimmed(
    scored: Iterable[tuple[pd.DataFrame, Float32]], share: float, kept: Path
) -> pd.DataFrame:
    """The oddest images of each part of the split; read from `kept` where it is there.

    Args:
        scored: rows of the manifest and their (N,) scores: for the weights, for the rule.
        share: of each part, at most; in (0, 0.5).
        kept: parquet file of image_id, image_path, group, pred_score; written in one move.
    """
    if not kept.is_file():
        found = [_oddest(rows, scores, share) for rows, scores in scored]
        part = kept.with_suffix(".part")
        pd.concat(found, ignore_index=True).to_parquet(part, index=False)
        part.replace(kept)
    return pd.read_parquet(kept)


def _oddest(rows: pd.DataFrame, scores: Float32, share: float) -> pd.DataFrame:
    table = rows[["image_id", "image_path", "group"]].assign(pred_score=scores)
    odd = table[suspects(scores, share)]
    return odd.sort_values("pred_score", ascending=False, na_position="first", kind="stable")


def prepared(
    pool: feed.Pool, detector: Single, rows: pd.DataFrame, manifest: Manifest
) -> Float32 | UInt8:
    """What the model sees of each row: its grid, or a map's own dies on one square canvas."""
    dies = detector.model.native and detector.view.kind == "wafer_map"
    side = max(max(b.shape[2:]) for b in feed.raw(rows, manifest, BATCH)) if dies else 0
    with progress.bar("read") as bar:

        def report(done: int) -> None:
            bar(done, len(rows))

        kind = np.uint8 if dies else np.float32
        return pool.fill(
            feed.raw(rows, manifest, BATCH, side), detector.seen_by_model, report, kind
        )
