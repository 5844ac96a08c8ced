import math

import numpy as np
import pytest
import torch
from made_vectors import agrees_with_its_graph, fit, images, scored_by_likelihood, total, vectors
from scipy.stats import multivariate_normal
from sklearn.decomposition import FactorAnalysis

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.models.factor_analysis import ROUNDS, Config


@pytest.mark.parametrize(
    ("count", "channels", "grid"), [(400, 1, (6, 5)), (300, 3, (4, 4)), (500, 1, (20, 20))]
)
def test_the_surprise_sums_to_scikit_learns_likelihood(count, channels, grid):
    good, new = images(count, grid, channels), images(50, grid, channels, seed=1)
    new[0, 0, 1, 1] = 1.0  # one far out
    made = fit(Config(components=3).build(channels, grid), good)
    reference = FactorAnalysis(3, max_iter=ROUNDS, random_state=0).fit(vectors(good))
    np.testing.assert_allclose(made.noise, reference.noise_variance_, rtol=1e-4)  # no floor reached
    found, wanted = total(made(new)), -reference.score_samples(vectors(new))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_where_the_floor_is_reached_it_is_the_gaussian_with_that_floor():
    still = images(400)
    still[:, 0, :, :2] = 0.3  # cells that never vary
    made = fit(Config(components=3, floor=0.02).build(1, (6, 5)), still)
    reference = FactorAnalysis(3, max_iter=ROUNDS, random_state=0).fit(vectors(still))
    floor = 0.02 * vectors(still).var(0).mean()
    noise = np.maximum(reference.noise_variance_, floor)
    assert (noise == floor).sum() == 12
    C = reference.components_.T @ reference.components_ + np.diag(noise)
    new = images(50, seed=1)
    new[25:, 0, :, :2] = 0.3
    wanted = -multivariate_normal(reference.mean_, C).logpdf(vectors(new))
    np.testing.assert_allclose(total(made(new)), wanted, rtol=1e-4)


def test_the_likelihood_and_the_redraw_of_two_cells_by_hand():
    made = Config(components=1).build(1, (1, 2))
    made.set(np.array([0.5, 0.4]), np.array([[0.2, 0.1]]), np.array([0.01, 0.04]))
    # C = [[.05, .02], [.02, .05]], |C| = .0021, C^-1 = [[.05, -.02], [-.02, .05]] / .0021
    new = torch.tensor([[[[0.6, 0.2]], [[1.0, 1.0]]]])  # (.1, -.2) from the mean
    quadratic = (0.05 * 0.01 + 0.05 * 0.04 + 2 * 0.02 * 0.02) / 0.0021
    seen = made(new)
    wanted = 0.5 * (quadratic + math.log(0.0021) + 2 * math.log(2 * math.pi))
    assert total(seen)[0] == pytest.approx(wanted, rel=1e-5)
    # z' = (.2 * .1 / .01 - .1 * .2 / .04) / (1 + .04 / .01 + .01 / .04)
    z = 1.5 / 5.25
    torch.testing.assert_close(
        seen.expected.flatten(), torch.tensor([0.5 + 0.2 * z, 0.4 + 0.1 * z])
    )


def test_a_change_in_a_quiet_cell_is_odder_than_in_a_noisy_one():
    made = fit(Config(components=3).build(1, (6, 5)), images(400))
    batch = images(1, seed=1).repeat(2, 1, 1, 1)
    batch[0, 0, 0, 0] += 0.2  # noise grows from the first cell to the last
    batch[1, 0, 5, 4] += 0.2
    quiet, noisy = total(made(batch))
    assert quiet > noisy


def test_what_is_not_covered_has_no_say():
    coverage = torch.ones(6, 5)
    coverage[:, 0] = 0
    made = fit(Config(components=3).build(1, (6, 5)), images(90, coverage=coverage))
    known = images(4, seed=1, coverage=coverage)
    junk = known.clone()
    junk[:, 0, :, 0] = 0.9
    assert torch.equal(made(known).surprise, made(junk).surprise)
    assert (made(known).surprise[:, :, 0] == made.constant).all()
    assert (made(known).expected[:, 0, :, 0] == 0).all()


def test_images_that_never_vary_give_finite_numbers():
    still = images(1).repeat(30, 1, 1, 1)
    still[:, 0, 0, 0] = torch.linspace(0, 1e-3, 30)
    made = fit(Config(components=2, floor=0.0).build(1, (6, 5)), still)
    assert torch.isfinite(made(images(5, seed=1)).surprise).all()


def test_a_component_for_each_number_is_refused_and_the_advice_works():
    with pytest.raises(BadSettings, match=r"components = 30.*at most 29. Ask for fewer"):
        Config(components=30).build(1, (6, 5))
    Config(components=29).build(1, (6, 5))


def test_too_few_images_are_refused_and_the_advice_works():
    with pytest.raises(MissingData, match=r"5 different image.*components = 4; .*at least 6"):
        fit(Config(components=4).build(1, (6, 5)), images(5))
    fit(Config(components=4).build(1, (6, 5)), images(6))


@pytest.mark.slow
def test_onnx_gives_the_same_likelihood_of_maps(tmp_path):
    detector, pixels = scored_by_likelihood("factor_analysis", {"components": 8}, "wafer_map")
    assert agrees_with_its_graph(detector, pixels, tmp_path / "model.onnx")
