import math

import numpy as np
import pytest
import torch
from made_vectors import agrees_with_its_graph, fit, images, scored_by_likelihood, total, vectors
from sklearn.mixture import GaussianMixture

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.models.gmm import Config
from inspect_ai.scoring.mixture import RIDGE

GRID = (8, 12)
KINDS = [{"cells": 4}, {"space": "patches", "patch": 3}]


def model(channels=1, grid=GRID, **fields):
    return Config(**{"components": 2} | fields).build(channels, grid)


def blocks(batch, side=4):
    """(N, K) means of blocks by numpy."""
    n, c, h, w = batch.shape
    shown = vectors(batch).reshape(n, c - 1, side, h // side, side, w // side)
    return shown.mean((3, 5)).reshape(n, -1)


def patches(batch, side):
    """(N, h, w, K) patches by numpy, edges repeated."""
    n, c, h, w = batch.shape
    r = side // 2
    shown = vectors(batch).reshape(n, c - 1, h, w)
    padded = np.pad(shown, ((0, 0), (0, 0), (r, r), (r, r)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, -1)


def reference(known, new, components=2):
    """scikit-learn's own, on vectors standardised by the known ones."""
    mean, spread = known.mean(0), known.std(0)
    made = GaussianMixture(components, reg_covar=RIDGE, random_state=0, max_iter=200)
    made.fit((known - mean) / spread)
    return -made.score_samples((new - mean) / spread)


@pytest.mark.parametrize(("channels", "components"), [(1, 2), (3, 1), (1, 3)])
def test_in_pixel_space_the_surprise_sums_to_scikit_learns_likelihood(channels, components):
    good, new = images(300, GRID, channels), images(40, GRID, channels, seed=1)
    new[0, 0, :4] = 1.0  # one far out
    made = fit(model(channels, cells=4, components=components), good)
    wanted = reference(blocks(good), blocks(new), components)
    np.testing.assert_allclose(total(made(new)), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("channels", "side"), [(1, 3), (3, 3), (1, 5), (1, 1)])
def test_in_patch_space_a_cells_surprise_is_scikit_learns_of_its_own_patch(channels, side):
    good, new = images(20, GRID, channels), images(4, GRID, channels, seed=1)
    new[0, 0, :2] = 1.0
    made = fit(model(channels, space="patches", patch=side), good)
    known = patches(good, side).reshape(-1, channels * side**2)
    wanted = reference(known, patches(new, side).reshape(-1, known.shape[1]))
    found = made(new).surprise.flatten().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_the_likelihood_of_two_cells_by_hand():
    steps = torch.tensor([[0.3, 0.3], [-0.3, -0.3], [0.1, -0.1], [-0.1, 0.1]])
    x = (0.5 + steps).reshape(4, 1, 1, 2)
    made = Config(components=1, cells=1, ridge=1e-9).build(2, (1, 1))  # a cell of two channels
    batch = torch.cat([x.reshape(4, 2, 1, 1), torch.ones(4, 1, 1, 1)], 1)
    fit(made, batch)
    # variances .05 and .05, covariance .04: standardised, correlation .8
    u = 0.2 / math.sqrt(0.05)
    quadratic = (u * u) / (1 - 0.64)
    wanted = 0.5 * (quadratic + math.log(1 - 0.64) + 2 * math.log(2 * math.pi))
    new = torch.tensor([0.7, 0.5, 1.0]).reshape(1, 3, 1, 1)
    assert total(made(new))[0] == pytest.approx(wanted, rel=1e-4)


def test_in_pixel_space_the_odd_block_has_the_largest_share():
    made = fit(model(cells=4), images(200, GRID))
    new = images(1, GRID, seed=1)
    new[0, 0, 2:4, 6:9] = 1.0  # the block in row 1, column 2
    surprise = made(new).surprise[0]
    assert surprise[2:4, 6:9].std() < 1e-6  # one share for all of a block
    assert surprise[3, 7] == surprise.max()


def test_two_kinds_of_image_are_each_expected_as_they_are():
    dark, bright = images(60, GRID), images(60, GRID, seed=1)
    dark[:, 0], bright[:, 0] = 0.3 * dark[:, 0], 0.6 + 0.3 * bright[:, 0]
    for fields in KINDS:
        made = fit(model(**fields), torch.cat([dark, bright]))
        assert (made(dark).expected.mean((1, 2, 3)) - 0.15).abs().max() < 0.05
        assert (made(bright).expected.mean((1, 2, 3)) - 0.75).abs().max() < 0.05


def test_the_patch_expected_at_a_cell_is_shown_by_its_centre():
    ramp = images(30, GRID)
    ramp[:, 0] = 0.01 * torch.randn(30, *GRID) + torch.linspace(0.2, 0.8, 12)
    made = fit(model(space="patches", patch=5, components=12), ramp)
    expected = made(ramp).expected[:, 0].mean((0, 1))
    torch.testing.assert_close(expected, torch.linspace(0.2, 0.8, 12), atol=0.06, rtol=0)


def test_the_draw_of_patches_depends_on_the_seed_alone_and_keeps_its_number():
    good = images(20, GRID)
    drawn = model(space="patches", patch=3, patches=100)
    one, again, other = (drawn.drawn(good, np.random.default_rng(s)) for s in (0, 0, 1))
    assert one.shape == (100, 9)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("fields", KINDS)
def test_what_is_not_covered_has_no_say(fields):
    coverage = torch.ones(GRID)
    coverage[:, :3] = 0
    known = images(60, GRID, coverage=coverage)
    junk = known.clone()
    junk[:, 0, :, :3] = 0.9
    one, two = (fit(model(**fields), batch) for batch in (known, junk))
    for a, b in zip(one(known)[:2], two(junk)[:2], strict=True):
        assert torch.equal(a, b)
    assert (one(known).expected[:, 0, :, :3] == 0).all()
    if "space" in fields:
        assert (one(known).surprise[:, :, :3] == 0).all()


def test_cells_that_never_vary_are_not_blown_up():
    still = images(100, GRID)
    still[:, 0, :, :6] = 0.3
    made = fit(model(cells=4), still)
    assert made.spread.min() >= 1 / 255
    usual = np.sqrt(blocks(still).var(0).mean())
    assert made.spread.min().item() == pytest.approx(max(0.1 * usual, 1 / 255), rel=1e-4)
    assert np.isfinite(total(made(images(9, GRID, seed=1)))).all()


@pytest.mark.parametrize(
    ("wrong", "advice", "right"),
    [
        ({"cells": 8}, r"8 x 12 cannot be averaged down to 8 cells.*divide both", {"cells": 4}),
        ({"space": "patches", "patch": 4}, r"patch = 4 .*odd number.*Use 3, 5 or 7", {"patch": 3}),
        ({"space": "patches", "patch": 9}, r"no more than a side\. Use 3, 5 or 7", {"patch": 7}),
    ],
)
def test_settings_that_do_not_fit_the_grid_are_refused_and_the_advice_works(wrong, advice, right):
    with pytest.raises(BadSettings, match=advice):
        model(**wrong)
    model(**wrong | right)


def test_fewer_images_than_components_are_refused_and_the_advice_works():
    with pytest.raises(MissingData, match=r"3 vector.*mixture of 4.*or ask for fewer components"):
        fit(model(cells=4, components=4), images(3, GRID))
    fit(model(cells=4, components=3), images(3, GRID))
    fit(model(cells=4, components=4), images(4, GRID))


@pytest.mark.slow
@pytest.mark.parametrize(("fields", "kind"), [(KINDS[0], "picture"), (KINDS[1], "wafer_map")])
def test_onnx_gives_the_same_likelihood(fields, kind, tmp_path):
    detector, pixels = scored_by_likelihood("gmm", fields | {"components": 3}, kind)
    assert agrees_with_its_graph(detector, pixels, tmp_path / "model.onnx")
