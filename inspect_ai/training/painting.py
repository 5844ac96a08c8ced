"""Synthetic failure patterns, painted on dies of real good wafer maps, a batch at a time.

A die in a pattern is killed with a probability of the pattern's shape. Patterns are painted at
native dies, before any resize: painted on a resized map, they would be found by how they are
painted. Six families, each with its size, place, strength and gaps drawn widely:

    blob      a ragged ellipse anywhere, one in three about the centre; some are hollow
    ring      a ring about the centre, or an arc of one
    edge      a band along the rim, an arc or a lens of one
    scratch   a thin curve with gaps, one or two dies wide, or two side by side
    excess    more fails all over, smoothly uneven, up to almost all dies; some in stripes
    mixture   two of these

Coordinates are those of each wafer's own dies: its radius is 1, a die is `die` long. All is drawn
from torch's global generator, which the training loop seeds by the step.

The shapes follow those that Wu, Jang, Chen, IEEE Trans. Semicond. Manuf. 28(1), 2015, figure 1,
name. To train on painted defects: Zavrtanik, Kristan, Skocaj, "DRAEM", ICCV 2021, section 3.3.

Shapes: N maps, H, W dies of the canvas, T points of a curve.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from inspect_ai.preprocess import extent

TURN = 2 * torch.pi
POINTS = 256  # of a curve
MIXED = 0.12  # share of patterns that are two


class Wafers(NamedTuple):
    """Where the cells of a batch of canvases lie on their wafers."""

    x: Tensor  # (N, H, W)
    y: Tensor  # (N, H, W)
    r: Tensor  # (N, H, W) distance from the centre
    die: Tensor  # (N, 1, 1) longer side of a die
    box: Tensor  # (N, 4) first column, columns, first row, rows

    def at(self, index: Tensor) -> "Wafers":
        """Some of the wafers."""
        return Wafers(*(part[index] for part in self))


class Painted(NamedTuple):
    """A batch after painting."""

    fails: Tensor  # (N, 1, H, W) 1 where a die fails, by itself or by a pattern
    kills: Tensor  # (N, 1, H, W) 1 where a pattern kills, whether the die failed already or not
    new: Tensor  # (N,) dies that fail by a pattern alone


def paint(fails: Tensor, dies: Tensor, count: int) -> Painted:
    """Paints a pattern on each of the first `count` of N maps, (N, 1, H, W) each."""
    kills = torch.zeros_like(fails)
    chances = patterns(wafers(dies[:count, 0]))[:, None]
    kills[:count] = (torch.rand_like(chances) < chances) * dies[:count]
    return Painted(torch.maximum(fails, kills), kills, (kills * (1 - fails)).sum((1, 2, 3)))


def wafers(dies: Tensor) -> Wafers:
    """Coordinates of the cells of (N, H, W) die masks; a canvas without dies is all wafer."""
    left, columns, x = _axis(dies.amax(1))
    top, rows, y = _axis(dies.amax(2))
    x, y = x[:, None, :].expand(dies.shape), y[:, :, None].expand(dies.shape)
    die = 2 / torch.minimum(rows, columns)
    box = torch.stack([left, columns, top, rows], 1)
    return Wafers(x, y, torch.hypot(x, y), die[:, None, None], box)


def _axis(occupied: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First index, length (N,) each, and the coordinate (N, L), -1 to 1 over what is occupied."""
    index = torch.arange(occupied.shape[1], dtype=torch.float32, device=occupied.device)
    occupied = torch.where(occupied.amax(1, keepdim=True) > 0, occupied, 1.0)
    first, count = extent(occupied)
    return first, count, (2 * (index - first[:, None]) + 1) / count[:, None] - 1


