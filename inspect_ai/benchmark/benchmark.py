"""The benchmark: what is not measured yet is measured; then one table says it all.

    pipelines/results/<profile>/<data>/<run>-s<seed>.parquet    a row each; see rows.py
    pipelines/results/<profile>/table.md, table.parquet         printed from the rows
    <out>/benchmark.html                                        the same, with plots

Killed, it goes on: rows that stand are not measured again, and a row in the making goes on from
its last step. Rows of another state of the code, run file or spec are measured anew.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from inspect_ai import steps
from inspect_ai.benchmark import compare, lines, page, plan, results, table
from inspect_ai.benchmark.measure import Bench, measured, timed
from inspect_ai.benchmark.plan import Entry, Profile
from inspect_ai.benchmark.rows import Row, numbers
from inspect_ai.errors import BadSettings
from inspect_ai.tracking import Log

TABLE = "table.md"
Say = Callable[[str], None]
OpenLog = Callable[[str, str], AbstractContextManager[Log]]  # title, key of the MLflow run


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command was asked.

    Args:
        data: folder of data sets; None reads each at its spec's own root.
        only: names of run files to measure; empty measures all. The table always has all.
        retime: whether scans of rows that stand are timed again, and nothing else is done.
    """

    profile: str
    runs: Path
    results: Path
    out: Path
    data: Path | None = None
    only: tuple[str, ...] = ()
    device: str = "cpu"
    retime: bool = False


def run(asked: Asked, say: Say, open_log: OpenLog) -> Path:
    """Measures what is missing and writes table and page; gives the page.

    Raises:
        BadSettings: no such profile, or `only` names no run file.
        MissingData: no run file.
        OutputInUse: results or out cannot be written to.
        NoSpace: the disk is full; what was measured is kept.
    """
    profile = plan.profile(asked.profile)
    entries = plan.entries(asked.runs, profile)
    _require_known(asked.only, entries)
    results.require_writable(asked.results / profile.name)
    results.require_writable(asked.out)
    known = {entry.run: entry for entry in entries}
    bench = Bench(profile, asked.out, asked.data, asked.device, known=known)
    here, skipped = _at_hand(entries, asked.data)
    for text in skipped:
        say(text)
    with steps.alone(asked.out):  # beside another one, no time would be true
        for (_, data), found in groupby(here, key=lambda e: (e.base is not None, e.data)):
            group = list(found)
            for entry, seed in _due(group, profile, asked):
                step = _retime if asked.retime else _add
                step(bench, entry, seed, asked, say, open_log)
            _compare(data, {e.code_hash for e in group}, asked, open_log)
    rows = results.read_all(asked.results, profile.name)
    results.write_table(asked.results, profile.name, rows)
    sections = lines.sections(entries, rows)
    text = table.markdown(sections, profile.name)
    (asked.results / profile.name / TABLE).write_text(text, encoding="utf-8")
    return page.render(sections, profile.name, skipped, asked.out)


def _require_known(only: Sequence[str], entries: Sequence[Entry]) -> None:
    known = sorted({e.run for e in entries if e.base is None})
    wrong = [name for name in only if name not in known]
    if wrong:
        raise BadSettings(
            f"--only names {', '.join(wrong)}, which the profile has no run file of. It has: "
            f"{', '.join(known)}."
        )


def _at_hand(entries: Sequence[Entry], data: Path | None) -> tuple[list[Entry], list[str]]:
    """Entries whose data are there, and a line for each data set that is not."""
    here, skipped = list[Entry](), dict[str, str]()
    for entry in entries:
        roots = [e.root(data) for e in (entry, entry.base) if e is not None]
        made = data is None and entry.spec is not None and entry.spec.simulate is not None
        absent = [] if made else [r for r in roots if r is not None and not r.is_dir()]
        if absent:
            skipped[entry.data] = f"skipped {entry.data}: {absent[0]} is not there"
        else:
            here.append(entry)
    return here, list(skipped.values())


def _due(group: Sequence[Entry], profile: Profile, asked: Asked) -> Iterator[tuple[Entry, int]]:
    """The first seed of every entry, then more seeds of the best of each family."""
    chosen = [e for e in group if not asked.only or (e.base or e).run in asked.only]
    yield from ((entry, entry.seed) for entry in chosen)
    count = profile.seeds.get(group[0].data, 1)
    own = [e for e in group if e.base is None]
    rows = [row for e in own if (row := _kept(asked, e, e.seed, profile.name)) is not None]
    for name in sorted({row.family for row in rows}):
        top = compare.best([row for row in rows if row.family == name])
        for entry in (e for e in chosen if top and e.run == top.run and e.base is None):
            yield from ((entry, seed) for seed in plan.more_seeds(entry.seed, count))


def _add(bench: Bench, entry: Entry, seed: int, asked: Asked, say: Say, open_log: OpenLog) -> None:
    """Measures a row that does not stand yet, keeps it and logs it."""
    name = f"{entry.run} on {entry.data}" if entry.base is None else entry.run
    known = _kept(asked, entry, seed, bench.profile.name)
    if known is not None:
        again = "; to try again remove " if known.state == "failed" else ""
        file = results.path(asked.results, known) if again else ""
        say(f"kept {name}, seed {seed}: {_in_short(known)}{again}{file}")
        return
    row = measured(bench, entry, seed)
    _keep(row, asked, open_log)
    say(f"done {name}, seed {seed}: {_in_short(row)}")


def _retime(
    bench: Bench, entry: Entry, seed: int, asked: Asked, say: Say, open_log: OpenLog
) -> None:
    """Times the scan of a row that stands, as on a machine that does nothing else."""
    row = _kept(asked, entry, seed, bench.profile.name)
    if row is None or row.state == "failed" or entry.base is not None:
        return
    found = timed(bench, entry, row.folder)
    _keep(row.model_copy(update=found), asked, open_log)
    before = table.short(row.images_per_second or 0.0, 0)
    rate = table.short(found["images_per_second"] or 0.0, 0)
    say(f"timed {entry.run}, seed {seed}: {rate} images/s, was {before}")


def _kept(asked: Asked, entry: Entry, seed: int, profile: str) -> Row | None:
    """The row of an entry and a seed, if it is of today's code, run file and spec."""
    file = results.place(asked.results, profile, entry.data, entry.run, seed)
    row = results.read(file)
    return row if row is not None and row.code_hash == entry.code_hash else None


def _compare(data: str, today: set[str], asked: Asked, open_log: OpenLog) -> None:
    """Holds today's rows of a data set against its best baseline, and keeps those that changed."""
    kept = results.read_all(asked.results, asked.profile)
    rows = [r for r in kept if r.data == data and r.code_hash in today]
    for old, new in zip(rows, compare.compared(rows, asked.out), strict=True):
        if new != old:
            _keep(new, asked, open_log)


def _keep(row: Row, asked: Asked, open_log: OpenLog) -> None:
    file = results.write(asked.results, row)
    names = ("run", "data", "seed", "profile", "code_hash", "trained_on", "model", "rule", "family")
    with open_log(f"benchmark {row.run}, seed {row.seed}", row.key) as log:
        log.settings({name: getattr(row, name) for name in (*names, "commit", "state", "error")})
        log.numbers(0, numbers(row))
        log.artefact(file)


def _in_short(row: Row) -> str:
    if row.state == "failed":
        return f"failed, {row.error}"
    capture = (
        f", capture at 1 % {table.short(row.capture_at_1.value, 3)}" if row.capture_at_1 else ""
    )
    return f"AUROC {table.short(row.auroc.value, 4)}{capture}" if row.auroc else "no defect to find"
