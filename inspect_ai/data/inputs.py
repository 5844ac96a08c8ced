"""What goes into the model, in two numbers an image: so that "the camera changed" can be told
from "the images are odd".

    picture     input_brightness   mean of the middle half of the pixels, in [0, 1] of the rule
                input_sharpness    slope that a tenth of the pixels exceed, as a share of the
                                   contrast (5 % to 95 % of the pixels) a pixel: in focus about
                                   0.2, blurred less
    wafer map   input_yield        share of dies that pass
                input_dies         number of dies

A small defect moves a picture's numbers little: a brightness without its brightest and darkest
quarter, a slope without its steepest tenth. Sharpness is a share of the contrast, so that light
does not move it; and it looks at edges, since the finest detail of a picture is its noise, which
a lens out of focus leaves as it is: a median Laplacian over the contrast rises with blur.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_ai.data.images import OFF_WAFER, PASS
from inspect_ai.data.specs import ImageRule
from inspect_ai.scores import Float32, Pixels

# with a prefix: a table may have a yield of its own
PICTURE, WAFER_MAP = ("input_brightness", "input_sharpness"), ("input_yield", "input_dies")
MIDDLE = 512  # pixels a side; sharpness looks no further
LOOKED_AT = 10_000  # values whose order is taken; of a larger picture every third, fifth, ..
SOBEL = 8.0  # its answer to a slope of 1 a pixel


def names(rule: ImageRule) -> tuple[str, ...]:
    """The measures of a kind of image; none of them is the name of another column."""
    return WAFER_MAP if rule.kind == "wafer_map" else PICTURE


def measured(pixels: Pixels, rule: ImageRule) -> dict[str, float]:
    """The measures of one image, by name.

    Args:
        pixels: (C, H, W) in the file's own type.
        rule: that they were checked against.
    """
    if rule.kind == "wafer_map":
        dies = int(np.count_nonzero(pixels != OFF_WAFER))
        passed = int(np.count_nonzero(pixels == PASS))
        return {"input_yield": passed / max(dies, 1), "input_dies": float(dies)}
    return {"input_brightness": _brightness(pixels, rule), "input_sharpness": _sharpness(pixels)}


def _brightness(pixels: Pixels, rule: ImageRule) -> float:
    flat = _some(pixels.reshape(len(pixels), -1)).mean(axis=0, dtype=np.float64)
    quarter = len(flat) // 4
    ordered = np.partition(flat, [quarter, len(flat) - quarter - 1])
    grey = float(ordered[quarter : len(flat) - quarter].mean())
    return (grey - rule.minimum) / (rule.largest - rule.minimum)


def _sharpness(pixels: Pixels) -> float:
    """0 where a picture has no contrast."""
    height, width = pixels.shape[1:]
    top, left = max(0, height - MIDDLE) // 2, max(0, width - MIDDLE) // 2
    middle = pixels[:, top : top + MIDDLE, left : left + MIDDLE]
    grey = middle[0].astype(np.float32) if len(middle) == 1 else middle.mean(0, dtype=np.float32)
    dark, light = _quantiles(grey, [0.05, 0.95])
    if light <= dark:
        return 0.0
    slope = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    (steep,) = _quantiles(np.asarray(slope, np.float32), [0.9])
    return steep / (SOBEL * (light - dark))


def _some(rows: NDArray[Any]) -> NDArray[Any]:
    """At most LOOKED_AT values of each row, at an odd distance, which meets few patterns in step."""
    step = -(-rows.shape[1] // LOOKED_AT)
    return rows[:, :: step + 1 - step % 2]


def _quantiles(values: Float32, shares: list[float]) -> list[float]:
    some = _some(values.reshape(1, -1))[0]
    places = [int(share * (len(some) - 1)) for share in shares]
    ordered = np.partition(some, places)
    return [float(ordered[place]) for place in places]
