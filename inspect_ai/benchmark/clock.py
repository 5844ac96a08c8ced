"""How long the steps of a build took, by their own records.

A step that was stopped and went on has a pause in its record; its time is then not known.
"""

import json
from datetime import datetime
from pathlib import Path

from inspect_ai import steps

ATTEMPTS = "attempts.json"


def begin(folder: Path) -> None:
    """Notes that work on a row begins, or goes on, now."""
    steps.write_json(folder / ATTEMPTS, {"attempts": [*_attempts(folder), steps.now()]})


def seconds(folder: Path, step: str, name: str | None = None) -> float | None:
    """Wall clock of a finished step, to the second; None where it was stopped on the way.

    Args:
        folder: of the row, in which `begin` noted every attempt.
        step: the step's own folder below it.
        name: where the step's record holds a time of its own, which is then taken.
    """
    record = json.loads((folder / step / steps.RECORD).read_text(encoding="utf-8"))
    began, ended = (datetime.fromisoformat(record[k]) for k in ("started_at", "finished_at"))
    if any(began < datetime.fromisoformat(attempt) < ended for attempt in _attempts(folder)):
        return None
    return float(record[name]) if name else (ended - began).total_seconds()


def _attempts(folder: Path) -> list[str]:
    path = folder / ATTEMPTS
    noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"attempts": []}
    return list(noted["attempts"])
