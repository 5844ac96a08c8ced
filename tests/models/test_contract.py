"""What every model promises; a new file in models/ is found by its name."""

from importlib import import_module

import numpy as np
import pytest
import torch
from made_detectors import bin_maps, die_images, fitted, map_detector, picture_detector
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from inspect_ai import models, parity
from inspect_ai.errors import BadImages, UnknownModel
from inspect_ai.scoring import density
from inspect_ai.scoring.statistics import NEEDS, STATISTICS
from inspect_ai.training.budget import Budget
from inspect_ai.training.detector import Single

# these read dies, which pictures do not have
ON_MAPS_ALONE = ("wafer_statistics", "denoiser", "nade")
LEARNS_NOTHING = ("wafer_statistics",)


def module(name):
    return import_module(f"inspect_ai.models.{name}")


@pytest.fixture(scope="module")
def dies():
    return die_images()


@pytest.fixture(scope="module")
def maps():
    return bin_maps()


@pytest.fixture(scope="module", params=models.names())
def name(request):
    return request.param


@pytest.fixture(scope="module", params=[n for n in models.names() if n not in ON_MAPS_ALONE])
def any_name(request):
    return request.param


@pytest.fixture(scope="module")
def trained(any_name, dies):
    torch.set_num_threads(1)
    pixels, labels = dies
    return fitted(picture_detector(any_name), pixels[labels == "good"][:200])


@pytest.fixture(scope="module")
def trained_on_maps(name, maps):
    torch.set_num_threads(1)
    pixels, labels = maps
    return fitted(map_detector(name, {}), pixels[labels == "none"][:200])


def test_scores_one_number_and_one_map_and_one_expectation_per_image(trained, dies):
    scores = trained.score(dies[0][:5])
    assert scores.pred_score.shape == (5,)
    assert scores.anomaly_map.shape == (5, 32, 32)
    assert scores.expected.shape == (5, 1, 32, 32)
    for array in (scores.pred_score, scores.anomaly_map, scores.expected):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


def test_scores_a_wafer_map_die_by_die(trained_on_maps, maps):
    scores = trained_on_maps.score(np.pad(maps[0][:5], ((0, 0), (0, 0), (0, 8), (0, 3))))
    assert scores.anomaly_map.shape == (5, 40, 35)
    assert np.isfinite(scores.pred_score).all()
    assert scores.expected.shape == (5, 1, 40, 35)


@pytest.mark.parametrize("rule", ["l2", "variance", "ssim", "gradient"])
def test_a_rule_of_the_grid_scores_a_map_there_and_its_map_covers_the_dies(maps, rule):
    good = maps[0][maps[1] == "none"][:80]
    scores = fitted(map_detector("autoencoder", rule=rule), good).score(maps[0][:6])
    assert scores.anomaly_map.shape == maps[0][:6, 0].shape
    assert (scores.anomaly_map[maps[0][:6, 0] == 2] > 0).mean() > 0.9
    assert np.isfinite(scores.pred_score).all()


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


def test_the_same_seed_gives_the_same_weights(name, maps):
    good = maps[0][maps[1] == "none"][:120]
    one, two, other = (
        fitted(map_detector(name), good, Budget(steps=3, batch_size=16, seed=seed))
        for seed in (0, 0, 1)
    )
    assert same(one, two)
    assert name in LEARNS_NOTHING or not same(one, other)


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_training_moves_the_weights(any_name, trained):
    assert not same(trained, picture_detector(any_name))


def test_a_model_of_dies_alone_says_so(name):
    assert name == "fusion" or (map_detector(name).model.maps_only == (name in ON_MAPS_ALONE))


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


def test_saves_and_loads_to_the_same_scores(name, trained_on_maps, maps, tmp_path):
    tensors = {k: v.contiguous() for k, v in trained_on_maps.state_dict().items()}
    save_file(tensors, tmp_path / "weights.safetensors")
    fresh = map_detector(name)
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    before, after = trained_on_maps.score(maps[0][:8]), fresh.score(maps[0][:8])
    assert (before.pred_score == after.pred_score).all()
    assert (before.anomaly_map == after.anomaly_map).all()


