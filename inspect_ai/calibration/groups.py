"""Yardsticks by product, layer or tool, each with the whole promise (Mondrian calibration).

The good scores are cut by columns, from coarse to fine: all, product=A, product=A/tool=3. Within a
category the promise is that of its own good images, so no product pays for another's. A category
with too few images (or lots) to support the promise backs off to the next coarser one, and so does
one that calibration never met; which level judged an image is said beside each verdict.

A level that others back off to is calibrated on what is left to it, the good images without a
finer yardstick, where these support the promise: then each image is judged among its like, and
the promise holds over all levels together. Where they are too few, on all of its images: the
promise is then that of the mixture, and says so; what is left may be flagged more often.
How many images a category has decides all this, never how they score.

Sources: Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", 2005, section 4.5.
Vovk, "Conditional validity of inductive conformal predictors", Machine Learning 92, 2013.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from inspect_ai.calibration import lots, pixels, tails
from inspect_ai.calibration.conformal import Calibration, allowed_rank, require, sure
from inspect_ai.calibration.promise import Promise
from inspect_ai.data.conditions import text
from inspect_ai.errors import BadFit, MissingData
from inspect_ai.scores import Bool, Float32, Float64

ALL = "all"


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """A yardstick for each category that has the images for one, and one of all.

    Args:
        columns: that name a category, from coarse to fine.
        levels: by name; "all" is there always.
        thresholds: of each level; scores strictly above are flagged.
        images: good images that each level was calibrated on, whether or not they count.
        mixed: levels calibrated on more than what is left to them.
    """

    columns: tuple[str, ...]
    levels: Mapping[str, Calibration]
    thresholds: Mapping[str, float]
    images: Mapping[str, int]
    mixed: frozenset[str] = frozenset()

    @property
    def all(self) -> Calibration:
        """The yardstick of what has none of its own."""
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
        found, scores = np.empty(len(pred_score)), np.asarray(pred_score)
        codes, names = pd.factorize(level.to_numpy(object))
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], np.arange(len(names) + 1))
        for name, start, end in zip(names, ends[:-1], ends[1:], strict=True):
            rows = order[start:end]
            found[rows] = answer(self.levels[name], scores[rows])
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
    cut = list(_names(table, promise.groups))
    bears = {ALL: True} | {n: True for names in cut for n in _bearing(table, names, promise)}
    judged = pd.Series(ALL, table.index)
    for names in cut:
        judged = names.where(names.isin(list(bears)), judged)
    place = {name: number for number, name in enumerate(bears)}
    code = judged.map(place).to_numpy(np.int64)  # comparing numbers is quicker than names
    draws = lots.drawn(table["image_id"], table["group"]) if promise.unit == "lot" else None
    made, images, mixed = dict[str, Calibration](), dict[str, int](), set[str]()
    for name in bears:
        left = code == place[name]
        if not _enough(table["group"][left], promise):
            left = _whole(name, cut, len(table))
            mixed |= {name} if (code[left] != place[name]).any() else set()
        asked = promise.false_alarm_rate, promise.confidence, promise.unit
        own = None if draws is None else draws[left]
        made[name] = lots.yardstick(table[left], column, *asked, own)
        images[name] = int(left.sum())
    thresholds = {name: yardstick.threshold for name, yardstick in made.items()}
    return Yardsticks(promise.groups, made, thresholds, images, frozenset(mixed))


def _bearing(table: pd.DataFrame, names: "pd.Series[str]", promise: Promise) -> list[str]:
    """Categories whose images, those with a finer yardstick too, support the promise."""
    sizes = table["group"].groupby(names.to_numpy())
    counts = sizes.size() if promise.unit == "image" else sizes.nunique()
    asked = promise.false_alarm_rate, sure(promise.confidence, promise.unit)
    return [str(name) for name, n in counts.items() if name and allowed_rank(int(n), *asked) >= 1]


def _enough(left: "pd.Series[str]", promise: Promise) -> bool:
    n = lots.units(left, promise.unit)
    asked = promise.false_alarm_rate, sure(promise.confidence, promise.unit)
    return allowed_rank(n, *asked) >= 1


def _whole(name: str, cut: "list[pd.Series[str]]", rows: int) -> Bool:
    """All images of a category."""
    found = np.full(rows, name == ALL)
    for names in cut:
        found |= (names == name).to_numpy()
    return found


def demand(table: pd.DataFrame, promise: Promise) -> None:
    """Refuses what these images cannot promise; costs nothing, so ask before training.

    Raises:
        MissingData: a column of the promise's groups is not there.
        TooFewGoodImages: says how many are needed, and what there are can promise.
        BadFit: too few for a fitted tail, or one with confidence.
    """
    list(_names(table, promise.groups))
    n = lots.units(table["group"], promise.unit)
    asked = promise.false_alarm_rate, sure(promise.confidence, promise.unit)
    if promise.pixel_rate is not None:
        pixels.require(n, promise.pixel_rate)
    if promise.tail and not allowed_rank(n, *asked):
        tails.require(n)
        if promise.confidence is not None:
            raise BadFit(
                f"{n:,} good images support no rate of {promise.false_alarm_rate:g} with confidence "
                f"{promise.confidence:g}, and a fitted tail promises nothing with confidence. Drop "
                "the confidence, or ask for a rate that needs no tail."
            )
        return
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
        for mark, written in (("%", "%25"), ("/", "%2F"), ("=", "%3D")):
            value = value.str.replace(mark, written, regex=False)
        name = name + ("/" if name.any() else "") + column + "=" + value
        yield name.where(known, "")
