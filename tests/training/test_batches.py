from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inspect_ai.data import manifest as manifests
from inspect_ai.data.specs import DataSpec, ImageRule
from inspect_ai.errors import MissingData
from inspect_ai.preprocess import Preprocess, View
from inspect_ai.training.batches import Batches, Pool, canvas, joined, raw, sides

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
    assert any((a != b).any() for a, b in pairwise(rounds))


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


def listed(root, sizes):
    """Pictures of these sizes, the grey level of each its number."""
    for i, (height, width) in enumerate(sizes):
        pixels = np.full((height, width), i, np.uint8)
        (root / f"{i}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    fields = {"name": "x", "root": root, "source": "a test", "licence": "none"}
    return manifests.listing(DataSpec.checked(fields | {"layout": {"kind": "files"}}, "a test"))


def test_pictures_of_mixed_sizes_come_in_order_in_batches_of_one_size(tmp_path):
    sizes = [(4, 4)] * 5 + [(4, 6)] * 2 + [(4, 4)]
    manifest = listed(tmp_path, sizes)
    found = list(raw(manifest.table, manifest, 3))
    assert [batch.shape for batch in found] == [
        (3, 1, 4, 4),
        (2, 1, 4, 4),
        (2, 1, 4, 6),
        (1, 1, 4, 4),
    ]
    assert [int(image[0, 0, 0]) for batch in found for image in batch] == list(range(8))


def preprocess():
    view = {"kind": "picture", "channels": 1, "minimum": 0, "maximum": 255, "resize": "stretch"}
    return Preprocess(View(**view, grid=(2, 3)))


def test_a_pool_holds_what_the_model_sees_and_leaves_no_file(tmp_path):
    batches = [np.full((n, 1, 4, 4), 51 * n, np.uint8) for n in (2, 1)]
    seen, path = [], tmp_path / "pool.part"
    with Pool(path) as pool:
        images = pool.fill(iter(batches), preprocess(), seen.append)
        assert images.shape == (3, 2, 2, 3)
        assert images[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.4, 0.2])
        assert images[:, 1] == pytest.approx(1.0)
    assert seen == [2, 3]
    assert list(tmp_path.iterdir()) == []


def test_a_pool_begins_anew_over_one_that_a_kill_left(tmp_path):
    path = tmp_path / "pool.part"
    path.write_bytes(b"left over" * 100)
    with Pool(path) as pool:
        assert (
            len(
                pool.fill(iter([np.zeros((1, 1, 4, 4), np.uint8)]), preprocess(), lambda done: None)
            )
            == 1
        )
        assert path.stat().st_size == 2 * 2 * 3 * 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path):
    path = tmp_path / "pool.part"
    path.symlink_to("/dev/full")
    batches = iter([np.zeros((64, 1, 4, 4), np.uint8)] * 20)
    with Pool(path) as pool, pytest.raises(OSError, match="No space left"):
        pool.fill(batches, preprocess(), lambda done: None)


def uneven(count=200, side=32):
    """Images that fill 8 to `side` cells from the top left; each holds its number."""
    sizes = np.random.default_rng(0).integers(8, side + 1, count)
    pool = np.zeros((count, 2, side, side), np.uint8)
    for number, (image, size) in enumerate(zip(pool, sizes, strict=True)):
        image[0, :size, : size - 2], image[1, :size, : size - 2] = number, 1
    return pool, sizes


def test_the_sizes_of_a_pool_are_the_cells_that_are_covered():
    pool, sizes = uneven()
    assert (sides(pool) == sizes).all()
    assert sides(np.zeros((1, 2, 4, 4), np.uint8)).tolist() == [1]


def test_images_of_about_one_size_come_together_and_lose_nothing():
    pool, sizes = uneven()
    batches = Batches(pool, 4, seed=0, turn=True, sizes=sizes)
    seen, canvases = [], []
    for step in range(50):
        batch = batches.at(step)
        names = batch[:, 0].amax((1, 2)).int().tolist()
        assert (batch[:, 1].sum((1, 2)).int().numpy() == sizes[names] * (sizes[names] - 2)).all()
        seen += names
        canvases.append(batch.shape[2])
    assert sorted(seen) == list(range(200))
    assert all(canvas % 8 == 0 for canvas in canvases)
    assert np.mean(canvases) < 25  # of 32, which batches drawn without regard to size would need
    assert seen[:100] != [int(b) for b in np.argsort(sizes, kind="stable")][:100]
