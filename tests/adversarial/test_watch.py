import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from inspect_ai.adversarial.watch import Watch
from inspect_ai.errors import Collapsed
from inspect_ai.training.budget import Budget
from inspect_ai.training.checkpoint import Checkpoints
from inspect_ai.training.descent import Run, descend

logits = st.lists(st.integers(-3, 3), min_size=1, max_size=6)


def pictures(seed, count=8, spread=0.3):
    drawn = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.cat([0.5 + spread * (drawn - 0.5), torch.ones(count, 1, 6, 6)], 1)


def flat(count=8):
    """What a generator gives that always gives the same."""
    return pictures(-1, 1).repeat(count, 1, 1, 1)


def even(count=8):
    return torch.linspace(-1, 1, count)


def looks_until_collapse(watch, fake_at, until=900, logits_at=lambda look: (even(), even())):
    """The look at which it stops the game, or None."""
    for look in range(int(watch.looks), until):
        try:
            watch.see(*logits_at(look), pictures(look), fake_at(look))
        except Collapsed:
            return look
    return None


@given(real=logits, fake=logits)
@settings(max_examples=50, deadline=None)
def test_the_win_rate_is_the_critics_auroc(real, fake):
    watch = Watch()
    one, other = torch.tensor(real).float(), torch.tensor(fake).float()
    watch.see(one, other, pictures(0), pictures(1))
    wanted = roc_auc_score([1] * len(real) + [0] * len(fake), real + fake)
    assert watch.numbers()["critic_win_rate"] == pytest.approx(wanted, abs=1e-6)
    wanted = np.abs(real + fake).mean()
    assert watch.numbers()["critic_logit"] == pytest.approx(wanted, abs=1e-6)


def test_diversity_is_the_samples_distance_as_a_share_of_the_good_images():
    coverage = torch.ones(3, 1, 1, 2)
    real = torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.0, 0.0]]).reshape(3, 1, 1, 2)
    fake = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.7, 0.3]]).reshape(3, 1, 1, 2)
    watch = Watch()
    watch.see(even(3), even(3), torch.cat([real, coverage], 1), torch.cat([fake, coverage], 1))
    # distances sqrt(1 / 2) twice; 0 and 0.2
    assert watch.numbers()["sample_diversity"] == pytest.approx(0.1 / 0.5**0.5, rel=1e-5)


def test_numbers_are_means_over_about_the_last_hundred_looks():
    watch, rises = Watch(), []
    for look in range(1000):
        score = torch.tensor([float(look)])
        watch.see(score, score, pictures(look), pictures(-look - 1))
        rises.append(look - watch.numbers()["critic_logit"])
    assert rises[:100] == pytest.approx([look / 2 for look in range(100)], abs=0.5)
    assert rises[-1] == pytest.approx(99, abs=0.5)


def test_a_generator_of_one_image_is_stopped_after_the_grace_with_what_to_do():
    watch = Watch()
    for look in range(300):
        watch.see(even(), even(), pictures(look), flat())
    with pytest.raises(Collapsed, match=r"alike.* differ by 0 of .*should by 0\.03.*\. Choose"):
        watch.see(even(), even(), pictures(300), flat())


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.9])
def test_a_generator_whose_samples_differ_goes_on(spread):
    assert looks_until_collapse(Watch(), lambda look: pictures(-look - 1, spread=spread)) is None


def test_a_collapse_late_in_the_game_is_seen_within_a_few_hundred_looks():
    found = looks_until_collapse(Watch(), lambda look: flat() if look >= 400 else pictures(-look))
    assert 400 < found < 750


def test_a_generator_slow_to_begin_is_let_off_by_the_grace():
    found = looks_until_collapse(Watch(), lambda look: flat() if look < 150 else pictures(-look))
    assert found is None


@pytest.mark.parametrize("stop", [50, 300, 450])
def test_a_watch_that_is_taken_up_again_stops_at_the_same_look(stop):
    def fake_at(look):
        return flat() if look >= 350 else pictures(-look - 1)

    first, again = Watch(), Watch()
    assert looks_until_collapse(first, fake_at, until=stop) is None
    again.load_state_dict(first.state_dict())
    assert looks_until_collapse(again, fake_at) == looks_until_collapse(Watch(), fake_at)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.watch, self.judge = Watch(patience=20), nn.Linear(36, 1)

    def forward(self, images):
        return self.judge((images[:, :-1] * images[:, -1:]).flatten(1))[:, 0]


class Drawn:
    def at(self, step):
        return pictures(step)

    def condition(self, step):
        return None


class Killed(Exception):
    """Stands for the end of the process."""


