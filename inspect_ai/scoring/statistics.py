"""Numbers that describe an image beside what a model makes of it; densities are put on them.

On wafer maps, with fails f in {0, 1}, the model's fail rate tilted to the wafer's own count p
(logit p plus a constant, so that the expected count is the observed one), residuals r = f - p
and Pearson residuals e = r / sqrt(p (1 - p)), in one cell per die:

    fail_rate                   share of dies that fail
    largest_cluster             dies of the largest cluster of failing dies
    cluster_extent              dies along the longer side of the longest cluster
    cluster_mean                mean area of the cluster that a failing die lies in
    residual_energy_0.7 _1.2 _2 mean square of r smoothed by 0.7, 1.2, 2 dies
    residual_lag_0 .. _3        mean product of r with its neighbour, in four directions
    energy_0.7 _1.2 _2 _4       mean square of e smoothed by 0.7 to 4 dies
    moran                       mean product of e with its neighbours, all four directions
    lines                       fourth power of e summed along short lines of eight directions
    rings                       mean over rings of the squared sum of e, over their dies
    sectors                     the same over cells of a polar grid
    walks_4, walks_12           walks of k steps from failing die to failing die

The walks use no expectation: they are a smooth form of the largest cluster, to which a ring of
single dies and a blob are both long. On any image, with image x and expectation x':

    l1, l2                      mean |x - x'|, mean square
    largest                     largest square, smoothed by one cell
    ssim, gradient              mean of those maps (see reconstruction.py)
    surprise, odds, kl          what a model says itself
    standardised                surprise beyond what it expects, in deviations (likelihood.py)
    ratio                       surprise beyond that of a background model
    entropy, roughness          nats of a simple coder, on grey levels or on differences
    gain                        entropy minus surprise: what the model knows beyond the levels
    features, codes, unreal     distance of a critic's features, of codes, minus its output
    denoising                   log mean error of the guessed noise, averaged over levels
    pull, inversion, time       of diffusion.py: mean squared score, mean nats, expected time

All are on a log scale but fail_rate, unreal, time and those in nats, odds and deviations.

Sources: Moran, "Notes on continuous stochastic phenomena", Biometrika 37, 1950. Pearson
residuals: McCullagh and Nelder, "Generalized linear models", section 2.4. Walks of length k:
powers of the adjacency matrix, Biggs, "Algebraic graph theory", 2.5.

Shapes: N images, H, W cells.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from inspect_ai.preprocess import extent
from inspect_ai.scoring.clusters import Clusters, clusters
from inspect_ai.scoring.filters import gaussian, lines, local_mean, smooth
from inspect_ai.scoring.likelihood import code_length, said, standardised
from inspect_ai.scoring.reconstruction import gradient_similarity, ssim
from inspect_ai.scoring.rule import Seen

NEWTON_STEPS = 4
RINGS, SECTORS = 8, 12
BESIDE = 1e-4
LINES = lines(9)


class Evidence:
    """One image batch and what a model makes of it; each part is computed once, if asked for."""

    def __init__(self, image: Tensor, seen: Seen) -> None:
        self.image, self.x, self.w, self.seen = image, image[:, :-1], image[:, -1:], seen

    @cached_property
    def count(self) -> Tensor:
        """Covered cells (N,), at least 1."""
        return self.w.sum((1, 2, 3)).clamp(min=1)

    @cached_property
    def fails(self) -> Tensor:
        """(N, 1, H, W) 1 where a die fails."""
        return self.x * self.w

    @cached_property
    def p(self) -> Tensor:
        """Expected fail rates at the wafer's own count."""
        return tilted(self.seen.expected, self.x, self.w)

    @cached_property
    def r(self) -> Tensor:
        """Residuals, 0 where no die is."""
        return self.w * (self.x - self.p)

    @cached_property
    def e(self) -> Tensor:
        """Pearson residuals."""
        return self.r / (self.p * (1 - self.p)).sqrt()

    @cached_property
    def clusters(self) -> Clusters:
        """Clusters of failing dies."""
        return clusters(self.fails)

    def walked(self, steps: int) -> Tensor:
        """(N, 1, H, W) share of walks from each failing die that stay on failing dies."""
        while len(self._walks) <= steps:  # a longer walk begins as a shorter one
            self._walks.append(self.fails * mean_of_nine(self._walks[-1]))
        return self._walks[steps]

    @cached_property
    def _walks(self) -> list[Tensor]:
        return [self.fails]

    def mean(self, cells: Tensor) -> Tensor:
        """(N, C, H, W) to the mean over covered cells and channels, (N,)."""
        return (cells * self.w).sum((1, 2, 3)) / (self.count * cells.shape[1])

    def energy(self, cells: Tensor, sigma: float) -> Tensor:
        """Log mean square of smoothed cells."""
        return _log(self.mean(smooth(cells, gaussian(sigma).to(cells)).square()))


