import pytest
import torch
from made_batches import Stripes

from inspect_ai.adversarial import growth
from inspect_ai.errors import BadSettings, Collapsed
from inspect_ai.models.f_anogan import Config
from inspect_ai.training.budget import Budget
from inspect_ai.training.checkpoint import Checkpoints
from inspect_ai.training.descent import Batch, Run

SMALL = {"width": 4, "depth": 2, "latent": 4}
KINDS = ["dcgan", "progressive", "laplacian", "style"]


def model(grid=(16, 16), classes=0, **fields):
    torch.manual_seed(0)
    return Config(**SMALL | fields).build(1, grid, classes)


def images(n=4, seed=1):
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return torch.cat([x, torch.ones_like(x)], 1)


def fitted(made, steps=60, report=lambda step, losses: None, **fields):
    budget = Budget(steps=steps, learning_rate=2e-3, average=0.9, **fields)
    return made.fit(Stripes(), Run(budget, report)).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_game_is_played_first_and_the_encoder_learns_when_it_is_over(kind):
    made, seen, settled = model(generator=kind, encode_from=0.4), [], []

    def report(step, losses):
        seen.append({name for name in losses if "/" not in name})
        settled.append([p.detach().clone() for p in made.generator.parameters()])

    fitted(made, 20, report)
    assert seen == [{"critic", "generator"}] * 8 + [{"encoder"}] * 12
    assert all(torch.equal(a, b) for a, b in zip(settled[9], settled[-1], strict=True))


def test_the_encoder_learns_to_redraw_good_images():
    losses = []
    fitted(model(latent=8), 150, lambda _, found: losses.append(found.get("encoder")))
    own = [loss for loss in losses if loss is not None]
    assert sum(own[-10:]) < 0.7 * sum(own[:10])


def test_the_encoders_loss_is_the_papers_by_hand():
    made, x = model(kappa=0.5), images()
    redrawn = made.generator(made.encoder(x))
    f = made.rival.critic.features
    again = torch.cat([redrawn, x[:, 1:]], 1)
    wanted = (x[:, :1] - redrawn).square().mean() + 0.5 * (f(x) - f(again)).square().mean()
    assert made.encoder_loss(x, None).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_what_it_says_of_an_image_follows_from_its_networks():
    made, x = model().eval(), images()
    made.wanted = frozenset(made.gives)
    seen = made(x)
    codes = made.encoder(x)
    again = torch.cat([made.generator(codes), x[:, 1:]], 1)
    assert torch.allclose(seen.expected, again[:, :1])
    assert torch.allclose(seen.unreal, -made.rival.critic(x))
    assert torch.allclose(seen.codes, (codes - made.encoder(again)).square().mean(1))
    gap = made.rival.critic.features(x) - made.rival.critic.features(again)
    assert torch.allclose(seen.features.sum((1, 2)), gap.square().mean((1, 2, 3)), rtol=1e-4)


def test_what_no_rule_reads_is_not_computed():
    seen = model().eval()(images())
    assert (seen.features, seen.codes, seen.unreal) == (None, None, None)


