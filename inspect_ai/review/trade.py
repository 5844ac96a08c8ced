"""The trade-off of a scan: fewer good images flagged against more defects missed.

Overkill is counted on the calibration scores that came with the scan, escape on its labelled
defects; where there are none, escape is not known, and the share of this scan's images flagged
stands in its place.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from inspect_ai.calibration import trade_off
from inspect_ai.review.canvas import FLAG, GOOD, YARD, canvas, plain_log, styled, svg
from inspect_ai.review.reading import used
from inspect_ai.review.scanned import Scan
from inspect_ai.review.summary import Numbers, entries, plain
from inspect_ai.scores import Float32, Float64

RATES = (0.05, 0.01, 0.005, 0.002, 0.001)  # overkill at which the cost is told
PAPER = {GOOD: "#4a7da8", FLAG: "#b4372d", YARD: "#59606a"}  # on paper; a page has its own
PAGE = {colour: colour for colour in PAPER}


def numbers(scan: Scan) -> Numbers:
    """What thresholds cost on this scan; no rows where it came without calibration scores.

    `rows` at the rates of RATES that the good images can bear, `curve` at up to 200 thresholds,
    `shipped` the threshold that was used, None where there was not one for all images.
    """
    good, score = scores(scan.calibration), scores(scan.scores)
    defects = labelled(scan)
    table, shipped = trade_off.at_rates(good, RATES, defects), _shipped(scan)
    table["flagged"] = [int((score > np.float32(t)).sum()) for t in table["threshold"]]
    return {
        "good_images": len(good),
        "defects": len(defects),
        "rows": entries(table),
        "curve": entries(curve(scan)),
        "shipped": None if shipped is None else plain(shipped),
    }


def curve(scan: Scan) -> pd.DataFrame:
    """As `trade_off.curve`, with the share of this scan's images `flagged` at each threshold."""
    table = trade_off.curve(scores(scan.calibration), labelled(scan))
    score = np.sort(scores(scan.scores))
    above = len(score) - np.searchsorted(score, table["threshold"].to_numpy(np.float32), "right")
    return table.assign(flagged=above / max(len(score), 1))


def labelled(scan: Scan) -> Float32:
    """Scores of the images labelled as defects."""
    return scores(_defects(scan))


def defect_lots(scan: Scan) -> list[str]:
    """The lot of each of them."""
    return [str(lot) for lot in _defects(scan)["group"]]


def scores(table: pd.DataFrame) -> Float32:
    """(N,) scores of a table."""
    return table["pred_score"].to_numpy(np.float32)


def figure(scan: Scan) -> str | None:
    """The trade-off as an SVG element; None without calibration scores."""
    table, shipped = curve(scan), _shipped(scan)
    if table.empty:
        return None
    marks = {} if plain(shipped) is None else {"threshold of this scan": float(shipped or 0)}
    with styled():
        return svg(_drawn(table, marks, PAGE), "trade")


def picture(table: pd.DataFrame, marks: Mapping[str, float], path: Path) -> None:
    """Writes the trade-off as a PNG.

    Args:
        table: as from `curve`, with a row or more.
        marks: thresholds by what they are called.
        path: of the PNG.
    """
    with styled():
        _drawn(table, marks, PAPER).savefig(path, dpi=130, facecolor="white")


def _shipped(scan: Scan) -> float | None:
    """The one threshold that judged all images, if there was one."""
    ends = used(scan, "image_threshold")
    return ends[0] if ends and ends[0] == ends[1] else None


def _defects(scan: Scan) -> pd.DataFrame:
    return scan.scores[(scan.scores["gt_label"] == 1).fillna(False).to_numpy(bool)]


def _drawn(table: pd.DataFrame, marks: Mapping[str, float], colours: Mapping[str, str]) -> Figure:
    figure, axes = canvas(8.4, 3.2)
    known = bool(table["escape"].notna().any())
    name = "escape" if known else "flagged"
    x, y = (100 * table[column].to_numpy(float) for column in ("overkill", name))
    low, high = (100 * table[f"overkill_{end}"].to_numpy(float) for end in ("low", "high"))
    label = "overkill, 95 % interval"
    axes.fill_betweenx(y, np.maximum(low, x[0] / 4), high, color=colours[YARD], alpha=0.15, lw=0, label=label)  # fmt: skip
    if known:
        low, high = (100 * table[f"escape_{end}"].to_numpy(float) for end in ("low", "high"))
        label = "escape, 95 % interval"
        axes.fill_between(x, low, high, color=colours[GOOD], alpha=0.3, lw=0, label=label)
    axes.plot(x, y, color=colours[GOOD], lw=1.6)
    _mark(axes, table, (x, y), marks, colours[FLAG])
    plain_log(axes.xaxis)
    axes.set_xlim(max(float(x[0]) / 2, 1e-4), 100)
    axes.set_ylim(0, None if y.max() > 0 else 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel("overkill: share of good images flagged")
    axes.set_ylabel("escape: defects not flagged" if known else "images of this scan flagged")
    figure.legend(loc="outside upper left", fontsize=8, ncols=3)
    return figure


def _mark(
    axes: Axes,
    table: pd.DataFrame,
    at: tuple[Float64, Float64],
    marks: Mapping[str, float],
    colour: str,
) -> None:
    """A dot on the curve for each threshold, with its name."""
    upwards = table["threshold"].to_numpy(float)[::-1]
    for number, (name, threshold) in enumerate(marks.items()):
        x, y = (float(np.interp(threshold, upwards, values[::-1])) for values in at)
        axes.axvline(x, color=colour, lw=0.8, ls=(0, (4, 3)), zorder=1)
        axes.scatter([x], [y], s=34, color=colour, marker="osD^v"[number % 5], zorder=3, label=name)
