"""Lines of the table: the rows of one run on one data set, its seeds averaged.

A line stands for every run file of the profile, measured or not, so that nothing is passed over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from inspect_ai.benchmark.compare import best
from inspect_ai.benchmark.plan import BASELINE, Entry
from inspect_ai.benchmark.rows import ClassFigures, Figure, Row

NOT_YET, REFUSED, WORST = "not yet run", "refused by the guard", -1.0
LONGEST = 160  # characters of an error


@dataclass(frozen=True, slots=True)
class Line:
    """One run on one data set.

    Args:
        rows: those that are done, one for each seed.
        note: what a reader must know: not yet run, failed, older code; empty where nothing.
        best: whether it is the best baseline, which the others are held against.
    """

    run: str
    data: str
    family: str
    rows: tuple[Row, ...]
    note: str = ""
    best: bool = False

    @property
    def rank(self) -> float:
        """Mean of the rows' ranks."""
        return fmean(row.rank for row in self.rows) if self.rows else WORST

    @property
    def seeds(self) -> str:
        """How many seeds the figures are the mean of, where they are several."""
        return f"mean of {len(self.rows)} seeds (min to max)" if len(self.rows) > 1 else ""

    def figure(self, name: str) -> Figure | None:
        """A field of the rows: one row's with its interval, of several mean, least and largest."""
        return _mean([getattr(row, name) for row in self.rows])

    def number(self, name: str) -> float | None:
        """Mean of a plain field; None where no row knows it."""
        known = [float(v) for row in self.rows if (v := getattr(row, name)) is not None]
        return fmean(known) if known else None

    def of_class(self, name: str, field: str) -> Figure | None:
        """The same of one class of defects."""
        found = [getattr(c, field) for row in self.rows for c in row.classes if c.name == name]
        return _mean(found)

    @property
    def verdicts(self) -> list[str]:
        """ "loses", "beats" or "level" against the best baseline, of each seed that was compared."""
        return [row.verdict for row in self.rows if row.verdict]

    @property
    def verdict(self) -> str:
        """One loss is a loss; all must beat to beat."""
        found = set(self.verdicts)
        for word in ("loses", "level", "beats"):
            if word in found:
                return word
        return ""


@dataclass(frozen=True, slots=True)
class Section:
    """One data set: its lines, best first, and what they have in common."""

    data: str
    kind: str
    lines: tuple[Line, ...]

    @property
    def rows(self) -> list[Row]:
        """Every row that is done."""
        return [row for line in self.lines for row in line.rows]

    @property
    def classes(self) -> list[ClassFigures]:
        """Classes of defects, the one with the most test images first."""
        found = {c.name: c for row in self.rows for c in row.classes}
        return sorted(found.values(), key=lambda c: (-c.images, c.name))


def sections(entries: Sequence[Entry], rows: Sequence[Row]) -> list[Section]:
    """The data sets of these entries, wafer maps first, then by name.

    Rows of run files that are gone are left out.
    """
    found = [_section(data, entries, rows) for data in sorted({e.data for e in entries})]
    return sorted(found, key=lambda s: (s.kind != "wafer_map", -len(s.lines), s.data))


def _section(data: str, entries: Sequence[Entry], rows: Sequence[Row]) -> Section:
    here = [e for e in entries if e.data == data]
    lines = [_line(e, [r for r in rows if (r.run, r.data) == (e.run, data)]) for e in here]
    top = best([r for line in lines for r in line.rows if _is_baseline(r)])
    marked = [_marked(line, top) for line in lines]
    kinds = [e.spec.image.kind for e in here if e.spec]
    ordered = sorted(marked, key=lambda line: (-line.rank, line.run))
    return Section(data, kinds[0] if kinds else "picture", tuple(ordered))


def _line(entry: Entry, rows: Sequence[Row]) -> Line:
    """Rows of today's code; those of older code only where there is no other."""
    today = [r for r in rows if r.code_hash == entry.code_hash]
    kept = today or list(rows)
    done = tuple(r for r in kept if r.state == "done")
    return Line(entry.run, entry.data, entry.family, done, _note(kept, bool(today)))


def _note(rows: Sequence[Row], today: bool) -> str:
    if not rows:
        return NOT_YET
    failed = [f"seed {r.seed} failed: {_cut(r.error)}" for r in rows if r.state == "failed"]
    old = sorted({r.commit for r in rows})
    return "; ".join(
        [*failed, *_refused(rows), *([] if today else [f"older code (commit {', '.join(old)})"])]
    )


def _refused(rows: Sequence[Row]) -> list[str]:
    """Bundles that `inspect-ai build` would not have made without --force."""
    seeds = [r.seed for r in rows if r.guard_refused]
    if not seeds or len(seeds) == len(rows):
        return [REFUSED] * bool(seeds)
    return [f"{REFUSED} for seed {', '.join(map(str, seeds))}"]


def _cut(error: str) -> str:
    """An error as a table bears it; the row has it whole."""
    return error if len(error) <= LONGEST else f"{error[:LONGEST]} ..."


def _marked(line: Line, top: Row | None) -> Line:
    is_best = top is not None and line.run == top.run
    return Line(line.run, line.data, line.family, line.rows, line.note, is_best)


def _is_baseline(row: Row) -> bool:
    return row.family == BASELINE and not row.trained_on


def _mean(figures: Sequence[Figure | None]) -> Figure | None:
    known = [figure for figure in figures if figure is not None]
    if len(known) < 2:
        return known[0] if known else None
    values = [figure.value for figure in known]
    return Figure(value=fmean(values), low=min(values), high=max(values))
