import math
from typing import get_args

import pytest
import torch

from inspect_ai.adversarial.augment import CHANGED, Augment, augmented

KINDS = [kind for kind in get_args(Augment) if kind != "none"]
ALL = tuple(KINDS)


def images(count=4, channels=1, grid=(16, 16), covered=0.8):
    torch.manual_seed(3)
    w = torch.rand(count, 1, *grid) * (torch.rand(count, 1, *grid) < covered)
    return torch.cat([torch.rand(count, channels, *grid), w], 1)


def of_one(image, kind, count=400):
    """An image (C + 1, h, w) changed so many times."""
    torch.manual_seed(0)
    return augmented(image[None].repeat(count, 1, 1, 1), (kind,))


@pytest.mark.parametrize("kinds", [(), ("none",), ("none", "none")])
def test_no_kind_changes_nothing(kinds):
    assert torch.equal(augmented(images(), kinds), images())


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind):
    x = images(64)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(augmented(x, (kind,)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_share_of_images_is_left_alone_and_the_others_change(kind):
    x = images(1, covered=1.0)[0]
    alone = (of_one(x, kind, 2000) == x).flatten(1).all(1).float().mean().item()
    by_chance = {"flip": 1 / 8, "shift": 1 / 25}.get(kind, 0)
    assert alone == pytest.approx(1 - CHANGED + CHANGED * by_chance, abs=0.04)


@pytest.mark.parametrize("kind", ["shift", "cutout", "flip"])
def test_cells_move_together_with_what_covers_them(kind):
    x = images(64)
    x[:, 0] = x[:, 1]  # the image is its own coverage
    changed = augmented(x, (kind,))
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert not torch.equal(changed, x)


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), ALL])
def test_what_is_not_covered_has_no_say(kinds):
    x = images(64)
    junk = torch.cat([torch.where(x[:, 1:] > 0, x[:, :1], 0.9), x[:, 1:]], 1)
    changed = []
    for each in (x, junk):
        torch.manual_seed(0)
        changed.append(augmented(each, kinds))
    assert torch.equal(changed[0][:, 1:], changed[1][:, 1:])
    inside = (changed[0][:, 1:] > 0).float()
    torch.testing.assert_close(changed[0][:, :1] * inside, changed[1][:, :1] * inside)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_of_one_image_change_alike_and_images_do_not(kind):
    x = images(1, covered=1.0)[0]
    twice = torch.cat([x[:1], x[:1], x[1:]])
    changed = of_one(twice, kind)
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert not torch.equal(changed[:200], changed[200:])


@pytest.mark.parametrize("grid", [(16, 16), (8, 24), (7, 17)])
def test_a_shift_goes_up_to_an_eighth_of_a_side_and_brings_nothing_in(grid):
    h, w = grid
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    changed = of_one(torch.stack([rows + 1.0, columns + 1.0, torch.ones(h, w)]), "shift")
    seen = set()
    for image in changed:
        inside = image[2] > 0
        down, right = (rows + 1 - image[0])[inside], (columns + 1 - image[1])[inside]
        assert down.unique().numel() == right.unique().numel() == 1  # all cells by the same
        by = int(down[0]), int(right[0])
        assert inside.sum() == (h - abs(by[0])) * (w - abs(by[1]))
        assert (image[:, ~inside] == 0).all()
        seen.add(by)
    sides = [range(-(side // 8), side // 8 + 1) for side in grid]
    assert seen == {(down, right) for down in sides[0] for right in sides[1]}


def test_cutout_uncovers_a_rectangle_of_half_the_sides_or_what_lies_inside_the_image():
    x = torch.rand(2, 16, 12) * 0.5 + 0.5
    most, middle_free = 0, 0
    for image in of_one(x, "cutout"):
        hole = image[1] == 0
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns
        assert rows <= 8
        assert columns <= 6
        assert torch.equal(image, x * ~hole)
        most, middle_free = max(most, int(hole.sum())), middle_free + int(not hole[8, 6])
    assert most == 48
    assert 0 < middle_free < 400


@pytest.mark.parametrize(("grid", "turns"), [((6, 6), 8), ((6, 4), 4)])
def test_a_flip_shows_every_turn_that_the_grid_allows_and_none_the_most_often(grid, turns):
    x = torch.rand(2, *grid)
    ways = [x, x.flip(1), x.flip(2), x.flip(1, 2)]
    ways += [way.transpose(1, 2) for way in ways] if turns == 8 else []
    changed = of_one(x, "flip", 2000)
    shares = [(changed == way).flatten(1).all(1).float().mean().item() for way in ways]
    assert math.fsum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(1 - CHANGED + CHANGED / turns, abs=0.04)
    assert shares[1:] == pytest.approx([CHANGED / turns] * (turns - 1), abs=0.03)


def test_brightness_is_one_straight_line_an_image_about_its_covered_mean():
    x = images(1, channels=2)[0]
    inside = x[2] > 0
    mean = ((x[:2] * x[2]).sum() / (2 * x[2].sum())).item()
    lifts, slopes = [], []
    for image in of_one(x, "brightness"):
        assert torch.equal(image[:, ~inside], x[:, ~inside])
        was, now = x[:2, inside].flatten(), image[:2, inside].flatten()
        slope = ((now - now.mean()) @ (was - was.mean()) / (was - was.mean()).square().sum()).item()
        lift = now.mean().item() - mean - slope * (was.mean().item() - mean)
        torch.testing.assert_close(now, mean + lift + slope * (was - mean), rtol=0, atol=1e-5)
        lifts.append(lift)
        slopes.append(slope)
    assert -0.25 < min(lifts) < -0.2
    assert 0.2 < max(lifts) < 0.25
    assert 0.5 < min(slopes) < 0.6
    assert 1.4 < max(slopes) < 1.5


@pytest.mark.parametrize("k", range(1, 9))
def test_shifts_of_up_to_k_cells_lose_no_frequency(k):
    angle, steps = torch.linspace(0, math.pi, 2001)[:, None], torch.arange(-k, k + 1)
    kept = 1 - CHANGED + CHANGED * torch.cos(angle * steps).mean(1)  # of each frequency
    assert kept.min() > 0.05


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), ALL])
def test_gradients_reach_what_is_still_seen_of_an_image_and_nothing_else(kinds):
    x = images(64)
    made = x[:, :1].clone().requires_grad_()
    changed = augmented(torch.cat([made, x[:, 1:]], 1), kinds)
    (changed[:, :1] * changed[:, 1:]).square().sum().backward()
    assert torch.isfinite(made.grad).all()
    assert (made.grad[x[:, 1:] == 0] == 0).all()
    per_image = made.grad.flatten(1).abs().sum(1)
    assert (per_image > 0).all()


def test_an_image_of_which_nothing_is_covered_stays_finite():
    x = torch.cat([torch.rand(8, 1, 16, 16), torch.zeros(8, 1, 16, 16)], 1)
    assert torch.isfinite(augmented(x, ALL)).all()
    assert (augmented(x, ALL)[:, 1] == 0).all()
