"""From noise to images, and back: one step of each sampler, and a run of them.

With x_0 and e as the network has them at x_t, and m, v of q(x_s | x_t, x_0) (schedules.py):

    DDPM       x_s = m + sqrt(v) z,   z ~ N(0, I)
    DDIM       x_s = a_s x_0 + sqrt(s_s^2 - g^2) e + g z,   g = eta sqrt(v)
    inversion  x_t = a_t x_0 + s_t e,   e as the network has it at x_s, s < t

DDIM with eta = 1 is DDPM; with eta = 0 nothing is drawn, and small steps lead back to where they
came from. Times may skip: t_1 > t_2 > ... > 0.

Sources: Ho, Jain, Abbeel, NeurIPS 2020, algorithm 2. Song, Meng, Ermon, "Denoising diffusion
implicit models", ICLR 2021, equations 12 to 16 and section 4.3.

Shapes: N images, C channels, h, w cells.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from inspect_ai.diffusing.schedules import Schedule
from inspect_ai.errors import BadSettings

Denoise = Callable[[Tensor, int], Tensor]  # (x_t, t) to the expected x_0
Noise = Callable[[Tensor], Tensor]  # noise in the shape of a tensor


def strided(steps: int, calls: int, last: int | None = None) -> tuple[int, ...]:
    """So many times from `last` (T where not given) down to 1, in even steps.

    Raises:
        BadSettings: more calls than times, or none.
    """
    last = steps if last is None else last
    if not 1 <= calls <= last <= steps:
        raise BadSettings(
            f"{calls} network call(s) from time {last} of a schedule of {steps} steps; needed are "
            f"1 to {max(1, min(last, steps))}, and a start at 1 to {steps}. Ask for fewer calls, a "
            "later start or a longer schedule."
        )
    return tuple(int(t) for t in np.linspace(last, 1, calls).round())


def ddpm(
    schedule: Schedule, x_t: Tensor, x0: Tensor, times: tuple[int, int], noise: Tensor
) -> Tensor:
    """x_s of x_t, for times (t, s)."""
    t, s = times
    mean, variance = schedule.posterior(x0, x_t, s, t)
    return mean + variance.sqrt() * noise


def ddim(
    schedule: Schedule,
    x_t: Tensor,
    x0: Tensor,
    times: tuple[int, int],
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """x_s of x_t, for times (t, s); noise is asked for where eta > 0."""
    t, s = times
    a_s, s_s = schedule.at(s)
    eps = schedule.eps(x0, x_t, t, "x0")
    if not eta:
        return a_s * x0 + s_s * eps
    assert noise is not None
    g2 = eta**2 * schedule.posterior(x0, x_t, s, t)[1]
    return a_s * x0 + (s_s.square() - g2).clamp(min=0).sqrt() * eps + g2.sqrt() * noise


def draw(
    denoise: Denoise,
    schedule: Schedule,
    x_t: Tensor,
    times: Sequence[int],
    eta: float = 0.0,
    noise: Noise | None = None,
) -> Tensor:
    """x_0 from x_t by DDIM, DDPM where eta = 1.

    Args:
        x_t: (N, C, h, w) at the first of the times.
        times: descending; the last step leads to 0.
        noise: asked for at every step where eta > 0.
    """
    for t, s in zip(times, (*times[1:], 0), strict=True):
        x0, z = denoise(x_t, t), noise(x_t) if eta and noise is not None else None
        if eta == 1 and z is not None:
            x_t = ddpm(schedule, x_t, x0, (t, s), z)
        else:
            x_t = ddim(schedule, x_t, x0, (t, s), eta, z)
    return x_t


def inverted(denoise: Denoise, schedule: Schedule, x0: Tensor, times: Sequence[int]) -> Tensor:
    """The x_t, at the last of ascending times, that DDIM would draw an image from.

    The first step, from no noise at all, is told the level that it goes to.
    """
    x = x0
    for s, t in zip((0, *times[:-1]), times, strict=True):
        level = s or t
        clean = denoise(x, level)
        eps = schedule.eps(clean, x, level, "x0")
        # with no noise in it, x is clean as it is: what is taken for noise comes on top
        x = schedule.noised(clean if s else x, eps, t)
    return x