@pytest.mark.parametrize("kind", ["progressive", "laplacian"])
def test_a_growing_game_is_played_on_coarse_images_first(kind):
    made, sides = model(generator=kind, encode_from=0.5), []
    draw = made.draw

    def watched(like, condition, stage=None):
        drawn = draw(like, condition, stage)
        sides.append((like.shape[-1], drawn.shape[-1]))
        return drawn

    made.draw = watched
    for course in (0.0, 0.15, 0.3, 0.49):
        made.loss("critic", Batch(images(), None, course))
    assert sides == [(4, 4), (8, 8), (16, 16), (16, 16)]
    assert growth.stage(0.49 / 0.5, 2) == growth.Stage(2, 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("penalty", ["r1", "gradient"])
def test_what_is_not_covered_has_no_say_in_any_loss(kind, penalty):
    game = {"penalty": penalty, "penalty_every": 1, "augment": ("shift", "cutout", "flip")}
    images_, junk = images(6), images(6, seed=9)
    images_[:, 1:, :7] = 0
    other = images_.clone()
    other[:, :1, :7] = junk[:, :1, :7]
    for player, course in (("critic", 0.1), ("generator", 0.2), ("encoder", 0.9)):
        found = []
        for batch in (images_, other):
            made = model(generator=kind, game=game)
            torch.manual_seed(1)
            found.append(made.loss(player, Batch(batch, None, course)))
        assert torch.allclose(found[0], found[1], rtol=1e-5)


def test_a_look_at_a_growing_game_shows_the_stage_it_is_in():
    made = model(generator="progressive", encode_from=0.5)
    made.loss("generator", Batch(images(), None, 0.0))
    blocks = made.glimpse().unflatten(-1, (4, 4)).unflatten(-3, (4, 4))
    assert (blocks == blocks[..., :1, :, :1]).all()  # 4 x 4 cells, each drawn as one
    assert made.sample(images(), 0).shape == (4, 1, 16, 16)


@pytest.mark.parametrize("last", [8, 12, 17])
def test_a_killed_game_resumes_to_the_very_same_weights(tmp_path, last):
    """Also of spectral normalisation, whose buffers move whenever a critic looks in training."""

    def trained(kept, stop=None):
        def report(step, losses):
            if step == stop:
                raise KeyboardInterrupt

        budget = Budget(steps=20, save_every=4, learning_rate=2e-3)
        made = model(generator="style", game={"spectral": True, "penalty_every": 3})
        return made.fit(Stripes(), Run(budget, report, kept)).state_dict()

    kept = Checkpoints(tmp_path / "state")
    with pytest.raises(KeyboardInterrupt):
        trained(kept, last)
    resumed, whole = trained(kept), trained(None)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_a_budget_without_a_step_for_the_encoder_is_refused():
    with pytest.raises(BadSettings, match=r"'encoder' had none of 1 step.*Raise \[budget\] steps"):
        fitted(model(), 1)


def test_samples_are_those_of_the_seed_and_take_the_coverage():
    made, like = model(generator="style").eval(), images(6)
    like[:, 1:, :5] = 0
    one, again, other = (made.sample(like, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (6, 1, 16, 16)
    assert (one[:, :, :5] == 0).all()
    assert not made.generator.training


def test_samples_take_their_class():
    made, like = model(classes=2).eval(), images(3)
    one, other = (made.sample(like, 0, torch.full((3,), c)) for c in (0, 1))
    assert not torch.allclose(one, other)


def test_a_look_in_each_epoch_shows_the_coverage_of_good_images():
    made = fitted(model(), 4)
    sheet = made.glimpse()
    assert sheet.shape == (4, 8, 1, 16, 16)
    assert torch.equal(sheet, made.glimpse())
    assert set(made.pictures(images(9), None)) == {"samples", "reconstructions"}


def test_it_tells_how_well_it_redraws():
    made, x = model().eval(), images()
    error = (x[:, :1] - made(x).expected).square().mean()
    assert made.told(x, None)["redrawn_psnr_db"] == pytest.approx(-10 * error.log10().item())


class Fixed(torch.nn.Module):
    """A generator that has collapsed: one image for every code."""

    def __init__(self):
        super().__init__()
        self.image = torch.nn.Parameter(torch.zeros(1, 1, 16, 16))

    def forward(self, z, condition=None, stage=None):
        return torch.sigmoid(self.image).expand(z.shape[0], -1, -1, -1)


def test_a_planted_collapse_stops_the_training_and_says_so():
    made, steps = model(), []
    made.generator = Fixed()
    with pytest.raises(Collapsed, match="Mode collapse: samples are all alike"):
        fitted(made, 2000, lambda step, _: steps.append(step))
    assert 250 < len(steps) < 400


def test_a_grid_that_cannot_be_halved_is_refused():
    with pytest.raises(BadSettings, match="cannot be halved 2 times"):
        model(grid=(18, 18))
