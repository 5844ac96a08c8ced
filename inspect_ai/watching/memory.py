"""What the monitor remembers between scans: a folder with one file for each place that is watched.

    settings.json      delta and run length, given once: a promise for life bears no second try
    <name>.npz         one place: its streams, the scans it has taken in, the images and lots seen

A place is a bundle with the values of a few columns, such as one tool with one product. Its file
appears by one move, so that a kill leaves the old one or the new one; it names the scans that are
in it, so that after a kill each place takes in just what it lacks. Nothing is ever unpickled.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from inspect_ai import steps
from inspect_ai.calibration import drift
from inspect_ai.calibration.streams import Alarm, Cut, Stream, Trace
from inspect_ai.errors import BadSettings, MissingData, OutputInUse
from inspect_ai.settings import Settings

SETTINGS = "settings.json"
SCORE, FLAGGED = "pred_score", "flagged"  # beside the input measures
Names = NDArray[np.uint64]  # hashes, in the order in which they came


class Watch(Settings):
    """How a state folder watches; fixed when it begins."""

    format: Literal[2] = 2  # 1: images of a lot counted as if they were independent
    delta: float = Field(default=0.05, gt=0, lt=1)  # chance that a place ever alarms in vain
    run_length: float = Field(default=10_000, gt=1)  # images of a place between false quick alarms
    by: tuple[str, ...] | None = None  # columns; None: tool and product, where they are there


class _About(Settings):
    """What a file says of a stream, beside its arrays."""

    delta: float
    run_length: float
    began: int
    joined: int
    n: int
    log_m: float
    peak: float
    alarm: Alarm | None
    quick: tuple[Alarm, ...]
    quick_alarms: int
    stride: int


class Identity(Settings):
    """Which place it is, and how its images are counted."""

    bundle_hash: str
    by: dict[str, str]
    unit: str  # what the promise counts: image, or a lot
    kind: str  # picture or wafer_map
    began: int = 0  # calibration lots that it began with; images, where each is its own
    epoch: int = 0  # how often its alarms were closed
    bundle: str = ""  # where the bundle lay

    @property
    def name(self) -> str:
        """Names the place, and settles its ties."""
        return json.dumps([self.bundle_hash, sorted(self.by.items())])

    @property
    def file(self) -> str:
        """Where it is kept."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:20] + ".npz"


class Intake(Settings):
    """What one scan brought to a place."""

    scan: str
    folder: str
    images: int
    flagged: int
    middle: int  # number of its middle score in the stream of scores; 0 once that was closed
    until: int  # number of its last one


class Closed(Settings):
    """Alarms that a person closed."""

    by: str
    at: str
    alarms: dict[str, Alarm]


class Counts(Settings):
    """What a place has taken in since it began, or began anew."""

    intakes: tuple[Intake, ...] = ()  # ever
    closed: tuple[Closed, ...] = ()  # ever
    images: int = 0  # that entered the streams: one of each lot
    flagged: int = 0  # of these
    seen: int = 0  # all new images
    seen_flagged: int = 0
    repeated: int = 0  # images left out: they, or their lot, had come before
    ordinary: int = 0  # below the cut
    latest: dict[str, int] = Field(default_factory=dict)  # length of each stream before the last

    @property
    def scans(self) -> tuple[str, ...]:
        """Names of the scans that are in it."""
        return tuple(one.scan for one in self.intakes)


class _Header(Settings):
    format: Literal[2] = 2
    identity: Identity
    counts: Counts
    streams: dict[str, _About]


@dataclass(frozen=True, slots=True)
class Place:
    """One place that is watched.

    Args:
        streams: by measure.
        cut: where ordinary scores end.
        keys: of the latest images that entered the streams.
        lots: of the same; an image without a lot has its own.
    """

    identity: Identity
    streams: Mapping[str, Stream]
    cut: Cut
    counts: Counts = field(default_factory=Counts)
    keys: Names = field(default_factory=lambda: np.empty(0, np.uint64))
    lots: Names = field(default_factory=lambda: np.empty(0, np.uint64))


