"""Noise that is the same for all images, and the copies of an image that it is put on.

Shapes: N images, K draws, Z, ... numbers of a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override


class Draws(nn.Module):
    """Standard noise for K draws of each level, the same for all images.

    Draws come in pairs of opposite sign: what is odd in the noise then cancels in a mean.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], count: int) -> None:
        super().__init__()
        self.levels = len(shapes)
        draw = torch.Generator().manual_seed(0)
        for place, shape in enumerate(shapes):
            half = torch.randn((count + 1) // 2, *shape, generator=draw)
            self.register_buffer(f"level_{place}", opposite(half, count))

    @override
    def forward(self, images: int) -> list[Tensor]:
        """Of each level (N K, Z, ...), in the order of `copies`."""
        kept = [self.get_buffer(f"level_{place}") for place in range(self.levels)]
        return [e[None].expand(images, *e.shape).flatten(0, 1) for e in kept]


def opposite(half: Tensor, count: int) -> Tensor:
    """Draws (K / 2, ...), each with its opposite next to it: the first `count` of them."""
    return torch.stack([half, -half], 1).flatten(0, 1)[:count]


def copies(x: Tensor, count: int) -> Tensor:
    """Each of N rows so many times: (N count, ...)."""
    return x[:, None].expand(x.shape[0], count, *x.shape[1:]).flatten(0, 1)
