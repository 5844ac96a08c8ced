"""Simulated die images: a drawn layout, perhaps a defect, and a scanning electron microscope.

    drawing  ->  grey = low + (high - low) * inside + edge * exp(-|distance| / reach)
             ->  blur by the beam  ->  times charging and brightness of the tool
             ->  Poisson(dose * grey) / dose + Gaussian

Edges are brighter than flat ground because more secondary electrons escape there, and the
noise is that of counting electrons: Reimer, "Scanning Electron Microscopy", 2nd ed., 1998,
chapters 4 and 6. The grey levels were set by eye.

Shapes: S pixels a side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

from inspect_ai.data.simulate_defects import DEFECTS, Scene, Site
from inspect_ai.data.simulate_maps import lot_times
from inspect_ai.scores import Float64
from inspect_ai.settings import Settings

WAFER = 18  # dies across
Image = NDArray[np.uint8] | NDArray[np.uint16]
VISIBLE = 0.04  # share of full scale by which a defect must change a pixel to be in the mask
LEAST_VISIBLE = 6  # pixels; a defect that shows in fewer is drawn again


class DieSettings(Settings):
    """How many die images, how large, and how many of them with a defect."""

    kind: Literal["dies"] = "dies"
    lots: int = Field(default=6, ge=1, le=9999)
    first_lot: int = Field(default=1, ge=1, le=9999)  # later lots of the same fab begin here
    wafers_per_lot: int = Field(default=5, ge=1, le=25)  # a carrier has 25 slots
    dies_per_wafer: int = Field(default=20, ge=1, le=150)  # imaged dies
    side: int = Field(default=128, ge=32, le=4096)  # pixels
    depth: Literal[8, 16] = 8  # bits a pixel
    defect_share: float = Field(default=0.1, ge=0, le=1)  # share of dies with a defect
    products: int = Field(default=3, ge=1, le=6)  # lots take turns
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, slots=True)
class Die:
    """One image with its truth.

    Args:
        image: (S, S) grey levels, 0 to 255 or 0 to 65535.
        mask: (S, S) 255 where the defect changes the noise-free image by more than VISIBLE,
            pinholes closed; else 0.
        label: "good" or a kind of defect.
        lot: its name, "S0001".
        wafer: its number in the lot, from 1.
        die_x: column of the die on the wafer, from 0.
        die_y: row of the die on the wafer, from 0.
        product: what is printed.
        layer: the layer in view.
        tool: the microscope.
        taken_at: ISO 8601, local time of the tool.
    """

    image: Image
    mask: NDArray[np.uint8]
    label: str
    lot: str
    wafer: int
    die_x: int
    die_y: int
    product: str
    layer: str
    tool: str
    taken_at: str


class Pitch(NamedTuple):
    """What a layout is drawn by."""

    period: float  # pixels
    half: float  # pixels; half the width of a line, a contact or a pad
    x: float  # pixels; where the first one stands
    y: float  # pixels
    side: int  # pixels; of the picture


Drawing = tuple[Float64, list[Site], list[Site]]  # signed distance, solids, gaps: see Scene
Layout = Callable[[Float64, Float64, Pitch], Drawing]


@dataclass(frozen=True, slots=True)
class Product:
    """A row of the table of products; `period` in pixels of a picture of 128."""

    name: str
    layer: str
    layout: Layout
    period: float
    duty: float  # printed share of a period
    low: float  # grey level of the ground, share of full scale
    high: float  # grey level of the material, share of full scale
    kinds: tuple[str, ...]  # defects that can happen to it


class Microscope(NamedTuple):
    """How one tool sees on one day."""

    name: str
    brightness: float  # factor
    blur: float  # pixels, one standard deviation
    dose: float  # electrons a pixel at full scale


def dies(settings: DieSettings) -> Iterator[Die]:
    """All dies of `settings`; each depends on the seed and its own numbers, on no other die."""
    for lot in range(settings.first_lot, settings.first_lot + settings.lots):
        rng = np.random.default_rng([settings.seed, 3, lot])
        product = PRODUCTS[(lot - 1) % settings.products]
        tool = _microscope(settings, lot, int(rng.integers(1, 4)))
        for wafer, time in enumerate(lot_times(rng, lot, settings.wafers_per_lot), start=1):
            for n, (x, y) in enumerate(_sample(settings, lot, wafer), start=1):
                rng = np.random.default_rng([settings.seed, 5, lot, wafer, n])
                image, mask, label = _die(rng, settings, product, tool, _radius(x, y))
                taken_at = str(np.datetime64(time) + np.timedelta64(n, "s"))
                where = (f"S{lot:04d}", wafer, x, y)
                yield Die(
                    image, mask, label, *where, product.name, product.layer, tool.name, taken_at
                )


def _sample(settings: DieSettings, lot: int, wafer: int) -> list[tuple[int, int]]:
    """(x, y) of the dies imaged on a wafer, row by row."""
    rng = np.random.default_rng([settings.seed, 4, lot, wafer])
    sites = [(x, y) for y in range(WAFER) for x in range(WAFER) if _radius(x, y) <= 1]
    chosen = np.sort(rng.choice(len(sites), settings.dies_per_wafer, replace=False))
    return [sites[int(k)] for k in chosen]


def _radius(x: int, y: int) -> float:
    """Distance of a die from the wafer's centre; 1 at the rim."""
    return float(np.hypot(x - (WAFER - 1) / 2, y - (WAFER - 1) / 2) / (WAFER / 2))


