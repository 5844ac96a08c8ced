import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inspect_ai.preprocess import Preprocess, View

SIDE = st.integers(1, 23)
GRIDS = st.tuples(st.integers(1, 12), st.integers(1, 12))
MODERATE = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def picture(grid, maximum=255.0, region=None, **fields):
    given_ = {"kind": "picture", "channels": 1, "minimum": 0.0, "resize": "stretch"}
    return Preprocess(View(**given_ | fields, maximum=maximum, grid=grid), region)


def wafer(grid):
    return Preprocess(
        View(kind="wafer_map", channels=1, minimum=0, maximum=2, resize="stretch", grid=grid)
    )


def noise(*shape, seed=0, dtype=np.uint8):
    high = np.iinfo(dtype).max + 1
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, shape, dtype=dtype))


def shares(start, length, cells, pixels):
    """(cells, pixels) pixels' length inside each cell, one pair at a time."""
    found = np.zeros((cells, pixels))
    for cell in range(cells):
        low, high = start + cell * length / cells, start + (cell + 1) * length / cells
        for pixel in range(pixels):
            found[cell, pixel] = max(0.0, min(high, pixel + 1) - max(low, pixel))
    return found


def average(image, weights, rows, columns):
    """Mean of an image over each cell, and the area it was taken over."""
    area = rows @ weights @ columns.T
    total = rows @ (image * weights) @ columns.T
    return np.divide(total, area, out=np.zeros_like(total), where=area > 1e-9), area


@given(SIDE, SIDE, GRIDS)
@MODERATE
def test_a_cell_is_the_mean_of_the_area_it_covers(height, width, grid):
    image = noise(1, 1, height, width)
    seen = picture(grid)(image)[0].numpy()
    rows, columns = shares(0, height, grid[0], height), shares(0, width, grid[1], width)
    mean, _ = average(image[0, 0].numpy() / 255, np.ones((height, width)), rows, columns)
    np.testing.assert_allclose(seen[0], mean, atol=2e-5)
    np.testing.assert_allclose(seen[1], 1, atol=2e-5)


@given(SIDE, SIDE, GRIDS)
@MODERATE
def test_fit_keeps_the_aspect_and_covers_nothing_outside(height, width, grid):
    image = noise(1, 1, height, width)
    seen = picture(grid, resize="fit")(image)[0].numpy()
    scale = max(height / grid[0], width / grid[1])  # pixels a cell, on both sides
    tall, wide = scale * grid[0], scale * grid[1]
    rows = shares((height - tall) / 2, tall, grid[0], height)
    columns = shares((width - wide) / 2, wide, grid[1], width)
    mean, area = average(image[0, 0].numpy() / 255, np.ones((height, width)), rows, columns)
    np.testing.assert_allclose(seen[1], area / scale**2, atol=2e-4)
    inside = area / scale**2 > 0.01
    np.testing.assert_allclose(seen[0][inside], mean[inside], atol=2e-3)


def test_fit_leaves_the_sides_of_a_tall_picture_uncovered():
    seen = picture((8, 8), resize="fit")(noise(1, 1, 40, 20))[0]
    assert (seen[1, :, :2] == 0).all()
    assert (seen[1, :, 6:] == 0).all()
    assert seen[1, :, 2:6].numpy() == pytest.approx(1.0)


@given(SIDE, SIDE, GRIDS, st.integers(0, 255), st.sampled_from(["stretch", "fit"]))
@MODERATE
def test_a_constant_stays_constant(height, width, grid, value, resize):
    image = torch.full((2, 1, height, width), value, dtype=torch.uint8)
    seen = picture(grid, resize=resize)(image)
    covered = seen[:, 1] > 1e-3
    assert covered.any()
    np.testing.assert_allclose(seen[:, 0][covered].numpy(), value / 255, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "maximum"), [(torch.uint8, 255), (torch.uint16, 65535), (torch.float32, 7.5)]
)
def test_every_pixel_type_goes_from_its_own_range_to_0_and_1(dtype, maximum):
    image = torch.tensor([[0, maximum]]).to(dtype)[None, None]
    seen = picture((1, 2), maximum=maximum)(image)
    assert seen.dtype == torch.float32
    assert seen[0, 0].tolist() == [[0, 1]]


def test_16_bit_pixels_next_to_each_other_stay_apart():
    image = torch.tensor([[40000, 40001]], dtype=torch.uint16)[None, None]
    low, high = picture((1, 2), maximum=65535)(image)[0, 0, 0].tolist()
    assert high - low == pytest.approx(1 / 65535, rel=0.05)


def test_pixels_below_the_declared_minimum_become_0():
    image = torch.tensor([[0, 20, 220]], dtype=torch.uint8)[None, None]
    seen = picture((1, 3), minimum=20.0, maximum=220.0)(image)
    assert seen[0, 0].tolist() == [[0, 0, 1]]


@given(st.integers(8, 23), st.integers(8, 23), GRIDS, st.integers(0, 99))
@MODERATE
def test_what_lies_outside_the_valid_region_never_enters(height, width, grid, seed):
    valid = torch.from_numpy(np.random.default_rng(seed).random((height, width)) < 0.7)
    assume(valid.any())
    image = noise(1, 1, height, width, seed=seed)
    other = torch.where(valid, image, 255 - image)
    preprocess = picture(grid, region=valid.float())
    assert torch.equal(preprocess(image), preprocess(other))


