import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspect_ai.diffusing.schedules import Kind, Schedule, Target

KINDS, TARGETS = get_args(Kind), get_args(Target)


def by_hand(kind, steps):
    """b_t for t = 1 .. T, each from its paper."""
    if kind == "linear":
        return np.minimum(np.linspace(1e-4, 0.02, steps) * 1000 / steps, 0.999)
    if kind == "cosine":
        f = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
        return np.array([min(1 - f[t + 1] / f[t], 0.999) for t in range(steps)])
    ramp = np.arange(steps) / (steps - 1)
    sigma = (0.002 ** (1 / 7) + ramp * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    return 1 - (1 + np.append(0, sigma[:-1]) ** 2) / (1 + sigma**2)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [50, 1000])
def test_noise_grows_from_none_to_nearly_nothing_else(kind, steps):
    made = Schedule(kind, steps)
    assert made.a.shape == made.s.shape == (steps + 1,)
    assert (made.a[0], made.s[0]) == (1, 0)
    assert (made.a.diff() <= 0).all()
    assert (made.s.diff() > 0).all() or kind != "edm"
    assert made.snr(torch.arange(1, steps + 1)).diff().max() < 0
    assert made.a[-1] < 0.0126  # of EDM's 1 / sqrt(1 + 80^2)
    torch.testing.assert_close(made.a.square() + made.s.square(), torch.ones(steps + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [25, 400])
def test_each_schedule_is_its_papers(kind, steps):
    made = Schedule(kind, steps)
    kept = np.cumprod(1 - by_hand(kind, steps))
    np.testing.assert_allclose(made.a[1:].square(), kept, rtol=1e-5)
    np.testing.assert_allclose(made.s[1:].square(), 1 - kept, rtol=1e-5)


def test_the_cosine_is_a_cosine_but_for_its_last_step():
    made = Schedule("cosine", 200)
    t = torch.arange(200)
    wanted = torch.cos(math.pi / 2 * (t / 200 + 0.008) / 1.008) / math.cos(
        math.pi / 2 * 0.008 / 1.008
    )
    torch.testing.assert_close(made.a[:-1], wanted, rtol=1e-4, atol=1e-6)
    assert (made.a[-1] / made.a[-2]).square().item() == pytest.approx(0.001, rel=1e-4)


def test_linear_noise_at_a_share_of_the_way_hardly_depends_on_the_steps():
    long, short = Schedule("linear", 1000), Schedule("linear", 100)
    torch.testing.assert_close(short.a, long.a[::10], rtol=0, atol=0.02)
    assert 1 - long.a[1].square().item() == pytest.approx(1e-4, rel=1e-3)
    assert 1 - (long.a[-1] / long.a[-2]).square().item() == pytest.approx(0.02, rel=1e-4)


def test_edms_levels_are_even_in_their_seventh_root():
    made = Schedule("edm", 30)
    sigma = (made.s / made.a)[1:].double()
    assert sigma[0].item() == pytest.approx(0.002, rel=1e-5)
    assert sigma[-1].item() == pytest.approx(80, rel=1e-5)
    apart = sigma.pow(1 / 7).diff()
    torch.testing.assert_close(apart, apart.mean().expand(29), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_many_small_steps_are_one_large_one(kind):
    count, steps = 20000, 40
    made = Schedule(kind, steps)
    b = torch.tensor(by_hand(kind, steps))
    x0, chained = 0.7, torch.full((count,), 0.7, dtype=torch.float64)
    for t in range(1, steps + 1):
        z = torch.randn(count, dtype=torch.float64)
        chained = (1 - b[t - 1]).sqrt() * chained + b[t - 1].sqrt() * z
        a, s = made.a[t].item(), made.s[t].item()
        assert chained.mean().item() == pytest.approx(a * x0, abs=5 * s / math.sqrt(count))
        assert chained.var().item() == pytest.approx(s**2, rel=5 * math.sqrt(2 / count))


def test_noised_images_are_drawn_from_the_closed_form():
    made = Schedule("cosine", 10)
    x0, eps = torch.rand(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    t = torch.tensor([0, 4, 10])
    x_t = made.noised(x0, eps, t)
    assert torch.equal(x_t[0], x0[0])
    for k in range(3):
        torch.testing.assert_close(x_t[k], made.a[t[k]] * x0[k] + made.s[t[k]] * eps[k])
        assert torch.equal(x_t[k : k + 1], made.noised(x0[k : k + 1], eps[k : k + 1], int(t[k])))


@given(st.sampled_from(KINDS), st.integers(1, 60), st.data())
def test_the_posterior_is_bayes_rule(kind, t, data):
    s = data.draw(st.integers(1, t)) - 1
    made = Schedule(kind, 60).double()
    x0, x_t = numbers(-1.0, 0.2, 0.9), numbers(0.4, -2.0, 1.5)
    mean, variance = made.posterior(x0, x_t, s, t)
    (a_s, s_s), r = (made.a[s], made.s[s]), made.a[t] / made.a[s]
    if s == 0:
        torch.testing.assert_close(mean, x0, rtol=0, atol=1e-9)
        assert variance == 0
        return
    step = made.s[t].square() - (r * s_s).square()  # variance of q(x_t | x_s)
    precision = 1 / s_s.square() + r.square() / step
    wanted = (a_s * x0 / s_s.square() + r * x_t / step) / precision
    torch.testing.assert_close(mean, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance, 1 / precision, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        made.posterior(x0, x_t, torch.full((3,), s), torch.full((3,), t))[0], mean
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("s", "t"), [(9, 10), (10, 30), (25, 40)])
def test_the_posterior_is_what_chains_come_from(kind, s, t):
    count = 40000
    made, x0 = Schedule(kind, 40), torch.full((count, 1, 1, 1), 0.7)
    kept = np.append(1, np.cumprod(1 - by_hand(kind, 40)))
    r2 = kept[t] / kept[s]
    x_s = math.sqrt(kept[s]) * x0 + math.sqrt(1 - kept[s]) * torch.randn_like(x0)
    x_t = math.sqrt(r2) * x_s + math.sqrt(1 - r2) * torch.randn_like(x0)
    mean, variance = made.posterior(x0, x_t, s, t)
    left = (x_s - mean) / variance.sqrt()
    assert abs(left.mean().item()) < 5 / math.sqrt(count)
    assert abs((left * (x_t - x_t.mean()) / x_t.std()).mean().item()) < 5 / math.sqrt(count)
    assert left.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / count))


@given(
    st.sampled_from(KINDS),
    st.sampled_from(TARGETS),
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
)
def test_image_and_noise_come_back_from_whatever_is_asked_for(kind, target, times):
    made = Schedule(kind, 60).double()
    t = torch.tensor(times)
    x0, eps = torch.rand(2, len(times), 2, 3, 3, dtype=torch.float64)
    x_t, out = made.noised(x0, eps, t), made.wanted(x0, eps, t, target)
    torch.testing.assert_close(made.x0(out, x_t, t, target), x0, rtol=0, atol=1e-6)
    torch.testing.assert_close(made.eps(out, x_t, t, target), eps, rtol=0, atol=1e-6)
    alone = made.x0(out[:1], x_t[:1], times[0], target)
    torch.testing.assert_close(alone, made.x0(out, x_t, t, target)[:1])


def test_what_is_asked_for_by_hand():
    made = Schedule("linear", 10)
    x0, eps = torch.rand(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    assert torch.equal(made.wanted(x0, eps, 3, "x0"), x0)
    assert torch.equal(made.wanted(x0, eps, 3, "epsilon"), eps)
    torch.testing.assert_close(made.wanted(x0, eps, 3, "v"), made.a[3] * eps - made.s[3] * x0)


@pytest.mark.parametrize("kind", KINDS)
def test_v_is_edms_preconditioning_for_data_of_deviation_1(kind):
    made = Schedule(kind, 20).double()
    x0, eps = torch.rand(2, 20, 1, 2, 2, dtype=torch.float64)
    t = torch.arange(1, 21)
    sigma = (made.s / made.a)[t][:, None, None, None]
    exploded = x0 + sigma * eps  # Karras et al.'s x, and table 1 with sigma_data = 1
    c_in, c_skip = 1 / (1 + sigma**2).sqrt(), 1 / (1 + sigma**2)
    c_out = sigma / (1 + sigma**2).sqrt()
    x_t, v = made.noised(x0, eps, t), made.wanted(x0, eps, t, "v")
    torch.testing.assert_close(c_in * exploded, x_t, rtol=0, atol=1e-6)  # the network's input
    torch.testing.assert_close((x0 - c_skip * exploded) / c_out, -v, rtol=0, atol=1e-4)
    guess = torch.randn_like(v)
    torch.testing.assert_close(
        c_skip * exploded - c_out * guess, made.x0(guess, x_t, t, "v"), rtol=0, atol=1e-6
    )
    # EDM's loss weight (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 leaves v's error as it is
    wanted = 1 + 1 / sigma.flatten() ** 2
    torch.testing.assert_close(made.weight(t, "x0", 1e9) / made.weight(t, "v", 1e9), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_is_one_loss_whatever_is_asked_for(kind, gamma):
    made = Schedule(kind, 12).double()
    t = torch.arange(1, 13)
    x0, eps, guess = torch.rand(3, 12, 1, 2, 2, dtype=torch.float64)
    x_t = made.noised(x0, eps, t)
    noise = made.eps(guess, x_t, t, "x0")
    snr = (made.a / made.s)[1:].square()
    wanted = snr.clamp(max=gamma) * (x0 - guess).square().sum((1, 2, 3))
    for target in TARGETS:
        off = made.wanted(x0, eps, t, target) - made.wanted(guess, noise, t, target)
        found = made.weight(t, target, gamma) * off.square().sum((1, 2, 3))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_a_schedule_has_nothing_to_learn_or_to_keep():
    made = Schedule("edm", 5)
    assert not list(made.parameters())
    assert not made.state_dict()


@pytest.mark.parametrize("kind", ["linear", "cosine", "edm"])
@pytest.mark.parametrize("steps", [2, 7, 50, 1000])
def test_times_in_even_steps_of_log_snr_descend_from_the_end_to_1_and_are_different(kind, steps):
    schedule = Schedule(kind, steps)
    for calls in {1, 2, min(8, steps), steps // 2 + 1, steps}:
        times = schedule.even(calls)
        assert len(times) == calls
        assert times[0] == steps
        assert times[-1] == 1 or calls == 1
        assert all(a > b for a, b in itertools.pairwise(times))


def test_eight_times_of_a_long_schedule_have_almost_even_steps_of_log_snr():
    schedule = Schedule("linear", 1000)
    gaps = schedule.snr(torch.tensor(schedule.even(8))).log().diff()
    assert gaps.std() < 0.1 * gaps.mean()
