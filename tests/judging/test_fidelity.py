"""Figures of drawn images, against closed forms and planted failures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from inspect_ai.judging.fidelity import (
    Gauss,
    copied,
    frechet,
    gauss,
    inside,
    kernel_distance,
    nearest,
    score,
)

MODES = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])


def normal(count, seed=0, features=4, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, features)) + shift


def modes(count, seed, used=4):
    rng = np.random.default_rng(seed)
    return MODES[rng.integers(0, used, count)] + rng.normal(size=(count, 2))


def covariance(features, seed):
    root = np.random.default_rng(seed).normal(size=(features, features))
    return root @ root.T


def alone(images):
    return images[:, None]


@given(st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_distance_of_diagonal_gaussians_is_that_of_means_and_deviations(features, seed):
    rng = np.random.default_rng(seed)
    (m, n), (s, t) = rng.normal(size=(2, features)), rng.uniform(0, 3, size=(2, features))
    found = frechet(Gauss(m, np.diag(s**2)), Gauss(n, np.diag(t**2)))
    assert found == pytest.approx(np.square(m - n).sum() + np.square(s - t).sum(), abs=1e-9)


@pytest.mark.parametrize("features", [2, 5, 40])
def test_the_distance_of_gaussians_is_that_of_the_formula(features):
    m, n = normal(2, features=features)
    a, b = covariance(features, 1), covariance(features, 2)
    root = linalg.sqrtm(a @ b)
    wanted = np.square(m - n).sum() + np.trace(a + b - 2 * root.real)
    assert frechet(Gauss(m, a), Gauss(n, b)) == pytest.approx(wanted, rel=1e-8)
    assert frechet(Gauss(n, b), Gauss(m, a)) == pytest.approx(wanted, rel=1e-8)


def test_samples_of_gaussians_are_as_far_apart_as_the_gaussians():
    a, b = covariance(3, 1), covariance(3, 2)
    x = np.random.default_rng(0).multivariate_normal(np.zeros(3), a, 40_000)
    y = np.random.default_rng(1).multivariate_normal(np.ones(3), b, 40_000)
    wanted = frechet(Gauss(np.zeros(3), a), Gauss(np.ones(3), b))
    assert wanted > 3
    assert frechet(gauss(x), gauss(y)) == pytest.approx(wanted, rel=0.03)


def test_a_set_is_at_no_distance_from_itself_even_with_fewer_images_than_features():
    few = gauss(normal(20, features=60))
    assert frechet(few, few) == pytest.approx(0, abs=1e-5)
    other = gauss(normal(20, seed=1, features=60))
    assert frechet(few, other) > 10


def test_the_kernel_distance_of_one_distribution_is_zero_on_average():
    found = [kernel_distance(normal(60, 2 * i), normal(60, 2 * i + 1), i).value for i in range(200)]
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0 < max(found)  # not biased, so that it must be below 0 at times


def test_its_standard_error_is_that_of_repeated_measurements():
    found = [kernel_distance(normal(100, 2 * i), normal(100, 2 * i + 1), i) for i in range(200)]
    spread = np.std([f.value for f in found])
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_the_kernel_distance_of_others_is_positive_and_is_the_formulas(shift):
    x, y = normal(4000, 0, 2), normal(4000, 1, 2, shift)
    found = kernel_distance(x, y)
    assert found.value > 5 * found.error
    # (x.y / 2 + 1)^3 of two numbers each: moments of Gaussians, by a large sample of its own
    a, b, c, d = (normal(200_000, seed, 2) for seed in (2, 3, 4, 5))
    c, d = c + shift, d + shift

    def kernel(u, v):
        return ((u * v).sum(1) / 2 + 1) ** 3

    wanted = np.mean(kernel(a, b) + kernel(c, d) - kernel(a, d) - kernel(b, c))
    assert found.value == pytest.approx(wanted, rel=0.25)


def test_identical_sets_have_full_precision_and_recall_and_disjoint_ones_none():
    x = normal(50)
    assert (inside(x, x), inside(x, x[::-1])) == (1, 1)
    assert (inside(x + 100, x), inside(x, x + 100)) == (0, 0)


def test_precision_by_hand():
    good = np.array([[0.0], [1.0], [2.0], [3.0], [10.0]])
    # third neighbours: 3, 2, 2, 3, 9 away
    drawn = np.array([[-3.0], [-3.1], [6.0], [19.5], [0.5]])
    assert inside(drawn, good) == pytest.approx(3 / 5)
    assert inside(drawn, good, neighbours=1) == pytest.approx(2 / 5)


def test_a_mode_that_is_never_drawn_lowers_recall_and_not_precision():
    good, every, three = modes(400, 0), modes(400, 1), modes(400, 2, used=3)
    assert inside(every, good) > 0.9
    assert inside(good, every) > 0.9
    assert inside(three, good) > 0.9
    assert inside(good, three) == pytest.approx(0.75, abs=0.06)


def test_the_nearest_is_found_whichever_way_round():
    others = normal(30)
    images = np.stack([others[[4, 7]] + 50, others[[4, 7]]], 1)
    found = nearest(images, others)
    assert found.place.tolist() == [4, 7]
    assert found.distance.tolist() == [0, 0]
    way = nearest(images[:, :1], others)
    wanted = np.linalg.norm(images[:, :1] - others[None], axis=2)
    assert way.distance == pytest.approx(wanted.min(1))
    assert way.place.tolist() == wanted.argmin(1).tolist()


def test_copies_of_training_images_are_called_memorised_and_new_images_not():
    training, held_out, new = normal(500, 0, 8), normal(400, 1, 8), normal(400, 2, 8)
    own = nearest(alone(held_out), training).distance
    copies = training[:100] + 1e-3 * normal(100, 3, 8)
    found = copied(nearest(alone(copies), training).distance, own)
    assert found.share == 1
    assert found.ratio < 0.01
    fresh = copied(nearest(alone(new), training).distance, own)
    assert fresh.share == pytest.approx(0.05, abs=0.03)
    assert fresh.ratio == pytest.approx(1, abs=0.1)
    assert copied(own, own) == (pytest.approx(0.05, abs=0.005), 1)


def test_held_out_images_that_were_trained_on_call_nothing_memorised():
    assert copied(np.zeros(10), np.zeros(10)) == (0, 1)


@given(st.integers(2, 7), st.integers(0, 99), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_a_score_lies_between_1_and_the_number_of_clusters(clusters, seed, spread):
    centres = normal(clusters, seed, 3) * 3
    found = score(normal(50, seed + 1, 3) * 4, centres, spread)
    assert 1 - 1e-9 <= found <= clusters + 1e-9


def test_a_score_is_the_number_of_clusters_that_are_drawn_from():
    assert score(modes(4000, 0), MODES, 1.0) == pytest.approx(4, rel=0.01)
    assert score(modes(4000, 0, used=2), MODES, 1.0) == pytest.approx(2, rel=0.01)
    assert score(np.full((10, 2), 10.0), MODES, 1.0) == pytest.approx(1)  # between all of them
    uneven = np.repeat(MODES[:2], [90, 10], 0)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert score(uneven, MODES, 1.0) == pytest.approx(math.exp(entropy))
