import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from inspect_ai.training.painting import FAMILIES, paint, patterns, wafers

SEEDS = st.integers(0, 999)
MODERATE = settings(max_examples=25, deadline=None, derandomize=True)
NAMES = [family.__name__ for family, _ in FAMILIES]


def discs(count, rows=26, columns=30, canvas=40, top=0, left=0):
    """(N, 1, S, S) dies of round wafers on a canvas."""
    y, x = np.mgrid[:rows, :columns]
    disc = ((y - (rows - 1) / 2) / rows) ** 2 + ((x - (columns - 1) / 2) / columns) ** 2 <= 0.25
    dies = torch.zeros(count, 1, canvas, canvas)
    dies[:, 0, top : top + rows, left : left + columns] = torch.from_numpy(disc).float()
    return dies


def painted(count=64, seed=0, share=1.0, **where):
    torch.manual_seed(seed)
    dies = discs(count, **where)
    fails = (torch.rand_like(dies) < 0.05).float() * dies
    return paint(fails, dies, round(share * count)), fails, dies


@given(SEEDS)
@MODERATE
def test_only_dies_of_the_first_maps_are_killed_and_none_is_healed(seed):
    made, fails, dies = painted(16, seed, share=0.5, top=5, left=8)
    assert (made.kills <= dies).all()
    assert (made.fails >= fails).all()
    assert torch.equal(made.fails, torch.maximum(fails, made.kills))
    assert (made.kills[8:] == 0).all()
    assert torch.equal(made.new, (made.fails - fails).sum((1, 2, 3)))


def test_what_is_painted_depends_on_torchs_seed_alone():
    assert torch.equal(painted(seed=3)[0].kills, painted(seed=3)[0].kills)
    assert not torch.equal(painted(seed=3)[0].kills, painted(seed=4)[0].kills)


def test_coordinates_span_the_dies_wherever_they_lie():
    w = wafers(discs(1, top=7, left=3)[:, 0])
    inside = (slice(7, 33), slice(3, 33))
    assert w.y[0][inside].aminmax().max.item() == pytest.approx(1 - 1 / 26)
    assert w.x[0][inside].aminmax().min.item() == pytest.approx(-1 + 1 / 30)
    assert w.box[0].tolist() == [3, 30, 7, 26]
    assert w.die.item() == pytest.approx(2 / 26)


@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_follows_its_wafer_over_the_canvas(name):
    family = dict(zip(NAMES, (f for f, _ in FAMILIES), strict=True))[name]
    drawn = []
    for top, left in ((0, 0), (9, 6)):
        torch.manual_seed(0)
        dies = discs(30, top=top, left=left)[:, 0]
        drawn.append((family(wafers(dies)) * dies).sum((1, 2)))
    # the noise behind ragged edges is drawn over the canvas and differs; the shape is the same
    assert np.corrcoef(drawn[0], drawn[1])[0, 1] > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_each_family_gives_chances_and_kills_some_dies(name):
    family = dict(zip(NAMES, (f for f, _ in FAMILIES), strict=True))[name]
    torch.manual_seed(0)
    dies = discs(200)[:, 0]
    chances = family(wafers(dies))
    assert chances.shape == dies.shape
    assert chances.min() >= 0
    assert chances.max() <= 1
    kills = (chances * dies).sum((1, 2))
    assert (kills > 3).float().mean() > 0.9
    assert kills.max() > 2.5 * kills.median() or name == "excess"  # sizes vary widely


def test_scratches_are_thin():
    scratch = dict(zip(NAMES, (f for f, _ in FAMILIES), strict=True))["scratch"]
    torch.manual_seed(0)
    lines = scratch(wafers(discs(100)[:, 0])).numpy() > 0
    eroded = [ndimage.binary_erosion(line, np.ones((3, 3))).sum() for line in lines]
    assert np.mean(np.array(eroded) == 0) > 0.9
    assert np.mean(lines.sum((1, 2)) >= 5) > 0.9


def test_patterns_range_from_a_few_dies_to_nearly_all():
    torch.manual_seed(0)
    dies = discs(500)[:, 0]
    share = (patterns(wafers(dies)) * dies).sum((1, 2)) / dies.sum((1, 2))
    assert share.quantile(0.1) < 0.03
    assert share.max() > 0.8


def test_a_canvas_without_dies_is_left_empty():
    empty = torch.zeros(3, 1, 16, 16)
    assert all(part.sum() == 0 and torch.isfinite(part).all() for part in paint(empty, empty, 3))
