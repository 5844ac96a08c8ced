"""Small fixed filters that rules share; all exportable, all blind to what is not covered.

Shapes: N images, C channels, H, W cells.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian(sigma: float) -> Tensor:
    """Weights of a Gaussian cut at three standard deviations, (2 r + 1,), summing to 1."""
    radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return weights / weights.sum()


def smooth(image: Tensor, weights: Tensor) -> Tensor:
    """(N, C, H, W) filtered along rows and columns by (K,) weights, zeros outside."""
    channels, radius = image.shape[1], weights.shape[0] // 2
    tall = weights[None, None, :, None].expand(channels, 1, -1, 1)
    wide = weights[None, None, None, :].expand(channels, 1, 1, -1)
    image = F.conv2d(image, tall, padding=(radius, 0), groups=channels)
    return F.conv2d(image, wide, padding=(0, radius), groups=channels)


def local_mean(image: Tensor, coverage: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the covered cells around each cell; 0 where nothing is covered."""
    return smooth(image * coverage, weights) / smooth(coverage, weights).clamp(min=1e-6)


def lines(length: int) -> Tensor:
    """Straight lines of `length` cells through the middle, in eight directions, each of norm 1.

    (8, 1, length, length) weights for a convolution; `length` is odd.
    """
    middle, kernels = length // 2, []
    for turn in range(8):
        kernel = torch.zeros(length, length)
        for step in torch.linspace(-middle, middle, 4 * length).tolist():
            y = round(middle + step * math.sin(math.pi * turn / 8))
            x = round(middle + step * math.cos(math.pi * turn / 8))
            kernel[y, x] = 1
        kernels.append(kernel / kernel.norm())
    return torch.stack(kernels)[:, None]
