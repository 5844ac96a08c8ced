import math

import pytest
import torch

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.scoring.likelihood import Config, code_length
from inspect_ai.scoring.pooling import Pooling
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings


def pair(coverage=None):
    """Two images of 3 x 4 cells with surprises from -5 to 6, and the coverage."""
    surprise = torch.stack([torch.arange(-5.0, 7.0), torch.arange(12.0)]).reshape(2, 3, 4)
    w = torch.ones(2, 1, 3, 4) if coverage is None else coverage.expand(2, 1, 3, 4)
    return torch.cat([torch.rand(2, 1, 3, 4), w], 1), Seen(torch.rand(2, 1, 3, 4), surprise)


def told(n, usual=0.0, varied=1.0, background=0.0, seed=0):
    """Images of n covered cells in a row, and what a model says of them."""
    cells = torch.randn(40, 1, n, generator=torch.Generator().manual_seed(seed))
    image = torch.cat([torch.rand(40, 1, 1, n), torch.ones(40, 1, 1, n)], 1)
    flat = torch.ones_like(cells)
    fields = {"usual": usual * flat, "varied": varied * flat, "background": background * flat}
    return image, Seen(image[:, :1], cells, kl=cells[:, 0, 0], slope=cells.abs(), **fields)


def rule(**fields):
    return Config(rule="likelihood", **fields).build(1, (3, 4))


def test_the_score_is_the_sum_of_the_surprise():
    score, anomaly_map = rule()(*pair())
    assert score.tolist() == [6.0, 66.0]
    assert torch.equal(anomaly_map, pair()[1].surprise)


def test_a_cell_without_coverage_counts_in_the_sum_but_is_not_shown():
    coverage = torch.ones(3, 4)
    coverage[2, 3] = 0
    score, anomaly_map = rule()(*pair(coverage))
    assert score.tolist() == [6.0, 66.0]  # what the model dealt out is kept whole
    assert anomaly_map[:, 2, 3].tolist() == [0.0, 0.0]
    assert anomaly_map[1, 0, 1] == 1


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        (Pooling(kind="max"), [6.0, 11.0]),
        (Pooling(kind="top", share=0.25), [5.0, 10.0]),
        (Pooling(kind="mean"), [0.5, 5.5]),
    ],
)
def test_with_pooling_the_odd_cells_count(pooling, wanted):
    assert rule(pooling=pooling)(*pair())[0].tolist() == pytest.approx(wanted)


def test_with_pooling_a_cell_without_coverage_never_wins():
    coverage = torch.ones(3, 4)
    coverage[2] = 0
    assert rule(pooling=Pooling(kind="max"))(*pair(coverage))[0].tolist() == [2.0, 7.0]


def test_it_needs_a_model_that_says_how_surprised_it_is():
    assert rule().needs == ("surprise",)


def test_an_unknown_key_is_refused_with_those_there_are():
    class Run(Settings):
        score: Config

    with pytest.raises(BadSettings, match=r"unknown key. Known keys beside it: .*pooling, .*rule"):
        Run.checked({"score": {"rule": "likelihood", "window": 1.0}}, "run.toml")


def test_typicality_is_the_distance_of_the_rate_from_that_of_good_images():
    image, seen = told(50)
    made = rule(kind="typicality")
    made.fit([(image[:30], seen._replace(surprise=seen.surprise[:30])), (image, seen)])
    mean = torch.cat([seen.surprise[:30], seen.surprise]).mean((1, 2)).mean()
    score, _ = made(image, seen)
    assert torch.allclose(score, (seen.surprise.mean((1, 2)) - mean).abs(), atol=1e-6)
    assert (score >= 0).all()


def test_standardised_counts_deviations_from_what_the_model_expects_of_itself():
    image, seen = told(50, usual=0.5, varied=4.0)
    score, anomaly_map = rule(kind="standardised")(image, seen)
    assert torch.allclose(score, (seen.surprise.sum((1, 2)) - 25) / 200**0.5, atol=1e-5)
    assert torch.allclose(anomaly_map, (seen.surprise - 0.5).abs() / 2)


