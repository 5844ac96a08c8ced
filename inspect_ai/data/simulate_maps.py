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
from typing import Literal, Self

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, model_validator

from inspect_ai.data.simulate_patterns import MIXTURES, PATTERNS, Grid, waves
from inspect_ai.scores import Bool
from inspect_ai.settings import Settings

LEAST_KILLS = 4  # dies; a pattern nobody could see would be a wrong label


class MapSettings(Settings):
    """How many wafer bin maps, how large, and how many of them with a pattern."""

    kind: Literal["maps"] = "maps"
    lots: int = Field(default=40, ge=1, le=9999)
    first_lot: int = Field(default=1, ge=1, le=9999)  # later lots of the same fab begin here
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
    for place in range(settings.lots):
        lot = settings.first_lot + place
        rng = np.random.default_rng([settings.seed, 1, lot])
        product = int(rng.integers(settings.products))
        grid = _grid(settings, product)
        rows, cols = grid.on.shape
        rows_of_lot = slice(place * wafers, (place + 1) * wafers)
        shapes[rows_of_lot] = rows, cols
        names = [_draw_label(rng, settings) for _ in range(wafers)]
        planted = rng.spawn(1)[0]  # of its own: other fails stay when a share is changed
        kills = np.stack([_kills(planted, grid, name) for name in names])
        masks[rows_of_lot, :rows, :cols] = kills
        bad = kills | _own_fails(rng, grid, wafers)
        maps[rows_of_lot, :rows, :cols] = np.where(grid.on, 1 + bad, 0)
        labels += names
        columns.append(_columns(rng, lot, wafers, f"P{product + 1}"))
        report((place + 1) * wafers, total)
    return SimulatedMaps(
        maps, shapes, np.array(labels), masks, pd.concat(columns, ignore_index=True)
    )


def planted(rng: Generator, wafer: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    """A bin map (H, W) with a pattern, or two joined by "+", on its dies.

    Raises:
        ValueError: a map without dies, or a label that names no pattern.
    """
    if unknown := [name for name in label.split("+") if name not in PATTERNS]:
        raise ValueError(f"no pattern {', '.join(unknown)}; there are {', '.join(PATTERNS)}")
    tall, wide = np.flatnonzero(wafer.any(1)), np.flatnonzero(wafer.any(0))
    if not len(tall):
        raise ValueError("a map without dies can carry no pattern")
    box = slice(tall[0], tall[-1] + 1), slice(wide[0], wide[-1] + 1)
    made = wafer.copy()
    made[box][_kills(rng, _over(wafer[box] > 0), label)] = 2
    return made


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
    whole = _over(np.ones((rows, cols), np.bool_))
    beside = abs(abs(whole.x) - 0.4) < 1 / cols, abs(abs(whole.y) - 0.4) < 1 / rows
    test_sites = (rng.random() < 1 / 3) & beside[0] & beside[1]
    return whole._replace(on=(whole.r <= 1) & ~test_sites)


def _over(on: Bool) -> Grid:
    """Coordinates of (R, C) dies."""
    rows, cols = on.shape
    y = (np.arange(1 - rows, rows, 2) / rows)[:, None] * np.ones(cols)
    x = (np.arange(1 - cols, cols, 2) / cols) * np.ones((rows, 1))
    return Grid(x, y, np.hypot(x, y), on, 2.0 / min(rows, cols))


def _own_fails(rng: Generator, grid: Grid, wafers: int) -> Bool:
    """(W, R, C) dies that fail without a pattern; the formula on top."""
    q = 0.068 * np.exp(0.52 * rng.normal() + 0.15 * rng.normal(size=(wafers, 1, 1)))
    e = rng.gamma(2.0, 1.1) * rng.uniform(0.5, 1.5, q.shape)
    c = rng.gamma(0.4, 3.0) * rng.uniform(0.5, 1.5, q.shape)
    p = q * (1 + e * np.exp((grid.r - 1) / 0.07) + c * np.exp(-((grid.r / 0.16) ** 2)))
    p = np.minimum(p * np.exp(0.25 * waves(rng, grid, wafers, 2.0)), 0.4)
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
