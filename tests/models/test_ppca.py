import math

import numpy as np
import pytest
import torch
from made_vectors import agrees_with_its_graph, fit, images, scored_by_likelihood, total, vectors
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.models.ppca import Config
from inspect_ai.training.vectors import ROUNDING


@pytest.mark.parametrize(
    ("count", "channels", "grid"),
    [(400, 1, (6, 5)), (25, 1, (6, 5)), (300, 3, (4, 4)), (500, 1, (20, 20))],
)
def test_the_surprise_sums_to_scikit_learns_likelihood(count, channels, grid):
    good, new = images(count, grid, channels), images(50, grid, channels, seed=1)
    new[0, 0, 1, 1] = 1.0  # one far out
    made = fit(Config(components=4).build(channels, grid), good)
    reference = PCA(4, svd_solver="full").fit(vectors(good))
    assert made.noise[0].item() > 100 * ROUNDING
    found, wanted = total(made(new)), -reference.score_samples(vectors(new))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_the_likelihood_of_two_cells_by_hand():
    steps = torch.tensor([[0.3, 0.3], [-0.3, -0.3], [0.1, -0.1], [-0.1, 0.1]])
    x = (0.5 + steps).reshape(4, 1, 1, 2)
    made = fit(Config(components=1).build(1, (1, 2)), torch.cat([x, torch.ones_like(x)], 1))
    along, away = 0.36 / 3, 0.04 / 3  # variances with n - 1 along (1, 1) and (1, -1)
    for value, t, q in (([0.5, 0.5], 0, 0), ([0.7, 0.7], 0.08, 0), ([0.7, 0.5], 0.02, 0.02)):
        new = torch.tensor(value).reshape(1, 1, 1, 2)
        wanted = t / along + q / away + math.log(along) + math.log(away) + 2 * math.log(2 * math.pi)
        found = total(made(torch.cat([new, torch.ones_like(new)], 1)))[0]
        assert found == pytest.approx(0.5 * wanted, rel=1e-4, abs=1e-4)


def test_a_cells_share_is_its_own_term_of_the_quadratic_form():
    good, new = images(300), images(7, seed=2)
    made = fit(Config(components=3).build(1, (6, 5)), good)
    C = PCA(3, svd_solver="full").fit(vectors(good)).get_covariance()
    centred = vectors(new) - vectors(good).mean(0)
    constant = (np.linalg.slogdet(C)[1] + 30 * math.log(2 * math.pi)) / 60
    wanted = 0.5 * centred * np.linalg.solve(C, centred.T).T + constant
    np.testing.assert_allclose(
        made(new).surprise.flatten(1).numpy(), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max()
    )


def test_the_expectation_is_the_redraw_from_the_posterior_mean():
    good, new = images(300), images(7, seed=2)
    made = fit(Config(components=3).build(1, (6, 5)), good)
    reference = PCA(3, svd_solver="full").fit(vectors(good))
    shrunk = 1 - reference.noise_variance_ / reference.explained_variance_
    wanted = reference.inverse_transform(reference.transform(vectors(new)) * shrunk)
    found = made(new).expected.flatten(1).numpy()
    np.testing.assert_allclose(found, wanted.clip(0, 1), atol=1e-5)


def test_images_that_fill_a_plane_alone_are_given_the_noise_of_rounding():
    plane = images(1).repeat(9, 1, 1, 1)
    plane[:, 0] += 0.2 * torch.randn(9, 1, 1) * torch.rand(6, 5)
    made = fit(Config(components=3).build(1, (6, 5)), plane)
    assert made.noise.tolist() == pytest.approx([ROUNDING] * 30)
    W = made.loadings.double().numpy()
    C = W.T @ W + ROUNDING * np.eye(30)
    reference = multivariate_normal(np.float64(made.mean), C)
    new = images(5, seed=3)
    np.testing.assert_allclose(total(made(new)), -reference.logpdf(vectors(new)), rtol=1e-4)


def test_a_cell_that_is_never_covered_carries_the_constant_share():
    coverage = torch.ones(6, 5)
    coverage[:, 0] = 0
    made = fit(Config(components=3, blur=1.0).build(1, (6, 5)), images(90, coverage=coverage))
    known = images(4, seed=1, coverage=coverage)
    junk = known.clone()
    junk[:, 0, :, 0] = 0.9
    assert torch.equal(made(known).surprise, made(junk).surprise)
    assert (made(known).surprise[:, :, 0] == made.constant).all()


def test_a_component_for_each_number_is_refused_and_the_advice_works():
    with pytest.raises(BadSettings, match=r"components = 30.*at most 29. Ask for fewer"):
        Config(components=30).build(1, (6, 5))
    Config(components=29).build(1, (6, 5))


def test_too_few_images_are_refused_and_the_advice_works():
    with pytest.raises(MissingData, match=r"5 different image.*components = 4; .*at least 6"):
        fit(Config(components=4).build(1, (6, 5)), images(5))
    fit(Config(components=4).build(1, (6, 5)), images(6))
    fit(Config(components=3).build(1, (6, 5)), images(5))


@pytest.mark.slow
def test_onnx_gives_the_same_likelihood_of_maps(tmp_path):
    detector, pixels = scored_by_likelihood("ppca", {"components": 8, "blur": 1.0}, "wafer_map")
    assert agrees_with_its_graph(detector, pixels, tmp_path / "model.onnx")
