"""Transformer that takes noise away (DiT): squares of cells as tokens, told the time.

    x_0 = W (patch x patch cells) + position
    x  += a1 attention((1 + g1) norm(x) + b1)          where there is more than one token
    x  += attention(x to the class's tokens)           where there are classes
    x  += a2 mlp((1 + g2) norm(x) + b2)                in each of `depth` blocks
    out = W ((1 + g) norm(x) + b)

with scales g, shifts b and gates a from the embedding of time and class. Gates begin at 0, and
so do what reads the class and the last W: at first it says 0 of every cell. A grid of one token,
the code of a whole image, makes it a residual MLP.

Sources: Peebles, Xie, "Scalable diffusion models with transformers", ICCV 2023, section 3.2
(adaLN-Zero). Chen et al., "PixArt-alpha", ICLR 2024, section 2.3 (cross-attention between the
two). Dosovitskiy et al., "An image is worth 16 x 16 words", ICLR 2021, appendix D.4 (position).

Shapes: N images, C channels, h, w cells, L tokens of W numbers, E numbers of an embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.diffusing.embed import LONGEST, Attention, Embed, silent
from inspect_ai.diffusing.sizes import Ends, Sizes

HIDDEN = 4  # times the width, in the MLP of a block


class DiT(nn.Module):
    """See the module's docstring."""

    position: Tensor

    def __init__(self, sizes: Sizes, ends: Ends) -> None:
        super().__init__()
        width, cells = sizes.width, sizes.patch**2
        self.patch = sizes.patch
        self.places = (ends.grid[0] // sizes.patch, ends.grid[1] // sizes.patch)
        told = max(width, 64)
        self.embed = Embed(told, ends.classes, sizes.tokens)
        self.stem = nn.Conv2d(ends.inputs * cells, width, 1)
        self.register_buffer("position", positions(width, self.places), persistent=False)
        several = self.places[0] * self.places[1] > 1
        self.blocks = nn.ModuleList(
            Block(width, told, sizes.heads, several, ends.classes > 0) for _ in range(sizes.depth)
        )
        self.told = silent(nn.Linear(told, 2 * width))
        self.out = silent(nn.Linear(width, ends.outputs * cells))

    @override
    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, C, h, w) to (N, outputs, h, w).

        Args:
            time: (N,) in [0, 1].
            condition: (N,) int64 in 0 .. classes, the last "told nothing"; None without classes.
        """
        embedded, tokens = self.embed(time, condition)
        embedded = F.silu(embedded)
        x = self.stem(F.pixel_unshuffle(x, self.patch)).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x, embedded, tokens)
        scale, shift = self.told(embedded)[:, None].chunk(2, 2)
        x = self.out(normed(x, scale, shift))
        x = x.transpose(1, 2).reshape(x.shape[0], -1, *self.places)
        return F.pixel_shuffle(x, self.patch)


class Block(nn.Module):
    """See the module's docstring; begins as x alone."""

    def __init__(self, width: int, told: int, heads: int, several: bool, classes: bool) -> None:
        super().__init__()
        self.told = silent(nn.Linear(told, (6 if several else 3) * width))
        self.places = Attention(width, heads) if several else None
        self.tokens = Attention(width, heads, told) if classes else None
        if self.tokens is not None:
            silent(self.tokens.mix)
        self.mlp = nn.Sequential(
            nn.Linear(width, HIDDEN * width), nn.SiLU(), nn.Linear(HIDDEN * width, width)
        )

    @override
    def forward(self, x: Tensor, embedded: Tensor, tokens: Tensor | None) -> Tensor:
        """(N, L, W), by silu of an embedding (N, E) and tokens (N, K, E) of a class."""
        width = x.shape[2]
        told = self.told(embedded)[:, None].split(width, 2)
        if self.places is not None:
            x = x + told[5] * self.places(normed(x, told[3], told[4]))
        if self.tokens is not None:
            x = x + self.tokens(x, tokens)
        out: Tensor = x + told[2] * self.mlp(normed(x, told[0], told[1]))
        return out


def normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Each token of (N, L, W) to mean 0 and variance 1, then scaled and shifted."""
    return F.layer_norm(x, x.shape[2:], eps=1e-6) * (1 + scale) + shift


def positions(width: int, places: tuple[int, int]) -> Tensor:
    """Sines and cosines (L, W) of a place's row and column, a quarter of W each."""
    frequencies = LONGEST ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = (torch.arange(side)[:, None] * frequencies for side in places)
    rows = rows[:, None].expand(*places, -1)
    columns = columns[None].expand(*places, -1)
    waves = [f(angles) for angles in (rows, columns) for f in (torch.sin, torch.cos)]
    return torch.cat(waves, 2).flatten(0, 1)