def patterns(w: Wafers) -> Tensor:
    """(N, H, W) chance of each die to be killed by its wafer's pattern."""
    n, device = len(w.x), w.x.device
    shares = torch.tensor([share for _, share in FAMILIES], device=device)
    total = torch.zeros_like(w.x)
    for present in (torch.ones(n, device=device), (torch.rand(n, device=device) < MIXED).float()):
        drawn = torch.multinomial(shares, n, replacement=True)
        force = 1 - 0.75 * torch.rand(n, 1, 1, device=device) ** 1.5  # inside the shape
        for number, (family, _) in enumerate(FAMILIES):
            who = ((drawn == number) & (present > 0)).nonzero()[:, 0]
            if len(who):
                chances = family(w.at(who)) * (1 if family is excess else force[who])
                total[who] = 1 - (1 - total[who]) * (1 - chances)
    return total


def blob(w: Wafers) -> Tensor:
    """A ragged ellipse; its smallest size is about a die."""
    near = 0.1 * torch.randn_like(w.die).abs()
    middle = torch.where(_chance(w, 0.35) > 0, near, _uniform(w, 0, 1.1))
    turn, tilt = _uniform(w, 0, TURN), _uniform(w, 0, TURN)
    x, y = w.x - middle * turn.cos(), w.y - middle * turn.sin()
    u, v = x * tilt.cos() + y * tilt.sin(), y * tilt.cos() - x * tilt.sin()
    size = _log_uniform(w, 0.08, 0.8).maximum(1.2 * w.die)
    narrow = (size * _uniform(w, 0.35, 1)).maximum(0.8 * w.die)
    margin = 1 - torch.hypot(u / size, v / narrow) + _uniform(w, 0, 0.35) * _clouds(w)
    hollow = _chance(w, 0.2) * _uniform(w, 0.3, 1) * (margin > _uniform(w, 0.3, 0.7))
    return (margin / _log_uniform(w, 0.03, 0.3)).sigmoid() * (1 - hollow)


def ring(w: Wafers) -> Tensor:
    """A ring or an arc of one; a fifth lies far off the centre."""
    shift = torch.where(_chance(w, 0.2) > 0, 0.4, 0.07)
    r = torch.hypot(w.x - shift * torch.randn_like(w.die), w.y - shift * torch.randn_like(w.die))
    half = _log_uniform(w, 0.05, 0.25).maximum(0.6 * w.die)
    margin = half - (r - _uniform(w, 0.2, 0.85)).abs() + _uniform(w, 0, 0.06) * _clouds(w)
    return (margin / _log_uniform(w, 0.015, 0.1)).sigmoid() * _arc(w)


def edge(w: Wafers) -> Tensor:
    """A band along the rim or an arc of one, or, two in five, a lens at the rim."""
    depth = _log_uniform(w, 0.05, 0.4).maximum(_uniform(w, 1, 1.7) * w.die)
    away = _angle_from(w, _uniform(w, 0, TURN)) / _log_uniform(w, 0.15, 1.2)
    is_lens = _chance(w, 0.4) > 0
    lens = torch.where(is_lens, 1 - away.square(), 1.0).clamp(min=-3)
    margin = depth * lens + w.r - 1 + _uniform(w, 0, 0.04) * _clouds(w)
    chances = (margin / (_log_uniform(w, 0.05, 0.6) * w.die)).sigmoid()
    return chances * torch.where(is_lens, 1.0, _arc(w))


def scratch(w: Wafers) -> Tensor:
    """Points along a curve, each of which kills the die it falls on."""
    heading, x, y = _curve(w)
    gaps = F.interpolate(torch.randn(len(x), 1, 14, device=x.device), POINTS, mode="linear")[:, 0]
    bar = torch.where(_chance(w, 0.5) > 0, -9.0, _uniform(w, -1.5, -0.3))
    drawn = gaps > bar[:, 0]
    wide, second = _chance(w, 0.25), _chance(w, 0.2) * _uniform(w, 2, 4)
    height, width = w.x.shape[1:]
    hit = torch.zeros(len(x), height * width + 1, device=x.device)  # the last takes what falls off
    left, columns, top, rows = w.box[:, :, None].unbind(1)
    for across, has in ((0 * wide, wide < 2), (0.7 * wide, wide > 0), (second, second > 0)):
        off = (across * w.die)[:, 0]
        px, py = x - off * heading.sin(), y + off * heading.cos()
        column = ((px + 1) / 2 * columns).floor() + left
        row = ((py + 1) / 2 * rows).floor() + top
        inside = drawn & has[:, 0] & (px.abs() < 1) & (py.abs() < 1)
        place = torch.where(inside, row * width + column, height * width)
        hit.scatter_(1, place.long(), 1.0)
    return hit[:, :-1].view(len(x), height, width)


