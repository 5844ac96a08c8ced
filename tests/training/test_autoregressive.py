"""What both autoregressive models promise."""

import itertools
import math

import pytest
import torch

from inspect_ai.errors import BadSettings
from inspect_ai.models import pixelcnn, pixelrnn
from inspect_ai.training import outputs
from inspect_ai.training.budget import Budget
from inspect_ai.training.context import rectangle, so_far
from inspect_ai.training.descent import Run

CONFIGS = {"pixelcnn": pixelcnn.Config, "pixelrnn": pixelrnn.Config}
WANTED = frozenset({"usual", "varied", "background"})
MASKS = {
    "whole": [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
    "round": [[0, 1, 0], [1, 1, 1], [0, 1, 1]],
    "few": [[0, 0, 0], [0, 1, 1], [0, 0, 0]],
}


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


def fresh(name, grid=(3, 3), classes=0, **fields):
    torch.manual_seed(0)
    small = {"width": 4, "layers": 2, "output": "binary"}
    return CONFIGS[name](**small | fields).build(1, grid, classes)


def model(name, grid=(3, 3), **fields):
    """One with weights of which none is 0."""
    made = fresh(name, grid, **fields)
    with torch.no_grad():
        for key, weight in made.named_parameters():
            weight.add_((0.02 if key.endswith("own") else 0.3) * torch.randn(weight.shape))
    made.wanted = WANTED
    return made.eval()


def pictures(count=4, grid=(6, 5), coverage=None, seed=1):
    x = torch.rand(count, 1, *grid, generator=torch.Generator().manual_seed(seed))
    return torch.cat([x, torch.ones_like(x) if coverage is None else coverage], 1)


def every(values, cells):
    """All (values ** cells, cells) combinations."""
    return torch.tensor(list(itertools.product(range(values), repeat=cells)))


def fitted(made, images, steps=60, conditions=None, rate=0.02):
    """Trained on random parts of the images."""

    class Drawn:
        def chosen(self, step):
            return torch.randperm(len(images), generator=torch.Generator().manual_seed(step))[:32]

        def at(self, step):
            return images[self.chosen(step)]

        def condition(self, step):
            return None if conditions is None else conditions[self.chosen(step)]

    budget = Budget(steps=steps, batch_size=32, learning_rate=rate, average=0.8)
    made.wanted = WANTED
    return made.train().fit(Drawn(), Run(budget, lambda _, losses: None)).eval()


@pytest.mark.parametrize("shape", MASKS)
@pytest.mark.parametrize("told", [{}, {"so_far": False, "place": 0}])
@torch.no_grad()
def test_probabilities_of_all_binary_images_of_the_covered_cells_sum_to_1(name, shape, told):
    made, mask = model(name, **told), torch.tensor(MASKS[shape])
    cells = every(2, int(mask.sum()))
    images = torch.zeros(len(cells), 2, 3, 3)
    images[:, 0][:, mask > 0] = cells.float()
    images[:, 1] = mask
    p = (-made(images).surprise.double().sum((1, 2))).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert p.std() > 1e-4


@pytest.mark.parametrize("shape", MASKS)
@torch.no_grad()
def test_probabilities_of_all_states_of_a_rectangle_sum_to_1(name, shape):
    made, there = model(name, output="states"), torch.tensor(MASKS[shape])[None, None]
    mask = rectangle(there.float())[:, :, :3, :2] * 1.0
    cells = every(3, int(mask.sum()))
    values = torch.zeros(len(cells), 3, 2, dtype=torch.int64)
    values[:, mask[0, 0] > 0] = cells
    mask = mask.expand(len(cells), -1, -1, -1)
    nats = made.nats(made.model(values, mask, None), values, mask)
    assert (-nats.double().sum((1, 2))).exp().sum().item() == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_probabilities_of_all_images_of_four_levels_sum_to_1(name):
    made = model(name, (2, 2), output="levels", levels=4, mixture=2)
    cells = every(4, 4).reshape(-1, 1, 2, 2) / 3
    p = (-made(torch.cat([cells, torch.ones_like(cells)], 1)).surprise.double().sum((1, 2))).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (5, 4)])
