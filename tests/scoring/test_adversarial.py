import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspect_ai.errors import BadSettings
from inspect_ai.scoring.adversarial import Config
from inspect_ai.scoring.rule import Seen

MODERATE = settings(max_examples=40, deadline=None, derandomize=True)
WEIGHTS = st.floats(0, 10)


def scored(image, seen, **fields):
    return Config(rule="adversarial", **fields).build(1, image.shape[2:])(image, seen)


def image_and_seen(seed=0, n=3, covered=None):
    draw = torch.Generator().manual_seed(seed)
    x, expected = torch.rand(2, n, 2, 6, 8, generator=draw)
    w = torch.ones(n, 1, 6, 8) if covered is None else covered
    features = torch.rand(n, 6, 8, generator=draw) * (w[:, 0] > 0)
    codes, unreal = torch.randn(2, n, generator=draw)
    seen = Seen(expected, features=features, codes=codes.square(), unreal=unreal)
    return torch.cat([x, w], 1), seen


def test_by_default_the_score_is_f_anogans_residual_and_features():
    image, seen = image_and_seen()
    score, _ = scored(image, seen)
    residual = (image[:, :-1] - seen.expected).square().mean((1, 2, 3))
    assert torch.allclose(score, residual + seen.features.sum((1, 2)))


@given(WEIGHTS, WEIGHTS, WEIGHTS, WEIGHTS, st.sampled_from(["l1", "l2"]), st.integers(0, 99))
@MODERATE
def test_the_score_is_the_weighted_sum_over_what_is_covered(a, b, c, d, norm, seed):
    if not max(a, b, c, d):
        return
    rng = np.random.default_rng(seed)
    covered = rng.choice([0.0, 0.4, 1.0], (3, 1, 6, 8)).astype(np.float32)  # parts of a cell, too
    covered = torch.from_numpy(covered)
    image, seen = image_and_seen(seed, covered=covered)
    score, _ = scored(image, seen, residual=a, features=b, codes=c, unreal=d, norm=norm)
    gap = (image[:, :-1] - seen.expected).abs()
    gap = (gap if norm == "l1" else gap.square()).mean(1, keepdim=True)
    residual = (gap * covered).sum((1, 2, 3)) / covered.sum((1, 2, 3)).clamp(min=1e-6)
    wanted = a * residual + b * seen.features.sum((1, 2)) + c * seen.codes + d * seen.unreal
    assert torch.allclose(score, wanted, rtol=1e-4, atol=1e-4)


def test_an_image_scores_the_same_whatever_lies_beside_it():
    image, seen = image_and_seen()
    fields = {"codes": 1.0, "unreal": 0.5}
    together, _ = scored(image, seen, **fields)
    for i in range(3):
        one = Seen(**{k: v if v is None else v[i : i + 1] for k, v in seen._asdict().items()})
        alone, _ = scored(image[i : i + 1], one, **fields)
        assert torch.allclose(alone, together[i : i + 1])


def test_codes_alone_have_no_place_and_the_map_shows_the_residual():
    image, seen = image_and_seen()
    score, shown = scored(image, seen, residual=0, features=0, codes=2.0)
    assert torch.allclose(score, 2 * seen.codes)
    assert torch.allclose(shown, (image[:, :-1] - seen.expected).square().mean(1))


def test_a_rule_asks_for_what_it_weighs_and_no_more():
    built = Config(rule="adversarial", features=0, unreal=0.1).build(1, (4, 4))
    assert built.needs == ("unreal",)
    assert Config(rule="adversarial", codes=1).build(1, (4, 4)).needs == ("features", "codes")


def test_weights_of_nothing_are_refused():
    with pytest.raises(BadSettings, match="all weights are 0; give one of residual, features"):
        Config.checked({"rule": "adversarial", "residual": 0, "features": 0}, "a test")


def test_a_wider_look_smooths_the_map_and_leaves_what_is_not_covered_at_0():
    covered = torch.ones(3, 1, 6, 8)
    covered[..., 4:] = 0
    image, seen = image_and_seen(covered=covered)
    _, sharp = scored(image, seen)
    _, wide = scored(image, seen, blur=2.0)
    assert (wide[..., 4:] == 0).all()
    assert (sharp[..., 4:] == 0).all()
    assert wide[..., :4].std() < sharp[..., :4].std()
