import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_denoisers import Line, gaussian, mixture

from inspect_ai.diffusing.samplers import ddim, ddpm, draw, inverted, strided
from inspect_ai.diffusing.schedules import Schedule
from inspect_ai.errors import BadSettings

KINDS = ["linear", "cosine", "edm"]


def one(x):
    return torch.full((1, 1, 1, 1), x, dtype=torch.float64)


def drawn_variance(schedule, denoise, times, eta):
    """Of samples from N(0, 1) by a denoiser that is linear: exact, step by step."""
    variance, x, z = 1.0, torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    for t, s in zip(times, (*times[1:], 0), strict=True):
        kept, fresh = ddim(schedule, x, denoise(x, t), (t, s), eta, z).tolist()
        variance = kept**2 * variance + fresh**2
    return variance


@given(st.integers(1, 300), st.data())
def test_strided_times_fall_evenly_from_the_last_to_the_first(steps, data):
    last = data.draw(st.integers(1, steps))
    calls = data.draw(st.integers(1, last))
    times = strided(steps, calls, last)
    assert len(times) == calls
    assert times[0] == last
    assert times[-1] == 1 or calls == 1
    strides = [t - s for t, s in pairwise(times)]
    assert all(stride >= 1 for stride in strides)
    assert max(strides, default=1) - min(strides, default=1) <= 2


def test_strided_times_start_at_the_end_unless_told():
    assert strided(10, 10) == tuple(range(10, 0, -1))
    assert strided(1000, 3) == (1000, 500, 1)
    assert strided(1000, 1) == (1000,)


