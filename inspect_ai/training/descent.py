"""The one training loop: every player lowers its own loss, in turn.

An autoencoder is one player; a GAN is two, each with a rate of its own, and a critic may have
several turns in a step. The weights that are kept are a running mean of those that were trained:
scores move less from run to run.

Sources: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control
Optim. 30(4), 1992. Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs trained by a two
time-scale update rule", NeurIPS 2017 (a rate for each player).
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from inspect_ai.errors import BadSettings, Diverged
from inspect_ai.scores import Float32
from inspect_ai.training.budget import Budget
from inspect_ai.training.checkpoint import Checkpoints


class Batch(NamedTuple):
    """What a loss is given at a step."""

    images: Tensor  # (N, C + 1, h, w)
    condition: Tensor | None  # (N,) int64, which product or layer; None without one
    course: float  # share of the budget that is spent, in [0, 1)


FIGURE = "figure/"  # stands before the name of what is reported beside losses
Loss = Callable[[str, Batch], Tensor]  # (player, batch) to a scalar


class Drawn(Protocol):
    """Gives the batch of a step."""

    def at(self, step: int) -> Tensor:
        """Images (N, C + 1, h, w)."""

    def condition(self, step: int) -> Tensor | None:
        """(N,) int64, which product or layer each image of the step is of; None without one."""

    def first(self, steps: int) -> Float32:
        """The images of the first steps in one array, (M, C + 1, h, w)."""


@dataclass(frozen=True, slots=True)
class Player:
    """A module and how it is trained beside others.

    Args:
        rate: its learning rate, times the budget's.
        betas: of Adam.
        turns: updates in each step, each on a batch of its own.
        span: shares of the course between which it moves; from its end on it stays at its mean.
        told: figures beside the loss, reported with it.
    """

    module: nn.Module
    rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    turns: int = 1
    span: tuple[float, float] = (0.0, 1.0)
    told: Callable[[], Mapping[str, float]] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What a training run is given besides model and data.

    Args:
        report: called with (step, losses by player, and their figures as FIGURE + name) after
            each step.
        checkpoints: where the state is kept; None keeps none.
        device: "cpu" or "cuda"; batches are moved there.
    """

    budget: Budget
    report: Callable[[int, Mapping[str, float]], None]
    checkpoints: Checkpoints | None = None
    device: str = "cpu"


def descend(
    players: Mapping[str, nn.Module | Player], loss: Loss, batches: Drawn, run: Run
) -> None:
    """Trains for `run.budget.steps` steps, or for those that a saved state or the time leaves.

    Args:
        players: name to module; only that module's weights move on its turn.
        loss: (player, batch) to a scalar.

    Raises:
        Diverged: a loss is not finite; names the step and the player.
        BadSettings: the budget ends before a player's span begins.
    """
    state = _State(players, run.budget)
    first = state.restore(run.checkpoints)
    began = time.monotonic() - state.seconds
    for step in range(first, run.budget.steps):
        state.seconds = time.monotonic() - began
        spent = state.seconds / (run.budget.seconds or math.inf)
        if spent >= 1 and step:
            break
        # in the course of the learning rate, which the first step of a tiny budget does not end
        state.place = min(max(step, spent * run.budget.steps), run.budget.steps - 1e-6)
        torch.manual_seed(run.budget.seed * 1_000_003 + step)  # noise depends on the step alone
        losses = _step(state, loss, batches, step, run)
        run.report(step, losses)
        if run.checkpoints and (step + 1) % run.budget.save_every == 0:
            run.checkpoints.save(step + 1, state.tensors())
    state.keep_means()


def rate(step: float, budget: Budget) -> float:
    """Learning rate of a step: up over the first 5 %, then down half a cosine to 1 %."""
    warm = max(1, budget.steps // 20)
    if step < warm:
        return budget.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, budget.steps - warm)
    return budget.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def _step(state: "_State", loss: Loss, batches: Drawn, step: int, run: Run) -> dict[str, float]:
    """Every player's turns, and what there is to report of them."""
    losses, course = dict[str, float](), state.place / run.budget.steps
    most = max(player.turns for player in state.players.values())
    moving = state.moving(course)
    drawn = {
        turn: _batch(batches, step * most + turn, run, course)
        for turn in range(max(state.players[name].turns for name in moving))
    }
    for name in moving:
        player = state.players[name]
        values = [_turn(name, state, loss, drawn[turn], step) for turn in range(player.turns)]
        losses[name] = sum(values) / len(values)
        state.average(name)
        if player.told is not None:
            losses |= {FIGURE + key: float(value) for key, value in player.told().items()}
    return losses


def _batch(batches: Drawn, number: int, run: Run, course: float) -> Batch:
    condition = batches.condition(number)
    moved = None if condition is None else condition.to(run.device)
    return Batch(batches.at(number).to(run.device), moved, course)


