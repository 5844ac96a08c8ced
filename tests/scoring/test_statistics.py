import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from inspect_ai.scoring.rule import Seen
from inspect_ai.scoring.statistics import (
    LAGS,
    ON_MAPS,
    RINGS,
    SECTORS,
    STATISTICS,
    Evidence,
    polar_bins,
    products,
    tilted,
)

SEEDS = st.integers(0, 999)
MODERATE = settings(max_examples=40, deadline=None, derandomize=True)


def view(maps):
    """(N, H, W) bin maps to what the rule sees."""
    maps = torch.from_numpy(maps)
    return torch.stack([(maps == 2).float(), (maps > 0).float()], 1)


def flat(image, rate=0.1):
    none, number = image[:, 0] * 0, image[:, 0, 0, 0] * 0
    said = (none, number, none, none, none, number, none, none, number, number)
    noise = (torch.stack([none, none], 1), none, none, number)
    return Seen(torch.full_like(image[:, :1], rate), *said, *noise)


def statistic(name, image, seen=None):
    return STATISTICS[name](Evidence(image, seen or flat(image)))


def touching(a, b):
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 1


@given(SEEDS)
@MODERATE
def test_products_of_the_four_lags_count_each_pair_once(seed):
    e = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 1, 4, 5)))
    cells = list(np.ndindex(4, 5))
    wanted = sum(
        e[0, 0][a] * e[0, 0][b] for i, a in enumerate(cells) for b in cells[:i] if touching(a, b)
    )
    assert sum(products(e, *lag) for lag in LAGS).item() == pytest.approx(wanted.item())


@given(SEEDS, st.floats(0.1, 1))
@MODERATE
def test_walks_are_those_on_the_graph_of_failing_dies(seed, share):
    fails = np.random.default_rng(seed).random((5, 6)) < share
    cells = np.argwhere(fails)
    near = [[float(abs(a - b).max() <= 1) for b in cells] for a in cells]  # a step may stay
    adjacency = np.array(near).reshape(len(cells), len(cells))
    image = view(np.where(fails, 2, 1).astype(np.uint8)[None])
    for k in (4, 12):
        wanted = np.log1p(np.linalg.matrix_power(adjacency, k).sum())
        assert statistic(f"walks_{k}", image).item() == pytest.approx(wanted, rel=1e-4)


