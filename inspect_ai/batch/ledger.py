"""Which part of a scan is done: a part is done when its score file is there.

A part's other files are written before, under names that depend on the content alone, and the
score file appears by one move, last. A kill at any moment leaves parts that are done and
parts that are not, never half a part that counts.
"""

import shutil
from pathlib import Path

import pandas as pd

from inspect_ai import steps

SCORES, REJECTED, MAPS = "scores", "rejected", "maps"


class Ledger:
    """The parts of one scan folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        for name in (SCORES, REJECTED, MAPS):
            (out / name).mkdir(exist_ok=True)
        for leftover in out.rglob("*.tmp"):  # of a kill
            leftover.unlink()

    def is_done(self, part: int) -> bool:
        """Whether nothing of this part is left to do."""
        return self._path(SCORES, part).is_file()

    def commit(self, part: int, scores: pd.DataFrame, rejected: pd.DataFrame) -> None:
        """Keeps a part; the last move makes it count."""
        _write(rejected, self._path(REJECTED, part))
        _write(scores, self._path(SCORES, part))

    def keep(self, name: str, data: bytes) -> None:
        """Keeps a picture or a map of an image of a part that is not yet done."""
        (self.out / MAPS / name).write_bytes(data)

    def close(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Joins the rejected rows into one table; gives it and the verdicts of all parts."""
        rejected = _joined(self.out / REJECTED)
        _write(rejected, self.out / "rejected.parquet")
        columns = ["pred_label", "group"]
        return rejected, _joined(self.out / SCORES, columns)

    def _path(self, folder: str, part: int) -> Path:
        return self.out / folder / f"part-{part:05d}.parquet"


def tidy(out: Path) -> None:
    """Removes the rejected rows' parts of a finished scan: they stand in one table."""
    shutil.rmtree(out / REJECTED, ignore_errors=True)


def _write(table: pd.DataFrame, path: Path) -> None:
    part = path.with_suffix(".tmp")
    table.to_parquet(part, index=False)
    steps.fsync(part)
    part.replace(path)


def _joined(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    parts = [pd.read_parquet(p, columns=columns) for p in sorted(folder.glob("part-*.parquet"))]
    return pd.concat(parts, ignore_index=True)