def test_thresholded_counts_only_what_is_more_surprising_than_nearly_all_good_cells():
    image, seen = told(100)
    made = rule(kind="thresholded", quantile=0.9)
    made.fit([(image, seen)])
    assert made.limit.item() == pytest.approx(seen.surprise.quantile(0.9).item())
    score, anomaly_map = made(image, seen)
    assert (anomaly_map > 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.allclose(score, (seen.surprise - made.limit).clamp(min=0).sum((1, 2)))


def test_cells_that_are_not_covered_set_no_threshold():
    image, seen = told(10)
    image[:, 1, :, 5:] = 0
    loud = torch.where(image[:, 1] > 0, seen.surprise, torch.tensor(99.0))
    made = rule(kind="thresholded", quantile=0.99)
    made.fit([(image, seen._replace(surprise=loud))])
    assert made.limit < 5


def test_the_ratio_is_the_surprise_beyond_a_background_models():
    image, seen = told(20, background=0.25)
    score, anomaly_map = rule(kind="ratio")(image, seen)
    assert torch.allclose(score, seen.surprise.sum((1, 2)) - 5, atol=1e-5)
    assert torch.allclose(anomaly_map, seen.surprise - 0.25)


@pytest.mark.parametrize("kind", ["kl", "slope"])
def test_the_codes_cost_and_the_slope_are_scores_of_their_own(kind):
    image, seen = told(400)
    score, _ = rule(kind=kind)(image, seen)
    top = seen.slope.flatten(1).topk(2).values.mean(1)  # half a percent of 400 cells
    assert torch.allclose(score, seen.kl if kind == "kl" else top)


def test_both_sides_finds_images_that_are_too_likely():
    image, seen = told(60)
    made = rule(sides="both")
    made.fit([(image, seen)])
    far = torch.stack([seen.surprise[0] * 0 + 9, seen.surprise[0] * 0 - 9])
    score, _ = made(image[:2], Seen(image[:2, :1], far))
    total = seen.surprise.sum((1, 2))
    wanted = (torch.tensor([540.0, -540.0]) - total.mean()).abs() / total.std()
    assert torch.allclose(score, wanted, rtol=1e-4)
    assert (score > 20).all()


def test_the_low_side_is_the_high_one_turned():
    image, seen = told(60)
    high, low = (rule(kind="ratio", sides=side)(image, seen)[0] for side in ("high", "low"))
    assert torch.equal(high, -low)


def test_a_simple_coder_needs_the_entropy_of_the_levels():
    image = torch.zeros(2, 2, 4, 8)
    image[:, 1] = 1
    image[0, 0, :1] = 1  # a quarter of the cells are 1
    wanted = -32 * (0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert code_length(image, "levels").tolist() == pytest.approx([wanted, 0.0], rel=1e-5)


def test_a_simple_coder_of_differences_finds_a_ramp_simple_and_noise_not():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 8, 32)
    noise = ramp.flatten()[torch.randperm(256)].reshape(1, 1, 8, 32)
    images = torch.cat([torch.cat([x, torch.ones_like(x)], 1) for x in (ramp, noise)])
    levels, differences = (code_length(images, coder) for coder in ("levels", "differences"))
    assert levels[0] == pytest.approx(levels[1].item(), rel=1e-4)
    assert differences[0] < 0.1 * differences[1]


def test_what_is_not_covered_costs_the_coder_nothing():
    image = torch.rand(3, 2, 6, 6)
    image[:, 1] = (torch.rand(3, 6, 6) > 0.4).float()
    other = image.clone()
    other[:, 0] = torch.where(image[:, 1] > 0, image[:, 0], torch.rand(3, 6, 6))
    for coder in ("levels", "differences"):
        assert torch.allclose(code_length(image, coder), code_length(other, coder))


def test_corrected_takes_off_what_complexity_explains():
    image, seen = told(64)
    score, _ = rule(kind="corrected")(image, seen)
    wanted = seen.surprise.sum((1, 2)) - code_length(image, "levels")
    assert torch.allclose(score, wanted)


@pytest.mark.parametrize("alike", ["level", "complexity"])
def test_conditioned_scores_do_not_follow_what_images_have_in_common(alike):
    """A likelihood that grows with the fail count: among images of one count it says nothing."""
    draw = torch.Generator().manual_seed(1)
    share = 0.02 + 0.4 * torch.rand(600, 1, 1, generator=draw)
    fails = (torch.rand(600, 10, 10, generator=draw) < share).float()
    image = torch.stack([fails, torch.ones_like(fails)], 1)
    noise = 0.3 * torch.randn(600, 10, 10, generator=draw)
    seen = Seen(image[:, :1], 3 * fails + noise)
    raw, _ = rule()(image, seen)
    made = rule(kind="conditioned", alike=alike)
    made.fit([(image, seen)])
    z, _ = made(image, seen)
    count = fails.sum((1, 2))
    assert torch.corrcoef(torch.stack([raw, count]))[0, 1] > 0.95
    assert torch.corrcoef(torch.stack([z, count]))[0, 1].abs() < 0.15
    assert z.std().item() == pytest.approx(1, abs=0.15)


def test_too_few_good_images_for_what_is_usual_are_refused():
    image, seen = told(8)
    with pytest.raises(
        MissingData, match=r"1 good image.* 2 or more\. Add images, or raise 'held_out'"
    ):
        rule(kind="typicality").fit([(image[:1], seen._replace(surprise=seen.surprise[:1]))])


def test_with_blur_an_odd_area_outweighs_an_odd_cell():
    image = torch.ones(2, 2, 12, 12)
    surprise = torch.zeros(2, 12, 12)
    surprise[0, 5, 5] = 6
    surprise[1, 4:8, 4:8] = 2
    top = Pooling(kind="max")
    seen = Seen(image[:, :1], surprise)
    cell, area = rule(pooling=top)(image, seen)[0]
    assert cell > area
    cell, area = rule(pooling=top, blur=1.0)(image, seen)[0]
    assert cell < area


def test_blur_without_pooling_is_refused():
    class Run(Settings):
        score: Config

    with pytest.raises(BadSettings, match="add 'pooling', or drop it"):
        Run.checked({"score": {"rule": "likelihood", "blur": 1.0}}, "run")


def test_pooling_one_number_is_refused():
    class Run(Settings):
        score: Config

    with pytest.raises(BadSettings, match="kind = 'corrected' is one number; drop 'pooling'"):
        Run.checked({"score": {"rule": "likelihood", "kind": "corrected", "pooling": {}}}, "run")


def test_thresholded_is_blind_to_what_is_not_covered_though_a_density_has_limits_below_0():
    image, seen = told(10)
    low = seen._replace(surprise=torch.full_like(seen.surprise, -3.0))
    made = rule(kind="thresholded")
    made.fit([(image, low._replace(surprise=low.surprise + 0.1 * seen.surprise))])
    half = image.clone()
    half[:, 1, :, 5:] = 0
    covered = low._replace(surprise=low.surprise * half[:, 1])
    assert made.limit < 0
    assert made(half, covered)[0].tolist() == pytest.approx([0.0] * 40)


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"kind": "sum", "quantile": 0.9}, "'quantile' is of no effect .* use kind = thresholded"),
        ({"kind": "ratio", "coder": "differences"}, "'coder' .* corrected or conditioned"),
        ({"kind": "typicality", "sides": "both"}, "'sides' is of no effect"),
        ({"alike": "complexity"}, "'alike' .* conditioned"),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(fields, advice):
    class Run(Settings):
        score: Config

    with pytest.raises(BadSettings, match=advice):
        Run.checked({"score": {"rule": "likelihood", **fields}}, "run")


def test_half_of_a_cells_dies_is_no_border_of_the_coder():
    image = torch.full((3, 2, 4, 4), 0.5)
    image[:, 1] = 1
    image[1, 0, 0] -= 6e-8
    image[2, 0, 0] += 6e-8
    assert len(set(code_length(image, "levels").tolist())) == 1


def test_the_share_of_a_canvas_is_refused_and_its_mean_is_not():
    assert not rule(pooling=Pooling(kind="top")).any_size
    assert rule(pooling=Pooling(kind="mean")).any_size
    assert rule().any_size
