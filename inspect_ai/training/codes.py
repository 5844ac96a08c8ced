"""What codes tell beside a score: how much better they could be, and what each number draws.

Likelihood regret is what a bound gains where the code may suit each image on its own. Mean and
log-variance of q(z | x) descend from the encoder's by Adam; no weight moves. An encoder codes an
odd image badly, so that there is much to gain.

Source: Xiao, Yan, Amit, "Likelihood regret: an out-of-distribution detection score for variational
auto-encoder", NeurIPS 2020, section 4.

Shapes: N images, h, w cells, Z latent numbers, R rows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from inspect_ai.training.gaussian import Normal

ROWS, STEPS, FAR = 6, 7, 3.0  # of a sheet: numbers, and steps from -FAR to FAR
# each level's q(z | x) to the bound's shares, (N, h, w) nats
Bound = Callable[[Sequence[Normal]], Tensor]


def regret(bound: Bound, start: Sequence[Normal], steps: int, rate: float) -> Tensor:
    """The gain over `start` in so many steps of that learning rate: (N,) nats, at least 0."""
    with torch.no_grad():
        first = best = bound(start).sum((1, 2))
    free = [part.clone().requires_grad_() for e in start for part in e]
    adam = torch.optim.Adam(free, lr=rate)
    for _ in range(steps + 1):
        with torch.enable_grad():
            codes = [Normal(*pair) for pair in zip(free[::2], free[1::2], strict=True)]
            found = bound(codes).sum((1, 2))
            slopes = torch.autograd.grad(found.sum(), free)
        best = torch.minimum(best, found.detach())
        for part, slope in zip(free, slopes, strict=True):
            part.grad = slope
        adam.step()
    return first - best


def walks(codes: Tensor) -> Tensor:
    """Codes that differ from the prior's mean in one number a row, the most active first.

    Args:
        codes: of images, (N, Z) or (N, Z, a, b); those of a map move in all its cells at once.

    Returns:
        (R, STEPS, Z) or (R, STEPS, Z, a, b).
    """
    count, cells = codes.shape[1], codes.shape[2:]
    moved = codes.var(0, correction=0).reshape(count, -1).mean(1)
    most = moved.argsort(descending=True)[:ROWS]
    made = F.one_hot(most, count)[:, None] * torch.linspace(-FAR, FAR, STEPS)[:, None]
    return made.reshape(*made.shape, *[1] * len(cells)).expand(*made.shape, *cells)
