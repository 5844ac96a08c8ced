import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from inspect_ai.scoring.clusters import clusters, roots


def by_library(wafer):
    """Area and longer side of the cluster that each failing cell lies in."""
    labels, count = ndimage.label(wafer, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    boxes = ndimage.find_objects(labels)
    sides = [0, *(max(b[0].stop - b[0].start, b[1].stop - b[1].start) for b in boxes)]
    return areas[labels] * wafer, np.array(sides)[labels]


def spiral(side):
    """One curl of single cells from the rim to the middle, as long as it can be."""
    found, y, x = np.zeros((side, side), bool), 0, 0
    lengths = [side - 1, *np.repeat(np.arange(side - 1, 0, -2), 2)]
    found[0, 0] = True
    for turn, length in enumerate(lengths):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(length):
            y, x = y + dy, x + dx
            found[y, x] = True
    return found


@given(st.integers(0, 999), st.floats(0.05, 0.7))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_area_and_extent_are_those_of_a_library(seed, share):
    wafers = np.random.default_rng(seed).random((3, 20, 17)) < share
    found = clusters(torch.from_numpy(wafers[:, None]).float())
    for wafer, area, extent in zip(wafers, *found, strict=True):
        wanted = by_library(wafer)
        assert np.array_equal(area.numpy(), wanted[0])
        assert np.array_equal(extent.numpy(), wanted[1])


@pytest.mark.parametrize("turn", range(4))
def test_a_spiral_over_the_largest_wafer_is_one_cluster(turn):
    curl = np.rot90(spiral(64), turn)
    assert 2000 < curl.sum() < 2200
    area, _ = clusters(torch.from_numpy(curl.copy())[None, None].float())
    assert area.max().item() == curl.sum()
    assert (area[0].numpy()[curl] == curl.sum()).all()


def test_a_map_without_fails_has_no_cluster():
    area, extent = clusters(torch.zeros(2, 1, 5, 6))
    assert (area == 0).all()
    assert (extent == 0).all()


def test_dies_of_one_cluster_point_at_the_same_die_of_it():
    fails = torch.zeros(1, 1, 4, 4)
    fails[0, 0, 0, :2] = fails[0, 0, 3, 3] = 1
    root = roots(fails[:, 0])[0].reshape(4, 4)
    assert root[0, 0] == root[0, 1] == 1
    assert root[3, 3] == 15
    assert root[2, 2] == 10  # a die that does not fail is alone
