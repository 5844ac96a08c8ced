"""The variational bound on -log p(x_0), in its three parts, cell by cell.

For times t_1 > t_2 > ... > t_K, a valid bound for the sampler that takes just these steps:

    prior            KL(q(x_t1 | x_0) || N(0, I))
    denoising        sum_k 1/2 (R_k - 1 - ln R_k + R_k G_k |x_0 - x'(x_tk)|^2)
    reconstruction   -log N(x_0; x'(x_tK), m_K)
    G_k = SNR(t_k+1) - SNR(t_k),   R_k = 1 / (1 + G_k m_k)

x' is what the network expects at x_t, and m its mean squared error at that time on good images. R
is the posterior's variance over that of the reverse step, which has its least bound where it
allows for m as above; with m = 0 it is the posterior's, and only many steps are tight.
Expectations over x_t are taken by the given noise, one draw at each time. All T times give the
bound of DDPM; fewer are quicker, and looser.

Sources: Kingma, Salimans, Poole, Ho, "Variational diffusion models", NeurIPS 2021, equations 11 and
13 to 15, appendix A.4. Ho, Jain, Abbeel, NeurIPS 2020, equation 5 (the parts). Bao, Li, Zhu,
Zhang, "Analytic-DPM", ICLR 2022, theorem 1 (the variance of the reverse step).

Shapes: N images, C channels, h, w cells, K times.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inspect_ai.diffusing.schedules import Schedule


class Bound(NamedTuple):
    """Nats of each number, (N, C, h, w) each; their sum is at least -log p(x_0), on average."""

    prior: Tensor
    denoising: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """The bound, (N, C, h, w) nats."""
        return self.prior + self.denoising + self.reconstruction


def bound(
    schedule: Schedule,
    x0: Tensor,
    redrawn: Tensor,
    times: Sequence[int],
    misfit: Tensor | None = None,
) -> Bound:
    """The bound of (N, C, h, w) images.

    Args:
        redrawn: (N, K, C, h, w), what is expected at x_t of each time.
        times: t_1 > ... > t_K >= 1.
        misfit: m (K,), above 0; None has the posterior's variance, and 1 / SNR(t_K) at the end.
    """
    snr = schedule.snr(torch.tensor(times, device=x0.device))
    m = torch.zeros_like(snr) if misfit is None else misfit
    last = 1 / snr[-1] if misfit is None else m[-1]
    apart = (x0[:, None] - redrawn).square()
    g = snr[1:] - snr[:-1]
    r = 1 / (1 + g * m[:-1])
    kl = (r - 1 - r.log())[:, None, None, None] + (r * g)[:, None, None, None] * apart[:, :-1]
    a, s = schedule.at(times[0])
    return Bound(
        prior=0.5 * ((a * x0).square() + s.square() - 1) - s.log(),
        denoising=0.5 * kl.sum(1),
        reconstruction=0.5 * (apart[:, -1] / last + (2 * math.pi * last).log()),
    )
