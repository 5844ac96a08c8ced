"""Figures of wafer maps, against scipy and by hand."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from inspect_ai.judging import maps
from inspect_ai.judging.maps import RINGS, joined, measured, moran, rings


def disc(side, canvas=None):
    """Coverage of a round wafer in the corner of a canvas."""
    at = (np.arange(side) + 0.5) * 2 / side - 1
    found = np.zeros((canvas or side, canvas or side))
    found[:side, :side] = at[:, None] ** 2 + at[None] ** 2 <= 1
    return found


def wafers(count, rate, seed=0, side=16):
    rng, w = np.random.default_rng(seed), disc(side)
    fails = (rng.random((count, side, side)) < rate) * w
    return np.stack([fails, np.broadcast_to(w, fails.shape)], 1).astype(np.float32)


def test_distances_are_those_of_what_is_read_off_either_set():
    drawn, good = wafers(30, 0.3), wafers(40, 0.1, seed=1)
    read, known = measured(drawn), measured(good)
    found = maps.figures(read, known)
    share = wasserstein_distance(read.share, known.share)
    assert found["W1 of the fail share"] == pytest.approx(share)
    assert share == pytest.approx(read.share.mean() - known.share.mean(), rel=0.05)  # all move up
    assert found["W1 of Moran's I"] == pytest.approx(wasserstein_distance(read.moran, known.moran))


def board(side=8):
    rows, columns = np.indices((side, side))
    return ((rows + columns) % 2).astype(float)


@pytest.mark.parametrize("canvas", [8, 12])
def test_a_checkerboard_is_at_minus_one_wherever_the_canvas_ends(canvas):
    x, w = np.zeros((1, canvas, canvas)), np.zeros((1, canvas, canvas))
    x[0, :8, :8], w[0, :8, :8] = board(), 1
    x[0, 8:], x[0, :, 8:] = 7, 7  # not covered
    assert moran(x, w) == pytest.approx(-1)


def test_two_halves_are_near_one_and_one_edge_apart():
    x = np.zeros((1, 16, 16))
    x[0, :, 8:] = 1
    # of 480 neighbours, 16 differ: (464 - 16) / 480
    assert moran(x, np.ones_like(x)) == pytest.approx(448 / 480)


def test_noise_is_near_minus_one_over_one_less_than_the_dies():
    x = np.random.default_rng(0).random((20_000, 3, 4))
    found = moran(x, np.ones_like(x))
    assert found.mean() == pytest.approx(-1 / 11, abs=4 * found.std() / 20_000**0.5)
    assert 4 * found.std() / 20_000**0.5 < 0.01


def test_a_map_without_a_difference_has_none():
    x = np.stack([np.zeros((4, 4)), np.full((4, 4), 0.3), board(4)])
    assert np.isnan(moran(x, np.ones_like(x))).tolist() == [True, True, False]


def test_rings_lie_around_the_wafers_own_middle():
    own = rings(disc(16)[None])[0]
    assert own[7:9, 7:9].max() == 0
    assert own[7, 0] == own[15, 8] == RINGS - 1
    assert (own == own.T).all()
    moved = rings(np.roll(disc(16, 24), (3, 5), (0, 1))[None])[0]
    assert (moved[3:19, 5:21] == own).all()
    wide = rings(np.ones((1, 4, 32)))[0]
    assert (wide == wide[::-1, ::-1]).all()
    assert wide[0, 16] == wide[1, 28]  # an ellipse: 3/4 of the way in either direction


def test_what_is_read_off_a_map_by_hand():
    x, w = np.zeros((2, 8, 8), np.float32), np.ones((2, 8, 8), np.float32)
    w[:, :, 4:] = 0.5
    x[0, 0, 0], x[0, 0, 7], x[1] = 1, 1, 1
    read = measured(np.stack([x, w], 1))
    assert read.share.tolist() == pytest.approx([1.5 / 48, 1])
    assert read.dies.sum(1).tolist() == [48, 48]
    assert read.fails[0].tolist() == [0] * (RINGS - 1) + [1.5]
    assert (read.fails[1] == read.dies[1]).all()


def test_good_maps_are_near_each_other_and_worse_ones_far_in_what_they_differ():
    good, again, more = (measured(wafers(300, *of)) for of in ((0.1, 0), (0.1, 1), (0.2, 2)))
    near, far = maps.figures(again, good), maps.figures(more, good)
    assert near["W1 of the fail share"] < 0.005
    assert far["W1 of the fail share"] == pytest.approx(0.1, abs=0.01)
    assert far["difference of fail rate by ring"] == pytest.approx(0.1, abs=0.01)
    assert far["W1 of the radial profile"] < 0.03  # more, but nowhere else
    assert far["W1 of Moran's I"] < 0.02


def test_an_edge_ring_is_seen_in_the_profile_and_clusters_in_morans_i():
    good, edge = wafers(300, 0.1), wafers(300, 0.1, 1)
    edge[:, 0] *= rings(disc(16)[None])[0] >= 6
    found = maps.figures(measured(edge), measured(good))
    assert found["W1 of the radial profile"] > 0.2
    smooth = wafers(300, 0.1, 1)
    smooth[:, 0] = (smooth[:, 0] + np.roll(smooth[:, 0], 1, 1)).clip(0, 1) * smooth[:, 1]
    assert maps.figures(measured(smooth), measured(good))["W1 of Moran's I"] > 0.1


def test_maps_that_never_fail_leave_unsaid_what_they_do_not_have():
    found = maps.figures(measured(wafers(5, 0.0)), measured(wafers(5, 0.3)))
    assert found["W1 of Moran's I"] is None
    assert found["W1 of the radial profile"] is None
    assert found["share of maps without a difference"] == 1
    assert found["W1 of the fail share"] == pytest.approx(0.3, abs=0.05)


def test_batches_are_read_as_one():
    whole = measured(wafers(10, 0.2))
    parts = joined([measured(wafers(10, 0.2)[:4]), measured(wafers(10, 0.2)[4:])])
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
