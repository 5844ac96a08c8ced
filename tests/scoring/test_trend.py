import pytest
import torch

from inspect_ai.scoring.trend import Trend


def fitted(t, y):
    trend = Trend()
    trend.fit(t, y)
    return trend


def test_a_bent_trend_and_its_spread_are_found():
    draw = torch.Generator().manual_seed(0)
    t = torch.rand(4000, generator=draw)
    mean, spread = (t - 0.5).square() * 8, 0.2 + t
    y = mean + spread * torch.randn(4000, generator=draw)
    z = fitted(t, y)(t, y)
    for low in (0.0, 0.25, 0.5, 0.75):
        part = z[(t >= low) & (t < low + 0.25)]
        assert part.mean().abs() < 0.15
        assert part.std().item() == pytest.approx(1, abs=0.15)


def test_beyond_the_good_range_the_end_holds():
    t = torch.linspace(0.1, 0.3, 200)
    trend = fitted(t, 10 * t + 0.01 * torch.sin(200 * t))
    near, far = (
        trend(torch.tensor([0.3]), torch.tensor([5.0])),
        trend(torch.tensor([0.9]), torch.tensor([5.0])),
    )
    assert torch.equal(near, far)


def test_ties_and_constants_stay_finite():
    z = fitted(torch.full((50,), 0.2), torch.full((50,), 3.0))(
        torch.tensor([0.2, 0.4]), torch.tensor([3.0, 4.0])
    )
    assert torch.isfinite(z).all()
    assert z[1] > z[0]


def test_at_a_knot_one_hat_counts_alone_and_they_sum_to_1():
    trend = fitted(torch.rand(500), torch.rand(500))
    hats = trend._hats(torch.cat([trend.knots, torch.rand(20)]))
    assert torch.allclose(hats.sum(1), torch.ones(len(hats)), atol=1e-5)
    assert torch.allclose(hats[: len(trend.knots)], torch.eye(len(trend.knots)), atol=1e-5)
