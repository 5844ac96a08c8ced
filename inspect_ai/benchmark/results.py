"""Rows on disk: pipelines/results/<profile>/<data>/<run>-s<seed>.parquet, one row each.

A row is replaced when the code, its run file or its spec changes; README's table is printed from
these files and needs nothing else.
"""

from pathlib import Path

import pandas as pd

from inspect_ai import steps
from inspect_ai.benchmark.rows import FORMAT, Row, flat, unflat
from inspect_ai.errors import BadSettings, MissingData, OutputInUse

TABLE = "table.parquet"


def path(results: Path, row: Row) -> Path:
    """Where a row is kept."""
    return place(results, row.profile, row.data, row.run, row.seed)


def place(results: Path, profile: str, data: str, run: str, seed: int) -> Path:
    """Where a row of these names is kept."""
    return results / profile / data / f"{run.replace(' ', '-')}-s{seed}.parquet"


def write(results: Path, row: Row) -> Path:
    """Keeps a row in one move.

    Raises:
        OutputInUse: the folder cannot be written to.
    """
    target = path(results, row)
    require_writable(target.parent)
    _move(pd.DataFrame([flat(row)]), target)
    return target


def write_table(results: Path, profile: str, rows: list[Row]) -> None:
    """Keeps all rows of a profile in one table."""
    _move(pd.DataFrame([flat(row) for row in rows]), results / profile / TABLE)


def read(file: Path) -> Row | None:
    """A kept row; None where there is none, or its figures meant something else.

    Raises:
        MissingData: the file is no row.
    """
    if not file.is_file():
        return None
    try:
        columns = pd.read_parquet(file).to_dict("records")[0]
        row = unflat({str(name): value for name, value in columns.items()}, str(file))
    except (OSError, ValueError, LookupError, BadSettings) as error:
        raise MissingData(f"{file} is no row of the benchmark ({error}). Remove it.") from None
    return row if row.format == FORMAT else None


def read_all(results: Path, profile: str) -> list[Row]:
    """Every kept row of a profile, by data set, run and seed."""
    files = sorted((results / profile).glob("*/*.parquet"))
    rows = [row for file in files if (row := read(file)) is not None]
    return sorted(rows, key=lambda row: (row.data, row.run, row.seed))


def require_writable(folder: Path) -> None:
    """Refuses, before any work, a folder that cannot keep rows.

    Raises:
        OutputInUse: says why.
    """
    probe = folder / "probe.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputInUse(
            f"Rows cannot be kept in {folder}: {error.strerror}. Pass a folder that can be written "
            "to with --results."
        ) from None


def _move(table: pd.DataFrame, target: Path) -> None:
    part = target.with_suffix(".part")
    with steps.disk(target.parent):
        table.to_parquet(part, index=False)
        part.replace(target)
