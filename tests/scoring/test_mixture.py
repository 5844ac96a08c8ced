import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from inspect_ai.errors import MissingData
from inspect_ai.scoring.mixture import RIDGE, Mixture


def vectors(count=400, size=6, seed=0):
    """Two correlated clouds."""
    rng = np.random.default_rng(seed)
    shape = np.random.default_rng(9).normal(size=(size, size)) / size
    x = rng.normal(size=(count, size)) @ (np.eye(size) + shape)
    x[::3] += 2.5
    return x


@pytest.mark.parametrize(("components", "size"), [(1, 1), (2, 6), (5, 6), (3, 40)])
def test_it_is_scikit_learns_likelihood(components, size):
    known, new = vectors(size=size), vectors(50, size, seed=1)
    new[0] += 30  # one far out
    made = Mixture(components, size)
    made.fit(known, seed=3)
    reference = GaussianMixture(components, reg_covar=RIDGE, random_state=3, max_iter=200)
    wanted = -reference.fit(known).score_samples(new)
    np.testing.assert_allclose(made(torch.from_numpy(new).float()), wanted, rtol=1e-4, atol=1e-4)


def test_two_components_by_hand():
    made = Mixture(2, 1)
    made._set(np.array([0.25, 0.75]), np.array([[0.0], [3.0]]), np.array([[[1.0]], [[0.5]]]))
    bell = [math.exp(-0.5) / math.sqrt(2 * math.pi), math.exp(-0.5) / math.sqrt(8 * math.pi)]
    wanted = [math.log(0.25 * bell[0]), math.log(0.75 * bell[1])]
    x = torch.tensor([[1.0]])  # one standard deviation from either
    np.testing.assert_allclose(made.joint(x)[0], wanted, rtol=1e-5)
    assert made(x).item() == pytest.approx(-math.log(sum(map(math.exp, wanted))), rel=1e-5)


def test_an_unfitted_one_is_the_standard_normal():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    base = math.log(2 * math.pi)
    torch.testing.assert_close(Mixture(3, 2)(x), torch.tensor([base, base + 12.5]))


def test_its_density_sums_to_one():
    made = Mixture(2, 1)
    made.fit(vectors(200, 1))
    x = torch.linspace(-15, 20, 7001)[:, None]
    assert (torch.exp(-made(x)).sum() * 0.005).item() == pytest.approx(1, abs=1e-4)


def test_a_number_that_never_varies_has_the_ridge_for_its_variance():
    still = vectors(size=3)
    still[:, 2] = 0.0
    made = Mixture(1, 3)
    made.fit(still, ridge=0.04)
    step = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.4]])
    at, off = made(step).tolist()
    assert off - at == pytest.approx(0.5 * 0.4**2 / 0.04, rel=1e-3)


def test_a_vector_scores_the_same_alone_as_among_others():
    made = Mixture(3, 6)
    made.fit(vectors())
    new = torch.from_numpy(vectors(9)).float()
    torch.testing.assert_close(made(new)[4:5], made(new[4:5]))


@pytest.mark.parametrize(("components", "count"), [(3, 2), (1, 1), (2, 1)])
def test_fewer_vectors_than_components_are_refused_and_the_advice_works(components, count):
    advice = rf"{count} vector.*mixture of {components}; .*Add images, or ask for fewer"
    with pytest.raises(MissingData, match=advice):
        Mixture(components, 6).fit(vectors(count))
    Mixture(components, 6).fit(vectors(max(components, 2)))
