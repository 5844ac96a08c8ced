import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal as Reference
from torch.distributions import kl_divergence

from inspect_ai.training.gaussian import Normal, Spread, halves, kl, log_density, product, standard
from inspect_ai.training.vectors import ROUNDING

MODERATE = settings(max_examples=60, deadline=None, derandomize=True)
NUMBERS = st.floats(-5, 5, width=32)
LOG_VARS = st.floats(-6, 4, width=32)
NORMALS = st.builds(lambda m, v: Normal(torch.tensor([m]), torch.tensor([v])), NUMBERS, LOG_VARS)


def reference(p):
    return Reference(p.mean.double(), (0.5 * p.log_var.double()).exp())


@given(NORMALS, NORMALS)
@MODERATE
def test_the_divergence_is_that_of_torchs_distributions(q, p):
    wanted = kl_divergence(reference(q), reference(p)).item()
    assert kl(q, p).item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert kl(q, p).item() >= -1e-6


@given(NORMALS)
@MODERATE
def test_nothing_diverges_from_itself(q):
    assert kl(q, q).item() == 0


@given(NORMALS, NUMBERS)
@MODERATE
def test_the_density_is_that_of_torchs_distributions(p, z):
    wanted = reference(p).log_prob(torch.tensor(z, dtype=torch.float64)).item()
    assert log_density(torch.tensor([z]), p).item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@given(NORMALS, NORMALS)
@MODERATE
def test_the_product_has_the_sum_of_precisions_and_the_weighted_mean(q, p):
    found = product(q, p)
    a, b = (1 / reference(n).variance for n in (q, p))
    mean = (a * q.mean + b * p.mean) / (a + b)
    assert found.log_var.item() == pytest.approx(-(a + b).log().item(), abs=1e-5)
    assert found.mean.item() == pytest.approx(mean.item(), abs=1e-4)


def test_a_value_lies_as_many_deviations_from_the_mean_as_its_noise_says():
    p = Normal(torch.tensor([1.0]), torch.tensor([math.log(4.0)]))
    assert p.at(torch.tensor([1.5])).item() == pytest.approx(4.0)
    assert p.at(None).item() == 1.0
    assert kl(standard(p.mean), Normal(*standard(p.mean))).item() == 0


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_no_log_variance_is_so_far_out_that_its_divergence_is_not_a_number(value):
    q = halves(torch.full((1, 4), value))
    assert torch.isfinite(kl(q, standard(q.mean))).all()
    assert torch.isfinite(product(q, standard(q.mean)).mean).all()


@pytest.mark.parametrize("kind", ["learned", "cells"])
def test_a_learned_spread_ends_at_the_root_of_the_mean_squared_error(kind):
    errors = torch.tensor([0.01, 0.04]).reshape(1, 1, 2)
    spread = Spread(kind, 0.5, (1, 1, 2))
    adam = torch.optim.Adam(spread.parameters(), lr=2e-3)
    for _ in range(400):
        adam.zero_grad()
        s2 = spread()
        (errors / s2 + s2.log()).sum().backward()
        adam.step()
    wanted = errors if kind == "cells" else errors.mean().expand(1, 1, 1)
    torch.testing.assert_close(spread(), wanted, rtol=0.02, atol=0)


def test_an_optimal_spread_is_the_batchs_own_and_kept_while_training():
    spread = Spread("optimal", 0.5, (1, 4, 4))
    assert spread().item() == 0.25
    found = spread.of(torch.tensor(0.01, requires_grad=True))
    assert found.requires_grad
    assert found.item() == pytest.approx(0.01 + ROUNDING)
    assert spread().item() == found.item()
    assert not spread().requires_grad
    spread.eval().of(torch.tensor(0.9))
    assert spread().item() == found.item()


def test_a_fixed_spread_stays():
    spread = Spread("fixed", 0.5, (1, 4, 4))
    assert spread.of(torch.tensor(0.01)).item() == 0.25
    assert list(spread.parameters()) == []