def _microscope(settings: DieSettings, lot: int, number: int) -> Microscope:
    """A tool has its own brightness, and drifts from lot to lot."""
    rng = np.random.default_rng([settings.seed, 6, number])
    brightness = rng.uniform(0.93, 1.05) + 0.04 * np.sin(lot / 2 + rng.uniform(0, 6.3))
    return Microscope(f"sem-{number}", brightness, rng.uniform(0.7, 1.0), rng.uniform(130, 300))


def _die(
    rng: Generator, settings: DieSettings, product: Product, tool: Microscope, r: float
) -> tuple[Image, NDArray[np.uint8], str]:
    """Image, mask and label of a die at distance `r` from the wafer's centre."""
    layout, defect, noise = rng.spawn(3)  # so that a die is the same but for its defect
    is_bad = defect.random() < settings.defect_share
    label = str(defect.choice(product.kinds)) if is_bad else "good"
    scene = _scene(layout, product, settings.side, r)
    grey = good = _seen(scene, product, tool)
    for _ in range(100 if is_bad else 0):  # a scratch along a line may not show; the next may
        grey = _seen(DEFECTS[label](defect, scene), product, tool)
        if np.count_nonzero(abs(grey - good) > VISIBLE) >= LEAST_VISIBLE:
            break
    changed = np.where(abs(grey - good) > VISIBLE, 255, 0).astype(np.uint8)
    assert changed.any() == is_bad
    mask = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    image = _exposed(noise, grey, tool) * (2**settings.depth - 1)
    dtype = np.uint8 if settings.depth == 8 else np.uint16
    return np.round(image).astype(dtype), np.asarray(mask, np.uint8), label


def _scene(rng: Generator, product: Product, side: int, r: float) -> Scene:
    """The drawing with its rough edges, overlay error, and lines thinner toward the rim."""
    unit = max(0.7, (side / 128) ** 0.5)  # a larger picture shows more, and larger
    y, x = np.mgrid[:side, :side] + 0.35 * unit * np.stack(
        [_smooth(rng, side, 2 * unit) for _ in "yx"]
    )
    period = product.period * unit
    half = period * product.duty / 2 * (1 + 0.02 * rng.normal() - 0.06 * r**2)
    shift_x, shift_y = period / 3 + 0.05 * period * rng.normal(size=2)
    distance, solids, gaps = product.layout(x, y, Pitch(period, half, shift_x, shift_y, side))
    nothing = np.zeros_like(distance)
    return Scene(x, y, distance, solids, gaps, nothing, nothing)


def _smooth(rng: Generator, side: int, length: float) -> Float64:
    """(S, S) noise of variance about 1 that changes over `length` pixels."""
    noise = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), length)
    return np.asarray(noise * 2 * np.sqrt(np.pi) * length)


def _seen(scene: Scene, product: Product, tool: Microscope) -> Float64:
    """(S, S) noise-free grey levels, share of full scale."""
    inside = np.clip(0.5 - scene.distance, 0.0, 1.0)
    grey = product.low + (product.high - product.low) * inside
    grey += 0.32 * np.exp(-abs(scene.distance) / 1.3)
    grey = grey * (1 - scene.cover) + scene.paint * scene.cover
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), tool.blur))


