import math

import numpy as np
import pytest
import torch
from made_batches import Stripes
from made_detectors import agree, die_images, picture_detector, silent
from torch.nn import functional as F

from inspect_ai import parity
from inspect_ai.errors import BadSettings, Collapsed
from inspect_ai.models.ganomaly import Config
from inspect_ai.preprocess import Preprocess
from inspect_ai.scoring import adversarial
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Batch, Run
from inspect_ai.training.detector import Single

VARIANTS = ["plain", "skip"]
SMALL = {"width": 4, "depth": 2, "latent": 4}


def model(grid=(16, 16), channels=1, **fields):
    torch.manual_seed(0)
    built = Config(**SMALL | fields).build(channels, grid)
    built.wanted = frozenset(built.gives)
    return built


def images(count=4, channels=1, grid=(16, 16), coverage=None):
    x = torch.rand(count, channels, *grid, generator=torch.Generator().manual_seed(1))
    w = torch.ones(count, 1, *grid) if coverage is None else coverage
    return torch.cat([x, w], 1)


def holes(count=4):
    return (torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(2)) > 0.4).float()


def as_batch(given):
    return Batch(given, None, 0.0)


def figures(built, given):
    with torch.no_grad():
        return built.told(given, None)


def trained(steps=70, batches=None, grid=(16, 16), **fields):
    built = model(grid, **fields)
    budget = Budget(steps=steps, learning_rate=5e-3, average=0.9)
    return built.fit(batches or Stripes(), Run(budget, silent)).eval()


class Sprinkled:
    """Maps on which a few single dies fail by chance."""

    def at(self, step):
        draw = torch.Generator().manual_seed(step)
        fails = (torch.rand(8, 1, 4, 4, generator=draw) < 0.1).float()
        return torch.cat([fails, torch.ones_like(fails)], 1)

    def condition(self, step):
        return None


@pytest.fixture(scope="module", params=VARIANTS)
def taught(request):
    """Its figures before and after a short game on stripes."""
    torch.set_num_threads(1)
    held_out, made = Stripes().at(1000), {"variant": request.param}
    return figures(model(**made), held_out), figures(trained(**made), held_out)


def test_training_teaches_it_to_redraw_good_images(taught):
    before, after = taught
    assert after["redrawn_psnr_db"] > before["redrawn_psnr_db"] + 6


