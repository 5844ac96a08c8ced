"""U-Net that takes noise away: convolutions from fine to coarse and back, told the time.

    x_0  = conv(squares of patch x patch cells as channels)
    down   at each level residual blocks, then half as many cells
    middle a block, attention among the places of the coarsest level and to the class's tokens, a
           block
    up     twice as many cells, beside those of the way down, residual blocks

A residual block takes scale g and shift b from the embedding e of time and class,

    x + conv(silu((1 + g(e)) norm(conv(silu(norm(x)))) + b(e)))

Its last convolution begins at 0, and so does the network's: at first it says 0 of every cell.

Sources: Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, appendix B.
Dhariwal, Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, section 3
(adaptive group norm). Rombach et al., "High-resolution image synthesis with latent diffusion
models", CVPR 2022, section 3.3 (cross-attention). Ronneberger, Fischer, Brox, "U-Net", MICCAI
2015.

Shapes: N images, C channels, h, w cells, E numbers of an embedding, K tokens.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.diffusing.embed import Attention, Embed, silent
from inspect_ai.diffusing.sizes import Ends, Sizes

WIDEST = 4  # times the width; a coarser level has no more channels
GROUP = 8  # channels that are normalised together


class UNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, sizes: Sizes, ends: Ends) -> None:
        super().__init__()
        self.patch = sizes.patch
        widths = [sizes.width * min(2**n, WIDEST) for n in range(sizes.depth)]
        told, cells = 4 * sizes.width, sizes.patch**2
        self.embed = Embed(told, ends.classes, sizes.tokens)
        self.stem = nn.Conv2d(ends.inputs * cells, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Level(a, a, told, sizes.blocks) for a in widths)
        self.halvings = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        context = told if ends.classes else 0
        self.middle = Middle(widths[-1], sizes.heads, context)
        self.last = Block(widths[-1], widths[-1], told)
        self.doublings = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(Level(2 * a, a, told, sizes.blocks) for a in widths[:-1])
        self.norm = norm(widths[0])
        self.out = silent(nn.Conv2d(widths[0], ends.outputs * cells, 3, padding=1))

    @override
    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, C, h, w) to (N, outputs, h, w).

        Args:
            time: (N,) in [0, 1].
            condition: (N,) int64 in 0 .. classes, the last "told nothing"; None without classes.
        """
        embedded, tokens = self.embed(time, condition)
        embedded = F.silu(embedded)
        x = self.down[0](self.stem(F.pixel_unshuffle(x, self.patch)), embedded)
        kept = [x]
        for halve, level in zip(self.halvings, self.down[1:], strict=True):
            x = level(halve(x), embedded)
            kept.append(x)
        x = self.last(self.middle(kept.pop(), tokens), embedded)
        for n in reversed(range(len(kept))):
            x = F.interpolate(self.doublings[n](x), scale_factor=2.0, mode="nearest")
            x = self.up[n](torch.cat([x, kept[n]], 1), embedded)
        return F.pixel_shuffle(self.out(F.silu(self.norm(x))), self.patch)


class Level(nn.Module):
    """Residual blocks one after the other, on the same cells."""

    def __init__(self, inside: int, outside: int, told: int, blocks: int) -> None:
        super().__init__()
        enter = [inside] + [outside] * (blocks - 1)
        self.blocks = nn.ModuleList(Block(a, outside, told) for a in enter)

    @override
    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedded)
        return x


class Block(nn.Module):
    """See the module's docstring; begins as x alone."""

    def __init__(self, inside: int, outside: int, told: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm(inside), norm(outside, affine=False)])
        self.first = nn.Conv2d(inside, outside, 3, padding=1)
        self.told = nn.Linear(told, 2 * outside)
        self.second = silent(nn.Conv2d(outside, outside, 3, padding=1))
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    @override
    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """(N, inside, h, w) to (N, outside, h, w), by silu of an embedding (N, E)."""
        y = self.norms[1](self.first(F.silu(self.norms[0](x))))
        scale, shift = self.told(embedded)[:, :, None, None].chunk(2, 1)
        y = self.second(F.silu(y * (1 + scale) + shift))
        out: Tensor = self.skip(x) + y
        return out


class Middle(nn.Module):
    """Attention among places, then to the class's tokens; begins as x alone."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.places = Attention(width, heads)
        self.tokens = Attention(width, heads, context) if context else None
        silent(self.places.mix)
        if self.tokens is not None:
            self.norm_tokens = nn.LayerNorm(width)
            silent(self.tokens.mix)

    @override
    def forward(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        """(N, C, h, w), and tokens (N, K, E) where there are classes."""
        flat = x.flatten(2).transpose(1, 2)
        flat = flat + self.places(self.norm(x).flatten(2).transpose(1, 2))
        if self.tokens is not None:
            flat = flat + self.tokens(self.norm_tokens(flat), tokens)
        out: Tensor = flat.transpose(1, 2).reshape(x.shape)
        return out


def norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Mean 0 and variance 1 of each group of channels of an image; `affine`: scaled after it."""
    return nn.GroupNorm(channels // GROUP, channels, affine=affine)
