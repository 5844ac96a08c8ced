"""The slope of a network's output with its input, as a forward pass that can be exported.

For y = f_n(... f_1(x)) and a slope v = dL/dy, dL/dx = J_1' ... J_n' v: each layer's transposed
Jacobian is applied by hand, a convolution's by a transposed convolution. Autograd gives the same
and cannot be exported.

Source: Griewank, Walther, "Evaluating derivatives", 2nd ed., SIAM 2008, chapter 3 (reverse mode).
"""

from collections.abc import Callable, Iterable
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspect_ai.training.blocks import Up

Back = Callable[[Tensor], Tensor]  # dL/dy to dL/dx


def trace(layers: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, Back]:
    """Layers one after another: their output, and the map from its slope to the input's.

    Raises:
        TypeError: a layer of a kind that is not known here.
    """
    backs = list[Back]()
    for layer in layers:
        x, back = _trace(layer, x)
        backs.append(back)

    def pull(slope: Tensor) -> Tensor:
        for back in reversed(backs):
            slope = back(slope)
        return slope

    return x, pull


@singledispatch
def _trace(layer: nn.Module, x: Tensor) -> tuple[Tensor, Back]:
    del x
    raise TypeError(f"No pullback of {type(layer).__name__}. Add one to training/pullback.py.")


@_trace.register
def _(layer: nn.Sequential, x: Tensor) -> tuple[Tensor, Back]:
    return trace(layer, x)


@_trace.register
def _(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Back]:
    return layer(x), lambda slope: slope @ layer.weight


@_trace.register
def _(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Back]:
    assert layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    (ph, pw), (h, w) = layer.padding, x.shape[2:]
    # rows and columns at the end that no stride reached
    rest = ((h + 2 * ph - dh * (kh - 1) - 1) % sh, (w + 2 * pw - dw * (kw - 1) - 1) % sw)

    def back(slope: Tensor) -> Tensor:
        return F.conv_transpose2d(
            slope, layer.weight, None, (sh, sw), (ph, pw), rest, layer.groups, (dh, dw)
        )

    return layer(x), back


@_trace.register
def _(layer: nn.SiLU, x: Tensor) -> tuple[Tensor, Back]:
    share = torch.sigmoid(x)
    return layer(x), lambda slope: slope * share * (1 + x * (1 - share))


@_trace.register
def _(layer: nn.Flatten, x: Tensor) -> tuple[Tensor, Back]:
    return layer(x), lambda slope: slope.reshape(x.shape)


@_trace.register
def _(layer: nn.Unflatten, x: Tensor) -> tuple[Tensor, Back]:
    return layer(x), lambda slope: slope.reshape(x.shape)


@_trace.register
def _(layer: nn.PixelShuffle, x: Tensor) -> tuple[Tensor, Back]:
    return layer(x), lambda slope: F.pixel_unshuffle(slope, layer.upscale_factor)


@_trace.register
def _(layer: Up, x: Tensor) -> tuple[Tensor, Back]:
    n, c, h, w = x.shape
    y, mixed = trace((layer.mix, nn.SiLU()), F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return y, lambda slope: mixed(slope).reshape(n, c, h, 2, w, 2).sum((3, 5))
