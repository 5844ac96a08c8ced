"""One build makes a first stage and the diffusion model of its codes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inspect_ai import build, recipe, train
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.data import images
from inspect_ai.errors import BadSettings
from inspect_ai.tracking import Nothing

AUTOENCODER = 'name = "autoencoder"\nwidth = 4\ndepth = 2\nlatent = 4'
STAGES = {
    "vqvae": 'name = "vqvae"\nwidth = 4\ncodes = 8\ndimension = 4\nprior_width = 4',
    "vae": 'name = "vae"\nwidth = 4\ndepth = 2\nlatent = 3\nspatial = true',
}
LATENT = 'name = "latent_diffusion"\nsampling = 2\nnet = { width = 8, depth = 1, heads = 2 }'


class Kept(Nothing):
    """Remembers what was reported."""

    def __init__(self):
        self.names, self.made = set(), []

    def numbers(self, step, values):
        self.names |= set(values)

    def artefact(self, path):
        self.made.append(path)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def asked(products, folder, kind, rule='rule = "likelihood"'):
    text = products.run.read_text(encoding="utf-8")
    (folder / "stage.toml").write_text(text.replace(AUTOENCODER, STAGES[kind]), encoding="utf-8")
    latent = text.replace(AUTOENCODER, LATENT).replace('rule = "l2"', rule)
    path = folder / "latent.toml"
    path.write_text(f'first_stage = "stage.toml"\n{latent}', encoding="utf-8")
    return recipe.read(path)


@pytest.fixture(scope="module")
def built(products, tmp_path_factory):
    folder, log = tmp_path_factory.mktemp("latent"), Kept()
    made = asked(products, folder, "vqvae")
    build.build(made, products.manifest(), folder / "out", log, force=True)
    return folder / "out", log


def weights(folder):
    return load_file(folder / "weights.safetensors")


def first_stages(folder):
    """The first stage's weights: as they were trained, and as the detector keeps them."""
    alone = weights(folder / "first_stage")
    whole = {n.replace("model.stage.", "model."): w for n, w in weights(folder).items()}
    own = [name for name in alone if name.startswith("model.")]
    assert own
    return [(alone[name], whole[name]) for name in own]


@pytest.mark.slow
def test_the_first_stage_keeps_the_weights_it_was_trained_to(built):
    assert all(torch.equal(*pair) for pair in first_stages(built[0] / "checkpoint"))


@pytest.mark.slow
def test_the_bundle_scores_as_the_detector_that_is_loaded(built, products):
    out, _ = built
    manifest = products.manifest()
    paths = manifest.good("calibrate")["image_path"][:12]
    pixels = np.stack([images.read(manifest.root / p, manifest.spec.image) for p in paths])
    bundle = bundles.read(out / "bundle")
    ours = train.load(out / "checkpoint").detector.score(pixels)
    theirs = Scorer(bundle, "cpu").score(pixels)
    spread = bundle.calibration.good_scores.std()
    np.testing.assert_allclose(theirs.pred_score, ours.pred_score, atol=1e-3 * spread)
    assert bundle.card.model == "latent_diffusion"
    assert bundle.card.recipe["first_stage"]["model"]["name"] == "vqvae"


@pytest.mark.slow
def test_both_are_told_of_and_shown(built):
    out, log = built
    checkpoint = out / "checkpoint"
    assert {"code_perplexity", "latent_denoising_error_0"} <= log.names
    said = " ".join(train.figures(checkpoint))
    assert "code perplexity" in said
    assert "latent denoising error 0" in said
    shown = {str(p.relative_to(checkpoint)) for p in log.made if p.is_relative_to(checkpoint)}
    assert {"pictures/denoised.png", "first_stage/pictures/redraws.png"} <= shown
    records = [
        json.loads((p / "run.json").read_text()) for p in (checkpoint, checkpoint / "first_stage")
    ]
    assert records[0]["train_seconds"] > records[1]["train_seconds"] > 0


def test_a_kl_stage_with_codes_in_their_places_is_trained_and_loaded(products, tmp_path):
    made = asked(products, tmp_path, "vae", 'rule = "l2"')
    train.train(made, products.manifest(), tmp_path / "out", Nothing())
    pairs = first_stages(tmp_path / "out")
    assert all(torch.equal(*pair) for pair in pairs)
    detector = train.load(tmp_path / "out").detector
    assert detector.model.stage.latent == (3, 4, 4)
    assert np.isfinite(detector.score(np.zeros((2, 1, 32, 32), np.uint8)).pred_score).all()
    train.train(made, products.manifest(), tmp_path / "out", Nothing())  # nothing is left to do


def test_a_first_stage_without_codes_is_refused_before_any_work(products, tmp_path):
    made = asked(products, tmp_path, "vae")
    wrong = made.first_stage.model_copy(update={"model": {"name": "autoencoder"}})
    with pytest.raises(BadSettings, match=r"Autoencoder without a map of codes.*vqvae"):
        build.build(
            made.model_copy(update={"first_stage": wrong}),
            products.manifest(),
            tmp_path / "out",
            Nothing(),
        )
    assert not (tmp_path / "out").exists()
