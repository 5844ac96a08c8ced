"""Simulated wafer bin maps: discs of dies, ordinary yield loss, and planted patterns.

A die fails by itself with probability

    p = q * (1 + e * exp((r - 1) / 0.07) + c * exp(-(r / 0.16)^2)) * exp(0.25 * w), at most 0.4

q: fail rate of the wafer, log-normal about that of its lot; r: distance from the centre, 1
at the rim; e, c: extra loss at rim and centre; w: smooth noise of variance 1, which clusters
fails weakly. Short rows of two to four dies are added. A pattern then kills dies with a
probability of its own shape. The numbers were set by eye and by quantiles against WM-811K.

Sources: Wu, Jang, Chen, "Wafer Map Failure Pattern Recognition and Similarity Ranking for
Large-Scale Data Sets", IEEE Trans. Semiconductor Manufacturing 28(1), 2015 (WM-811K: the
eight patterns). Wang, Xu, Yang, Zhang, Li, "Deformable Convolutional Networks for Efficient
Mixed-Type Wafer Defect Pattern Recognition", same journal, 33(4), 2020 (MIXTURES).

Shapes: N wafers, W wafers of one lot, R rows and C columns of dies, S canvas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import expit

from inspect_ai.scores import Bool, Float64
from inspect_ai.settings import Settings

LEAST_KILLS = 4  # dies; a pattern nobody could see would be a wrong label


class MapSettings(Settings):
    """How many wafer bin maps, how large, and how many of them with a pattern."""

    kind: Literal["maps"] = "maps"
    lots: int = Field(default=40, ge=1, le=9999)
    wafers_per_lot: int = Field(default=25, ge=1, le=25)  # a carrier has 25 slots
    defect_share: float = Field(default=0.1, ge=0, le=1)  # share of wafers with a pattern
    mixture_share: float = Field(default=0.2, ge=0, le=1)  # share of those with two patterns
    products: int = Field(default=4, ge=1, le=100)  # each has its own die size
    smallest: int = Field(default=20, ge=12, le=256)  # dies across
    largest: int = Field(default=50, ge=12, le=256)  # dies across
    canvas: int = Field(default=64, ge=12, le=256)  # cells; maps are padded to this square
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.smallest <= self.largest <= self.canvas:
            raise ValueError("'smallest' <= 'largest' <= 'canvas' must hold; change one of them")
        return self


@dataclass(frozen=True, slots=True)
class SimulatedMaps:
    """N wafers with their truth.

    Args:
        maps: (N, S, S) 0 off the wafer, 1 pass, 2 fail; the native map stands in the top
            left corner.
        shapes: (N, 2) native rows and columns, dies.
        labels: (N,) "none", a pattern of WM-811K, or two joined as in "Center+Scratch".
        masks: (N, S, S) 1 where the planted pattern kills the die; 0 all over normals.
        columns: N rows of lot, wafer (from 1), product, layer, tool, taken_at (ISO 8601,
            local time of the tool).
    """

    maps: NDArray[np.uint8]
    shapes: NDArray[np.int16]
    labels: NDArray[np.str_]
    masks: NDArray[np.uint8]
    columns: pd.DataFrame


class Grid(NamedTuple):
    """Where the dies of a product are: (R, C) arrays, the wafer's radius is 1."""

    x: Float64
    y: Float64
    r: Float64  # distance from the centre
    on: Bool  # on the wafer
    die: float  # longer side of a die


Pattern = Callable[[Generator, Grid], Float64]  # to the (R, C) probability of a kill


