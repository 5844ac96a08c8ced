"""What every model promises that draws images of its own; the others say that they do not."""

import pytest
import torch

from inspect_ai import models
from inspect_ai.errors import BadSettings

GRID = (8, 8)
FIELDS = {"vqvae": {"prior": "autoregressive"}, "flow": {"reach": 3}}
FIELDS |= {name: {"sampling": 5} for name in ("diffusion", "latent_diffusion")}
DRAWS = ("bigan", "f_anogan", "flow", "nade", "pixelcnn", "pixelrnn", "vae", "vqvae")
DRAWS = (*DRAWS, "diffusion", "latent_diffusion")
REDRAWS = [n for n in models.names() if n not in (*DRAWS, "fusion")]


def like(count=3):
    """Images of which a fifth is not covered."""
    x = torch.rand(count, 1, *GRID).round()
    w = torch.ones(count, 1, *GRID)
    w[:, :, :3] = 0
    return torch.cat([x, w], 1)


def built(name):
    torch.manual_seed(0)
    given = {"stage": built("vqvae")} if name == "latent_diffusion" else {}
    return models.config(name, FIELDS.get(name, {})).build(1, GRID, **given).eval()


@pytest.fixture(scope="module", params=DRAWS)
def name(request):
    torch.set_num_threads(1)
    return request.param


def test_a_sample_is_that_of_its_seed_and_covered_as_it_was_asked_for(name):
    model, images = built(name), like()
    one, again, other = (model.sample(images, seed) for seed in (0, 0, 1))
    assert one.shape == (3, 1, *GRID)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one[:, :, :3] == 0).all()
    assert (one >= 0).all()
    assert (one <= 1).all()


def test_samples_take_nothing_but_coverage(name):
    model, images = built(name), like()
    other = images.clone()
    other[:, :1] = 1 - other[:, :1]
    assert torch.equal(model.sample(images, 0), model.sample(other, 0))


def test_a_sample_leaves_the_world_as_it_was(name):
    model, images = built(name), like()
    before = torch.random.get_rng_state()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    model.sample(images, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize("name", REDRAWS)
def test_a_model_that_redraws_says_so_and_names_those_that_draw(name):
    with pytest.raises(BadSettings, match=r"draws none of its own; .*f_anogan, bigan"):
        built(name).sample(like(), 0)
