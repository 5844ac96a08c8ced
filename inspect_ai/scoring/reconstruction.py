"""Reconstruction rules: an image is odd where it differs from what was expected.

With image x, expectation x', residual r = x - x' and coverage w, the map is one of

    l1         |r|
    l2         r^2
    variance   r^2 / s^2, s^2 the mean of r^2 at that cell over good images
    ssim       (1 - SSIM(x, x')) / 2, Gaussian window of standard deviation 1.5 cells
    gradient   1 - GMS(x, x'), the similarity of gradient magnitudes

averaged over channels, smoothed, and 0 where w is 0.

Sources: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE TIP 13(4), 2004, section III (SSIM, c1 = 0.01^2, c2 = 0.03^2).
Xue, Zhang, Mou, Bovik, "Gradient magnitude similarity deviation", IEEE TIP 23(2), 2014,
equations 1 to 3 (GMS, Prewitt filters, c = 170 at 8 bit, 0.0026 on [0, 1]).
"""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.scoring.filters import gaussian, local_mean
from inspect_ai.scoring.pooling import Pooling
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.settings import Settings


class Config(Settings):
    """Which difference, how much smoothing, and how the map becomes one number."""

    rule: Literal["l1", "l2", "variance", "ssim", "gradient"]
    blur: float = Field(default=1.0, ge=0)  # standard deviation in cells; 0 is none
    pooling: Pooling = Pooling()

    def build(self, channels: int, grid: tuple[int, int]) -> "Reconstruction":
        """The rule for C channels on a grid of (h, w) cells."""
        return Reconstruction(self, channels, grid)


class Reconstruction(Rule):
    """See the module's docstring for the five maps."""

    variance: Tensor
    window: Tensor
    blur: Tensor

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        self.pool = config.pooling.build()
        self.register_buffer("variance", torch.ones(1, channels, *grid))
        self.register_buffer("window", gaussian(1.5))
        self.register_buffer("blur", gaussian(config.blur or 1.0))

    @override
    def fit(self, pairs: Iterable[tuple[Tensor, Seen]]) -> None:
        if self.config.rule != "variance":
            return
        total, weight = torch.zeros_like(self.variance), torch.zeros_like(self.variance[:, :1])
        for image, seen in pairs:
            x, w = image[:, :-1], image[:, -1:]
            total += (w * (x - seen.expected).square()).sum(0, keepdim=True)
            weight += w.sum(0, keepdim=True)
        mean = total / weight.clamp(min=1e-6)
        # a cell that never varies would turn rounding into an alarm: no less than a tenth
        floor = 0.1 * mean.mean().clamp(min=1e-8)
        self.variance.copy_(mean.clamp(min=float(floor)))

    @override
    def forward(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        x, w = image[:, :-1], image[:, -1:]
        difference = self._difference(x, seen.expected, w).mean(1, keepdim=True)
        if self.config.blur > 0:
            difference = local_mean(difference, w, self.blur)
        anomaly_map = (difference * w)[:, 0]
        return self.pool(anomaly_map, w[:, 0]), anomaly_map

    def _difference(self, x: Tensor, expected: Tensor, w: Tensor) -> Tensor:
        if self.config.rule == "l1":
            return (x - expected).abs()
        if self.config.rule == "l2":
            return (x - expected).square()
        if self.config.rule == "variance":
            return (x - expected).square() / self.variance
        if self.config.rule == "ssim":
            return (1 - ssim(x, expected, w, self.window)) / 2
        return 1 - gradient_similarity(x * w, expected * w)


def ssim(x: Tensor, y: Tensor, coverage: Tensor, window: Tensor) -> Tensor:
    """Structural similarity of (N, C, H, W) images in [0, 1], per cell, in [-1, 1]."""
    c1, c2 = 0.01**2, 0.03**2
    mx, my = local_mean(x, coverage, window), local_mean(y, coverage, window)
    vx = local_mean(x * x, coverage, window) - mx * mx
    vy = local_mean(y * y, coverage, window) - my * my
    vxy = local_mean(x * y, coverage, window) - mx * my
    alike = (2 * mx * my + c1) * (2 * vxy + c2)
    return alike / ((mx * mx + my * my + c1) * (vx + vy + c2))


def gradient_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Gradient magnitude similarity of (N, C, H, W) images in [0, 1], per cell, in (0, 1]."""
    c = 0.0026
    gx, gy = _gradient(x), _gradient(y)
    return (2 * gx * gy + c) / (gx * gx + gy * gy + c)


def _gradient(image: Tensor) -> Tensor:
    """Magnitude by Prewitt filters; edges repeat, so that a border is no gradient."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = padded[..., :, 2:] - padded[..., :, :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    gx = (across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]) / 3
    gy = (down[..., :, :-2] + down[..., :, 1:-1] + down[..., :, 2:]) / 3
    return (gx * gx + gy * gy + 1e-12).sqrt()