def wafer_maps(
    settings: MapSettings, report: Callable[[int, int], None] = lambda _done, _total: None
) -> SimulatedMaps:
    """All wafers of `settings`; one lot depends on the seed and its number, not on other lots.

    `report` is called with (wafers done, wafers in all) after each lot. Memory: 2 * S^2 bytes
    a wafer, 8 kB at the default canvas.
    """
    wafers, total = settings.wafers_per_lot, settings.lots * settings.wafers_per_lot
    maps = np.zeros((total, settings.canvas, settings.canvas), np.uint8)
    masks = np.zeros_like(maps)
    shapes, labels, columns = np.zeros((total, 2), np.int16), list[str](), []
    for lot in range(1, settings.lots + 1):
        rng = np.random.default_rng([settings.seed, 1, lot])
        product = int(rng.integers(settings.products))
        grid = _grid(settings, product)
        rows, cols = grid.on.shape
        rows_of_lot = slice((lot - 1) * wafers, lot * wafers)
        shapes[rows_of_lot] = rows, cols
        names = [_draw_label(rng, settings) for _ in range(wafers)]
        planted = rng.spawn(1)[0]  # of its own: other fails stay when a share is changed
        kills = np.stack([_kills(planted, grid, name) for name in names])
        masks[rows_of_lot, :rows, :cols] = kills
        bad = kills | _own_fails(rng, grid, wafers)
        maps[rows_of_lot, :rows, :cols] = np.where(grid.on, 1 + bad, 0)
        labels += names
        columns.append(_columns(rng, lot, wafers, f"P{product + 1}"))
        report(lot * wafers, total)
    return SimulatedMaps(
        maps, shapes, np.array(labels), masks, pd.concat(columns, ignore_index=True)
    )


def lot_times(rng: Generator, lot: int, wafers: int) -> NDArray[np.str_]:
    """(W,) ISO 8601 times of a lot's wafers: lots 8 hours apart, wafers 3 to 7 minutes."""
    start = np.datetime64("2025-01-06T06:00:00") + np.timedelta64(8 * (lot - 1), "h")
    seconds = np.cumsum(rng.integers(180, 420, wafers))
    return np.datetime_as_string(start + seconds.astype("timedelta64[s]"))


def _columns(rng: Generator, lot: int, wafers: int, product: str) -> pd.DataFrame:
    columns = pd.DataFrame({"lot": f"S{lot:04d}", "wafer": np.arange(1, wafers + 1)})
    tool, times = f"prober-{rng.integers(1, 4)}", lot_times(rng, lot, wafers)
    return columns.assign(product=product, layer="sort", tool=tool, taken_at=times)


def _grid(settings: MapSettings, product: int) -> Grid:
    """The dies of a product; one product in three leaves a few sites to test structures."""
    rng = np.random.default_rng([settings.seed, 2, product])
    rows = int(rng.integers(settings.smallest, settings.largest + 1))
    cols = round(rows * rng.uniform(0.85, 1.18))
    cols = min(max(cols, settings.smallest), settings.largest)
    y = (np.arange(1 - rows, rows, 2) / rows)[:, None] * np.ones(cols)
    x = (np.arange(1 - cols, cols, 2) / cols) * np.ones((rows, 1))
    r = np.hypot(x, y)
    test_sites = (
        (rng.random() < 1 / 3) * (abs(abs(x) - 0.4) < 1 / cols) * (abs(abs(y) - 0.4) < 1 / rows)
    )
    return Grid(x, y, r, (r <= 1) & ~test_sites, 2.0 / min(rows, cols))


def _own_fails(rng: Generator, grid: Grid, wafers: int) -> Bool:
    """(W, R, C) dies that fail without a pattern; the formula on top."""
    q = 0.068 * np.exp(0.52 * rng.normal() + 0.15 * rng.normal(size=(wafers, 1, 1)))
    e = rng.gamma(2.0, 1.1) * rng.uniform(0.5, 1.5, q.shape)
    c = rng.gamma(0.4, 3.0) * rng.uniform(0.5, 1.5, q.shape)
    p = q * (1 + e * np.exp((grid.r - 1) / 0.07) + c * np.exp(-((grid.r / 0.16) ** 2)))
    p = np.minimum(p * np.exp(0.25 * _waves(rng, grid, wafers, 2.0)), 0.4)
    bad = np.asarray(rng.random(p.shape) < p)
    _add_short_rows(rng, bad)
    return bad


