import math
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from torch import nn

from inspect_ai.errors import Diverged
from inspect_ai.training import descent
from inspect_ai.training.budget import Budget
from inspect_ai.training.checkpoint import Checkpoints
from inspect_ai.training.descent import FIGURE, Player, Run, descend, rate


class Killed(Exception):
    """Stands for the end of the process."""


class Unconditional:
    def condition(self, step):
        return None


class Data(Unconditional):
    """Batches of noise that depend on the step."""

    def at(self, step):
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))


def silent(step, losses):
    pass


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def noisy(module):
    """A loss that draws noise: resuming must draw the same."""
    return lambda _, b: (
        (module(b.images + 0.1 * torch.randn_like(b.images)) - b.images).square().mean()
    )


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def trained(budget, report=silent, checkpoints=None, module=None):
    module = module or net()
    descend({"net": module}, noisy(module), Data(), Run(budget, report, checkpoints))
    return module


def killed_at(last):
    def report(step, losses):
        if step == last:
            raise Killed

    return report


@pytest.mark.parametrize("last", [5, 12, 29])
def test_a_killed_run_goes_on_to_the_very_same_weights(tmp_path, last):
    budget, kept = Budget(steps=30, save_every=5), Checkpoints(tmp_path / "state.safetensors")
    with pytest.raises(Killed):
        trained(budget, killed_at(last), kept)
    resumed = trained(budget, silent, kept, net(seed=9))  # what it starts from does not matter
    assert same(resumed, trained(budget))


def test_a_resumed_run_does_the_steps_that_are_left_and_no_more(tmp_path):
    budget, kept, seen = Budget(steps=30, save_every=5), Checkpoints(tmp_path / "s"), []
    with pytest.raises(Killed):
        trained(budget, killed_at(12), kept)
    trained(budget, lambda step, _: seen.append(step), kept)
    assert seen == list(range(10, 30))


def test_a_run_killed_after_its_last_step_has_nothing_left_to_do(tmp_path):
    budget, kept, seen = Budget(steps=10, save_every=5), Checkpoints(tmp_path / "s"), []
    whole = trained(budget, silent, kept)
    again = trained(budget, lambda step, _: seen.append(step), kept, net(seed=9))
    assert seen == []
    assert same(whole, again)


def test_the_seed_of_the_caller_changes_nothing():
    torch.manual_seed(1)
    first, start = trained(Budget(steps=5)), net()
    torch.manual_seed(2)
    assert same(first, trained(Budget(steps=5), module=start))


def test_the_noise_is_new_at_each_step_and_the_same_in_each_run():
    def drawn():
        module, seen = net(), []

        def loss(_, batch):
            seen.append(torch.rand(()).item())
            return module(batch.images).square().mean()

        descend({"net": module}, loss, Data(), Run(Budget(steps=6), silent))
        return seen

    assert len(set(drawn())) == 6
    assert drawn() == drawn()


def rivals(seed=0):
    torch.manual_seed(seed)
    return {"maker": nn.Linear(3, 3), "critic": nn.Linear(3, 1)}


def duel(players):
    def loss(name, batch):
        x = batch.images
        made = players["maker"](torch.randn_like(x))
        gap = players["critic"](made).mean() - players["critic"](x).mean()
        return gap if name == "critic" else -gap

    return loss


def test_two_players_resume_to_the_very_same_weights(tmp_path):
    budget, kept = Budget(steps=20, save_every=5), Checkpoints(tmp_path / "state.safetensors")
    killed, resumed, whole = rivals(), rivals(seed=9), rivals()
    with pytest.raises(Killed):
        descend(killed, duel(killed), Data(), Run(budget, killed_at(13), kept))
    descend(resumed, duel(resumed), Data(), Run(budget, silent, kept))
    descend(whole, duel(whole), Data(), Run(budget, silent))
    assert same(nn.ModuleDict(resumed), nn.ModuleDict(whole))


def test_a_player_moves_on_its_own_turn_alone():
    players, before = rivals(), rivals()
    seen = []

    def loss(name, batch):
        seen.append((name, same(players["critic"], before["critic"])))
        return duel(players)(name, batch)

    descend(players, loss, Data(), Run(Budget(steps=1, average=0.0), silent))
    assert seen == [("maker", True), ("critic", True)]  # the maker's turn left the critic alone
    assert not same(players["maker"], before["maker"])
    assert not same(players["critic"], before["critic"])


def test_every_step_is_reported_with_the_losses_of_all_players():
    players, seen = rivals(), []
    descend(players, duel(players), Data(), Run(Budget(steps=3), lambda *a: seen.append(a)))
    assert [step for step, _ in seen] == [0, 1, 2]
    assert all(set(losses) == {"maker", "critic"} for _, losses in seen)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_player_and_step(bad):
    players, calls = rivals(), []

    def loss(name, batch):
        calls.append(name)
        value = duel(players)(name, batch)
        return value * bad if (name, calls.count("critic")) == ("critic", 3) else value

    with pytest.raises(Diverged, match=r"loss of 'critic' .* at step 2.*below 0\.001"):
        descend(players, loss, Data(), Run(Budget(steps=9), silent))


