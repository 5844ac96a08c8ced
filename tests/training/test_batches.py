import numpy as np
import pytest
import torch

from inspect_ai.data.specs import ImageRule
from inspect_ai.errors import MissingData
from inspect_ai.training.batches import Batches, canvas, joined

POOL = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1) * np.ones((1, 2, 4, 4), np.float32)


def drawn(batches, steps):
    """Names of the images seen, step by step."""
    return [batches.at(step)[:, 0, 0, 0].int().tolist() for step in steps]


def test_a_batch_depends_on_step_and_seed_alone():
    forwards = drawn(Batches(POOL, 4, seed=3), range(9))
    backwards = drawn(Batches(POOL, 4, seed=3), reversed(range(9)))
    assert forwards == backwards[::-1]
    assert forwards != drawn(Batches(POOL, 4, seed=4), range(9))


@pytest.mark.parametrize("size", [1, 3, 5, 10, 25])
def test_each_round_sees_each_image_once(size):
    seen = np.concatenate(drawn(Batches(POOL, size, seed=0), range(50)))
    rounds = seen[: len(seen) // 10 * 10].reshape(-1, 10)
    assert (np.sort(rounds, axis=1) == np.arange(10)).all()
    assert any((a != b).any() for a, b in zip(rounds, rounds[1:], strict=False))


def test_turning_gives_the_eight_orientations_and_nothing_else():
    plane = np.arange(16, dtype=np.float32).reshape(4, 4)
    batches = Batches(np.stack([[plane, 100 + plane]]), 64, seed=0, turn=True)
    quarter = [np.rot90(plane, k) for k in range(4)]
    wanted = {p.tobytes() for p in [*quarter, *(np.fliplr(q) for q in quarter)]}
    found = torch.cat([batches.at(step) for step in range(4)])
    assert {image[0].numpy().tobytes() for image in found} == wanted
    assert torch.equal(found[:, 1], 100 + found[:, 0])  # the coverage turns with the image


def test_turning_is_a_function_of_the_step_too():
    pool = np.random.default_rng(0).random((10, 2, 4, 4), np.float32)
    first, again = Batches(pool, 4, 0, turn=True), Batches(pool, 4, 0, turn=True)
    first.at(3)
    assert torch.equal(first.at(5), again.at(5))


def test_a_batch_may_be_changed_without_changing_the_images():
    pool = POOL.copy()
    Batches(pool, 10, seed=0).at(0).zero_()
    assert (pool == POOL).all()


def test_no_image_is_refused():
    with pytest.raises(MissingData, match="Check labels and split shares"):
        Batches(POOL[:0], 4, seed=0)


def test_turning_a_grid_that_is_not_square_is_refused():
    with pytest.raises(MissingData, match="square"):
        Batches(POOL[:, :, :2], 4, seed=0, turn=True)


def test_maps_of_a_batch_share_a_canvas_that_is_a_multiple_of_32():
    maps = [np.ones((1, 33, 20), np.uint8), np.ones((1, 12, 50), np.uint8)]
    assert canvas(maps) == (64, 64)
    assert canvas([np.ones((1, 32, 64), np.uint8)]) == (32, 64)
    batch = joined(maps, ImageRule(kind="wafer_map"))
    assert batch.shape == (2, 1, 64, 64)
    assert batch.sum(axis=(1, 2, 3)).tolist() == [33 * 20, 12 * 50]
