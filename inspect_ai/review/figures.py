"""Plots of the report; see canvas.py for their look."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from inspect_ai.review.canvas import BAD, FAINT, FLAG, GOOD, YARD, canvas, plain_log, styled, svg
from inspect_ai.review.reading import beyond
from inspect_ai.review.scanned import Scan
from inspect_ai.review.summary import limits
from inspect_ai.scores import Float64

FEW_LOTS = 120  # more of them, of many sizes, are drawn against their size
NAMED_LOTS = 8
COLUMNS = 240  # side by side
BINS = 60
FEW_THRESHOLDS = 8


def histogram(scan: Scan) -> str | None:
    """Scores of the scan over those of the good calibration images; None without a score."""
    score = scan.scores["pred_score"].to_numpy(float)
    yard = scan.calibration["pred_score"].to_numpy(float)
    finite = np.concatenate([score[np.isfinite(score)], yard[np.isfinite(yard)]])
    if not np.isfinite(score).any():
        return None
    edges, log = _edges(np.append(finite, _thresholds(scan)))
    with styled():
        figure, axes = canvas(8.4, 3.0)
        _bars(axes, scan, score, edges)
        if len(yard):
            height = np.histogram(yard, edges)[0] * max(len(score), 1) / len(yard)
            label = f"{len(yard):,} calibration images, scaled"
            axes.stairs(height, edges, color=YARD, lw=1.4, label=label)
        _draw_thresholds(axes, scan)
        axes.set_yscale("log")
        axes.set_ylim(0.5, None)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else ""))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(10))
        if log:
            plain_log(axes.xaxis)
        axes.set(xlabel="score (higher is odder)", ylabel="images")
        figure.legend(loc="outside upper left", fontsize=8, ncols=5)
        return svg(figure, "histogram")


def lots(rows: pd.DataFrame, rate: float | None, word: str) -> str | None:
    """Rate of flagged images by lot, with the limits that good images stay within.

    In order of time (or name); against their size where lots are many and of many sizes.

    Args:
        rows: as from `summary.rolled_up`.
        rate: promised share of good images flagged; None, and no limits, where it is one of lots.
        word: what a lot is called.
    """
    rows = rows[rows["images"] > 0]
    if rows.empty:
        return None
    small, large = np.quantile(rows["images"], [0.1, 0.9])
    ordered = len(rows) <= FEW_LOTS or large <= 2 * small
    with styled():
        figure, axes = canvas(8.4, 2.8)
        shown = _in_order(axes, rows, word) if ordered else _by_size(axes, rows, word)
        _dots(axes, shown)
        if rate is not None:
            _draw_limits(axes, shown.drop_duplicates("x"), rate, word)
            axes.axhline(rate, color=FAINT, lw=1, label="promised rate")
            figure.legend(loc="outside upper left", fontsize=8, ncols=3)
        top = max(1.25 * float(shown["rate"].max()), 2.5 * (rate or 0.02))
        axes.set_ylim(-0.03 * top, min(top, 1.1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
        axes.set_ylabel("flagged")
        return svg(figure, "lots")


def wafers(scan: Scan, names: Sequence[str], keys: pd.Series) -> str:
    """Where the flagged dies of a few wafers lie.

    Args:
        scan: with the columns die_x and die_y.
        names: the wafers to draw, at most six.
        keys: name of the wafer of each row of the scores.
    """
    with styled():
        figure = Figure(figsize=(8.4, 1.65), layout="constrained", facecolor="none")
        panels = figure.subplots(1, 6, squeeze=False)[0]
        for axes, name in zip(panels, [*names, *[""] * 6], strict=False):
            axes.set_axis_off()
            dies = scan.scores[keys == name]
            x, y = dies["die_x"].to_numpy(float), dies["die_y"].to_numpy(float)
            flagged = dies["pred_label"].to_numpy(int) == 1
            across = max(len(np.unique(x)), len(np.unique(y)), 4)
            size = (80 / across) ** 2  # square points: dies that nearly touch
            axes.scatter(x[~flagged], y[~flagged], s=size, c=YARD, marker="s", alpha=0.45, lw=0)
            axes.scatter(x[flagged], y[flagged], s=size, c=FLAG, marker="s", lw=0)
            axes.set_aspect("equal")
            axes.invert_yaxis()
            axes.set_title(name, fontsize=8)
        return svg(figure, "wafers")


def _thresholds(scan: Scan) -> Float64:
    """The thresholds that rows were judged by, upwards; none of them infinite."""
    values = scan.scores.get("image_threshold", pd.Series(dtype=float)).to_numpy(float)
    if not len(values) and scan.run.image_threshold is not None:
        values = np.array([scan.run.image_threshold])
    return np.unique(values[np.isfinite(values)])


def _edges(values: Float64) -> tuple[Float64, bool]:
    """Bin edges; on a logarithmic axis where the scores span more than two decades."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 100 * low:
        return np.geomspace(low * 0.999, high * 1.001, BINS + 1), True
    margin = 1e-3 * (high - low) or max(1e-6, 1e-3 * abs(high))
    return np.linspace(low - margin, high + margin, BINS + 1), False


