"""The promises, counted; and promised against observed overkill on real images.

    python -m pipelines.promises count [--splits 2000] [--out pipelines/results]
    python -m pipelines.promises observed [--out pipelines/results]

`count` draws calibrations by the thousand, of scores whose law is known (and of the good scores
of scans at hand), and counts how each rule keeps its promise: counting.py says what a row holds,
counting_thresholds.py, counting_lots.py, counting_batches.py and counting_drift.py what is drawn.
It also times a calibration. `observed` reads the scans that the benchmark left; see observing.py.

Each writes a Markdown table, the numbers as JSON, and a picture.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inspect_ai.calibration.batch_fdr import q_values
from inspect_ai.calibration.conformal import calibrate
from inspect_ai.scores import Float64
from inspect_ai.steps import write_json
from pipelines import (
    counting_batches,
    counting_drift,
    counting_lots,
    counting_thresholds,
    observing,
    observing_tables,
    promise_plots,
)
from pipelines.counting import KINDS, SPLITS, Row, table
from pipelines.counting_lots import Key
from pipelines.observing import Scanned

OUT = Path("pipelines/results")
REAL = ("wm811k",)  # data sets whose scores are drawn from
MANY, MORE, REPEATS = 100_000, 1_000_000, 5  # scores that are timed
INTRO = """Each row is {splits:,} calibrations (or batches, or streams) with fresh scores; tails and run
lengths take fewer. "Observed" is the mean of what good images truly had flagged, and how far it is
known; "draws that broke it" counts for a promise with confidence. KS compares overkill with
Beta(r, n + 1 - r). A promise is called broken where chance would say so once in 1,000 rows."""


def count(splits: int, out: Path) -> None:
    """Counts every promise, and writes the table, the numbers and the picture."""
    began, rows = time.perf_counter(), list[Row]()
    made = counting_lots.made(splits)
    scans = [seen for seen in observing.scans() if seen.data in REAL]
    lines = [INTRO.format(splits=splits)]
    for name, part in counted(splits, made, scans):
        found = list(part)
        rows += found
        lines += ["", f"**{name}**", "", *table(found)]
        print(name, f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    times = timed()
    lines += ["", *map(str, times)]
    lines += ["", f"{machine()}; {time.perf_counter() - began:,.0f} s in all."]
    fields = [row.fields for row in rows]
    extra = {"times": [one.fields for one in times], "machine": machine(), "splits": splits}
    _write(out / "promises_counted", lines, {"rows": fields} | extra)
    promise_plots.counted(splits, made).savefig(out / "promises_counted.png")


def counted(
    splits: int, made: dict[Key, Float64], scans: Sequence[Scanned]
) -> Iterator[tuple[str, Iterator[Row]]]:
    """All rows, part by part."""
    yield "Thresholds and p-values", counting_thresholds.rows(splits)
    yield "Lots that are alike", counting_lots.made_rows(made)
    for seen in scans:
        yield f"Lots of {seen.data}, {seen.detector}", counting_lots.real_rows(seen, splits)
    yield "Products", counting_lots.group_rows(splits)
    yield "Batches", counting_batches.batch_rows(splits)
    yield "Pixels", counting_batches.pixel_rows(splits)
    yield "Tails", counting_batches.tail_rows(splits)
    yield "Drift", counting_drift.rows(min(splits, counting_drift.STREAMS))


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of some work, the median of REPEATS runs."""

    work: str
    seconds: float

    @property
    def fields(self) -> dict[str, object]:
        """For the JSON table."""
        return {"work": self.work, "seconds": self.seconds}

    def __str__(self) -> str:
        """As an item of a list."""
        return f"* {self.work}: {self.seconds:.3f} s"


def timed(many: int = MANY, more: int = MORE) -> list[Timed]:
    """How long a calibration takes, p-values and q-values."""
    rng = np.random.default_rng(13)
    good, new = KINDS[0].draw(rng, many), KINDS[0].draw(rng, more)
    made = calibrate(good, 0.01, 0.95)
    p = made.p_value(new)
    return [
        Timed(
            f"threshold of {many:,} good scores",
            _seconds(lambda: calibrate(good, 0.01, 0.95).threshold),
        ),
        Timed(f"p-values of {more:,} scores among them", _seconds(lambda: made.p_value(new))),
        Timed(
            f"p-values of {more:,} scores, with confidence",
            _seconds(lambda: made.p_value_conditional(new)),
        ),
        Timed(f"q-values of {more:,} p-values", _seconds(lambda: q_values(p, n=many))),
    ]


def _seconds(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return float(np.median(spent))


def machine() -> str:
    """What this runs on, in words."""
    info, name = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if info.is_file():
        named = (line for line in info.read_text("utf-8").splitlines() if "model name" in line)
        name = next(named, f": {name}").split(":", 1)[1].strip()
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    return f"{name}, one of {os.cpu_count()} cores, {platform.system()}, {versions}"


def observe(out: Path) -> None:
    """Compares promised and observed overkill of the scans at hand; writes and prints."""
    found = [observing.compared(seen) for seen in observing.scans()]
    if not found:
        sys.exit("No scans of seed 0 at hand. Make them: inspect-ai benchmark --profile full")
    lines = list(observing_tables.tables(found))
    _write(out / "promises_observed", lines, {"rows": [one.fields for one in found]})
    promise_plots.observed(found).savefig(out / "promises_observed.png")


def _write(path: Path, lines: list[str], numbers: dict[str, object]) -> None:
    """PATH.md and PATH.json; prints the first."""
    text = "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    write_json(path.with_suffix(".json"), numbers)
    print(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.promises")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("count", "promises, counted"), ("observed", "on scans at hand")):
        command = commands.add_parser(name, help=about)
        command.add_argument("--out", type=Path, default=OUT)
        if name == "count":
            command.add_argument("--splits", type=int, default=SPLITS)
    asked = parser.parse_args(arguments)
    if asked.command == "count":
        count(asked.splits, asked.out)
    else:
        observe(asked.out)


if __name__ == "__main__":
    main()
