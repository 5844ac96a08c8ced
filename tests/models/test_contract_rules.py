"""Every rule goes with a model that gives what it needs."""

from typing import get_args

import numpy as np
import pytest
import torch
from made_detectors import agree, bin_maps, fitted, map_detector
from torch import nn
from torch.nn import functional as F

from inspect_ai import parity
from inspect_ai.preprocess import Preprocess, View
from inspect_ai.scoring import density, likelihood
from inspect_ai.scoring.likelihood import Kind
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.scoring.statistics import NEEDS, STATISTICS
from inspect_ai.training.budget import Budget
from inspect_ai.training.detector import Model, Single

FEW = Budget(steps=5, batch_size=16)


@pytest.fixture(scope="module")
def maps():
    return bin_maps()


@pytest.mark.parametrize("rule", ["l2", "variance", "ssim", "gradient"])
def test_a_rule_of_the_grid_scores_a_map_there_and_its_map_covers_the_dies(maps, rule):
    good = maps[0][maps[1] == "none"][:80]
    scores = fitted(map_detector("autoencoder", rule=rule), good, FEW).score(maps[0][:6])
    assert scores.anomaly_map.shape == maps[0][:6, 0].shape
    assert (scores.anomaly_map[maps[0][:6, 0] == 2] > 0).mean() > 0.9
    assert np.isfinite(scores.pred_score).all()


class Several(Rule):
    """Rules in one graph: a score that no two can make up for one another, and the sum of maps."""

    def __init__(self, configs):
        super().__init__()
        self.rules = nn.ModuleList(config.build(1, (32, 32)) for config in configs)

    def fit(self, pairs):
        good = list(pairs)
        for rule in self.rules:
            rule.fit(good)

    def forward(self, image, seen):
        said = [rule(image, seen) for rule in self.rules]
        weights = 1 + torch.arange(len(said)) / 7
        scores = torch.stack([score for score, _ in said], 1)
        return (scores / (1 + scores.abs()) * weights).sum(1), sum(shown for _, shown in said)


DENSITIES = ("fisher", "gaussian", "gmm", "neighbours")
GRAPHS = {
    "statistics": [{"statistics": tuple(n for n in STATISTICS if n not in NEEDS)}],
    "densities": [{"density": kind, "statistics": ("l1",)} for kind in DENSITIES],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRAPHS)
def test_every_density_and_every_statistic_exports(maps, kind, tmp_path):
    asked = [density.Config(rule="density", **fields) for fields in GRAPHS[kind]]
    rule = Several(asked) if asked[1:] else asked[0].build(1, (32, 32))
    single = map_detector("wafer_statistics")  # it says nothing that the statistics in NEEDS read
    made = fitted(Single(single.preprocess, single.model, rule), maps[0][maps[1] == "none"][:200])
    parity.to_onnx(made, maps[0][:3], tmp_path / "model.onnx")
    larger = np.pad(maps[0][:2], ((0, 0), (0, 0), (0, 9), (0, 5)))
    batches = maps[0][:40], maps[0][:1], larger, np.zeros_like(larger)
    agree(made, parity.scorer(tmp_path / "model.onnx"), batches)


class Talkative(Model):
    """Says everything a rule can ask for, in numbers that follow from the image."""

    gives = ("surprise", "usual", "varied", "background", "kl", "slope")

    def fit(self, batches, run):
        return self

    def forward(self, images, condition=None):
        x, w = images[:, 0], images[:, 1]
        n = w * (2.5 * x * F.pad(x, (1, 0))[..., :-1] - x)  # not a function of the level alone
        fields = {"usual": 0.3 * w, "varied": w * (0.1 + x), "background": 0.2 * x * w}
        return Seen(images[:, :1], n, kl=n.mean((1, 2)), slope=n.abs(), **fields)


class Every(Several):
    """All kinds of likelihood."""

    any_size = True
    needs = Talkative.gives

    def __init__(self):
        asked = [{"kind": kind} for kind in get_args(Kind)]
        asked += [
            {"sides": "both"},
            {"kind": "ratio", "sides": "low"},
            {"pooling": {}, "blur": 1.5},
        ]
        asked += [{"kind": "conditioned", "alike": "complexity", "coder": "differences"}]
        super().__init__(likelihood.Config(rule="likelihood", **fields) for fields in asked)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wafer_map", "picture"])
def test_every_kind_of_likelihood_exports(maps, kind, tmp_path):
    largest = 2 if kind == "wafer_map" else 255
    fields = {"channels": 1, "minimum": 0, "maximum": largest, "resize": "stretch"}
    made = Single(Preprocess(View(kind=kind, grid=(32, 32), **fields)), Talkative(), Every())
    good = maps[0][maps[1] == "none"] * (1 if kind == "wafer_map" else 100)
    fitted(made.eval(), good[:200])
    parity.to_onnx(made, good[:3], tmp_path / "model.onnx")
    agree(made, parity.scorer(tmp_path / "model.onnx"), (good[:40], good[:1]))
