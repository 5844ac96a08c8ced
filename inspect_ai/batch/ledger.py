"""Which part of a scan is done: a part is done when its score file is there.

A part's other files are written before, under names that depend on the content alone, and the
score file appears by one move, last. A kill at any moment leaves parts that are done and
parts that are not, never half a part that counts.
"""

import shutil
from pathlib import Path

import pandas as pd

from inspect_ai import steps
from inspect_ai.batch.stages import MASKS

SCORES, REJECTED, REGIONS, MAPS = "scores", "rejected", "regions", "maps"


class Ledger:
    """The parts of one scan folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        for name in (SCORES, REJECTED, REGIONS, MAPS, MASKS):
            (out / name).mkdir(exist_ok=True)
        for leftover in out.rglob("*.tmp"):  # of a kill
            leftover.unlink()

    def is_done(self, part: int) -> bool:
        """Whether nothing of this part is left to do."""
        return self._path(SCORES, part).is_file()

    def commit(
        self, part: int, scores: pd.DataFrame, rejected: pd.DataFrame, regions: pd.DataFrame
    ) -> None:
        """Keeps a part; the last move makes it count."""
        _write(rejected, self._path(REJECTED, part))
        _write(regions, self._path(REGIONS, part))
        _write(scores, self._path(SCORES, part))

    def keep(self, name: str, data: bytes, folder: str = MAPS) -> None:
        """Keeps a picture, map or mask of an image of a part that is not yet done."""
        (self.out / folder / name).write_bytes(data)

    def close(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Joins rejected rows and regions into one table each; gives the rejected and all verdicts."""
        rejected = _joined(self.out / REJECTED)
        _write(rejected, self.out / "rejected.parquet")
        _write(_joined(self.out / REGIONS), self.out / "regions.parquet")
        columns = ["pred_label", "group", "p_value", "group_level"]
        return rejected, _joined(self.out / SCORES, columns)

    def extend(self, columns: pd.DataFrame) -> None:
        """Adds columns to the verdicts of all parts, that only the whole scan could tell.

        Args:
            columns: a row for each verdict, in the order of the parts.
        """
        start = 0
        for path in sorted((self.out / SCORES).glob("part-*.parquet")):
            part = pd.read_parquet(path)
            rows = columns.iloc[start : start + len(part)].set_index(part.index)
            _write(part.assign(**{str(name): rows[name] for name in rows}), path)
            start += len(part)

    def _path(self, folder: str, part: int) -> Path:
        return self.out / folder / f"part-{part:05d}.parquet"


def tidy(out: Path) -> None:
    """Removes the parts of a finished scan that stand in one table each."""
    for name in (REJECTED, REGIONS):
        shutil.rmtree(out / name, ignore_errors=True)


def _write(table: pd.DataFrame, path: Path) -> None:
    part = path.with_suffix(".tmp")
    table.to_parquet(part, index=False)
    steps.fsync(part)
    part.replace(path)


def _joined(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    parts = [pd.read_parquet(p, columns=columns) for p in sorted(folder.glob("part-*.parquet"))]
    return pd.concat(parts, ignore_index=True)