def played(checkpoints=None, killed=None):
    """Steps that a game against a constant generator lasts, in a loop that can be killed."""
    torch.manual_seed(0)
    critic, constant, lasted = Critic(), nn.Linear(1, 36, bias=False), []

    def loss(player, batch):
        x = torch.sigmoid(constant(torch.ones(len(batch.images), 1))).reshape(-1, 1, 6, 6)
        fake = torch.cat([x, batch.images[:, 1:]], 1)
        if player == "generator":
            return -critic(fake).mean()
        real, made = critic(batch.images), critic(fake.detach())
        critic.watch.see(real, made, batch.images, fake)
        return (made - real).mean()

    def report(step, losses):
        lasted.append(step)
        if step == killed:
            raise Killed

    run = Run(Budget(steps=60, save_every=5), report, checkpoints)
    with pytest.raises(Killed if killed else Collapsed):
        descend({"critic": critic, "generator": constant}, loss, Drawn(), run)
    return lasted[-1] + 1


def test_a_planted_collapse_stops_a_training_run_even_one_that_was_killed(tmp_path):
    assert played() == 20
    kept = Checkpoints(tmp_path / "state.safetensors")
    played(kept, killed=13)
    assert played(kept) == 20


@pytest.mark.parametrize("size", [2e4, -3e5])
def test_a_critic_that_runs_off_is_stopped_after_the_grace(size):
    huge = lambda look: (torch.full((8,), size), torch.full((8,), size))  # noqa: E731
    found = looks_until_collapse(Watch(), lambda look: pictures(-look - 1), logits_at=huge)
    assert found == 300
    watch = Watch(patience=0)
    with pytest.raises(Collapsed, match=r"run off: .*e\+0.* below 10000\. Give it a penalty"):
        watch.see(*huge(0), pictures(0), pictures(1))


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_stopped_at_once_and_enters_no_mean(place, bad):
    watch, given = Watch(), [even(), even(), pictures(1)]
    given[place] = given[place].clone()
    given[place].view(-1)[5] = bad
    with pytest.raises(Collapsed, match=r"no longer finite.*Lower \[budget\] learning_rate"):
        watch.see(given[0], given[1], pictures(0), given[2])
    assert watch.numbers() == Watch().numbers()


def test_a_critic_that_always_wins_is_stopped_only_where_samples_hardly_differ():
    sure = lambda look: (even() + 5, even() - 5)  # noqa: E731

    def found(spread):
        return looks_until_collapse(
            Watch(), lambda look: pictures(-look - 1, spread=spread), 400, sure
        )

    assert found(0.3) is None
    assert found(0.05) == 300  # a sixth of good images' distance, enough without a sure critic
    watch = Watch(patience=0)
    with pytest.raises(Collapsed, match=r"left behind: .*100\.00%.*Lower the critic's rate"):
        watch.see(*sure(0), pictures(0), pictures(1, spread=0.05))


@pytest.mark.parametrize("fake", [flat(), pictures(1)])
def test_good_images_that_do_not_differ_ask_nothing_of_samples(fake):
    watch = Watch(patience=5)
    for _ in range(20):
        watch.see(even(), even(), flat(), fake)
    assert watch.numbers()["sample_diversity"] == 1.0


def test_a_batch_of_one_has_nothing_to_compare():
    watch = Watch(patience=5)
    for look in range(20):
        watch.see(torch.zeros(1), torch.zeros(1), pictures(look, 1), flat(1))
    assert watch.numbers() == {
        "critic_win_rate": 0.5,
        "sample_diversity": 1.0,
        "critic_logit": 0.0,
    }
    watch.see(even(), even(), pictures(0), pictures(0))
    assert watch.numbers()["sample_diversity"] == pytest.approx(1)
    with pytest.raises(Collapsed, match="alike"):  # the first batches take no part in the mean
        for look in range(100):
            watch.see(even(), even(), pictures(look), flat())
            watch.see(even(1), even(1), pictures(look, 1), flat(1))


def test_what_is_not_covered_makes_no_image_different():
    real, fake = pictures(0), flat()
    fake[:, 1, :3] = 0
    noisy = fake.clone()
    noisy[:, 0, :3] = torch.rand(8, 3, 6)
    watch = Watch()
    watch.see(even(), even(), real, noisy)
    assert watch.numbers()["sample_diversity"] == 0.0
    bare = torch.cat([pictures(2)[:, :1], torch.zeros(8, 1, 6, 6)], 1)
    watch.see(even(), even(), bare, bare)
    assert np.isfinite(watch.numbers()["sample_diversity"])


def test_a_look_keeps_no_gradient():
    watch, score = Watch(), even().requires_grad_()
    made = pictures(0).requires_grad_()
    watch.see(score, score * 2, pictures(1), made * 1)
    assert not any(buffer.requires_grad for buffer in watch.buffers())
    assert list(watch.parameters()) == []
