import pytest
import torch
from made_batches import Stripes
from pydantic import ValidationError
from torch.nn import functional as F

from inspect_ai.errors import BadSettings
from inspect_ai.models.bigan import Config
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import FIGURE, Batch, Run

VARIANTS = ["bigan", "ali"]


def model(grid=(16, 16), channels=1, classes=0, **fields):
    torch.manual_seed(0)
    small = {"width": 4, "depth": 2, "latent": 4}
    built = Config(**small | fields).build(channels, grid, classes)
    built.wanted = frozenset(built.gives)
    return built


def images(count=4, channels=1, grid=(16, 16), coverage=None):
    x = torch.rand(count, channels, *grid, generator=torch.Generator().manual_seed(1))
    w = torch.ones(count, 1, *grid) if coverage is None else coverage
    return torch.cat([x, w], 1)


def batch_of(made, condition=None):
    return Batch(made, condition, 0.0)


def slopes(built, part, player, made):
    """What a player's loss has to say to each weight of a part; None where it has none."""
    built.zero_grad()
    built.loss(player, batch_of(made)).backward()
    return [weight.grad for weight in getattr(built, part).parameters()]


@pytest.fixture(scope="module")
def played():
    """A model after a short game on stripes, and the figures of each step."""
    torch.set_num_threads(1)
    told = []
    run = Run(
        Budget(steps=120, learning_rate=4e-3, average=0.9), lambda _, found: told.append(found)
    )
    return model().fit(Stripes(), run).eval(), told


def test_a_game_ends_with_good_images_redrawn_and_samples_that_differ(played):
    built, told = played
    unseen = Stripes().at(10_000)
    flat = unseen[:, :1] - unseen[:, :1].mean()
    gap = unseen[:, :1] - built(unseen).expected
    assert gap.square().mean() < 0.4 * flat.square().mean()
    assert told[-1][FIGURE + "sample_diversity"] > 0.3
    assert built.sample(unseen, seed=0).std(0).mean() > 0.05


def test_codes_of_good_images_are_spread_as_drawn_ones_are(played):
    built, _ = played
    with torch.no_grad():
        told = built.told(Stripes().at(10_000), None)
    assert 0.25 < told["code_power"] < 4
    assert told["redrawn_psnr_db"] > 10


def test_an_odd_image_is_further_from_what_it_is_redrawn_as(played):
    built, _ = played
    good = Stripes().at(10_000)
    odd = good.clone()
    odd[:, 0, 4:10, 4:10] = 1 - odd[:, 0, 4:10, 4:10]
    usual, strange = (
        (made[:, :1] - built(made).expected).square().mean((1, 2, 3)) for made in (good, odd)
    )
    assert (strange > usual).float().mean() > 0.8


