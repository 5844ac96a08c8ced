"""Small simulated data and detectors for the tests of models."""

from importlib import import_module

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from inspect_ai import models, parity
from inspect_ai.data.simulate_dies import DieSettings
from inspect_ai.data.simulate_dies import dies as simulated_dies
from inspect_ai.data.simulate_maps import MapSettings, wafer_maps
from inspect_ai.models.fusion import Fusion
from inspect_ai.models.latent_diffusion import LatentDiffusion
from inspect_ai.preprocess import Preprocess, View
from inspect_ai.scoring import density, likelihood, reconstruction
from inspect_ai.training.batches import Batches
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Run
from inspect_ai.training.detector import Single

GRID = (32, 32)
STATISTICS = ("moran", "walks_4", "walks_12")
BRIEF = Budget(steps=60, batch_size=32, learning_rate=2e-3, average=0.9)
# these read dies, which pictures do not have
ON_MAPS_ALONE = ("wafer_statistics", "denoiser", "nade")
NATIVE = ("wafer_statistics", "denoiser", "pixelcnn")  # a map is seen die by die
LEARNS_NOTHING = ("wafer_statistics",)
# as small as they still find a defect, or they would take half the suite's time
NARROW = {"f_anogan": {"width": 8}, "ganomaly": {"width": 8}}
NARROW["bigan"] = {"width": 8, "depth": 2}
NARROW["pixelcnn"] = {"width": 8, "layers": 2}
NARROW["pixelrnn"] = {"width": 8}
NARROW["flow"] = {"steps": 4}
NARROW["diffusion"] = {"net": {"width": 8}}
NARROW["latent_diffusion"] = {"net": {"width": 32, "depth": 2}}
STAGES = {"vae": {"width": 8}}
STAGES["vqvae"] = {"width": 8, "depth": 3, "codes": 16, "dimension": 4, "prior_width": 8}
# a picture's grid; their time and the rows of their graphs grow with it
COARSE = dict.fromkeys(("pixelcnn", "pixelrnn"), (16, 16))
REDRAWS = ("latent_diffusion",)  # in a brief training its codes are not learnt, its redraws are


def silent(step, losses):
    pass


def die_images():
    """(N, 1, 32, 32) 8-bit dies of one product and (N,) labels, "good" or a defect."""
    made = list(simulated_dies(DieSettings(lots=5, side=32, products=1, defect_share=0.3, seed=2)))
    return np.stack([d.image for d in made])[:, None], np.array([d.label for d in made])


def bin_maps():
    """(N, 1, 32, 32) wafer maps of several shapes and (N,) labels, "none" or a pattern."""
    settings = MapSettings(lots=30, largest=32, canvas=32, defect_share=0.5, mixture_share=0)
    made = wafer_maps(settings)
    return made.maps[:, None], made.labels


def picture_detector(name, fields=None, rule=None, grid=None, classes=0):
    grid = grid or COARSE.get(name, GRID)
    # of a picture that is no square, "fit" leaves cells uncovered
    view = View(kind="picture", channels=1, minimum=0, maximum=255, resize="fit", grid=grid)
    if name == "fusion":
        pair = [picture_detector("autoencoder", fields, rule, grid) for rule in ("l2", "ssim")]
        return models.config(name, {}).build(pair).eval()
    model = _model(name, fields, grid, classes)
    likely = "surprise" in model.gives and rule is None and name not in REDRAWS
    config = likelihood.Config(rule="likelihood") if likely else None
    return _single(model, view, config or reconstruction.Config(rule=rule or "l2", blur=1.0))


def map_detector(name, fields=None, grid=GRID, rule=None):
    view = View(kind="wafer_map", channels=1, minimum=0, maximum=2, resize="stretch", grid=grid)
    if name == "fusion":
        pair = [map_detector(other, fields, grid) for other in ("autoencoder", "wafer_statistics")]
        return models.config(name, {}).build(pair).eval()
    dies = density.Config(rule="density", statistics=STATISTICS)
    config = reconstruction.Config(rule=rule) if rule else dies
    return _single(_model(name, fields, grid, stage="vqvae"), view, config)


def _model(name, fields, grid, classes=0, stage="vae"):
    torch.manual_seed(0)
    told = {"classes": classes} if classes else {}
    if name == "latent_diffusion":
        told["stage"] = models.config(stage, STAGES[stage]).build(1, grid, **told)
    return models.config(name, fields or NARROW.get(name, {})).build(1, grid, **told)


def _single(model, view, rule):
    return Single(Preprocess(view), model, rule.build(1, view.grid)).eval()


def fitted(detector, good, budget=BRIEF, conditions=None):
    """Weights on the first three quarters of good pixels, the rule on the rest."""
    cut = 3 * len(good) // 4
    first, rest = (None, None) if conditions is None else (conditions[:cut], conditions[cut:])
    if isinstance(detector, Fusion):
        for member in detector.members:
            fitted(member, good[:cut], budget)
        detector.fit([good[cut:]])
        return detector.eval()
    seen = detector.seen_by_model(torch.from_numpy(good[:cut])).numpy()
    drawn = Batches(seen, budget.batch_size, budget.seed, conditions=first)
    if isinstance(detector.model, LatentDiffusion):
        stage = detector.model.stage.requires_grad_(True).train()
        stage.fit(drawn, Run(budget, silent)).requires_grad_(False).eval()
    return detector.fit(drawn, lambda: [(good[cut:], rest)], Run(budget, silent))


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def agree(trained, theirs, batches):
    spread = trained.score(batches[0]).pred_score.std()
    for pixels in batches:
        a, b = trained.score(pixels), theirs(pixels)
        np.testing.assert_allclose(b.pred_score, a.pred_score, atol=parity.TOLERANCE * spread)
        near = 1e-5 * max(1.0, float(np.abs(a.anomaly_map).max()))
        np.testing.assert_allclose(b.anomaly_map, a.anomaly_map, rtol=1e-3, atol=near)
        np.testing.assert_allclose(b.expected, a.expected, rtol=1e-3, atol=1e-5)


def held_out_auroc(detector, pixels, labels, good, odd):
    """AUROC on images that neither weights nor rule have seen."""
    rest = [pixels[labels == good][200:], pixels[odd]]
    scores = np.concatenate([detector.score(part).pred_score for part in rest])
    return roc_auc_score(np.repeat([0, 1], [len(part) for part in rest]), scores)


def module(name):
    return import_module(f"inspect_ai.models.{name}")
