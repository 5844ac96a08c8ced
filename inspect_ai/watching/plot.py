"""The plot of the monitor: a row for each place, a panel for each stream.

The two lines are the martingale and the CUSUM, as powers of ten; each alarms at its own dashed
line. What lies far below 1 or far above an alarm says no more and is cut off.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from inspect_ai.calibration.streams import Stream
from inspect_ai.review.canvas import styled
from inspect_ai.watching.judgement import Change, Judgement
from inspect_ai.watching.memory import Place

INK, CALM, ALARM, FAST = "#20242a", "#4a7da8", "#b4372d", "#c07a1e"
LOWEST, HEADROOM = -2.5, 2.0  # powers of ten
WIDTH, HEIGHT, HEAD, FOOT = 3.0, 1.35, 0.75, 0.6  # inches of a panel; above and below
NAMES = {"pred_score": "ordinary scores", "flagged": "share flagged"}
DPI = 110
MOST = 40  # places; of more, those that changed come first


def draw(places: Sequence[tuple[Place, Judgement]], path: Path) -> None:
    """Draws the streams of places.

    Args:
        path: PNG to write; it appears by one move.
    """
    if len(places) > MOST:
        places = sorted(places, key=lambda one: not (one[1].changes or one[1].still))[:MOST]
    measures = list(dict.fromkeys(m for place, _ in places for m in place.streams))
    with styled():
        width, height = WIDTH * len(measures) + 0.5, HEIGHT * len(places) + HEAD + FOOT
        figure = Figure(figsize=(width, height), facecolor="white")
        figure.subplots_adjust(
            left=0.85 / width,
            right=1 - 0.15 / width,
            top=1 - HEAD / height,
            bottom=FOOT / height,
            wspace=0.25,
            hspace=0.4,
        )  # constrained layout would take seconds with many panels
        panels = figure.subplots(len(places), len(measures), squeeze=False)
        for row, (place, judgement) in zip(panels, places, strict=True):
            for axes, measure in zip(row, measures, strict=True):
                if measure in place.streams:
                    _panel(axes, place.streams[measure], judgement.change(measure))
                else:
                    axes.set_axis_off()
            label = ", ".join(place.identity.by.values()) or "all images"
            row[0].set_ylabel(label[:26], fontsize=8, color=INK)
        for axes, measure in zip(panels[0], measures, strict=True):
            axes.set_title(NAMES.get(measure, measure.replace("_", " ")), fontsize=9, color=INK)
        alone = all(place.counts.images == place.counts.seen for place, _ in places)
        unit = "images" if alone else "images, one of each lot,"
        label = f"{unit} since the bundle was first scanned with"
        figure.text(0.5, 0.12 / height, label, ha="center", fontsize=8, color=INK)
        handles, labels = next(
            axes.get_legend_handles_labels() for axes in panels.flat if axes.has_data()
        )
        figure.legend(handles, labels, loc="upper left", fontsize=8, ncols=4)
        part = path.with_suffix(".part")
        figure.savefig(part, dpi=DPI, format="png")
    part.replace(path)


def _panel(axes: Axes, stream: Stream, change: Change | None) -> None:
    trace = stream.trace
    life, fast = -np.log10(stream.delta), np.log10(stream.run_length)
    top = max(life, fast) + HEADROOM
    # a stretch is drawn at its end; before the first score both are 1
    x = np.append(0, np.minimum(np.arange(1, len(trace.log_m) + 1) * trace.stride, stream.n))
    for course, colour, limit, name, width in (
        (trace.log_c, FAST, fast, "CUSUM", 0.7),
        (trace.log_m, CALM, life, "martingale", 1.6),
    ):
        y = np.clip(np.append(0, course), LOWEST, top)
        axes.plot(x, y, color=colour, lw=width, label=name)
        axes.axhline(limit, color=colour, lw=0.8, ls="--", label="its alarm")
    if change is not None:
        colour, word = (ALARM, "changed") if change.certain else (FAST, "perhaps")
        axes.axvspan(change.since, max(stream.n, change.since + 1), color=colour, alpha=0.1, lw=0)
        at = (0.02, 1.02)
        axes.annotate(
            f"{word} {change.side}", at, xycoords="axes fraction", va="top", color=colour, size=7.5
        )
    axes.set_ylim(LOWEST - 0.2, top + 0.2)
    axes.set_xlim(0, max(stream.n, 1))
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.set_yticks([-2, 0, 2, 4, 6], ["0.01", "1", "100", "10⁴", "10⁶"])
