"""A run file, checked: which data, which model, which rule, how long, which promise."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from inspect_ai import models
from inspect_ai.data.specs import DataSpec
from inspect_ai.preprocess import View
from inspect_ai.scoring import reconstruction, structure
from inspect_ai.settings import Settings
from inspect_ai.training.budget import Budget
from inspect_ai.training.detector import Buildable

Score = Annotated[reconstruction.Config | structure.Config, Field(discriminator="rule")]
Grid = tuple[Annotated[int, Field(ge=4)], Annotated[int, Field(ge=4)]]


class Recipe(Settings):
    """One training run; pipelines/runs/*.toml are examples with comments."""

    data_spec: Path  # relative to the current folder
    grid: Grid  # (height, width) of the model's view, in cells
    turn: bool = False  # train on all eight orientations; only where none is special
    held_out: float = Field(default=0.15, gt=0, lt=1)  # share of train kept for fitting the rule
    false_alarm_rate: float = Field(gt=0, lt=1)  # share of good images that may be flagged
    confidence: float | None = Field(default=None, gt=0, lt=1)  # None: the rate holds on average
    model: dict[str, Any]
    score: Score
    budget: Budget

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if "name" not in self.model:
            raise ValueError(f"[model] needs a name: one of {', '.join(models.names())}")
        return self

    @model_validator(mode="after")
    def _can_turn(self) -> Self:
        if self.turn and self.grid[0] != self.grid[1]:
            raise ValueError("turn = true needs a square grid; make it one, or set turn = false")
        return self

    def model_config_(self) -> Buildable:
        """The checked config of the model.

        Raises:
            UnknownModel, BadSettings: the [model] table is wrong.
        """
        fields = {key: value for key, value in self.model.items() if key != "name"}
        config: Any = models.config(self.model["name"], fields)
        return config  # type: ignore[no-any-return]

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

    def hash(self) -> str:
        """Names the recipe's content."""
        fields = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()


def read(path: Path) -> Recipe:
    """A run file and its model table, checked before any work.

    Raises:
        MissingData: no such file.
        BadSettings, UnknownModel: a key or a value is wrong.
    """
    recipe = Recipe.from_toml(path)
    recipe.model_config_()
    return recipe
