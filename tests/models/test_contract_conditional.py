"""What every model promises that is told a product or layer of each image."""

import numpy as np
import pytest
import torch
from made_detectors import die_images, fitted, module, picture_detector

from inspect_ai import models, parity
from inspect_ai.errors import BadImages

CONDITIONAL = [n for n in models.names() if getattr(module(n).Config, "conditional", False)]


@pytest.fixture(scope="module", params=CONDITIONAL)
def told(request):
    """A detector that is told one of two products: small dies, and the same upside down."""
    torch.set_num_threads(1)
    pixels, labels = die_images()
    good = pixels[labels == "good"][:120]
    both, places = np.concatenate([good, 255 - good]), np.repeat([0, 1], len(good))
    mixed = np.random.default_rng(0).permutation(len(both))
    made = picture_detector(request.param, grid=(8, 8), classes=2)
    return fitted(made, both[mixed], conditions=places[mixed]), good


def test_a_conditional_model_expects_each_image_to_be_of_its_own_product(told):
    detector, good = told
    own, other = (detector.score(good[:30], np.full(30, place)).pred_score for place in (0, 1))
    assert (own < other).mean() > 0.9


@pytest.mark.parametrize("places", [None, [0, 0], [0, 1, 2], [0, -1, 1]])
def test_a_conditional_model_refuses_to_guess_and_says_what_it_needs(told, places):
    condition = None if places is None else np.array(places)
    with pytest.raises(BadImages, match=r"needed one in 0 \.\. 1 for each of 3 images"):
        told[0].score(told[1][:3], condition)


def test_an_unconditional_model_refuses_a_condition():
    pixels = np.zeros((2, 1, 32, 32), np.uint8)
    with pytest.raises(BadImages, match=r"\[0, 0\]; needed none"):
        picture_detector("autoencoder").score(pixels, np.array([0, 0]))


@pytest.mark.slow
def test_the_condition_is_a_second_input_of_the_graph(told, tmp_path):
    detector, good = told
    parity.to_onnx(detector, good[:3], tmp_path / "model.onnx")
    theirs, places = parity.scorer(tmp_path / "model.onnx"), np.arange(40) % 2
    for part in (slice(0, 40), slice(3, 4), slice(5, 12)):
        a = detector.score(good[part], places[part])
        b = theirs(good[part], places[part])
        spread = detector.score(good[:40], places).pred_score.std()
        np.testing.assert_allclose(b.pred_score, a.pred_score, atol=1e-5 * spread, rtol=1e-5)
