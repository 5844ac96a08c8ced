import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from inspect_ai import parity
from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.preprocess import Preprocess, View
from inspect_ai.scoring.diffusion import Config
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.settings import Settings
from inspect_ai.training.detector import Model, Single

GRID = (6, 8)
MODERATE = settings(max_examples=40, deadline=None, derandomize=True)
BOTH_PER = pytest.mark.parametrize("per", ["image", "cell"])


def rule(**fields):
    return Config(rule="diffusion", **fields).build(1, GRID)


def good(n=40, seed=0, coverage=None):
    """Images and errors at three levels, of which each is ten times as large as the next."""
    draw = torch.Generator().manual_seed(seed)
    x, expected, pull, inverted = torch.rand(4, n, 1, *GRID, generator=draw)
    w = torch.ones(n, 1, *GRID) if coverage is None else coverage.expand(n, 1, *GRID)
    sizes = torch.tensor([1.0, 0.1, 0.01])[:, None, None]
    errors = sizes * torch.randn(n, 3, *GRID, generator=draw).square() * (w > 0)
    time = torch.rand(n, generator=draw)
    fields = {"pull": pull[:, 0], "inverted": inverted[:, 0], "time": time}
    return torch.cat([x, w], 1), Seen(expected, errors=errors, **fields)


def some(pair, rows):
    image, seen = pair
    said = {name: v if v is None else v[rows] for name, v in seen._asdict().items()}
    return image[rows], Seen(**said)


def cells(*values):
    """One row of cells at each of several levels: (1, K, 1, W)."""
    return torch.tensor(values)[None, :, None, :]


def test_the_score_is_the_mean_over_levels_of_deviations_from_good_images():
    image = torch.ones(3, 2, 1, 2)
    errors = torch.cat([cells([1.0, 3], [10, 10]), cells([2.0, 4], [20, 40])])
    made = rule()
    made.fit([(image[:2], Seen(image[:2, :1], errors=errors))])
    assert made.mean.tolist() == [2.5, 20]  # level by level, of 2 and 3, of 10 and 30
    assert made.spread.tolist() == pytest.approx([0.5**0.5, 200**0.5])
    odd = Seen(image[2:, :1], errors=cells([4.0, 5], [20, 30]))
    score, shown = made(image[2:], odd)
    assert score.item() == pytest.approx((2 / 0.5**0.5 + 5 / 200**0.5) / 2)
    first, second = 4 / 0.5**0.5 + 20 / 200**0.5, 5 / 0.5**0.5 + 30 / 200**0.5
    assert shown[0, 0].tolist() == pytest.approx([first / 2, second / 2])


def test_the_level_that_finds_most_decides_if_it_is_asked_to():
    made, image = rule(over="max"), torch.ones(3, 2, 1, 2)
    errors = torch.cat([cells([1.0, 3], [10, 10]), cells([2.0, 4], [20, 40])])
    made.fit([(image[:2], Seen(image[:2, :1], errors=errors))])
    score, _ = made(image[2:], Seen(image[2:, :1], errors=cells([4.0, 5], [20, 30])))
    assert score.item() == pytest.approx(2 / 0.5**0.5)


def test_by_cell_each_cell_of_each_level_has_a_mean_and_deviation_of_its_own():
    image = torch.ones(4, 2, 1, 2)
    errors = torch.tensor([[1.0, 10], [3, 30], [1, 20], [3, 20]]).reshape(4, 1, 1, 2)
    made = rule(per="cell")
    made.fit([(image, Seen(image[:, :1], errors=errors))])
    assert made.mean.flatten().tolist() == [2, 20]
    assert made.spread.flatten().tolist() == pytest.approx([1, 50**0.5])
    score, shown = made(image[:1], Seen(image[:1, :1], errors=cells([4.0, 10])))
    assert score.item() == pytest.approx((2 - 10 / 50**0.5) / 2)
    assert shown.flatten().tolist() == pytest.approx([2, 0])  # what is below the usual is not odd


