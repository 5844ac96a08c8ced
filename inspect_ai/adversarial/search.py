"""AnoGAN's way to an image's code: a search by gradient, offline, against which encoders are told.

From a start z the code is moved to where the generator G draws what is most like the image x, for
the eye and for the critic's features f:

    l(z) = (1 - lambda) mean |x - G(z)| + lambda mean |f(x) - f(G(z))|

l at the end is AnoGAN's score. A search needs hundreds of passes through both networks for each
image and can be in no graph; an encoder needs one. Many starts help: the best end is taken.

Source: Schlegl, Seeboeck, Waldstein, Schmidt-Erfurth, Langs, "Unsupervised anomaly detection with
generative adversarial networks to guide marker discovery", IPMI 2017, section 2.2 (equations 2 to
5; means here in place of sums, so that one lambda fits all sizes).

Shapes: N images, C channels, h, w cells, Z numbers of a code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from inspect_ai.adversarial.game import with_coverage

Draw = Callable[[Tensor], Tensor]  # codes (N, Z) to images (N, C, h, w)
Look = Callable[[Tensor], Tensor]  # images (N, C + 1, h, w) to features (N, F, h', w')


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to search."""

    steps: int = 200
    rate: float = 0.05  # of Adam
    features: float = 0.1  # lambda
    starts: int = 1  # codes tried for each image; the first is the one given, if any


class Found(NamedTuple):
    """Where a search ended."""

    codes: Tensor  # (N, Z)
    expected: Tensor  # (N, C, h, w)
    loss: Tensor  # (N,), l at the end


def search(
    images: Tensor, draw: Draw, look: Look, begin: Tensor, plan: Plan | None = None
) -> Found:
    """The codes from which images (N, C + 1, h, w) are drawn best.

    Args:
        begin: (N, Z) codes to start from: an encoder's, or draws from N(0, I). Further starts are
            draws from N(0, I) by torch's global generator.
    """
    plan = plan or Plan()
    best: Found | None = None
    for start in range(plan.starts):
        z = begin if start == 0 else torch.randn_like(begin)
        found = _descended(images, draw, look, z, plan)
        best = found if best is None else _better(best, found)
    assert best is not None, "there is one start at least"
    return best


def losses(images: Tensor, drawn: Tensor, look: Look, features: float) -> Tensor:
    """l of images (N, C + 1, h, w) and what was drawn for them: (N,)."""
    x, w = images[:, :-1], images[:, -1:]
    covered = (w.sum((1, 2, 3)) * x.shape[1]).clamp(min=1e-6)
    residual = ((x - drawn).abs() * w).sum((1, 2, 3)) / covered
    apart = (look(images) - look(with_coverage(drawn, w))).abs().mean((1, 2, 3))
    return (1 - features) * residual + features * apart


def _descended(images: Tensor, draw: Draw, look: Look, begin: Tensor, plan: Plan) -> Found:
    z = begin.detach().clone().requires_grad_()
    adam, kept = torch.optim.Adam([z], plan.rate), None
    for step in range(plan.steps + 1):
        drawn = draw(z)
        loss = losses(images, drawn, look, plan.features)
        here = Found(z.detach().clone(), drawn.detach(), loss.detach())
        kept = here if kept is None else _better(kept, here)
        if step < plan.steps:
            (z.grad,) = torch.autograd.grad(loss.sum(), z)
            adam.step()
    assert kept is not None, "the start is looked at"
    return kept


def _better(one: Found, other: Found) -> Found:
    """Image by image, the end with the lower loss."""
    first = one.loss <= other.loss
    parts = [
        torch.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b)
        for a, b in zip(one, other, strict=True)
    ]
    return Found(*parts)
