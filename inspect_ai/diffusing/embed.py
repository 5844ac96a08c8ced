"""What every layer of a network is told: how noisy the image is, and what product it is of.

Time u in [0, 1] is embedded by sines and cosines and a small network,

    s = (cos(1000 u f_i), sin(1000 u f_i)),    f_i = 10000^(-i / n),    i = 0 .. n - 1
    e = W2 silu(W1 s + b1) + b2

A class is a few learned tokens. Their mean is added to e, from which layers take scales and
shifts; they are read one by one by cross-attention. The last set of tokens stands for "told
nothing": a network that was trained with it now and then can be guided away from it.

Sources: Vaswani et al., "Attention is all you need", NIPS 2017, section 3.5 (sinusoids). Ho,
Jain, Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, appendix B. Dhariwal,
Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, section 3 (class added to
time). Ho, Salimans, "Classifier-free diffusion guidance", 2022, section 3.2 (told nothing).

Shapes: N images, E numbers of an embedding, K tokens, L places, W numbers of a place.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

TIMES = 1000.0  # what the share of time is multiplied by: as in the papers, whatever T is
LONGEST = 10_000.0
Layer = TypeVar("Layer", bound=nn.Module)
LOUD = 0.3  # of tokens: their mean begins about as loud as time


class Embed(nn.Module):
    """Time and class to an embedding and tokens; see the module's docstring."""

    frequencies: Tensor

    def __init__(self, width: int, classes: int = 0, tokens: int = 1) -> None:
        """Of E = `width` numbers, an even number."""
        super().__init__()
        half = width // 2
        steps = torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", LONGEST**-steps, persistent=False)
        self.mix = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))
        self.shape = (tokens, width)
        self.classes = nn.Embedding(classes + 1, tokens * width) if classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=LOUD)

    @override
    def forward(self, time: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embeddings (N, E), and the tokens (N, K, E) of classes; None without them.

        Args:
            time: (N,) in [0, 1].
            condition: (N,) int64 in 0 .. classes, the last "told nothing"; None without classes.
        """
        embedded = self.mix(self.waves(time))
        if self.classes is None:
            return embedded, None
        tokens = self.classes(condition).reshape(-1, *self.shape)
        return embedded + tokens.mean(1), tokens

    def waves(self, time: Tensor) -> Tensor:
        """The sinusoids s of (N,) times."""
        angles = TIMES * time[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], 1)


class Attention(nn.Module):
    """Places read each other, or a context: softmax(Q K' / sqrt(d)) V, in several heads."""

    def __init__(self, width: int, heads: int, context: int = 0) -> None:
        """For W = `width`; of a context of so many numbers a token, 0 for places themselves."""
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(context or width, width)
        self.values = nn.Linear(context or width, width)
        self.mix = nn.Linear(width, width)

    @override
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, L, W) to (N, L, W), of a context (N, K, E)."""
        read = x if context is None else context
        q = self._split(self.queries(x))
        k, v = self._split(self.keys(read)), self._split(self.values(read))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.mix(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


def silent(layer: Layer) -> Layer:
    """The same layer, which begins by saying 0."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer
