"""CSV and parquet tables that list images: read, and checked before anything follows them."""

from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from inspect_ai.errors import MissingData


def read(path: Path, needed: list[str]) -> pd.DataFrame:
    """A table with the needed columns; numbers stay numbers, an empty cell is null.

    Raises:
        MissingData: no such file, not a table, or without a needed column.
    """
    if not path.is_file():
        raise MissingData(f"No table {path}. Write it, or correct 'table' in the spec's layout.")
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            # only an empty cell is null: "none" and "NA" are names that fabs use
            table = pd.read_csv(path, keep_default_na=False, na_values=[""], low_memory=False)
    except (ValueError, OSError) as error:  # pandas' and Arrow's errors of reading are ValueErrors
        raise MissingData(f"{path} is not a whole table: {error}. Write it again.") from None
    absent = [name for name in needed if name not in table]
    if absent:
        raise MissingData(
            f"{path} lacks the columns {absent}; it has {list(table.columns)}. "
            "Correct the column names in the spec's layout."
        )
    return table


def check_paths(paths: pd.Series, where: Path) -> None:
    """Refuses a path that does not stay under the root; nulls are let through.

    Raises:
        MissingData: names the first such path.
    """
    for path in paths.dropna().unique():
        if not _stays_inside(str(path)):
            raise MissingData(
                f"{where} lists '{path}', which is not a path under the root. Write it relative "
                "to the root, with / between folders and without '..'."
            )


def check_listed_once(paths: pd.Series, where: Path) -> None:
    """Refuses a table with a row without a path, or with two rows of one path.

    Raises:
        MissingData: names the row or the path.
    """
    if paths.isna().any():
        row = int(paths.isna().to_numpy().argmax())
        raise MissingData(f"{where} has no path in row {row + 1}. Add it, or drop the row.")
    again = paths[paths.duplicated()]
    if len(again):
        raise MissingData(
            f"{where} lists {len(again)} path(s) twice; the first is '{again.iloc[0]}'. "
            "Keep one row for each image."
        )


def _stays_inside(path: str) -> bool:
    windows = PureWindowsPath(path)
    plain = "\\" not in path and not windows.drive and not path.startswith("/")
    return plain and ".." not in PurePosixPath(path).parts