@torch.no_grad()
def test_what_is_said_depends_on_earlier_cells_alone(name, place):
    made, images = model(name, (6, 5), output="levels", mixture=2), pictures(1)
    changed = images.clone()
    changed[0, 0, place[0], place[1]] = 1 - changed[0, 0, place[0], place[1]]
    moved = (made(images).expected != made(changed).expected)[0, 0].flatten()
    at = place[0] * 5 + place[1]
    assert not moved[: at + 1].any()
    assert moved[at + 1 : at + 2].all()  # at least its neighbour hears of it


@pytest.mark.parametrize("output", ["binary", "levels"])
@torch.no_grad()
def test_bits_per_dim_are_the_mean_surprise_of_the_covered_cells(name, output):
    coverage = (torch.rand(40, 1, 6, 5) > 0.4).float()
    made, images = model(name, (6, 5), output=output, levels=8), pictures(40, coverage=coverage)
    values = made.output.discretise(images)
    p = made.output.log_probs(made.model(values, coverage, None)).exp()
    own = p.gather(1, values[:, None])[:, 0]
    wanted = -own[coverage[:, 0] > 0].log2().mean()
    assert made.told(images, None)["bits_per_dim"] == pytest.approx(wanted.item(), rel=1e-4)


@torch.no_grad()
def test_usual_and_varied_are_moments_of_the_surprise_under_the_prediction(name):
    made, images = model(name, (6, 5), output="levels", levels=5), pictures()
    seen = made(images)
    params = made.model(made.output.discretise(images), images[:, 1:], None)
    n = torch.stack(
        [-made.output.log_prob(params, torch.full((4, 6, 5), k)) for k in range(5)], 1
    ).double()
    mean = ((-n).exp() * n).sum(1)
    torch.testing.assert_close(seen.usual.double(), mean, rtol=1e-4, atol=1e-5)
    square = ((-n).exp() * n.square()).sum(1)
    torch.testing.assert_close(seen.varied.double(), square - mean**2, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("output", ["binary", "states", "levels"])
@pytest.mark.parametrize("background", ["independent", "mutated"])
@torch.no_grad()
def test_what_is_not_covered_has_no_say(name, output, background):
    coverage = (torch.rand(4, 1, 6, 5) > 0.4).float()
    coverage[0] = 0
    made = model(name, (6, 5), output=output, background=background)
    known = pictures(coverage=coverage)
    junk = torch.cat([torch.where(coverage > 0, known[:, :1], 0.9), coverage], 1)
    for a, b in zip(made(known), made(junk), strict=True):
        assert a is b is None or torch.equal(a, b)
    seen, empty = made(junk), coverage == 0
    assert (seen.expected[empty] == 0).all()
    if output != "states":  # there, that no die is there is part of what is told
        for part in (seen.surprise, seen.usual, seen.varied, seen.background):
            assert (part[:, None][empty] == 0).all()


@torch.no_grad()
def test_fields_that_no_rule_reads_are_left_out(name):
    made = model(name, background="independent")
    made.wanted = frozenset()
    seen = made(pictures(grid=(3, 3)))
    assert seen.usual is seen.varied is seen.background is None
    assert "background" in made.gives
    assert "background" not in model(name).gives


def stripes(count=64, noise=0.03):
    """Columns of the same shade from the second row on: easy to foretell from the row above."""
    draw = torch.Generator().manual_seed(3)
    x = (torch.rand(count, 1, 1, 6, generator=draw) > 0.5).float().expand(-1, -1, 6, -1)
    flipped = torch.rand(x.shape, generator=draw) < noise
    x = torch.where(flipped, 1 - x, x)
    return torch.cat([x, torch.ones_like(x)], 1)


@pytest.mark.parametrize("background", ["independent", "mutated"])
def test_a_background_is_less_sure_than_the_model(name, background):
    made = fresh(name, (6, 6), background=background, width=8, mutation=0.3)
    told = fitted(made, stripes()).told(stripes(32), None)
    assert told["bits_per_dim"] < 0.5
    assert told["background_bits_per_dim"] > told["bits_per_dim"] + 0.1
    if background == "independent":
        assert told["background_bits_per_dim"] == pytest.approx(1, abs=0.1)


def test_mutation_redraws_the_share_that_is_asked_for_inside_the_mask_alone(name):
    made = model(name, (40, 40), background="mutated", mutation=0.2, output="levels", levels=4)
    values, mask = torch.zeros(20, 40, 40, dtype=torch.int64), torch.ones(20, 1, 40, 40)
    mask[:, :, :10] = 0
    found = made.mutated(values, mask)
    assert (found[:, :10] == 0).all()
    shares = [(found[:, 10:] == k).float().mean().item() for k in range(4)]
    assert shares == pytest.approx([0.85, 0.05, 0.05, 0.05], abs=0.01)


def test_each_product_is_told_apart(name):
    x = torch.cat([torch.zeros(32, 1, 4, 4), torch.ones(32, 1, 4, 4)])
    images, conditions = torch.cat([x, torch.ones_like(x)], 1), torch.arange(64) // 32
    made = fitted(fresh(name, (4, 4), 2, background="independent"), images, 80, conditions)
    own, other = (made(images, c).surprise[:, 0, 0] for c in (conditions, 1 - conditions))
    assert (own + 1 < other).all()  # the first cell: nothing but the condition tells it
    background = made(images, conditions).background.mean()
    assert background < made(images, 1 - conditions).background.mean() - 1


@pytest.mark.parametrize("output", ["binary", "states", "levels"])
def test_sampling_reproduces_the_seed_and_stays_on_the_covered_cells(name, output):
    made = model(name, (5, 4), output=output)
    like = pictures(2, (5, 4), torch.ones(2, 1, 5, 4))
    like[1, :, 3:] = 0
    one, two, other = (made.sample(like, seed) for seed in (0, 0, 1))
    assert one.shape == (2, 1, 5, 4)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert (one[1, :, 3:] == 0).all()
    assert one.min() >= 0
    assert one.max() <= 1


def test_samples_of_a_learnt_process_have_its_rate_and_its_order(name):
    made = fitted(fresh(name, (6, 6), width=8), stripes(256), steps=120)
    drawn = made.sample(stripes(100), seed=0)[:, 0]
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.08)
    alike = (drawn[:, 1:] == drawn[:, :-1]).float().mean().item()
    assert alike == pytest.approx(0.97**2 + 0.03**2, abs=0.06)


