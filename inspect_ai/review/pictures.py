"""Pictures of one image: what it is, what the model expected, where it is odd.

Arrays are OpenCV's: (H, W, 3) uint8 in the order blue, green, red.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_ai.data.specs import ImageRule
from inspect_ai.scores import Float32, Pixels

Picture = NDArray[np.uint8]

PANEL = 200  # pixels of a panel's longer side
SMALL = 96  # pixels of a sheet's picture, its longer side
GAP = 4  # pixels between panels
PAPER, DIE, FAIL = (255, 255, 255), (222, 214, 206), (54, 42, 190)
PALE = (150, 142, 134)  # a failing die under the heat, which needs the colours for itself


def strip(
    image: Pixels, expected: Float32, anomaly_map: Float32, rule: ImageRule, threshold: float
) -> Picture:
    """Three panels side by side: image, expectation, and the anomaly map over the image.

    Args:
        image: (C, H, W) in the file's own type.
        expected: (C, h, w) in [0, 1], on the model's grid or one cell per die.
        anomaly_map: (h, w); at `threshold` the colour is full.
        threshold: pixel threshold; what lies above it is outlined.
    """
    expected = np.nan_to_num(expected, nan=0.0)  # heat that is no number is drawn as an alarm
    if rule.kind == "wafer_map":
        rows, columns = image.shape[1:]
        expected, anomaly_map = expected[:, :rows, :columns], anomaly_map[:rows, :columns]
        size = _panel_size(rows, columns)
        panels = _wafer_panels(image[0], expected[0], anomaly_map, threshold, size)
    else:
        size = _panel_size(*image.shape[1:])
        panels = _picture_panels(image, expected, anomaly_map, rule, threshold, size)
    gap = np.full((size[0], GAP, 3), 255, np.uint8)
    return np.hstack([panels[0], gap, panels[1], gap, panels[2]])


def sheet(cells: Float32, path: Path) -> None:
    """Writes pictures in rows and columns as one PNG.

    Args:
        cells: (rows, columns, C, h, w) in [0, 1].
    """
    size = tuple(
        max(1, round(side * max(1, SMALL / max(cells.shape[3:])))) for side in cells.shape[3:]
    )
    gap = 2
    paper = np.full(
        (cells.shape[0] * (size[0] + gap) + gap, cells.shape[1] * (size[1] + gap) + gap, 3),
        255,
        np.uint8,
    )
    for (row, column), _ in np.ndenumerate(cells[:, :, 0, 0, 0]):
        top, left = (gap + i * (s + gap) for i, s in zip((row, column), size, strict=True))
        picture = _enlarged(_coloured(cells[row, column]), (size[0], size[1]), cv2.INTER_NEAREST)
        paper[top : top + size[0], left : left + size[1]] = picture
    cv2.imwrite(str(path), paper)


def _panel_size(rows: int, columns: int) -> tuple[int, int]:
    scale = PANEL / max(rows, columns)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def _wafer_panels(
    states: Pixels, expected: Float32, heat: Float32, threshold: float, size: tuple[int, int]
) -> list[Picture]:
    dies = states > 0
    image = np.full((*states.shape, 3), PAPER, np.uint8)
    image[dies], image[states == 2] = DIE, FAIL
    rate = np.where(dies, expected, 0)
    forecast = _blend(np.full_like(image, PAPER), image * 0 + FAIL, rate)
    forecast[dies] = _blend(np.full_like(image, DIE), image * 0 + FAIL, rate)[dies]
    grey = image.copy()
    grey[states == 2] = PALE
    odd = _heated(grey, heat, threshold)
    odd[~dies] = PAPER
    panels = [_enlarged(p, size, cv2.INTER_NEAREST) for p in (image, forecast, odd)]
    _outline(panels[2], heat, threshold, cv2.INTER_NEAREST)
    return panels


def _picture_panels(
    image: Pixels,
    expected: Float32,
    heat: Float32,
    rule: ImageRule,
    threshold: float,
    size: tuple[int, int],
) -> list[Picture]:
    span = rule.largest - rule.minimum
    shown = _coloured((image.astype(np.float32) - rule.minimum) / span)
    shown = _enlarged(shown, size, cv2.INTER_AREA)
    forecast = _enlarged(_coloured(expected), size, cv2.INTER_LINEAR)
    large = np.asarray(cv2.resize(heat, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    odd = _heated(shown, large, threshold)
    _outline(odd, large, threshold, cv2.INTER_LINEAR)
    return [shown, forecast, odd]


def _coloured(image: Float32) -> Picture:
    """(C, H, W) in [0, 1] to a picture; the first channel where there are not three."""
    planes = image if image.shape[0] == 3 else np.repeat(image[:1], 3, axis=0)
    return np.ascontiguousarray((np.moveaxis(planes, 0, 2).clip(0, 1) * 255).astype(np.uint8))


def _enlarged(picture: Picture, size: tuple[int, int], how: int) -> Picture:
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=how), np.uint8)


def _heated(picture: Picture, heat: Float32, threshold: float) -> Picture:
    """The picture under the heat: clear at 0, full colour at the threshold."""
    level = np.nan_to_num(heat / max(threshold, 1e-12), nan=1.0).clip(0, 1)
    colour = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return _blend(picture, np.asarray(colour, np.uint8), 0.85 * level)


def _blend(below: NDArray[Any], above: NDArray[Any], share: NDArray[np.floating]) -> Picture:
    weight = share[..., None]
    return np.asarray(below * (1 - weight) + above * weight).astype(np.uint8)


def _outline(picture: Picture, heat: Float32, threshold: float, how: int) -> None:
    """Draws the border of what lies above the threshold."""
    size = (picture.shape[1], picture.shape[0])
    above = (cv2.resize(heat, size, interpolation=how) > threshold).astype(np.uint8)
    lines, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, lines, -1, (208, 180, 0), 1)
