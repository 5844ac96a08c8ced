"""Defects of a die, planted on its drawing before optics and noise.

A drawing is a signed distance: how far, in pixels, a pixel lies outside (> 0) or inside
(< 0) of the printed material. Joining two shapes is a minimum, cutting one out a maximum
(Hart, "Sphere tracing", The Visual Computer 12, 1996, lists these rules); so a bridge or a
break gets the bright edges of any other shape.

Shapes: S pixels a side.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from scipy.special import expit

from inspect_ai.scores import Float64


@dataclass(frozen=True, slots=True)
class Site:
    """A place that a defect can spoil: the middle of a line, space, contact or trace.

    Args:
        x: column, pixels.
        y: row, pixels.
        turn: direction of a cut or a bridge across, radians from the x axis.
        reach: half the way a cut or a bridge must go, pixels.
    """

    x: float
    y: float
    turn: float
    reach: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What the microscope would see without blur and noise.

    Args:
        x, y: (S, S) column and row, pixels; the edges of real lines are rough, so not quite
            a raster.
        distance: (S, S) signed distance to the material's edge, pixels.
        solids: sites in the material, where it can be cut or taken out.
        gaps: sites between two pieces of material, where they can be joined.
        paint: (S, S) grey level laid over the material, share of full scale.
        cover: (S, S) share in [0, 1] to which `paint` hides what lies below.
    """

    x: Float64
    y: Float64
    distance: Float64
    solids: list[Site]
    gaps: list[Site]
    paint: Float64
    cover: Float64


def bridge(rng: Generator, scene: Scene) -> Scene:
    """Joins two neighbours with a strip, wider at its ends."""
    site = _pick(rng, scene.gaps)
    along, across = _turned(scene, site)
    half = max(1.5, site.reach * rng.uniform(0.22, 0.5)) * (1 + 0.4 * (along / site.reach) ** 2)
    strip = np.maximum(abs(along) - site.reach, abs(across) - half)
    return replace(scene, distance=np.minimum(scene.distance, strip))


def cut(rng: Generator, scene: Scene) -> Scene:
    """Cuts a line or a trace in two ("break")."""
    site = _pick(rng, scene.solids)
    along, across = _turned(scene, site)
    half = max(2.2, site.reach * rng.uniform(0.4, 1.1)) * (1 + 0.3 * (along / site.reach) ** 2)
    gap = np.maximum(abs(along) - site.reach, abs(across) - half)
    return replace(scene, distance=np.maximum(scene.distance, -gap))


def missing_contact(rng: Generator, scene: Scene) -> Scene:
    """Takes one contact out; one time in three some of it is left."""
    site = _pick(rng, scene.solids)
    left = site.reach * rng.uniform(0.2, 0.45) * (rng.random() < 1 / 3)
    here = np.hypot(scene.x - site.x, scene.y - site.y)
    gone = np.maximum(scene.distance, site.reach - here)
    return replace(scene, distance=np.minimum(gone, here - left) if left else gone)


def particle(rng: Generator, scene: Scene) -> Scene:
    """A lump with a bright rim and a dark halo, which hides what lies below."""
    size = _extent(scene) * rng.uniform(0.03, 0.09)
    outside = _lump(rng, scene, size, 0.25)
    dome = rng.uniform(0.65, 0.95) + 0.25 * np.exp(-abs(outside) / 1.2)
    halo = 0.45 * np.exp(-np.maximum(outside, 0) / (0.35 * size + 1))
    return _painted(scene, np.where(outside < 0.5, dome, 0.05), np.maximum(_inside(outside), halo))


def residue(rng: Generator, scene: Scene) -> Scene:
    """A flat stain with a soft edge; what lies below shows through."""
    outside = _lump(rng, scene, _extent(scene) * rng.uniform(0.08, 0.2), 0.4)
    grey = rng.choice([rng.uniform(0.02, 0.12), rng.uniform(0.8, 0.95)])
    cover = rng.uniform(0.45, 0.75) * expit(-outside / rng.uniform(0.5, 1.5))
    return _painted(scene, np.full_like(outside, grey), cover)


def scratch(rng: Generator, scene: Scene) -> Scene:
    """A thin arc: a dark groove between two bright shoulders."""
    side = len(scene.x)
    radius, half = side * rng.uniform(0.6, 3.0), side * rng.uniform(0.12, 0.5)  # pixels
    x, y = side * rng.uniform(0.3, 0.7, 2)
    turn = rng.uniform(-np.pi, np.pi)
    across, along = _rotated(scene.x - x, scene.y - y, turn)
    bend = np.clip(np.arctan2(along, across + radius), -half / radius, half / radius)
    outside = np.hypot(across + radius - radius * np.cos(bend), along - radius * np.sin(bend))
    outside -= _extent(scene) * rng.uniform(0.006, 0.014) * (1 - 0.6 * (bend * radius / half) ** 2)
    shoulder = np.exp(-(((outside - 1.2) / 1.0) ** 2))
    grey = np.where(outside < 0.6, rng.uniform(0.0, 0.08), rng.uniform(0.8, 1.0))
    return _painted(scene, grey, np.maximum(_inside(outside), 0.7 * shoulder))


DEFECTS: dict[str, Callable[[Generator, Scene], Scene]] = {
    "particle": particle,
    "scratch": scratch,
    "bridge": bridge,
    "break": cut,
    "missing_contact": missing_contact,
    "residue": residue,
}


def _inside(distance: Float64) -> Float64:
    """(S, S) share of each pixel that lies inside a shape, for anti-aliased edges."""
    return np.clip(0.5 - distance, 0.0, 1.0)


def _extent(scene: Scene) -> float:
    """Pixels that sizes of blobs go by: the side, less than in proportion when it is large."""
    return float(128 * (len(scene.x) / 128) ** 0.7)


def _pick(rng: Generator, sites: list[Site]) -> Site:
    return sites[int(rng.integers(len(sites)))]


def _rotated(x: Float64, y: Float64, turn: float) -> tuple[Float64, Float64]:
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)


def _turned(scene: Scene, site: Site) -> tuple[Float64, Float64]:
    """(S, S) distances from a site along its direction and across it, pixels."""
    return _rotated(scene.x - site.x, scene.y - site.y, site.turn)


def _lump(rng: Generator, scene: Scene, size: float, rough: float) -> Float64:
    """(S, S) distance to the edge of a ragged blob inside the picture, pixels."""
    side = len(scene.x)
    margin = min(size, 0.25 * side)
    x, y = rng.uniform(margin, side - margin, 2)
    u, v = _rotated(scene.x - x, scene.y - y, rng.uniform(0, np.pi))
    v = v * rng.uniform(1.0, 1.8)
    angle = np.arctan2(v, u)
    waves = [rng.normal() / n * np.cos(n * angle + rng.uniform(0, 6.3)) for n in range(2, 7)]
    return np.asarray(np.hypot(u, v) - size * np.clip(1 + rough * sum(waves), 0.5, 1.5))


def _painted(scene: Scene, grey: Float64, cover: Float64) -> Scene:
    return replace(scene, paint=grey, cover=cover)
