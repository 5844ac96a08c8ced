import cv2
import numpy as np
import pytest

from inspect_ai.data.inputs import measured, names
from inspect_ai.data.specs import ImageRule

GREY, MAP = ImageRule(), ImageRule(kind="wafer_map")


def layout(side=64, seed=0):
    """Lines with soft edges, grey levels 0 to 255, without noise."""
    x = np.arange(side) + np.random.default_rng(seed).uniform(0, 16)
    line = 60 + 120 / (1 + np.exp(-4 * np.sin(2 * np.pi * x / 16)))
    return np.tile(line, (side, 1))


def taken(picture, seed=0, noise=6.0, dtype=np.uint8, scale=1.0):
    """A picture as a file holds it: (1, H, W) with the noise of the camera."""
    noisy = picture + np.random.default_rng(seed).normal(0, noise, picture.shape)
    return np.clip(np.round(noisy * scale), 0, np.iinfo(dtype).max).astype(dtype)[None]


def test_more_light_is_brighter_and_as_sharp():
    before = measured(taken(layout()), GREY)
    after = measured(taken(1.1 * layout()), GREY)
    assert after["input_brightness"] == pytest.approx(1.1 * before["input_brightness"], rel=0.01)
    assert after["input_sharpness"] == pytest.approx(before["input_sharpness"], rel=0.05)


def test_out_of_focus_is_less_sharp_and_as_bright_whatever_the_noise():
    blurred = cv2.GaussianBlur(layout(), (0, 0), 2.0)
    for noise in (0.0, 6.0):
        before, after = (measured(taken(p, noise=noise), GREY) for p in (layout(), blurred))
        assert after["input_sharpness"] < 0.9 * before["input_sharpness"]
        assert after["input_brightness"] == pytest.approx(before["input_brightness"], abs=0.02)


@pytest.mark.parametrize("grey", [0, 255])
def test_a_small_defect_moves_both_far_less_than_light_or_focus_does(grey):
    good, defect = layout(), layout()
    defect[20:26, 20:26] = grey
    found = {
        what: measured(taken(picture), GREY)
        for what, picture in (
            ("good", good),
            ("defect", defect),
            ("light", 1.05 * good),
            ("focus", cv2.GaussianBlur(good, (0, 0), 1.5)),
        )
    }
    for name, what in (("input_brightness", "light"), ("input_sharpness", "focus")):
        moved = abs(found[what][name] - found["good"][name])
        assert abs(found["defect"][name] - found["good"][name]) < 0.25 * moved


@pytest.mark.parametrize(
    ("dtype", "scale", "rule"),
    [
        (np.uint16, 257.0, ImageRule(depth=16)),
        (np.uint16, 4.0, ImageRule(depth=10, maximum=1020)),
    ],
)
def test_a_file_of_more_bits_has_the_same_measures(dtype, scale, rule):
    deep = measured(taken(layout(), dtype=dtype, scale=scale), rule)
    plain = measured(taken(layout()), GREY)
    assert deep == pytest.approx(plain, rel=0.01)


def test_a_float_picture_is_measured_between_its_minimum_and_maximum():
    rule = ImageRule(depth=32, minimum=-1.0, maximum=3.0)
    pixels = np.full((1, 20, 20), 1.0, np.float32)
    assert measured(pixels, rule) == {"input_brightness": 0.5, "input_sharpness": 0.0}


def test_channels_are_taken_together():
    pixels = np.stack([np.full((20, 20), v, np.uint8) for v in (0, 102, 255)])
    found = measured(pixels, ImageRule(channels=3))
    assert found["input_brightness"] == pytest.approx(119 / 255)


def test_a_large_picture_is_measured_like_its_pieces():
    large = measured(taken(layout(1200)), GREY)
    assert large == pytest.approx(measured(taken(layout(128)), GREY), rel=0.05)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (1, 2, 2), (1, 700, 3)])
def test_a_tiny_or_narrow_picture_has_finite_measures(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = measured(pixels, GREY)
    assert tuple(found) == names(GREY)
    assert 0 <= found["input_brightness"] <= 1
    assert np.isfinite(found["input_sharpness"])


def test_a_wafer_map_tells_its_dies_and_their_yield():
    pixels = np.array([[[0, 1, 0], [1, 2, 1], [0, 1, 0]]], np.uint8)
    assert measured(pixels, MAP) == {"input_yield": 0.8, "input_dies": 5.0}
    padded = np.pad(pixels, ((0, 0), (0, 5), (0, 2)))
    assert measured(padded, MAP) == measured(pixels, MAP)
    assert names(MAP) == ("input_yield", "input_dies")