@given(SEEDS, st.floats(0.05, 0.6))
@MODERATE
def test_cluster_numbers_are_those_of_a_library(seed, share):
    wafer = np.random.default_rng(seed).choice([1, 2], (9, 11), p=[1 - share, share])
    labels, count = ndimage.label(wafer == 2, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    sides = [
        max(b[0].stop - b[0].start, b[1].stop - b[1].start) for b in ndimage.find_objects(labels)
    ]
    image = view(wafer.astype(np.uint8)[None])
    found = [
        statistic(f"{n}", image).item()
        for n in ("largest_cluster", "cluster_extent", "cluster_mean")
    ]
    mean = (areas**2).sum() / max(areas.sum(), 1)
    wanted = np.log1p([areas.max(initial=0), max(sides, default=0), mean])
    assert found == pytest.approx(wanted.tolist(), rel=1e-5)


@given(SEEDS)
@MODERATE
def test_energies_are_those_of_a_library_and_residuals_of_a_flat_expectation_those_by_hand(seed):
    wafer = np.random.default_rng(seed).choice([0, 1, 2], (12, 14), p=[0.2, 0.6, 0.2]).astype("u1")
    dies, fails = wafer > 0, wafer == 2
    p = fails.sum() / dies.sum()
    r = np.where(dies, fails - p, 0.0)
    e = r / np.sqrt(p * (1 - p))
    image = view(wafer[None])
    seen = flat(image, float(p))
    for name, cells, sigma in (("residual_energy_1.2", r, 1.2), ("energy_2", e, 2.0)):
        soft = ndimage.gaussian_filter(
            cells, sigma, mode="constant", truncate=np.ceil(3 * sigma) / sigma
        )
        wanted = np.log1p(1e4 * (soft**2)[dies].mean())
        assert statistic(name, image, seen).item() == pytest.approx(wanted, rel=2e-3)
    lag = 1e4 * (r[:, 1:] * r[:, :-1]).sum() / dies.sum()
    wanted = np.sign(lag) * np.log1p(abs(lag))
    assert statistic("residual_lag_0", image, seen).item() == pytest.approx(
        wanted, rel=2e-3, abs=0.02
    )


def test_polar_bins_cut_a_disc_into_rings_of_equal_area_and_equal_sectors():
    y, x = np.mgrid[-40:41, -40:41] / 40.5
    disc = torch.from_numpy((y**2 + x**2 <= 1)[None]).float()
    bins = polar_bins(disc, SECTORS)[disc > 0]
    counts = torch.bincount(bins, minlength=RINGS * SECTORS).float()
    assert (counts / counts.mean() - 1).abs().max() < 0.25
    assert (counts.reshape(RINGS, SECTORS).sum(1) / disc.sum() * RINGS - 1).abs().max() < 0.05


@pytest.mark.parametrize("side", range(8, 33))
def test_no_die_changes_its_polar_bin_by_rounding(side):
    dies = torch.ones(1, side, side + side % 3)
    exact, rounded = polar_bins(dies.double(), SECTORS), polar_bins(dies, SECTORS)
    assert torch.equal(exact, rounded)


PATTERNS = {
    "lines": lambda y, x: abs(y - x) < 1,
    "rings": lambda y, x: abs(np.hypot(y - 11.5, x - 11.5) - 7) < 0.7,
    "sectors": lambda y, x: (np.hypot(y - 11.5, x - 11.5) > 9) & (y < 8),
    "moran": lambda y, x: (y < 6) & (x < 6),
    "walks_12": lambda y, x: (y < 6) & (x < 6),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_moves_its_statistic_above_the_same_fails_scattered(name):
    y, x = np.mgrid[:24, :24]
    rng = np.random.default_rng(0)
    kills = PATTERNS[name](y, x) | (rng.random((24, 24)) < 0.05)
    scattered = [rng.permutation(kills.ravel()).reshape(24, 24) for _ in range(40)]
    maps = np.where(np.stack([kills, *scattered]), 2, 1).astype(np.uint8)
    found = statistic(name, view(maps))
    assert (found[0] > found[1:] + 2 * found[1:].std()).all()


def test_numbers_of_any_image_are_the_means_they_say():
    x = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    image = torch.cat([x, torch.ones(3, 1, 8, 8)], 1)
    seen = Seen(torch.full_like(x, 0.5), x[:, 0], x[:, 0, 0, 0])
    far = (x - 0.5).abs()
    for name, wanted in (("l1", far.mean((1, 2, 3))), ("l2", far.square().mean((1, 2, 3)))):
        assert torch.allclose(statistic(name, image, seen), (1e4 * wanted).log1p())
    assert torch.allclose(statistic("surprise", image, seen), x[:, 0].sum((1, 2)))
    assert torch.equal(statistic("odds", image, seen), x[:, 0, 0, 0])


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


@pytest.mark.parametrize("name", STATISTICS)
def test_what_is_no_die_changes_no_statistic(name):
    rng = np.random.default_rng(0)
    image = view(rng.integers(0, 3, (6, 12, 12)).astype(np.uint8))
    expected, other, junk = torch.from_numpy(rng.random((3, 6, 1, 12, 12))).float()
    off = image[:, 1:] == 0
    cells, number = expected[:, 0], expected[:, 0, 0, 0]
    said = (cells, number, cells / 2, cells, cells / 3, number, cells, cells, number, number)
    noise = (torch.stack([cells, cells / 2], 1), cells, cells, number)
    wanted = statistic(name, image, Seen(expected, *said, *noise))
    fails = torch.where(off, junk, image[:, :1])
    seen = Seen(torch.where(off, other, expected), *said, *noise)
    found = statistic(name, torch.cat([fails, image[:, 1:]], 1), seen)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ON_MAPS)
def test_zeros_around_a_map_change_no_statistic(name):
    maps = np.random.default_rng(0).integers(0, 3, (4, 20, 18)).astype(np.uint8)
    own, padded = view(maps), view(np.pad(maps, ((0, 0), (3, 9), (0, 14))))
    assert statistic(name, own).numpy() == pytest.approx(statistic(name, padded).numpy(), rel=1e-4)


@pytest.mark.parametrize("value", [0, 1, 2])
@pytest.mark.parametrize("name", STATISTICS)
def test_a_map_of_one_value_has_finite_statistics(name, value):
    image = view(np.full((1, 70, 12), value, np.uint8))
    assert torch.isfinite(statistic(name, image, flat(image, 0.0))).all()


def test_what_a_model_says_in_nats_is_taken_as_it_is():
    image = view(np.full((2, 3, 4), 1, np.uint8))
    cells = torch.arange(24.0).reshape(2, 3, 4)
    seen = Seen(image[:, :1], cells, None, cells - 1, cells * 0 + 4, cells / 2, torch.ones(2) * 7)
    assert statistic("surprise", image, seen).tolist() == [66.0, 210.0]
    assert statistic("kl", image, seen).tolist() == [7.0, 7.0]
    assert statistic("ratio", image, seen).tolist() == [33.0, 105.0]
    assert statistic("standardised", image, seen).tolist() == pytest.approx([12 / 48**0.5] * 2)
    assert statistic("gain", image, seen).tolist() == [-66.0, -210.0]  # one level tells nothing


def test_distances_of_features_and_codes_are_told_on_a_log_scale_and_a_critic_as_it_is():
    image = view(np.full((2, 3, 4), 1, np.uint8))
    cells, number = torch.arange(24.0).reshape(2, 3, 4), torch.tensor([0.5, -3.0])
    seen = Seen(image[:, :1], features=cells, codes=number.abs(), unreal=number)
    wanted = (1e4 * torch.tensor([66.0, 210.0])).log1p()
    assert torch.allclose(statistic("features", image, seen), wanted)
    assert torch.allclose(statistic("codes", image, seen), (1e4 * number.abs()).log1p())
    assert torch.equal(statistic("unreal", image, seen), number)


def test_what_a_model_of_noise_says_is_a_mean_over_what_is_covered():
    image = view(np.array([[[1, 1, 0], [2, 0, 0]]], np.uint8))
    cells = torch.tensor([[[1.0, 2.0, 50.0], [6.0, 50.0, 50.0]]])
    errors, time = torch.stack([cells, cells * 1e-5], 1), torch.tensor([0.25])
    seen = Seen(image[:, :1], errors=errors, pull=cells / 3, inverted=cells * 2, time=time)
    wanted = {"denoising": np.log(3 * 3e-5) / 2, "pull": 0, "inversion": 6, "time": 0.25}
    for name, number in wanted.items():
        assert statistic(name, image, seen).item() == pytest.approx(number, abs=1e-5)


def test_an_error_that_is_twice_as_large_counts_alike_at_each_level():
    image = view(np.ones((1, 4, 4), np.uint8))
    errors = torch.stack([torch.full((1, 4, 4), size) for size in (1.0, 1e-6)], 1)
    sizes = [[1, 1], [2, 1], [1, 2]]
    told = [
        statistic("denoising", image, Seen(image[:, :1], errors=errors * times)).item()
        for times in torch.tensor(sizes)[:, None, :, None, None]
    ]
    assert told[1] - told[0] == pytest.approx(np.log(2) / 2, abs=1e-5)
    assert told[2] - told[0] == pytest.approx(np.log(2) / 2, abs=1e-5)
