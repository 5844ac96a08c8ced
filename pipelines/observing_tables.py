"""Tables of promised against observed overkill (promises.py observed), as Markdown."""

from collections.abc import Iterator, Sequence

import pandas as pd

from pipelines.observing import CUTS, PEER, PROMISES, RATES, Compared, Scanned

SAID = """Overkill on the good images of test lots with its 95 % interval (Clopper and Pearson), at
thresholds set on good images of the calibrate lots. Bold: the interval lies above the promise.
"Largest F1" is how anomalib 2 sets its threshold unless told otherwise, worked out here on the same
scores: chosen on half of the test lots, with their labelled defects, and observed on the other
half. It leans on how many of those are defects. anomalib itself was not run. A promise on average
is one over calibrations: a single one may lie above."""
LETTERS = dict(zip(PROMISES, "acl", strict=True))
ESCAPES: dict[str, tuple[str, float | None]] = {
    "escape at 5 %": ("on average", 0.05),
    "at 1 %": ("on average", 0.01),
    "at the largest F1": (PEER, None),
}


BEST = """In short: the strongest promise that a set's good images allow, with 95 % confidence over
lots (l), over images (c), or on average (a), else how many it takes."""


def summary(found: list[Compared]) -> Iterator[str]:
    """Lines of Markdown: a row for each detector, at each rate its strongest promise."""
    rates = [f"{100 * rate:g} % promised" for rate in RATES]
    cuts = f"{PEER}: median of {CUTS} cuts (5 to 95 %)"
    yield from _head(("data set", "detector", *rates, "escape at 1 %", cuts))
    for one in found:
        low, middle, high = (f"{100 * share:.1f}" for share in one.spread)
        peer = f"{middle} % ({low} to {high})"
        strongest = [_strongest(one, rate) for rate in RATES]
        yield _line(*_names(one.seen), *strongest, _escape(one, "on average", 0.01), peer)


def _strongest(one: Compared, rate: float) -> str:
    cells = [cell for cell in one.cells if cell.rate == rate]
    made = [cell for cell in cells if not cell.refusal]
    if not made:
        return cells[0].refusal
    text = f"{made[-1]} {LETTERS[made[-1].promise]}"
    return f"**{text}**" if made[-1].above else text


def tables(found: list[Compared]) -> Iterator[str]:
    """Lines of Markdown: in short, a table for each rate, then the peer's over many cuts."""
    yield from (SAID, "", BEST, "", *summary(found))
    heads = ("data set", "detector", "calibrated on", "tested on", *PROMISES, PEER)
    for rate in RATES:
        yield from ("", f"**{100 * rate:g} % promised**", "", *_head(heads))
        for one in found:
            mine = [cell for cell in one.cells if cell.rate in (rate, None)]
            shown = [f"**{cell}**" if cell.above else str(cell) for cell in mine]
            yield _line(
                *_names(one.seen), _sized(one.seen.calibration), _sized(one.seen.good), *shown
            )
    yield from ("", f"**What escapes, and {PEER} over {CUTS} cuts of the test lots**", "")
    yield from _head(
        (*heads[:2], "defects of the test split", *ESCAPES, "overkill, 5, 50, 95 % of cuts")
    )
    for one in found:
        share = len(one.seen.bad) / (len(one.seen.bad) + len(one.seen.good))
        escapes = [_escape(one, *asked) for asked in ESCAPES.values()]
        cuts = ", ".join(f"{100 * share:.1f}" for share in one.spread)
        yield _line(*_names(one.seen), f"{100 * share:.0f} %", *escapes, f"{cuts} %")
    yield from ("", *_told(found))


def _escape(one: Compared, promise: str, rate: float | None) -> str:
    """Share of the defects that pass."""
    (found,) = (cell for cell in one.cells if (cell.promise, cell.rate) == (promise, rate))
    return f"{100 * found.missed / found.defects:.1f} %" if found.defects else "–"


def _told(found: list[Compared]) -> Iterator[str]:
    """How often an interval lies above its promise."""
    for name in PROMISES:
        made = [c for one in found for c in one.cells if c.promise == name and not c.refusal]
        above = sum(cell.above for cell in made)
        yield f"* {name}: {len(made)} promises made, the interval lies above {above} of them."


def _names(seen: Scanned) -> tuple[str, str]:
    return seen.data, seen.detector


def _sized(rows: pd.DataFrame) -> str:
    lots_ = rows["group"].nunique()
    return f"{len(rows):,}" + (f" of {lots_:,} lots" if lots_ < len(rows) else "")


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _line(*names)
    yield "|---" * len(names) + "|"


def _line(*texts: str) -> str:
    return f"| {' | '.join(texts)} |"
