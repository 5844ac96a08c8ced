import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch import nn

from inspect_ai.adversarial.objectives import (
    Objective,
    critic_loss,
    generator_loss,
    gradient_penalty,
    r1,
)

OBJECTIVES = get_args(Objective)
some = st.lists(st.floats(-30, 30), min_size=1, max_size=6)
shares = st.integers(2, 5).flatmap(
    lambda k: st.tuples(*2 * [st.lists(st.integers(1, 9), min_size=k, max_size=k)])
)


def s(d):
    return 1 / (1 + math.exp(-d))


CRITIC = {
    "minimax": (lambda d: -math.log(s(d)), lambda d: -math.log(s(-d))),
    "non_saturating": (lambda d: -math.log(s(d)), lambda d: -math.log(s(-d))),
    "least_squares": (lambda d: 0.5 * (d - 1) ** 2, lambda d: 0.5 * d**2),
    "wasserstein": (lambda d: -d, lambda d: d),
    "hinge": (lambda d: max(0, 1 - d), lambda d: max(0, 1 + d)),
}
GENERATOR = {
    "minimax": lambda d: math.log(s(-d)),  # s(-d) is 1 - s(d)
    "non_saturating": lambda d: -math.log(s(d)),
    "least_squares": lambda d: 0.5 * (d - 1) ** 2,
    "wasserstein": lambda d: -d,
    "hinge": lambda d: -d,
}


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(real=some, fake=some)
@settings(max_examples=50, deadline=None)
def test_losses_are_their_closed_form(objective, real, fake):
    of_real, of_fake = CRITIC[objective]
    wanted = np.mean([of_real(d) for d in real]) + np.mean([of_fake(d) for d in fake])
    found = critic_loss(objective, doubles(real), doubles(fake))
    assert found.item() == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    wanted = np.mean([GENERATOR[objective](d) for d in fake])
    found = generator_loss(objective, doubles(fake))
    assert found.item() == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_give_finite_losses_and_slopes(objective, size):
    real, fake = torch.full((2, 3), size), torch.full((3,), size)
    fake.requires_grad_()
    loss = critic_loss(objective, real, fake) + generator_loss(objective, fake)
    (slope,) = torch.autograd.grad(loss, fake)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()


def test_a_generator_far_behind_still_learns_unless_it_plays_minimax():
    for objective in OBJECTIVES:
        fake = torch.full((1,), -30.0, requires_grad=True)
        (slope,) = torch.autograd.grad(generator_loss(objective, fake), fake)
        assert (slope.abs() < 1e-10) if objective == "minimax" else (slope < -0.9)


def best(objective, p, q):
    """The best critic's logit at each value, and what its loss is to be, in closed form."""
    m = (p + q) / 2
    if objective in ("minimax", "non_saturating"):
        js = 0.5 * (p * np.log(p / m)).sum() + 0.5 * (q * np.log(q / m)).sum()
        return np.log(p / q), 2 * math.log(2) - 2 * js
    if objective == "least_squares":
        return p / (p + q), 0.25 * (1 - ((p - m) ** 2 / m).sum())
    return np.sign(p - q), 2 - np.abs(p - q).sum()


def drawn(counts, other, logits):
    """Logits of a sample that holds each value in proportion, and as many as the other's."""
    return doubles(logits).repeat_interleave(torch.tensor(counts) * sum(other))


@pytest.mark.parametrize("objective", ["minimax", "non_saturating", "least_squares", "hinge"])
@given(counts=shares)
@settings(max_examples=30, deadline=None)
def test_the_best_critics_loss_is_the_divergence_it_stands_for(objective, counts):
    a, b = counts
    logits, wanted = best(objective, np.array(a) / sum(a), np.array(b) / sum(b))
    found = critic_loss(objective, drawn(a, b, logits), drawn(b, a, logits))
    assert found.item() == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("objective", ["minimax", "non_saturating", "least_squares", "hinge"])
@given(counts=shares, seed=st.integers(0, 999), size=st.floats(0.01, 10))
@settings(max_examples=30, deadline=None)
def test_no_other_critics_loss_is_lower(objective, counts, seed, size):
    a, b = counts
    logits, lowest = best(objective, np.array(a) / sum(a), np.array(b) / sum(b))
    other = logits + size * np.random.default_rng(seed).normal(size=len(a))
    found = critic_loss(objective, drawn(a, b, other), drawn(b, a, other))
    assert found.item() >= lowest - 1e-7
    if objective != "hinge":  # which is flat where p = q
        assert found.item() > lowest


def test_the_js_of_two_distributions_by_hand():
    # p = (1/2, 1/2, 0), q = (1/2, 0, 1/2), their mean (1/2, 1/4, 1/4): half of each is ln 2 apart
    js = 0.5 * math.log(2)
    p, q = doubles([0.0, 50.0]), doubles([0.0, -50.0])
    assert critic_loss("minimax", p, q).item() == pytest.approx(2 * math.log(2) - 2 * js)