def test_a_cell_that_never_varied_has_a_tenth_of_the_deviation_of_its_level():
    image, errors = torch.ones(2, 2, 1, 3), torch.ones(2, 2, 1, 3)
    errors[0, 0, 0, :2] = 7  # level 0 varies by 3 in two cells of three, level 1 in none
    made = rule(per="cell")
    made.fit([(image, Seen(image[:, :1], errors=errors))])
    assert made.spread[0, 0].tolist() == pytest.approx([3, 3, 0.2])
    assert made.spread[1, 0].tolist() == pytest.approx([1e-3] * 3)


@pytest.mark.parametrize("pooling", ["mean", "max", "top"])
@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_good_images_have_z_scores_of_mean_0_and_deviation_1_at_each_level(pooling, blur):
    image, seen = good()
    for level in range(3):
        one = seen._replace(errors=seen.errors[:, level : level + 1])
        made = rule(blur=blur, pooling={"kind": pooling, "share": 0.1})
        made.fit([(image, one)])
        score, _ = made(image, one)
        assert score.mean().item() == pytest.approx(0, abs=1e-5)
        assert score.std().item() == pytest.approx(1, abs=1e-5)


def test_good_images_have_z_scores_of_mean_0_and_deviation_1_in_each_cell():
    image, seen = good(200)
    one = seen._replace(errors=seen.errors[:, :1])
    made = rule(per="cell")
    made.fit([(image, one)])
    z = (one.errors - made.mean) / made.spread
    assert z.mean(0).numpy() == pytest.approx(0, abs=1e-5)
    assert z.std(0, unbiased=False).numpy() == pytest.approx(1, abs=1e-5)
    score, _ = made(image, one)
    assert torch.allclose(score, z.mean((1, 2, 3)), atol=1e-5)


@BOTH_PER
def test_a_level_counts_the_same_in_any_unit(per):
    image, seen = good()
    other = seen._replace(errors=seen.errors * torch.tensor([7.0, 1e-3, 400])[:, None, None])
    scores = []
    for said in (seen, other):
        made = rule(per=per)
        made.fit([(image, said)])
        scores.append(made(image, said)[0])
    assert scores[0].numpy() == pytest.approx(scores[1].numpy(), abs=1e-4)


@given(
    st.lists(st.integers(1, 39), max_size=5), st.integers(0, 99), st.sampled_from(["image", "cell"])
)
@MODERATE
def test_batches_of_any_cut_and_order_teach_the_same(cuts, seed, per):
    rng = np.random.default_rng(seed)
    coverage = torch.from_numpy(rng.choice([0.0, 0.5, 1.0], (40, 1, *GRID)).astype(np.float32))
    pair = good(seed=seed, coverage=coverage)
    order = torch.from_numpy(rng.permutation(40))
    whole, cut = rule(per=per), rule(per=per)
    whole.fit([pair])
    edges = [0, *sorted(set(cuts)), 40]
    cut.fit(some(pair, order[a:b]) for a, b in pairwise(edges))
    assert torch.allclose(whole.mean, cut.mean, rtol=1e-6)
    assert torch.allclose(whole.spread, cut.spread, rtol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"per": "cell"}, {"blur": 1.0}, {"kind": "inversion"}])
def test_an_image_scores_the_same_whatever_lies_beside_it(fields):
    pair = good()
    made = rule(**fields)
    made.fit([pair])
    together = made(*pair)
    for i in (0, 7):
        alone = made(*some(pair, slice(i, i + 1)))
        assert torch.allclose(alone[0], together[0][i : i + 1], atol=1e-6)
        assert torch.allclose(alone[1], together[1][i : i + 1], atol=1e-6)


@BOTH_PER
@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_a_spot_of_larger_errors_has_its_peak_in_the_map_and_a_larger_score(per, blur):
    image, seen = good()
    spot = seen.errors.clone()
    spot[:, :, 2, 5] += torch.tensor([30.0, 3, 0.3])
    for kind in ("mean", "max"):
        made = rule(per=per, blur=blur, pooling={"kind": kind})
        made.fit([(image, seen)])
        score, shown = made(image, seen._replace(errors=spot))
        assert (shown.flatten(1).argmax(1) == 2 * GRID[1] + 5).all()
        assert (shown >= 0).all()
        assert (score > made(image, seen)[0]).all()