@pytest.mark.parametrize(
    ("calls", "last", "advice"),
    [(11, None, "1 to 10"), (0, None, "1 to 10"), (6, 5, "1 to 5"), (2, 11, "1 to 10")],
)
def test_more_calls_than_times_are_refused_and_the_advice_works(calls, last, advice):
    with pytest.raises(BadSettings, match=f"{calls} network call.*{advice}"):
        strided(10, calls, last)
    most = int(advice.split()[-1])
    assert len(strided(10, most, most)) == most


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("t", "s"), [(20, 19), (20, 3), (8, 2), (5, 0)])
def test_ddim_with_eta_1_is_ddpm(kind, t, s):
    schedule = Schedule(kind, 20).double()
    x_t, x0, z = torch.randn(3, 2, 1, 3, 3, dtype=torch.float64)
    wanted = ddpm(schedule, x_t, x0, (t, s), z)
    torch.testing.assert_close(ddim(schedule, x_t, x0, (t, s), 1.0, z), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_that_knows_the_image_leads_to_the_right_law(kind, eta):
    schedule, x0 = Schedule(kind, 20).double(), one(0.7)
    for t, s in ((20, 12), (12, 11), (11, 1), (5, 0)):
        x_t = schedule.noised(x0, one(1.0), t)
        mean = schedule.a[s] * x0
        kept = ddim(schedule, x_t, x0, (t, s), eta, one(0.0)) - mean
        fresh = ddim(schedule, x_t, x0, (t, s), eta, one(1.0)) - mean - kept
        torch.testing.assert_close(kept**2 + fresh**2, schedule.s[s].square() * one(1.0))
        assert fresh.item() == 0 if eta == 0 or s == 0 else fresh.item() > 0


def test_the_last_step_is_what_is_expected():
    schedule = Schedule("cosine", 20)
    x_t, x0, z = torch.randn(3, 2, 1, 3, 3)
    for step in (ddpm(schedule, x_t, x0, (4, 0), z), ddim(schedule, x_t, x0, (4, 0), 0.5, z)):
        torch.testing.assert_close(step, x0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_of_a_gaussian_have_its_variance_but_for_one_over_steps(kind, eta):
    off = []
    for steps in (50, 200, 800):
        schedule = Schedule(kind, steps).double()
        denoise = Line(0.6).denoiser(schedule)
        made = drawn_variance(schedule, denoise, strided(steps, steps), eta)
        off.append(abs(made / 0.6 - 1))
    assert off[2] < 0.015
    assert all(b < 0.35 * a for a, b in pairwise(off))  # nearly as 1 / T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [gaussian(), mixture()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_have_the_datas_mean_and_covariance(kind, data, eta):
    count, steps = 2500, 150
    schedule = Schedule(kind, steps).double()
    x_T = torch.randn(count, 1, 1, 2, dtype=torch.float64)
    made = draw(
        data.denoiser(schedule), schedule, x_T, strided(steps, steps), eta, torch.randn_like
    )
    x = made.flatten(1)
    spread = data.covariance.diagonal()
    error = (spread / count).sqrt()
    assert ((x.mean(0) - data.mean).abs() < 4.5 * error + 0.02).all()
    products = (x - data.mean)[:, :, None] * (x - data.mean)[:, None]
    error = products.std(0) / math.sqrt(count)
    assert ((products.mean(0) - data.covariance).abs() < 4.5 * error + 0.02).all()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_of_a_mixture_fall_to_its_heaps_in_the_right_shares(eta):
    count, data = 3000, mixture()
    schedule = Schedule("cosine", 150).double()
    x_T = torch.randn(count, 1, 1, 2, dtype=torch.float64)
    made = draw(data.denoiser(schedule), schedule, x_T, strided(150, 150), eta, torch.randn_like)
    nearer = (made.flatten(1)[:, None] - data.means).square().sum(-1).argmin(1)
    truth = (data.drawn(40000).flatten(1)[:, None] - data.means).square().sum(-1).argmin(1)
    share = truth.double().mean().item()
    error = math.sqrt(share * (1 - share) * (1 / count + 1 / 40000))
    assert abs(nearer.double().mean().item() - share) < 4.5 * error + 0.005


def test_drawing_calls_the_network_once_at_each_time_and_asks_for_noise_where_eta_is():
    schedule, seen = Schedule("cosine", 30), []

    def denoise(x_t, t):
        seen.append(t)
        return 0.5 * x_t

    x_T, fresh = torch.randn(2, 1, 3, 3), []

    def noise(x):
        fresh.append(x.shape)
        return torch.zeros_like(x)

    draw(denoise, schedule, x_T, (20, 9, 2), 0.0, noise)
    assert (seen, fresh) == ([20, 9, 2], [])
    draw(denoise, schedule, x_T, (20, 9, 2), 0.5, noise)
    assert fresh == [x_T.shape] * 3


def test_drawing_by_hand_in_two_steps():
    schedule = Schedule("linear", 10)
    x = torch.randn(2, 1, 3, 3)
    a, s = schedule.a, schedule.s
    e = (x - a[8] * 0.3 * x) / s[8]
    x_3 = a[3] * 0.3 * x + s[3] * e
    torch.testing.assert_close(draw(lambda x_t, _: 0.3 * x_t, schedule, x, (8, 3)), 0.3 * x_3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [gaussian(), mixture()], ids=["gaussian", "mixture"])
def test_inverting_and_drawing_again_returns_the_image(kind, data):
    schedule = Schedule(kind, 480).double()
    denoise, x0, off = data.denoiser(schedule), data.drawn(200), []
    for calls in (15, 60, 240):
        times = strided(480, calls)
        x_T = inverted(denoise, schedule, x0, times[::-1])
        off.append((draw(denoise, schedule, x_T, times) - x0).square().mean().sqrt().item())
    assert all(b < 0.4 * a for a, b in pairwise(off))
    assert off[2] < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_that_good_images_are_drawn_from_is_normal(kind):
    data, schedule = gaussian(), Schedule(kind, 200).double()
    x0 = torch.cat([one(3.0).expand(1, 1, 1, 2), data.drawn(2500)])  # one odd, the others good
    x_T = inverted(data.denoiser(schedule), schedule, x0, range(1, 201)).flatten(1)
    odd, good = x_T[0], x_T[1:]
    assert (good.mean(0).abs() < 4.5 / math.sqrt(2500) + 0.02).all()
    error = 4.5 * math.sqrt(2 / 2500) + 0.03
    torch.testing.assert_close(good.T.cov(), torch.eye(2).double(), rtol=0, atol=error)
    assert odd.square().sum() > good.square().sum(1).max()


def test_part_of_the_way_and_back_keeps_good_images_closer_than_odd_ones():
    data, schedule = mixture(), Schedule("cosine", 100).double()
    good, odd = data.drawn(500), data.drawn(500) + torch.tensor([0.0, 2.0])
    off = []
    for x0 in (good, odd):
        x_t = schedule.noised(x0, torch.randn_like(x0), 50)
        redrawn = draw(data.denoiser(schedule), schedule, x_t, strided(100, 10, 50))
        off.append((redrawn - x0).square().mean().item())
    assert off[1] > 3 * off[0]
