"""Reviewers' verdicts: a table that says of each image what a person decided, who and when.

    image_id      as in the scan's scores
    verdict       "good" (flagged, it was a false alarm), "defect" or "unsure"
    reviewer      a name
    decided_at    ISO 8601 with its zone, 2026-11-22T09:30:00+01:00; a date alone counts from its
                  first moment, UTC

Read from CSV or parquet; other columns are left alone. A row in which verdict, reviewer and
decided_at are all empty is a list's line that nobody has decided yet, and is passed over. An image
may be decided several times: the latest decides, the earlier ones stay for the audit.
"""

import datetime as dt
from pathlib import Path

import pandas as pd

from inspect_ai.errors import MissingData

GOOD, DEFECT, UNSURE = "good", "defect", "unsure"
VERDICTS = (GOOD, DEFECT, UNSURE)
COLUMNS = ("image_id", "verdict", "reviewer", "decided_at")
FORM = "Write ISO 8601 with the zone, as 2026-11-22T09:30:00+01:00, or a date, as 2026-11-22."


def read(path: Path) -> pd.DataFrame:
    """Every decision, checked, the earliest first.

    Returns:
        image_id, verdict, reviewer (strings), decided_at (UTC) and decides (bool): whether it is
        the one that counts for its image.

    Raises:
        MissingData: no such table, a column is absent, or a row says what it must not; names it.
    """
    table = _table(path)
    told = {name: [_text(value) for value in table[name].tolist()] for name in COLUMNS[:3]}
    text = pd.DataFrame(told, dtype="string")
    text["decided_at"] = pd.Series([_stated(v) for v in table["decided_at"].tolist()], dtype=object)
    decided = text[(text[list(COLUMNS[1:])] != "").any(axis=1)]
    _check_words(decided, path)
    times = [_moment(value, row, path) for row, value in decided["decided_at"].items()]
    moments = pd.Series(times, decided.index, "datetime64[us, UTC]")
    return _ordered(decided.assign(decided_at=moments), path)


def latest(verdicts: pd.DataFrame) -> "pd.Series[str]":
    """The verdict that counts, by image_id.

    Args:
        verdicts: as `read` gives them.
    """
    return verdicts[verdicts["decides"]].set_index("image_id")["verdict"]


def _table(path: Path) -> pd.DataFrame:
    """The table as it is written: in a CSV file every cell is text, so that no name becomes a number."""
    if not path.is_file():
        raise MissingData(
            f"No table of verdicts {path}. Pass a CSV or parquet file with the columns "
            f"{', '.join(COLUMNS)}."
        )
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' and Arrow's errors of reading are ValueErrors
        raise MissingData(f"{path} is not a whole table: {error}. Write it again.") from None
    if absent := [name for name in COLUMNS if name not in table]:
        raise MissingData(
            f"{path} lacks the columns {absent}; it has {list(table.columns)}. A table of verdicts "
            f"needs {', '.join(COLUMNS)}."
        )
    return table.reset_index(drop=True)


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value).strip()  # type: ignore[call-overload]


def _stated(value: object) -> object:
    """A time as it was written; nothing is an empty text."""
    return value if isinstance(value, dt.date) and not pd.isna(value) else _text(value)


def _check_words(table: pd.DataFrame, path: Path) -> None:
    for name in ("image_id", "reviewer"):
        nameless = table.index[table[name] == ""]
        if len(nameless):
            raise MissingData(f"{path} has no {name} in row {nameless[0] + 1}. Add it.")
    wrong = table[~table["verdict"].isin(VERDICTS)]
    if len(wrong):
        row = wrong.index[0]
        raise MissingData(
            f"{path} has the verdict '{wrong['verdict'].iloc[0]}' in row {row + 1} (image "
            f"{wrong['image_id'].iloc[0]}); needed is one of {', '.join(VERDICTS)}. Correct it; "
            "clear verdict, reviewer and decided_at of an image that nobody has decided."
        )


def _moment(value: object, row: object, path: Path) -> dt.datetime:
    """A time in UTC."""
    place = f"in row {int(str(row)) + 1} of {path}"
    if isinstance(value, str):
        try:
            found = dt.datetime.fromisoformat(value)
        except ValueError:
            raise MissingData(f"decided_at is '{value}' {place}. {FORM}") from None
        dated = len(value) <= len("2026-11-22")
    else:
        assert isinstance(value, dt.date)
        dated = not isinstance(value, dt.datetime)
        found = dt.datetime.fromisoformat(value.isoformat())
    if dated:
        return found.replace(tzinfo=dt.UTC)
    if found.tzinfo is None:
        raise MissingData(f"decided_at is '{value}' {place}, which has no zone. {FORM}")
    return found.astimezone(dt.UTC)


def _ordered(found: pd.DataFrame, path: Path) -> pd.DataFrame:
    """By time, with the row marked that decides for its image; two that differ at once are refused."""
    found = found.sort_values("decided_at", kind="stable")
    newest = found["decided_at"] == found.groupby("image_id")["decided_at"].transform("max")
    said = found[newest].groupby("image_id")["verdict"].nunique()
    if len(torn := said.index[said > 1]):
        both = found[newest & (found["image_id"] == torn[0])]
        rows = ", ".join(str(int(row) + 1) for row in both.index)
        raise MissingData(
            f"{path} decides image {torn[0]} as {' and as '.join(sorted(set(both['verdict'])))} at "
            f"one moment, in rows {rows}; needed is one latest verdict. Drop a row, or give the "
            "time of day."
        )
    decides = newest & ~found["image_id"].duplicated(keep="last")
    return found.assign(decides=decides).reset_index(drop=True)
