import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_detectors import agree, bin_maps, fitted, map_detector

from inspect_ai import parity
from inspect_ai.errors import BadSettings
from inspect_ai.models.nade import LEAST, Config, ordered
from inspect_ai.scoring import likelihood
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Run
from inspect_ai.training.detector import Single

ORDERS = ["raster", "spiral", "shuffled"]
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def model(grid=(3, 3), **fields):
    torch.manual_seed(0)
    return Config(**{"hidden": 5} | fields).build(1, grid)


def stirred(built, seed=1):
    """Every weight has a say."""
    torch.manual_seed(seed)
    for weight in built.parameters():
        torch.nn.init.normal_(weight)
    return built.eval()


def every_map(coverage):
    """All binary maps (2^n, 2, h, w) of the n covered cells of an (h, w) coverage."""
    inside = coverage.flatten() > 0
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=int(inside.sum()))))
    x = torch.zeros(len(states), coverage.numel())
    x[:, inside] = states
    x = x.reshape(-1, 1, *coverage.shape)
    return torch.cat([x, coverage.expand_as(x)], 1)


def random_maps(count=6, grid=(5, 7), seed=0, share=0.7):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, *grid, generator=draw)
    return torch.cat([x, (torch.rand(count, 1, *grid, generator=draw) < share).float()], 1)


class Blocks:
    """Maps of 6 x 6 cells: a top left cell that fails at random, and all others like it."""

    def __init__(self, size=32):
        self.size = size

    def at(self, step):
        draw = torch.Generator().manual_seed(step)
        x = (torch.rand(self.size, 1, 1, 1, generator=draw) < 0.5).float()
        return torch.cat([x.expand(-1, 1, 6, 6), torch.ones(self.size, 1, 6, 6)], 1)

    def condition(self, step):
        return None

    def first(self, steps):
        return np.concatenate([self.at(step).numpy() for step in range(steps)])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("hidden", [1, 5, 40])
@torch.no_grad()
def test_the_probabilities_of_all_512_maps_of_nine_cells_sum_to_one(order, hidden):
    seen = stirred(model(order=order, hidden=hidden))(every_map(torch.ones(3, 3)))
    p = torch.exp(-seen.surprise.double().sum((1, 2)))
    assert len(p) == 512
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert p.max() > 3 / 512  # they are not all alike


@given(st.integers(0, 2**9 - 1), st.sampled_from(ORDERS))
@FEW
@torch.no_grad()
def test_the_probabilities_of_all_maps_of_any_coverage_sum_to_one(bits, order):
    coverage = torch.tensor([float(bits >> i & 1) for i in range(9)]).reshape(3, 3)
    seen = stirred(model(order=order))(every_map(coverage))
    assert torch.exp(-seen.surprise.sum((1, 2))).sum().item() == pytest.approx(1, abs=1e-5)
    assert (seen.surprise[:, coverage == 0] == 0).all()


@torch.no_grad()
def test_the_likelihood_of_two_cells_by_hand():
    built = stirred(model((1, 2), hidden=2))
    W, V, b, c, U = (t.double().numpy() for t in (built.W, built.V, built.b, built.c, built.U))

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    start = c + U.sum(0)
    first = sigmoid(b[0] + V[0] @ sigmoid(start))
    for x0, x1 in itertools.product([0.0, 1.0], repeat=2):
        second = sigmoid(b[1] + V[1] @ sigmoid(start + x0 * W[1]))
        chances = [p if x else 1 - p for p, x in ((first, x0), (second, x1))]
        seen = built(torch.tensor([[[[x0, x1]], [[1.0, 1.0]]]]))
        assert seen.surprise.flatten().tolist() == pytest.approx(-np.log(chances), rel=1e-5)
        assert seen.expected.flatten().tolist() == pytest.approx([first, second], rel=1e-5)


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_what_is_expected_at_a_cell_depends_on_the_cells_before_it_alone(order):
    built, image = stirred(model((4, 5), order=order)), random_maps(1, (4, 5), share=1.0)
    for turn, cell in enumerate(built.order.tolist()):
        other = image.clone().flatten(2)
        other[0, 0, cell] = 1 - other[0, 0, cell]
        moved = built(other.reshape_as(image)).expected != built(image).expected
        later = built.order[turn + 1 :]
        assert not moved.flatten()[built.order[: turn + 1]].any()
        assert moved.flatten()[later].any() == bool(len(later))


