import math

import pytest
import torch
from made_vae import (
    KINDS,
    Stripes,
    half_covered,
    images,
    linear_images,
    model,
    ppca,
    total,
    trained,
)


@pytest.mark.parametrize("kind", ["plain", "ladder", "skip"])
def test_regret_grows_with_the_steps_and_moves_no_weight(kind):
    made = model(**KINDS[kind])
    before = {k: v.clone() for k, v in made.state_dict().items()}
    none, few, many = (made.regret(images(), steps, 0.05) for steps in (0, 5, 40))
    assert (none == 0).all()
    assert (few > 0).all()
    assert (many > few).all()
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


def test_regret_is_an_images_own_and_works_without_gradients_around():
    made = model()
    with torch.no_grad():
        alone = made.regret(images()[2:3], 10, 0.05)
    torch.testing.assert_close(alone[0], made.regret(images(), 10, 0.05)[2], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_posterior_that_is_true_leaves_little_to_regret():
    right, _ = ppca("elbo", 64)
    wrong, _ = ppca("elbo", 64, wrong=True)
    found = [made.regret(linear_images(), 60, 0.02).mean().item() for made in (right, wrong)]
    assert found[1] > 5 * found[0]


def test_a_collapsed_code_has_no_active_unit_and_a_used_one_has():
    batch = Stripes().at(999)
    made = model(latent=2, depth=3)
    with torch.no_grad():
        made.net.code[1].weight[0] = 0
        made.net.code[1].weight[1] *= 1e4
        told = made.told(batch, None)
        assert (told["active_units"], told["latent_units"]) == (1, 2)
        made.net.code[1].weight.zero_()
        assert made.told(batch, None)["active_units"] == 0


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_told_is_the_bound_in_bits_a_covered_number(kind):
    made = model(channels=2, **KINDS[kind])
    batch = images(5, 2, coverage=half_covered(5))
    told = made.told(batch, None)
    wanted = total(made(batch)).sum() / (2 * batch[:, -1].sum()) / math.log(2)
    level = 0 if kind == "bernoulli" else 8  # bits: of 256 levels, as pixels are counted
    assert told["bound_bits_per_dim"] == pytest.approx(wanted.item() + level, rel=1e-5)
    assert told["kl_nats"] == pytest.approx(made(batch).kl.mean().item(), rel=1e-5)
    assert all(math.isfinite(value) for value in told.values())
    assert ("noise" in told) == (kind != "bernoulli")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5, 40])
@torch.no_grad()
def test_pictures_are_sheets_of_images(kind, count):
    made = model(channels=3, classes=2, **KINDS[kind])
    batch = images(count, 3, coverage=half_covered(count))
    sheets = made.pictures(batch, torch.arange(count) % 2)
    sizes = {name: tuple(sheet.shape[:2]) for name, sheet in sheets.items()}
    wanted = {"reconstructions": (2, min(8, count)), "samples": (4, 8), "traversal": (3, 7)}
    assert sizes == wanted
    for sheet in sheets.values():
        assert sheet.shape[2:] == (3, 16, 16)
        assert sheet.min() >= 0
        assert sheet.max() <= 1


@torch.no_grad()
def test_a_traversal_begins_with_the_most_active_number():
    made = model()
    made.net.code[1].weight[:3] *= torch.tensor([1.0, 50.0, 5.0])[:, None]
    made.net.enter.weight[:, 1] = 0  # it is coded, and the decoder does not look at it
    sheet = made.traversal(images(), None)
    assert (sheet[0] == sheet[0, :1]).all()
    assert (sheet[1] - sheet[1, :1]).abs().max() > 0


@torch.no_grad()
def test_samples_depend_on_their_seed_alone():
    made = model(depth=3, levels=2)
    like = images(5)
    like[1, :, :, :4] = 0
    first, again, other = (made.sample(like, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (5, 1, 16, 16)
    assert (first[1, :, :, :4] == 0).all()
    assert (first[0, :, :, :4] > 0).all()


def test_samples_of_trained_stripes_are_striped():
    made = trained(model(latent=2, beta=0.2), Stripes(), 250)
    drawn = made.sample(torch.ones(32, 2, 16, 16), 0)[:, 0]
    across, along = drawn.std(2).mean(), drawn.std(1).mean()
    assert across > 3 * along
    assert across > 0.1
