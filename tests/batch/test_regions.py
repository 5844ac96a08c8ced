import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from inspect_ai.batch.regions import MOST, inside, mask, regions

MAPS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(0, 4, width=32)),
)
NUMBERS = ["x", "y", "width", "height", "area", "score", "mean_score"]


def flat(*spots, side=(6, 8)):
    """Zeros but for (row, column, value)."""
    heat = np.zeros(side, np.float32)
    for row, column, value in spots:
        heat[row, column] = value
    return heat


def rows(table):
    return [tuple(row) for row in table[NUMBERS].itertuples(index=False)]


def test_what_is_strictly_above_the_threshold_is_flagged():
    heat = np.float32([[0.5, 1.0], [np.nextafter(np.float32(1), np.float32(2)), -np.inf]])
    assert mask(heat, 1.0).tolist() == [[False, False], [True, False]]


def test_a_value_that_is_not_a_number_is_flagged_and_its_region_is_first():
    found = regions(flat((0, 0, 9), (3, 3, np.nan), (3, 4, 5)), 1.0)
    assert found[["x", "y", "width", "height"]].to_numpy().tolist() == [[3, 3, 2, 1], [0, 0, 1, 1]]
    assert np.isnan(found["score"][0])
    assert np.isnan(found["mean_score"][0])
    assert found["score"][1] == 9


def test_a_region_has_its_box_area_and_scores():
    heat = flat((1, 2, 2), (2, 2, 3), (2, 3, 4), (5, 7, 9))
    assert rows(regions(heat, 1.0)) == [(7, 5, 1, 1, 1, 9, 9), (2, 1, 2, 2, 3, 4, 3)]


def test_cells_that_touch_at_a_corner_are_one_region():
    assert len(regions(flat((0, 0, 2), (1, 1, 2), (2, 0, 2)), 1.0)) == 1


def test_equal_scores_come_in_reading_order():
    found = regions(flat((4, 1, 2), (0, 5, 2), (0, 1, 2)), 1.0)
    assert found[["y", "x"]].to_numpy().tolist() == [[0, 1], [0, 5], [4, 1]]


def test_nothing_flagged_is_an_empty_table_of_the_same_columns_and_types():
    none, some = regions(flat(), 1.0), regions(flat((0, 0, 2)), 1.0)
    assert len(none) == 0
    assert none.dtypes.to_dict() == some.dtypes.to_dict()
    assert list(none.columns) == NUMBERS
    both = pd.concat([none, some])
    assert both.dtypes.to_dict() == some.dtypes.to_dict()


def test_boxes_of_a_coarse_map_cover_the_image_pixels_of_their_cells():
    heat = flat((1, 2, 2), side=(4, 4))
    assert rows(regions(heat, 1.0, (40, 80))) == [(40, 10, 20, 10, 200, 2, 2)]


def test_a_box_is_widened_to_whole_pixels_and_ends_with_the_image():
    heat = flat((0, 0, 2), (2, 2, 3), side=(3, 3))
    found = regions(heat, 1.0, (10, 10))
    assert rows(found[:1])[0][:4] == (6, 6, 4, 4)
    assert rows(found[1:])[0][:4] == (0, 0, 4, 4)
    assert found["area"].tolist() == pytest.approx([100 / 9, 100 / 9])


def test_a_map_finer_than_the_image_still_has_boxes_of_a_pixel():
    heat = flat((5, 5, 2), side=(8, 8))
    assert rows(regions(heat, 1.0, (2, 2))) == [(1, 1, 1, 1, 1 / 16, 2, 2)]


def test_the_largest_scores_are_kept_where_there_are_too_many():
    heat = np.zeros((90, 90), np.float32)
    heat[::2, ::2] = np.arange(2, 2 + 45 * 45).reshape(45, 45)
    found = regions(heat, 1.0)
    assert len(found) == MOST
    assert found["score"].tolist() == list(range(2026, 2026 - MOST, -1))


@given(MAPS, st.sampled_from([0.0, 0.5, 1.5]))
@settings(max_examples=150, deadline=None)
def test_regions_are_those_of_scipy(heat, threshold):
    labels, count = ndimage.label(heat > threshold, structure=np.ones((3, 3)))
    expected = []
    for k, (down, across) in enumerate(ndimage.find_objects(labels), 1):
        inside = heat[labels == k].astype(np.float64)
        box = (across.start, down.start, across.stop - across.start, down.stop - down.start)
        mean = np.float32(inside.mean())
        expected.append((*box, len(inside), inside.max(), mean))
    found = regions(heat, threshold)
    assert len(found) == count
    order = sorted(expected, key=lambda row: (-row[5], row[1], row[0]))
    np.testing.assert_allclose(
        found[NUMBERS].to_numpy(float), np.reshape(order, (-1, 7)), rtol=1e-6
    )


@given(MAPS, st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_boxes_lie_in_the_image_and_areas_add_up_to_the_share_flagged(heat, height, width):
    found = regions(heat, 1.0, (height, width))
    assert (found[["x", "y"]] >= 0).all(axis=None)
    assert (found[["width", "height"]] >= 1).all(axis=None)
    assert (found["x"] + found["width"] <= width).all()
    assert (found["y"] + found["height"] <= height).all()
    assert found["area"].sum() == pytest.approx(mask(heat, 1.0).mean() * height * width)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((10, 20), (2, 6), (0, 8)), ((20, 10), (0, 8), (2, 6)), ((7, 7), (0, 8), (0, 8))],
)
def test_the_bars_around_a_picture_that_kept_its_aspect_are_cut_off(size, rows, columns):
    grid = np.arange(64, dtype=np.float32).reshape(8, 8)
    wanted = grid[slice(*rows), slice(*columns)]
    assert (inside(grid, size) == wanted).all()
    assert (inside(grid[None], size)[0] == wanted).all()
