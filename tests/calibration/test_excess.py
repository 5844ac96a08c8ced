import numpy as np
import pytest
from scipy.stats import binom

from inspect_ai.calibration import excess


@pytest.mark.parametrize("alike", [1, 5, 1e6])
@pytest.mark.parametrize(("lots", "images"), [(2, 25), (10, 3), (30, 25)])
def test_lots_that_keep_the_rate_are_seldom_found_to_break_it(alike, lots, images):
    rng, rate, level = np.random.default_rng(0), 0.05, 0.05
    rates = rng.beta(rate * alike, (1 - rate) * alike, (500, lots))
    found = [excess.chance(x, rate, images) for x in rng.binomial(images, rates) / images]
    assert (np.array(found) <= level).sum() <= binom.ppf(0.999, 500, level)


def test_images_that_are_their_own_lots_are_counted_exactly():
    shares = np.array([1.0] * 4 + [0.0] * 46)
    assert excess.chance(shares, 0.01) == pytest.approx(binom.sf(3, 50, 0.01))


def test_many_lots_above_the_rate_are_found_and_none_or_fewer_never():
    shares = np.random.default_rng(0).uniform(0.2, 0.6, 10)
    assert excess.chance(shares, 0.05, 20) < 1e-4
    assert excess.chance(shares, 0.4, 20) > 0.05
    assert excess.chance(np.empty(0), 0.05) == excess.chance(np.zeros(3), 0.05) == 1
    assert excess.chance(np.ones(1), 0.05, 20) == pytest.approx(0.05)
    assert excess.chance(np.full(3, 0.08), 0.05, 20) > 0.05  # equal shares prove little


def test_the_luck_of_the_calibration_explains_a_share_above_the_promised():
    rng, n, rank, level = np.random.default_rng(0), 99, 5, 0.05
    limit = excess.explained(0.05, rank, n, level)
    good = np.sort(rng.random((2000, n)), axis=1)  # uniform: what lies above is the rate
    above = 1 - good[:, -rank] > limit
    assert abs(above.sum() - 2000 * level) < 3.3 * np.sqrt(2000 * level)
    assert excess.explained(0.2, rank, n, level) == 0.2