def test_the_mean_so_far_by_hand():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).reshape(1, 1, 2, 2)
    mask = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    means = [0, 1 / 9, 0, 1 / 10]
    wanted = [m / (m + 0.1) for m in means]
    assert so_far(x * mask, mask).flatten().tolist() == pytest.approx(wanted)


def test_the_rectangle_is_the_smallest_that_holds_what_is_there():
    there = torch.zeros(3, 1, 5, 6)
    there[0, 0, 1, 2] = there[0, 0, 3, 1] = 1
    there[1] = 1
    found = rectangle(there)
    assert found[0, 0].nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (1, 2)]
    assert (found[1] == 1).all()
    assert (found[2] == 0).all()


def test_pictures_stand_below_good_images_and_are_left_out_where_they_take_long(name):
    made = model(name, (6, 5), output="levels")
    sheet = made.pictures(pictures(12), None)["samples"]
    assert sheet.shape == (2, 8, 1, 6, 5)
    assert torch.equal(sheet[0], pictures(12)[:8, :1])
    assert made.pictures(pictures(2, (80, 80)), None) == {}


def test_more_than_one_channel_is_refused_with_what_to_do(name):
    with pytest.raises(BadSettings, match=r"3 channels.*Set channels = 1"):
        CONFIGS[name]().build(3, (8, 8))


@pytest.mark.parametrize(
    ("field", "value"),
    [("levels", 1), ("levels", 257), ("mixture", 0), ("mutation", 0.0), ("layers", 0)],
)
def test_impossible_sizes_are_refused(name, field, value):
    with pytest.raises(BadSettings, match=rf"'{field}'.*got {value}"):
        CONFIGS[name].checked({field: value}, "[model]")


def test_a_cell_that_is_hardly_covered_is_not_covered(name):
    images = pictures(1, (3, 3))
    images[0, 1, 1, 1] = outputs.COVERED / 2
    with torch.no_grad():
        seen = model(name)(images)
    assert seen.surprise[0, 1, 1] == 0
    assert math.isfinite(seen.surprise.sum())
