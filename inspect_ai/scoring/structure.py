"""Structure: a wafer is odd where its fails hang together more than the model expected.

Raw error on a wafer map is a yield meter. What tells a pattern from bad luck is the
dependence between neighbouring dies that is left when the model's expectation is taken out.
With fails f in {0, 1}, the model's fail rate tilted to the wafer's own count p (logit p plus a
constant, so that the expected count is the observed one) and Pearson residuals
e = (f - p) / sqrt(p (1 - p)), in one cell per die:

    moran    sum of e_i e_j over neighbouring dies / dies (lags of one die, four directions)
    chains   number of walks of k steps from failing die to failing die, k = 4 and 12

Each is put on a log scale and standardised on good wafers, and the score is their sum. The
residuals see structure at the scale of one die, the chains at that of 4 and of 12. The chains
use no expectation: they are a smooth, exportable form of the largest cluster, to which a ring
of single dies and a blob are both long. The map shows, per die, the smoothed residual that lies
above expectation.

A model that can redraw a pattern takes it out of the residuals and hides it: give it a code of
one or two numbers.

Sources: Moran, "Notes on continuous stochastic phenomena", Biometrika 37, 1950 (moran).
Pearson residuals: McCullagh and Nelder, "Generalized linear models", section 2.4. The number
of walks of length k: powers of the adjacency matrix, Biggs, "Algebraic graph theory", 2.5.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.errors import MissingData
from inspect_ai.scoring.filters import gaussian, smooth
from inspect_ai.scoring.rule import Rule
from inspect_ai.settings import Settings

WALKS = (4, 12)  # steps
BLUR = 1.0  # dies, of the map
NEWTON_STEPS = 4


class Config(Settings):
    """The structure rule has nothing to set."""

    rule: Literal["structure"]

    def build(self, channels: int, grid: tuple[int, int]) -> "Structure":
        """The rule; it fits any grid."""
        del channels, grid
        return Structure()


class Structure(Rule):
    """See the module's docstring for the statistics."""

    mean: Tensor
    spread: Tensor
    blur: Tensor

    def __init__(self) -> None:
        super().__init__()
        count = 1 + len(WALKS)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.register_buffer("blur", gaussian(BLUR))

    @override
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        found = torch.cat([self._statistics(image, expected)[0] for image, expected in pairs])
        if len(found) < 2:
            raise MissingData(
                f"{len(found)} good map(s) held out of training; rule 'structure' needs 2 or more. "
                "Add images, or raise 'held_out' in the run file."
            )
        self.mean.copy_(found.mean(0))
        self.spread.copy_(found.std(0).clamp(min=1e-6))

    @override
    def forward(self, image: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
        statistics, anomaly_map = self._statistics(image, expected)
        return ((statistics - self.mean) / self.spread).sum(1), anomaly_map

    def _statistics(self, image: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
        """The statistics (N, 3) and the map (N, H, W)."""
        f, dies = image[:, :1], image[:, -1:]
        p = tilted(expected, f, dies)
        e = dies * (f - p) / (p * (1 - p)).sqrt()
        count = dies.sum((1, 2, 3)).clamp(min=1)
        moran = signed_log(3 * neighbour_products(e) / count)
        anomaly_map = (smooth(e, self.blur) * dies)[:, 0].clamp(min=0)
        return torch.cat([moran[:, None], walks(f * dies)], 1), anomaly_map


def tilted(expected: Tensor, fails: Tensor, dies: Tensor) -> Tensor:
    """Fail rates (N, 1, H, W) moved by one constant on the logit scale to the observed count.

    Newton's method on the count; rates stay in [0.01, 0.99], or one die would outweigh all.
    """
    logit = torch.logit(expected.clamp(0.01, 0.99))
    count = dies.sum((1, 2, 3), keepdim=True).clamp(min=1)
    target = ((fails * dies).sum((1, 2, 3), keepdim=True) / count).clamp(0.002, 0.998)
    shift = torch.zeros_like(target)
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(logit + shift)
        rate = (p * dies).sum((1, 2, 3), keepdim=True) / count
        slope = (p * (1 - p) * dies).sum((1, 2, 3), keepdim=True) / count
        shift = shift + ((target - rate) / slope.clamp(min=1e-3)).clamp(-2, 2)
    return torch.sigmoid(logit + shift).clamp(0.01, 0.99)


def neighbour_products(e: Tensor) -> Tensor:
    """Sum of e_i e_j over neighbouring cells of (N, 1, H, W), each pair once: (N,)."""
    right = (e[..., :, 1:] * e[..., :, :-1]).sum((1, 2, 3))
    below = (e[..., 1:, :] * e[..., :-1, :]).sum((1, 2, 3))
    slash = (e[..., 1:, 1:] * e[..., :-1, :-1]).sum((1, 2, 3))
    back = (e[..., 1:, :-1] * e[..., :-1, 1:]).sum((1, 2, 3))
    return right + below + slash + back


def walks(fails: Tensor) -> Tensor:
    """Log number of walks over failing dies (N, 1, H, W), for each of WALKS: (N, len(WALKS)).

    A step goes to one of the eight neighbours or stays; x after k steps is A^k 1, A the
    adjacency matrix of failing dies with itself. The mean of nine cells divides by 9 at each
    step, so that nothing overflows; the logarithm takes it back.
    """
    x, found = fails, []
    for step in range(1, max(WALKS) + 1):
        x = fails * mean_of_nine(x)
        if step in WALKS:
            found.append((x.sum((1, 2, 3)) * 9.0**step).log1p())
    return torch.stack(found, 1)


def mean_of_nine(x: Tensor) -> Tensor:
    """Mean of each cell and its eight neighbours, zeros outside, for (N, 1, H, W).

    Shifted sums: six times quicker in ONNX Runtime than its pooling of a single channel.
    """
    x = F.pad(x, (1, 1, 1, 1))
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9


def signed_log(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): a log scale that passes through zero."""
    return x.sign() * x.abs().log1p()
