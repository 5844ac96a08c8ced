"""What a detector says about a batch of images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Pixels = UInt8 | NDArray[np.uint16] | Float32


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw scores, never clamped or rescaled; higher is odder, always.

    Args:
        pred_score: (N,) one number per image.
        anomaly_map: (N, H, W) one number per cell of the model's grid.
        expected: (N, C, H, W) what the model expected to see, in [0, 1]; None where a
            model has no expectation.
    """

    pred_score: Float32
    anomaly_map: Float32
    expected: Float32 | None = None
