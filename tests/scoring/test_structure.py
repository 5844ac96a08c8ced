import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from inspect_ai.data.simulate_maps import MapSettings, wafer_maps
from inspect_ai.errors import MissingData
from inspect_ai.scoring.structure import WALKS, Config, neighbour_products, tilted, walks

SEEDS = st.integers(0, 999)
MODERATE = settings(max_examples=40, deadline=None, derandomize=True)


def rule():
    return Config(rule="structure").build(1, (16, 16))


def view(maps):
    """(N, H, W) bin maps to what the rule sees."""
    maps = torch.from_numpy(maps)
    return torch.stack([(maps == 2).float(), (maps > 0).float()], 1)


def flat(image, rate=0.1):
    return torch.full_like(image[:, :1], rate)


def touching(a, b):
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 1


@given(SEEDS)
@MODERATE
def test_neighbour_products_count_each_pair_once(seed):
    e = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 1, 4, 5)))
    cells = list(np.ndindex(4, 5))
    wanted = sum(
        e[0, 0][a] * e[0, 0][b] for i, a in enumerate(cells) for b in cells[:i] if touching(a, b)
    )
    assert neighbour_products(e).item() == pytest.approx(wanted.item())


@given(SEEDS, st.floats(0.1, 1))
@MODERATE
def test_walks_are_those_on_the_graph_of_failing_dies(seed, share):
    fails = np.random.default_rng(seed).random((5, 6)) < share
    cells = np.argwhere(fails)
    near = [[float(abs(a - b).max() <= 1) for b in cells] for a in cells]  # a step may stay
    adjacency = np.array(near).reshape(len(cells), len(cells))
    wanted = [np.log1p(np.linalg.matrix_power(adjacency, k).sum()) for k in WALKS]
    found = walks(torch.from_numpy(fails)[None, None].float())
    assert found[0].numpy() == pytest.approx(np.array(wanted), rel=1e-4)


def test_a_large_map_that_fails_everywhere_overflows_nothing():
    assert torch.isfinite(walks(torch.ones(1, 1, 256, 256))).all()


@given(SEEDS, st.floats(0.02, 0.6), st.floats(0.02, 0.2))
@MODERATE
def test_the_tilted_rates_reach_the_observed_count(seed, observed, level):
    rng = np.random.default_rng(seed)
    dies = (rng.random((1, 1, 24, 24)) < 0.8).astype(np.float32)
    fails = (rng.random(dies.shape) < observed) * dies
    rates = np.clip(level * np.exp(0.5 * rng.normal(size=dies.shape)), 0.01, 0.99)
    rates, fails, dies = (torch.from_numpy(a.astype(np.float32)) for a in (rates, fails, dies))
    p = tilted(rates, fails, dies)
    # four steps leave up to 0.5 % of the dies where next to none fail
    near = 0.005 * dies.sum().item()
    assert (p * dies).sum().item() == pytest.approx(fails.sum().item(), abs=near)


def test_tilting_moves_all_logits_by_one_constant():
    rates = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(1, 1, 2, 2)
    fails = torch.tensor([1.0, 0, 0, 1]).reshape(1, 1, 2, 2)
    moved = tilted(rates, fails, torch.ones_like(fails)).logit() - rates.logit()
    assert moved.numpy() == pytest.approx(moved[0, 0, 0, 0].item(), abs=1e-5)


@given(SEEDS)
@MODERATE
def test_what_is_no_die_changes_no_score_and_no_map(seed):
    rng = np.random.default_rng(seed)
    image = view(rng.integers(0, 3, (2, 12, 12)).astype(np.uint8))
    expected, other, junk = torch.from_numpy(rng.random((3, 2, 1, 12, 12))).float()
    off = image[:, 1:] == 0
    score, anomaly_map = rule()(image, expected)
    fails = torch.where(off, junk, image[:, :1])
    again = rule()(torch.cat([fails, image[:, 1:]], 1), torch.where(off, other, expected))
    assert torch.equal(score, again[0])
    assert torch.equal(anomaly_map, again[1])
    assert (anomaly_map[off[:, 0]] == 0).all()


def test_zeros_around_a_map_change_no_score():
    maps = np.random.default_rng(0).integers(0, 3, (4, 20, 18)).astype(np.uint8)
    own, padded = view(maps), view(np.pad(maps, ((0, 0), (3, 9), (0, 14))))
    assert rule()(own, flat(own))[0].numpy() == pytest.approx(
        rule()(padded, flat(padded))[0].numpy(), rel=1e-5
    )


@pytest.mark.parametrize("value", [0, 1, 2])
def test_a_map_of_one_value_scores_a_finite_number(value):
    image = view(np.full((1, 12, 12), value, np.uint8))
    score, anomaly_map = rule()(image, flat(image, 0.0))
    assert torch.isfinite(score).all()
    assert torch.isfinite(anomaly_map).all()


def test_good_maps_score_0_on_average_after_fitting():
    images = view(np.random.default_rng(0).choice([1, 2], (64, 20, 20), p=[0.9, 0.1]).astype("u1"))
    fitted = rule()
    fitted.fit([(images[:40], flat(images[:40])), (images[40:], flat(images[40:]))])
    score = fitted(images, flat(images))[0]
    assert score.mean().item() == pytest.approx(0, abs=1e-4)
    assert score.std().item() > 0.5


def test_one_map_is_too_few_to_fit_on_and_the_message_says_so():
    image = view(np.ones((1, 12, 12), np.uint8))
    with pytest.raises(MissingData, match=r"1 good map.* needs 2 or more.*held_out"):
        rule().fit([(image, flat(image))])


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
    good = view(scattered(simulated.maps[simulated.labels == "none"]))
    found = rule()
    found.fit([(good, flat(good))])
    return found


@pytest.mark.parametrize("pattern", ["Scratch", "Loc", "Edge-Ring", "Donut", "Center"])
def test_a_pattern_scores_above_the_same_fails_scattered_at_random(simulated, fitted, pattern):
    planted = simulated.maps[simulated.labels == pattern]
    chance = scattered(planted)
    assert len(planted) > 20
    scores = [fitted(view(m), flat(view(m)))[0].numpy() for m in (planted, chance)]
    truth = np.repeat([1, 0], len(planted))
    assert roc_auc_score(truth, np.concatenate(scores)) > 0.9
