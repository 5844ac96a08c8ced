"""Plots of the page: capture against speed, and AUROC with its intervals."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator

from inspect_ai.benchmark.lines import Line, Section
from inspect_ai.benchmark.plan import ADVERSARIAL, BASELINE, DIFFUSION
from inspect_ai.benchmark.rows import Figure
from inspect_ai.benchmark.table import is_few
from inspect_ai.review.canvas import (
    BAD,
    FAINT,
    FLAG,
    GOOD,
    INK,
    YARD,
    canvas,
    plain_log,
    styled,
    svg,
)
from inspect_ai.scores import Float64

COLOURS = {"fusion": FLAG, "denoiser": BAD, "autoencoder": GOOD, BASELINE: YARD}
MARKERS = {ADVERSARIAL: "D", DIFFUSION: "s"}  # diamonds and squares; other families are dots
PANEL = np.array([720.0, 250.0])  # points, about
DOT, LETTER = 0.008, (0.0064, 0.033)  # sizes as shares of the panel
PLACES = (
    ((7, -3), "left"), ((-7, -3), "right"), ((0, 7), "center"), ((0, -14), "center"),
    ((7, 7), "left"), ((7, -14), "left"), ((-7, 7), "right"), ((-7, -14), "right"),
    ((0, 16), "center"), ((0, -23), "center"), ((12, 16), "left"), ((-12, 16), "right"),
)  # fmt: skip
TICKS = (0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1)
WIDTH = 11.0  # inches
Box = tuple[float, float, float, float]


def speed(section: Section) -> str | None:
    """Capture at 1 % against images a second, logarithmic; None with fewer than two detectors."""
    shown = [
        (line, rate, capture)
        for line in section.lines
        if (rate := line.number("images_per_second"))
        and (capture := line.figure("capture_at_1"))
        and not is_few(line, "capture_at_1")
    ]
    if len(shown) < 2:
        return None
    with styled():
        figure, axes = canvas(WIDTH, 4.4)
        for line, rate, capture in shown:
            _dot(axes, line, rate, capture)
        plain_log(axes.xaxis)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        _spread(axes.yaxis, 0.02)
        axes.margins(x=0.14, y=0.1)
        # all are of one data set: its name would only stand in the way of the others
        names = [line.run.removeprefix(f"{section.data}_") for line, _, _ in shown]
        _named(axes, [(n, rate, c.value) for n, (_, rate, c) in zip(names, shown, strict=True)])
        axes.set(xlabel="images a second, end to end", ylabel="capture at 1 % overkill")
        figure.legend(loc="outside upper left", fontsize=8, ncols=5)
        return svg(figure, f"speed {section.data}")


def aurocs(section: Section) -> str | None:
    """AUROC of each detector with its interval, best on top; None without any."""
    shown = [(line, told) for line in section.lines if (told := line.figure("auroc"))]
    if not shown:
        return None
    shown = sorted(shown, key=lambda pair: pair[1].value)
    with styled():
        figure, axes = canvas(WIDTH, 0.8 + 0.27 * len(shown))
        for place, (line, told) in enumerate(shown):
            colour = COLOURS.get(line.family, INK)
            low, high = _ends(told)
            axes.plot([low, high], [place, place], color=colour, lw=2, alpha=0.5)
            axes.scatter([told.value], [place], color=colour, s=26, zorder=3)
        baselines = [told.value for line, told in shown if line.best]
        for value in baselines:
            axes.axvline(value, color=FAINT, lw=1, ls=(0, (4, 3)), zorder=0)
        axes.set_yticks(range(len(shown)), [line.run for line, _ in shown])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        _spread(axes.xaxis, 0.002)
        axes.set_xlim(right=1.0)
        axes.set_xlabel("AUROC")
        return svg(figure, f"auroc {section.data}")


def _dot(axes: Axes, line: Line, rate: float, capture: Figure) -> None:
    colour = COLOURS.get(line.family, INK)
    low, high = _ends(capture)
    axes.plot([rate, rate], [low, high], color=colour, lw=1.4, alpha=0.45)
    names = axes.get_legend_handles_labels()[1]
    label = line.family if line.family not in names else None
    marker = MARKERS.get(line.family, "o")
    axes.scatter([rate], [capture.value], color=colour, s=34, zorder=3, label=label, marker=marker)


def _named(axes: Axes, points: list[tuple[str, float, float]]) -> None:
    """Names beside their dots, where no dot and no other name is."""
    on_page = axes.transData + axes.transAxes.inverted()
    spots = {name: on_page.transform((rate, y)) for name, rate, y in points}
    taken = [(u - DOT, u + DOT, v - DOT, v + DOT) for u, v in spots.values()]
    for name, rate, y in sorted(points, key=lambda p: -p[2]):
        boxes = [_box(spots[name], offset, side, len(name)) for offset, side in PLACES]
        free = [not any(_touch(box, other) for other in taken) for box in boxes]
        chosen = free.index(True) if any(free) else 0
        taken.append(boxes[chosen])
        offset, side = PLACES[chosen]
        axes.annotate(name, (rate, y), offset, textcoords="offset points", ha=side, size=8)


def _box(spot: Float64, offset: tuple[int, int], side: str, letters: int) -> Box:
    """About where a name would lie: left, right, bottom, top as shares of the panel."""
    width, (u, v) = letters * LETTER[0], spot + np.array(offset) / PANEL
    left = u - {"left": 0.0, "center": 0.5, "right": 1.0}[side] * width
    return left, left + width, v, v + LETTER[1]


def _touch(one: Box, other: Box) -> bool:
    across = one[0] < other[1] and other[0] < one[1]
    return across and one[2] < other[3] and other[2] < one[3]


def _spread(axis: Axis, room: float) -> None:
    """Stretches shares near 1, where good detectors are told apart; `room` is left above 1."""
    there, back = (lambda y: -np.log(1 + room - y)), (lambda z: 1 + room - np.exp(-z))
    scaled = axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale
    scaled("function", functions=(there, back))
    axis.set_major_locator(FixedLocator(TICKS))
    axis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _ends(figure: Figure) -> tuple[float, float]:
    """The interval, or the value twice."""
    if figure.low is None or figure.high is None:
        return figure.value, figure.value
    return figure.low, figure.high
