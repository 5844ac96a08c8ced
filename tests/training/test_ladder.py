import pytest
import torch

from inspect_ai.training.draws import Draws
from inspect_ai.training.gaussian import Normal
from inspect_ai.training.ladder import Ladder, Sizes, cost


def net(depth=3, **fields):
    torch.manual_seed(0)
    widths = tuple(4 * 2**i for i in range(depth))
    return Ladder(Sizes(1, (16, 16), widths, latent=3, **fields))


def images(count=4):
    return torch.rand(count, 2, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_ladders_posterior_is_the_precision_weighted_mean_of_image_and_level_above():
    made = net(rungs=2, maps=2)
    estimates = made.bottom_up(images(), None)
    _, levels = made.top_down(estimates, None, None)
    for estimate, (q, p, z) in zip(estimates[1:], levels[1:], strict=True):
        a, b = (-estimate.log_var).exp(), (-p.log_var).exp()
        torch.testing.assert_close((-q.log_var).exp(), a + b)
        torch.testing.assert_close(q.mean, (a * estimate.mean + b * p.mean) / (a + b))
        assert torch.equal(z, q.mean)
    assert [tuple(level.z.shape[1:]) for level in levels] == [(3,), (2, 4, 4), (2, 8, 8)]


def test_a_narrow_path_costs_at_most_half_a_nat_a_number():
    made = net(rungs=2, maps=2, narrow=True)
    with torch.no_grad():
        for rung in made.rungs:
            rung.look.weight.mul_(1e3)
    estimates = made.bottom_up(images(), None)
    _, levels = made.top_down(estimates, None, None)
    for level in levels[1:]:
        each = cost([level]) / level.z[0].numel()
        assert (each <= 0.5).all()
        assert (each > 0.4).all()
        assert (level.q.log_var == 0).all()


@pytest.mark.parametrize("fields", [{"rungs": 1}, {"rungs": 2, "narrow": True}])
def test_levels_below_the_code_reach_the_image(fields):
    made = net(**fields)
    estimates = made.bottom_up(images(), None)
    moved = [estimates[0], *(Normal(e.mean + 1, e.log_var) for e in estimates[1:])]
    before, after = (made.top_down(e, None, None)[0] for e in (estimates, moved))
    assert (before - after).abs().max() > 1e-4


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_condition_reaches_the_code_and_the_image(depth):
    made = net(classes=3, depth=depth)
    zeros, ones = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    a, b = (made.bottom_up(images(), c) for c in (zeros, ones))
    assert (a[0].mean - b[0].mean).abs().min() > 0
    drawn = [made.top_down(a, None, c)[0] for c in (zeros, ones)]
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3


def test_draws_of_opposite_sign_cancel_and_share_their_shape():
    draws = Draws([(3,), (2, 4, 4)], 4)
    for level, shape in zip(draws(5), [(20, 3), (20, 2, 4, 4)], strict=True):
        assert level.shape == shape
        assert level.reshape(5, 4, -1).sum(1).abs().max() < 1e-5
        assert torch.equal(level[:4], level[4:8])
    alone = Draws([(3,)], 1)(1)[0]
    assert torch.equal(alone, draws(1)[0][:1])
