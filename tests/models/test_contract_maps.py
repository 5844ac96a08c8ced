"""What every model of wafer maps promises; a new file in models/ is found by its name."""

import numpy as np
import pytest
import torch
from made_detectors import (
    LEARNS_NOTHING,
    NATIVE,
    ON_MAPS_ALONE,
    agree,
    bin_maps,
    fitted,
    held_out_auroc,
    map_detector,
    module,
    same,
)
from safetensors.torch import load_file, save_file

from inspect_ai import models, parity
from inspect_ai.errors import UnknownModel
from inspect_ai.models.fusion import Fusion
from inspect_ai.scoring import density
from inspect_ai.training.budget import Budget
from inspect_ai.training.detector import Single

# the others see the grid as latent diffusion does, and are exported with their pictures; nade in
# a test of its own
OWN_GRAPH = ("fusion", "diffusion", "latent_diffusion", *NATIVE)
NAMES = [*OWN_GRAPH, *(name for name in models.names() if name not in OWN_GRAPH)]


@pytest.fixture(scope="module")
def maps():
    return bin_maps()


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trained_on_maps(name, maps):
    torch.set_num_threads(1)
    pixels, labels = maps
    return fitted(map_detector(name, {}), pixels[labels == "none"][:200])


def by_residuals(detector, good):
    """The same weights under a rule of residuals alone: walks use no expectation of a model's."""
    if isinstance(detector, Fusion):
        made = Fusion(detector.config, [by_residuals(member, good) for member in detector.members])
        made.fit([good])
        return made.eval()
    rule = density.Config(rule="density", statistics=("moran",)).build(1, detector.view.grid)
    single = Single(detector.preprocess, detector.model, rule).eval()
    with torch.no_grad():
        rule.fit([single.look(torch.from_numpy(good))])
    return single


def test_scores_a_wafer_map_die_by_die(trained_on_maps, maps):
    scores = trained_on_maps.score(np.pad(maps[0][:5], ((0, 0), (0, 0), (0, 8), (0, 3))))
    assert scores.anomaly_map.shape == (5, 40, 35)
    assert np.isfinite(scores.pred_score).all()
    assert scores.expected.shape == (5, 1, 40, 35)


def test_the_same_seed_gives_the_same_weights(name, maps):
    good = maps[0][maps[1] == "none"][:120]
    one, two, other = (
        fitted(map_detector(name), good, Budget(steps=3, batch_size=16, seed=seed))
        for seed in (0, 0, 1)
    )
    assert same(one, two)
    assert name in LEARNS_NOTHING or not same(one, other)


def test_a_model_of_dies_alone_says_so(name):
    if name != "fusion":
        model = map_detector(name).model
        assert model.maps_only == (name in ON_MAPS_ALONE)
        assert model.native == (name in NATIVE)


def test_saves_and_loads_to_the_same_scores(name, trained_on_maps, maps, tmp_path):
    tensors = {k: v.contiguous() for k, v in trained_on_maps.state_dict().items()}
    save_file(tensors, tmp_path / "weights.safetensors")
    fresh = map_detector(name)
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    before, after = trained_on_maps.score(maps[0][:8]), fresh.score(maps[0][:8])
    assert (before.pred_score == after.pred_score).all()
    assert (before.anomaly_map == after.anomaly_map).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_GRAPH, indirect=True)
def test_exports_maps_with_the_same_scores_for_any_batch_and_size(trained_on_maps, maps, tmp_path):
    detector = by_residuals(trained_on_maps, maps[0][maps[1] == "none"][:80])
    parity.to_onnx(detector, maps[0][:3], tmp_path / "model.onnx")
    theirs = parity.scorer(tmp_path / "model.onnx")
    larger = np.pad(maps[0][:2], ((0, 0), (0, 0), (0, 9), (0, 5)))
    agree(detector, theirs, (maps[0][:40], maps[0][:1], larger, np.zeros_like(larger)))


def test_finds_scratches_on_simulated_wafers(trained_on_maps, maps):
    pixels, labels = maps
    assert held_out_auroc(trained_on_maps, pixels, labels, "none", labels == "Scratch") > 0.75


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(UnknownModel, match=r"No model 'vea'. Known models: .*autoencoder"):
        models.config("vea", {})


def test_every_model_says_where_it_comes_from(name):
    assert "Source" in module(name).__doc__
