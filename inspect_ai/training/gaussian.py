"""Gaussians with a diagonal covariance: what a variational autoencoder reckons with.

    KL(q || p) = 1/2 sum_j [ln s_p^2 / s_q^2 + (s_q^2 + (m_q - m_p)^2) / s_p^2 - 1]
    q p / Z    = N(m, s^2),   1 / s^2 = 1 / s_q^2 + 1 / s_p^2,   m = s^2 (m_q / s_q^2 + m_p / s_p^2)

Sources: Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B (KL). Sonderby
et al., "Ladder variational autoencoders", NIPS 2016 (product). Rybkin, Daniilidis, Levine,
"Simple and effective VAE training with calibrated decoders", ICML 2021 (spread of the decoder).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from inspect_ai.training.vectors import ROUNDING

NARROWEST, WIDEST = -14.0, 7.0  # ln s^2: beyond, float32 has no digits left
QUICK = 10.0  # learned ln s moves so many times the learning rate: it has to keep up with x'


class Normal(NamedTuple):
    """Independent normal numbers; mean and log-variance of one shape, images first."""

    mean: Tensor
    log_var: Tensor

    def at(self, noise: Tensor | None) -> Tensor:
        """The value that standard noise stands for; the mean without noise."""
        return self.mean if noise is None else self.mean + (0.5 * self.log_var).exp() * noise


def halves(x: Tensor) -> Normal:
    """Mean and log-variance from the two halves of axis 1; the log-variance kept in bounds."""
    mean, log_var = x.chunk(2, 1)
    return Normal(mean, log_var.clamp(NARROWEST, WIDEST))


def standard(like: Tensor) -> Normal:
    """N(0, 1) in the shape of a tensor."""
    return Normal(torch.zeros_like(like), torch.zeros_like(like))


def kl(q: Normal, p: Normal) -> Tensor:
    """KL(q || p) of each number, nats, at least 0; the shape of q."""
    ratio = q.log_var - p.log_var
    apart = (q.mean - p.mean).square() * (-p.log_var).exp()
    # expm1: 0 is 0, where q is p to the last digit but one
    return 0.5 * (torch.expm1(ratio) - ratio + apart)


def log_density(z: Tensor, p: Normal) -> Tensor:
    """ln N(z; p) of each number, nats; the shape of z."""
    apart = (z - p.mean).square() * (-p.log_var).exp()
    return -0.5 * (apart + p.log_var + math.log(2 * math.pi))


def product(q: Normal, p: Normal) -> Normal:
    """The normalised product of two densities: means weighted by precision."""
    share = p.log_var - q.log_var  # log-odds of the part of the precision that is q's
    part = torch.sigmoid(share)
    mean = part * q.mean + (1 - part) * p.mean
    return Normal(mean, q.log_var + functional.logsigmoid(share))


class Spread(nn.Module):
    """s^2 of a decoder N(x', s^2).

    Held at the start; "learned", once or for each cell; or "optimal", a batch's mean squared
    error, where the batch's own loss is least.
    """

    found: Tensor

    def __init__(self, kind: str, start: float, size: tuple[int, ...]) -> None:
        """With kind "fixed", "optimal", "learned" or "cells"; `start` is s, `size` (C, h, w)."""
        super().__init__()
        self.kind = kind
        shape = size if kind == "cells" else (1, 1, 1)
        if self.learned:
            self.log_s = nn.Parameter(torch.full(shape, math.log(start) / QUICK))
        else:
            self.register_buffer("found", torch.full(shape, start**2))

    @override
    def forward(self) -> Tensor:
        """(1, 1, 1) or (C, h, w); a learned one is at least rounding's to 8 bits."""
        return (2 * QUICK * self.log_s).exp() + ROUNDING if self.learned else self.found

    @property
    def learned(self) -> bool:
        """Whether it has a weight."""
        return self.kind in ("learned", "cells")

    def of(self, error: Tensor) -> Tensor:
        """That of a batch with this mean squared error, a scalar; kept while training."""
        if self.kind != "optimal":
            kept: Tensor = self()
            return kept
        s2 = error.reshape(1, 1, 1) + ROUNDING
        if self.training:
            self.found.copy_(s2.detach())  # its running mean is kept, as the weights' is
        return s2
