"""Data whose best denoiser is known: a mixture of Gaussians of d numbers, as images (N, 1, 1, d)."""

import math

import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal


class Mixture:
    """Of K Gaussians; of one it is a Gaussian."""

    def __init__(self, shares, means, covariances):
        self.shares = torch.tensor(shares).double()  # (K,)
        self.means = torch.tensor(means).double()  # (K, d)
        self.covariances = torch.tensor(covariances).double()  # (K, d, d)

    @property
    def mean(self):
        return self.shares @ self.means

    @property
    def covariance(self):
        apart = self.means - self.mean
        spread = self.covariances + apart[:, :, None] * apart[:, None]
        return (self.shares[:, None, None] * spread).sum(0)

    def law(self):
        parts = MultivariateNormal(self.means, self.covariances)
        return MixtureSameFamily(Categorical(self.shares), parts)

    def drawn(self, count):
        return self.law().sample((count,))[:, None, None]

    def nll(self, x0):
        return -self.law().log_prob(x0.flatten(1))

    def denoiser(self, schedule):
        """E[x_0 | x_t], by Bayes' rule."""

        def denoise(x_t, t):
            a, s = schedule.a[t].item(), schedule.s[t].item()
            d = self.means.shape[1]
            seen = a**2 * self.covariances + s**2 * torch.eye(d, dtype=torch.float64)
            apart = x_t.double().reshape(-1, 1, d) - a * self.means  # (N, K, d)
            solved = (torch.linalg.inv(seen) * apart[:, :, None]).sum(-1)
            log_share = self.shares.log() - 0.5 * (apart * solved).sum(-1)
            share = (log_share - 0.5 * torch.logdet(seen)).softmax(1)
            each = self.means + a * (self.covariances * solved[:, :, None]).sum(-1)
            return (share[:, :, None] * each).sum(1).reshape(x_t.shape).to(x_t.dtype)

        return denoise


def gaussian():
    """Two numbers that go together, off the origin."""
    return Mixture([1.0], [[0.3, -0.5]], [[[0.8, 0.45], [0.45, 0.6]]])


def mixture():
    """Two heaps, well apart, of unlike sizes and shapes."""
    covariances = [[[0.1, 0.05], [0.05, 0.2]], [[0.3, 0.0], [0.0, 0.05]]]
    return Mixture([0.3, 0.7], [[-1.2, 0.6], [0.6, -0.4]], covariances)


class Line:
    """One number, N(0, variance)."""

    def __init__(self, variance):
        self.variance = variance

    def nll(self):
        """On average, nats."""
        return 0.5 * math.log(2 * math.pi * math.e * self.variance)

    def slope(self, schedule, t):
        a, s, c = schedule.a[t].item(), schedule.s[t].item(), self.variance
        return a * c / (a**2 * c + s**2)

    def denoiser(self, schedule):
        return lambda x_t, t: self.slope(schedule, t) * x_t


def redrawn(schedule, denoise, x0, eps, times):
    """(N, K, C, h, w): what is expected of x_t at each time."""
    return torch.stack([denoise(schedule.noised(x0, eps, t), t) for t in times], 1)
