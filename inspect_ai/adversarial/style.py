"""Style: a code that scales what a generator's convolutions read, layer by layer.

    w = MLP(z / rms(z))
    s = A w + 1,    y = d * conv(s * x),    d_o = 1 / sqrt(sum_ik (W_oik s_i)^2)

Scaling what goes in and what comes out is the same as scaling each image's own kernel by s and d,
and needs one kernel for all. d keeps the variance at 1 for independent x of variance 1. Noise of
a learned strength, 0 at first, is added to each layer: what no code should have to remember.

Sources: Karras, Laine, Aila, "A style-based generator architecture for generative adversarial
networks", CVPR 2019, section 2 (mapping, constant, noise). Karras et al., "Analyzing and
improving the image quality of StyleGAN", CVPR 2020, section 2.2, equations 1 and 3 (s and d).

Shapes: N images, h, w cells, Z latent numbers, I and O channels in and out.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.adversarial.growth import doubled_conv
from inspect_ai.adversarial.leaky import GAIN, LEAST, begin, leaky, normed


class Mapping(nn.Module):
    """Codes (N, inside), of any length but 0, to styles (N, outside)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        sizes = pairwise([inside, outside, outside, outside])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in sizes)
        begin(self)

    @override
    def forward(self, codes: Tensor) -> Tensor:
        x = normed(codes)
        for layer in self.layers:
            x = leaky(layer(x))
        return x


class Modulated(nn.Module):
    """The 3 x 3 convolution of the module's docstring, without a bias; may double its x first."""

    def __init__(self, inside: int, outside: int, styles: int, doubles: bool = False) -> None:
        super().__init__()
        self.doubles = doubles
        self.weight = nn.Parameter(torch.randn(outside, inside, 3, 3) / math.sqrt(9 * inside))
        self.style = nn.Linear(styles, inside)
        nn.init.ones_(self.style.bias)

    @override
    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """(N, I, h, w) and styles (N, Z) to (N, O, h, w), of doubled sides if it doubles."""
        s = self.style(styles)
        power = F.linear(s.square(), self.weight.square().sum((2, 3)))
        x = x * s[:, :, None, None]
        y = doubled_conv(x, self.weight) if self.doubles else F.conv2d(x, self.weight, padding=1)
        return y * torch.rsqrt(power + LEAST)[:, :, None, None]


class Noise(nn.Module):
    """Adds noise to (N, O, h, w), alike for all channels: fresh in training, else always one."""

    still: Tensor

    def __init__(self, grid: tuple[int, int], seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("still", torch.randn(1, 1, *grid, generator=draw))
        self.strength = nn.Parameter(torch.zeros(()))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x + self.strength * (torch.randn_like(x[:, :1]) if self.training else self.still)


class Styled(nn.Module):
    """One layer: modulated convolution, noise, bias, leaky rectifier."""

    def __init__(self, mix: Modulated, noise: Noise) -> None:
        super().__init__()
        self.mix, self.noise = mix, noise
        outside = mix.weight.shape[0]
        self.bias = nn.Parameter(torch.zeros(outside, 1, 1))

    @override
    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        y = self.noise(self.mix(x, styles)) + self.bias
        return GAIN * leaky(y)
