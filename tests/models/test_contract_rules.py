"""Every rule goes with a model that gives what it needs."""

import numpy as np
import pytest
from made_detectors import agree, bin_maps, fitted, map_detector

from inspect_ai import parity
from inspect_ai.scoring import density
from inspect_ai.scoring.statistics import NEEDS, STATISTICS
from inspect_ai.training.detector import Single


@pytest.fixture(scope="module")
def maps():
    return bin_maps()


@pytest.mark.parametrize("rule", ["l2", "variance", "ssim", "gradient"])
def test_a_rule_of_the_grid_scores_a_map_there_and_its_map_covers_the_dies(maps, rule):
    good = maps[0][maps[1] == "none"][:80]
    scores = fitted(map_detector("autoencoder", rule=rule), good).score(maps[0][:6])
    assert scores.anomaly_map.shape == maps[0][:6, 0].shape
    assert (scores.anomaly_map[maps[0][:6, 0] == 2] > 0).mean() > 0.9
    assert np.isfinite(scores.pred_score).all()


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