@given(st.integers(0, 99))
@MODERATE
def test_the_mean_of_the_map_is_the_score_up_to_a_constant(seed):
    coverage = torch.from_numpy(np.random.default_rng(seed).random((40, 1, *GRID))).float()
    image, seen = good(seed=seed, coverage=coverage)
    made = rule()
    made.fit([(image, seen)])
    score, shown = made(image, seen)
    apart = shown.sum((1, 2)) / image[:, 1].sum((1, 2)) - score
    assert apart.numpy() == pytest.approx((made.mean / made.spread).mean().item(), rel=1e-4)


EVERY = [
    {},
    {"over": "max"},
    {"per": "cell"},
    {"per": "cell", "over": "max"},
    {"kind": "pull"},
    {"kind": "inversion"},
    {"kind": "inversion", "sides": "both"},
]
POOLED = [
    {},
    {"blur": 1.2},
    {"blur": 1.2, "pooling": {"kind": "max"}},
    {"pooling": {"kind": "top", "share": 0.05}},
]


@pytest.mark.parametrize("fields", EVERY)
@pytest.mark.parametrize("pooled", POOLED)
def test_what_is_not_covered_has_no_say(fields, pooled):
    draw = torch.Generator().manual_seed(1)
    coverage = (torch.rand(40, 1, *GRID, generator=draw) > 0.3).float()
    image, seen = good(coverage=coverage)
    off = coverage == 0
    junk = seen._replace(
        errors=torch.where(off, 1e3, seen.errors),
        pull=torch.where(off[:, 0], 1e3, seen.pull),
        inverted=torch.where(off[:, 0], 1e3, seen.inverted),
    )
    clean, dirty = rule(**fields, **pooled), rule(**fields, **pooled)
    clean.fit([(image, seen)])
    dirty.fit([(image, junk)])
    wanted, found = clean(image, seen), dirty(image, junk)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert (found[1][off[:, 0]] == 0).all()
    assert torch.isfinite(found[0]).all()


def test_cells_that_fewer_than_two_good_images_cover_are_taken_for_usual_ones():
    coverage = torch.ones(40, 1, *GRID)
    coverage[1:, ..., :4] = 0
    image, seen = good(coverage=coverage)
    made = rule(per="cell")
    made.fit([(image, seen)])
    typical = made.spread[..., 4:].mean((1, 2))
    for level, size in enumerate((1.0, 0.1, 0.01)):
        assert made.spread[level, :, :4].numpy() == pytest.approx(typical[level].item())
        assert made.mean[level, :, :4].numpy() == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 0.3])
@BOTH_PER
def test_a_level_that_is_the_same_for_all_good_images_gives_finite_scores(value, per):
    image, seen = good()
    errors = seen.errors.clone()
    errors[:, 1] = value
    made = rule(per=per)
    made.fit([(image, seen._replace(errors=errors))])
    for said in (errors, seen.errors):
        score, shown = made(image, seen._replace(errors=said))
        assert torch.isfinite(score).all()
        assert torch.isfinite(shown).all()
    usual, _ = made(image, seen._replace(errors=errors))
    assert usual.abs().max() < 10  # it says nothing of images that are as good ones are


def test_an_image_without_coverage_scores_a_finite_number():
    image, seen = good()
    for fields in EVERY:
        made = rule(**fields)
        made.fit([(image, seen)])
        bare = torch.cat([image[:1, :1], image[:1, 1:] * 0], 1)
        score, shown = made(bare, some((image, seen), slice(0, 1))[1])
        assert torch.isfinite(score).all()
        assert (shown == 0).all()


