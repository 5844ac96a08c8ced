"""One stream of scores watched for drift, kept between scans; see drift.py for the tests.

A stream takes scores in as they come and remembers what the tests need: the same scores in one
call or in many give the same alarms. Its bag begins with the calibration scores. When BAG scores
have joined, a new bag begins empty: ranks within one bag say nothing of those within another, so
the p-values stay independent and uniform, and memory stays bounded for years. A stream without
calibration scores begins like that, and is compared with its own past.

Ordinary images: real images hold defects at all times, and a test against good images alone would
alarm for those without any change. So the largest scores of the calibration are cut off, and of
new scores all that lie above the cut. As good images are cut alike on both sides, what is left of
them stays exchangeable, and most defects are gone.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inspect_ai.calibration import drift
from inspect_ai.scores import Bool, Float64

BAG = 200_000  # scores that join a bag
POINTS = 1000  # of a trace, at most
ALARMS = 20  # quick alarms that are remembered by place; all are counted
CUT = 0.05  # share of calibration scores above the cut
Times = NDArray[np.datetime64]


class Alarm(NamedTuple):
    """When a test rang, and what about."""

    at: int  # score of the stream, from 1
    side: str  # of drift.SIDES
    since: int  # about where the change lies, by the rise of the CUSUM
    time: str  # of `at`, ISO 8601; empty where not known


@dataclass(frozen=True, slots=True)
class Trace:
    """The course of both tests, thinned: the largest value in every `stride` scores.

    Args:
        log_m: (P,) log10 of the martingale.
        log_c: (P,) log10 of the CUSUM.
        time: (P,) when the first score of the stretch was taken.
    """

    stride: int = 1
    log_m: Float64 = field(default_factory=lambda: np.empty(0))
    log_c: Float64 = field(default_factory=lambda: np.empty(0))
    time: Times = field(default_factory=lambda: np.empty(0, "datetime64[s]"))


@dataclass(frozen=True, slots=True)
class Stream:
    """What is remembered of a stream.

    Args:
        name: the ties of two streams of different names are settled by different draws.
        delta: probability that the martingale ever alarms without a change.
        run_length: scores between false alarms of the CUSUM, on average at least.
        bag: (B,) scores to rank the next among, sorted upwards.
        began: calibration scores that the first bag began with.
        joined: new scores in this bag.
        n: new scores ever.
        total: (3,) sums of the losses of each side.
        log_m: ln of the martingale now.
        peak: the largest it has been.
        alarm: when it first reached 1 / delta.
        level: (3, K + 1) the CUSUM.
        rise: (3,) where each side of it began to rise, counted from the next score.
        quick: the latest alarms of the CUSUM.
        quick_alarms: how many it has given ever.
        trace: the course of both.
    """

    name: str
    delta: float
    run_length: float
    bag: Float64
    began: int
    joined: int = 0
    n: int = 0
    total: Float64 = field(default_factory=lambda: np.zeros(len(drift.SIDES)))
    log_m: float = 0.0
    peak: float = 0.0
    alarm: Alarm | None = None
    level: Float64 = field(
        default_factory=lambda: np.zeros((len(drift.SIDES), len(drift.BETS) + 1))
    )
    rise: drift.Places = field(default_factory=lambda: np.zeros(len(drift.SIDES), np.int64))
    quick: tuple[Alarm, ...] = ()
    quick_alarms: int = 0
    trace: Trace = field(default_factory=Trace)

    @property
    def height(self) -> float:
        """The CUSUM now."""
        return float(self.level[:, :-1].mean())


def begun(name: str, good: Float64, delta: float, run_length: float) -> Stream:
    """A stream at its start.

    Args:
        good: (n,) calibration scores, any order; none starts with an empty bag.
        delta: in (0, 1).
        run_length: above 1.
    """
    bag = np.sort(np.where(np.isnan(good), np.inf, np.asarray(good, np.float64)))
    return Stream(name, delta, run_length, bag, len(bag))


def extended(stream: Stream, scores: Float64, times: Times | None = None) -> Stream:
    """The stream with (T,) more scores, in order of time.

    Args:
        times: (T,) datetime64[s], NaT where not known.
    """
    if not len(scores):
        return stream
    if times is None:
        times = np.full(len(scores), "NaT", "datetime64[s]")
    p, bag, joined = _p_values(stream, scores)
    n = np.arange(stream.n + 1, stream.n + len(p) + 1)
    # one running sum, so that calls of any length add up alike
    total = np.cumsum(np.concatenate([stream.total[None], drift.losses(p)]), axis=0)[1:]
    log_m = drift.log_mean(drift.log_mixture(n[:, None], total))
    fast = drift.cusum(p, stream.run_length, stream.level, stream.rise)
    above = log_m >= -np.log(stream.delta)
    quick, first = (
        [
            Alarm(int(n[t]), drift.SIDES[fast.side[t]], int(n[0] + fast.since[t]), _iso(times[t]))
            for t in np.flatnonzero(rang)
        ]
        for rang in (fast.height >= stream.run_length, above & (np.cumsum(above) == 1))
    )
    return replace(
        stream,
        bag=bag,
        joined=joined,
        n=int(n[-1]),
        total=total[-1],
        log_m=float(log_m[-1]),
        peak=max(stream.peak, float(log_m.max())),
        alarm=stream.alarm or next(iter(first), None),
        level=fast.level,
        rise=fast.rise,
        quick=(*stream.quick, *quick)[-ALARMS:],
        quick_alarms=stream.quick_alarms + len(quick),
        trace=_thinned(stream, log_m, fast.height, times),
    )


def time_of(stream: Stream, number: int) -> str:
    """About when a score of the stream, counted from 1, was taken; "" where not known."""
    return _iso(stream.trace.time[(number - 1) // stream.trace.stride])


@dataclass(frozen=True, slots=True)
class Cut:
    """Where ordinary scores end: at a score, and among equals at a draw."""

    score: float
    draw: float

    def keeps(self, scores: Float64, u: Float64) -> Bool:
        """Which of (T,) scores are ordinary, by (T,) uniform draws; NaN is not."""
        return np.asarray((scores < self.score) | ((scores == self.score) & (u < self.draw)))


def cut(good: Float64, name: str) -> tuple[Cut, Bool]:
    """Cuts the largest of the calibration scores off: CUT of them, and one at least.

    Args:
        good: (n,) calibration scores; with none, all that comes is ordinary.
        name: of the draws that settle ties.

    Returns:
        The cut, and (n,) which of the scores stay.
    """
    if not len(good):
        return Cut(np.inf, 1.0), np.zeros(0, np.bool_)
    draw = drift.uniforms(name, 0, len(good))
    order = np.lexsort((draw, good))
    lowest = order[len(good) - max(1, round(CUT * len(good)))]
    found = Cut(float(good[lowest]), float(draw[lowest]))
    return found, found.keeps(good, draw)


def _p_values(stream: Stream, scores: Float64) -> tuple[Float64, Float64, int]:
    """P-values of the scores, the bag after them, and how many of it have joined."""
    bag, joined, found = stream.bag, stream.joined, list[Float64]()
    u = drift.uniforms(stream.name, stream.n, len(scores))
    at = 0
    while at < len(scores):
        if joined >= BAG:
            bag, joined = np.empty(0), 0
        now = slice(at, at + BAG - joined)
        p, bag = drift.ranked(bag, scores[now], u[now])
        found.append(p)
        at, joined = at + len(p), joined + len(p)
    return np.concatenate(found), bag, joined


def _iso(time: np.datetime64) -> str:
    return "" if np.isnat(time) else str(time)


def _thinned(stream: Stream, log_m: Float64, height: Float64, times: Times) -> Trace:
    """The trace with new values; where it grows too long, two stretches become one."""
    old = stream.trace
    place = (stream.n + np.arange(len(log_m))) // old.stride
    more = np.full(int(place[-1]) + 1 - len(old.log_m), -np.inf)
    m, c = np.concatenate([old.log_m, more]), np.concatenate([old.log_c, more])
    np.maximum.at(m, place, log_m / np.log(10))
    np.maximum.at(c, place, np.log10(height))
    begins = np.unique(place, return_index=True)[1]
    fresh = begins[len(begins) - len(more) :]
    time, stride = np.concatenate([old.time, times[fresh]]), old.stride
    while len(m) > POINTS:
        if len(m) % 2:
            m, c = np.append(m, -np.inf), np.append(c, -np.inf)
        m, c, time = m.reshape(-1, 2).max(axis=1), c.reshape(-1, 2).max(axis=1), time[::2]
        stride *= 2
    return Trace(stride, m, c, time)
