"""Pictures of promises.py: overkill over many calibrations, and on real images."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.stats import beta

from inspect_ai.review.canvas import plain_log, styled
from inspect_ai.scores import Float64
from pipelines import counting_thresholds
from pipelines.counting import DELTA, KINDS
from pipelines.counting_lots import LOTS, SIZE, UNITS, Key
from pipelines.observing import PEER, PROMISES, RATES, Compared

BLUE, RED, GREEN, VIOLET = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
BINS = 60
LOWEST, HIGHEST = 0.02, 110.0  # per cent; what is below is drawn at the edge


def counted(splits: int, made: dict[Key, Float64]) -> Figure:
    """Overkill over calibrations: three kinds of scores against the law, and lots."""
    with styled():
        figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        _law(left, splits)
        _lots(right, made)
    return figure


def _law(axes: Axes, splits: int) -> None:
    for confidence, colour in ((None, BLUE), (1 - DELTA, GREEN)):
        rate, n, top = 0.05, 200, 0.12
        edges = np.linspace(0, 100 * top, BINS).tolist()
        for kind in KINDS[:3]:
            shares, law = counting_thresholds.overkill(kind, rate, n, confidence, splits)
            axes.hist(100 * shares, edges, density=True, histtype="step", color=colour, lw=0.8)
        x = np.linspace(0, top, 400)
        name = "on average" if confidence is None else "95 % confidence"
        axes.plot(
            100 * x,
            beta(*law).pdf(x) / 100,
            color=colour,
            lw=2,
            label=f"{name}: {law[0]}-th largest",
        )
    axes.axvline(5, color="black", lw=0.8, ls="--", label="promised")
    axes.set(xlabel=f"overkill, %, {n} good images, {splits:,} calibrations", ylabel="density")
    axes.set_title(
        "normal, heavy-tailed and lognormal scores (steps), the Beta law (lines)", size=9
    )
    axes.legend(fontsize=8)


def _lots(axes: Axes, made: dict[Key, Float64]) -> None:
    edges = np.linspace(0, 12, BINS).tolist()
    for unit, colour in zip(UNITS, (RED, GREEN, BLUE), strict=False):
        shares = made[unit, 0.05, 1 - DELTA]
        broke = 100 * float((shares > 0.05).mean())
        label = f"{UNITS[unit]}: {broke:.1f} % break it"
        axes.hist(100 * shares, edges, histtype="step", color=colour, lw=1.5, label=label)
    axes.axvline(5, color="black", lw=0.8, ls="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axes.set(xlabel=f"overkill, %, {LOTS} lots of {SIZE} alike", ylabel="calibrations")
    axes.set_title("5 % promised with 95 % confidence", size=9)
    axes.legend(fontsize=8)


def observed(found: list[Compared]) -> Figure:
    """Observed overkill with its interval, a panel a rate, a line a detector."""
    with styled():
        figure = Figure(figsize=(11, 1.2 + 0.27 * len(found)), dpi=110, layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(RATES), sharey=True))
        for axes, rate in zip(panels, RATES, strict=True):
            _rate(axes, rate, found)
        names = [f"{one.seen.data}, {one.seen.detector}" for one in found]
        panels[0].set_yticks(range(len(found)), names)
        panels[0].invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=5)
    return figure


def _rate(axes: Axes, rate: float, found: list[Compared]) -> None:
    styles = zip(
        (*PROMISES, PEER),
        (BLUE, GREEN, VIOLET, RED),
        "os^X",
        (-0.24, -0.08, 0.08, 0.24),
        strict=True,
    )
    for name, colour, mark, shift in styles:
        spots = [
            (place + shift, *cell.numbers)
            for place, one in enumerate(found)
            for cell in one.cells
            if cell.promise == name and cell.rate in (rate, None) and not cell.refusal
        ]
        if not spots:
            continue
        y, share, low, high = (np.array(v) for v in zip(*spots, strict=True))
        share, low, high = (np.maximum(100 * v, LOWEST) for v in (share, low, high))
        axes.hlines(y, low, high, color=colour, lw=1, clip_on=False)
        axes.plot(share, y, mark, color=colour, ms=4, label=name, clip_on=False)
    axes.axvline(100 * rate, color="black", lw=0.8, ls="--", label="promised")
    axes.set_xlim(LOWEST, HIGHEST)
    plain_log(axes.xaxis)
    axes.set_xlabel("observed overkill, %")
    axes.set_title(f"{100 * rate:g} % promised", size=9)
