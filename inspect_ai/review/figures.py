"""Plots of the report, as SVG that takes its colours from the page (light, dark or print).

Matplotlib draws with stand-in colours; each is then replaced by a variable of the page's
style sheet. Texts stay texts, so they can be searched and take the page's font.
"""

import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import StringIO

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from inspect_ai.review.scanned import Scan
from inspect_ai.review.summary import limits
from inspect_ai.scores import Float64

INK, FAINT, GOOD, BAD, FLAG, YARD = (
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606",
)  # fmt: skip
VARIABLES = {INK: "ink", FAINT: "faint", GOOD: "calm", BAD: "bad", FLAG: "alarm", YARD: "yard"}
FEW_LOTS = 120  # more of them are drawn against their size, not in order
NAMED_LOTS = 8
BINS = 60


def histogram(scan: Scan) -> str | None:
    """Scores of the scan over those of the good calibration images; None without a score."""
    score = scan.scores["pred_score"].to_numpy(float)
    yard = scan.calibration["pred_score"].to_numpy(float)
    finite = np.concatenate([score[np.isfinite(score)], yard[np.isfinite(yard)]])
    if not len(finite):
        return None
    edges, log = _edges(np.append(finite, _threshold(scan, finite)))
    with _styled():
        figure, axes = _canvas(8.4, 3.0)
        _bars(axes, scan, score, edges)
        if len(yard):
            height = np.histogram(yard, edges)[0] * max(len(score), 1) / len(yard)
            label = f"{len(yard):,} good calibration images, scaled to this scan"
            axes.stairs(height, edges, color=YARD, lw=1.4, label=label)
        _draw_threshold(axes, scan)
        axes.set_yscale("log")
        axes.set_ylim(0.5, None)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else ""))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(10))
        if log:
            axes.set_xscale("log")
        axes.set(xlabel="score (higher is odder)", ylabel="images")
        axes.legend(loc="upper right", fontsize=8)
        return _svg(figure, "histogram")


def lots(rows: pd.DataFrame, rate: float) -> str | None:
    """Rate of flagged images by lot, with the limits that good images stay within.

    In order of time (or name) where lots are few, else against their size.

    Args:
        rows: as from `summary.rolled_up`.
        rate: promised share of good images flagged.
    """
    rows = rows[rows["images"] > 0]
    if rows.empty:
        return None
    with _styled():
        figure, axes = _canvas(8.4, 2.8)
        few = len(rows) <= FEW_LOTS
        x, shown = _in_order(axes, rows) if few else _by_size(axes, rows)
        _draw_limits(axes, x, shown["images"].to_numpy(float), rate, step=few)
        _dots(axes, x, shown)
        axes.axhline(rate, color=FAINT, lw=1, label="promised rate")
        top = max(1.25 * float(shown["rate"].max()), 2.5 * rate)
        axes.set_ylim(-0.03 * top, min(top, 1.05))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
        axes.set_ylabel("flagged")
        axes.legend(loc="upper right", fontsize=8, ncols=3)
        return _svg(figure, "lots")


def wafers(scan: Scan, names: Sequence[str], keys: pd.Series) -> str:
    """Where the flagged dies of a few wafers lie.

    Args:
        scan: with the columns die_x and die_y.
        names: the wafers to draw, at most six.
        keys: name of the wafer of each row of the scores.
    """
    with _styled():
        figure = Figure(figsize=(8.4, 1.65), layout="constrained", facecolor="none")
        panels = figure.subplots(1, 6, squeeze=False)[0]
        for axes, name in zip(panels, [*names, *[""] * 6], strict=False):
            axes.set_axis_off()
            dies = scan.scores[keys == name]
            x, y = dies["die_x"].to_numpy(float), dies["die_y"].to_numpy(float)
            flagged = dies["pred_label"].to_numpy(int) == 1
            size = float(np.clip(1200 / max(len(dies), 1), 1, 30))
            axes.scatter(x[~flagged], y[~flagged], s=size, c=YARD, marker="s", alpha=0.45, lw=0)
            axes.scatter(x[flagged], y[flagged], s=size, c=FLAG, marker="s", lw=0)
            axes.set_aspect("equal")
            axes.invert_yaxis()
            axes.set_title(name, fontsize=8)
        return _svg(figure, "wafers")


def _styled() -> AbstractContextManager[None]:
    """How every figure looks; a lot's name is never read as mathematics."""
    return rc_context(
        {
            "svg.fonttype": "none",
            "font.size": 9,
            "text.color": INK,
            "text.parse_math": False,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": FAINT,
            "ytick.color": FAINT,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "legend.frameon": False,
        }
    )


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    return figure, axes