@pytest.mark.slow
def test_exports_to_onnx_with_the_same_scores_for_any_batch_and_size(trained, dies, tmp_path):
    parity.to_onnx(trained, dies[0][:3], tmp_path / "model.onnx")
    theirs = parity.scorer(tmp_path / "model.onnx")
    larger = np.pad(dies[0][:2], ((0, 0), (0, 0), (0, 9), (0, 5)))
    batches = dies[0], dies[0][:1], dies[0][:7], larger, larger[:1, :, :20, :13]
    agree(trained, theirs, batches)


@pytest.mark.slow
def test_exports_maps_with_the_same_scores_for_any_batch_and_size(trained_on_maps, maps, tmp_path):
    parity.to_onnx(trained_on_maps, maps[0][:3], tmp_path / "model.onnx")
    theirs = parity.scorer(tmp_path / "model.onnx")
    larger = np.pad(maps[0][:2], ((0, 0), (0, 0), (0, 9), (0, 5)))
    agree(trained_on_maps, theirs, (maps[0][:40], maps[0][:1], larger, np.zeros_like(larger)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["all", "fisher", "gaussian", "gmm", "neighbours"])
def test_every_density_and_every_statistic_exports(maps, kind, tmp_path):
    names = tuple(n for n in STATISTICS if n not in NEEDS)  # an autoencoder says none of those
    chosen = {"statistics": names} if kind == "all" else {"density": kind, "statistics": ("l1",)}
    rule = density.Config(rule="density", **chosen)
    single = map_detector("autoencoder")
    made = Single(single.preprocess, single.model, rule.build(1, (32, 32)))
    fitted(made, maps[0][maps[1] == "none"][:200])
    parity.to_onnx(made, maps[0][:3], tmp_path / "model.onnx")
    agree(made, parity.scorer(tmp_path / "model.onnx"), (maps[0][:40], maps[0][:1]))


def agree(trained, theirs, batches):
    spread = trained.score(batches[0]).pred_score.std()
    for pixels in batches:
        a, b = trained.score(pixels), theirs(pixels)
        np.testing.assert_allclose(b.pred_score, a.pred_score, atol=parity.TOLERANCE * spread)
        near = 1e-5 * max(1.0, float(np.abs(a.anomaly_map).max()))
        np.testing.assert_allclose(b.anomaly_map, a.anomaly_map, rtol=1e-3, atol=near)
        np.testing.assert_allclose(b.expected, a.expected, rtol=1e-3, atol=1e-5)


CONDITIONAL = [n for n in models.names() if getattr(module(n).Config, "conditional", False)]


@pytest.fixture(scope="module", params=CONDITIONAL)
def told(request):
    """A detector that is told one of two products: small dies, and the same upside down."""
    torch.set_num_threads(1)
    pixels, labels = die_images()
    good = pixels[labels == "good"][:120]
    both, places = np.concatenate([good, 255 - good]), np.repeat([0, 1], len(good))
    mixed = np.random.default_rng(0).permutation(len(both))
    made = picture_detector(request.param, classes=2)
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


def held_out_auroc(detector, pixels, labels, good, odd):
    """AUROC on images that neither weights nor rule have seen."""
    rest = [pixels[labels == good][200:], pixels[odd]]
    scores = np.concatenate([detector.score(part).pred_score for part in rest])
    return roc_auc_score(np.repeat([0, 1], [len(part) for part in rest]), scores)


def test_finds_scratches_on_simulated_wafers(trained_on_maps, maps):
    pixels, labels = maps
    assert held_out_auroc(trained_on_maps, pixels, labels, "none", labels == "Scratch") > 0.75


def test_finds_defects_on_simulated_dies(trained, dies):
    pixels, labels = dies
    assert held_out_auroc(trained, pixels, labels, "good", labels != "good") > 0.7


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(UnknownModel, match=r"No model 'vea'. Known models: .*autoencoder"):
        models.config("vea", {})


def test_every_model_says_where_it_comes_from(name):
    assert "Source" in module(name).__doc__
