"""Defects planted on pictures of any type, and nothing else touched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspect_ai.data.simulate_spots import KINDS, planted
from inspect_ai.data.specs import ImageRule

RULES = {
    "8 bits": ImageRule(),
    "12 bits": ImageRule(depth=12, minimum=100.0, maximum=3000.0),
    "16 bits": ImageRule(depth=16),
    "float": ImageRule(depth=32, minimum=-1.0, maximum=2.0),
}


def picture(rule, channels=1, shape=(40, 60), seed=0):
    """Stripes with noise, in the middle of the range."""
    rng = np.random.default_rng(seed)
    span = rule.largest - rule.minimum
    waves = 0.5 + 0.15 * np.sin(np.arange(shape[1]) / 3 + rng.uniform(0, 6))
    clean = rule.minimum + span * (waves + 0.02 * rng.normal(size=(channels, *shape)))
    return np.rint(clean).astype(rule.dtype) if rule.depth < 32 else clean.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(KINDS),
    st.sampled_from(sorted(RULES)),
    st.integers(1, 3),
    st.integers(5, 70),
    st.integers(5, 70),
)
def test_a_defect_keeps_type_and_range_and_touches_its_mask_alone(
    seed, kind, name, channels, height, width
):
    rule = RULES[name]
    good = picture(rule, channels, (height, width), seed)
    region = np.random.default_rng(seed).random((height, width)) < 0.8
    region[0, 0] = True
    made, mask = planted(np.random.default_rng(seed), good, kind, rule, region)
    assert (made.dtype, made.shape, mask.shape) == (good.dtype, good.shape, (height, width))
    assert (made[:, ~mask] == good[:, ~mask]).all()
    assert (made[:, mask] >= rule.minimum).all()
    assert (made[:, mask] <= rule.largest).all()
    assert mask.any()
    assert not (mask & ~region).any()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_stands_out_of_the_noise(kind, name):
    rule = RULES[name]
    span = rule.largest - rule.minimum
    for seed in range(40):
        good = picture(rule, seed=seed)
        made, mask = planted(np.random.default_rng(seed), good, kind, rule)
        change = abs(made.astype(float) - good)[:, mask]
        assert change.mean() > 2 * 0.02 * span


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_neither_a_speck_nor_the_whole_picture(kind):
    rule = RULES["8 bits"]
    good = picture(rule, shape=(100, 100))
    for seed in range(60):
        _, mask = planted(np.random.default_rng(seed), good, kind, rule)
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        assert 3 <= longer <= 62
        assert mask.sum() <= 0.12 * mask.size


@pytest.mark.parametrize("kind", ["lump", "line"])
def test_some_defects_are_brighter_and_some_darker(kind):
    rule, found = RULES["8 bits"], []
    good = picture(rule)
    for seed in range(20):
        made, mask = planted(np.random.default_rng(seed), good, kind, rule)
        found.append((made.astype(float) - good)[:, mask].mean())
    assert 4 <= sum(value > 0 for value in found) <= 16


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("kind", ["lump", "line"])
def test_a_defect_shows_on_a_flat_picture_at_the_end_of_the_range(kind, level):
    good = np.full((1, 32, 32), level, np.uint8)
    for seed in range(10):
        made, mask = planted(np.random.default_rng(seed), good, kind, RULES["8 bits"])
        assert (made != good)[0][mask].mean() > 0.5


def test_a_swap_pastes_pixels_of_the_other_picture():
    rule = RULES["8 bits"]
    good, other = np.zeros((2, 30, 50), np.uint8), picture(rule, 2, (30, 50))
    for seed in range(10):
        made, mask = planted(np.random.default_rng(seed), good, "swap", rule, None, other)
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        piece = made[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert mask.sum() == piece[0].size  # a rectangle
        size = piece.shape[1:]
        windows = np.lib.stride_tricks.sliding_window_view(other, size, (1, 2))
        turned = [piece[:, ::a, ::b] for a in (1, -1) for b in (1, -1)]
        assert any((windows == t[:, None, None]).all((0, 3, 4)).any() for t in turned)


def test_the_same_draw_gives_the_same_defect():
    good = picture(RULES["8 bits"])
    for kind in KINDS:
        one, two, three = (
            planted(np.random.default_rng(seed), good, kind, RULES["8 bits"]) for seed in (1, 1, 2)
        )
        assert (one[0] == two[0]).all()
        assert (one[1] == two[1]).all()
        assert (one[0] != three[0]).any()


def test_a_region_without_a_pixel_and_a_picture_of_another_shape_are_refused():
    good, rng = picture(RULES["8 bits"]), np.random.default_rng(0)
    for region, other in [(np.zeros((40, 60), bool), None), (None, good[:, 1:])]:
        with pytest.raises(ValueError, match="do not fit together"):
            planted(rng, good, "lump", RULES["8 bits"], region, other)
