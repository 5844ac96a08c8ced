"""What each score reaches with so many calls (steps.py): which point to pick, a table, a picture.

The knee of a score is the quickest of its points whose capture is at most NEAR below its best; the
knee of all is the same among all points.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator

from inspect_ai.diffusing.config import Config
from inspect_ai.recipe import Recipe
from inspect_ai.review.canvas import plain_log, styled
from inspect_ai.scores import Float64

THREADS = 2  # of ONNX Runtime
RATES, NEAR = (0.01, 0.05), 0.01
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5200", "#56b4e9", "#e69f00", "#000000")
MARKS = "osD^vPX*"
PLACES, CLEAR = ((0, 13), (0, -13), (14, 0), (-14, 0), (0, 22), (0, -22)), (13, 11)  # pixels
TICKS = (0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to score: a rule, settings, and the setting that its points differ in."""

    name: str
    score: dict[str, object] = field(hash=False)
    setting: str
    counts: tuple[int, ...]
    settings: dict[str, object] = field(default_factory=dict, hash=False)
    unrolled: bool = False  # one call after the other

    def recipe(self, made: Recipe, count: int) -> Recipe:
        """The run, scored in this way."""
        model = {**made.model, **self.settings, self.setting: count}
        return Recipe.checked(made.model_dump() | {"model": model, "score": self.score}, self.name)

    def ships(self, made: Recipe, count: int) -> bool:
        """Whether that is how the run is scored anyway."""
        own = made.model_config_()
        asked = own.model_copy(update=self.settings | {self.setting: count})
        same = _but_ends(asked) == _but_ends(own) and asked.times == own.times
        return bool(same and self.score == made.model_dump()["score"])


@dataclass(frozen=True, slots=True)
class Point:
    """What a way reaches with so many calls."""

    way: Way
    count: int
    ships: bool  # whether the run does just this
    calls: int  # of the network, for one image
    auroc: float
    captures: tuple[float, float]  # at RATES
    rate: float  # images a second; 0 where it is not measured
    exact: bool = True  # whether the rate is measured


def _but_ends(config: Config) -> dict[str, object]:
    """Settings but for the ends of the noise levels, of which the levels themselves are told."""
    return config.model_dump(exclude={"lowest", "highest"})


def completed(points: Iterable[Point]) -> list[Point]:
    """Points by count; a rate that was not measured follows from the longest that was."""
    found, longest = list[Point](), dict[str, Point]()
    for point in sorted(points, key=lambda p: p.count):
        if point.rate:
            longest[point.way.name] = point
            found.append(point)
        else:
            base = longest[point.way.name]
            rate = base.rate * base.calls / point.calls
            found.append(replace(point, rate=rate, exact=False))
    return found


def knee(points: Iterable[Point], at: int = 0) -> Point:
    """The quickest point whose capture at RATES[at] is at most NEAR below the best."""
    every = list(points)
    best = max(point.captures[at] for point in every)
    near = [point for point in every if point.captures[at] >= best - NEAR - 1e-9]
    return max(near, key=lambda point: point.rate)


def table(head: str, points: list[Point], at: int) -> str:
    """A score a row, then each of its points."""
    told = f"capture at {100 * RATES[at]:g} %"
    lines = [head, "", f"| score | calls at its knee | images/s | {told} | AUROC | best {told} |"]
    lines.append("|---|---|---|---|---|---|")
    knees = [knee(mine, at) for mine in _by_way(points)]
    for mine, chosen in zip(_by_way(points), knees, strict=True):
        best = max(mine, key=lambda point: point.captures[at])
        cells = [f"{chosen.calls}", _rate(chosen), f"{chosen.captures[at]:.3f}"]
        cells += [f"{chosen.auroc:.3f}", f"{best.captures[at]:.3f} ({_calls(best)})"]
        lines.append(f"| {chosen.way.name} | " + " | ".join(cells) + " |")
    captures = " | ".join(f"capture at {100 * rate:g} %" for rate in RATES)
    lines += [
        "",
        f"| score | calls | images/s | AUROC | {captures} | |",
        "|---|---|---|---|---|---|---|",
    ]
    for point in points:
        said = ["knee"] * (point in knees) + ["the run's own"] * point.ships
        lines.append(row(point) + f" {', '.join(said)} |")
    return "\n".join([*lines, "", *_said(points, at)]) + "\n"


