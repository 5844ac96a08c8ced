"""From an anomaly map to one number per image.

Shapes: N images, H, W cells.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from inspect_ai.settings import Settings


class Pooling(Settings):
    """How a map becomes one number."""

    kind: Literal["max", "top", "mean"] = "top"
    share: float = Field(default=0.005, gt=0, le=1)  # of the cells, for "top": their mean

    def build(self) -> "Pool":
        """The pooling as a module."""
        return Pool(self)


class Pool(nn.Module):
    """Largest cell, mean of the largest share of cells, or mean over what is covered."""

    def __init__(self, settings: Pooling) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, anomaly_map: Tensor, coverage: Tensor) -> Tensor:
        """(N, H, W) map and coverage to (N,); cells without coverage hold 0 and never win."""
        flat = anomaly_map.flatten(1)
        if self.settings.kind == "mean":
            return flat.sum(1) / coverage.flatten(1).sum(1).clamp(min=1e-6)
        if self.settings.kind == "max":
            return flat.amax(1)
        count = max(1, round(self.settings.share * flat.shape[1]))
        return torch.topk(flat, count, dim=1).values.mean(1)