@pytest.mark.parametrize("taught", ["plain"], indirect=True)
def test_training_teaches_the_second_encoder_to_read_the_first_ones_codes(taught):
    _, told = taught
    assert told["codes_apart"] < 0.5 * told["code_spread"]


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 30, 0.5)])
def test_the_loss_is_the_weighted_sum_of_the_papers_three(weights, norm):
    built, given = model(norm=norm), images(coverage=holes())
    x, w = given[:, :1], given[:, 1:]
    z = built.redrawer.first(given)
    again = torch.cat([built.redrawer.decoder(z) * w, w], 1)
    f, g = (built.rival.critic.features(part) for part in (given, again))
    gap = (x - again[:, :1])[w > 0]
    terms = (
        (f - g).square().mean(),
        gap.abs().mean() if norm == "l1" else gap.square().mean(),
        (z - built.redrawer.second(again)).square().mean(),
    )
    wanted = sum(weight * term.item() for weight, term in zip(weights, terms, strict=True))
    fields = dict(zip(("adversarial", "context", "encode"), weights, strict=True))
    found = model(norm=norm, **fields).loss("redrawer", as_batch(given)).item()
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 0, 1), (2, 30, 0.5)])
def test_the_skip_variant_is_paid_by_the_critics_verdict_and_by_its_features(weights):
    built, given = model(variant="skip"), images()
    again = built.redraw(given)[1]
    f, g = (built.rival.critic.features(part) for part in (given, again))
    terms = (
        F.softplus(-built.rival.critic(again)).mean(),
        (given - again)[:, :1].square().mean(),
        (f - g).square().mean(),
    )
    wanted = sum(weight * term.item() for weight, term in zip(weights, terms, strict=True))
    fields = dict(zip(("adversarial", "context", "encode"), weights, strict=True))
    found = model(variant="skip", **fields).loss("redrawer", as_batch(given)).item()
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_covered_enters_no_loss_and_nothing_that_is_told(variant):
    known = images(coverage=holes())
    junk = torch.cat([torch.where(known[:, 1:] > 0, known[:, :1], 0.9), known[:, 1:]], 1)
    losses = []
    for given in (known, junk):
        built = model(variant=variant)
        players = ("critic", "redrawer")
        losses.append([built.loss(player, as_batch(given)).item() for player in players])
    assert losses[0] == losses[1]
    for one, other in zip(built(known), built(junk), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_tells_what_is_wanted_and_no_more(variant):
    built, given = model(variant=variant), images()
    whole = built(given)
    assert whole.surprise is None
    for name in built.gives:
        built.wanted = frozenset([name])
        seen = built(given)
        assert torch.equal(getattr(seen, name), getattr(whole, name))
        assert all(getattr(seen, other) is None for other in built.gives if other != name)


def test_codes_of_the_paper_are_how_far_the_two_readings_are_apart():
    built, given = model(reread="second"), images()
    z, again = built.redraw(given)
    wanted = (z - built.redrawer.second(again)).square().mean(1)
    assert torch.allclose(built(given).codes, wanted)
    assert built(given).codes.min() > 0


def test_codes_are_how_far_image_and_copy_are_apart_for_one_encoder_at_any_scale():
    built, given = model(reread="first"), images()
    z, again = built.redraw(given)
    alike = F.cosine_similarity(z, built.redrawer.first(again))
    before = built(given).codes
    assert torch.allclose(before, 2 - 2 * alike, atol=1e-4)
    with torch.no_grad():
        built.redrawer.first.code.weight.mul_(10)
        built.redrawer.decoder.body.first.weight.div_(10)  # the same copies from longer codes
    assert torch.allclose(built(given).codes, before, rtol=1e-3, atol=1e-5)


def test_codes_of_the_skip_variant_are_the_distance_of_features():
    seen = model(variant="skip")(images())
    assert torch.allclose(seen.codes, seen.features.sum((1, 2)))


def test_an_image_is_as_unreal_as_the_critic_finds_it():
    built, given = model(), images()
    assert torch.equal(built(given).unreal, -built.rival.critic(given))


def test_only_the_skip_variant_sees_past_its_code():
    given = images()
    for variant, moves in (("plain", False), ("skip", True)):
        built = model(variant=variant)
        last = built.redrawer.first.code if variant == "plain" else built.redrawer.code
        torch.nn.init.zeros_(last.weight)  # every image has one code
        expected = built(given).expected
        assert bool((expected[0] != expected[1]).any()) == moves


def test_the_critic_learns_from_copies_and_teaches_no_redrawer_on_its_turn():
    built = model()
    built.loss("critic", as_batch(images())).backward()
    assert all(weight.grad is None for weight in built.redrawer.parameters())
    assert any(weight.grad is not None for weight in built.rival.critic.parameters())


def test_a_game_whose_copies_are_all_one_image_is_stopped():
    with pytest.raises(Collapsed, match="samples are all alike"):
        trained(400, Sprinkled(), (4, 4), norm="l1", depth=1, game={"penalty": "none"})


def test_weights_that_are_all_0_are_refused_and_the_advice_works():
    with pytest.raises(BadSettings, match="give one of adversarial, context, encode"):
        Config.checked({"adversarial": 0, "context": 0, "encode": 0}, "[model]")
    Config.checked({"adversarial": 0, "context": 1, "encode": 0}, "[model]")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_grid_that_cannot_be_halved_is_refused_and_the_advice_works(variant):
    with pytest.raises(BadSettings, match=r"28 x 32 cannot be halved 3 times.*multiples of 8"):
        Config(variant=variant).build(1, (28, 32))
    expected = model((16, 24), 3, depth=3, variant=variant)(images(2, 3, (16, 24))).expected
    assert expected.shape == (2, 3, 16, 24)


def test_it_draws_no_images_of_its_own_and_says_which_models_do():
    with pytest.raises(BadSettings, match=r"GANomaly redraws.*f_anogan"):
        model().sample(images(), 0)


def test_the_sheet_shows_good_images_above_their_copies():
    built, given = model(), images(10)
    sheet = built.pictures(given, None)["reconstructions"]
    assert sheet.shape == (2, 8, 1, 16, 16)
    assert torch.equal(sheet[0], given[:8, :1])
    assert torch.equal(sheet[1], built(given[:8]).expected)


def test_the_figures_tell_how_well_it_redraws_in_decibels():
    built, given = model(), images(coverage=holes())
    gap = (given[:, :1] - built(given).expected)[given[:, 1:] > 0]
    wanted = -10 * math.log10(gap.square().mean().item())
    assert figures(built, given)["redrawn_psnr_db"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_that_it_tells_is_exported_with_the_same_scores_for_any_batch_and_size(
    variant, tmp_path
):
    pixels, view = die_images()[0], picture_detector("ganomaly", SMALL).view
    rule = adversarial.Config(rule="adversarial", codes=1.0, unreal=0.1).build(1, view.grid)
    detector = Single(Preprocess(view), model(view.grid, variant=variant), rule).eval()
    parity.to_onnx(detector, pixels[:3], tmp_path / "model.onnx")
    larger = np.pad(pixels[:2], ((0, 0), (0, 0), (0, 9), (0, 5)))
    agree(detector, parity.scorer(tmp_path / "model.onnx"), (pixels[:50], pixels[:1], larger))


@pytest.mark.parametrize("fields", [{"encode": 0}, {"variant": "skip"}])
def test_a_second_encoder_that_nothing_teaches_is_refused(fields):
    with pytest.raises(BadSettings, match='needs variant = "plain" and encode above 0'):
        Config.checked({"reread": "second", **fields}, "a test")
    Config.checked({"reread": "first", **fields}, "a test")