def test_a_gradient_that_is_no_number_is_found_before_it_reaches_the_weights():
    module = nn.Linear(3, 1)
    start = [p.detach().clone() for p in module.parameters()]

    def loss(_, batch):
        return (module(batch.images).sum() * 0).sqrt()  # the slope of a root at 0 is infinite

    with pytest.raises(Diverged, match=r"gradient of 'net' is (nan|inf) at step 0"):
        descend({"net": module}, loss, Data(), Run(Budget(steps=2), silent))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), start, strict=True))


def test_the_weights_kept_are_the_running_mean_of_those_trained():
    """One weight pulled by a constant slope: Adam moves it by the learning rate each step."""
    budget = Budget(steps=4, learning_rate=0.1, average=0.25)
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)

    def loss(_, batch):
        return -module.weight.sum()

    descend({"net": module}, loss, Data(), Run(budget, silent))
    weight = mean = 0.0
    for step in range(4):
        weight += rate(step, budget)
        decay = min(0.25, (step + 1) / (step + 10))
        mean = decay * mean + (1 - decay) * weight
    assert module.weight.item() == pytest.approx(mean, rel=1e-5)
    assert mean < weight


def test_the_learning_rate_goes_up_to_its_highest_and_down_to_a_hundredth():
    budget = Budget(steps=1000, learning_rate=0.5)
    rates = [rate(step, budget) for step in range(1000)]
    assert rates[0] == pytest.approx(0.5 / 50)
    assert max(rates) == rates[50] == pytest.approx(0.5)
    assert rates[525] == pytest.approx(0.5 * 0.505)
    assert rates[999] == pytest.approx(0.005, rel=0.01)
    assert all(a < b for a, b in pairwise(rates[:50]))
    assert all(a > b for a, b in pairwise(rates[50:]))


@pytest.mark.parametrize("steps", [1, 2, 3, 19, 20, 21])
def test_the_shortest_runs_have_a_learning_rate(steps):
    budget = Budget(steps=steps, learning_rate=0.5)
    assert all(0 < rate(step, budget) <= 0.5 for step in range(steps))
    assert math.isclose(rate(0, budget), 0.5)


def test_more_steps_lower_the_loss():
    losses = []
    trained(Budget(steps=300, learning_rate=0.01), lambda _, found: losses.append(found["net"]))
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