Statistic = Callable[[Evidence], Tensor]  # to (N,)


def _log(x: Tensor) -> Tensor:
    return (x * 1e4).log1p()  # an added constant would be optimised away in the exported graph


def _log_of_any(x: Tensor) -> Tensor:
    """Of numbers whose size depends on the noise: their logs differ by ratios, however small."""
    return x.clamp(min=1e-12).log()


def _cluster_mean(of: Evidence) -> Tensor:
    area = of.clusters.area
    return (area.sum((1, 2)) / of.fails.sum((1, 2, 3)).clamp(min=1)).log1p()


def _residual_lag(dy: int, dx: int) -> Statistic:
    return lambda of: signed_log(1e4 * products(of.r, dy, dx) / of.count)


def _moran(of: Evidence) -> Tensor:
    total = sum(products(of.e, dy, dx) for dy, dx in LAGS)
    return signed_log(3 * total / of.count)


def _lines(of: Evidence) -> Tensor:
    along = F.conv2d(of.e, LINES.to(of.e), padding=4).clamp(min=0)
    return _log(of.mean(along.square().square()))


def _polar(sectors: int) -> Statistic:
    def statistic(of: Evidence) -> Tensor:
        bins = polar_bins(of.w[:, 0], sectors).flatten(1)
        none = of.e.new_zeros(bins.shape[0], RINGS * sectors)  # len() would fix the batch's size
        total = none.scatter_add(1, bins, of.e.flatten(1))
        dies = none.scatter_add(1, bins, of.w.flatten(1)).clamp(min=1)
        return _log((total.square() / dies).mean(1))

    return statistic


def _walks(steps: int) -> Statistic:
    return lambda of: (of.walked(steps).sum((1, 2, 3)) * 9.0**steps).log1p()


def _largest(of: Evidence) -> Tensor:
    square = (of.x - of.seen.expected).square().mean(1, keepdim=True)
    return _log((local_mean(square, of.w, gaussian(1.0).to(square)) * of.w).amax((1, 2, 3)))


def _ssim(of: Evidence) -> Tensor:
    alike = ssim(of.x, of.seen.expected, of.w, gaussian(1.5).to(of.x))
    return _log(of.mean((1 - alike) / 2))


def _gradient(of: Evidence) -> Tensor:
    return _log(of.mean(1 - gradient_similarity(of.x * of.w, of.seen.expected * of.w)))


def _surprise(of: Evidence) -> Tensor:
    return said(of.seen.surprise).sum((1, 2))


def _ratio(of: Evidence) -> Tensor:
    return _surprise(of) - said(of.seen.background).sum((1, 2))


def _denoising(of: Evidence) -> Tensor:
    return _log_of_any((said(of.seen.errors) * of.w).sum((2, 3)) / of.count[:, None]).mean(1)


