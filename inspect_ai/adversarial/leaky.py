"""The rectifier of the adversarial networks, and numbers that keep their size through it.

    leaky(x) = max(x, 0.2 x)

Weights begin with variance g^2 / n, n the numbers that one output reads and g^2 = 2 / (1 + 0.2^2):
independent numbers then keep their mean square from layer to layer.

Source: He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, section 2.2, equation 15.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # g
LEAST = 1e-6  # of a mean square; keeps its root from 0


def leaky(x: Tensor) -> Tensor:
    """The rectifier, cell by cell."""
    return F.leaky_relu(x, SLOPE)


def begin(network: nn.Module, gain: float = GAIN) -> None:
    """Random weights of convolutions and linear layers, as the module's docstring has them."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.normal_(part.weight, std=gain / math.sqrt(part.weight[0].numel()))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def normed(x: Tensor) -> Tensor:
    """(N, K, ...) with a mean square over K of 1: each code, or each cell over its channels."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + LEAST)
