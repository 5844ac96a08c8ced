"""Defects planted on pictures that nobody drew: a lump, a line, or a piece from elsewhere.

    planted = picture + a * c * s        lump, line: a in [0, 1] is how much of a pixel is hit,
                                         c contrast, s the picture's own standard deviation
    planted = piece of a good picture    swap: cut out, mirrored perhaps, and pasted elsewhere

They stand in for defects that nobody has seen yet, for a look at a detector before it is used;
they are no picture of what a process really does, and no detector learns from them.

Source: Li, Sohn, Yoon, Pfister, "CutPaste: Self-supervised learning for anomaly detection and
localization", CVPR 2021, section 2.1 (swap; the scar is a thin line's relative).

Shapes: C channels, H, W pixels of the picture, b, d pixels of the box that a defect lies in.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from inspect_ai.data.specs import ImageRule
from inspect_ai.scores import Bool, Float32, Pixels

Kind = Literal["lump", "line", "swap"]
KINDS: tuple[Kind, ...] = ("lump", "line", "swap")
# share of the shorter side that a defect reaches across, and least pixels
REACH = {"lump": (0.04, 0.25, 3), "line": (0.15, 0.5, 6), "swap": (0.06, 0.25, 4)}
CONTRAST = (1.0, 3.0)  # of a lump or a line, in standard deviations of the picture
LEAST = 0.02  # of the range of pixels: a flat picture's deviation counts as this
TRIES = 8  # places looked at, for one within the region or one that differs
INSIDE = 0.6  # share of a defect within the region that is enough


class _Box(NamedTuple):
    """Where a defect lies, and how much of each pixel it hits, (b, d) in [0, 1]."""

    rows: slice
    columns: slice
    hit: Float32


def planted(
    rng: Generator,
    picture: Pixels,
    kind: Kind,
    rule: ImageRule,
    region: Bool | None = None,
    other: Pixels | None = None,
) -> tuple[Pixels, Bool]:
    """A picture (C, H, W) with one defect, in the type and range that it had, and where it is.

    Args:
        region: (H, W) where a picture counts; None: everywhere. Nothing else is touched.
        other: good picture of the same shape that a swap is cut from; None: this one.

    Returns:
        The picture, and (H, W) True on each pixel that may differ.

    Raises:
        ValueError: a picture of another shape, or a region without a pixel.
    """
    where = np.ones(picture.shape[1:], np.bool_) if region is None else region
    other = picture if other is None else other
    if where.shape != picture.shape[1:] or other.shape != picture.shape or not where.any():
        raise ValueError(f"{picture.shape}, {where.shape} and {other.shape} do not fit together")
    box = _placed(rng, kind, where)
    cut = (slice(None), box.rows, box.columns)
    here = picture[cut].astype(np.float32)
    if kind == "swap":
        changed = _piece(rng, other, here)
    else:
        changed = here + box.hit * _contrast(rng, picture[:, where], here, box.hit, rule)
    mixed = np.where(box.hit > 0, changed, here).clip(rule.minimum, rule.largest)
    made, mask = picture.copy(), np.zeros(where.shape, np.bool_)
    kept = np.rint(mixed) if picture.dtype.kind == "u" else mixed
    made[cut] = np.where(box.hit > 0, kept, picture[cut]).astype(picture.dtype)
    mask[box.rows, box.columns] = box.hit > 0
    return made, mask


def _placed(rng: Generator, kind: Kind, where: Bool) -> _Box:
    """A shape of this kind, laid where most of it counts; what does not count is left out."""
    shape = _shape(rng, kind, min(where.shape))[: where.shape[0], : where.shape[1]]
    centres, found, most = np.flatnonzero(where), None, 0.0
    for place in centres[rng.integers(len(centres), size=TRIES)]:
        middle = np.unravel_index(place, where.shape)
        rows, columns = (
            _side(int(m), *n)
            for m, n in zip(middle, zip(shape.shape, where.shape, strict=True), strict=True)
        )
        hit = shape * where[rows, columns]
        if hit.sum() > most:
            found, most = _Box(rows, columns, hit), float(hit.sum())
        if most >= INSIDE * shape.sum():
            break
    return found or _pixel(int(centres[0]), where)


def _side(middle: int, part: int, whole: int) -> slice:
    """A part of an axis about its middle, moved so that it lies on it."""
    start = min(max(middle - part // 2, 0), whole - part)
    return slice(start, start + part)


def _shape(rng: Generator, kind: Kind, side: int) -> Float32:
    """How much of each pixel of a box is hit, (b, d) in [0, 1]."""
    low, high, least = REACH[kind]
    tall, wide = (
        max(least, round(side * s)) for s in np.exp(rng.uniform(np.log(low), np.log(high), 2))
    )
    if kind == "swap":
        return np.ones((tall, wide), np.float32)
    return _lump(rng, tall) if kind == "lump" else _line(rng, tall, side)


def _pixel(place: int, where: Bool) -> _Box:
    """One pixel, where no shape found room."""
    y, x = divmod(place, where.shape[1])
    return _Box(slice(y, y + 1), slice(x, x + 1), np.ones((1, 1), np.float32))


def _lump(rng: Generator, across: int) -> Float32:
    """A ragged blob in a square, with an edge that is sharp or soft."""
    half = (2 * across) // 3 + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    turned = (x + 1j * y) * np.exp(1j * rng.uniform(0, np.pi))
    angle, radius = np.angle(turned), np.hypot(turned.real, turned.imag * rng.uniform(1.0, 1.6))
    waves = [rng.normal() / n * np.cos(n * angle + rng.uniform(0, 6.3)) for n in range(2, 6)]
    edge = across / 2 * np.clip(1 + 0.25 * sum(waves), 0.6, 1.3)
    soft = max(1.0, rng.uniform(0.1, 0.6) * across / 2)
    return np.asarray(np.clip((edge - radius) / soft + 0.5, 0, 1), np.float32)


def _line(rng: Generator, length: int, side: int) -> Float32:
    """A thin curve from one side of its box to another."""
    width = max(1, round(side * rng.uniform(0.005, 0.02)))
    turn, bend = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8)
    along = np.linspace(-0.5, 0.5, 32)
    track = length * (along + 1j * bend * (along**2 - 0.125)) * np.exp(1j * turn)
    points = np.stack([track.real, track.imag], 1)
    points += width + 1 - points.min(0)
    size = np.ceil(points.max(0)).astype(int) + width + 2
    drawn = np.zeros((size[1], size[0]), np.uint8)
    cv2.polylines(drawn, [np.rint(points).astype(np.int32)], False, 255, width, cv2.LINE_AA)
    return np.asarray(drawn / 255, np.float32)


def _contrast(
    rng: Generator, counted: Pixels, here: Float32, hit: Float32, rule: ImageRule
) -> Float32:
    """(C, 1, 1) what is added where all of a pixel is hit: towards the side that has room."""
    span = rule.largest - rule.minimum
    spread = counted.astype(np.float32).std(1).clip(min=LEAST * span)[:, None, None]
    size = spread * rng.uniform(*CONTRAST)
    wanted = rng.choice([-1.0, 1.0])
    mean = np.average(here, axis=(1, 2), weights=np.broadcast_to(hit, here.shape))[:, None, None]
    room = np.where(wanted > 0, rule.largest - mean, mean - rule.minimum)
    sign = np.where(room.min() < min(float(size.min()), span / 2), -wanted, wanted)
    return np.asarray(sign * size, np.float32)


def _piece(rng: Generator, other: Pixels, here: Float32) -> Float32:
    """Of some pieces of a good picture, each mirrored perhaps, the one least like what is here."""
    (_, tall, wide), found = here.shape, here
    farthest = -1.0
    for _ in range(TRIES):
        y, x = (
            int(rng.integers(whole - part + 1))
            for whole, part in zip(other.shape[1:], (tall, wide), strict=True)
        )
        piece = other[:, y : y + tall, x : x + wide].astype(np.float32)
        piece = piece[:, :: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        distance = float(abs(piece - here).mean())
        if distance > farthest:
            found, farthest = piece, distance
    return found
