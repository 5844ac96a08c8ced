"""What latent diffusion promises beyond the contract of every model."""

import numpy as np
import pytest
import torch
from made_batches import Stripes
from sklearn.metrics import roc_auc_score
from torch import nn

from inspect_ai import models
from inspect_ai.diffusing.tale import Tale
from inspect_ai.errors import BadSettings
from inspect_ai.models.latent_diffusion import Config
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Run

GRID = (16, 16)
STAGES = {
    "vqvae": ("vqvae", {"width": 8, "codes": 16, "dimension": 4, "prior_width": 8}),
    "spatial": ("vae", {"width": 4, "depth": 2, "latent": 3, "spatial": True}),
    "vector": ("vae", {"width": 4, "depth": 2, "latent": 5}),
}
NET = {"width": 16, "depth": 1, "heads": 2}
FEW = {"bound": 3, "inversion": 1}
BRIEF = {"net": NET, "sampling": 5, "levels": 3, "highest": 0.3} | FEW


def stage(kind="vqvae", classes=0, grid=GRID):
    name, fields = STAGES[kind]
    torch.manual_seed(0)
    told = {"classes": classes} if classes else {}
    return models.config(name, fields).build(1, grid, **told).eval()


def built(kind="vqvae", classes=0, wanted=(), **fields):
    made = Config.checked({"net": NET} | FEW | fields, "[model]").build(
        1, GRID, classes, stage(kind)
    )
    torch.manual_seed(1)
    for weight in made.process.parameters():  # an untrained network says 0
        nn.init.normal_(weight, std=0.1)
    made.wanted = frozenset(wanted)
    return made.eval()


def images(count=4):
    """Half of some patches is not covered, and all of others."""
    x = torch.rand(count, 1, *GRID, generator=torch.Generator().manual_seed(0))
    w = torch.ones(count, 1, *GRID)
    w[:, :, :2] = 0
    w[:, :, 8:, 12:] = 0
    return torch.cat([x, w], 1)


def steps_of(count):
    budget = Budget(steps=count, batch_size=16, learning_rate=5e-3, average=0.9)
    return Run(budget, lambda step, losses: None)


# both spaces

EVERYTHING = ("errors", "pull", "time", "inverted", "surprise")


