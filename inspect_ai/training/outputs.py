"""What a model may say of a cell: a distribution over L values, given by P numbers.

    binary    1 where the cell is bright, or the die fails: p = sigmoid(a)
    states    0 where there is no die, 1 where one passes, 2 where one fails: a softmax
    levels    L grey levels, k / (L - 1): a mixture of M logistic distributions, cut at the
              middles between levels; the outer levels take the tails,

                  p(k) = sum_m pi_m [S((k + 1/2 - mu_m) / s_m) - S((k - 1/2 - mu_m) / s_m)]

              with S the logistic function, mu and s here in levels. With a and b the two
              arguments, the difference is S(a) S(-b) (1 - exp(b - a)): its logarithm is a sum of
              three that neither underflow nor cancel, and b - a is the same for every level.

With n(k) = -log p(k), the surprise of the value that came, u = sum_k p(k) n(k) is what is usual
and v = sum_k p(k) n(k)^2 - u^2 how much it varies.

Sources: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: improving the PixelCNN with discretized
logistic mixture likelihood and other modifications", ICLR 2017, section 2.1. van den Oord,
Kalchbrenner, Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016, section 3.3 (softmax).

Shapes: N images, h, w cells, P numbers of a cell, L values, M parts of a mixture, E channels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

COVERED = 0.0501  # of a cell; one covered by less has no value. No ratio of few dies
NUDGE = 0.0131  # of a level: averages of few pixels seldom lie on an edge, where rounding decides
SHARPEST, BROADEST = -7.0, 2.0  # log s, of a scale from 0 to 1


class Output(nn.Module):
    """What the kinds have in common; all tensors (N, h, w) or (N, channels, h, w)."""

    count: int  # L
    size: int  # P
    inside: int = 1  # E

    def discretise(self, images: Tensor) -> Tensor:
        """(N, 2, h, w) images, coverage last, to values (N, h, w) int64; 0 where not covered."""
        raise NotImplementedError

    def encode(self, values: Tensor) -> Tensor:
        """Values (N, h, w) to what a network reads of them, (N, E, h, w) in [-1, 1]."""
        return self.grey(values)[:, None]

    def grey(self, values: Tensor) -> Tensor:
        """Values (N, h, w) to grey levels (N, h, w) in [0, 1]."""
        return values.to(torch.float32) / (self.count - 1)

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        """Log-probability (N, h, w) of values (N, h, w), given (N, P, h, w)."""
        return self.log_probs(params).gather(1, values[:, None])[:, 0]

    def log_probs(self, params: Tensor) -> Tensor:
        """Log-probabilities (N, L, h, w) of all values; their exponentials sum to 1."""
        raise NotImplementedError

    def mean(self, params: Tensor) -> Tensor:
        """Mean grey level, (N, h, w) in [0, 1]."""
        raise NotImplementedError


class Binary(Output):
    """Bright or dark; fails or passes."""

    count: int = 2
    size: int = 1

    @override
    def discretise(self, images: Tensor) -> Tensor:
        bright = images[:, 0] + NUDGE > 0.5
        return (bright & (images[:, 1] > COVERED)).long()

    @override
    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        return -F.softplus((1 - 2 * self.grey(values)) * params[:, 0])

    @override
    def log_probs(self, params: Tensor) -> Tensor:
        return -F.softplus(torch.cat([params, -params], 1))

    @override
    def mean(self, params: Tensor) -> Tensor:
        return torch.sigmoid(params[:, 0])


class States(Output):
    """No die, a die that passes, a die that fails; where dies are is part of what is told."""

    count: int = 3
    size: int = 3
    inside: int = 2

    @override
    def discretise(self, images: Tensor) -> Tensor:
        die = images[:, 1] > COVERED
        return die.long() + (die & (images[:, 0] + NUDGE > 0.5)).long()

    @override
    def encode(self, values: Tensor) -> Tensor:
        return torch.stack([(values > 0).float(), (values > 1).float()], 1)

    @override
    def grey(self, values: Tensor) -> Tensor:
        return (values > 1).float()

    @override
    def log_probs(self, params: Tensor) -> Tensor:
        return torch.log_softmax(params, 1)

    @override
    def mean(self, params: Tensor) -> Tensor:
        """Probability that a die fails, if there is one: the mean of the fail rate."""
        return torch.sigmoid(params[:, 2] - params[:, 1])


class Levels(Output):
    """Grey levels."""

    centres: Tensor
    every: Tensor

    def __init__(self, count: int, parts: int) -> None:
        """L levels, 2 or more, and M parts."""
        super().__init__()
        self.count, self.size = count, 3 * parts
        spread = (torch.arange(parts) + 0.5) / parts
        self.register_buffer("centres", spread[:, None, None], persistent=False)
        steps = torch.arange(count).reshape(1, -1, 1, 1)
        self.register_buffer("every", steps, persistent=False)

    @override
    def discretise(self, images: Tensor) -> Tensor:
        top = self.count - 1
        level = (images[:, 0] * top + 0.5 + NUDGE).floor().clamp(0, top)
        return torch.where(images[:, 1] > COVERED, level, torch.zeros_like(level)).long()

    @override
    def encode(self, values: Tensor) -> Tensor:
        return 2 * self.grey(values)[:, None] - 1

    @override
    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        shares, mu, log_s = self.parts(params)
        found = self._log_part(values[:, None], mu, log_s)
        return torch.logsumexp(shares + found, 1)

    @override
    def log_probs(self, params: Tensor) -> Tensor:
        shares, mu, log_s = (part[:, :, None] for part in self.parts(params))
        found = self._log_part(self.every, mu, log_s)  # (N, M, L, h, w)
        return torch.logsumexp(shares + found, 1)

    @override
    def mean(self, params: Tensor) -> Tensor:
        # E[k] = sum over j >= 1 of P(k >= j)
        shares, mu, log_s = self.parts(params)
        edges = (self.every[:, 1:] - 0.5) / (self.count - 1)
        total = torch.zeros_like(mu[:, 0])
        for m in range(mu.shape[1]):  # one at a time: L numbers of each cell are much
            part = slice(m, m + 1)
            above = torch.sigmoid((mu[:, part] - edges) * torch.exp(-log_s[:, part])).mean(1)
            total = total + shares[:, m].exp() * above
        return total.clamp(0, 1)

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log pi, mu and log s on a scale from 0 to 1, each (N, M, h, w)."""
        weights, mu, log_s = params.chunk(3, 1)
        wide = (log_s - math.log(2 * self.centres.shape[0])).clamp(SHARPEST, BROADEST)
        return torch.log_softmax(weights, 1), mu + self.centres, wide

    def _log_part(self, k: Tensor, mu: Tensor, log_s: Tensor) -> Tensor:
        top = self.count - 1
        inverse = torch.exp(-log_s)
        a = ((k + 0.5) / top - mu) * inverse
        b = ((k - 0.5) / top - mu) * inverse
        half = torch.tanh(inverse / (2 * top))  # of (a - b) / 2; exact where a - b is small
        between = torch.log(2 * half / (1 + half))  # log(1 - exp(b - a))
        low, high = (k > 0).to(mu.dtype), (k < top).to(mu.dtype)  # has an edge below, above
        return low * high * between - high * F.softplus(-a) - low * F.softplus(b)


def usual(log_probs: Tensor) -> Tensor:
    """u of (N, L, h, w): (N, h, w) nats."""
    return -(log_probs.exp() * log_probs).sum(1)


def varied(log_probs: Tensor) -> Tensor:
    """v of (N, L, h, w): (N, h, w) nats squared, 0 or more."""
    beyond = -log_probs - usual(log_probs)[:, None]
    return (log_probs.exp() * beyond.square()).sum(1)