def _turn(name: str, state: "_State", loss: Loss, batch: Batch, step: int) -> float:
    adam = state.adams[name]
    for group in adam.param_groups:
        group["lr"] = state.rate(name)
    state.let_move(name)
    value = loss(name, batch)
    if not torch.isfinite(value):
        raise Diverged(_advice(name, "loss", value.item(), step, state.budget))
    adam.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.trained[name], 10.0)
    if not torch.isfinite(norm):
        raise Diverged(_advice(name, "gradient", float(norm), step, state.budget))
    adam.step()
    return value.item()


def _advice(name: str, what: str, value: float, step: int, budget: Budget) -> str:
    return (
        f"The {what} of '{name}' is {value} at step {step}, needed is a finite number. "
        f"Set [budget] learning_rate below {budget.learning_rate:g}."
    )


class _State:
    """Weights, their running means and Adam's moments: all that a resumed run needs."""

    def __init__(self, players: Mapping[str, nn.Module | Player], budget: Budget) -> None:
        self.players = {n: p if isinstance(p, Player) else Player(p) for n, p in players.items()}
        self.modules = {n: p.module for n, p in self.players.items()}
        self.budget, self.place, self.seconds = budget, 0.0, 0.0
        self.trained = {
            n: [w for w in m.parameters() if w.requires_grad] for n, m in self.modules.items()
        }
        self.adams = {
            n: torch.optim.Adam(self.trained[n], betas=p.betas) for n, p in self.players.items()
        }
        self.means = {n: _copies(m) for n, m in self.modules.items()}
        self.moved = dict.fromkeys(self.players, 0)  # steps in which a player moved
        self.settled = set[str]()  # players whose span is over

    def moving(self, course: float) -> list[str]:
        """Players that move now; one whose span is over is left at its mean weights."""
        for name, player in self.players.items():
            if player.span[1] <= course and name not in self.settled:
                # still: a buffer that moves when it is looked through must not move any more
                self.modules[name].eval().load_state_dict(self.means[name])
                self.settled.add(name)
        spans = {name: player.span for name, player in self.players.items()}
        return [name for name, (start, end) in spans.items() if start <= course < end]

    def rate(self, name: str) -> float:
        """The learning rate of a player, which has its own course over its span."""
        start, end = self.players[name].span
        place = (self.place - start * self.budget.steps) / (end - start)
        return self.players[name].rate * rate(place, self.budget)

    def let_move(self, name: str) -> None:
        """Lets only this player's weights ask for a gradient: those of others cost time."""
        for other, weights in self.trained.items():
            for weight in weights if other != name else ():
                weight.requires_grad_(False)
        for weight in self.trained[name]:
            weight.requires_grad_(True)

    def average(self, name: str) -> None:
        """Takes a player's newest weights into their running mean."""
        # a mean from the first step on would remember the random start: trust it slowly
        decay = min(self.budget.average, (self.moved[name] + 1) / (self.moved[name] + 10))
        self.moved[name] += 1
        with torch.no_grad():
            for key, value in self.modules[name].state_dict().items():
                mean = self.means[name][key]
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def keep_means(self) -> None:
        for name, module in self.modules.items():
            if not self.moved[name]:
                raise BadSettings(
                    f"'{name}' had none of {self.budget.steps} step(s) to learn in, and needs one. "
                    "Raise [budget] steps or seconds."
                )
            module.load_state_dict(self.means[name])
            if name in self.settled:
                module.train()
            for weight in self.trained[name]:
                weight.requires_grad_(True)

    def tensors(self) -> dict[str, Tensor]:
        found = {"seconds": torch.tensor(self.seconds, dtype=torch.float64)}
        for name, module in self.modules.items():
            found[f"{name}/moved"] = torch.tensor(self.moved[name])
            found |= {f"{name}/weights/{k}": v for k, v in module.state_dict().items()}
            found |= {f"{name}/means/{k}": v for k, v in self.means[name].items()}
            for index, moments in self.adams[name].state_dict()["state"].items():
                found |= {f"{name}/adam/{index}/{k}": v for k, v in moments.items()}
        return found

    def restore(self, checkpoints: Checkpoints | None) -> int:
        saved = checkpoints.load() if checkpoints else None
        if saved is None:
            return 0
        step, tensors = saved
        self.seconds = float(tensors["seconds"])
        for name, module in self.modules.items():
            self.moved[name] = int(tensors.get(f"{name}/moved", torch.tensor(step)))
            module.load_state_dict(_below(tensors, f"{name}/weights/"))
            for key, mean in _below(tensors, f"{name}/means/").items():
                self.means[name][key].copy_(mean)
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(tensors, f"{name}/adam/").items():
                index, _, kind = key.partition("/")
                moments.setdefault(int(index), {})[kind] = value
            groups = self.adams[name].state_dict()["param_groups"]
            self.adams[name].load_state_dict({"state": moments, "param_groups": groups})
        return step


def _copies(player: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in player.state_dict().items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
