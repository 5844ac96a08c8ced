"""Progress with rate and time left, on stderr: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LOG_EVERY = 20.0  # seconds between two lines of a log

Report = Callable[[int, int], None]  # done, total


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed and speed >= 10 else f"{speed or 0:.1f}/s")


@contextmanager
def bar(title: str) -> Iterator[Report]:
    """Gives a report to call with (done, total)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield report


def _lines(console: Console, title: str) -> Report:
    last = time.monotonic()
    first: tuple[int, float] | None = None

    def report(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = first or (done, now)  # a resumed run begins further on
        if now - last < LOG_EVERY and done < total:
            return
        last = now
        line = f"{title}: {done:,} of {total:,}"
        if done > first[0]:
            rate = (done - first[0]) / max(now - first[1], 1e-9)
            line += f", {rate:,.1f}/s, {(total - done) / rate:,.0f} s left"
        console.print(line, highlight=False, soft_wrap=True)

    return report
