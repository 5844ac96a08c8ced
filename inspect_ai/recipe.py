"""A run file, checked: which data, which model, which rule, how long, which promise."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import Field, model_validator

from inspect_ai import models
from inspect_ai.calibration.promise import Basis, Promise
from inspect_ai.data.conditions import Condition, Places
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings
from inspect_ai.preprocess import View
from inspect_ai.scoring import (
    adversarial,
    denoising,
    density,
    diffusion,
    likelihood,
    reconstruction,
)
from inspect_ai.settings import Settings, toml
from inspect_ai.training.budget import Budget

Score = Annotated[
    reconstruction.Config
    | density.Config
    | likelihood.Config
    | denoising.Config
    | adversarial.Config
    | diffusion.Config,
    Field(discriminator="rule"),
]
Grid = tuple[Annotated[int, Field(ge=4)], Annotated[int, Field(ge=4)]]
FUSION, LATENT, HELD_OUT = "fusion", "latent_diffusion", 0.15
NOTHING = (("condition", None), ("first_stage", None), ("calibration", None), ("trim", None))


class Recipe(Settings):
    """One training run; pipelines/runs/*.toml are examples with comments."""

    data_spec: Path  # relative to the current folder
    grid: Grid  # (height, width) of the model's view, in cells
    turn: bool = False  # train on all eight orientations; only where none is special
    held_out: float = Field(
        default=HELD_OUT, gt=0, lt=1
    )  # share of train kept for fitting the rule
    trim: float | None = Field(
        default=None, gt=0, lt=0.5
    )  # share of train, the oddest after a first fit, that a second fit does without
    false_alarm_rate: float = Field(gt=0, lt=1)  # share of good images that may be flagged
    confidence: float | None = Field(default=None, gt=0, lt=1)  # None: the rate holds on average
    calibration: Basis | None = None  # what counts, and apart for which groups; None: every image
    members: tuple["Recipe", ...] = ()  # of a fusion: run files beside this one
    first_stage: "Recipe | None" = None  # whose codes a model sees: a run file beside this one
    condition: Condition | None = None  # what a conditional model is told of each image
    model: dict[str, Any]
    score: Score | None = None  # a fusion has none: its members have
    budget: Budget

    @model_validator(mode="before")
    @classmethod
    def _as_its_members(cls, fields: Any) -> Any:
        """A fusion sees what its first member sees, and trains nothing by itself."""
        if not isinstance(fields, dict) or not fields.get("members"):
            return fields
        first = fields["members"][0]
        seen = first if isinstance(first, dict) else first.model_dump()
        return {"grid": seen.get("grid"), "budget": {"steps": 1}} | fields

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if "name" not in self.model:
            raise ValueError(f"[model] needs a name: one of {', '.join(models.names())}")
        return self

    @model_validator(mode="after")
    def _has_a_rule_or_members(self) -> Self:
        if (self.model.get("name") == FUSION) != bool(self.members):
            raise ValueError(
                "'members' and [model] name = 'fusion' need each other; add or drop both"
            )
        if (self.score is None) != bool(self.members):
            raise ValueError("needs [score] with a rule, or 'members', which have their own")
        if any(member.members for member in self.members):
            raise ValueError("a member may not be a fusion; list its members instead")
        if self.members and (self.turn or self.held_out != HELD_OUT or self.trim):
            raise ValueError(
                "'turn', 'held_out' and 'trim' belong to the members' run files; drop them"
            )
        if any(member.data_spec != self.data_spec for member in self.members):
            raise ValueError("every member needs the data_spec of the fusion; use run files of one")
        return self

    @model_validator(mode="after")
    def _fuses_without_a_condition(self) -> Self:
        if (self.condition and self.members) or any(m.condition for m in self.members):
            raise ValueError("a fusion has no [condition], nor have its members; drop it")
        return self

    @model_validator(mode="after")
    def _has_a_first_stage(self) -> Self:
        """A latent model needs one, made of the same images: held out for one, held out for both."""
        stage = self.first_stage
        if (self.model.get("name") == LATENT) != bool(stage):
            raise ValueError(
                f"'first_stage' and [model] name = '{LATENT}' need each other; add first_stage = "
                "the name of a run file of a vae or vqvae beside this one, or drop both"
            )
        if stage is None:
            return self
        if stage.members or stage.first_stage:
            raise ValueError("a first stage codes images itself; use a run file of a vae or vqvae")
        if stage.trim:
            raise ValueError("a first stage learns what is left here; move 'trim' to this run file")
        if stage.condition not in (None, self.condition):
            raise ValueError("a first stage is told this [condition] or none; make them equal")
        same = {n: (getattr(stage, n), getattr(self, n)) for n in ("data_spec", "grid", "turn")}
        same["held_out"] = (stage.held_out, self.held_out)
        same["budget.seed"] = (stage.budget.seed, self.budget.seed)
        for name, (theirs, ours) in same.items():
            if theirs != ours:
                raise ValueError(
                    f"the first stage has {name} = {theirs}, needed is {ours} as here; make them equal"
                )
        return self

    @model_validator(mode="after")
    def _can_turn(self) -> Self:
        if self.turn and self.grid[0] != self.grid[1]:
            raise ValueError("turn = true needs a square grid; make it one, or set turn = false")
        return self

    @property
    def rule(self) -> str:
        """The rule's name, as cards and tables give it."""
        return (
            self.score.rule
            if self.score
            else "p-values of " + ", ".join(f"{m.model['name']} + {m.rule}" for m in self.members)
        )

    @property
    def promise(self) -> Promise:
        """What its calibration is asked for."""
        basis = (self.calibration or Basis()).model_dump()
        rate, sure = self.false_alarm_rate, self.confidence
        return Promise(false_alarm_rate=rate, confidence=sure, **basis)

    @property
    def steps(self) -> int:
        """Training steps, those of all members, of a first stage and of a first fit."""
        own = 0 if self.members else self.budget.steps
        one = own + sum(part.steps for part in (*self.members, self.first_stage) if part)
        return one if self.trim is None else 2 * one

    def model_config_(self) -> Any:
        """The checked config of the model.

        Raises:
            UnknownModel, BadSettings: the [model] table is wrong.
        """
        fields = {key: value for key, value in self.model.items() if key != "name"}
        return models.config(self.model["name"], fields)

    def seeded(self, seed: int, seconds: float | None = None) -> Self:
        """The same run from another seed, and in at most so many seconds of training."""
        if self.members:
            share = seconds and seconds / len(self.members)
            members = tuple(member.seeded(seed, share) for member in self.members)
            budget = self.budget.model_copy(update={"seed": seed})
            return self.model_copy(update={"members": members, "budget": budget})
        seconds = seconds and seconds / 2 if self.trim else seconds  # of each of two fits
        share = seconds and seconds / 2 if self.first_stage else seconds
        stage = self.first_stage and self.first_stage.seeded(seed, share)
        limit = min(filter(None, (self.budget.seconds, share)), default=None)
        budget = self.budget.model_copy(update={"seed": seed, "seconds": limit})
        return self.model_copy(update={"budget": budget, "first_stage": stage})

    def view(self, spec: DataSpec) -> View:
        """How pixels of `spec` become what the model sees."""
        rule = spec.image
        return View(
            kind=rule.kind,
            channels=rule.channels,
            minimum=rule.minimum,
            maximum=rule.largest,
            resize=rule.resize,
            grid=self.grid,
        )

    def places(self, table: pd.DataFrame) -> Places | None:
        """The condition of each image to learn from; None where the model is told of none.

        Raises:
            MissingData: a column is not there, or holds a value that is not listed.
        """
        return self.condition.require(table) if self.condition else None

    def hash(self) -> str:
        """Names the recipe's content."""
        fields = json.dumps(_without_nothing(self.model_dump(mode="json")), sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()


def _without_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields without what is not there: runs from before there was any keep their name."""
    fields = {k: v for k, v in fields.items() if (k, v) not in NOTHING}
    if "first_stage" in fields:
        fields["first_stage"] = _without_nothing(fields["first_stage"])
    return fields | {"members": [_without_nothing(m) for m in fields.get("members", ())]}


def _beside(name: object, path: Path) -> bool:
    return isinstance(name, str) and Path(name).name == name and name != path.name


def read(path: Path) -> Recipe:
    """A run file and its model table, and those it names beside it, checked before any work.

    Raises:
        MissingData: no such file.
        BadSettings, UnknownModel: a key or a value is wrong.
    """
    return _read(path, ())


def _read(path: Path, above: tuple[Path, ...]) -> Recipe:
    if path in above:
        raise BadSettings(f"{path} names itself, through {above[-1]}. Drop it from one of them.")
    fields, above = toml(path), (*above, path)
    members, stage = fields.get("members", []), fields.get("first_stage")
    if not isinstance(members, list) or not all(_beside(name, path) for name in members):
        raise BadSettings(
            f"{path}: 'members' must be names of other run files beside it, got {members}. "
            'Write members = ["one.toml", "other.toml"].'
        )
    if stage is not None and not _beside(stage, path):
        raise BadSettings(
            f"{path}: 'first_stage' must be the name of another run file beside it, got {stage}. "
            'Write first_stage = "one.toml".'
        )
    inner = tuple(_read(path.with_name(name), above) for name in members)
    fields |= {"members": inner} if inner else {}
    fields |= {"first_stage": _read(path.with_name(stage), above)} if stage else {}
    recipe = Recipe.checked(fields, str(path))
    recipe.model_config_()
    return recipe
