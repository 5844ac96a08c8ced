"""Two small pictures of a build, for MLflow and for a look: losses, and the good scores."""

from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from inspect_ai.scores import Float32

POINTS = 400  # of a curve; more cannot be seen


def losses(history: pd.DataFrame, figures: pd.DataFrame, path: Path) -> None:
    """Draws each player's loss, and below them figures of the game between players, if any.

    Averaged over stretches of steps; losses on a log scale if they can be.

    Args:
        history: columns step and one for each player.
        figures: as many rows, a column for each figure.
        path: PNG to write.
    """
    drawn = [(history.drop(columns="step"), "loss")]
    drawn += [(figures, "figures")] * (not figures.columns.empty)
    figure = Figure(figsize=(7, 3.5 * len(drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), squeeze=False)[:, 0]
    stretch = history["step"] // max(1, len(history) // POINTS)
    step = history["step"].groupby(stretch).mean()
    for axes, (table, name) in zip(panels, drawn, strict=True):
        mean = table.groupby(stretch).mean()
        for column in mean.columns:
            axes.plot(step, mean[column], label=column)
        if name == "loss" and (mean.isna() | (mean > 0)).all(axis=None):
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel=name)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def good_scores(scores: Float32, threshold: float, promise: str, path: Path) -> None:
    """Draws the good scores and the threshold with its promise.

    Args:
        scores: (N,) of good images.
        path: PNG to write.
    """
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    bins = np.histogram_bin_edges(scores, min(60, max(10, len(scores) // 10)))
    axes.hist(scores, bins.tolist(), color="#7d9dbd", label=f"{len(scores):,} good images")
    axes.axvline(threshold, color="#b0352c", ls="--", label="threshold")
    axes.set(xlabel="score (higher is odder)", ylabel="images", yscale="log")
    axes.set_title(fill(promise, 96), size=9, loc="left")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
