"""Has anything changed since the bundle was calibrated? Scans in, alarms and advice out.

Each place (a bundle, with one tool and one product) is watched by several streams with the tests
of drift.py. The promise is the place's: its J streams get delta / J and J times the run length.

    pred_score   scores of ordinary images, against the calibration's: has "good" changed?
    flagged      whether an image was flagged, against the place's own past: more defects?
    inputs       brightness and sharpness, or number and yield of dies, against the calibration's:
                 has the camera or the process changed?

A floor always has some defects, and a test of all scores against good ones would alarm for them;
ordinary images are those below a cut that good ones pass alike (streams.py). A defect hardly moves
an input, but for yield, which is of ordinary wafers only. Images of a lot are alike, and a test
that took each for a new one would alarm in vain: whatever the promise counts, one image of a lot
enters, and no lot twice; the calibration's are drawn likewise. Images that are each their own lot
all enter. A person may close the alarms of places: their streams begin anew, against the
calibration, and the promise with them. Where calibration does not say which images are of which tool,
each tool is compared with its own past, and all together with the calibration. Nothing is changed
here: a recalibration is only proposed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import steps
from inspect_ai.calibration import drift, streams
from inspect_ai.calibration.lots import chosen
from inspect_ai.calibration.streams import Stream
from inspect_ai.data.conditions import text
from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.scores import Bool, Float64
from inspect_ai.watching import intake, memory
from inspect_ai.watching.intake import GROUP, Arrivals
from inspect_ai.watching.judgement import judged
from inspect_ai.watching.memory import (
    FLAGGED,
    SCORE,
    Closed,
    Counts,
    Identity,
    Intake,
    Place,
    Watch,
)

OF_ORDINARY = (SCORE, "input_yield")  # measures that a defect moves
USUAL = ("tool", "product")
REMEMBERED = 400_000  # images and lots that are known again
Part = tuple[Arrivals, pd.DataFrame]  # rows of one scan that belong to a place


def take_in(
    found: Sequence[Arrivals], state: Path, asked: Watch, closed_by: str | None = None
) -> list[Place]:
    """Adds scans to the state folder; a scan that is in it already adds nothing.

    Args:
        found: scans, by one bundle or several.
        state: folder of the state; a new one is begun.
        asked: how to watch.
        closed_by: who closes what has alarmed at the places of these scans, before they are added.

    Returns:
        The places that these scans belong to.

    Raises:
        MissingData: a scan lacks a column, or a state file is damaged.
        BadSettings, OutputInUse: see memory.opened.
    """
    if closed_by is not None and not closed_by.strip():
        raise BadSettings("--acknowledge needs the name of who does, got an empty one. Add it.")
    watch = memory.opened(state, asked)
    parts = by_place(found, watch)
    memory.begin(state, watch)
    with steps.alone(state), steps.disk(state):
        return [_updated(state, watch, part, closed_by) for part in parts]


def by_place(found: Sequence[Arrivals], watch: Watch) -> list[tuple[Identity, list[Part]]]:
    """The rows of each place, scan by scan; a scan given twice counts once."""
    once = {one.scan: one for one in sorted(found, key=lambda one: one.run.started_at)}
    parts: dict[str, tuple[Identity, list[Part]]] = {}
    for one in once.values():
        columns = _columns(one, watch)
        values = [text(one.rows[c]).rename(c) for c in columns]
        cut = list(one.rows.groupby(values, sort=True)) if values else []
        if not all(c in one.calibration for c in columns) or not columns:
            cut.append(((), one.rows))  # what calibration does not tell apart is watched whole too
        for told, rows in cut:
            identity = Identity(
                bundle_hash=one.run.bundle_hash,
                by=dict(zip(columns, told, strict=False)),
                unit=one.run.unit,
                kind=one.run.data_spec.image.kind,
                bundle=one.run.bundle,
            )
            if len(rows):
                parts.setdefault(identity.name, (identity, []))[1].append((one, rows))
    return list(parts.values())


def _columns(one: Arrivals, watch: Watch) -> list[str]:
    if watch.by is None:
        return [c for c in USUAL if c in one.rows]
    if missing := [c for c in watch.by if c not in one.rows]:
        raise MissingData(
            f"Streams are kept apart by {', '.join(watch.by)}, and the scan {one.folder} has no "
            f"column {', '.join(missing)}. Scan through a data spec whose table has it, or begin "
            "anew with another --state and another --by."
        )
    return list(watch.by)


def _updated(
    state: Path, watch: Watch, part: tuple[Identity, list[Part]], closed_by: str | None
) -> Place:
    identity, parts = part
    found = memory.load(state, identity)
    place = found or _begun(identity, watch, parts)
    if closed_by and judged(place).alarm:
        place = _closed(place, closed_by, _begun(_anew(place.identity), watch, parts))
    parts = [(one, rows) for one, rows in parts if one.scan not in place.counts.scans]
    if parts:
        place = _extended(place, parts)
    if parts or place is not found:
        memory.save(state, place)
    return place


def _anew(identity: Identity) -> Identity:
    """The next life of a place; its ties are settled by other draws."""
    return identity.model_copy(update={"epoch": identity.epoch + 1})


def _closed(place: Place, by: str, fresh: Place) -> Place:
    """The place begun anew, with what it remembers of scans, images and lots."""
    counts = place.counts
    alarms = {m: s.alarm for m, s in place.streams.items() if s.alarm is not None}
    intakes = tuple(one.model_copy(update={"until": 0, "middle": 0}) for one in counts.intakes)
    closed = (*counts.closed, Closed(by=by, at=steps.now(), alarms=alarms))
    kept = Counts(intakes=intakes, closed=closed)
    return replace(fresh, counts=kept, keys=place.keys, lots=place.lots)


def _begun(identity: Identity, watch: Watch, parts: list[Part]) -> Place:
    """A place before its first image; without calibration images of its own, with empty bags."""
    one = parts[0][0]
    measures = [m for m in one.measures if all(m in other.measures for other, _ in parts)]
    good = one.calibration
    for column, value in identity.by.items():
        own = text(good[column]) == value if column in good else pd.Series(False, good.index)
        good = good[own]
    good = good[chosen(good["image_id"], good[GROUP].astype(str))]
    name = memory.stream_name(identity, "ordinary")
    cut, stays = streams.cut(good[SCORE].to_numpy(np.float64), name)

    watching = (SCORE, FLAGGED, *measures)
    delta, run_length = watch.delta / len(watching), watch.run_length * len(watching)

    def stream(measure: str) -> Stream:
        kept = good[stays] if measure in OF_ORDINARY else good
        bag = np.empty(0) if measure == FLAGGED else kept[measure].to_numpy(np.float64)
        own = memory.stream_name(identity, measure)
        return streams.begun(own, bag[~np.isnan(bag)], delta, run_length)

    begun = {measure: stream(measure) for measure in watching}
    return Place(identity.model_copy(update={"began": len(good)}), begun, cut)


def _extended(place: Place, parts: list[Part]) -> Place:
    """The place with the images of new scans, in the order in which they were taken."""
    rows = pd.concat([_needed(place, *part) for part in parts], ignore_index=True)
    again = rows["key"].isin(place.keys) | rows["key"].duplicated() | rows["lot"].isin(place.lots)
    seen = rows[~again]
    rows = seen[chosen(seen["image_id"], seen["lot"])]
    if rows["time"].notna().all():
        rows = rows.sort_values("time", kind="stable")
    ordinary = _ordinary(place, rows)
    counts = place.counts
    return replace(
        place,
        streams={m: _fed(m, s, rows, ordinary) for m, s in place.streams.items()},
        keys=np.concatenate([place.keys, rows["key"].to_numpy(np.uint64)])[-REMEMBERED:],
        lots=np.concatenate([place.lots, rows["lot"].to_numpy(np.uint64)])[-REMEMBERED:],
        counts=counts.model_copy(
            update={
                "intakes": (*counts.intakes, *_intakes(place, parts, seen, rows[ordinary])),
                "images": counts.images + len(rows),
                "flagged": counts.flagged + int(rows["pred_label"].sum()),
                "seen": counts.seen + len(seen),
                "seen_flagged": counts.seen_flagged + int(seen["pred_label"].sum()),
                "repeated": counts.repeated + int(again.sum()),
                "ordinary": counts.ordinary + int(ordinary.sum()),
                "latest": {measure: s.n for measure, s in place.streams.items()},
            }
        ),
    )


def _intakes(
    place: Place, parts: list[Part], seen: pd.DataFrame, scores: pd.DataFrame
) -> list[Intake]:
    """Args: seen: new images of the scans. scores: those that enter the stream of scores."""
    number = pd.Series(np.arange(1, len(scores) + 1), scores.index) + place.streams[SCORE].n
    by_scan = number.groupby(scores["scan"])
    middle, last = by_scan.median(), by_scan.max()
    flags = seen["pred_label"].groupby(seen["scan"])
    sizes, flagged = flags.size(), flags.sum()
    return [
        Intake(
            scan=one.scan,
            folder=str(one.folder.absolute()),
            images=int(sizes.get(one.scan, 0)),
            flagged=int(flagged.get(one.scan, 0)),
            middle=int(middle.get(one.scan, 0)),
            until=int(last.get(one.scan, 0)),
        )
        for one, _ in parts
    ]


def _needed(place: Place, one: Arrivals, rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that the streams need, and no other: a source may call its own by any name."""
    names = ["image_id", GROUP, SCORE, "pred_label", *place.streams]
    key = intake.keys(rows, one.run)
    return rows[[c for c in dict.fromkeys(names) if c in rows]].assign(
        key=key, lot=intake.lot_keys(rows, key), time=intake.times(rows), scan=one.scan
    )


def _ordinary(place: Place, rows: pd.DataFrame) -> Bool:
    """Which new images lie below the cut."""
    name = memory.stream_name(place.identity, "ordinary")
    u = drift.uniforms(name, place.identity.began + place.counts.images, len(rows))
    return place.cut.keeps(rows[SCORE].to_numpy(np.float64), u)


def _fed(measure: str, stream: Stream, rows: pd.DataFrame, ordinary: Bool) -> Stream:
    if measure in OF_ORDINARY:
        rows = rows[ordinary]
    column = "pred_label" if measure == FLAGGED else measure
    if column not in rows:
        return stream
    values: Float64 = rows[column].to_numpy(np.float64)
    taken = rows["time"].dt.tz_localize(None).to_numpy("datetime64[s]")
    known = ~np.isnan(values)
    return streams.extended(stream, values[known], taken[known])