def _bars(axes: Axes, scan: Scan, score: Float64, edges: Float64) -> None:
    """Good and bad images where labels are known, else flagged and not flagged."""
    gt = scan.scores["gt_label"].astype("Int8")
    flagged = scan.scores["pred_label"] == 1
    parts = [("not flagged", GOOD, ~flagged), ("flagged", FLAG, flagged)]
    if gt.notna().any():
        parts = [
            ("good", GOOD, gt == 0),
            ("label unknown", FAINT, gt.isna()),
            ("defect", BAD, gt == 1),
        ]
    for name, colour, chosen in parts:
        mask: NDArray[np.bool_] = chosen.fillna(False).to_numpy(bool)
        if mask.any():  # not stacked: on a logarithmic axis the upper part would look small
            bars = np.histogram(score[mask & np.isfinite(score)], edges)[0]
            label = f"{int(mask.sum()):,} {name}"
            axes.stairs(bars, edges, fill=True, color=colour, alpha=0.6, label=label)


def _draw_thresholds(axes: Axes, scan: Scan) -> None:
    """A line for each; where groups have many, those of the least and of the largest."""
    values = _thresholds(scan)
    rate = f"{100 * scan.run.false_alarm_rate:.3g} %"
    share = f"{'about' if beyond(scan.run) else 'at most'} {rate}"
    what = "good images" if scan.run.unit != "lot_maximum" else "lots"
    label = f"threshold{'s' if len(values) > 1 else ''} ({share} of {what} above)"
    for at in values if len(values) <= FEW_THRESHOLDS else values[[0, -1]]:
        axes.axvline(float(at), color=FLAG, lw=1.3, ls=(0, (4, 2)), label=label)
        label = "_"  # said once


def _in_order(axes: Axes, rows: pd.DataFrame, word: str) -> pd.DataFrame:
    """Lots side by side, first taken first; many lots share columns, equal ones are one dot."""
    shown = rows.sort_values(["first", "name"], kind="stable").reset_index(drop=True)
    columns = min(len(shown), COLUMNS)
    shown["x"] = np.arange(len(shown)) * columns // len(shown)
    worst = shown[shown["mark"].isin(["far above", "above"])].nsmallest(NAMED_LOTS, "chance")
    _name_dots(axes, worst, apart=(0.07 * columns, 0.08 * float(shown["rate"].max())))
    timed = bool((shown["first"] != "").all())
    axes.set_xlabel(f"{word}s, first taken first" if timed else f"{word}s, by name")
    ticks = shown.iloc[:: max(1, len(shown) // 10)]
    axes.set_xticks(ticks["x"].tolist(), [str(name)[:12] for name in ticks["name"]])
    return shown.drop_duplicates(["x", "images", "flagged"])


def _name_dots(axes: Axes, worst: pd.DataFrame, apart: tuple[float, float]) -> None:
    """Names the worst lots, but for those whose name would lie on a worse one's."""
    named: list[tuple[float, float]] = []
    for x, y, name in zip(worst["x"], worst["rate"], worst["name"], strict=True):
        if all(abs(x - u) > apart[0] or abs(y - v) > apart[1] for u, v in named):
            named.append((x, y))
            text = str(name)[:20]
            axes.annotate(text, (x, y), (0, 6), textcoords="offset points", ha="center", size=8)


def _by_size(axes: Axes, rows: pd.DataFrame, word: str) -> pd.DataFrame:
    """Lots of equal size and count are one dot."""
    shown = rows.drop_duplicates(["images", "flagged"]).sort_values("images")
    axes.set_xlabel(f"images in the {word} (a dot may stand for many)")
    if shown["images"].max() > 20 * shown["images"].min():
        plain_log(axes.xaxis)
    return shown.assign(x=shown["images"])


def _draw_limits(axes: Axes, shown: pd.DataFrame, rate: float, word: str) -> None:
    images, x = shown["images"].to_numpy(float), shown["x"].to_numpy(float)
    for level, alpha in ((0.998, 0.14), (0.95, 0.22)):
        low, high = (count / images for count in limits(images, rate, level))
        label = f"{100 * level:g} % of {word}s of good images"
        axes.fill_between(x, low, high, step="mid", color=GOOD, alpha=alpha, lw=0, label=label)


def _dots(axes: Axes, shown: pd.DataFrame) -> None:
    for marks, colour, size in (
        (["", "below", "far below"], YARD, 14),
        (["above"], BAD, 20),
        (["far above"], FLAG, 28),
    ):
        chosen = shown[shown["mark"].isin(marks)]
        axes.scatter(chosen["x"], chosen["rate"], s=size, c=colour, lw=0, zorder=3)
