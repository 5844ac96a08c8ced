"""How noise grows, and what a network may be asked for: one language for all schedules.

    x_t = a_t x_0 + s_t e,    e ~ N(0, I),    a_t^2 + s_t^2 = 1,    t = 0 .. T,    a_0 = 1

    linear    1 - a_t^2 / a_{t-1}^2 = b_t, from 1e-4 to .02 at T = 1000; as much in all at another T
    cosine    a_t = cos(pi / 2 (t / T + .008) / 1.008) / a constant, b_t at most .999
    edm       s_t / a_t from .002 (t = 1) to 80 (t = T), even steps of its 7th root

EDM adds noise of deviation sigma to x_0 and shrinks nothing. That is x_t / a_t here, with sigma =
s_t / a_t: a step of DDIM is a step of Euler's on its differential equation.

A network is asked for x_0, for e, or for v = a_t e - s_t x_0. With data of deviation 1, v is what
EDM's preconditioning asks for. In DDPM's simple loss, that of e, the squared error of x_0 weighs
SNR(t) = a_t^2 / s_t^2; min-SNR weighs it min(SNR, gamma), whatever is asked for.

    q(x_s | x_t, x_0) = N(m, v),   r = a_t / a_s,   b = s_t^2 - r^2 s_s^2,   s < t
    m = (r s_s^2 x_t + a_s b x_0) / s_t^2,   v = s_s^2 b / s_t^2

Sources: Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, equations 4 to
7 (linear). Nichol, Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021,
equation 17 (cosine). Karras, Aittala, Aila, Laine, "Elucidating the design space of
diffusion-based generative models", NeurIPS 2022, equations 5 and 7. Salimans, Ho, "Progressive
distillation", ICLR 2022, appendix D (v). Hang et al., "Efficient diffusion training via min-SNR
weighting strategy", ICCV 2023, section 3.4. Kingma, Salimans, Poole, Ho, "Variational diffusion
models", NeurIPS 2021, appendix A.2 (the posterior between any two times).

Shapes: N images, T steps.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from inspect_ai.scores import Float64

Kind = Literal["linear", "cosine", "edm"]
Target = Literal["x0", "epsilon", "v"]
Time = int | Tensor  # one for all images, or (N,) int64
SMALLEST, LARGEST, RHO = 0.002, 80.0, 7.0  # sigma of EDM's ends, and its spacing


class Schedule(nn.Module):
    """See the module's docstring."""

    a: Tensor
    s: Tensor

    def __init__(self, kind: Kind, steps: int) -> None:
        """With T = steps, at least 2."""
        super().__init__()
        self.steps = steps
        kept = {"linear": _linear, "cosine": _cosine, "edm": _edm}[kind](steps)  # a_t^2
        kept = np.concatenate([[1.0], kept])
        self.register_buffer("a", torch.from_numpy(np.sqrt(kept)).float(), persistent=False)
        self.register_buffer("s", torch.from_numpy(np.sqrt(1 - kept)).float(), persistent=False)

    def at(self, t: Time) -> tuple[Tensor, Tensor]:
        """a_t and s_t: of one time scalars, of (N,) times (N, 1, 1, 1), beside (..., N, C, h, w)."""
        a, s = self.a[t], self.s[t]
        return (a, s) if isinstance(t, int) else (_beside(a), _beside(s))

    def snr(self, t: Time) -> Tensor:
        """SNR(t), a scalar or (N,); infinite at t = 0."""
        return (self.a[t] / self.s[t]).square()

    def even(self, calls: int) -> tuple[int, ...]:
        """So many times from T down to 1, 1 to T of them, in even steps of log SNR."""
        logs = np.asarray(self.snr(torch.arange(1, self.steps + 1)).double().log().cpu())
        asked = np.linspace(logs[-1], logs[0], calls)
        found = 1 + np.abs(logs[None] - asked[:, None]).argmin(1)
        place = np.arange(calls)  # of neighbours that would be one time, each has one of its own
        found = np.minimum.accumulate(found + place) - place
        found = np.maximum(found, calls - place)
        return tuple(int(t) for t in found)

    def noised(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """x_t of (N, C, h, w) images and noise of their shape."""
        a, s = self.at(t)
        return a * x0 + s * eps

    def wanted(self, x0: Tensor, eps: Tensor, t: Time, target: Target) -> Tensor:
        """What a network is to give for x_t."""
        a, s = self.at(t)
        return {"x0": x0, "epsilon": eps}.get(target, a * eps - s * x0)

    def x0(self, out: Tensor, x_t: Tensor, t: Time, target: Target) -> Tensor:
        """x_0 as a network's output has it."""
        a, s = self.at(t)
        if target == "x0":
            return out
        return (x_t - s * out) / a if target == "epsilon" else a * x_t - s * out

    def eps(self, out: Tensor, x_t: Tensor, t: Time, target: Target) -> Tensor:
        """The noise as a network's output has it."""
        a, s = self.at(t)
        if target == "epsilon":
            return out
        return (x_t - a * out) / s if target == "x0" else s * x_t + a * out

    def weight(self, t: Time, target: Target, gamma: float) -> Tensor:
        """What the squared error of the target weighs, so that x_0's weighs min(SNR, gamma)."""
        snr = self.snr(t)
        own = {"x0": torch.ones_like(snr), "epsilon": snr}.get(target, snr + 1)
        return snr.clamp(max=gamma) / own

    def posterior(self, x0: Tensor, x_t: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_s | x_t, x_0), 0 <= s < t."""
        (a_s, s_s), (a_t, s_t) = self.at(s), self.at(t)
        r = a_t / a_s
        b = s_t.square() - (r * s_s).square()
        mean = (r * s_s.square() * x_t + a_s * b * x0) / s_t.square()
        return mean, s_s.square() * b / s_t.square()


def _beside(x: Tensor) -> Tensor:
    return x[:, None, None, None]


def _linear(steps: int) -> Float64:
    scale = 1000 / steps
    return _kept(np.linspace(1e-4 * scale, 0.02 * scale, steps))


def _cosine(steps: int) -> Float64:
    f = np.cos(math.pi / 2 * (np.arange(steps + 1) / steps + 0.008) / 1.008) ** 2
    return _kept(1 - f[1:] / f[:-1])


def _kept(b: Float64) -> Float64:
    """a_t^2 for t = 1 .. T."""
    kept: Float64 = np.cumprod(1 - b.clip(max=0.999))
    return kept


def _edm(steps: int) -> Float64:
    root = np.linspace(SMALLEST ** (1 / RHO), LARGEST ** (1 / RHO), steps)
    return 1 / (1 + root ** (2 * RHO))
