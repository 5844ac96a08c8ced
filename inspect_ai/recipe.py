"""A run file, checked: which data, which model, which rule, how long, which promise."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import Field, model_validator

from inspect_ai import models
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
FUSION, HELD_OUT = "fusion", 0.15


class Recipe(Settings):
    """One training run; pipelines/runs/*.toml are examples with comments."""

    data_spec: Path  # relative to the current folder
    grid: Grid  # (height, width) of the model's view, in cells
    turn: bool = False  # train on all eight orientations; only where none is special
    held_out: float = Field(
        default=HELD_OUT, gt=0, lt=1
    )  # share of train kept for fitting the rule
    false_alarm_rate: float = Field(gt=0, lt=1)  # share of good images that may be flagged
    confidence: float | None = Field(default=None, gt=0, lt=1)  # None: the rate holds on average
    members: tuple["Recipe", ...] = ()  # of a fusion: run files beside this one
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
        if self.members and (self.turn or self.held_out != HELD_OUT):
            raise ValueError("'turn' and 'held_out' belong to the members' run files; drop them")
        if any(member.data_spec != self.data_spec for member in self.members):
            raise ValueError("every member needs the data_spec of the fusion; use run files of one")
        return self

    @model_validator(mode="after")
    def _fuses_without_a_condition(self) -> Self:
        if (self.condition and self.members) or any(m.condition for m in self.members):
            raise ValueError("a fusion has no [condition], nor have its members; drop it")
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
    def steps(self) -> int:
        """Training steps, those of all members."""
        return sum(m.steps for m in self.members) if self.members else self.budget.steps

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
        limit = min(filter(None, (self.budget.seconds, seconds)), default=None)
        budget = self.budget.model_copy(update={"seed": seed, "seconds": limit})
        return self.model_copy(update={"budget": budget})

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
    """Fields without a condition that is not there: runs from before there were any keep a name."""
    fields = {k: v for k, v in fields.items() if (k, v) != ("condition", None)}
    return fields | {"members": [_without_nothing(m) for m in fields.get("members", ())]}


def _beside(name: object, path: Path) -> bool:
    return isinstance(name, str) and Path(name).name == name and name != path.name


def read(path: Path) -> Recipe:
    """A run file and its model table, and those of its members, checked before any work.

    Raises:
        MissingData: no such file.
        BadSettings, UnknownModel: a key or a value is wrong.
    """
    fields = toml(path)
    members = fields.get("members", [])
    if not isinstance(members, list) or not all(_beside(name, path) for name in members):
        raise BadSettings(
            f"{path}: 'members' must be names of other run files beside it, got {members}. "
            'Write members = ["one.toml", "other.toml"].'
        )
    inner = tuple(read(path.with_name(name)) for name in members)
    recipe = Recipe.checked(fields | ({"members": inner} if inner else {}), str(path))
    recipe.model_config_()
    return recipe
