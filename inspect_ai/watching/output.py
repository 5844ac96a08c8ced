"""What the monitor leaves in its state folder for people and programs: drift.png, monitor.json."""

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inspect_ai import steps
from inspect_ai.calibration.streams import Stream
from inspect_ai.review import words
from inspect_ai.review.summary import Numbers
from inspect_ai.watching import memory, plot
from inspect_ai.watching.flags import Flags
from inspect_ai.watching.judgement import Change, Judgement, judged
from inspect_ai.watching.memory import Place

PLOT, NUMBERS = "drift.png", "monitor.json"
Judged = tuple[Place, Judgement]


@dataclass(frozen=True, slots=True)
class Written:
    """What was drawn and written down.

    Args:
        told: the places of these scans.
        others: places of the same bundles that have none of them, with an alarm that is open.
    """

    told: list[Judged]
    others: list[Judged]


def write(state: Path, places: Sequence[Place], bundles: Collection[str]) -> Written:
    """Draws and writes down all places of bundles, given by their hashes; judges them.

    Raises:
        MissingData: a state file was damaged.
        NoSpace, OutputInUse: the folder cannot be written to.
    """
    every = [p for p in memory.load_all(state) if p.identity.bundle_hash in bundles]
    every = sorted(every, key=lambda place: (place.identity.bundle_hash, label(place)))
    told = [(place, judged(place)) for place in every]
    if told:
        with steps.disk(state):
            plot.draw(told, state / PLOT)
            rows = [_numbers(place, judgement) for place, judgement in told]
            steps.write_json(state / NUMBERS, {"places": rows})
    names = {place.identity.name for place in places}
    others = [one for one in told if one[0].identity.name not in names]
    return Written(
        [one for one in told if one[0].identity.name in names],
        [(place, judgement) for place, judgement in others if judgement.alarm],
    )


def lines(told: Sequence[Judged], flags: Sequence[Flags] = ()) -> list[str]:
    """A table of the places: how many images, what their streams mean, and which changed.

    Args:
        flags: what these scans flagged, place by place.
    """
    found, noted, names = list[str](), Counter[str](), set[str]()
    now = {one.identity.name: one for one in flags}
    for place, judgement in told:
        found.append(f"{_head(place, now.get(place.identity.name))} {judgement.sentence}")
        for measure in place.streams:
            for change, is_open in _of(judgement, measure):
                found.append(f"  {_line(measure, place.streams[measure], change, is_open)}")
        if (one := now.get(place.identity.name)) is not None and one.more:
            found.append(f"  {_more(one)}")
        names.add(place.identity.name)
        noted.update(judgement.notes)
    for one in flags:
        if one.identity.name not in names:  # all places together
            said = f": {_more(one)}" if one.more else f": {_share(one)}"
            found.append(f"all places together{said}")
    for note, places in noted.items():
        found.append(f"note: {note}" + f" ({places:,} of {len(told):,} places)" * (len(told) > 1))
    return found


def open_elsewhere(others: Sequence[Judged]) -> list[str]:
    """Alarms that are open at places which these scans have no images of."""
    return [f"not in these scans, {label(place)}: {j.sentence}" for place, j in others]


def acknowledged(places: Sequence[Place], before: Collection[str], name: str) -> list[str]:
    """What was closed, and what that costs.

    Args:
        before: what was there, as `life` names it.
    """
    closed = [p for p in places if p.counts.closed and life(p) not in before]
    found = [f"closed by {name}: the alarms of {label(place)}" for place in closed]
    if found:
        found.append(
            "the streams of these places begin anew, against the calibration: each may once more "
            "alarm in vain, with probability delta at most"
        )
    return found or ["no alarm was open at the places of these scans: nothing was closed"]


def life(place: Place) -> str:
    """Names a place between two closings."""
    return f"{place.identity.name} {place.identity.epoch}"


def proposals(told: Sequence[Judged]) -> list[str]:
    """The command that recalibrates each bundle whose good scores seem to have changed.

    From the scans since the change; where it is certain, without the good images of before.
    """
    found = list[str]()
    asked = {p.identity.bundle_hash: p.identity.bundle for p, j in told if j.recalibrate}
    for bundle_hash, bundle in asked.items():
        of = [j for p, j in told if p.identity.bundle_hash == bundle_hash and j.recalibrate]
        folders = dict.fromkeys(folder for judgement in of for folder in judgement.scans)
        command = ["inspect-ai", "recalibrate", bundle or "BUNDLE", *folders]
        alone = " --alone" * any(judgement.alone for judgement in of)
        found.append(f"{shlex.join(command)} --verdicts FILE --out NEW{alone}")
    return found


def label(place: Place) -> str:
    """What a place is called."""
    return ", ".join(f"{c}={v or 'unknown'}" for c, v in place.identity.by.items()) or "all images"


def _head(place: Place, flags: Flags | None) -> str:
    counts = place.counts
    lots = f" of {counts.images:,} lot{'s' * (counts.images != 1)}"
    lots *= counts.images != counts.seen
    rate = "" if flags is None else f" (promised of good ones: {words.share(flags.rate)})"
    flagged = words.share(counts.seen_flagged / max(counts.seen, 1))
    return f"{label(place)}: {counts.seen:,} images{lots}, {flagged} flagged{rate}."


def _share(flags: Flags) -> str:
    share = words.share(flags.flagged / max(flags.images, 1))
    return (
        f"{flags.flagged:,} of {flags.images:,} images are flagged in these scans ({share}; "
        f"promised of good ones: {words.share(flags.rate)})"
    )


def _more(flags: Flags) -> str:
    return (
        f"{_share(flags)}, MORE than good ones explain: defects, or the promise is broken. Look at "
        "them"
    )


def _of(judgement: Judgement, measure: str) -> list[tuple[Change, bool]]:
    """The changes of a stream, each with whether it is open since earlier scans."""
    both = (judgement.still.get(measure), True), (judgement.changes.get(measure), False)
    return [(change, is_open) for change, is_open in both if change is not None]


def _line(measure: str, stream: Stream, change: Change, is_open: bool) -> str:
    """What a stream that changed has found."""
    since = change.since_time or f"number {change.since:,} of {stream.n:,}"
    if change.certain:
        limit = f"martingale up to {_power(stream.peak)}, alarm at {1 / stream.delta:g}"
        word = "still open, changed" if is_open else "CHANGED"
        return f"{measure} {word} {change.side}, since about {since} ({limit})"
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
        **counts.model_dump(mode="json", exclude={"latest", "intakes"}),
        "scans": [one.model_dump() for one in counts.intakes],
        "sentence": judgement.sentence,
        "alarm": judgement.alarm,
        "recalibrate": judgement.recalibrate,
        "notes": list(judgement.notes),
        "streams": {
            measure: _of_stream(stream, judgement.change(measure))
            | {"open": measure in judgement.still}
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