class Clock:
    """A time that a test moves: a second at each look."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


def timed(monkeypatch, path, steps=100, stop=None):
    """Steps that a budget of 20 seconds reaches, at one second each."""
    monkeypatch.setattr(descent, "time", Clock())
    seen = []

    def report(step, losses):
        seen.append(step)
        if stop is not None and step == stop:
            raise KeyboardInterrupt

    budget = Budget(steps=steps, seconds=20, save_every=2)
    line = nn.Linear(1, 1)

    def loss(_, batch):
        return line(batch.images.flatten(1)[:, :1]).square().mean()

    with suppress(KeyboardInterrupt):
        descend({"line": line}, loss, Ones(), Run(budget, report, Checkpoints(path)))
    return seen


class Ones(Unconditional):
    def at(self, step):
        return torch.ones(2, 2, 1, 1)


def test_a_budget_of_seconds_ends_training_and_its_learning_rate_with_it(monkeypatch, tmp_path):
    assert timed(monkeypatch, tmp_path / "state")[-1] in (18, 19, 20)
    assert timed(monkeypatch, tmp_path / "other", steps=5) == [0, 1, 2, 3, 4]


def test_a_killed_run_has_only_the_seconds_left_that_it_had_left(monkeypatch, tmp_path):
    first = timed(monkeypatch, tmp_path / "state", stop=13)
    second = timed(monkeypatch, tmp_path / "state")
    assert second[0] <= first[-1] + 1
    assert second[-1] in (17, 18, 19, 20, 21)


def test_a_loss_is_told_how_far_training_is_and_what_each_image_is_of():
    line, seen = nn.Linear(3, 1), []

    class Told(Data):
        def condition(self, step):
            return torch.full((8,), step)

    def loss(_, batch):
        seen.append((batch.course, batch.condition.unique().tolist()))
        return line(batch.images).square().mean()

    descend({"line": line}, loss, Told(), Run(Budget(steps=4), silent))
    assert seen == [(0.0, [0]), (0.25, [1]), (0.5, [2]), (0.75, [3])]


class Numbered(Unconditional):
    """Batches that name the step they are asked for."""

    def at(self, step):
        return torch.full((2, 3), float(step))


def test_a_player_of_several_turns_sees_a_batch_of_its_own_in_each():
    players, seen = rivals(), []

    def loss(name, batch):
        seen.append((name, batch.images[0, 0].item()))
        return duel(players)(name, batch)

    asked = {"critic": Player(players["critic"], turns=3), "maker": players["maker"]}
    descend(asked, loss, Numbered(), Run(Budget(steps=2), silent))
    first = [("critic", 0.0), ("critic", 1.0), ("critic", 2.0), ("maker", 0.0)]
    second = [("critic", 3.0), ("critic", 4.0), ("critic", 5.0), ("maker", 3.0)]
    assert seen == first + second


def test_players_learn_at_rates_of_their_own():
    """Adam moves a weight of constant slope by the learning rate, whatever the slope."""
    pair = {name: nn.Linear(1, 1, bias=False) for name in ("slow", "fast")}
    start = {name: part.weight.item() for name, part in pair.items()}
    players = {"slow": Player(pair["slow"], rate=0.25), "fast": Player(pair["fast"], rate=4.0)}
    budget = Budget(steps=1, learning_rate=0.01, average=0.0)

    def loss(name, batch):
        return pair[name].weight.sum()

    descend(players, loss, Ones(), Run(budget, silent))
    moved = {name: start[name] - part.weight.item() for name, part in pair.items()}
    assert moved == pytest.approx({"slow": 0.0025, "fast": 0.04}, rel=1e-4)


def in_turn(players, path=None, report=silent, steps=40):
    """A maker for the first half, and after it a critic that leans on it."""
    spans = {"maker": (0.0, 0.5), "critic": (0.5, 1.0)}
    asked = {n: Player(players[n], span=span) for n, span in spans.items()}
    kept = path and Checkpoints(path)
    budget = Budget(steps=steps, learning_rate=0.05, save_every=4)
    descend(asked, duel(players), Data(), Run(budget, report, kept))
    return nn.ModuleDict(players)


def test_a_player_moves_in_its_span_alone_and_stays_at_its_mean_afterwards():
    players, seen = rivals(), []

    def report(step, losses):
        seen.append((step, set(losses), players["maker"].weight.detach().clone()))

    in_turn(players, report=report)
    assert [names for _, names, _ in seen] == [{"maker"}] * 20 + [{"critic"}] * 20
    settled = [weight for step, _, weight in seen if step >= 20]
    assert all(torch.equal(weight, settled[0]) for weight in settled)
    assert not torch.equal(settled[0], seen[19][2])  # the mean, not the last that was trained
    assert torch.equal(players["maker"].weight, settled[0])


@pytest.mark.parametrize("last", [4, 18, 19, 20, 21, 38])
def test_a_killed_run_of_players_in_turn_resumes_to_the_same_weights(tmp_path, last):
    with pytest.raises(Killed):
        in_turn(rivals(), tmp_path / "state", killed_at(last))
    resumed = in_turn(rivals(seed=9), tmp_path / "state")
    assert same(resumed, in_turn(rivals()))


def test_the_learning_rate_of_a_span_is_that_of_a_run_of_its_length():
    module, seen = nn.Linear(1, 1, bias=False), []
    budget = Budget(steps=40, learning_rate=0.1, average=0.0)

    def loss(_, batch):
        seen.append(module.weight.item())
        return module.weight.sum()

    other = {"idle": nn.Linear(1, 1), "late": Player(module, span=(0.5, 1.0))}

    def either(name, batch):
        return loss(name, batch) if name == "late" else other["idle"].weight.sum()

    descend(other, either, Ones(), Run(budget, silent))
    steps = [a - b for a, b in pairwise(seen)]
    places = [2 * place for place in range(len(steps))]
    assert len(seen) == 20
    assert steps == pytest.approx([rate(place, budget) for place in places], rel=1e-3)


def test_other_players_weights_ask_for_no_gradient_and_all_do_again_in_the_end():
    players, seen = rivals(), []

    def loss(name, batch):
        seen.append({n: p.weight.requires_grad for n, p in players.items()})
        return duel(players)(name, batch)

    descend(players, loss, Data(), Run(Budget(steps=1), silent))
    assert seen == [{"maker": True, "critic": False}, {"maker": False, "critic": True}]
    assert all(p.requires_grad for part in players.values() for p in part.parameters())


def test_figures_beside_the_losses_are_reported_under_their_own_names():
    module, seen = nn.Linear(3, 1), []
    player = Player(module, told=lambda: {"win_rate": 0.75})

    def loss(_, batch):
        return module(batch.images).square().mean()

    descend({"net": player}, loss, Data(), Run(Budget(steps=2), lambda *a: seen.append(a)))
    assert [set(found) for _, found in seen] == [{"net", FIGURE + "win_rate"}] * 2
    assert seen[0][1][FIGURE + "win_rate"] == 0.75