def _threshold(scan: Scan, finite: Float64) -> Float64:
    """The threshold, where it is a number that does not drown the scores."""
    value = scan.run.image_threshold
    return np.array([value]) if value is not None and np.isfinite(value) else finite[:0]


def _edges(values: Float64) -> tuple[Float64, bool]:
    """Bin edges; on a logarithmic axis where the scores span more than two decades."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 100 * low:
        return np.geomspace(low * 0.999, high * 1.001, BINS + 1), True
    margin = 1e-3 * (high - low) or max(1e-6, 1e-3 * abs(high))
    return np.linspace(low - margin, high + margin, BINS + 1), False


def _bars(axes: Axes, scan: Scan, score: Float64, edges: Float64) -> None:
    """Good and bad images where labels are known, else flagged and not flagged, stacked."""
    gt = scan.scores["gt_label"].astype("Int8")
    flagged = scan.scores["pred_label"] == 1
    parts = [("not flagged", GOOD, ~flagged), ("flagged", FLAG, flagged)]
    if gt.notna().any():
        parts = [
            ("good", GOOD, gt == 0),
            ("label unknown", FAINT, gt.isna()),
            ("defect", BAD, gt == 1),
        ]
    below = np.zeros(len(edges) - 1)
    for name, colour, chosen in parts:
        mask: NDArray[np.bool_] = chosen.fillna(False).to_numpy(bool)
        if mask.any():
            top = below + np.histogram(score[mask & np.isfinite(score)], edges)[0]
            label = f"{int(mask.sum()):,} {name}"
            axes.stairs(
                top, edges, baseline=below, fill=True, color=colour, alpha=0.75, label=label
            )
            below = top


def _draw_threshold(axes: Axes, scan: Scan) -> None:
    if len(_threshold(scan, np.zeros(1))):
        rate = f"{100 * scan.run.false_alarm_rate:.3g} %"
        label = f"threshold: promises at most {rate} of good images to its right"
        axes.axvline(
            float(scan.run.image_threshold or 0), color=FLAG, lw=1.3, ls=(0, (4, 2)), label=label
        )


def _in_order(axes: Axes, rows: pd.DataFrame) -> tuple[Float64, pd.DataFrame]:
    """Lots side by side, first taken first."""
    shown = rows.sort_values(["first", "name"], kind="stable").reset_index(drop=True)
    worst = shown[shown["mark"].isin(["far above", "above"])].nsmallest(NAMED_LOTS, "chance")
    for at, row in worst.iterrows():
        place = (float(at), float(row["rate"]))  # type: ignore[arg-type]
        text = str(row["name"])[:24]
        axes.annotate(text, place, (0, 6), textcoords="offset points", ha="center", fontsize=8)
    timed = bool((shown["first"] != "").all())
    axes.set_xlabel("lots, first taken first" if timed else "lots, by name")
    every = max(1, len(shown) // 10)
    axes.set_xticks(range(0, len(shown), every), [str(n)[:12] for n in shown["name"][::every]])
    return np.arange(len(shown), dtype=np.float64), shown


def _by_size(axes: Axes, rows: pd.DataFrame) -> tuple[Float64, pd.DataFrame]:
    """Lots of equal size and count are one dot."""
    shown = rows.drop_duplicates(["images", "flagged"]).sort_values("images")
    axes.set_xlabel("images in the lot (a dot may stand for many lots)")
    if shown["images"].max() > 20 * shown["images"].min():
        axes.set_xscale("log")
    return shown["images"].to_numpy(np.float64), shown


def _draw_limits(axes: Axes, x: Float64, images: Float64, rate: float, step: bool) -> None:
    for level, alpha in ((0.998, 0.10), (0.95, 0.16)):
        low, high = (count / images for count in limits(images, rate, level))
        label = f"{100 * level:g} % of lots of good images"
        axes.fill_between(
            x, low, high, step="mid" if step else None, color=GOOD, alpha=alpha, lw=0, label=label
        )


def _dots(axes: Axes, x: Float64, shown: pd.DataFrame) -> None:
    for marks, colour, size in (
        (["", "below", "far below"], YARD, 14),
        (["above"], BAD, 20),
        (["far above"], FLAG, 28),
    ):
        chosen = shown["mark"].isin(marks).to_numpy(bool)
        axes.scatter(
            x[chosen], shown["rate"].to_numpy(float)[chosen], s=size, c=colour, lw=0, zorder=3
        )


def _svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element without ids that could come up twice on the page."""
    buffer = StringIO()
    with rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the font
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="[A-Za-z.]+_\d+"', "", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1
    )
