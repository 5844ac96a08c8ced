"""What the monitor leaves in its state folder for people and programs: drift.png, monitor.json."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inspect_ai import steps
from inspect_ai.calibration.streams import Stream
from inspect_ai.review import words
from inspect_ai.review.summary import Numbers
from inspect_ai.watching import memory, plot
from inspect_ai.watching.intake import Arrivals
from inspect_ai.watching.judgement import Change, Judgement, judged
from inspect_ai.watching.memory import Place

PLOT, NUMBERS = "drift.png", "monitor.json"
Judged = tuple[Place, Judgement]


def write(state: Path, places: Sequence[Place]) -> list[Judged]:
    """Draws and writes down all places of the bundles of `places`; gives `places`, judged.

    Raises:
        MissingData: a state file was damaged.
        NoSpace, OutputInUse: the folder cannot be written to.
    """
    bundles = {place.identity.bundle_hash for place in places}
    every = [p for p in memory.load_all(state) if p.identity.bundle_hash in bundles]
    every = sorted(every, key=lambda place: (place.identity.bundle_hash, label(place)))
    told = [(place, judged(place)) for place in every]
    if told:
        with steps.disk(state):
            plot.draw(told, state / PLOT)
            rows = [_numbers(place, judgement) for place, judgement in told]
            steps.write_json(state / NUMBERS, {"places": rows})
    names = {place.identity.name for place in places}
    return [one for one in told if one[0].identity.name in names]


def lines(told: Sequence[Judged]) -> list[str]:
    """A table of the places: how many images, what their streams mean, and which changed."""
    found, noted = list[str](), Counter[str]()
    for place, judgement in told:
        counts, unit = place.counts, "images" if place.identity.unit == "image" else "lots"
        flagged = words.share(counts.flagged / max(counts.images, 1))
        head = f"{label(place)}: {counts.images:,} {unit}, {flagged} flagged."
        found.append(f"{head} {judgement.sentence}")
        for measure, change in judgement.changes.items():
            found.append(f"  {_line(measure, place.streams[measure], change)}")
        noted.update(judgement.notes)
    for note, places in noted.items():
        found.append(f"note: {note}" + f" ({places:,} of {len(told):,} places)" * (len(told) > 1))
    return found


def proposals(told: Sequence[Judged], scans: Sequence[Arrivals]) -> list[str]:
    """The command that recalibrates each bundle whose good scores seem to have changed."""
    found = list[str]()
    asked = {p.identity.bundle_hash: p.identity.bundle for p, j in told if j.recalibrate}
    for bundle_hash, bundle in asked.items():
        folders = dict.fromkeys(
            str(one.folder) for one in scans if one.run.bundle_hash == bundle_hash
        )
        command = ["inspect-ai", "recalibrate", bundle or "BUNDLE", *folders]
        found.append(f"{shlex.join(command)} --verdicts FILE --out NEW")
    return found


def label(place: Place) -> str:
    """What a place is called."""
    return ", ".join(f"{c}={v or 'unknown'}" for c, v in place.identity.by.items()) or "all images"


def _line(measure: str, stream: Stream, change: Change) -> str:
    """What a stream that changed has found."""
    since = change.since_time or f"number {change.since:,} of {stream.n:,}"
    if change.certain:
        limit = f"martingale up to {_power(stream.peak)}, alarm at {1 / stream.delta:g}"
        return f"{measure} CHANGED {change.side}, since about {since} ({limit})"
    limit = f"{stream.quick_alarms:,} quick alarm(s), rarer than one in {stream.run_length:,.0f}"
    return f"{measure} perhaps {change.side}, since about {since} ({limit} without a change)"


def _power(log: float) -> str:
    """e^log in three digits, also where it is no number of this machine's."""
    tens = log / np.log(10)
    return f"{10**tens:.3g}" if abs(tens) < 6 else f"1e{tens:+.0f}"


def _numbers(place: Place, judgement: Judgement) -> Numbers:
    identity, counts = place.identity, place.counts
    return {
        "bundle": identity.bundle,
        "bundle_hash": identity.bundle_hash,
        "by": identity.by,
        "unit": identity.unit,
        "calibration": identity.began,
        **counts.model_dump(exclude={"latest", "scans"}),
        "scans": list(counts.scans),
        "sentence": judgement.sentence,
        "alarm": judgement.alarm,
        "recalibrate": judgement.recalibrate,
        "notes": list(judgement.notes),
        "streams": {
            measure: _of_stream(stream, judgement.changes.get(measure))
            for measure, stream in place.streams.items()
        },
    }


def _of_stream(stream: Stream, change: Change | None) -> Numbers:
    return {
        "seen": stream.n,
        "calibration": stream.began,
        "delta": stream.delta,
        "run_length": stream.run_length,
        "log10_martingale": stream.log_m / np.log(10),
        "log10_largest": stream.peak / np.log(10),
        "alarm": stream.alarm._asdict() if stream.alarm else None,
        "cusum": stream.height,
        "quick_alarms": stream.quick_alarms,
        "latest_quick_alarms": [alarm._asdict() for alarm in stream.quick],
        "change": None
        if change is None
        else {
            "side": change.side,
            "certain": change.certain,
            "at": change.at,
            "time": change.time,
            "since": change.since,
            "since_time": change.since_time,
        },
    }
