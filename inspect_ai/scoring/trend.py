"""A trend: how a number's mean and spread follow another one, over good images.

    z = (y - m(t)) / s(t)

with m and s straight between knots at quantiles of t: m by least squares, s by least squares on
|y - m(t)|, times sqrt(pi / 2), which makes it the deviation of a Gaussian. Beyond the good images'
range t is held at its end, where nothing is known.

Source: de Boor, "A practical guide to splines", 1978, chapter III (broken lines).

Shapes: N images, M good ones, Q knots.
"""

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

KNOTS = 6
RIDGE = 1e-3  # in least squares, per good image; keeps a knot that few images are near in place


class Trend(nn.Module):
    """(N,) t and y to (N,) z."""

    knots: Tensor
    mean: Tensor
    spread: Tensor
    least: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(0, 1, KNOTS))
        self.register_buffer("mean", torch.zeros(KNOTS))  # m at the knots
        self.register_buffer("spread", torch.ones(KNOTS))  # s at the knots
        self.register_buffer("least", torch.ones(()))  # of s

    def fit(self, t: Tensor, y: Tensor) -> None:
        """Learns the trend of (M,) y with (M,) t."""
        places = torch.quantile(t.double(), torch.linspace(0, 1, KNOTS, dtype=torch.float64))
        width, size = float(places[-1] - places[0]), float(places.abs().max())
        gap = max(1e-3 * width, 1e-5 * size, 1e-6)  # more than rounding
        steps = torch.cat([places[:1], places.diff().clamp(min=gap)])  # ties are kept apart
        self.knots.copy_(steps.cumsum(0))
        hats = self._hats(t).double()
        self.mean.copy_(_least_squares(hats, y.double()))
        apart = (y - self._hats(t) @ self.mean).abs().double() * math.sqrt(math.pi / 2)
        self.least.copy_(0.3 * apart.mean().clamp(min=1e-6))
        self.spread.copy_(_least_squares(hats, apart))

    @override
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        hats = self._hats(t)
        return (y - hats @ self.mean) / (hats @ self.spread).clamp(min=self.least)

    def _hats(self, t: Tensor) -> Tensor:
        """Weight of each knot, (N, Q); they sum to 1."""
        steps = self.knots.diff()
        held = torch.minimum(torch.maximum(t, self.knots[0]), self.knots[-1])[:, None]
        passed = ((held - self.knots[:-1]) / steps).clamp(0, 1)  # of each stretch
        ends = torch.ones_like(held), torch.zeros_like(held)
        return torch.cat([ends[0], passed], 1) - torch.cat([passed, ends[1]], 1)


def _least_squares(hats: Tensor, y: Tensor) -> Tensor:
    """Heights at the knots; drawn a little to the mean of y."""
    middle = y.mean()
    ridge = RIDGE * len(y) * torch.eye(hats.shape[1], dtype=hats.dtype)
    heights: Tensor = torch.linalg.solve(hats.T @ hats + ridge, hats.T @ (y - middle))
    return middle + heights
