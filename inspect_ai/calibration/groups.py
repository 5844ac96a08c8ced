"""Yardsticks by product, layer or tool, each with the whole promise (Mondrian calibration).

The good scores are cut by columns, from coarse to fine: all, product=A, product=A/tool=3. Within a
category the promise is that of its own good images, so no product pays for another's. A category
with too few images (or lots) to support the promise backs off to the next coarser one, and so does
one that calibration never met; which level judged an image is said beside each verdict. At a
coarser level the promise is kept over the mixture of what it was calibrated on, not for each part.
How many images a category has decides, never how they score: so backing off costs nothing.

Sources: Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", 2005, section 4.5.
Vovk, "Conditional validity of inductive conformal predictors", Machine Learning 92, 2013.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from inspect_ai.calibration import lots
from inspect_ai.calibration.conformal import Calibration, allowed_rank, require, sure
from inspect_ai.calibration.promise import Promise
from inspect_ai.data.conditions import text
from inspect_ai.errors import MissingData
from inspect_ai.scores import Bool, Float32, Float64

ALL = "all"


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """A yardstick for each category that has the images for one, and one of all.

    Args:
        columns: that name a category, from coarse to fine.
        levels: by name; "all" is there always.
        thresholds: of each level; scores strictly above are flagged.
        images: good images of each level, whether or not they count.
    """

    columns: tuple[str, ...]
    levels: Mapping[str, Calibration]
    thresholds: Mapping[str, float]
    images: Mapping[str, int]

    @property
    def all(self) -> Calibration:
        """The yardstick of all images."""
        return self.levels[ALL]

    def level(self, table: pd.DataFrame) -> "pd.Series[str]":
        """The level that judges each row: (N,), the finest there is.

        Raises:
            MissingData: a column is not there.
        """
        found = pd.Series(ALL, table.index, dtype="string")
        for names in _names(table, self.columns):
            found = names.where(names.isin(list(self.levels)), found)
        return found

    def p_value(self, pred_score: Float32, level: "pd.Series[str]") -> Float64:
        """(N,) p-values among the good scores of each row's level."""
        return self._each(pred_score, level, Calibration.p_value)

    def p_value_conditional(self, pred_score: Float32, level: "pd.Series[str]") -> Float64:
        """(N,) p-values that hold with the promised confidence; see conformal.py."""
        return self._each(pred_score, level, Calibration.p_value_conditional)

    def threshold(self, level: "pd.Series[str]") -> Float64:
        """(N,) thresholds of each row's level."""
        return np.asarray(level.map(dict(self.thresholds)), np.float64)

    def is_anomalous(self, pred_score: Float32, level: "pd.Series[str]") -> Bool:
        """(N,) verdicts; a score that is not a number is flagged."""
        return ~(np.asarray(pred_score) <= self.threshold(level).astype(np.float32))

    def _each(
        self,
        pred_score: Float32,
        level: "pd.Series[str]",
        answer: Callable[[Calibration, Float32], Float64],
    ) -> Float64:
        found, names = np.empty(len(pred_score)), level.to_numpy(str)
        for name, yardstick in self.levels.items():
            rows = names == name
            if rows.any():
                found[rows] = answer(yardstick, np.asarray(pred_score)[rows])
        return found


def yardsticks(table: pd.DataFrame, column: str, promise: Promise) -> Yardsticks:
    """A yardstick of all good scores, and of each category that can support the promise.

    Args:
        table: image_id, group (the lot), `column` and the promise's groups, of good images.

    Raises:
        MissingData: a column is not there.
        TooFewGoodImages: not even all of them support the promise.
        BadSettings, ValueError: see conformal.calibrate.
    """
    rate, confidence, unit = promise.false_alarm_rate, promise.confidence, promise.unit
    made = {ALL: lots.yardstick(table, column, rate, confidence, unit)}
    images = {ALL: len(table)}
    for names in _names(table, promise.groups):
        for name, rows in table.groupby(names.to_numpy(), sort=True):
            n = lots.units(rows["group"], unit)
            if name and allowed_rank(n, rate, sure(confidence, unit)) >= 1:
                made[str(name)] = lots.yardstick(rows, column, rate, confidence, unit)
                images[str(name)] = len(rows)
    thresholds = {name: yardstick.threshold for name, yardstick in made.items()}
    return Yardsticks(promise.groups, made, thresholds, images)


def demand(table: pd.DataFrame, promise: Promise) -> None:
    """Refuses what these images cannot promise; costs nothing, so ask before training.

    Raises:
        MissingData: a column of the promise's groups is not there.
        TooFewGoodImages: says how many are needed, and what there are can promise.
    """
    list(_names(table, promise.groups))
    if promise.tail:
        return  # whether it fits shows in the scores
    n = lots.units(table["group"], promise.unit)
    require(n, promise.false_alarm_rate, promise.confidence, promise.unit)


def _names(table: pd.DataFrame, columns: tuple[str, ...]) -> Iterator["pd.Series[str]"]:
    """The category of each row by one column, by two, ..; "" where a value is not known."""
    if missing := [c for c in columns if c not in table]:
        raise MissingData(
            f"Thresholds are kept apart by {' and '.join(columns)}, and there is no column "
            f"{', '.join(missing)}. Use a data spec whose table has it, or build without it in "
            "[calibration] groups."
        )
    name, known = pd.Series("", table.index), pd.Series(True, table.index)
    for column in columns:
        value = text(table[column])
        known &= value != ""
        name = name + ("/" if name.any() else "") + column + "=" + value
        yield name.where(known, "")