def excess(w: Wafers) -> Tensor:
    """More fails all over the wafer, from a few more to almost all."""
    level = _uniform(w, -1.2, 3.5) + _log_uniform(w, 0.1, 2.0) * _clouds(w)
    height, width = w.x.shape[1:]
    row = torch.arange(height, device=w.x.device)[:, None].expand(height, width)
    column = torch.arange(width, device=w.x.device).expand(height, width)
    period = torch.randint(2, 5, w.die.shape, device=w.x.device)
    along = torch.where(_chance(w, 0.5) > 0, row, column)
    stripes = _chance(w, 0.12) * (along % period == 0)
    return (level + 3 * stripes).sigmoid()


FAMILIES: tuple[tuple[Callable[[Wafers], Tensor], float], ...] = (
    (blob, 0.30),
    (ring, 0.14),
    (edge, 0.24),
    (scratch, 0.24),
    (excess, 0.08),
)


def _curve(w: Wafers) -> tuple[Tensor, Tensor, Tensor]:
    """Heading and place of the points of a curve whose bend changes steadily, (N, T) each."""
    t = torch.linspace(-0.5, 0.5, POINTS, device=w.x.device)[None]
    length = _log_uniform(w, 0.2, 1.7).maximum(5 * w.die)[:, 0]
    bend = 0.9 * torch.randn_like(length) + 1.5 * torch.randn_like(length) * t
    heading = _uniform(w, 0, TURN)[:, 0] + bend * length * t
    step = length / POINTS
    x, y = (step * heading.cos()).cumsum(1), (step * heading.sin()).cumsum(1)
    far, turn = _uniform(w, 0, 0.9)[:, 0], _uniform(w, 0, TURN)[:, 0]
    middle = POINTS // 2
    x = x - x[:, middle, None] + far * turn.cos()
    return heading, x, y - y[:, middle, None] + far * turn.sin()


def _arc(w: Wafers) -> Tensor:
    """(N, H, W) 1 on an arc of directions and 0 off it; half go all round, and may fade."""
    away = _angle_from(w, _uniform(w, 0, TURN))
    window = ((_log_uniform(w, 0.2, 3) - away) / _uniform(w, 0.03, 0.4)).sigmoid()
    fade = 1 - _uniform(w, 0, 1).square() * (1 - away.cos()) / 2
    return torch.where(_chance(w, 0.5) > 0, fade, window)


def _angle_from(w: Wafers, direction: Tensor) -> Tensor:
    """(N, H, W) angle between a die and a direction, in [0, pi]."""
    away = torch.atan2(w.y, w.x) - direction
    return ((away + torch.pi) % TURN - torch.pi).abs()


def _clouds(w: Wafers) -> Tensor:
    """(N, H, W) smooth noise of variance about 1, of two to nine bumps across."""
    n, shape, device = len(w.x), w.x.shape[1:], w.x.device
    layers = [
        F.interpolate(
            torch.randn(n, 1, k, k, device=device), shape, mode="bicubic", align_corners=True
        )
        for k in (3, 6, 10)
    ]
    weight = torch.rand(n, 3, 1, 1, device=device).square()
    weight = 1.3 * F.normalize(weight, dim=1)  # interpolation takes variance
    return (weight * torch.cat(layers, 1)).sum(1)


def _uniform(w: Wafers, low: float, high: float) -> Tensor:
    """(N, 1, 1)."""
    return torch.rand_like(w.die) * (high - low) + low


def _log_uniform(w: Wafers, low: float, high: float) -> Tensor:
    """(N, 1, 1)."""
    return torch.exp(math.log(low) + math.log(high / low) * torch.rand_like(w.die))


def _chance(w: Wafers, share: float) -> Tensor:
    """(N, 1, 1) 1 for a share of the maps, else 0."""
    return (torch.rand_like(w.die) < share).float()
