"""What critic and generator play for, and the penalties that keep a critic smooth.

D is the critic's output, a logit without a sigmoid, s the logistic function. The critic lowers
E[a(D(x))] over good images + E[b(D(x'))] over samples; the generator lowers E[c(D(x'))]:

                     a              b                      c
    minimax          -ln s(D)       -ln(1 - s(D))          ln(1 - s(D))
    non_saturating   -ln s(D)       -ln(1 - s(D))          -ln s(D)
    least_squares    (D - 1)^2 / 2  D^2 / 2                (D - 1)^2 / 2
    wasserstein      -D             D                      -D
    hinge            max(0, 1 - D)  max(0, 1 + D)          -D

For good images of density p and samples of density q, the best critic's loss is, with m their
mean (p + q) / 2:

    minimax          2 ln 2 - 2 JS(p, q)           at D = ln p / q
    least_squares    (1 - chi^2(p || m)) / 4       at D = p / (p + q), chi^2 Pearson's
    wasserstein      -W1(p, q)                     among critics of slope 1 at most
    hinge            2 - 2 TV(p, q)                at D = sign(p - q)

Penalties, to be weighted by the caller:

    gradient_penalty   E (|dD / dx| - 1)^2    on random points between an image and a sample
    r1                 E |dD / dx|^2          at good images, without its factor gamma / 2

Sources: Goodfellow et al., "Generative adversarial nets", NIPS 2014 (minimax: section 4;
non-saturating: end of section 3). Mao et al., "Least squares generative adversarial networks",
ICCV 2017, section 3 (codes 0 and 1). Arjovsky, Chintala, Bottou, "Wasserstein generative
adversarial networks", ICML 2017, section 3. Gulrajani et al., "Improved training of Wasserstein
GANs", NIPS 2017, section 4. Lim, Ye, "Geometric GAN", arXiv 1705.02894, 2017, and Miyato et al.,
"Spectral normalization for generative adversarial networks", ICLR 2018 (hinge). Mescheder, Geiger,
Nowozin, "Which training methods for GANs do actually converge?", ICML 2018, section 4 (R1).

Shapes: N images, C channels, h, w cells.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Objective = Literal["minimax", "non_saturating", "least_squares", "wasserstein", "hinge"]
Formula = Callable[[Tensor], Tensor]  # of each logit
Critic = Callable[[Tensor], Tensor]  # (N, C, h, w) images to (N,) logits


class Terms(NamedTuple):
    """An objective's a, b and c; -ln s(D) is softplus(-D), -ln(1 - s(D)) is softplus(D)."""

    real: Formula
    fake: Formula
    generator: Formula


TERMS: dict[Objective, Terms] = {
    "minimax": Terms(lambda d: F.softplus(-d), F.softplus, lambda d: -F.softplus(d)),
    "non_saturating": Terms(lambda d: F.softplus(-d), F.softplus, lambda d: F.softplus(-d)),
    "least_squares": Terms(
        lambda d: (d - 1).square() / 2, lambda d: d.square() / 2, lambda d: (d - 1).square() / 2
    ),
    "wasserstein": Terms(lambda d: -d, lambda d: d, lambda d: -d),
    "hinge": Terms(lambda d: F.relu(1 - d), lambda d: F.relu(1 + d), lambda d: -d),
}


def critic_loss(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """What a critic lowers: a scalar from logits of good images (N,) and of samples (M,)."""
    terms = TERMS[objective]
    return terms.real(real).mean() + terms.fake(fake).mean()


def generator_loss(objective: Objective, fake: Tensor) -> Tensor:
    """What a generator lowers: a scalar from the critic's logits of samples (N,)."""
    return TERMS[objective].generator(fake).mean()


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Mean (|dD / dx| - 1)^2 on random points between pairs; a scalar, 0 or more.

    Args:
        critic: of the image channels alone; it judges each image by itself, without statistics of
            a batch.
        real, fake: (N, C, h, w); no gradient goes back into them.
    """
    share = torch.rand(real.shape[0], 1, 1, 1, device=real.device, dtype=real.dtype)
    between = torch.lerp(real.detach(), fake.detach(), share)
    # the slope of this norm is 0 where it is 0; that of sqrt would be infinite
    slopes = torch.linalg.vector_norm(_gradients(critic, between), dim=1)
    missed: Tensor = (slopes - 1).square().mean()
    return missed


def r1(critic: Critic, real: Tensor) -> Tensor:
    """Mean |dD / dx|^2 at good images (N, C, h, w); a scalar. `critic` as above."""
    return _gradients(critic, real.detach()).square().sum(1).mean()


def _gradients(critic: Critic, images: Tensor) -> Tensor:
    """(N, C h w); the graph is kept, so that a penalty on them trains the critic."""
    x = images.clone().requires_grad_()
    found: Tensor = torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]
    return found.flatten(1)
