"""What the streams of a place say together, in words: look at the input before the scores.

A change is certain where the martingale has alarmed: without any change that happens to a place
with probability delta at most, ever. It is a hint where only the CUSUM has, among the images taken in last:
quicker, but such a false alarm comes up again and again, if rarely.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from inspect_ai.calibration.streams import Stream, time_of
from inspect_ai.watching.memory import Place
from inspect_ai.watching.monitor import FLAGGED, SCORE

# so many new and so many calibration images make it a chance below 1 in 10,000 that most of the
# good ones lie above the cut
NEW, OLD = 30, 20
ROSE = {"up": ("rose", "risen"), "down": ("fell", "fallen"), "wider": ("spread", "spread")}
INPUT_WAYS = {"up": "up", "down": "down", "wider": "varies more"}


@dataclass(frozen=True, slots=True)
class Change:
    """A change that a stream has found.

    Args:
        side: up, down or wider.
        certain: the martingale has alarmed, not the CUSUM alone.
        at: the score of the stream at which it did.
        time: when that one was taken, ISO 8601; "" where not known.
        since: about where the change lies, as a score of the stream.
        since_time: when that one was taken.
    """

    side: str
    certain: bool
    at: int
    time: str
    since: int
    since_time: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to make of a place.

    Args:
        changes: by measure, those that changed.
        sentence: what it means.
        notes: what to know of the streams.
        recalibrate: whether the scores of good images seem to have changed.
        alarm: whether a change is certain.
    """

    changes: Mapping[str, Change]
    sentence: str
    notes: tuple[str, ...]
    recalibrate: bool
    alarm: bool


def judged(place: Place) -> Judgement:
    """The changes of a place, and what they mean together."""
    counts = place.counts
    found = {m: _change(s, counts.latest.get(m, 0)) for m, s in place.streams.items()}
    changes = {measure: change for measure, change in found.items() if change is not None}
    known = place.identity.began >= OLD  # without good images of its own, flagged is odd
    usual = counts.ordinary if known else counts.images - counts.flagged
    odd = counts.images >= NEW and 2 * usual < counts.images
    return Judgement(
        changes,
        _most_are_odd(place, changes, known) if odd else _sentence(place, changes),
        tuple(_notes(place)),
        recalibrate=SCORE in changes and 2 * counts.flagged < counts.images,
        alarm=(odd and known) or any(change.certain for change in changes.values()),
    )


def _change(stream: Stream, before: int) -> Change | None:
    """Args: before: length of the stream before the last scans came."""
    hint = stream.quick[-1] if stream.quick and stream.quick[-1].at > before else None
    rang = stream.alarm or hint
    if rang is None:
        return None
    certain, since_time = stream.alarm is not None, time_of(stream, rang.since)
    return Change(rang.side, certain, rang.at, rang.time, rang.since, since_time)


def _sentence(place: Place, changes: Mapping[str, Change]) -> str:
    scores, flags = changes.get(SCORE), changes.get(FLAGGED)
    moved = {m: change for m, change in changes.items() if m not in (SCORE, FLAGGED)}
    if moved:
        return _input_moved(place, moved, bool(scores or flags))
    if scores:
        return _scores_moved(place, scores)
    if flags and flags.side == "down":
        return f"Fewer images {_are(flags)} flagged than before; ordinary ones look the same."
    if flags:
        more = "More images" if flags.side == "up" else "At times more images"
        return (
            f"{more} {_are(flags)} flagged than before, and ordinary ones look the same: more "
            "defects, or a new kind of good that is rare."
        )
    return "Nothing has changed."


def _input_moved(place: Place, moved: Mapping[str, Change], scores_too: bool) -> str:
    told = ", ".join(
        f"{m.removeprefix('input_')} {INPUT_WAYS[change.side]}" for m, change in moved.items()
    )
    sure = any(change.certain for change in moved.values())
    has = "The input changed" if sure else "The input may have changed"
    if not scores_too:
        return f"{has} ({told}); the scores show no change."
    where = "the process" if place.identity.kind == "wafer_map" else "the camera or the process"
    return f"{has} ({told}), and the scores with it: look at {where} before the scores."


def _scores_moved(place: Place, change: Change) -> str:
    did, done = ROSE[change.side]
    what = f"Scores of ordinary images {did if change.certain else f'may have {done}'}"
    had = "the input did not change" if len(place.streams) > 2 else "the input was not measured"
    means = {
        "up": "a new kind of good, or defects too faint to be flagged",
        "down": "good looks more like what the model knows",
        "wider": "good has become more mixed",
    }
    return f"{what} and {had}: {means[change.side]}."


def _most_are_odd(place: Place, changes: Mapping[str, Change], known: bool) -> str:
    counts = place.counts
    what = f"{counts.flagged:,} of {counts.images:,} images are flagged"
    if known:
        odd = counts.images - counts.ordinary
        what = f"{odd:,} of {counts.images:,} images score above nearly all good ones"
    if len(place.streams) > 2 and not changes.keys() - {SCORE, FLAGGED}:
        return f"{what} and the input did not change: ask whether this bundle is for these images."
    where = "process" if place.identity.kind == "wafer_map" else "camera"
    return f"{what}: look at the {where} first, then whether this bundle is for these images."


def _are(change: Change) -> str:
    return "are" if change.certain else "seem to be"


def _notes(place: Place) -> list[str]:
    """What weakens the streams of a place."""
    found, counts = list[str](), place.counts
    if not place.identity.began:
        found.append("calibration has no images of this place: compared with its own past")
    if len(place.streams) == 2:
        found.append("the input is not watched: scan or calibration came before it was measured")
    if counts.repeated:
        found.append("images that had come before, or others of their lots, were left out")
    return found
