"""What is flagged in an image: a mask of its anomaly map, and regions with box, area and score.

A region is an 8-connected part of the mask. The map has one value per cell of the model's grid; a
cell is a pixel of the image or many (of a wafer map: a die). Boxes are in pixels of the image and
hold every pixel that a flagged cell touches.
"""

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inspect_ai.scores import Bool, Float32

MOST = 1000  # regions of an image, those of the largest scores: more is noise, not places to look


def mask(anomaly_map: Float32, threshold: float) -> Bool:
    """(H, W) values strictly above the threshold; one that is not a number is flagged."""
    return ~(np.asarray(anomaly_map) <= np.float32(threshold))


def regions(
    anomaly_map: Float32, threshold: float, size: tuple[int, int] | None = None
) -> pd.DataFrame:
    """Flagged regions, the largest score first, at most MOST.

    Args:
        anomaly_map: (H, W), of the whole image.
        threshold: cells strictly above it are flagged.
        size: height and width of the image in pixels; None where a cell is a pixel or a die.

    Returns:
        x, y, width, height (int64, pixels of the image), area (float64, pixels of the image, as
        the share of its cells), score and mean_score (float32, largest and mean map value; not a
        number where a value is not, and then first).
    """
    flagged = mask(anomaly_map, threshold)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        flagged.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    label = labels[flagged]
    order = np.argsort(label, kind="stable")
    values = np.asarray(anomaly_map, np.float32)[flagged][order]
    first = np.searchsorted(label[order], np.arange(1, count))
    cells = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
    if count > 1:
        score = np.maximum.reduceat(values, first)
        mean = np.add.reduceat(values.astype(np.float64), first) / cells
    else:
        score = mean = np.empty(0)
    found = _boxes(stats[1:].astype(np.int64), anomaly_map.shape, size or anomaly_map.shape)
    found["score"] = score.astype(np.float32)
    found["mean_score"] = mean.astype(np.float32)
    # equal scores in reading order
    found = found.sort_values(
        ["score", "y", "x"], ascending=[False, True, True], na_position="first", kind="stable"
    )
    return found.head(MOST).reset_index(drop=True)


def _boxes(stats: NDArray[np.int64], cells: tuple[int, ...], size: tuple[int, ...]) -> pd.DataFrame:
    """Boxes of cells as boxes of pixels, outward to whole ones; in whole numbers, so exact."""
    (rows, columns), (height, width) = cells, size
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    x, y = left * width // columns, top * height // rows
    return pd.DataFrame(
        {
            "x": x,
            "y": y,
            "width": -(-right * width // columns) - x,
            "height": -(-bottom * height // rows) - y,
            "area": stats[:, cv2.CC_STAT_AREA] * (width * height / (rows * columns)),
        }
    )


def inside(cells: Float32, size: tuple[int, int]) -> Float32:
    """The part of a map that the picture fills, where its aspect was kept with bars around it.

    Args:
        cells: (..., h, w) on the model's grid.
        size: height and width of the picture; one scale for both sides, as preprocess.py has it.
    """
    grid = cells.shape[-2:]
    scale = max(side / n for side, n in zip(size, grid, strict=True))
    bars = [int((n - side / scale) / 2 + 1e-6) for side, n in zip(size, grid, strict=True)]
    rows, columns = (slice(bar, n - bar) for bar, n in zip(bars, grid, strict=True))
    return cells[..., rows, columns]