def opened(folder: Path, asked: Watch) -> Watch:
    """How the folder watches; a new one takes what is asked, once it begins.

    Args:
        asked: fields that were set must be those of a folder that has begun.

    Raises:
        OutputInUse: the folder holds something else.
        BadSettings: it watches in another way, or settings.json was changed.
    """
    path = folder / SETTINGS
    if not path.is_file():
        if folder.exists() and (
            not folder.is_dir() or any(p.suffix != ".part" for p in folder.iterdir())
        ):
            raise OutputInUse(
                f"{folder} holds something that 'inspect-ai monitor' did not write. Pass a new "
                "folder with --state."
            )
        return asked
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(fields, dict) and fields.get("format") == 1:
            raise BadSettings(
                f"{folder} was begun by a version that counted images of a lot as independent, "
                "which alarms in vain. Begin anew with another --state."
            )
        found = Watch.checked(fields, str(path))
    except ValueError as error:
        raise BadSettings(f"{path} is not JSON ({error}). Restore it from a copy.") from None
    for name in asked.model_fields_set:
        if getattr(asked, name) != (kept := getattr(found, name)):
            raise BadSettings(
                f"{folder} watches with {name} = {kept}, asked was {getattr(asked, name)}. A "
                "promise for life is made once: drop the option, or begin anew with another --state."
            )
    return found


def begin(folder: Path, watch: Watch) -> None:
    """Makes the folder, where it is new."""
    if not (folder / SETTINGS).is_file():
        with steps.disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            steps.write_json(folder / SETTINGS, watch.model_dump(mode="json"))


def load(folder: Path, identity: Identity) -> Place | None:
    """A place as it was left; None where it is new.

    Raises:
        MissingData: its file was damaged.
    """
    path = folder / identity.file
    return _load(path) if path.is_file() else None


def load_all(folder: Path) -> list[Place]:
    """Every place of the folder.

    Raises:
        MissingData: a file was damaged.
    """
    return [_load(path) for path in sorted(folder.glob("*.npz"))]


def save(folder: Path, place: Place) -> None:
    """Keeps a place, in one move."""
    about = {name: _about(stream) for name, stream in place.streams.items()}
    header = _Header(identity=place.identity, counts=place.counts, streams=about)
    arrays: dict[str, NDArray[np.generic]] = {
        "header": np.frombuffer(header.model_dump_json().encode(), np.uint8),
        "cut": np.array([place.cut.score, place.cut.draw]),
        "keys": place.keys,
        "lots": place.lots,
    }
    for name, s in place.streams.items():
        kept = (s.bag, s.total, s.level, s.rise, s.trace.log_m, s.trace.log_c, s.trace.time)
        arrays |= {f"{name}.{part}": array for part, array in zip(PARTS, kept, strict=True)}
    part = (folder / place.identity.file).with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    steps.fsync(part)
    part.replace(folder / place.identity.file)


PARTS = ("bag", "total", "level", "rise", "log_m", "log_c", "time")


def _about(stream: Stream) -> _About:
    fields = {name: getattr(stream, name) for name in _About.model_fields if name != "stride"}
    return _About(**fields, stride=stream.trace.stride)


def _load(path: Path) -> Place:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            header = _Header.checked(json.loads(bytes(arrays["header"])), str(path))
            streams = {
                name: _stream(header.identity, name, about, [arrays[f"{name}.{p}"] for p in PARTS])
                for name, about in header.streams.items()
            }
            score, draw = arrays["cut"]
            names = (np.asarray(arrays[n], np.uint64) for n in ("keys", "lots"))
            cut = Cut(float(score), float(draw))
            return Place(header.identity, streams, cut, header.counts, *names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, BadSettings) as error:
        raise MissingData(
            f"{path} is not what 'inspect-ai monitor' left there ({error}). Restore it from a "
            "copy, or begin anew with another --state."
        ) from None


def stream_name(identity: Identity, measure: str) -> str:
    """Names one stream of all there are."""
    again = f" {identity.epoch}" if identity.epoch else ""
    return f"{identity.name} {measure}{again}"


def _stream(
    identity: Identity, measure: str, about: _About, parts: list[NDArray[np.generic]]
) -> Stream:
    bag, total, level, rise, log_m, log_c, time = parts
    sides = (len(drift.SIDES),)
    shapes = sides, sides, (*sides, len(drift.BETS) + 1)
    if (total.shape, rise.shape, level.shape) != shapes or len(
        bag
    ) != about.joined + about.began * (about.n == about.joined):
        raise ValueError(f"the arrays of {measure} do not fit")
    fields = about.model_dump(exclude={"stride", "alarm", "quick"})
    trace = Trace(
        about.stride,
        np.asarray(log_m, np.float64),
        np.asarray(log_c, np.float64),
        np.asarray(time, "datetime64[s]"),
    )
    return Stream(
        name=stream_name(identity, measure),
        bag=np.asarray(bag, np.float64),
        total=np.asarray(total, np.float64),
        level=np.asarray(level, np.float64),
        rise=np.asarray(rise, np.int64),
        alarm=about.alarm,
        quick=about.quick,
        trace=trace,
        **fields,
    )
