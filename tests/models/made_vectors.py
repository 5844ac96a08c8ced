"""Small images, fits and graphs for the tests of models that see an image as a vector."""

import numpy as np
import torch
from made_detectors import bin_maps, die_images, fitted

from inspect_ai import models, parity
from inspect_ai.preprocess import Preprocess, View
from inspect_ai.scoring import likelihood
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Run
from inspect_ai.training.detector import Single


def images(count, grid=(6, 5), channels=1, seed=0, coverage=None):
    """(N, C + 1, h, w): three smooth patterns of random strength, and noise that varies by cell."""
    draw = torch.Generator().manual_seed(seed)
    size = channels * grid[0] * grid[1]
    patterns = torch.randn(3, size, generator=torch.Generator().manual_seed(99))
    noise = torch.linspace(0.02, 0.08, size) * torch.randn(count, size, generator=draw)
    x = 0.5 + 0.1 * torch.randn(count, 3, generator=draw) @ patterns / 3 + noise
    w = torch.ones(grid) if coverage is None else coverage
    x = x.clamp(0, 1).reshape(count, channels, *grid)
    return torch.cat([x, w.expand(count, 1, *grid)], 1)


def vectors(batch):
    """(N, d) float64 vectors, as scikit-learn is given them."""
    return np.float64((batch[:, :-1] * batch[:, -1:]).flatten(1).numpy())


class Given:
    """Batches that are these images, whatever the step."""

    def __init__(self, batch):
        self.batch = batch

    def first(self, steps):
        return self.batch.numpy()


def fit(model, batch, seed=0):
    """The model, fitted on all of a batch."""
    return model.fit(Given(batch), Run(Budget(steps=1, seed=seed), lambda *_: None))


def total(seen):
    """Negative log-likelihoods as the surprise sums to them, (N,) float64."""
    return np.float64(seen.surprise.numpy()).sum((1, 2))


def scored_by_likelihood(name, fields, kind):
    """A fitted detector with rule "likelihood", and the pixels to score; good ones first."""
    pixels, labels = die_images() if kind == "picture" else bin_maps()
    good = pixels[(labels == "good") | (labels == "none")]
    view = View(
        kind=kind,
        channels=1,
        minimum=0,
        maximum=255 if kind == "picture" else 2,
        resize="stretch",
        grid=(16, 16),
    )
    model = models.config(name, fields).build(1, view.grid)
    rule = likelihood.Config(rule="likelihood").build(1, view.grid)
    detector = Single(Preprocess(view), model, rule).eval()
    # fewer steps than images: none is seen twice
    return fitted(detector, good[:200], Budget(steps=4, batch_size=32)), np.concatenate(
        [good[200:260], pixels[-20:]]
    )


def agrees_with_its_graph(detector, pixels, path):
    """Whether ONNX Runtime gives torch's scores for any batch, within the gate's tolerance."""
    parity.to_onnx(detector, pixels[:3], path)
    theirs = parity.scorer(path)
    spread = detector.score(pixels[:60]).pred_score.std()
    larger = np.pad(pixels[:2], ((0, 0), (0, 0), (0, 9), (0, 5)))
    for part in (pixels, pixels[:1], pixels[:7], larger):
        a, b = detector.score(part), theirs(part)
        np.testing.assert_allclose(b.pred_score, a.pred_score, atol=parity.TOLERANCE * spread)
        scale = np.abs(a.anomaly_map).max()
        np.testing.assert_allclose(b.anomaly_map, a.anomaly_map, rtol=1e-3, atol=1e-4 * scale)
        np.testing.assert_allclose(b.expected, a.expected, rtol=1e-3, atol=1e-5)
    return True