LAGS = ((0, 1), (1, 0), (1, 1), (1, -1))
ON_MAPS: dict[str, Statistic] = {
    "fail_rate": lambda of: of.mean(of.fails),
    "largest_cluster": lambda of: of.clusters.area.amax((1, 2)).log1p(),
    "cluster_extent": lambda of: of.clusters.extent.amax((1, 2)).log1p(),
    "cluster_mean": _cluster_mean,
    **{f"residual_energy_{s:g}": lambda of, s=s: of.energy(of.r, s) for s in (0.7, 1.2, 2.0)},  # type: ignore[misc]
    **{f"residual_lag_{i}": _residual_lag(*lag) for i, lag in enumerate(LAGS)},
    **{f"energy_{s:g}": lambda of, s=s: of.energy(of.e, s) for s in (0.7, 1.2, 2.0, 4.0)},  # type: ignore[misc]
    "moran": _moran,
    "lines": _lines,
    "rings": _polar(1),
    "sectors": _polar(SECTORS),
    **{f"walks_{k}": _walks(k) for k in (4, 12)},
}
ANYWHERE: dict[str, Statistic] = {
    "l1": lambda of: _log(of.mean((of.x - of.seen.expected).abs())),
    "l2": lambda of: _log(of.mean((of.x - of.seen.expected).square())),
    "largest": _largest,
    "ssim": _ssim,
    "gradient": _gradient,
    "surprise": _surprise,
    "odds": lambda of: said(of.seen.odds),
    "kl": lambda of: said(of.seen.kl),
    "standardised": lambda of: standardised(of.seen),
    "ratio": _ratio,
    "entropy": lambda of: code_length(of.image, "levels"),
    "roughness": lambda of: code_length(of.image, "differences"),
    "gain": lambda of: code_length(of.image, "levels") - _surprise(of),
    "features": lambda of: _log(said(of.seen.features).sum((1, 2))),
    "codes": lambda of: _log(said(of.seen.codes)),
    "unreal": lambda of: said(of.seen.unreal),
    "denoising": _denoising,
    "pull": lambda of: _log_of_any(of.mean(said(of.seen.pull)[:, None])),
    "inversion": lambda of: of.mean(said(of.seen.inverted)[:, None]),
    "time": lambda of: said(of.seen.time),
}
STATISTICS = ON_MAPS | ANYWHERE
NEEDS = {  # fields of Seen
    "surprise": ("surprise",),
    "gain": ("surprise",),
    "odds": ("odds",),
    "kl": ("kl",),
    "standardised": ("surprise", "usual", "varied"),
    "ratio": ("surprise", "background"),
    **{name: (name,) for name in ("features", "codes", "unreal", "pull", "time")},
    "denoising": ("errors",),
    "inversion": ("inverted",),
}


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


def products(cells: Tensor, dy: int, dx: int) -> Tensor:
    """Sum of each cell times its neighbour (dy, dx) away, dy >= 0: (N, 1, H, W) to (N,)."""
    h, w = cells.shape[2:]
    first = cells[..., : h - dy, max(0, -dx) : w - max(0, dx)]
    second = cells[..., dy:, max(0, dx) : w - max(0, -dx)]
    return (first * second).sum((1, 2, 3))


def polar_bins(dies: Tensor, sectors: int) -> Tensor:
    """Ring and sector of each cell of (N, H, W) about the middle of its dies, as one index."""
    y, x = _from_middle(dies.amax(2))[:, :, None], _from_middle(dies.amax(1))[:, None, :]
    # dies lie on the borders of rings (of equal area) and sectors: a shift past rounding decides
    ring = (RINGS * (y.square() + x.square()).clamp(max=0.999) + BESIDE).long()
    # ... and the middle die has an angle: ONNX Runtime gives none to (0, 0)
    turn = torch.atan2(y + BESIDE + 0 * x, x + BESIDE + 0 * y) / (2 * torch.pi) + 0.5
    return ring * sectors + (sectors * turn + BESIDE).long().clamp(max=sectors - 1)


def _from_middle(occupied: Tensor) -> Tensor:
    """Position of each index of (N, L), -1 to 1 over those that are occupied."""
    index = torch.arange(occupied.shape[1], dtype=occupied.dtype, device=occupied.device)
    first, length = (part[:, None] for part in extent(occupied))
    return (index - first - (length - 1) / 2) / (length / 2).clamp(min=0.5)


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
