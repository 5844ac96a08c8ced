"""From a detector to a bundle, behind a gate: ONNX Runtime must give torch's verdicts.

The graph begins at the file's own pixels and ends at the score, so nothing can differ between
workshop and floor but arithmetic. The good scores are measured again through the exported
file: the yardstick that travels is the one the floor's instrument gives.
"""

import logging
import platform
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch

from inspect_ai import __version__
from inspect_ai.bundle.runtime import answer, open_session
from inspect_ai.data.conditions import Places
from inspect_ai.data.specs import ImageRule
from inspect_ai.errors import ParityFailed
from inspect_ai.scores import Bool, Float32, Pixels, Scores
from inspect_ai.training.detector import Detector, Given

OPSET = 20
TOLERANCE = 1e-3  # of the good scores' spread; ten times what has been seen
Score = Callable[[Pixels, Places | None], Scores]
Note = Callable[[Pixels, Scores], pd.DataFrame]


@dataclass(frozen=True, slots=True)
class Compared:
    """Scores of the same images through torch and ONNX Runtime."""

    torch_scores: Float32
    onnx_scores: Float32
    noted: pd.DataFrame  # of the images, through ONNX Runtime
    score_difference: float
    map_difference: float


def to_onnx(detector: Detector, example: Pixels, path: Path) -> None:
    """Writes the detector as one ONNX file; batch, height and width stay free.

    A conditional detector has a second input, `condition`, a whole number for each image.

    Args:
        example: (N, C, H, W) pixels with N of 2 or more.
    """
    inputs = {"input": torch.from_numpy(example)}
    free = {"pixels": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}
    if detector.classes:
        inputs["condition"] = torch.arange(len(example)) % detector.classes
        free["condition"] = {0: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision aloud
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own code
        program = torch.onnx.export(
            detector.eval(),
            tuple(inputs.values()),
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["pred_score", "anomaly_map", "expected"],
            dynamic_shapes=free,
        )
    assert program is not None
    program.save(str(path))


def annotate(path: Path, fields: dict[str, str]) -> None:
    """Writes metadata into the ONNX file."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, fields)
    onnx.save(model, path)


def scorer(path: Path) -> Score:
    """Scores through an ONNX file on the CPU."""
    session = open_session(path, "cpu")
    return partial(answer, session)


def peaks(pixels: Pixels, scores: Scores) -> pd.DataFrame:
    """The largest value of each map."""
    del pixels
    return pd.DataFrame({"map_max": scores.anomaly_map.max(axis=(1, 2))})


def compare(batches: Iterable[Given], ours: Score, theirs: Score, note: Note = peaks) -> Compared:
    """Scores every batch both ways.

    Args:
        ours: torch. theirs: ONNX Runtime.
        note: what to keep of each batch, a row an image.

    Raises:
        ParityFailed: one of them gives a number where the other does not.
    """
    rows, notes, maps = [], [], 0.0
    for given in batches:
        a, b = ours(*given), theirs(*given)
        if (np.isfinite(a.pred_score) != np.isfinite(b.pred_score)).any():
            raise ParityFailed(
                f"torch scores {a.pred_score} and ONNX Runtime {b.pred_score} for the same "
                "images. Use another rule or model, and report this graph."
            )
        maps = float(np.maximum(maps, _apart(a.anomaly_map, b.anomaly_map)))
        rows.append((a.pred_score, b.pred_score))
        notes.append(note(given[0], b))
    torch_scores, onnx_scores = (np.concatenate(c) for c in zip(*rows, strict=True))
    noted = pd.concat(notes, ignore_index=True)
    return Compared(torch_scores, onnx_scores, noted, _apart(torch_scores, onnx_scores), maps)


def _apart(a: Float32, b: Float32) -> float:
    """Largest difference; not a number where either is not finite."""
    with np.errstate(invalid="ignore"):
        return float(np.abs(a - b).max())


@dataclass(frozen=True, slots=True)
class Judged:
    """Calibration images that one threshold judges, and that threshold on either side."""

    rows: Bool  # (N,) of the calibration images
    ours: float
    theirs: float


def check(found: Compared, edge: Compared, levels: Sequence[Judged]) -> None:
    """Refuses an export that would change a verdict.

    Args:
        levels: every threshold that is shipped; edge cases are held against each.

    Raises:
        ParityFailed: a verdict differs, scores differ by more than the tolerance, or a score
            or map is not finite.
    """
    spread = float(np.std(found.onnx_scores))
    for level in levels:
        _check_verdicts(found, edge, level, spread)
    scale = np.maximum(np.abs(edge.torch_scores).max(), spread)  # an edge case may score far out
    limits = {"calibration images": TOLERANCE * spread, "edge cases": TOLERANCE * float(scale)}
    for (what, limit), pair in zip(limits.items(), (found, edge), strict=True):
        if not np.isfinite([pair.score_difference, pair.map_difference]).all():
            raise ParityFailed(
                f"A score or map of {what} is not a finite number. Use another rule or model, "
                "and report this graph."
            )
        if pair.score_difference > limit:
            raise ParityFailed(
                f"Scores of {what} differ by {pair.score_difference:.3g} between torch and ONNX "
                f"Runtime, allowed is {limit:.3g}. Report this graph."
            )


def _check_verdicts(found: Compared, edge: Compared, level: Judged, spread: float) -> None:
    for what, pair in (("calibration images", found), ("edge cases", edge)):
        gaps = pair.torch_scores - level.ours, pair.onnx_scores - level.theirs
        flipped = (gaps[0] <= 0) != (gaps[1] <= 0)
        if pair is edge:
            # the image that set the threshold, in a batch of another size, may differ from
            # itself in the last digit: a tie
            flipped &= ~(np.abs(gaps).max(0) <= TOLERANCE * spread)
        else:
            flipped &= level.rows
        if flipped.any():
            raise ParityFailed(
                f"{int(flipped.sum())} verdicts on {what} differ between torch and ONNX Runtime "
                f"(largest score difference {pair.score_difference:.3g}, threshold "
                f"{level.theirs:.6g}). Calibrate on other images, or report this graph."
            )


def edge_cases(rule: ImageRule, good: Pixels) -> dict[str, Pixels]:
    """Batches on which graphs tend to break.

    Args:
        good: (N, C, H, W) real images, N of 3 or more.
    """
    if rule.kind == "wafer_map":
        low, high = np.minimum(good, 1), np.where(good > 0, 2, 0).astype(np.uint8)
    else:
        low, high = np.full_like(good, rule.minimum), np.full_like(good, rule.largest)
    around = 0 if rule.kind == "wafer_map" else rule.minimum
    padded: Pixels = np.pad(  # type: ignore[assignment]
        good[:3], ((0, 0), (0, 0), (0, 9), (0, 5)), constant_values=around
    )
    return {
        "constant": low[:2],
        "saturated": high[:2],
        "batch of 1": good[:1],
        "odd batch": good[:3],
        "other size": padded,
    }


def versions() -> dict[str, str]:
    """What made the bundle."""
    return {
        "inspect-ai-wafer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "opset": str(OPSET),
    }
