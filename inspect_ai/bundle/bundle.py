"""The bundle: a folder that holds all the shop floor needs, each part bound to the others.

    model.onnx            pixels of a file in, pred_score, anomaly_map and expected out
    calibration.parquet   the good scores, measured through this very model.onnx
    bundle.json           image rule, promise, thresholds, parity figures, hashes

bundle.json holds the hash of each file and of the thresholds, and the thresholds must follow
from the scores; model.onnx names the hash of the calibration. A bundle in which anything that
touches a verdict or the promise was changed is not loaded.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from inspect_ai import steps
from inspect_ai.calibration.conformal import Calibration
from inspect_ai.data.conditions import Condition
from inspect_ai.data.specs import DataSpec, ImageRule
from inspect_ai.errors import BadBundle, BadSettings
from inspect_ai.settings import Settings

CARD, MODEL, SCORES = "bundle.json", "model.onnx", "calibration.parquet"
FORMAT = 1


class Parity(Settings):
    """How far ONNX Runtime and torch were apart when the bundle was made."""

    images: int
    edge_cases: tuple[str, ...]
    largest_score_difference: float  # on the calibration images
    largest_map_difference: float  # on those and on the edge cases
    edge_score_difference: float | None = None  # on the edge cases, which may score far out
    score_spread: float  # standard deviation of the good scores: the scale of the difference
    verdicts_flipped: Literal[0]  # a bundle with a flipped verdict is never written


class Guarded(Settings):
    """What the guard of build found on planted defects, and on the good images they lie on."""

    images: int  # good images, each scored as it is and with defects
    planted: int  # defects, one at a time: as many as images, or a multiple where they are few
    chance: float  # share that a score which knows nothing would flag; the promised rate at most
    capture: float  # share of the planted defects above the calibrated threshold, in [0, 1]
    pca_capture: float  # the same of PCA, its own threshold set in the same way
    auroc: float  # of planted against good, in [0, 1]
    pca_auroc: float
    psnr: float  # dB; how well the good images are redrawn
    pca_psnr: float
    pca_components: int  # 64, or as many as the images allow
    doubts: tuple[str, ...] = ()  # why the model should not be used; empty: it passed
    forced: bool = False  # exported in spite of them


class Card(Settings):
    """What bundle.json says."""

    format: Literal[1] = 1
    name: str  # of the data set
    model: str
    rule: str
    recipe: dict[str, Any]
    recipe_hash: str
    image: ImageRule  # what one image must look like
    data_spec: DataSpec
    data_spec_hash: str
    canvas: tuple[int, int] | None  # smallest batch of wafer maps, in dies
    condition: Condition | None = None  # what the model is told of each image; None: nothing
    false_alarm_rate: float
    confidence: float | None
    image_threshold: float  # scores strictly above it are flagged
    pixel_threshold: float  # the same rule on each image's largest map value
    promise: str
    calibration_images: int
    thresholds_hash: str
    hashes: dict[str, str]  # file -> sha256
    parity: Parity
    guard: Guarded | None = None  # None: not examined
    versions: dict[str, str]
    created_at: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified."""

    folder: Path
    card: Card
    calibration: Calibration

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL

    @property
    def hash(self) -> str:
        """Names the bundle's content; a score belongs to it and an image."""
        return steps.sha256(self.folder / CARD)


def thresholds_hash(
    false_alarm_rate: float, confidence: float | None, image: float, pixel: float
) -> str:
    """Binds promise and thresholds together."""
    text = json.dumps([false_alarm_rate, confidence, image, pixel])
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path) -> Bundle:
    """A bundle, with every hash and threshold checked.

    Raises:
        BadBundle: a file is absent or was changed after export.
    """
    try:
        fields = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadBundle(
            f"{folder} is no bundle: it has no readable {CARD}. Pass the folder that "
            "'inspect-ai export' wrote, or <out>/bundle of 'inspect-ai build'."
        ) from None
    version = fields.get("format") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise BadBundle(f"{folder} was written by a newer version. Update inspect-ai-wafer.")
    try:
        card = Card.checked(fields, str(folder / CARD))
    except BadSettings as error:
        raise BadBundle(f"{error}\nThe bundle was changed. Export it again.") from None
    _check_files(folder, card)
    calibration = _checked_calibration(folder, card)
    return Bundle(folder, card, calibration)


def _check_files(folder: Path, card: Card) -> None:
    for name in (MODEL, SCORES):
        path = folder / name
        if not path.is_file() or steps.sha256(path) != card.hashes.get(name):
            state = "was changed after export" if path.is_file() else "is missing"
            raise BadBundle(f"{path} {state}. Export the bundle again, or restore the file.")


def _checked_calibration(folder: Path, card: Card) -> Calibration:
    """The yardstick, whose thresholds must be the card's."""
    kept = _good_scores(folder / SCORES)
    rate, confidence = card.false_alarm_rate, card.confidence
    calibration, largest = (
        Calibration(np.sort(kept[c].to_numpy(np.float32)), rate, confidence)
        for c in ("pred_score", "map_max")
    )
    given = (rate, confidence, card.image_threshold, card.pixel_threshold)
    found = (calibration.threshold, largest.threshold)
    hashes = thresholds_hash(*given), card.data_spec.hash()
    same = hashes == (card.thresholds_hash, card.data_spec_hash)
    same &= card.image == card.data_spec.image
    if found != given[2:] or not same or calibration.promise != card.promise:
        raise BadBundle(
            f"Thresholds, promise or data spec of {folder / CARD} do not follow from {SCORES}: the "
            "file was changed by hand. Export the bundle again with the rate you want."
        )
    return calibration


def _good_scores(path: Path) -> pd.DataFrame:
    try:
        kept = pd.read_parquet(path, columns=["pred_score", "map_max"])
    except (OSError, ValueError, KeyError) as error:
        raise BadBundle(f"{path} cannot be read ({error}). Export the bundle again.") from None
    if kept.empty:
        raise BadBundle(f"{path} holds no good score. Export the bundle again.")
    return kept