def test_the_score_norm_is_pooled_as_it_is():
    image, seen = good()
    score, shown = rule(kind="pull")(image, seen)
    assert torch.allclose(score, seen.pull.mean((1, 2)))
    assert torch.equal(shown, seen.pull)
    most, _ = rule(kind="pull", pooling={"kind": "max"})(image, seen)
    assert torch.equal(most, seen.pull.amax((1, 2)))


def test_an_inversion_is_its_nats_a_cell_and_looks_at_the_side_that_is_asked_for():
    image, seen = good()
    nats = seen.inverted.mean((1, 2))
    assert torch.allclose(rule(kind="inversion")(image, seen)[0], nats)
    assert torch.allclose(rule(kind="inversion", sides="low")(image, seen)[0], -nats)
    made = rule(kind="inversion", sides="both")
    made.fit([some((image, seen), slice(0, 15)), some((image, seen), slice(15, 40))])
    score, shown = made(image, seen)
    assert torch.allclose(score, (nats - nats.mean()).abs() / nats.std(), atol=1e-4)
    assert torch.equal(shown, seen.inverted)
    silent, _ = made(image, seen._replace(inverted=seen.inverted * 0))
    assert (silent > 5).all()  # too little noise is as odd as too much


def test_a_time_is_taken_as_it_is_and_has_no_place_on_the_map():
    coverage = torch.ones(40, 1, *GRID)
    coverage[..., 4:] = 0
    image, seen = good(coverage=coverage)
    made = rule(kind="time")
    made.fit([])
    score, shown = made(image, seen)
    assert torch.equal(score, seen.time)
    assert torch.allclose(shown[..., :4], (image[:, 0] - seen.expected[:, 0]).abs()[..., :4])
    assert (shown[..., 4:] == 0).all()


def test_a_time_can_be_odd_on_either_side():
    image, seen = good(3)
    both, low = (rule(kind="time", sides=sides) for sides in ("both", "low"))
    both.fit([(image, seen._replace(time=torch.tensor([0.2, 0.3, 0.4])))])
    odd = seen._replace(time=torch.tensor([0.1, 0.3, 0.5]))
    torch.testing.assert_close(
        both(image, odd)[0], torch.tensor([2.0, 0.0, 2.0]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(low(image, odd)[0], torch.tensor([-0.1, -0.3, -0.5]))


def test_a_rule_asks_for_what_its_kind_reads():
    kinds = ("error", "pull", "inversion", "time")
    asked = [rule(kind=kind).needs for kind in kinds]
    assert asked == [("errors",), ("pull",), ("inverted",), ("time",)]
    assert not any(rule(kind=kind).at_dies or rule(kind=kind).any_size for kind in kinds)


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"sides": "both"}, "'sides' is of no effect with kind = 'error'.* kind = inversion"),
        ({"kind": "pull", "per": "cell"}, "'per' is of no effect .* use kind = error"),
        ({"kind": "inversion", "over": "max"}, "'over' is of no effect .* use kind = error"),
        ({"kind": "time", "blur": 1.0}, "'blur' .* error or pull or inversion"),
        ({"kind": "time", "pooling": {"kind": "max"}}, "'pooling' .* error or pull or inversion"),
        ({"blur": -1}, "blur"),
        ({"kind": "noise"}, "kind"),
        ({"per": "level"}, "per"),
    ],
)
def test_a_setting_that_changes_nothing_or_is_unknown_is_refused(fields, advice):
    class Run(Settings):
        score: Config

    with pytest.raises(BadSettings, match=advice):
        Run.checked({"score": {"rule": "diffusion", **fields}}, "run")


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("fields", [{}, {"per": "cell"}, {"kind": "inversion", "sides": "both"}])
def test_too_few_good_images_for_what_is_usual_are_refused(fields, count):
    pairs = [some(good(), slice(0, 1))] * count
    with pytest.raises(
        MissingData, match=rf"{count} good image.* 2 or more\. Add images, or raise 'held_out'"
    ):
        rule(**fields).fit(pairs)