@given(counts=shares, seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_the_best_critic_of_slope_one_tells_how_far_apart_distributions_are(counts, seed):
    a, b = counts
    p, q, places = np.array(a) / sum(a), np.array(b) / sum(b), np.arange(len(a))
    steps = np.sign(np.cumsum(q - p).round(12))[:-1]
    lowest = -wasserstein_distance(places, places, p, q)

    def loss(steps):
        D = np.concatenate([[0.0], np.cumsum(steps)])
        return critic_loss("wasserstein", drawn(a, b, D), drawn(b, a, D)).item()

    assert loss(steps) == pytest.approx(lowest, abs=1e-12)
    assert loss(np.random.default_rng(seed).uniform(-1, 1, len(a) - 1)) >= lowest - 1e-12


def test_between_two_images_the_best_slope_one_critic_gives_their_distance():
    one, other = torch.rand(2, 1, 5, 5)
    along = (one - other) / (one - other).norm()
    loss = critic_loss("wasserstein", (one * along).sum()[None], (other * along).sum()[None])
    assert loss.item() == pytest.approx(-(one - other).norm().item(), rel=1e-5)


class Linear(nn.Module):
    """x to <a, x>, with |a| as asked for."""

    def __init__(self, slope, shape=(2, 4, 3)):
        super().__init__()
        a = torch.randn(shape)
        self.a = nn.Parameter(a * (slope / a.norm()))

    def forward(self, x):
        return (x * self.a).flatten(1).sum(1)


@pytest.mark.parametrize("slope", [0.25, 1.0, 3.0])
def test_penalties_of_a_linear_critic(slope):
    critic, real, fake = Linear(slope), torch.rand(6, 2, 4, 3), torch.rand(6, 2, 4, 3)
    found = gradient_penalty(critic, real, fake).item()
    assert found == pytest.approx((slope - 1) ** 2, abs=1e-6)
    assert r1(critic, real).item() == pytest.approx(slope**2, rel=1e-5)


def test_penalties_train_a_critic_by_their_own_slope():
    critic, real = Linear(3.0), torch.rand(6, 2, 4, 3)
    (found,) = torch.autograd.grad(gradient_penalty(critic, real, 1 - real), critic.a)
    torch.testing.assert_close(found, 2 * (3 - 1) * (critic.a / 3).detach())
    (found,) = torch.autograd.grad(r1(critic, real), critic.a)
    torch.testing.assert_close(found, 2 * critic.a.detach())


@pytest.mark.parametrize("penalty", ["gradient", "r1"])
def test_the_slope_of_a_networks_penalty_is_that_of_differences(penalty):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.SiLU(), nn.Flatten(), nn.Linear(12, 1)).double()
    real, fake = torch.rand(2, 5, 1, 4, 4, dtype=torch.float64)
    weight = net[0].weight

    def value():
        torch.manual_seed(1)
        critic = lambda x: net(x)[:, 0]  # noqa: E731
        return r1(critic, real) if penalty == "r1" else gradient_penalty(critic, real, fake)

    (slope,) = torch.autograd.grad(value(), weight)
    weight.data[1, 0, 1, 1] += 1e-5
    higher = value().item()
    weight.data[1, 0, 1, 1] -= 2e-5
    lower = value().item()
    assert slope[1, 0, 1, 1].item() == pytest.approx((higher - lower) / 2e-5, rel=1e-5)


def test_a_critic_that_is_flat_is_penalised_and_can_still_learn():
    critic = Linear(1.0)
    nn.init.zeros_(critic.a)
    loss = gradient_penalty(critic, torch.rand(3, 2, 4, 3), torch.rand(3, 2, 4, 3))
    loss.backward()
    assert loss.item() == 1.0
    assert torch.isfinite(critic.a.grad).all()


def test_slopes_are_taken_on_random_points_between_an_image_and_its_sample():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = torch.rand(50, 1, 3, 3), 2 + torch.rand(50, 1, 3, 3)
    gradient_penalty(critic, real, fake)
    share = ((seen[0] - real) / (fake - real)).flatten(1)
    torch.testing.assert_close(share, share[:, :1].expand(-1, 9), rtol=0, atol=1e-5)
    assert 0 <= share.min() < 0.1
    assert 0.9 < share.max() <= 1
    r1(critic, real)
    assert torch.equal(seen[1], real)


def test_penalties_send_no_gradient_into_images():
    critic, real = Linear(2.0), torch.rand(3, 2, 4, 3)
    made = torch.rand(3, 2, 4, 3, requires_grad=True)
    (gradient_penalty(critic, real, made * 1) + r1(critic, made * 1)).backward()
    assert made.grad is None
    assert critic.a.grad is not None
