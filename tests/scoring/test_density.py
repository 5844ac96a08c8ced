import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from inspect_ai.data.simulate_maps import MapSettings, wafer_maps
from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.scoring.density import Config
from inspect_ai.scoring.rule import Seen
from inspect_ai.scoring.statistics import Evidence

DENSITIES = ["sum", "fisher", "gaussian", "gmm", "neighbours"]
STRUCTURE = ("moran", "walks_4", "walks_12")


def rule(density="sum", statistics=STRUCTURE, **fields):
    given = {"rule": "density", "statistics": statistics, "density": density}
    return Config.checked(given | fields, "a test").build(1, (16, 16))


def view(maps):
    """(N, H, W) bin maps to what the rule sees."""
    maps = torch.from_numpy(maps)
    return torch.stack([(maps == 2).float(), (maps > 0).float()], 1)


def flat(image, rate=0.1):
    return Seen(torch.full_like(image[:, :1], rate))


def good(count=200, seed=0):
    maps = np.random.default_rng(seed).choice([1, 2], (count, 20, 20), p=[0.9, 0.1])
    return view(maps.astype(np.uint8))


def made(density, **fields):
    found, images = rule(density, **fields), good()
    found.fit([(images[:90], flat(images[:90])), (images[90:], flat(images[90:]))])
    return found


def standardised(images):
    """Statistics of good images, and of `images`, by the mean and spread of the good ones."""
    plain, known = rule(), good()
    usual, new = (plain.statistics(Evidence(x, flat(x))).numpy() for x in (known, images))
    return tuple((x - usual.mean(0)) / usual.std(0, ddof=1) for x in (usual, new))


@pytest.fixture(scope="module")
def odd():
    images = good(20, seed=1)
    images[10:, 0, 4:8, 4:9] = 1
    return images


def test_the_sum_is_that_of_standardised_statistics(odd):
    _, z = standardised(odd)
    assert made("sum")(odd, flat(odd))[0].numpy() == pytest.approx(z.sum(1), rel=1e-3, abs=1e-3)


def test_fisher_counts_good_images_at_least_as_large_between_them_by_straight_lines(odd):
    usual, z = standardised(odd)
    share = (1 + (usual[None] >= z[:, None] - 1e-4).sum(1)) / (1 + len(usual))
    found = made("fisher")(odd, flat(odd))[0].numpy()
    assert found == pytest.approx(-np.log(share).sum(1), rel=0.1, abs=0.3)
    assert found.max() <= 3 * np.log(201) + 1e-4


def test_the_gaussian_is_the_mahalanobis_distance_of_a_library(odd):
    usual, z = standardised(odd)
    wanted = np.sqrt(LedoitWolf().fit(usual).mahalanobis(z))
    assert made("gaussian")(odd, flat(odd))[0].numpy() == pytest.approx(wanted, rel=0.02)


def test_the_mixture_is_that_of_a_library(odd):
    usual, z = standardised(odd)
    library = GaussianMixture(2, reg_covar=1e-3, random_state=0, max_iter=200).fit(usual)
    found = made("gmm")(odd, flat(odd))[0].numpy()
    assert found == pytest.approx(-library.score_samples(z), rel=1e-3)


def test_neighbours_are_the_nearest_good_images(odd):
    usual, z = standardised(odd)
    wanted = np.sort(cdist(z, usual), axis=1)[:, :5].mean(1)
    assert made("neighbours")(odd, flat(odd))[0].numpy() == pytest.approx(wanted, rel=1e-2)


def test_no_more_good_images_are_kept_than_asked_for():
    assert made("neighbours", kept=50).kept.shape == (50, 3)
    assert (made("neighbours", kept=50).kept < 1e3).all()


@pytest.mark.parametrize("density", DENSITIES)
def test_patterns_score_above_good_images_by_any_density(density, odd):
    score = made(density)(odd, flat(odd))[0].numpy()
    assert roc_auc_score(np.repeat([0, 1], 10), score) > 0.95


@pytest.mark.parametrize("density", DENSITIES)
def test_one_image_is_too_few_to_fit_on_and_the_message_says_so(density):
    image = good(1)
    with pytest.raises(MissingData, match=r"1 good image.* needs \d or more.*held_out"):
        rule(density).fit([(image, flat(image))])


def test_fewer_good_images_than_neighbours_are_refused():
    images = good(4)
    with pytest.raises(MissingData, match=r"4 good image.* needs 5 or more"):
        rule("neighbours").fit([(images, flat(images))])
    with pytest.raises(BadSettings, match="raise 'kept'"):
        rule("neighbours", kept=3, nearest=5)


def test_an_unknown_or_repeated_statistic_is_refused_with_those_there_are():
    for names in (["morna"], ["moran", "moran"], []):
        with pytest.raises(BadSettings, match="statistics"):
            rule(statistics=names)


def test_a_rule_says_what_it_needs():
    assert rule().maps_only
    assert not rule(statistics=("l1", "largest")).maps_only
    assert rule(statistics=("l1", "surprise", "odds")).needs == ("odds", "surprise")


def test_the_map_of_a_wafer_shows_where_fails_crowd(odd):
    _, anomaly_map = made("sum")(odd, flat(odd))
    row, column = divmod(int(anomaly_map[15].argmax()), 20)
    assert 4 <= row < 8
    assert 4 <= column < 9


def test_the_map_of_a_picture_shows_where_it_differs():
    image = torch.cat([torch.full((1, 1, 16, 16), 0.5), torch.ones(1, 1, 16, 16)], 1)
    image[0, 0, 3, 12] = 1.0
    _, anomaly_map = rule(statistics=("l1", "l2"))(image, flat(image, 0.5))
    assert divmod(int(anomaly_map[0].argmax()), 16) == (3, 12)


@pytest.fixture(scope="module")
def simulated():
    """Wafers with at most one pattern each, of several sizes on one canvas."""
    settings_ = MapSettings(lots=24, defect_share=0.5, mixture_share=0, canvas=50, seed=5)
    return wafer_maps(settings_)


def scattered(maps, seed=0):
    """The same dies and as many fails, at random places."""
    rng, found = np.random.default_rng(seed), maps.copy()
    for wafer in found:
        wafer[wafer > 0] = rng.permutation(wafer[wafer > 0])
    return found


@pytest.fixture(scope="module")
def fitted(simulated):
    images = view(scattered(simulated.maps[simulated.labels == "none"]))
    found = rule()
    found.fit([(images, flat(images))])
    return found


@pytest.mark.parametrize("pattern", ["Scratch", "Loc", "Edge-Ring", "Donut", "Center"])
def test_a_pattern_scores_above_the_same_fails_scattered_at_random(simulated, fitted, pattern):
    planted = simulated.maps[simulated.labels == pattern]
    chance = scattered(planted)
    assert len(planted) > 20
    scores = [fitted(view(m), flat(view(m)))[0].numpy() for m in (planted, chance)]
    truth = np.repeat([1, 0], len(planted))
    assert roc_auc_score(truth, np.concatenate(scores)) > 0.9