def test_a_cell_that_is_valid_in_part_shows_the_mean_of_that_part():
    valid = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    image = torch.tensor([[51, 255, 255, 255]], dtype=torch.uint8)[None, None]
    seen = picture((1, 2), region=valid)(image)[0]
    assert seen[0, 0].tolist() == pytest.approx([0.2, 0.0])
    assert seen[1, 0].tolist() == pytest.approx([0.5, 0.0])


def test_a_valid_region_is_stretched_over_pictures_of_another_size():
    valid = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    seen = picture((4, 4), region=valid)(noise(1, 1, 12, 20))[0, 1]
    wanted = torch.ones(4, 4)
    wanted[:2, 2:] = 0
    np.testing.assert_allclose(seen.numpy(), wanted.numpy(), atol=1e-5)


def random_map(seed, height=17, width=14):
    """A ragged map whose first and last row and column hold a die."""
    rng = np.random.default_rng(seed)
    dies = rng.choice([0, 1, 2], (height, width), p=[0.3, 0.5, 0.2])
    dies[[0, -1], 3] = dies[2, [0, -1]] = 1
    return dies.astype(np.uint8)


@given(st.integers(0, 99), st.tuples(*[st.integers(0, 6)] * 4), GRIDS)
@MODERATE
def test_zeros_around_a_map_change_nothing(seed, around, grid):
    own = random_map(seed)
    top, bottom, left, right = around
    padded = np.pad(own, ((top, bottom), (left, right)))
    preprocess = wafer(grid)
    own, padded = (torch.from_numpy(m)[None, None] for m in (own, padded))
    np.testing.assert_allclose(preprocess(own), preprocess(padded), atol=3e-5)


def test_coverage_and_fail_rate_of_a_map_made_by_hand():
    dies = [[0, 1, 2, 1], [1, 2, 2, 1], [2, 2, 0, 0], [2, 2, 0, 1]]
    seen = wafer((2, 2))(torch.tensor(dies, dtype=torch.uint8)[None, None])[0]
    assert seen[0].tolist() == [[pytest.approx(1 / 3), 0.5], [1.0, 0.0]]
    assert seen[1].tolist() == [[0.75, 1.0], [1.0, 0.25]]


def test_a_map_with_fewer_dies_than_cells_repeats_them():
    seen = wafer((4, 4))(torch.tensor([[1, 2], [2, 0]], dtype=torch.uint8)[None, None])[0]
    assert seen[0, :2, :2].tolist() == [[0, 0], [0, 0]]
    assert seen[0, :2, 2:].tolist() == [[1, 1], [1, 1]]
    assert seen[1, 2:, 2:].tolist() == [[0, 0], [0, 0]]


def test_maps_of_other_sizes_in_a_batch_change_nothing():
    maps = [random_map(0, 17, 14), random_map(1, 9, 20)]
    batch = np.zeros((2, 1, 32, 32), np.uint8)
    for whole, own in zip(batch, maps, strict=True):
        whole[0, : own.shape[0], : own.shape[1]] = own
    together = wafer((8, 8))(torch.from_numpy(batch))
    for seen, own in zip(together, maps, strict=True):
        alone = wafer((8, 8))(torch.from_numpy(own)[None, None])[0]
        np.testing.assert_allclose(seen, alone, atol=3e-5)


def test_a_map_without_a_die_is_covered_nowhere_and_finite():
    preprocess = wafer((4, 4))
    empty = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    assert (preprocess(empty) == 0).all()
    assert torch.isfinite(preprocess.spread(torch.ones(2, 1, 4, 4), empty)).all()


def test_the_detail_of_a_map_is_its_dies_one_by_one():
    dies = torch.tensor([[0, 1, 2]], dtype=torch.uint8)[None, None]
    preprocess = wafer((4, 4))
    assert preprocess.detail(dies)[0].tolist() == [[[0, 0, 1]], [[0, 1, 1]]]


@given(st.integers(0, 99), GRIDS)
@MODERATE
def test_a_constant_expectation_spreads_to_that_constant_on_every_die(seed, grid):
    dies = torch.from_numpy(np.pad(random_map(seed), 3))[None, None]
    spread = wafer(grid).spread(torch.full((1, 1, *grid), 0.3), dies)
    assert spread.shape == dies.shape
    np.testing.assert_allclose(spread[dies > 0].numpy(), 0.3, rtol=1e-4)


def test_each_cell_of_an_expectation_lands_on_its_own_dies():
    dies = torch.zeros(1, 1, 8, 9, dtype=torch.uint8)
    dies[0, 0, 1:7, 2:6] = 1  # 6 x 4 dies on 3 x 2 cells
    cells = torch.arange(1.0, 7.0).reshape(1, 1, 3, 2)
    spread = wafer((3, 2)).spread(cells, dies)[0, 0, 1:7, 2:6]
    wanted = np.repeat(np.repeat(cells[0, 0].numpy(), 2, 0), 2, 1)
    np.testing.assert_allclose(spread.numpy(), wanted, rtol=1e-5)


def test_a_total_is_shared_out_over_the_dies_and_kept():
    dies = torch.zeros(1, 1, 8, 9, dtype=torch.uint8)
    dies[0, 0, 1:8, 2:7] = 1  # 7 x 5 dies on 3 x 2 cells
    cells = torch.arange(1.0, 7.0).reshape(1, 1, 3, 2)
    spread = wafer((3, 2)).spread(cells, dies, total=True)
    assert spread.sum().item() == pytest.approx(21)
    assert (spread[dies == 0] == 0).all()


def test_the_expectation_of_a_picture_stays_on_the_grid():
    expected = torch.rand(1, 1, 4, 4)
    assert picture((4, 4)).spread(expected, noise(1, 1, 9, 9)) is expected
