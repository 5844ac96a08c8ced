import numpy as np
import pytest
import torch

from inspect_ai.errors import BadImages
from inspect_ai.preprocess import Preprocess, View
from inspect_ai.scoring import density, reconstruction
from inspect_ai.scoring.rule import Seen
from inspect_ai.scoring.statistics import STATISTICS, Evidence
from inspect_ai.training.detector import Model, Single


class Grey(Model):
    """Expects a middle grey everywhere and learns nothing."""

    def fit(self, batches, run):
        return self

    def forward(self, images, condition=None):
        return Seen(torch.full_like(images[:, :-1], 0.5))


def detector(minimum=0.0, maximum=255.0):
    view = {"kind": "picture", "channels": 1, "resize": "stretch", "grid": (4, 4)}
    rule = reconstruction.Config(rule="l1", blur=0, pooling={"kind": "mean"})
    seen = Preprocess(View(**view, minimum=minimum, maximum=maximum))
    return Single(seen, Grey(), rule.build(1, (4, 4)))


def test_scores_are_what_the_rule_makes_of_image_and_expectation():
    scores = detector().score(np.full((2, 1, 8, 8), 255, np.uint8))
    assert scores.pred_score.tolist() == [0.5, 0.5]
    assert scores.anomaly_map == pytest.approx(0.5)
    assert scores.expected == pytest.approx(0.5)


def test_dark_pixels_of_an_integer_file_may_lie_below_the_minimum():
    low, least = (np.full((1, 1, 4, 4), value, np.uint8) for value in (3, 20))
    made = detector(minimum=20)
    assert made.score(low).pred_score == made.score(least).pred_score


def test_pixels_of_a_float_file_may_not():
    with pytest.raises(BadImages, match=r"must lie in \[20, 255\], got \[3, 3\]"):
        detector(minimum=20).score(np.full((1, 1, 4, 4), 3, np.float32))


def test_a_pixel_above_the_maximum_is_refused():
    with pytest.raises(BadImages, match=r"must lie in \[0, 200\], got \[0, 201\]"):
        detector(maximum=200).score(np.array([[[[0, 201]]]], np.uint8))


def test_fit_hands_the_rule_only_what_the_model_did_not_see():
    made, asked = detector(), []
    held = np.full((3, 1, 4, 4), 255, np.uint8)

    class Watching(type(made.rule)):
        def fit(self, pairs):
            asked.extend(pairs)

    made.rule.__class__ = Watching
    made.fit(None, lambda: [(held[:2], None), (held[2:], None)], type("Run", (), {"device": "cpu"}))
    assert [len(image) for image, _ in asked] == [2, 1]
    assert all((image == 1).all() and (seen.expected == 0.5).all() for image, seen in asked)
    assert not made.training


class Errs(Model):
    """Says that each cell of a map errs by what its model's grid shows of it."""

    gives = ("errors", "pull", "inverted", "surprise")

    def forward(self, images, condition=None):
        cells = images[:, 0] * images[:, -1] + 0.1 * images[:, -1]
        return Seen(images[:, :1], cells, errors=cells[:, None], pull=cells, inverted=cells)


@pytest.mark.parametrize("statistic", ["denoising", "pull", "inversion"])
def test_an_error_of_a_cell_does_not_depend_on_how_many_dies_it_is_cut_into(statistic):
    rule = density.Config(rule="density", statistics=("moran", statistic)).build(1, (8, 8))
    view = View(kind="wafer_map", channels=1, minimum=0, maximum=2, resize="stretch", grid=(8, 8))
    detector = Single(Preprocess(view), Errs(), rule)
    coarse = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
    coarse[:, :, 4:8, 4:8] = 2
    fine = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = [STATISTICS[statistic](Evidence(*detector.look(dies))) for dies in (coarse, fine)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
