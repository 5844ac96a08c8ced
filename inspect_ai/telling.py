"""What a model tells of itself, in figures and pictures: while it is trained, and afterwards."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from inspect_ai.data.manifest import Manifest
from inspect_ai.recipe import Recipe
from inspect_ai.review.pictures import sheet
from inspect_ai.tracking import Log
from inspect_ai.training import batches as feed
from inspect_ai.training.detector import Model, Single

FEW = 256  # good images on which a model tells of itself


@torch.no_grad()
def glimpse(model: Model, step: int, pictures: Path, log: Log) -> None:
    """Keeps what a generator draws at this step; nothing of a model that draws nothing."""
    cells = model.glimpse()
    if cells is not None:
        path = pictures / "epochs" / f"samples-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet(np.asarray(cells.cpu().numpy()), path)
        log.picture(step, path)


@torch.no_grad()
def telling(
    detector: Single, recipe: Recipe, rows: pd.DataFrame, manifest: Manifest, pictures: Path
) -> dict[str, float]:
    """Figures of the fitted model on a few of good images that no weight has seen, and pictures.

    Args:
        rows: of the manifest; FEW of them are taken, in no order: neighbours are not alike.
        pictures: folder for the model's sheets.
    """
    rows = rows.sample(frac=1, random_state=0)[:FEW]
    # pictures come by their shapes and become one grid, maps come on one canvas
    seen = [detector.seen_by_model(torch.from_numpy(p)) for p in feed.raw(rows, manifest, FEW)]
    images, places = torch.cat(seen), recipe.places(rows)
    condition = None if places is None else torch.from_numpy(places)
    for name, cells in detector.model.pictures(images, condition).items():
        pictures.mkdir(exist_ok=True)
        sheet(np.asarray(cells.numpy()), pictures / f"{name}.png")
    return detector.model.told(images, condition)
