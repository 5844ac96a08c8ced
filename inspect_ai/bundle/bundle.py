"""The bundle: a folder that holds all the shop floor needs, each part bound to the others.

    model.onnx            pixels of a file in, pred_score, anomaly_map and expected out
    calibration.parquet   the good scores, measured through this very model.onnx
    bundle.json           image rule, promise, thresholds, parity figures, hashes, and, where it
                          was calibrated again, by whom and from what (audit.parquet)

bundle.json holds the hash of each file and of all it says itself, and the thresholds must follow
from the scores; model.onnx names the hash of the calibration. A bundle in which anything was
changed is not loaded.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from inspect_ai import steps
from inspect_ai.bundle import thresholds
from inspect_ai.bundle.thresholds import Level, Thresholds
from inspect_ai.calibration.conformal import Calibration, Unit
from inspect_ai.calibration.promise import Promise
from inspect_ai.calibration.tails import Tail
from inspect_ai.data.conditions import Condition
from inspect_ai.data.specs import DataSpec, ImageRule
from inspect_ai.errors import BadBundle, BadSettings, InspectError
from inspect_ai.settings import Settings

CARD, MODEL, SCORES = "bundle.json", "model.onnx", "calibration.parquet"
FORMAT = 2  # 1: before there were lots, groups and tails; read as what it said


# fields of a card that must follow from the good scores; the first are those of format 1
BOUND = ("false_alarm_rate", "confidence", "image_threshold", "pixel_threshold")
BOUND_TOO = ("unit", "groups", "levels", "lots", "pixel_rate", "pixel_rate_threshold", "tail")


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


class Recalibrated(Settings):
    """One change of the calibration that a person accepted."""

    bundle_hash: str  # of the bundle before
    accepted_by: str
    accepted_at: str
    verdicts_hash: str  # sha256 of the table of verdicts
    scans: tuple[str, ...]  # sha256 of each one's run.json
    joined: int  # good images that were added
    alone: bool = False  # whether those of before were left out
    left_out: int  # images decided to be defects
    image_threshold_before: float
    image_threshold: float
    promise_before: str


class Card(Settings):
    """What bundle.json says."""

    format: Literal[1, 2] = 2
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
    unit: Unit = "image"  # what the promise counts
    groups: tuple[str, ...] = ()  # columns with thresholds of their own, coarse to fine
    levels: dict[str, Level] = Field(default_factory=dict)  # thresholds by category
    lots: int | None = None
    correlation: float | None = None  # of the scores of one lot; None: not known
    worth: float | None = None  # independent images that the calibration images are worth
    pixel_rate: float | None = None  # promised share of good pixels above the next
    pixel_rate_threshold: float | None = None
    tail: Tail | None = None  # what the image threshold was extrapolated by
    history: tuple[Recalibrated, ...] = ()
    thresholds_hash: str
    hashes: dict[str, str]  # file -> sha256
    parity: Parity
    guard: Guarded | None = None  # None: not examined
    versions: dict[str, str]
    created_at: str

    @model_validator(mode="after")
    def _is_of_its_format(self) -> Self:
        """What came with format 2 is bound by the hash of format 2 alone."""
        new = self.unit != "image", self.groups, self.pixel_rate, self.tail, self.history
        if self.format == 1 and any(new):
            raise ValueError("format 1 knows no unit, groups, pixel_rate, tail or history")
        return self

    @property
    def promised(self) -> Promise:
        """What was asked of the calibration."""
        return Promise(
            false_alarm_rate=self.false_alarm_rate,
            confidence=self.confidence,
            unit=self.unit,
            groups=self.groups,
            pixel_rate=self.pixel_rate,
            tail=self.tail is not None,
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified."""

    folder: Path
    card: Card
    thresholds: Thresholds

    @property
    def calibration(self) -> Calibration:
        """The yardstick of all good images."""
        return self.thresholds.scores.all

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL

    @property
    def hash(self) -> str:
        """Names the bundle's content; a score belongs to it and an image."""
        return steps.sha256(self.folder / CARD)


def bound(card: Card) -> Card:
    """The card with the hash that binds all it says."""
    return card.model_copy(update={"thresholds_hash": _hash(card)})


def _hash(card: Card) -> str:
    """Of all that a card says; of format 1, of its promise and thresholds alone."""
    fields = card.model_dump(mode="json", exclude={"thresholds_hash"})
    kept = fields if card.format > 1 else [fields[name] for name in BOUND]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


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
    return Bundle(folder, card, _checked_thresholds(folder, card))


def _check_files(folder: Path, card: Card) -> None:
    for name in (MODEL, SCORES, *card.hashes):
        path = folder / name
        if not path.is_file() or steps.sha256(path) != card.hashes.get(name):
            state = "was changed after export" if path.is_file() else "is missing"
            raise BadBundle(f"{path} {state}. Export the bundle again, or restore the file.")


def _checked_thresholds(folder: Path, card: Card) -> Thresholds:
    """Thresholds made again from the good scores, which must be the card's."""
    kept, why = _good_scores(folder / SCORES), ""
    tail, at, said = card.tail, card.image_threshold, card.promise
    known = None if tail is None else thresholds.Beyond(tail, at, said)
    try:
        found = thresholds.derive(kept, card.promised, known)
    except (InspectError, KeyError, ValueError) as error:
        why = f" ({error})"
    else:
        checked = [*BOUND, "promise", "calibration_images"]
        checked += BOUND_TOO if card.format > 1 else ()
        ours, theirs = found.fields(), card.model_dump(mode="json")
        same = all(_plain(ours[name]) == theirs[name] for name in checked)
        hashes = _hash(card), card.data_spec.hash()
        same &= hashes == (card.thresholds_hash, card.data_spec_hash)
        if same and card.image == card.data_spec.image:
            return found
    raise BadBundle(
        f"Thresholds, promise or data spec of {folder / CARD} do not follow from {SCORES}{why}: the "
        "file was changed by hand. Export the bundle again with the rate you want."
    )


def _plain(value: Any) -> Any:
    """A field as JSON holds it."""
    return json.loads(json.dumps(value, default=lambda inner: inner.model_dump(mode="json")))


def _good_scores(path: Path) -> pd.DataFrame:
    try:
        kept = pd.read_parquet(path)
    except (OSError, ValueError, KeyError) as error:
        raise BadBundle(f"{path} cannot be read ({error}). Export the bundle again.") from None
    if missing := [c for c in ("image_id", "group", "pred_score", "map_max") if c not in kept]:
        raise BadBundle(f"{path} lacks {', '.join(missing)}. Export the bundle again.")
    if kept.empty:
        raise BadBundle(f"{path} holds no good score. Export the bundle again.")
    return kept
