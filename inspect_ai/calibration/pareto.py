"""The generalised Pareto law of a tail: drawn, fitted by greatest likelihood, and judged.

    P(excess > x) = (1 + xi x / sigma)^(-1 / xi)

sigma and xi are found along one number, tau = xi / sigma: for each tau the best xi is the mean of
ln(1 + tau x). Many samples are fitted at once.

Sources: Grimshaw, "Computing maximum likelihood estimates for the generalized Pareto distribution",
Technometrics 35, 1993 (tau). Choulakian, Stephens, "Goodness-of-fit tests for the generalized
Pareto distribution", Technometrics 43, 2001 (A^2 with both numbers fitted).

Shapes: B samples of N exceedances.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.stats import genpareto

from inspect_ai.scores import Float64

DRAWS, SEED = 200, 7
# tau x_max along which the likelihood is searched: from bounded to very heavy tails
GRID = np.concatenate(
    [-1 + np.geomspace(1e-5, 0.5, 14), np.linspace(-0.4, 0.4, 9), np.geomspace(0.5, 1e4, 22)]
)
GOLDEN, STEPS = (math.sqrt(5) - 1) / 2, 24


def excess(p: Float64, shape: Float64, scale: Float64 | float) -> Float64:
    """By how much the score that a share p of the tail exceeds lies above the start."""
    xi = np.where(np.abs(shape) < 1e-9, 1e-9, shape)
    return np.asarray(scale * np.expm1(-xi * np.log(np.minimum(p, 1.0))) / xi, np.float64)


def drawn(shape: float, size: int) -> Float64:
    """(DRAWS, size) exceedances of scale 1, each row upwards; always the same."""
    uniform = np.random.default_rng(SEED).random((DRAWS, size))
    uniform.sort(axis=1)
    return np.asarray(genpareto.ppf(uniform, shape), np.float64)


@lru_cache(maxsize=16)
def refits(shape: float, size: int) -> tuple[Float64, Float64]:
    """Shapes and scales of drawn tails, each fitted again: (DRAWS,) each."""
    return fitted(drawn(shape, size))


def fitted(x: Float64) -> tuple[Float64, Float64]:
    """Shape and scale of greatest likelihood of each row of (B, N) exceedances: (B,) each."""
    top = x.max(axis=1)
    y = x / top[:, None]  # so that one grid serves all rows
    values = np.stack([_profile(y, np.full(len(y), tau))[0] for tau in GRID])
    best = np.clip(values.argmax(axis=0), 1, len(GRID) - 2)
    low, high = GRID[best - 1], GRID[best + 1]
    for _ in range(STEPS):  # golden section
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left = _profile(y, a)[0] > _profile(y, b)[0]
        low, high = np.where(left, low, a), np.where(left, b, high)
    _, shape, scale = _profile(y, (low + high) / 2)
    return shape, scale * top


def _profile(y: Float64, tau: Float64) -> tuple[Float64, Float64, Float64]:
    """Log-likelihood a score at the best shape for tau, up to a constant; that shape; its scale.

    Below a shape of -1 the likelihood has no maximum; there it is -infinity.
    """
    xi = np.log1p(tau[:, None] * y).mean(axis=1)
    none = np.abs(tau) < 1e-12
    scale = np.where(none, y.mean(axis=1), xi / np.where(none, 1.0, tau))
    return np.where(xi < -1, -np.inf, -np.log(scale) - xi), xi, scale


def anderson_darling(x: Float64, shape: Float64, scale: Float64) -> Float64:
    """A^2 of each row of (B, N) exceedances, upwards, against its own law: (B,)."""
    n = x.shape[1]
    law = genpareto(shape[:, None], scale=scale[:, None])
    terms = law.logcdf(x) + law.logsf(x)[:, ::-1]
    return np.asarray(-n - ((2 * np.arange(1, n + 1) - 1) / n * terms).sum(axis=1), np.float64)
