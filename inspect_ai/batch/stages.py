"""The stages of a scan as plain functions: tables and arrays in, tables out; no clock."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from inspect_ai.bundle.thresholds import Thresholds
from inspect_ai.calibration import batch_fdr
from inspect_ai.data import images, inputs
from inspect_ai.data.conditions import UNKNOWN, Condition, Places
from inspect_ai.errors import BadImages
from inspect_ai.scores import Float32, Pixels, Scores

CANVAS_STEP = 16  # dies
MANY_LOTS = 20
# columns of a verdict; the data's own of these names are left out
OWN = (
    "pred_score", "p_value", "p_value_conditional", "pred_label", "pred_mask", "image_threshold",
    "pixel_threshold", "group_level", "promise", "q_value", "q_value_lot", *inputs.PICTURE,
    *inputs.WAFER_MAP,
)  # fmt: skip
MASKS = "masks"  # folder of a scan
ReadImage = Callable[[str], Pixels]
Measure = Callable[[Pixels], Mapping[str, float]]
ScoreImages = Callable[[Pixels, Places | None], Scores]


@dataclass(frozen=True, slots=True)
class Seen:
    """One image as it was read: its pixels and their name, or why there are none."""

    row: int
    pixels: Pixels | None
    image_id: str | None
    reason: str | None
    place: int | None = None  # of its value among a conditional model's
    measures: Mapping[str, float] = field(default_factory=dict)  # of the input


Call = tuple[list[Seen], Pixels]  # images of one shape, and their (N, C, H, W) batch


@dataclass(frozen=True, slots=True)
class Ready:
    """Images read and put together, and those that could not be read."""

    calls: list[Call]
    refused: list[Seen]


@dataclass(frozen=True, slots=True)
class Scored:
    """One image with its scores."""

    seen: Seen
    pred_score: float
    anomaly_map: Float32  # (H, W)
    expected: Float32  # (C, H, W)


def parts(rows: int, size: int) -> list[range]:
    """Cuts row numbers into parts of `size`, the last one shorter."""
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


def see(
    rows: Sequence[int],
    paths: Sequence[str],
    read: ReadImage,
    told: Sequence[int | str] | None = None,
    measure: Measure | None = None,
) -> list[Seen]:
    """Reads images; what cannot be read is kept with its reason.

    Args:
        told: for a conditional model, the place of each image's value, or why it has none.
        measure: what to note of each input beside its score.
    """
    found = []
    for i, (row, path) in enumerate(zip(rows, paths, strict=True)):
        place = told[i] if told else None
        if isinstance(place, str):
            found.append(Seen(row, None, None, place))
            continue
        try:
            pixels = read(path)
            noted = measure(pixels) if measure else {}
            found.append(Seen(row, pixels, images.content_id(pixels), None, place, noted))
        except BadImages as error:
            found.append(Seen(row, None, None, str(error)))
    return found


def told(table: pd.DataFrame, condition: Condition | None) -> list[int | str] | None:
    """The place of each row's value, or why it has none; None for an unconditional model.

    Raises:
        MissingData: the table has no such column.
    """
    if condition is None:
        return None
    said = zip(condition.places(table).tolist(), condition.said(table), strict=True)
    return [place if place != UNKNOWN else _unknown(condition, value) for place, value in said]


def _unknown(condition: Condition, value: str) -> str:
    return (
        f"{'/'.join(condition.columns)} is '{value}', and the model knows "
        f"{', '.join(map(repr, condition.values))}. Build a bundle with it among them."
    )


def ready(seen: Sequence[Seen], canvas: tuple[int, int] | None, most: int) -> Ready:
    """Puts readable images of one shape together into calls of at most `most`.

    Args:
        canvas: wafer maps go into batches by size, those of up to this (H, W) on a few canvases;
            None for pictures.
    """
    calls = []
    for shape, group in _together([s for s in seen if s.pixels is not None], canvas).items():
        for start in range(0, len(group), most):
            part = group[start : start + most]
            pixels = [s.pixels for s in part if s.pixels is not None]
            batch = _batch(pixels, shape, canvas is not None)
            calls.append((part, batch))
    return Ready(calls, [s for s in seen if s.pixels is None])


def score(calls: Sequence[Call], run: ScoreImages) -> Iterator[list[Scored]]:
    """Scores the images of each call."""
    for group, pixels in calls:
        places = [s.place for s in group if s.place is not None]
        scores = run(pixels, np.asarray(places, np.int64) if places else None)
        assert scores.expected is not None
        columns = (scores.pred_score.tolist(), scores.anomaly_map, scores.expected)
        yield [Scored(*row) for row in zip(group, *columns, strict=True)]


def decide(table: pd.DataFrame, found: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """Rows of the plan with score, p-value, verdict, and the promise that it stands on.

    Args:
        table: rows of the plan, indexed by row number.
        found: image_id, pred_score and measures of the input, indexed by row number.

    Raises:
        MissingData: a column is not there that thresholds are kept apart by.
    """
    pred_score = found["pred_score"].to_numpy(np.float32)
    kept = table.loc[found.index].drop(columns=["image_id"], errors="ignore")
    level = thresholds.scores.level(kept)
    flagged = thresholds.scores.is_anomalous(pred_score, level)
    image_id = found["image_id"].astype("string")
    verdicts = pd.DataFrame(
        {
            "image_id": image_id,
            "image_path": kept["image_path"],
            "pred_score": pred_score,
            "p_value": thresholds.scores.p_value(pred_score, level),
            "pred_label": flagged.astype(np.int8),
            "pred_mask": (f"{MASKS}/" + image_id + ".png").where(flagged),
            "image_threshold": thresholds.scores.threshold(level),
            "pixel_threshold": thresholds.of_pixels(level),
            "group_level": level,
            "promise": pd.Series(thresholds.promises(level), found.index, dtype="string"),
        },
        index=found.index,
    )
    if thresholds.conditional:
        verdicts["p_value_conditional"] = thresholds.scores.p_value_conditional(pred_score, level)
    measures = found.drop(columns=["image_id", "pred_score"])
    own = kept.drop(columns=["image_path", *OWN], errors="ignore")
    return verdicts.join(measures).join(own)


def discoveries(verdicts: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """Adjusted p-values of a whole scan, over all its images and over those of each lot.

    Flagging what has at most q keeps the share of good images among the flagged at q, on average.

    Args:
        verdicts: p_value, group and group_level of every scored image.
    """
    p_value, lots = verdicts["p_value"].to_numpy(np.float64), verdicts["group"].astype(str)
    # how many are good is estimated from images of many lots alone: those of one are alike
    many = lots.nunique() >= MANY_LOTS and thresholds.promise.unit != "lot_share"
    units = {name: level.units for name, level in thresholds.levels.items()}
    n = np.asarray(verdicts["group_level"].map(units), np.int64)
    q_value = batch_fdr.q_values(p_value, storey=many, n=n)
    return pd.DataFrame({"q_value": q_value, "q_value_lot": batch_fdr.by_lot(p_value, lots)})


def rejected(table: pd.DataFrame, seen: Sequence[Seen]) -> pd.DataFrame:
    """Rows of the plan that could not be read, with reasons."""
    reasons = pd.Series({s.row: s.reason for s in seen if s.reason}, dtype="string")
    rows = table.loc[reasons.index].drop(columns=["image_id"], errors="ignore")
    rows.insert(1, "reason", reasons)
    return rows


def _together(
    seen: Sequence[Seen], canvas: tuple[int, int] | None
) -> dict[tuple[int, ...], list[Seen]]:
    groups: dict[tuple[int, ...], list[Seen]] = {}
    for one in seen:
        assert one.pixels is not None
        groups.setdefault(_batch_shape(one.pixels, canvas), []).append(one)
    return groups


def _batch(pixels: list[Pixels], shape: tuple[int, ...], padded: bool) -> Pixels:
    return images.padded(pixels, (shape[-2], shape[-1])) if padded else images.stacked(pixels)


def _batch_shape(pixels: Pixels, canvas: tuple[int, int] | None) -> tuple[int, ...]:
    """A map's canvas, by its own size alone, so that no score depends on its neighbours.

    Squares in steps, up to the calibrated canvas: a small map is not scored at the cost of a
    large one. A map larger than that goes with its equals.
    """
    if canvas is None:
        return pixels.shape
    tall, wide = pixels.shape[1:]
    if tall > canvas[0] or wide > canvas[1]:
        return pixels.shape
    side = -(-max(tall, wide) // CANVAS_STEP) * CANVAS_STEP
    return min(side, canvas[0]), min(side, canvas[1])