@given(
    st.floats(1e-6, 1e6),
    st.floats(1e-4, 2.0),
    st.integers(2, 6),
    st.integers(1, 5),
    st.sampled_from(["image", "cell"]),
)
@MODERATE
def test_scores_of_any_size_of_errors_are_finite_and_grow_with_them(size, spread, n, levels, per):
    draw = torch.Generator().manual_seed(0)
    errors = size * torch.exp(spread * torch.randn(n, levels, *GRID, generator=draw))
    image = torch.ones(n, 2, *GRID)
    assume(errors.isfinite().all())
    made = rule(per=per)
    made.fit([(image, Seen(image[:, :1], errors=errors))])
    score, shown = made(image, Seen(image[:, :1], errors=errors))
    larger, _ = made(image, Seen(image[:, :1], errors=errors * 1.1))
    assert torch.isfinite(shown).all()
    assert (shown >= 0).all()
    assert (larger > score).all()


@BOTH_PER
def test_a_fitted_rule_comes_back_from_its_saved_numbers(per):
    pair = good()
    made = rule(per=per)
    made.fit([pair])
    for fresh in (rule(per=per), copy.deepcopy(rule(per=per))):
        around = nn.ModuleDict({"rule": fresh})
        around.load_state_dict({f"rule.{k}": v.clone() for k, v in made.state_dict().items()})
        for mine, theirs in zip(fresh(*pair), made(*pair), strict=True):
            assert torch.equal(mine, theirs)


EXPORTED = [
    {},
    {"over": "max", **POOLED[2]},
    {"per": "cell", **POOLED[1]},
    {"per": "cell", "over": "max", **POOLED[3]},
    {"kind": "pull", **POOLED[3]},
    {"kind": "inversion", "sides": "both"},
    {"kind": "time"},
]


class Noisy(Model):
    """Errors of noise that follow from the image."""

    gives = ("errors", "pull", "inverted", "time")

    def fit(self, batches, run):
        return self

    def forward(self, images, condition=None):
        x, w = images[:, 0], images[:, 1]
        errors = torch.stack([(x - 0.1 * k).square() * w for k in range(1, 4)], 1)
        fields = {"pull": x * w, "inverted": (1 - x).square() * w, "time": x.mean((1, 2))}
        return Seen(images[:, :1] / 2, errors=errors, **fields)


class Several(Rule):
    """All kinds in one graph: a weighted sum of their bounded scores, and the sum of maps."""

    needs = Noisy.gives

    def __init__(self):
        super().__init__()
        self.rules = nn.ModuleList(rule(**fields) for fields in EXPORTED)

    def fit(self, pairs):
        found = list(pairs)
        for one in self.rules:
            one.fit(found)

    def forward(self, image, seen):
        said = [one(image, seen) for one in self.rules]
        scores = torch.stack([score for score, _ in said], 1)
        weights = 1 + torch.arange(len(said)) / 7  # no two can make up for one another
        bounded = scores / (1 + scores.abs()) * weights
        return bounded.sum(1), torch.stack([shown for _, shown in said]).sum(0)


@pytest.mark.slow
def test_every_kind_exports(tmp_path):
    fields = {"channels": 1, "minimum": 0, "maximum": 255, "resize": "stretch", "grid": (16, 16)}
    made = Single(Preprocess(View(kind="picture", **fields)), Noisy(), Several()).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 1, 20, 18)).astype(np.uint8)
    made.rule.fit([made.look(torch.from_numpy(pixels[:60]))])
    parity.to_onnx(made, pixels[:3], tmp_path / "model.onnx")
    theirs, spread = parity.scorer(tmp_path / "model.onnx"), made.score(pixels).pred_score.std()
    for part in (pixels[60:], pixels[60:61]):
        a, b = made.score(part), theirs(part)
        np.testing.assert_allclose(b.pred_score, a.pred_score, atol=parity.TOLERANCE * spread)
        near = 1e-5 * float(np.abs(a.anomaly_map).max())
        np.testing.assert_allclose(b.anomaly_map, a.anomaly_map, rtol=1e-4, atol=near)