def _add_short_rows(rng: Generator, bad: Bool) -> None:
    """Adds rows of two to four dies, about one on every second wafer, in place."""
    wafers, rows, cols = bad.shape
    count = rng.poisson(0.5 * wafers)
    wafer, y, x = (rng.integers(0, size, count) for size in (wafers, rows, cols))
    step_y, step_x = rng.integers(-1, 2, (2, count))
    length = rng.integers(2, 5, count)
    for k in range(4):
        at_y, at_x = y + k * step_y, x + k * step_x
        ok = (k < length) & (at_y >= 0) & (at_y < rows) & (at_x >= 0) & (at_x < cols)
        bad[wafer[ok], at_y[ok], at_x[ok]] = True


def _draw_label(rng: Generator, settings: MapSettings) -> str:
    """Every wafer draws three numbers, so that one share does not move another's wafers."""
    defect, mixture, pick = rng.random(3)
    if defect >= settings.defect_share:
        return "none"
    names = MIXTURES if mixture < settings.mixture_share else list(PATTERNS)
    return names[int(pick * len(names))]


def _kills(rng: Generator, grid: Grid, label: str) -> Bool:
    """(R, C) dies that the patterns of a label kill; at least LEAST_KILLS for each."""
    killed = np.zeros_like(grid.on)
    for name in () if label == "none" else label.split("+"):
        probability = np.where(grid.on, PATTERNS[name](rng, grid), 0.0)
        draw = probability - rng.random(probability.shape)  # a kill where it is above 0
        killed |= draw > min(0.0, np.partition(draw[grid.on], -LEAST_KILLS - 1)[-LEAST_KILLS - 1])
    return killed & grid.on


def _waves(rng: Generator, grid: Grid, count: int, cycles: float) -> Float64:
    """(count, R, C) noise of variance 1: three plane waves, at most `cycles` across the wafer."""
    turn, phase = rng.uniform(0, 2 * np.pi, (2, count, 3, 1, 1))
    k = np.pi * rng.uniform(0.3 * cycles, cycles, turn.shape)
    waves = np.cos(k * (np.cos(turn) * grid.x + np.sin(turn) * grid.y) + phase)
    return np.asarray(np.sqrt(2 / 3) * waves.sum(axis=1))


def _soft(margin: Float64, softness: float) -> Float64:
    """How surely a die fails: 1 inside a shape, 1/2 at its edge (margin 0), 0 outside."""
    return np.asarray(expit(margin / softness))


def _turned(rng: Generator, grid: Grid) -> Float64:
    """(R, C) angle from a random direction, radians in [-pi, pi]."""
    angle = np.arctan2(grid.y, grid.x) + rng.uniform(0, 2 * np.pi)
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)


def _blob(rng: Generator, grid: Grid, centre: float, size: tuple[float, float]) -> Float64:
    """(R, C) ragged ellipse at a distance from the centre: 1 in the middle, 0 at its edge."""
    turn, tilt = rng.uniform(0, 2 * np.pi, 2)
    x, y = grid.x - centre * np.cos(turn), grid.y - centre * np.sin(turn)
    u, v = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    ragged = rng.uniform(0.05, 0.3) * _waves(rng, grid, 1, 5.0)[0]
    return np.asarray(1 - np.hypot(u / size[0], v / size[1]) + ragged)


def _center(rng: Generator, grid: Grid) -> Float64:
    size = float(np.clip(rng.lognormal(np.log(0.28), 0.45), 0.12, 0.8))
    margin = _blob(rng, grid, abs(rng.normal(0, 0.06)), (size, size * rng.uniform(0.75, 1)))
    hollow = rng.uniform(0, 0.7) * (rng.random() < 0.25) * (margin > 0.6)
    return rng.uniform(0.6, 1.0) * _soft(margin, rng.uniform(0.03, 0.2)) * (1 - hollow)


def _donut(rng: Generator, grid: Grid) -> Float64:
    radius, half = rng.uniform(0.3, 0.55), rng.uniform(0.1, 0.22)
    shift = rng.normal(0, 0.07, 2)
    distance = abs(np.hypot(grid.x - shift[0], grid.y - shift[1]) - radius)
    open_side = rng.uniform(0, 0.9) * (1 - np.cos(_turned(rng, grid))) / 2
    margin = half - distance + 0.03 * _waves(rng, grid, 1, 4.0)[0]
    return rng.uniform(0.5, 1.0) * _soft(margin, rng.uniform(0.02, 0.06)) * (1 - open_side)


