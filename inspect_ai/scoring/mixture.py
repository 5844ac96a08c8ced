"""A mixture of Gaussians, fitted by scikit-learn and evaluated in the graph.

    -log p(x) = -log sum_g w_g N(x; m_g, S_g)

Source: Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm",
JRSS B 39, 1977. Exact against scikit-learn's `GaussianMixture.score_samples`.

Shapes: N vectors of K numbers, G components.
"""

import math
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from typing_extensions import override

from inspect_ai.errors import MissingData
from inspect_ai.scores import Float32, Float64

RIDGE = 1e-3  # added to variances of standardised numbers, so that none is 0


class Mixture(nn.Module):
    """(N, K) vectors to their negative log-likelihood (N,), in nats."""

    log_weights: Tensor
    means: Tensor
    whiten: Tensor

    def __init__(self, components: int, size: int) -> None:
        super().__init__()
        self.register_buffer("log_weights", torch.full((components,), -math.log(components)))
        self.register_buffer("means", torch.zeros(components, size))
        self.register_buffer("whiten", torch.eye(size).repeat(components, 1, 1))

    def fit(self, vectors: Float32 | Float64, seed: int = 0, ridge: float = RIDGE) -> None:
        """Expectation maximisation from a k-means start.

        Raises:
            MissingData: fewer vectors than components.
        """
        count = len(self.means)
        if len(vectors) < max(2, count):
            raise MissingData(
                f"{len(vectors)} vector(s) for a mixture of {count}; needed is at least one each, "
                "and two. Add images, or ask for fewer components."
            )
        made = GaussianMixture(count, reg_covar=ridge, random_state=seed, max_iter=200)
        with threadpool_limits(1), warnings.catch_warnings():  # threads wait on each other
            warnings.simplefilter("ignore", ConvergenceWarning)  # any mixture is a density
            made.fit(vectors)
        self._set(made.weights_, made.means_, made.precisions_cholesky_)

    def _set(self, weights: Float64, means: Float64, whiten: Float64) -> None:
        for buffer, values in zip(
            (self.log_weights, self.means, self.whiten), (weights, means, whiten), strict=True
        ):
            buffer.copy_(torch.from_numpy(values))
        self.log_weights.log_()

    @override
    def forward(self, vectors: Tensor) -> Tensor:
        return -torch.logsumexp(self.joint(vectors), 1)

    def joint(self, vectors: Tensor) -> Tensor:
        """log w_g N(x; m_g, S_g) of each component, (N, G)."""
        centred = vectors[:, None] - self.means  # (N, G, K)
        white = torch.einsum("ngk,gkl->ngl", centred, self.whiten)
        volume = self.whiten.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * self.means.shape[1] * math.log(2 * math.pi)
        return self.log_weights + volume - constant - 0.5 * white.square().sum(2)
