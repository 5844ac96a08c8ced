"""Small variational autoencoders and images for their tests."""

import torch
from made_batches import Stripes
from torch.distributions import MultivariateNormal

from inspect_ai.models.vae import Config
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Run

KINDS = {
    "plain": {},
    "bernoulli": {"output": "bernoulli"},
    "cells": {"noise": "cells"},
    "ladder": {"depth": 3, "levels": 3},
    "skip": {"depth": 3, "skip": 2},
    "iwae": {"bound": "iwae", "samples": 5},
    "spatial": {"spatial": True},
}


def model(grid=(16, 16), channels=1, classes=0, **fields):
    torch.manual_seed(0)
    small = {"width": 4, "depth": 2, "latent": 3}
    made = Config(**small | fields).build(channels, grid, classes).eval()
    made.wanted = frozenset({"surprise"})
    return made


def images(count=4, channels=1, grid=(16, 16), coverage=None):
    x = torch.rand(count, channels, *grid, generator=torch.Generator().manual_seed(1))
    w = torch.ones(count, 1, *grid) if coverage is None else coverage
    return torch.cat([x, w], 1)


def half_covered(count=4, grid=(16, 16)):
    draw = torch.Generator().manual_seed(2)
    parts = torch.tensor([0.0, 0.5, 1.0])
    return parts[torch.randint(3, (count, 1, *grid), generator=draw)]


def total(seen):
    return seen.surprise.sum((1, 2))


class Products(Stripes):
    """Dark images of product 0 and bright ones of product 1."""

    def at(self, step):
        noise = 0.05 * torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(step))
        x = 0.2 + 0.6 * self.condition(step)[:, None, None, None] + noise
        return torch.cat([x, torch.ones_like(x)], 1)

    def condition(self, step):
        return torch.arange(16) % 2


def trained(made, batches, steps):
    budget = Budget(steps=steps, learning_rate=5e-3, average=0.9)
    return made.train().fit(batches, Run(budget, lambda *_: None)).eval()


def ppca(bound, samples, wrong=False):
    """A linear model with PPCA's posterior, or another one, and its density."""
    grid, d, q, s = (3, 4), 12, 2, 0.2
    made = model(grid, depth=0, latent=q, noise="fixed", sigma=s, bound=bound, samples=samples)
    W = torch.linalg.qr(torch.randn(d, q))[0] * torch.tensor([0.6, 0.3])
    m = torch.rand(d)
    variance = s**2 / (W.square().sum(0) + s**2)  # columns at right angles: diagonal
    A = (W / s**2 * variance).T
    log_var = variance.log()
    if wrong:
        A, log_var = 0.8 * A, log_var + 0.5
    code, enter = made.net.code[1], made.net.enter
    with torch.no_grad():
        code.weight.zero_()
        code.weight[:q, :d] = A
        code.bias.copy_(torch.cat([-A @ m, log_var]))
        enter.weight.copy_(W)
        enter.bias.copy_(m)
    return made, MultivariateNormal(m, W @ W.T + s**2 * torch.eye(d))


def linear_images():
    return images(20, grid=(3, 4))


def exact(density):
    return -density.log_prob(linear_images()[:, 0].flatten(1))