@torch.no_grad()
def test_what_is_not_covered_has_no_say():
    built, known = stirred(model((5, 7), hidden=40)), random_maps()
    junk = known.clone()
    junk[:, :1] = torch.where(known[:, 1:] > 0, known[:, :1], 1 - known[:, :1])
    for one, two in zip(built(known), built(junk), strict=True):
        assert (one is None and two is None) or torch.equal(one, two)
    assert built.loss(known) == built.loss(junk)
    assert (built(known).expected[known[:, 1:] == 0] == 0).all()


@torch.no_grad()
def test_a_cell_fails_where_more_than_the_share_asked_for_fails():
    rates = torch.tensor([0.0, 0.2, 0.5, 0.5 + 1e-6, 0.52, 1.0])
    image = torch.stack([rates, torch.ones(6)])[None, :, None]
    assert model((1, 6)).bits(image).x.tolist() == [[0, 0, 0, 0, 1, 1]]
    assert model((1, 6), fails_above=0.0).bits(image).x.tolist() == [[0, 1, 1, 1, 1, 1]]
    slivers = torch.cat(
        [image[:, :1], LEAST * torch.tensor([0, 0.5, 0.9, 1.1, 1.1, 20.0])[None, None, None]], 1
    )
    found = model((1, 6)).bits(slivers)
    assert found.m.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert found.x.tolist() == [[0, 0, 0, 0, 1, 1]]