def _edge_loc(rng: Generator, grid: Grid) -> Float64:
    depth = max(1.6 * grid.die, rng.uniform(0.06, 0.32))
    lens = depth * (1 - (_turned(rng, grid) / rng.uniform(0.25, 1.0)) ** 2)
    return rng.uniform(0.7, 1.0) * _soft(grid.r - 1 + lens, 0.25 * grid.die)


def _edge_ring(rng: Generator, grid: Grid) -> Float64:
    depth = grid.die * rng.uniform(1.0, 1.7)
    weak_side = rng.beta(0.4, 3.0) * (1 - np.cos(_turned(rng, grid))) / 2
    return rng.uniform(0.88, 1.0) * (1 - weak_side) * _soft(grid.r - 1 + depth, 0.1 * grid.die)


def _loc(rng: Generator, grid: Grid) -> Float64:
    size = max(1.5 * grid.die, rng.uniform(0.08, 0.35))
    margin = _blob(rng, grid, rng.uniform(0.3, 0.75), (size, size * rng.uniform(0.4, 1)))
    return rng.uniform(0.65, 1.0) * _soft(margin, rng.uniform(0.03, 0.15))


def _near_full(rng: Generator, grid: Grid) -> Float64:
    unevenness = rng.uniform(0.3, 2.0) * _waves(rng, grid, 1, 0.8)[0]
    return _soft(rng.uniform(1.4, 3.4) + unevenness, 1.0)


def _random(rng: Generator, grid: Grid) -> Float64:
    level = rng.uniform(-0.9, 0.5) + rng.uniform(0.1, 0.9) * _waves(rng, grid, 1, 1.0)[0]
    rows, cols = np.indices(grid.on.shape)
    stripes = (rng.random() < 0.15) * ((cols if rng.random() < 0.7 else rows) % 2 - 0.5)
    return _soft(level + 2.5 * stripes, 1.0)


def _scratch(rng: Generator, grid: Grid) -> Float64:
    """One curve, or a few side by side, of one or two dies width and with gaps."""
    length = max(6 * grid.die, rng.uniform(0.3, 1.5))  # wafer radii
    s = np.arange(-length / 2, length / 2, grid.die / 4)
    across = np.exp(1j * rng.uniform(0, 2 * np.pi))
    middle = rng.uniform(0, 0.7) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    track = np.cumsum(1j * across * np.exp(1j * rng.normal(0, 0.8) * s)) * grid.die / 4
    track += middle - track[len(s) // 2]
    gaps = np.sin(rng.uniform(6, 18) * s / length + rng.uniform(0, 6)) < rng.uniform(-1.6, -0.5)
    count, spacing = rng.choice([1, 2, 3], p=[0.8, 0.15, 0.05]), rng.uniform(2.0, 4.0)
    shifts = [0.0, 0.7][: 1 + (rng.random() < 0.25)]  # dies; the second makes it two dies wide
    shifts = [n * spacing + wide for n in range(count) for wide in shifts]
    z = np.concatenate([track[~gaps] + shift * grid.die * across for shift in shifts])
    hits, _, _ = np.histogram2d(z.imag, z.real, grid.on.shape, ((-1, 1), (-1, 1)))
    return np.where(hits > 0, rng.uniform(0.75, 1.0), 0.0)


PATTERNS: dict[str, Pattern] = {
    "Center": _center,
    "Donut": _donut,
    "Edge-Loc": _edge_loc,
    "Edge-Ring": _edge_ring,
    "Loc": _loc,
    "Near-full": _near_full,
    "Random": _random,
    "Scratch": _scratch,
}
_RIVALS = (("Center", "Donut"), ("Edge-Loc", "Edge-Ring"), ("Loc",), ("Scratch",))
MIXTURES = [f"{a}+{b}" for A, B in combinations(_RIVALS, 2) for a in A for b in B]
