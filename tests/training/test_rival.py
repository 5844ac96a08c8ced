"""PCA-64: its score and its expectation, and what has no say in them."""

import numpy as np
import pytest
import torch

from inspect_ai.preprocess import Preprocess, View
from inspect_ai.training import rival


def view(kind="picture", grid=(6, 5), region=None, channels=1):
    largest = 2 if kind == "wafer_map" else 255
    given = {"minimum": 0, "maximum": largest, "resize": "stretch", "grid": grid}
    return Preprocess(View(kind=kind, channels=channels, **given), region)


def pictures(n, shape=(1, 6, 5), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def maps(n, seed=0):
    """Round maps of 9 x 9 dies on a canvas of 12 x 12."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:12, :12] - 4
    on = (np.hypot(y, x) <= 4.2)[None, None]
    return (on * (1 + (rng.random((n, 1, 12, 12)) < 0.3))).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_score_is_the_mean_squared_distance_to_the_plane(channels):
    good, odd = pictures(40, (channels, 6, 5)), pictures(7, (channels, 6, 5), 1)
    made = rival.fit(view(channels=channels), [good[:25], good[25:]])
    x = (odd / 255).reshape(7, -1)
    known = (good / 255).reshape(40, -1)
    mean = known.mean(0)
    directions = np.linalg.svd(known - mean, full_matrices=False)[2][: made.components]
    left = (x - mean) - (x - mean) @ directions.T @ directions
    assert made.score(odd) == pytest.approx((left**2).sum(1) / 30, rel=1e-4, abs=1e-7)
    redrawn = np.clip(x - left, 0, 1).reshape(odd.shape)
    np.testing.assert_allclose(made.expected(odd), redrawn, atol=1e-5)


def test_there_are_64_directions_or_as_many_as_images_and_cells_allow():
    for shape, n, components in [((1, 12, 12), 90, 64), ((1, 12, 12), 30, 29), ((1, 4, 4), 90, 16)]:
        made = rival.fit(view(grid=shape[1:]), [pictures(n, shape)])
        assert (made.components, made.name) == (components, f"PCA-{components}")


def test_one_image_alone_is_its_own_mean():
    one = pictures(1)
    made = rival.fit(view(), [one])
    assert made.score(one) == pytest.approx([0], abs=1e-9)
    assert made.score(pictures(1, seed=1))[0] > 0.01


def test_what_is_outside_the_region_has_no_say():
    region = torch.ones(6, 5)
    region[:2] = 0
    good = pictures(50)
    changed = good.copy()
    changed[:, :, :2] = pictures(50, seed=2)[:, :, :2]
    one, two = (rival.fit(view(region=region), [batch]) for batch in (good, changed))
    odd = pictures(5, seed=3)
    other = odd.copy()
    other[:, :, :2] = 255 - other[:, :, :2]
    assert two.score(other) == pytest.approx(one.score(odd), rel=1e-4, abs=1e-6)
    assert (one.expected(odd)[:, :, :2] == 0).all()


def test_of_wafer_maps_it_expects_fail_rates_at_the_dies():
    good = maps(60)
    made = rival.fit(view("wafer_map", (6, 6)), [good])
    seen = made.expected(good)
    assert seen.shape == good.shape
    dies = good > 0
    assert (seen[~dies] == 0).mean() > 0.5  # cells of the rim spread a little beyond it
    assert seen[dies].mean() == pytest.approx((good[dies] == 2).mean(), abs=0.02)
    wider = np.zeros((60, 1, 20, 20), np.uint8)
    wider[:, :, :12, :12] = good
    assert made.score(wider) == pytest.approx(made.score(good), abs=1e-6)


def test_it_is_fitted_in_bounded_memory():
    assert rival.most(view(grid=(64, 64))) == rival.FITTED_ON
    large = rival.most(view(grid=(512, 512), channels=3))
    assert 64 < large < 100
    assert large * 3 * 512 * 512 <= rival.NUMBERS
