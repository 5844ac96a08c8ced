"""The losses of a training run, step by step, wherever it was stopped."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pandas as pd

from inspect_ai.review import curves
from inspect_ai.training.descent import FIGURE

HISTORY, CURVE = "history.parquet", "history.png"


class History:
    """Losses by step, written down at once, so that a killed run finds them again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[int, dict[str, float]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            with suppress(ValueError):  # a line that a kill cut short
                row = json.loads(line)
                self._keep(row["step"], row)

    def add(self, step: int, losses: Mapping[str, float]) -> None:
        """Writes down the losses of a step; later ones are of a run that was killed, and go."""
        self._keep(step, {"step": step, **losses})
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(self.rows[step]))

    def _keep(self, step: int, row: dict[str, float]) -> None:
        while self.rows and next(reversed(self.rows)) >= step:
            self.rows.popitem()
        self.rows[step] = row

    def draw(self, out: Path) -> None:
        """As a table and a picture, in place of the lines; a model may have nothing to tell."""
        if self.rows:
            table = pd.DataFrame(list(self.rows.values()))
            table.to_parquet(out / HISTORY, index=False)
            figures = table[[c for c in table if str(c).startswith(FIGURE)]]
            named = figures.rename(columns=_named)
            curves.losses(table.drop(columns=figures.columns), named, out / CURVE)
        self.path.unlink(missing_ok=True)

    def recent(self, steps: int) -> dict[str, float]:
        """Mean losses and figures of the last steps, as a log names them."""
        mean = pd.DataFrame(list(self.rows.values())[-steps:]).drop(columns="step").mean()
        return {_named(str(k)): float(v) for k, v in mean.dropna().items()}


def _named(column: str) -> str:
    return column.removeprefix(FIGURE) if column.startswith(FIGURE) else f"loss_{column}"
