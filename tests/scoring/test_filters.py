import numpy as np
import pytest
import torch

from inspect_ai.scoring.filters import gaussian, local_mean, smooth


def test_the_weights_sum_to_1_and_fall_off_as_a_gaussian():
    weights = gaussian(1.5).numpy()
    assert weights.shape == (11,)
    assert weights.sum() == pytest.approx(1)
    assert weights[7] / weights[5] == pytest.approx(np.exp(-0.5 * (2 / 1.5) ** 2))


def test_a_point_becomes_the_weights_along_both_sides():
    image = torch.zeros(1, 2, 15, 15)
    image[0, 1, 7, 7] = 1
    weights = gaussian(1.0)
    found = smooth(image, weights)
    assert (found[0, 0] == 0).all()
    assert found[0, 1, 4:11, 4:11].numpy() == pytest.approx(np.outer(weights, weights))


def test_a_local_mean_of_a_constant_is_that_constant_wherever_something_is_covered():
    coverage = (torch.rand(1, 1, 20, 20) > 0.5).float()
    image = torch.where(coverage > 0, 3.0, 1e6)
    assert local_mean(image, coverage, gaussian(2.0)).numpy() == pytest.approx(3.0, rel=1e-4)
