import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from inspect_ai.adversarial.growth import Stage, as_of, doubled, doubled_conv, shrunk, stage

MODERATE = settings(max_examples=100, deadline=None, derandomize=True)


def images(grid=(12, 8), count=3, channels=2):
    draw = torch.Generator().manual_seed(1)
    covered = (torch.rand(count, 1, *grid, generator=draw) > 0.4).float()
    share = torch.rand(count, 1, *grid, generator=draw)
    return torch.cat([torch.rand(count, channels, *grid, generator=draw), covered * share], 1)


def test_the_course_goes_through_all_levels_in_equal_shares_and_ends_with_a_third_of_the_whole():
    found = {course: stage(course, 3) for course in (0.0, 1 / 6, 0.2, 0.25, 0.3, 0.5, 2 / 3, 0.99)}
    assert found[0.0] == Stage(0, 1)
    assert found[1 / 6] == Stage(1, 0)
    assert found[0.2] == (1, pytest.approx(0.4))
    assert found[0.25] == (1, 1)
    assert found[0.3] == Stage(1, 1)
    assert found[0.5] == Stage(3, 0)
    assert found[2 / 3] == found[0.99] == Stage(3, 1)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.integers(1, 6))
@MODERATE
def test_a_stage_never_goes_back_and_keeps_its_limits(one, other, depth):
    first, second = (stage(course, depth) for course in sorted((one, other)))
    assert first <= second
    assert 0 <= first.level <= depth
    assert 0 <= first.fade <= 1
    assert first.fade == 1 or first.level > 0


def test_halving_averages_over_what_is_covered_by_hand():
    x = torch.tensor([[0.2, 0.6, 9.0, 8.0], [0.4, 7.0, 5.0, 3.0]])
    w = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]])
    found = shrunk(torch.stack([x, w])[None], 1)[0]
    assert found[1].tolist() == [[0.5, 0.0]]
    assert found[0, 0].tolist() == [pytest.approx((0.2 + 0.3 + 0.2) / 2), 0.0]


def test_halving_twice_at_once_is_halving_twice():
    batch = images()
    assert torch.allclose(shrunk(batch, 2), shrunk(shrunk(batch, 1), 1), atol=1e-6)
    assert torch.equal(shrunk(batch, 0), batch)


def test_what_is_not_covered_has_no_say_in_a_halved_image():
    batch = images()
    junk = torch.cat([torch.where(batch[:, -1:] > 0, batch[:, :-1], 0.7), batch[:, -1:]], 1)
    assert torch.equal(shrunk(batch, 1), shrunk(junk, 1))


def test_a_halved_image_has_a_finite_gradient_where_nothing_is_covered():
    batch = torch.cat([images()[:, :-1], torch.zeros(3, 1, 12, 8)], 1).requires_grad_()
    shrunk(batch, 1).sum().backward()
    assert torch.isfinite(batch.grad).all()


def test_real_images_fade_in_between_two_levels():
    batch = images()
    coarse, fine = as_of(Stage(1, 0.0), batch, 2), as_of(Stage(1, 1.0), batch, 2)
    assert torch.equal(fine, shrunk(batch, 1))
    assert torch.equal(coarse[:, :-1], doubled(shrunk(shrunk(batch, 1), 1)[:, :-1]))
    assert torch.allclose(as_of(Stage(1, 0.3), batch, 2), 0.7 * coarse + 0.3 * fine, atol=1e-6)
    assert torch.equal(shrunk(fine, 1)[:, -1:], shrunk(coarse, 1)[:, -1:])


@pytest.mark.parametrize("bias", [None, torch.randn(4)])
@pytest.mark.parametrize("grid", [(1, 1), (3, 2), (8, 5)])
def test_the_convolution_of_a_doubled_map_needs_no_doubled_map(grid, bias):
    x, weight = torch.randn(2, 3, *grid), torch.randn(4, 3, 3, 3)
    wanted = F.conv2d(doubled(x), weight, bias, padding=1)
    assert torch.allclose(doubled_conv(x, weight, bias), wanted, atol=1e-5)