def _exposed(rng: Generator, grey: Float64, tool: Microscope) -> Float64:
    """(S, S) image in [0, 1] with charging, brightness and noise."""
    y, x = np.mgrid[-1 : 1 : len(grey) * 1j, -1 : 1 : len(grey) * 1j]
    tilt_x, tilt_y, bulge = rng.normal(0, 0.05, 3)
    charging = 1 + tilt_x * x + tilt_y * y + bulge * (x**2 + y**2 - 2 / 3)
    signal = np.maximum(grey * charging, 0) * tool.brightness * (1 + 0.015 * rng.normal())
    counted = rng.poisson(tool.dose * signal) / tool.dose + rng.normal(0, 0.015, grey.shape)
    return np.asarray(np.clip(counted, 0.0, 1.0))


def _fold(x: Float64, start: float, period: float) -> Float64:
    """Signed distance to the nearest of the points start + k * period."""
    return np.asarray((x - start + period / 2) % period - period / 2)


def _sites(p: Pitch, shift: tuple[float, float], turn: float, reach: float) -> list[Site]:
    """Those of the lattice, shifted by a share of the period, that lie well in the picture."""
    low, high = 0.2 * p.side, 0.8 * p.side
    x, y = (
        np.arange((at + share * p.period - low) % p.period + low, high, p.period)
        for at, share in zip((p.x, p.y), shift, strict=True)
    )
    return [Site(float(a), float(b), turn, reach) for a in x for b in y]


def _lines(x: Float64, y: Float64, p: Pitch) -> Drawing:  # noqa: ARG001 - lines are upright
    distance = abs(_fold(x, p.x, p.period)) - p.half
    space = p.period / 2 - p.half
    return (
        distance,
        _sites(p, (0.0, 0.0), 0.0, p.half + 1.5),
        _sites(p, (0.5, 0.0), 0.0, space + 1.5),
    )


def _contacts(x: Float64, y: Float64, p: Pitch) -> Drawing:
    distance = np.hypot(_fold(x, p.x, p.period), _fold(y, p.y, p.period)) - p.half
    solids = _sites(p, (0.0, 0.0), 0.0, p.half + 2.0)
    return np.asarray(distance), solids, _sites(p, (0.5, 0.0), 0.0, p.period / 2)


def _pads(x: Float64, y: Float64, p: Pitch) -> Drawing:
    """Square pads in rows, each joined by a neck to the trace under its row."""
    u, v = _fold(x, p.x, p.period), _fold(y, p.y, p.period)
    half_trace = 0.085 * p.period
    corner = 0.3 * p.half
    pad = np.hypot(np.maximum(abs(u) - p.half + corner, 0), np.maximum(abs(v) - p.half + corner, 0))
    trace = abs(_fold(y, p.y + p.period / 2, p.period)) - half_trace
    neck = np.maximum(abs(u) - half_trace, -v)
    distance = np.minimum(np.minimum(pad - corner, trace), neck)
    solids = _sites(p, (0.5, 0.5), np.pi / 2, half_trace + 1.5)
    return distance, solids, _sites(p, (0.5, 0.0), 0.0, p.period / 2 - p.half + 1.5)


_WIRE = ("particle", "scratch", "bridge", "break", "residue")
_HOLE = ("particle", "scratch", "bridge", "missing_contact", "residue")
PRODUCTS = (
    Product("lines-a", "metal1", _lines, 13.0, 0.5, 0.20, 0.55, _WIRE),
    Product("contacts-a", "contact", _contacts, 16.0, 0.56, 0.48, 0.14, _HOLE),
    Product("pads-a", "metal3", _pads, 26.0, 0.5, 0.24, 0.60, _WIRE),
    Product("lines-b", "metal2", _lines, 18.0, 0.38, 0.32, 0.66, _WIRE),
    Product("contacts-b", "via1", _contacts, 20.0, 0.45, 0.25, 0.66, _HOLE),
    Product("pads-b", "metal4", _pads, 23.0, 0.58, 0.16, 0.50, _WIRE),
)
