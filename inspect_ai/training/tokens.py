"""What grid of codes is usual: a prior over the codes of an image, and what it says of one.

    Ordered   p(k) = prod_i p(k_i | k_1 .. k_i-1): a likelihood. One pass, and it can be sampled
    Hidden    each code given those outside its hiding set: sum_i log p(k_i | the shown ones)

Hiding sets are disjoint and hide every code once, so that all codes take as many passes as sets.
The second sum is a pseudo-likelihood: it looks at both sides of a code, but is no log p(k), and
two images' sums compare only as scores.

Codes come as shares q (codebook.py), 0/1 or between, and 0 everywhere at places that do not
count. The context is how much of each place is covered. A code costs -sum_k q_k log p_k nats.
A network adds to the logarithm of how often each code is used at all, which is counted: what is
left to learn is where.

Sources: van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", NeurIPS
2017, section 3.3 (a prior on codes). Besag, "Statistical analysis of non-lattice data", The
Statistician 24(3), 1975 (pseudo-likelihood). Chang et al., "MaskGIT", CVPR 2022, section 3.1
(a prior that fills hidden codes). Naval Marimont, Tarroni, "Anomaly detection through latent
space restoration using vector-quantized variational autoencoders", ISBI 2021 (the limit).

Shapes: N images, K codes, h, w places of the grid of codes.
"""

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.training.causal import Causal

PLACE = 4  # learned numbers of each place: pictures are aligned
SETS = 4  # hiding sets
SQUARE = 2  # places a side that are hidden together
FORGETS = 0.2  # of the limit and of the counts, at a step
SMOOTH = 0.01  # of even use, added to every code's


class Sizes(NamedTuple):
    """How large a prior is."""

    codes: int
    grid: tuple[int, int]
    width: int
    layers: int


class Prior(nn.Module):
    """The part that both share: what they are told, and the limit between usual and unusual."""

    limit: Tensor
    used: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.enter = nn.Conv2d(sizes.codes, sizes.width, 1, bias=False)
        nn.init.normal_(self.enter.weight)  # one of its inputs is 1 and not all: a code is seen
        self.place = nn.Parameter(0.1 * torch.randn(1, PLACE, *sizes.grid))
        self.register_buffer("limit", torch.tensor(float(sizes.codes)).log())  # nats of one code
        self.register_buffer("used", torch.full((sizes.codes,), 1e-3))  # how often, forgetting

    @override
    def forward(self, q: Tensor, context: Tensor) -> Tensor:
        """log p (N, K, h, w) of each code given what the prior shows it.

        Args:
            q: (N, K, h, w) shares.
            context: (N, 1, h, w), how much of each place is covered, in [0, 1].
        """
        raise NotImplementedError

    def asked(self, q: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """log p (N, K, h, w) in one pass, and 1 at the places it is for, (N, h, w) or shared."""
        raise NotImplementedError

    def loss(self, q: Tensor, context: Tensor, usual: float) -> Tensor:
        """Mean cost of the codes that count, in nats; the limit follows their quantile `usual`."""
        logp, asked = self.asked(q, context)
        costs, counts = cost(q, logp), q.sum(1) * asked
        self.used.lerp_(q.sum((0, 2, 3)), FORGETS)
        found = costs.detach()[counts > 0]
        if found.shape[0]:
            self.limit.lerp_(torch.quantile(found, usual), FORGETS)
        return (costs * counts).sum() / counts.sum().clamp(min=1)

    def normal(self, logits: Tensor) -> Tensor:
        """What a network says (N, K, h, w) to log p."""
        share = self.used / self.used.sum() + SMOOTH / self.used.shape[0]
        return torch.log_softmax(logits + share.log()[:, None, None], 1)

    def told(self, context: Tensor) -> Tensor:
        """What a network is told of each place, (N, 1 + PLACE, h, w)."""
        place = self.place.expand(context.shape[0], -1, -1, -1)
        return torch.cat([context, place], 1)


class Ordered(Prior):
    """Row by row; see the module's docstring."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.net = Causal(sizes.width, sizes.codes, sizes.width, sizes.layers, context=1 + PLACE)

    @override
    def forward(self, q: Tensor, context: Tensor) -> Tensor:
        return self.normal(self.net(self.enter(q), self.told(context)))

    @override
    def asked(self, q: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self(q, context), torch.ones_like(q[:, 0])

    @torch.no_grad()
    def sample(self, context: Tensor, draw: torch.Generator) -> Tensor:
        """Codes (N, K, h, w), 0/1, drawn one after another; 0 where nothing is covered."""
        n, _, h, w = context.shape
        told, q = self.told(context), torch.zeros(n, self.enter.in_channels, h, w)
        for row, column in product(range(h), range(w)):
            said = self.net.peek(self.enter(q), told, None, (row, column))
            p = self.normal(said[:, :, None, None]).exp()[:, :, 0, 0]
            k = torch.multinomial(p, 1, generator=draw)[:, 0]
            covered = context[:, :, row, column] > 0
            q[:, :, row, column] = F.one_hot(k, q.shape[1]) * covered
        return q


class Hidden(Prior):
    """Set by set; see the module's docstring."""

    hidden: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.start = nn.Conv2d(sizes.width + 2 + PLACE, sizes.width, 3, padding=1)
        # every second layer looks twice as far: past a hidden square
        self.mix = nn.ModuleList(
            nn.Conv2d(sizes.width, sizes.width, 3, padding=1 + i % 2, dilation=1 + i % 2)
            for i in range(sizes.layers)
        )
        self.out = nn.Conv2d(sizes.width, sizes.codes, 1)
        self.register_buffer("hidden", hiding_sets(sizes.grid))

    @override
    def forward(self, q: Tensor, context: Tensor) -> Tensor:
        logp = torch.zeros_like(q)
        for hidden in self.hidden:
            logp = logp + hidden * self.filled(q, context, hidden)
        return logp

    @override
    def asked(self, q: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(self.hidden.shape[0], (q.shape[0],), device=q.device)
        hidden = self.hidden[chosen]
        return self.filled(q, context, hidden), hidden[:, 0]

    def filled(self, q: Tensor, context: Tensor, hidden: Tensor) -> Tensor:
        """log p (N, K, h, w) where `hidden` (1, h, w), or (N, 1, h, w), is 1."""
        mask = hidden.expand(q.shape[0], -1, -1, -1)
        x = self.start(torch.cat([self.enter(q * (1 - mask)), mask, self.told(context)], 1))
        for mix in self.mix:
            x = x + mix(F.silu(x))
        return self.normal(self.out(F.silu(x)))


def hiding_sets(grid: tuple[int, int]) -> Tensor:
    """Disjoint 0/1 masks (SETS, 1, h, w) of squares that together hide every place once."""
    row = torch.arange(grid[0])[:, None] // SQUARE
    column = torch.arange(grid[1])[None, :] // SQUARE
    owner = (row + 2 * column) % SETS
    return torch.stack([(owner == s).float() for s in range(SETS)])[:, None]


def cost(q: Tensor, logp: Tensor) -> Tensor:
    """Nats (N, h, w) of codes with shares q; 0 where they do not count."""
    return -(q * logp).sum(1)


def moments(logp: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (N, h, w) of a code's cost if the prior were right: nats, nats^2."""
    p = logp.exp()
    mean = -(p * logp).sum(1)
    return mean, (p * (logp + mean[:, None]).square()).sum(1)
