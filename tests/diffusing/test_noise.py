import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspect_ai.diffusing.noise import antithetic, simplex


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def correlation(distance):
    """Of simplex noise at a distance in periods: the corners' fall-offs, overlapping."""
    edge = np.linspace(-math.sqrt(0.5), math.sqrt(0.5), 301)
    x, y = np.meshgrid(edge, edge)

    def fall(x):
        return (0.5 - x**2 - y**2).clip(min=0) ** 4

    there = fall(x) * fall(x + distance) * (x * (x + distance) + y**2)
    return there.sum() / (fall(x) ** 2 * (x**2 + y**2)).sum()


def measured(noise, lag):
    """Mean product of cells that far apart, along rows and columns, (N, C, h, w) noise."""
    along = noise[..., lag:] * noise[..., :-lag]
    down = noise[..., lag:, :] * noise[..., :-lag, :]
    return 0.5 * (along.mean() + down.mean()).item()


@given(st.integers(1, 9), st.sampled_from([(3,), (2, 4), (1, 3, 5)]), st.integers(0, 99))
def test_antithetic_noise_comes_in_pairs_of_opposite_sign(count, shape, seed):
    e = antithetic(count, shape, seed)
    assert e.shape == (count, *shape)
    pairs = count // 2 * 2
    assert torch.equal(e[0:pairs:2], -e[1:pairs:2])
    assert torch.equal(e, antithetic(count, shape, seed))


def test_antithetic_noise_is_normal_and_each_seed_has_its_own():
    e = antithetic(20000, (4,), 1)
    assert e.mean(0).abs().max() < 1e-6  # in pairs, so exactly
    assert e.square().mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / 40000))
    assert e.pow(4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / 40000))
    assert not torch.equal(e, antithetic(20000, (4,), 2))


def test_antithetic_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    antithetic(4, (2,))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "kind", [{"octaves": 1, "period": 3.0}, {}, {"octaves": 3, "persistence": 0.5}]
)
def test_simplex_noise_has_mean_0_and_variance_1_in_every_cell(kind):
    n = simplex(8000, (1, 5, 4), seeded(), **kind)[:, 0].double()
    for moment, wanted in ((n, 0.0), (n.square(), 1.0)):
        error = moment.std(0) / math.sqrt(8000)
        assert ((moment.mean(0) - wanted).abs() < 4.5 * error).all()


@pytest.mark.parametrize("period", [4.0, 9.0])
def test_a_single_octave_has_the_period_asked_for(period):
    n = simplex(400, (1, 24, 24), seeded(1), octaves=1, period=period)
    for lag in (1, 2, 3, 5, 7):
        assert measured(n, lag) == pytest.approx(correlation(lag / period), abs=0.03)


def test_power_is_highest_at_one_wave_in_1_2_periods():
    n = simplex(100, (1, 96, 96), seeded(2), octaves=1, period=12.0)[:, 0]
    window = torch.hann_window(96)
    power = torch.fft.fft2(n * window * window[:, None]).abs().square().mean(0)
    f = torch.fft.fftfreq(96)
    radius = (96 * (f[:, None].square() + f.square()).sqrt()).round()
    rings = torch.stack([power[radius == k].mean() for k in range(1, 30)])
    assert 12.0 * (1 + rings.argmax().item()) / 96 == pytest.approx(1 / 1.23, abs=0.13)
    assert rings[20:].max() < 1e-3 * rings.max()  # waves of under 0.6 periods: next to none


@pytest.mark.parametrize(("octaves", "persistence"), [(2, 1.0), (3, 0.5), (4, 0.8)])
def test_each_octave_halves_the_period_and_persistence_weighs_it(octaves, persistence):
    n = simplex(400, (1, 24, 24), seeded(3), octaves, persistence, 12.0)
    power = [persistence ** (2 * k) for k in range(octaves)]
    for lag in (1, 2, 3, 6):
        each = [correlation(lag * 2**k / 12) for k in range(octaves)]
        wanted = sum(p * c for p, c in zip(power, each, strict=True)) / sum(power)
        assert measured(n, lag) == pytest.approx(wanted, abs=0.03)


def test_the_first_period_is_a_quarter_of_the_longer_side_unless_told():
    told = simplex(2, (1, 8, 20), seeded(), period=5.0)
    assert torch.equal(simplex(2, (1, 8, 20), seeded()), told)


def test_neighbours_go_together_and_far_cells_do_not():
    n = simplex(400, (1, 32, 32), seeded(4))
    assert measured(n, 1) > 0.35
    assert abs(measured(n, 20)) < 0.03


def test_no_direction_and_no_place_is_special():
    n = simplex(4000, (1, 6, 6), seeded(5), octaves=1, period=4.0)[:, 0]
    along, down = n[:, 0, 0] * n[:, 0, 2], n[:, 3, 5] * n[:, 5, 5]
    error = math.sqrt((along.var() + down.var()).item() / 4000)
    assert abs((along.mean() - down.mean()).item()) < 4.5 * error
    at = correlation(2 * math.sqrt(2) / 4)
    diagonal = n[:, 1, 1] * n[:, 3, 3]
    assert abs(diagonal.mean().item() - at) < 4.5 * diagonal.std().item() / math.sqrt(4000)


def test_images_and_channels_are_independent():
    n = simplex(4000, (2, 3, 3), seeded(6), octaves=2)
    for there in (n[:, 0] * n[:, 1], n[1:, 0] * n[:-1, 0]):
        assert (there.mean(0).abs() < 4.5 * there.std(0) / math.sqrt(3999)).all()
    assert n.reshape(8000, 9).unique(dim=0).shape[0] == 8000


def test_the_same_seed_gives_the_same_noise_also_by_the_global_generator():
    own = simplex(3, (2, 8, 8), seeded(7))
    torch.manual_seed(7)
    assert torch.equal(own, simplex(3, (2, 8, 8)))
    assert not torch.equal(own, simplex(3, (2, 8, 8), seeded(8)))


def test_it_is_continuous_across_triangles():
    # each corner's share changes by less than 0.08 a period before it is standardised
    steepest = 3 * 0.08 / math.sqrt(math.pi * math.sqrt(3) / 180 * 2**-10)
    n = simplex(9, (1, 32, 32), seeded(9), octaves=1, period=16.0)
    fine = simplex(9, (1, 128, 128), seeded(9), octaves=1, period=64.0)
    assert fine.diff(dim=2).abs().max() < steepest / 64
    torch.testing.assert_close(fine[..., ::4, ::4], n, rtol=0, atol=1e-3)  # the same, sampled finer
