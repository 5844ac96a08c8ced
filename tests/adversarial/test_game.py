import pytest
import torch
from torch import nn

from inspect_ai.adversarial.critics import Critic
from inspect_ai.adversarial.game import Game, Rival, feature_distance, misfit, with_coverage
from inspect_ai.adversarial.generators import Sizes
from inspect_ai.adversarial.objectives import critic_loss, gradient_penalty, r1
from inspect_ai.errors import BadSettings

SMALL = Sizes(latent=4, width=4, depth=2)


def rival(**fields):
    game = Game(**fields)
    return Rival(game, Critic(SMALL, 1, (16, 16), spectral=game.spectral))


def images(seed, n=6):
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return with_coverage(x, torch.ones_like(x))


def test_the_critics_loss_is_its_objective_and_a_penalty_now_and_then():
    made = rival(objective="hinge", penalty="r1", weight=0.5, penalty_every=3)
    real, fake, critic = images(1), images(2), made.critic
    plain = critic_loss("hinge", critic(real), critic(fake))
    steep = r1(lambda x: critic(torch.cat([x, real[:, 1:]], 1)), real[:, :1])
    losses = [made.loss(real, fake, critic, critic) for _ in range(6)]
    wanted = [plain, plain, plain + 3 * 0.5 * steep] * 2
    assert torch.allclose(torch.stack(losses), torch.stack(wanted), rtol=1e-4)


def test_a_penalty_on_points_between_sees_images_that_are_not_augmented():
    made = rival(penalty="gradient", weight=2.0, penalty_every=1, augment=("cutout", "shift"))
    seen = []

    def judge(shown):
        seen.append(shown.detach())
        return made.critic(shown)

    real, fake = images(1), images(2)
    made.loss(real, fake, judge, made.critic)
    judged, between = seen
    assert not torch.equal(judged, real)
    low, high = torch.minimum(real, fake)[:, :1], torch.maximum(real, fake)[:, :1]
    assert ((between[:, :1] >= low - 1e-6) & (between[:, :1] <= high + 1e-6)).all()
    assert gradient_penalty(lambda x: x.flatten(1).sum(1) / 16, real[:, :1], fake[:, :1]) < 1e-9


def test_the_critic_teaches_the_generator_and_the_generator_does_not_move_in_its_turn():
    made = rival()
    z = torch.rand(6, 1, 16, 16, requires_grad=True)
    fake = with_coverage(z, torch.ones_like(z))
    made.loss(images(1), fake, made.critic, made.critic).backward()
    assert z.grad is None
    made.generator_loss(fake, made.critic).backward()
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", ["minimax", "non_saturating", "least_squares", "wasserstein"])
def test_an_encoder_wants_its_pairs_taken_for_samples(objective):
    """Lower logits of good images are what it is paid for, as higher ones of samples pay."""
    made, real = rival(objective=objective), images(1)
    paid = [made.encoder_loss(real, lambda x, a=a: x[:, 0].mean((1, 2)) + a) for a in (1.0, 0.0)]
    assert paid[1] < paid[0]


def test_two_time_scales_go_to_the_players():
    game = Game(critic_rate=4.0, generator_rate=0.5, critic_turns=5, momentum=(0.5, 0.9))
    critic, generator = game.critic(rival()), game.generator(nn.Linear(1, 1))
    assert (critic.rate, critic.turns, critic.betas) == (4.0, 5, (0.5, 0.9))
    assert (generator.rate, generator.turns, generator.betas) == (0.5, 1, (0.5, 0.9))
    assert set(critic.told()) == {"critic_win_rate", "sample_diversity", "critic_logit"}


@pytest.mark.parametrize(
    "fields",
    [
        {"momentum": (1.5, 0.9)},
        {"critic_turns": 0},
        {"weight": -1},
        {"penalty_every": 0},
        {"objective": "rivalry"},
    ],
)
def test_impossible_rules_are_refused(fields):
    with pytest.raises(BadSettings, match="1 mistake"):
        Game.checked(fields, "[model.game]")


def test_the_distance_of_features_is_shared_out_and_sums_to_the_mean_square():
    a, b = torch.rand(2, 3, 5, 4, 4)
    covered = torch.ones(3, 1, 16, 16)
    covered[:, :, :6] = 0
    shares = feature_distance(a, b, covered)
    assert shares.shape == (3, 16, 16)
    assert torch.allclose(shares.sum((1, 2)), (a - b).square().mean((1, 2, 3)), rtol=1e-5)
    assert (shares[:, :6] == 0).all()


def test_features_of_an_image_and_itself_are_not_apart_nor_any_where_nothing_is_covered():
    a, covered = torch.rand(2, 5, 4, 4), torch.zeros(2, 1, 16, 16)
    covered[0] = 1
    assert (feature_distance(a, a, covered) == 0).all()
    assert torch.isfinite(feature_distance(a, a + 1, covered)).all()


def test_what_is_not_covered_has_no_say_in_a_misfit():
    x, redrawn = torch.rand(2, 4, 1, 6, 6)
    w = torch.ones_like(x)
    w[..., 3:] = 0
    gap = (x - redrawn)[..., :3]
    assert torch.allclose(misfit(x, redrawn, w, "l1"), gap.abs().mean())
    assert torch.allclose(misfit(x, redrawn, w, "l2"), gap.square().mean())
