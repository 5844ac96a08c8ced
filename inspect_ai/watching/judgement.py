"""What the streams of a place say together, in words: look at the input before the scores.

A change is certain where the martingale has alarmed: without any change that happens to a place
with probability delta at most, ever. It is a hint where only the CUSUM has, among the images taken
in last: quicker, but such a false alarm comes up again and again, if rarely. An alarm of earlier
scans stays open until a person closes it; what the last scans brought is told apart from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from inspect_ai.calibration.streams import Alarm, Stream, time_of
from inspect_ai.watching.memory import FLAGGED, SCORE, Place

# so many new and so many calibration images or lots make it a chance below 1 in 10,000 that most of the
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
        changes: by measure, those that the last scans have shown.
        still: by measure, those that earlier ones have shown and nobody has closed.
        sentence: what it means.
        notes: what to know of the streams.
        scans: folders to recalibrate from: since the scores of good images seem to have changed,
            without those most of whose images are flagged.
        alone: whether the good images of before are then to be left out: the change is certain.
        alarm: whether a change is certain, of these scans or still.
    """

    changes: Mapping[str, Change]
    still: Mapping[str, Change]
    sentence: str
    notes: tuple[str, ...]
    scans: tuple[str, ...]
    alone: bool
    alarm: bool

    @property
    def recalibrate(self) -> bool:
        """Whether the scores of good images seem to have changed."""
        return bool(self.scans)

    def change(self, measure: str) -> Change | None:
        """The newest of a stream."""
        return self.changes.get(measure) or self.still.get(measure)


def judged(place: Place) -> Judgement:
    """The changes of a place, and what they mean together."""
    counts = place.counts
    before = {m: counts.latest.get(m, 0) for m in place.streams}
    still = {m: c for m, s in place.streams.items() if (c := _old(s, before[m])) is not None}
    changes = {m: c for m, s in place.streams.items() if (c := _new(m, s, before[m])) is not None}
    known = place.identity.began >= OLD  # without good images of its own, flagged is odd
    usual = counts.ordinary if known else counts.images - counts.flagged
    odd = counts.images >= NEW and 2 * usual < counts.images
    both = still | changes
    moved = still.get(SCORE) or changes.get(SCORE)
    return Judgement(
        changes,
        still,
        _most_are_odd(place, both, known) if odd else _all(place, changes, still),
        tuple(_notes(place)),
        scans=_scans(place, moved),
        alone=moved is not None and moved.certain,
        alarm=(odd and known) or any(c.certain for c in (*changes.values(), *still.values())),
    )


def _old(stream: Stream, before: int) -> Change | None:
    """Args: before: length of the stream before the last scans came."""
    if stream.alarm is None or stream.alarm.at > before:
        return None
    return _told(stream, stream.alarm, certain=True)


def _new(measure: str, stream: Stream, before: int) -> Change | None:
    if stream.alarm is not None and stream.alarm.at > before:
        return _told(stream, stream.alarm, certain=True)
    if not stream.quick or stream.quick[-1].at <= before:
        return None
    # what is open already rings on; the share flagged has its own past, and so rises anew
    if (
        stream.alarm is not None
        and measure != FLAGGED
        and stream.alarm.side == stream.quick[-1].side
    ):
        return None
    return _told(stream, stream.quick[-1], certain=False)


def _told(stream: Stream, rang: Alarm, certain: bool) -> Change:
    since_time = time_of(stream, rang.since)
    return Change(rang.side, certain, rang.at, rang.time, rang.since, since_time)


def _scans(place: Place, change: Change | None) -> tuple[str, ...]:
    """Those that lie after the change by half at least; where none does, those that reach it."""
    if change is None:
        return ()
    every = place.counts.intakes
    since = [one for one in every if one.middle >= change.since]
    since = since or [one for one in every if one.until >= change.since]
    return tuple(one.folder for one in since if 2 * one.flagged < one.images)


def _all(place: Place, changes: Mapping[str, Change], still: Mapping[str, Change]) -> str:
    """What is new, and what is still open."""
    if not still:
        return _sentence(place, changes)
    since = min((c.since_time, f"number {c.since:,}") for c in still.values())
    now = _sentence(place, changes, open_too=True) if changes else "Nothing new."
    return f"{now} Still open since about {since[0] or since[1]}: {_sentence(place, still)}"


def _sentence(place: Place, changes: Mapping[str, Change], open_too: bool = False) -> str:
    """Args: open_too: whether other changes are open, so that not all else is the same."""
    scores, flags = changes.get(SCORE), changes.get(FLAGGED)
    moved = {m: change for m, change in changes.items() if m not in (SCORE, FLAGGED)}
    if moved:
        return _input_moved(place, moved, bool(scores or flags))
    if scores:
        return _scores_moved(place, scores, open_too)
    if flags:
        return _flags_moved(flags, open_too)
    return "Nothing has changed."


def _flags_moved(flags: Change, open_too: bool) -> str:
    same = "" if open_too else "ordinary ones look the same"
    if flags.side == "down":
        return f"Fewer images {_are(flags)} flagged than before{'; ' * bool(same)}{same}."
    more = "More images" if flags.side == "up" else "At times more images"
    return (
        f"{more} {_are(flags)} flagged than before{', and ' * bool(same)}{same}: more defects, or "
        "a new kind of good that is rare."
    )


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


def _scores_moved(place: Place, change: Change, open_too: bool) -> str:
    did, done = ROSE[change.side]
    what = f"Scores of ordinary images {did if change.certain else f'may have {done}'}"
    had = "the input did not change" if len(place.streams) > 2 else "the input was not measured"
    had += " since" * open_too
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
        what = f"{odd:,} of {counts.images:,} images score above 95 % of good ones"
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
        found.append("images that had come before, or whose lots had, were left out")
    return found
