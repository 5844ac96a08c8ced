"""Growing: a game is played on coarse images first, and one level finer after another.

Level l of a network of depth D has its grid halved D - l times; level D is the image itself.
Each of the D + 1 levels gets an equal share of the first two thirds of the budget. A level above
0 is faded in over the first half of its share, from 0 to 1; the whole network plays the rest.
While a level fades in, real images are mixed as generated ones are,

    x = (1 - fade) * doubled(halved(x)) + fade * x

so that nothing jumps for either player.

Sources: Karras, Aila, Laine, Lehtinen, "Progressive growing of GANs for improved quality,
stability, and variation", ICLR 2018, section 2. Denton, Chintala, Szlam, Fergus, "Deep
generative image models using a Laplacian pyramid of adversarial networks", NIPS 2015, section
2.2 (coarse to fine).

Shapes: N images, C channels, h, w cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Stage(NamedTuple):
    """Which level is the finest in play, and how much of it."""

    level: int  # 0 is the coarsest; the depth is full resolution
    fade: float  # share of this level in the output, in [0, 1]


def stage(course: float, depth: int) -> Stage:
    """The stage where a share `course` of the budget is spent, for a network of that depth."""
    shares = course * 1.5 * (depth + 1)  # of a level, since the start
    level = min(int(shares), depth)
    return Stage(level, min(1.0, 2 * (shares - level)) if level else 1.0)


def shrunk(images: Tensor, times: int) -> Tensor:
    """(N, C + 1, h, w) images with both sides halved so many times.

    A channel is averaged over what is covered, and 0 where nothing is; coverage, the last
    channel, over all cells.
    """
    if not times:
        return images
    w = F.avg_pool2d(images[:, -1:], 2**times)
    shown = F.avg_pool2d(images[:, :-1] * images[:, -1:], 2**times)
    return torch.cat([shown / torch.where(w > 0, w, torch.ones_like(w)), w], 1)


def as_of(stage: Stage, images: Tensor, depth: int) -> Tensor:
    """Real images (N, C + 1, h, w) as a stage has them: at its level, mixed while it fades in."""
    fine = shrunk(images, depth - stage.level)
    if stage.fade >= 1:
        return fine
    coarse = doubled(shrunk(fine, 1)[:, :-1])
    mixed = (1 - stage.fade) * coarse + stage.fade * fine[:, :-1]
    return torch.cat([mixed, fine[:, -1:]], 1)


def doubled(x: Tensor) -> Tensor:
    """Each cell of (N, C, h, w) as 2 x 2 cells."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def doubled_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of doubled(x) with 3 x 3 kernels (O, I, 3, 3), by 4/9 of its products.

    A kernel meets each cell of x up to four times: those of its numbers that do are added first.
    """
    turned = weight.flip((2, 3)).transpose(0, 1)
    ways = [(a, 1 - a, b, 1 - b) for a in (0, 1) for b in (0, 1)]
    wide = torch.stack([F.pad(turned, way) for way in ways]).sum(0)
    return F.conv_transpose2d(x, wide.contiguous(), bias, stride=2, padding=1)
