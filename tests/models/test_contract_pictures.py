"""What every model of pictures promises; a new file in models/ is found by its name."""

import numpy as np
import pytest
import torch
from made_detectors import (
    ON_MAPS_ALONE,
    agree,
    die_images,
    fitted,
    held_out_auroc,
    picture_detector,
    same,
)

from inspect_ai import models, parity
from inspect_ai.errors import BadImages


@pytest.fixture(scope="module")
def dies():
    return die_images()


@pytest.fixture(scope="module", params=[n for n in models.names() if n not in ON_MAPS_ALONE])
def any_name(request):
    return request.param


@pytest.fixture(scope="module")
def trained(any_name, dies):
    torch.set_num_threads(1)
    pixels, labels = dies
    return fitted(picture_detector(any_name), pixels[labels == "good"][:200])


def test_scores_one_number_and_one_map_and_one_expectation_per_image(trained, dies):
    scores = trained.score(dies[0][:5])
    assert scores.pred_score.shape == (5,)
    grid = trained.view.grid
    assert scores.anomaly_map.shape == (5, *grid)
    assert scores.expected.shape == (5, 1, *grid)
    for array in (scores.pred_score, scores.anomaly_map, scores.expected):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


def test_expects_grey_levels_between_0_and_1(trained, dies):
    expected = trained.score(dies[0]).expected
    assert expected.min() >= 0
    assert expected.max() <= 1


def test_scores_the_same_image_the_same_twice(trained, dies):
    first, again = trained.score(dies[0][:8]), trained.score(dies[0][:8])
    assert (first.pred_score == again.pred_score).all()
    assert (first.anomaly_map == again.anomaly_map).all()


def test_scores_an_image_the_same_alone_as_in_a_batch(trained, dies):
    batch, alone = trained.score(dies[0][:8]), trained.score(dies[0][3:4])
    assert alone.pred_score[0] == pytest.approx(batch.pred_score[3], rel=1e-4)
    np.testing.assert_allclose(alone.anomaly_map[0], batch.anomaly_map[3], rtol=1e-3, atol=1e-5)


def test_training_moves_the_weights(any_name, trained):
    assert not same(trained, picture_detector(any_name))


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((1, 1, 32, 32), 256, np.uint16),
        np.full((1, 1, 32, 32), -1, np.float32),
        np.full((1, 1, 32, 32), np.nan, np.float32),
    ],
)
def test_refuses_pixels_outside_the_range_and_says_what_to_do(trained, pixels):
    with pytest.raises(BadImages, match=r"must lie in \[0, 255\], got .*Correct 'depth'"):
        trained.score(pixels)


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32), (1, 3, 32, 32)])
def test_refuses_pixels_of_another_shape_and_says_what_to_do(trained, shape):
    with pytest.raises(BadImages, match=r"needed \(N, 1, H, W\)\. Add the missing axes"):
        trained.score(np.zeros(shape, np.uint8))


@pytest.mark.slow
def test_exports_to_onnx_with_the_same_scores_for_any_batch_and_size(trained, dies, tmp_path):
    parity.to_onnx(trained, dies[0][:3], tmp_path / "model.onnx")
    theirs = parity.scorer(tmp_path / "model.onnx")
    larger = np.pad(dies[0][:2], ((0, 0), (0, 0), (0, 9), (0, 5)))
    batches = dies[0], dies[0][:1], dies[0][:7], larger, larger[:1, :, :20, :13]
    agree(trained, theirs, batches)


def test_finds_defects_on_simulated_dies(trained, dies):
    pixels, labels = dies
    assert held_out_auroc(trained, pixels, labels, "good", labels != "good") > 0.7
