"""What a conditional model is told of an image beside its pixels: a product, a layer, a tool.

The columns that say it and the values that are known stand in the run file and travel in the
bundle; a value is a whole number, its place in that list. A scan refuses an image of any other
value by name: the model has never seen its like.
"""

import hashlib
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from inspect_ai.errors import MissingData
from inspect_ai.settings import Settings

UNKNOWN = -1
Places = NDArray[np.int64]  # (N,) of the list of values


class Condition(Settings):
    """Columns of the manifest, and the values known of them, joined by "/" where several."""

    columns: tuple[str, ...] = Field(min_length=1)
    values: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, names in (("columns", self.columns), ("values", self.values)):
            if twice := sorted({n for n in names if names.count(n) > 1}):
                raise ValueError(f"{what} name {', '.join(twice)} twice; drop one")
        return self

    def said(self, table: pd.DataFrame) -> "pd.Series[str]":
        """What each row says, (N,).

        Raises:
            MissingData: a column is not there.
        """
        if missing := [c for c in self.columns if c not in table]:
            raise MissingData(
                f"The model is told {' and '.join(self.columns)} of each image, and there is no "
                f"column {', '.join(missing)}. Scan through a data spec whose table has it."
            )
        parts = [text(table[c]) for c in self.columns]
        joined = parts[0]
        for part in parts[1:]:
            joined = joined + "/" + part
        return joined

    def places(self, table: pd.DataFrame) -> Places:
        """Place of each row's value in the list; UNKNOWN where it is not there.

        Raises:
            MissingData: a column is not there.
        """
        known = {value: place for place, value in enumerate(self.values)}
        return np.asarray([known.get(said, UNKNOWN) for said in self.said(table)], np.int64)

    def require(self, table: pd.DataFrame) -> Places:
        """As `places`, where every value must be known.

        Raises:
            MissingData: a column is not there, or holds a value that is not in the list.
        """
        places = self.places(table)
        if (places == UNKNOWN).any():
            found = sorted(set(self.said(table)[places == UNKNOWN]))
            raise MissingData(
                f"{int((places == UNKNOWN).sum())} image(s) to learn from are of {'/'.join(self.columns)} "
                f"{', '.join(map(repr, found))}, which [condition] values do not list "
                f"({', '.join(map(repr, self.values))}). Add them, or leave their lots out."
            )
        return places

    def require_each(self, table: pd.DataFrame, what: str) -> None:
        """Refuses a list of values of which one has no image, or an image that is of none.

        Args:
            what: the images are for.

        Raises:
            MissingData: so it is.
        """
        found = set(self.require(table).tolist())
        if missing := [v for i, v in enumerate(self.values) if i not in found]:
            raise MissingData(
                f"[condition] values list {', '.join(map(repr, missing))}, and no good image to "
                f"{what} is of that {'/'.join(self.columns)}. Add such images, or drop the value: "
                "nothing would be known of it."
            )

    def hash(self, table: pd.DataFrame) -> str:
        """Names what the rows say: work on other conditions is other work."""
        return hashlib.sha256("\n".join(self.said(table)).encode()).hexdigest()


def text(column: "pd.Series[Any]") -> "pd.Series[str]":
    """A column as it is written, each value by itself; 1.0, as of a column with gaps, is 1."""
    if column.dtype.kind == "f":
        written = [_number(value) for value in column]
        return pd.Series(written, column.index, dtype="string")
    return column.astype("string").fillna("")


def _number(value: float) -> str:
    if np.isnan(value):
        return ""
    return str(int(value)) if value % 1 == 0 else repr(float(value))