@pytest.mark.parametrize("kind", STAGES)
@torch.no_grad()
def test_a_cell_has_what_its_code_has_and_its_share_of_the_nats(kind):
    made, batch = built(kind, wanted=EVERYTHING), images()
    w, covered = batch[:, -1:], batch[:, -1] > 0
    seen, codes = made(batch), Tale.forward(made, batch)
    nats = (part.surprise.sum((1, 2)) for part in (seen, codes))
    torch.testing.assert_close(*nats, rtol=1e-4, atol=1e-4)
    for name in ("pull", "inverted", "surprise"):
        assert getattr(seen, name).shape == (4, *GRID)
        assert (getattr(seen, name)[~covered] == 0).all()
    for row, column in ((4, 4), (7, 11)):  # cells of whole patches
        for name in ("errors", "pull", "inverted"):
            own = getattr(codes, name)[..., row // made.patch[0], column // made.patch[1]]
            torch.testing.assert_close(getattr(seen, name)[..., row, column], own)
    assert (seen.errors * (1 - (w > 0).float()) == 0).all()
    assert torch.equal(seen.time, codes.time)


@torch.no_grad()
def test_a_code_is_covered_as_its_patch_is_and_a_vector_always():
    w = images()[:, -1:]
    found = built().covered(w)
    assert found.shape == (4, 1, 4, 4)
    assert found[0, 0].tolist() == [[0.5] * 4, [1.0] * 4, [1, 1, 1, 0], [1, 1, 1, 0]]
    assert built("vector").covered(w).tolist() == [[[[1.0]]]] * 4


@pytest.mark.parametrize("kind", STAGES)
@torch.no_grad()
def test_what_is_not_covered_has_no_say(kind):
    made, known = built(kind, wanted=EVERYTHING), images()
    junk = known.clone()
    junk[:, :1] = torch.where(known[:, 1:] > 0, known[:, :1], 0.9)
    for a, b in zip(made(known), made(junk), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    nothing = made(known * 0)
    for name in ("errors", "pull", "inverted", "surprise"):
        assert (getattr(nothing, name) == 0).all()


@pytest.mark.parametrize("kind", STAGES)
@torch.no_grad()
def test_with_little_noise_the_first_stage_alone_redraws_the_image(kind):
    made, batch = built(kind, redraw="partial", start=0.001, calls=1, schedule="edm"), images()
    alone = made.stage.decode(made.stage.encode(batch), batch[:, -1:])
    there = batch[:, -1:] > 0
    torch.testing.assert_close(made(batch).expected * there, alone * there, rtol=0, atol=0.02)


# training


class Odd(Stripes):
    """Stripes, and the same with a square that is none."""

    def at(self, step):
        batch = super().at(step)
        batch[8:, 0, 6:10, 6:10] = 1 - batch[8:, 0, 6:10, 6:10]
        return batch


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    first = stage("spatial").train().fit(Stripes(), steps_of(150)).eval()
    before = {key: value.clone() for key, value in first.state_dict().items()}
    made = Config.checked(BRIEF, "[model]").build(1, GRID, 0, first)
    return made.train().fit(Stripes(), steps_of(300)).eval(), before


def test_the_first_stage_does_not_move(trained):
    made, before = trained
    after = made.stage.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(weight.requires_grad for weight in made.stage.parameters())
    assert not any(part.training for part in made.train().stage.modules())
    assert made.process.net.training
    made.eval()


def test_its_weights_are_kept_beside_the_processes(trained):
    made, _ = trained
    torch.manual_seed(9)
    fresh = Config.checked(BRIEF, "[model]").build(1, GRID, 0, stage("spatial"))
    fresh.load_state_dict(made.state_dict())
    batch = Stripes().at(1000)
    assert torch.equal(fresh.eval()(batch).expected, made(batch).expected)


@torch.no_grad()
def test_what_is_odd_is_found_in_the_codes_and_in_the_image(trained):
    made, _ = trained
    made.wanted = frozenset({"errors"})
    batches = [Odd().at(1000 + step) for step in range(6)]
    scores = []
    for batch in batches:
        seen = made(batch)
        redrawn = (seen.expected - batch[:, :1]).square().mean((1, 2, 3))
        scores.append(torch.stack([seen.errors.mean((1, 2, 3)), redrawn]))
    odd = [False] * 8 + [True] * 8
    for found in torch.stack(scores, 1):
        assert np.mean([roc_auc_score(odd, each) for each in found]) > 0.9


@torch.no_grad()
def test_it_tells_of_codes_by_that_name_and_shows_images(trained):
    made, _ = trained
    batch = Stripes().at(1000)
    told = made.told(batch, None)
    assert {"latent_denoising_error_0", "latent_bound_bits_per_dim"} <= set(told)
    assert all(name.startswith("latent_") and np.isfinite(x) for name, x in told.items())
    sheets = made.pictures(batch, None)
    assert sheets["denoised"].shape == (2 + made.process.config.levels, 8, 1, *GRID)
    assert made.glimpse().shape == (2, 8, 1, *GRID)
    redrawn = made.stage.decode(made.stage.encode(batch), batch[:, -1:])
    torch.testing.assert_close(sheets["denoised"][1], redrawn[:8])


# refusals


def test_without_a_first_stage_it_is_refused_with_what_would_fit():
    with pytest.raises(BadSettings, match=r"got none. Write first_stage = .* vqvae, or of a vae"):
        Config().build(1, GRID)
    for other in (
        models.config("autoencoder", {}).build(1, GRID),
        models.config("vae", {"levels": 2}).build(1, GRID),
    ):
        with pytest.raises(BadSettings, match="without a map of codes"):
            Config().build(1, GRID, 0, other)


def test_a_first_stage_of_another_grid_or_of_other_conditions_is_refused():
    with pytest.raises(BadSettings, match=r"16 x 16 in a model on 32 x 32.*on the same"):
        Config().build(1, (32, 32), 0, stage())
    with pytest.raises(BadSettings, match=r"Of the 4 x 4 codes .*multiples of 8"):
        Config.checked({"net": {"patch": 8}}, "[model]").build(1, GRID, 0, stage())
    told = stage("vector", classes=3)
    for classes, said in ((0, "told none"), (2, "told one of 2")):
        with pytest.raises(BadSettings, match=rf"one of 3 conditions.*{said}"):
            Config().build(1, GRID, classes, told)
    assert Config().build(1, GRID, 3, told).classes == 3
    assert Config().build(1, GRID, 3, stage()).classes == 3  # one that is told nothing


def test_a_unet_on_one_code_is_refused_and_the_advice_works():
    unet = Config.checked({"net": {"network": "unet", "width": 8, "depth": 1}}, "[model]")
    with pytest.raises(BadSettings, match=r"'unet' on one code.*'dit'.*spatial = true"):
        unet.build(1, GRID, 0, stage("vector"))
    for kind in ("spatial", "vqvae"):
        assert unet.build(1, GRID, 0, stage(kind))(images()).expected.shape == (4, 1, *GRID)
    assert Config().build(1, GRID, 0, stage("vector"))(images()).expected.shape == (4, 1, *GRID)


def test_noise_with_clouds_is_none_for_codes():
    with pytest.raises(BadSettings, match=r"'noise'.*'gaussian'"):
        models.config("latent_diffusion", {"noise": "simplex"})
