"""A change that should change no number changes none of these.

After a change that should: .venv/bin/python tests/models/test_recorded.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_detectors import bin_maps, die_images, fitted, map_detector, picture_detector

from inspect_ai.training.budget import Budget

RECORD = Path(__file__).with_name("recorded.json")
HOW = "Scores of tests/models/test_recorded.py; running that file writes them anew."
BUDGET = Budget(steps=10, batch_size=16)
SMALL = {"width": 4, "depth": 2, "latent": 4}


def detectors():
    """Each with eight images to score: good ones and odd ones."""
    (dies, kinds), (maps, patterns) = die_images(), bin_maps()
    for rule in ("variance", "ssim", "gradient"):
        made = picture_detector("autoencoder", SMALL, rule)
        yield f"dies {rule}", fitted(made, dies[kinds == "good"][:48], BUDGET), dies[-8:]
    made = map_detector("autoencoder", SMALL | {"output": "bernoulli"}, (16, 16))
    yield "maps structure", fitted(made, maps[patterns == "none"][:48], BUDGET), maps[-8:]


def scores():
    torch.set_num_threads(1)
    return {name: made.score(pixels).pred_score.tolist() for name, made, pixels in detectors()}


def test_scores_are_those_recorded():
    recorded, found = json.loads(RECORD.read_text(encoding="utf-8")), scores()
    assert set(found) == set(recorded["scores"])
    for name, wanted in recorded["scores"].items():
        near = 1e-4 * np.abs(wanted).max()  # other processors differ in the last digits
        assert found[name] == pytest.approx(wanted, abs=near), name


if __name__ == "__main__":
    text = json.dumps({"about": HOW, "scores": scores()}, indent=2)
    RECORD.write_text(text + "\n", encoding="utf-8")
