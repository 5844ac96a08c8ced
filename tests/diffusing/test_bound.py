import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from made_denoisers import Line, Mixture, gaussian, redrawn
from torch.distributions import Normal, kl_divergence

from inspect_ai.diffusing.bound import bound
from inspect_ai.diffusing.schedules import Schedule

KINDS = ["linear", "cosine", "edm"]


def signs(x0):
    """Each image twice, with noise of +1 and of -1: exact means of what is square in noise."""
    return x0.repeat(2, 1, 1, 1), torch.cat([torch.ones_like(x0), -torch.ones_like(x0)])


def of(data, schedule, x0, eps, times, misfit=None):
    seen = redrawn(schedule, data.denoiser(schedule), x0, eps, times)
    return bound(schedule, x0, seen, times, misfit)


def at_one_deviation(variance):
    """x0 and e whose squares are exactly as large as they are on average, e of both signs."""
    return signs(torch.full((1, 1, 1, 1), math.sqrt(variance), dtype=torch.float64))


def all_times(schedule):
    return tuple(range(schedule.steps, 0, -1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [(20, 13, 6, 1), (20, 1), (11, 4), (7,)])
def test_the_three_parts_by_hand_for_one_number(kind, times):
    c, x = 0.6, 0.9
    schedule = Schedule(kind, 20).double()
    x0, eps = signs(torch.full((1, 1, 1, 1), x, dtype=torch.float64))
    found = of(Line(c), schedule, x0, eps, times)
    a, s = schedule.a.tolist(), schedule.s.tolist()
    snr = [(a[t] / s[t]) ** 2 for t in times]

    def apart(t):  # E |x_0 - k x_t|^2 over the noise
        k = a[t] * c / (a[t] ** 2 * c + s[t] ** 2)  # E[x_0 | x_t] = k x_t
        return (1 - k * a[t]) ** 2 * x**2 + (k * s[t]) ** 2

    first, last = times[0], times[-1]
    prior = 0.5 * (a[first] ** 2 * x**2 + s[first] ** 2 - 1 - math.log(s[first] ** 2))
    denoising = sum(0.5 * (snr[k + 1] - snr[k]) * apart(t) for k, t in enumerate(times[:-1]))
    reconstruction = 0.5 * (snr[-1] * apart(last) + math.log(2 * math.pi / snr[-1]))
    assert found.prior.mean().item() == pytest.approx(prior, rel=1e-5, abs=1e-9)
    assert found.denoising.mean().item() == pytest.approx(denoising, rel=1e-5, abs=1e-9)
    assert found.reconstruction.mean().item() == pytest.approx(reconstruction, rel=1e-5)
    torch.testing.assert_close(found.total, found.prior + found.denoising + found.reconstruction)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("misfit", [None, [0.9, 0.2, 0.01]])
def test_the_denoising_part_is_the_divergence_of_the_posterior_from_the_reverse_step(kind, misfit):
    schedule = Schedule(kind, 20).double()
    data, times = gaussian(), (16, 9, 3)
    m = None if misfit is None else torch.tensor(misfit).double()
    x0 = data.drawn(7)
    eps = torch.randn_like(x0)
    seen = redrawn(schedule, data.denoiser(schedule), x0, eps, times)
    wanted = torch.zeros_like(x0)
    for k, (t, s) in enumerate(((16, 9), (9, 3))):
        x_t = schedule.noised(x0, eps, t)
        (true, variance), (made, _) = (schedule.posterior(x, x_t, s, t) for x in (x0, seen[:, k]))
        gain = schedule.snr(s) - schedule.snr(t)
        reverse = variance if m is None else variance * (1 + gain * m[k])
        wanted += kl_divergence(Normal(true, variance.sqrt()), Normal(made, reverse.sqrt()))
    found = bound(schedule, x0, seen, times, m)
    torch.testing.assert_close(found.denoising, wanted, rtol=1e-4, atol=1e-6)
    last = 1 / schedule.snr(3) if m is None else m[2]
    likelihood = Normal(seen[:, 2], last.sqrt()).log_prob(x0)
    torch.testing.assert_close(found.reconstruction, -likelihood, rtol=1e-5, atol=1e-6)


def misfit_of(data, schedule, times):
    """Mean squared error of the best denoiser of one number: the variance of x_0 given x_t."""
    return 1 / (1 / data.variance + schedule.snr(torch.tensor(times)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [(200, 120, 60, 20, 1), (200, 3), (200,), (150, 60)])
def test_told_its_errors_it_is_a_gaussians_entropy_in_any_number_of_steps(kind, times):
    data, schedule = Line(0.6), Schedule(kind, 200).double()
    a2 = schedule.a[times[0]].item() ** 2
    x0, eps = at_one_deviation(0.6)
    found = of(data, schedule, x0, eps, times, misfit_of(data, schedule, times))
    seen, wide = Normal(0, math.sqrt(1 - a2 * 0.4)), Normal(0, 1)  # x_t1, and what stands for it
    wanted = data.nll() + kl_divergence(seen, wide).item()
    assert found.total.mean().item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_told_wrong_errors_it_is_looser(factor):
    data, schedule, times = Line(0.6), Schedule("cosine", 100).double(), (100, 70, 30, 5)
    x0, eps = at_one_deviation(0.6)
    m = misfit_of(data, schedule, times)
    best = of(data, schedule, x0, eps, times, m).total.mean()
    for k in range(4):
        wrong = m.clone()
        wrong[k] *= factor
        assert of(data, schedule, x0, eps, times, wrong).total.mean() >= best + (k != 0) * 1e-4


def down_to(schedule, level):
    """All times but the last few, whose noise is below a level: what is known there is the rest."""
    return tuple(t for t in all_times(schedule) if schedule.s[t] > level)


def falls_as_one_over_steps(over, end):
    """Of steps that grow fourfold each time."""
    assert all(0 < b < 0.35 * a for a, b in pairwise(over))  # never below the truth
    assert over[-1] < end


@pytest.mark.parametrize("kind", KINDS)
def test_for_a_gaussian_it_comes_down_to_the_entropy(kind):
    c, over = 0.6, []
    for steps in (50, 200, 800):
        schedule = Schedule(kind, steps).double()
        x0, eps = at_one_deviation(c)
        found = of(Line(c), schedule, x0, eps, down_to(schedule, 0.03))
        over.append(found.total.mean().item() - Line(c).nll())
    falls_as_one_over_steps(over, 0.14)


@pytest.mark.parametrize("kind", KINDS)
def test_for_a_mixture_it_comes_down_to_the_entropy(kind):
    data = Mixture([0.35, 0.65], [[-0.8], [0.7]], [[[0.05]], [[0.1]]])
    z, share = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(30))
    x0 = (data.means + data.covariances[:, 0].sqrt() * z).reshape(-1, 1)
    weight = (data.shares[:, None] * share).reshape(-1, 1) * share / share.sum() ** 2
    nodes = [v.reshape(-1, 1, 1, 1) for v in torch.broadcast_tensors(x0, z)]
    true = (weight.flatten() * data.nll(nodes[0])).sum().item()
    over = []
    for steps in (25, 100, 400):
        schedule = Schedule(kind, steps).double()
        found = of(data, schedule, *nodes, down_to(schedule, 0.05)).total
        over.append((weight.flatten() * found.flatten()).sum().item() - true)
    falls_as_one_over_steps(over, 0.25)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_all_times_of_linear_and_cosine_noise_stay_above_by_half_of_eulers_constant(kind):
    """Noise grows by 1 + 1 / k in step k, in any schedule: 1/2 sum(1 / k - log(1 + 1 / k))."""
    data, schedule = Line(0.6), Schedule(kind, 3000).double()
    x0, eps = at_one_deviation(0.6)
    over = of(data, schedule, x0, eps, all_times(schedule)).total.mean().item() - data.nll()
    assert 0 < over - 0.5 * np.euler_gamma < 0.1


def test_it_is_above_the_likelihood_of_each_image_too():
    data, schedule = gaussian(), Schedule("cosine", 300).double()
    x0 = data.drawn(6)
    count = 400
    eps = torch.randn(6 * count, 1, 1, 2, dtype=torch.float64)
    x = x0.repeat_interleave(count, 0)
    each = of(data, schedule, x, eps, all_times(schedule)).total.sum((1, 2, 3)).reshape(6, count)
    error = each.std(1) / math.sqrt(count)
    found, true = each.mean(1), data.nll(x0)
    assert (found > true - 4.5 * error).all()
    assert (found < true + 0.1 + 4.5 * error).all()


def test_fewer_times_are_a_looser_bound():
    data, schedule = Line(0.6), Schedule("cosine", 100).double()
    x0, eps = at_one_deviation(0.6)
    found = [
        of(data, schedule, x0, eps, times).total.mean().item()
        for times in (all_times(schedule), tuple(range(100, 0, -9)), (100, 50, 1), (100, 1))
    ]
    assert sorted(found) == found
    assert found[0] > data.nll()


def test_a_worse_denoiser_is_a_worse_bound_in_all_parts_but_the_prior():
    data, schedule = gaussian(), Schedule("linear", 50).double()
    x0 = data.drawn(400)
    eps = torch.randn_like(x0)
    seen = redrawn(schedule, data.denoiser(schedule), x0, eps, all_times(schedule))
    good = bound(schedule, x0, seen, all_times(schedule))
    bad = bound(schedule, x0, seen + 0.1, all_times(schedule))
    assert torch.equal(good.prior, bad.prior)
    assert bad.denoising.mean() > good.denoising.mean()
    assert bad.reconstruction.mean() > good.reconstruction.mean()