def row(point: Point) -> str:
    """A point as a row of the table, which is to be ended."""
    cells = [f"{point.calls}", _rate(point), f"{point.auroc:.3f}"]
    cells += [f"{capture:.3f}" for capture in point.captures]
    return f"| {point.way.name} | " + " | ".join(cells) + " |"


def _calls(point: Point) -> str:
    return f"{point.calls} call{'s' * (point.calls != 1)}"


def _rate(point: Point) -> str:
    return f"{'' if point.exact else '~'}{point.rate:,.{1 if point.rate < 10 else 0}f}"


def _said(points: list[Point], at: int) -> Iterator[str]:
    """What to read from the table."""
    told, chosen = f"capture at {100 * RATES[at]:g} %", knee(points, at)
    yield (
        f"The knee of a score is its quickest point whose {told} is at most {NEAR:g} below its best. "
        f"The knee of all: {chosen.way.name}, {_calls(chosen)}, {_rate(chosen)} images/s, {told} "
        f"{chosen.captures[at]:.3f}."
    )
    for own in (point for point in points if point.ships):
        alike = [point for point in points if point.way == own.way]
        whose = "the knee of all" if own == chosen else "the knee of its score"
        where = f"which is {whose if own in (chosen, knee(alike, at)) else 'no knee'}"
        yield (
            f"The run's own: {own.way.name}, {_calls(own)}, {_rate(own)} images/s, {told} "
            f"{own.captures[at]:.3f}, {where}."
        )
    if any(not point.exact for point in points):
        yield "~: not exported; the time of the longest graph that was, times the calls."


def _by_way(points: list[Point]) -> list[list[Point]]:
    return [list(mine) for _, mine in itertools.groupby(points, lambda point: point.way)]


def picture(points: list[Point], at: int) -> Figure:
    """Capture against images a second, a line a score, network calls beside its dots."""
    with styled():
        figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
        axes = figure.add_subplot()
        for mine, colour, mark in zip(_by_way(points), COLOURS, MARKS, strict=False):
            x, y = [point.rate for point in mine], [point.captures[at] for point in mine]
            chosen = knee(mine, at)
            axes.plot(x, y, color=colour, lw=1.3, marker=mark, ms=6, mfc="white", label=mine[0].way.name)  # fmt: skip
            axes.plot([chosen.rate], [chosen.captures[at]], color=colour, marker=mark, ms=7)
        _ringed(axes, knee(points, at), at, "o", "knee of all")
        for own in (point for point in points if point.ships):
            _ringed(axes, own, at, "s", "the run's own")
        plain_log(axes.xaxis)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.set_yscale("function", functions=(_stretched, lambda z: 1.05 - np.exp(-z)))
        axes.yaxis.set_major_locator(FixedLocator(TICKS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.margins(x=0.05, y=0.08)
        axes.set_xlabel(
            f"images a second, ONNX Runtime, {THREADS} threads   "
            "(numbers: network calls; filled: the knee of a score)"
        )
        axes.set_ylabel(f"capture at {100 * RATES[at]:g} % overkill")
        _numbered(axes, points, at)
        figure.legend(loc="outside upper left", ncols=4, labelspacing=0.8)
    return figure


def _ringed(axes: Axes, point: Point, at: int, mark: str, name: str) -> None:
    spot = (point.rate, point.captures[at])
    axes.scatter(*spot, s=200, marker=mark, facecolors="none", edgecolors="black", lw=1, label=name)


def _numbered(axes: Axes, points: list[Point], at: int) -> None:
    """Calls beside their dots, where no dot and no other number is."""
    spots = axes.transData.transform([(p.rate, p.captures[at]) for p in points])
    colours = dict(zip((mine[0].way.name for mine in _by_way(points)), COLOURS, strict=False))
    taken, ringed = list(spots), knee(points, at)
    for point, spot in zip(points, spots, strict=True):
        away = 1.5 if point.ships or point == ringed else 1.0
        places = [away * np.array(place) for place in PLACES]
        free = [(np.abs(spot + p - taken) > CLEAR).any(1).all() for p in places]
        place = places[free.index(True) if any(free) else 0]
        taken.append(spot + place)
        axes.annotate(
            f"{point.calls}",
            (point.rate, point.captures[at]),
            (0.72 * place[0], 0.72 * place[1]),
            textcoords="offset points",
            ha="center",
            va="center",
            size=8,
            color=colours[point.way.name],
        )


def _stretched(y: Float64) -> Float64:
    """Shares near 1, where good detectors are told apart, take more room."""
    return np.asarray(-np.log(1.05 - np.asarray(y)))