def test_distances_are_those_of_pairs_by_hand():
    built, made = model(), images(coverage=torch.ones(4, 1, 16, 16).tril())
    w, codes = made[:, 1:], built.encoder(made)
    again = torch.cat([built.generator(codes) * w, w], 1)
    seen, critic = built(made), built.rival.critic
    apart = critic.features(made, code=codes) - critic.features(again, code=codes)
    torch.testing.assert_close(seen.features.sum((1, 2)), apart.square().mean((1, 2, 3)))
    torch.testing.assert_close(seen.codes, (codes - built.encoder(again)).square().mean(1))
    torch.testing.assert_close(seen.unreal, -critic(made, code=codes))
    assert (seen.features[w[:, 0] == 0] == 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_player_moves_its_own_networks_alone(variant):
    built, made = model(variant=variant), images()
    assert all(g is not None for g in slopes(built, "generator", "generator", made))
    assert all(g is not None for g in slopes(built, "encoder", "generator", made))
    for part in ("generator", "encoder"):
        assert all(g is None for g in slopes(built, part, "critic", made))
    moved = [g for g in slopes(built, "rival", "critic", made) if g is not None]
    assert sum(g.abs().sum() for g in moved) > 0


def test_without_cycles_the_encoder_learns_from_the_critic_alone():
    built, made = model(cycle=0, code_cycle=0), images()
    assert sum(g.abs().sum() for g in slopes(built, "encoder", "generator", made)) > 0
    with torch.no_grad():
        for weight in built.rival.critic.parameters():
            weight.zero_()
    assert sum(g.abs().sum() for g in slopes(built, "encoder", "generator", made)) == 0


def test_the_critic_tells_the_same_image_with_another_code_apart():
    built, made = model(), images()
    own = built(made).unreal
    other = -built.rival.critic(made, None, code=built.codes(made, None).flip(0))
    assert not torch.allclose(own, other)


def test_the_losses_are_those_of_the_formula_by_hand():
    built, made = model(cycle=3.0, code_cycle=2.0, game={"penalty": "none"}), images(6)
    torch.manual_seed(7)
    z = torch.randn(6, 4)
    critic, G, E = built.rival.critic, built.generator, built.encoder
    fake = torch.cat([G(z), made[:, 1:]], 1)
    real_logits, fake_logits = critic(made, code=E(made)), critic(fake, code=z)
    pairs = F.softplus(-fake_logits).mean() + F.softplus(real_logits).mean()
    cycle = (made[:, :1] - G(E(made))).square().mean()
    wanted = pairs + 3 * cycle + 2 * (z - E(fake)).square().mean()
    torch.manual_seed(7)
    assert built.loss("generator", batch_of(made)).item() == pytest.approx(wanted.item(), rel=1e-5)
    told = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    torch.manual_seed(7)
    assert built.loss("critic", batch_of(made)).item() == pytest.approx(told.item(), rel=1e-5)


@pytest.mark.parametrize("penalty", ["r1", "gradient"])
def test_a_penalty_makes_the_critics_loss_larger_and_trains_it(penalty):
    losses, lengths = [], []
    for weight in (0.0, 10.0):
        built = model(game={"penalty": penalty, "weight": weight, "penalty_every": 1})
        torch.manual_seed(7)
        losses.append(built.loss("critic", batch_of(images())))
        losses[-1].backward()
        found = [w.grad for w in built.rival.parameters() if w.grad is not None]
        lengths.append(sum(g.square().sum() for g in found).item())
    assert losses[1] > losses[0]
    assert lengths[1] != pytest.approx(lengths[0], rel=0.01)


def test_ali_draws_codes_about_their_mean_no_wider_than_the_prior():
    built, made = model(variant="ali"), images(2)
    mean, spread = built.encoder(made).chunk(2, 1)
    drawn = torch.stack([built.codes(made, None, drawn=True) for _ in range(500)])
    assert torch.equal(built.codes(made, None), mean)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.var(0), torch.sigmoid(spread), atol=0, rtol=0.25)


def test_bigan_draws_no_codes():
    built, made = model(), images(2)
    assert torch.equal(built.codes(made, None, drawn=True), built.encoder(made))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_covered_enters_neither_losses_nor_scores(variant):
    coverage = (torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(2)) > 0.4).float()
    known = images(coverage=coverage)
    junk = torch.cat([torch.where(coverage > 0, known[:, :1], 0.9), coverage], 1)
    built = model(variant=variant, code_cycle=1.0)
    for player in ("critic", "generator"):
        losses = []
        for made in (known, junk):
            torch.manual_seed(5)  # the same codes
            losses.append(built.loss(player, batch_of(made)).item())
        assert losses[0] == losses[1]
    one, two = built(known), built(junk)
    for name in ("expected", *built.gives):
        assert torch.equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_says_only_what_is_asked_for_and_the_same_twice(variant):
    built, made = model(variant=variant).eval(), images(3)
    one, two = built(made), built(made)
    for name in ("expected", *built.gives):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert one.features.shape == (3, 16, 16)
    assert one.codes.shape == one.unreal.shape == (3,)
    built.wanted = frozenset({"codes"})
    assert (built(made).features, built(made).unreal) == (None, None)


@pytest.mark.parametrize("kind", ["progressive", "laplacian"])
def test_a_generator_that_grows_is_refused(kind):
    with pytest.raises(ValidationError, match="'dcgan' or 'style'"):
        Config(generator=kind)


def test_a_grid_that_cannot_be_halved_is_refused():
    with pytest.raises(BadSettings, match="28 x 32 cannot be halved 3 times"):
        Config().build(1, (28, 32))


def test_a_class_changes_expectation_code_and_critic():
    built, made = model(classes=3), images(4)
    one, two = (built(made, torch.full((4,), place)) for place in (0, 2))
    for name in ("expected", "codes", "unreal"):
        assert not torch.allclose(getattr(one, name), getattr(two, name), atol=1e-6)


def test_a_game_of_every_objective_and_change_stays_finite():
    for objective in ("minimax", "least_squares", "wasserstein", "hinge"):
        game = {"objective": objective, "augment": ["flip", "cutout"], "critic_turns": 2}
        run = Run(Budget(steps=4), lambda _, found: None)
        built = model(generator="style", game=game, code_cycle=1.0).fit(Stripes(), run).eval()
        assert torch.isfinite(built(Stripes().at(9)).expected).all()
