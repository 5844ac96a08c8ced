"""Two small pictures of a build, for MLflow and for a look: losses, and the good scores."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from inspect_ai.calibration.conformal import Calibration

POINTS = 400  # of a curve; more cannot be seen


def losses(history: pd.DataFrame, path: Path) -> None:
    """Draws each player's loss, averaged over stretches of steps, on a log scale if it can be.

    Args:
        history: columns step and one for each player.
        path: PNG to write.
    """
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    stretch = history["step"] // max(1, len(history) // POINTS)
    mean = history.groupby(stretch).mean()
    for player in mean.columns.drop("step"):
        axes.plot(mean["step"], mean[player], label=player)
    if (mean.drop(columns="step") > 0).all(axis=None):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def good_scores(calibration: Calibration, path: Path) -> None:
    """Draws the good scores and the threshold with its promise.

    Args:
        path: PNG to write.
    """
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    scores = calibration.good_scores
    bins = np.histogram_bin_edges(scores, min(60, max(10, len(scores) // 10)))
    axes.hist(scores, bins.tolist(), color="#7d9dbd", label=f"{len(scores):,} good images")
    axes.axvline(calibration.threshold, color="#b0352c", ls="--", label="threshold")
    axes.set(xlabel="score (higher is odder)", ylabel="images", yscale="log")
    axes.set_title(calibration.promise, size=9, loc="left")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
