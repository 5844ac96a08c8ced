import numpy as np
import pytest
import torch
from torch.nn import functional as F

from inspect_ai.data.simulate_maps import MapSettings, wafer_maps
from inspect_ai.models.denoiser import Config
from inspect_ai.training.batches import Batches, sides
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Run
from inspect_ai.training.painting import paint


def maps(count=60, seed=0, side=24):
    """(N, 2, S, S) fails and dies of simulated good wafers."""
    made = wafer_maps(
        MapSettings(
            lots=-(-count // 25), smallest=20, largest=side, canvas=side, defect_share=0, seed=seed
        )
    )
    states = torch.from_numpy(made.maps[:count])
    return torch.stack([(states == 2).float(), (states > 0).float()], 1)


def model(**fields):
    torch.manual_seed(0)
    return Config(**{"width": 4, "head": 8} | fields).build(1, (16, 16))


def stirred(built):
    """Residuals begin as nothing: give every weight a say."""
    for weight in built.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return built


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    pool, losses = maps(300).numpy().astype(np.uint8), []
    budget = Budget(steps=250, batch_size=32, learning_rate=4e-3, average=0.98)
    run = Run(budget, lambda _, found: losses.append(found["denoiser"]))
    built = model(width=8).fit(Batches(pool, 32, 0, True, sides(pool)), run)
    return built.eval(), losses


def test_training_lowers_the_loss(trained):
    _, losses = trained
    assert np.mean(losses[-25:]) < 0.75 * np.mean(losses[:10])


@torch.no_grad()
def test_painted_maps_of_other_wafers_have_higher_odds_and_lose_what_was_painted(trained):
    built, _ = trained
    torch.manual_seed(1)
    clean = maps(200, seed=9)
    made = paint(clean[:, :1], clean[:, 1:], 200)
    seen = built(torch.cat([made.fails, clean[:, 1:]], 1))
    strong = made.new >= 15
    assert strong.sum() > 50
    odds = built(clean).odds
    assert (seen.odds[strong][:, None] > odds[None]).float().mean() > 0.85
    removed = made.fails - seen.expected
    own = made.fails * (1 - made.kills)
    by_pattern = (removed * made.kills).sum() / made.kills.sum()
    assert by_pattern > 2 * (removed * own).sum() / own.sum()


def test_it_expects_no_more_than_what_fails():
    images = maps(8)
    expected = stirred(model())(images).expected
    assert (expected >= 0).all()
    assert (expected <= images[:, :1]).all()


@pytest.mark.parametrize("pad", [(0, 8, 0, 16), (3, 5, 1, 6), (16, 16, 8, 8)])
@torch.no_grad()
def test_zeros_around_a_wafer_change_nothing(pad):
    built, images = stirred(model()), maps(4)
    own, padded = built(images), built(F.pad(images, pad))
    assert torch.allclose(own.odds, padded.odds, atol=1e-5)
    cut = padded.expected[:, :, pad[2] : pad[2] + 24, pad[0] : pad[0] + 24]
    assert torch.allclose(own.expected, cut, atol=1e-5)


@torch.no_grad()
def test_a_map_without_fails_is_scored_the_same_on_any_canvas():
    built, images = stirred(model()), maps(4)
    images[:, 0] = 0
    own, padded = built(images).odds, built(F.pad(images, (0, 40, 8, 32))).odds
    assert torch.allclose(own, padded, atol=1e-5)


@torch.no_grad()
def test_views_average_the_logits_of_mirrored_maps():
    images, one, four = maps(4), stirred(model()), model(views=4)
    four.load_state_dict(one.state_dict())
    mirrored = [images, images.flip(2, 3), images.flip(2), images.flip(3)]
    wanted = torch.stack([one(m).odds for m in mirrored]).mean(0)
    assert torch.allclose(four(images).odds, wanted, atol=1e-5)
    assert torch.allclose(four(mirrored[3]).odds, wanted, atol=1e-5)
    assert torch.allclose(four(mirrored[2]).expected, four(images).expected.flip(2), atol=1e-5)


@torch.no_grad()
def test_what_is_no_die_has_no_say():
    built, images = stirred(model()), maps(4)
    junk = torch.cat([torch.where(images[:, 1:] > 0, images[:, :1], 1.0), images[:, 1:]], 1)
    assert torch.equal(built(images).odds, built(junk).odds)


@torch.no_grad()
def test_a_map_of_one_value_has_finite_odds():
    built = stirred(model())
    for fail, die in ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        images = torch.tensor([fail, die]).reshape(1, 2, 1, 1).expand(2, 2, 20, 13)
        seen = built(images)
        assert torch.isfinite(seen.odds).all()
        assert torch.isfinite(seen.expected).all()
        assert seen.expected.shape == (2, 1, 20, 13)


def test_a_pattern_of_too_few_dies_has_no_part_in_the_loss():
    images = maps(8)
    images[:, 0] = images[:, 1]  # every die fails already: nothing is new
    built, only_clean = stirred(model()), []
    for weight in (0.0, 5.0):
        torch.manual_seed(3)
        loss = stirred(model(weight=weight)).loss(images)
        only_clean.append(loss.item())
    odds = built(images).odds[4:]
    wanted = F.binary_cross_entropy_with_logits(odds, torch.zeros(4)).item()
    assert only_clean[0] == pytest.approx(wanted, rel=1e-4)
    assert only_clean[1] > only_clean[0]
