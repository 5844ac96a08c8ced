"""Drift tests counted (promises.py): for life, their run length, and how soon a shift is found.

Streams are normal scores ranked as they come, the bag begun with good ones; discrete ones have
ties. A shift is one standard deviation, from the first score on. Run lengths are of the CUSUM on
uniform numbers, which its p-values are without a change; a stream that never alarmed counts as
long as it was, so that means are on the low side.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from inspect_ai.calibration import drift
from inspect_ai.scores import Float64
from pipelines.counting import DELTA, KINDS, Asked, Kind, Row, judged, mean_of

STREAMS, LIFE, BAG = 1000, 2000, 200  # scores in the life of a stream, good ones before it
RUNS, CHUNK, LONGEST = (100.0, 1000.0), 500, 40  # run lengths; streams end at LONGEST of them
FOUND, SHIFTED, LATEST = 500, 500, 200  # good scores, scores after the shift, promised to be found
MISSED = 0.01  # share of shifts that may be found later
FEWER = 5  # streams for one whose runs are measured
DISCRETE = 3  # of KINDS


def rows(streams: int) -> Iterator[Row]:
    """Of so many streams."""
    for kind in (KINDS[0], KINDS[1], KINDS[DISCRETE]):
        ever = np.array([_ever(kind, i) for i in range(streams)], np.float64)
        n = f"{BAG} images, then {LIFE:,}"
        for column, rule in enumerate(("", ", p-values among a fixed bag")):
            asked = Asked(f"martingale: alarms ever{rule}", f"{kind.name}, no change", n, DELTA)
            yield judged(asked, ever[:, column])
    for run_length in RUNS:
        yield _run_length(run_length, max(1, streams // FEWER))
    yield from _delays(streams)


def _ever(kind: Kind, seed: int) -> tuple[bool, bool]:
    """Whether a stream without a change alarms, by online p-values and by those of a fixed bag."""
    rng = kind.generator(10, seed)
    bag, new = np.sort(kind.draw(rng, BAG)).astype(float), kind.draw(rng, LIFE).astype(float)
    u = rng.random(LIFE)
    online, _ = drift.ranked(bag, new, u)
    above = BAG - np.searchsorted(bag, new, side="right")
    equal = BAG - above - np.searchsorted(bag, new, side="left")
    fixed = np.clip((above + u * (1 + equal)) / (BAG + 1), drift.LEAST, 1 - drift.LEAST)
    rang = [bool(drift.log_martingale(p).max() >= -np.log(DELTA)) for p in (online, fixed)]
    return rang[0], rang[1]


def _run_length(run_length: float, streams: int) -> Row:
    rng = np.random.default_rng([11, int(run_length)])
    first = np.full(streams, LONGEST * run_length)
    begun: Float64 | None = None
    done = 0
    while done < LONGEST * run_length and (first > done).any():
        found = drift.cusum(rng.random((streams, CHUNK)), run_length, begun)
        rang = found.height >= run_length
        at = np.where(rang.any(axis=1), done + 1 + rang.argmax(axis=1), np.inf)
        first, begun, done = np.minimum(first, at), found.level, done + CHUNK
    mean, low, high = mean_of(first)
    row = ("CUSUM: images between false alarms", "no change", "", run_length)
    kept = high >= run_length
    return Row(*row, mean, low, high, kept=kept, unit="images", at_least=True)


def _delays(streams: int) -> Iterator[Row]:
    """Scores until a shift of one standard deviation is found."""
    kind, found = KINDS[0], np.empty((streams, 2))
    for i in range(streams):
        rng = kind.generator(12, i)
        bag, new = np.sort(kind.draw(rng, FOUND)).astype(float), 1 + kind.draw(rng, SHIFTED)
        p, _ = drift.ranked(bag, new.astype(float), rng.random(SHIFTED))
        log_m, height = drift.log_martingale(p), drift.cusum(p, 10 * RUNS[1]).height
        for column, rang in enumerate((log_m >= -np.log(DELTA), height >= 10 * RUNS[1])):
            found[i, column] = 1 + rang.argmax() if rang.any() else SHIFTED
    names = (f"martingale at {100 * DELTA:g} %", f"CUSUM of run length {10 * RUNS[1]:,.0f}")
    for name, delay in zip(names, found.T, strict=True):
        late = float((delay > LATEST).mean())
        rule, scores = f"{name}: images until found", "normal, one-sigma shift"
        row = Row(rule, scores, f"{FOUND}", float(LATEST), *mean_of(delay), unit="images")
        note = f"half within {np.median(delay):.0f}, 99 % within {np.quantile(delay, 0.99):.0f}"
        yield replace(row, allowed=MISSED, broken=late, kept=late <= MISSED, note=note)