@torch.no_grad()
def test_usual_and_varied_are_the_moments_of_the_surprise_under_the_prediction():
    seen, image = stirred(model((5, 7)))(random_maps()), random_maps()
    p, w = seen.expected[:, 0].double(), image[:, 1]
    mean = -(p * p.log() + (1 - p) * (1 - p).log()).nan_to_num()
    square = (p * p.log() ** 2 + (1 - p) * (1 - p).log() ** 2).nan_to_num()
    np.testing.assert_allclose(seen.usual, w * mean, atol=1e-5)
    np.testing.assert_allclose(seen.varied, w * (square - mean**2), atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("grid", [(1, 1), (6, 6), (5, 8)])
def test_an_order_visits_every_cell_once(order, grid):
    found = ordered(order, grid, 3)
    assert sorted(found.tolist()) == list(range(grid[0] * grid[1]))


def test_the_spiral_goes_ring_by_ring_outwards_and_a_shuffle_depends_on_its_seed():
    assert ordered("spiral", (5, 5), 0)[0] == 12
    assert set(ordered("spiral", (5, 5), 0)[:9].tolist()) == {6, 7, 8, 11, 12, 13, 16, 17, 18}
    assert set(ordered("spiral", (4, 4), 0)[:4].tolist()) == {5, 6, 9, 10}
    assert torch.equal(ordered("shuffled", (6, 6), 1), ordered("shuffled", (6, 6), 1))
    assert not torch.equal(ordered("shuffled", (6, 6), 1), ordered("shuffled", (6, 6), 2))


def trained():
    built = model((6, 6), hidden=16, order="shuffled")
    budget = Budget(steps=400, learning_rate=3e-2, average=0.9)
    return built.fit(Blocks(), Run(budget, lambda *_: None)).eval().requires_grad_(False)


def test_it_learns_that_cells_hang_together_and_samples_say_so():
    built = trained()
    images = Blocks(64).at(10_000)
    nats = built(images).surprise.sum((1, 2))
    assert nats.mean().item() == pytest.approx(math.log(2), abs=0.35)  # one coin for 36 cells
    told = built.told(images, None)
    assert told["bits_per_dim"] < 0.05
    assert told["independent_bits_per_dim"] == pytest.approx(1, abs=0.02)
    drawn = built.sample(images[:60], 1)
    share = drawn.mean((1, 2, 3))
    assert ((share < 0.1) | (share > 0.9)).float().mean() > 0.9
    assert 0.25 < share.mean() < 0.75


@torch.no_grad()
def test_it_starts_from_independent_dies_at_their_own_rates():
    built = model((5, 7), hidden=16)
    images = random_maps(400, share=1.0)
    images[:, 0] = (images[:, 0] < torch.linspace(0.1, 0.9, 7)).float()
    built.begin(images)
    seen = built(images[:20])
    np.testing.assert_allclose(built.alone.sigmoid().reshape(5, 7), images[:, 0].mean(0), atol=0.01)
    assert (seen.surprise - seen.background).abs().max() < 0.4
    assert abs((seen.surprise - seen.background).mean()) < 0.02


@torch.no_grad()
def test_samples_come_from_the_models_own_distribution():
    built, like = stirred(model((1, 3))), torch.tensor([[[[0.0, 0, 0]], [[1.0, 1, 0]]]])
    many = like.expand(4000, -1, -1, -1)
    drawn = built.sample(many, 0)
    assert (drawn[..., 2] == 0).all()
    found = torch.bincount((drawn[:, 0, 0, 0] * 2 + drawn[:, 0, 0, 1]).long(), minlength=4) / 4000
    maps = every_map(like[0, 1])
    wanted = torch.exp(-built(maps).surprise.sum((1, 2)))
    assert (found - wanted).abs().max() < 0.03
    assert torch.equal(drawn, built.sample(many, 0))
    assert not torch.equal(drawn, built.sample(many, 1))


@torch.no_grad()
def test_pictures_are_grey_levels_in_two_rows():
    sheets = stirred(model((5, 7))).pictures(random_maps(11), None)
    assert set(sheets) == {"samples", "expected"}
    for sheet in sheets.values():
        assert sheet.shape == (2, 8, 1, 5, 7)
        assert sheet.min() >= 0
        assert sheet.max() <= 1


@pytest.mark.parametrize(
    ("hidden", "grid", "advice"),
    [
        (300, (32, 32), r"at most 873 cells, or hidden of at most 256"),
        (64, (128, 128), r"at most 4096 cells, or hidden of at most 16"),
        (1, (1000, 1000), r"at most 262144 cells\.$"),
    ],
)
def test_a_map_that_needs_too_much_memory_is_refused_with_what_fits(hidden, grid, advice):
    with pytest.raises(BadSettings, match=rf"hidden = {hidden} on a grid.*Use a grid of {advice}"):
        Config(hidden=hidden).build(1, grid)
    Config(hidden=256).build(1, (32, 32))


@pytest.mark.parametrize("field", [{"hidden": 0}, {"order": "random"}, {"fails_above": 1.0}])
def test_impossible_settings_are_refused(field):
    with pytest.raises(BadSettings, match=next(iter(field))):
        Config.checked(field, "[model]")


@pytest.mark.slow
def test_onnx_gives_the_same_likelihood_of_1024_cells(tmp_path):
    """A hundred times closer than the gate asks for: the long sums are the same."""
    pixels, labels = bin_maps()
    good = pixels[labels == "none"]
    dies = map_detector("nade", {"hidden": 40})
    rule = likelihood.Config(rule="likelihood").build(1, (32, 32))
    detector = fitted(Single(dies.preprocess, dies.model, rule).eval(), good[:100])
    parity.to_onnx(detector, pixels[:3], tmp_path / "model.onnx")
    shown = np.concatenate([good[100:140], pixels[labels != "none"][:60]])
    theirs = parity.scorer(tmp_path / "model.onnx")
    found, wanted = theirs(shown), detector.score(shown)
    spread = wanted.pred_score[:40].std()
    np.testing.assert_allclose(found.pred_score, wanted.pred_score, atol=1e-5 * spread)
    np.testing.assert_allclose(found.expected, wanted.expected, atol=1e-5)
    larger = np.pad(shown[:2], ((0, 0), (0, 0), (0, 9), (0, 5)))
    agree(detector, theirs, (shown, larger, np.zeros_like(larger)))
