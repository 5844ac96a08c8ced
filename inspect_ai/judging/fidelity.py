"""How near drawn images are to good ones, in the features of any net.

    Frechet   |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)),    Gaussians fitted to either set
    kernel    E k(x, x') + E k(y, y') - 2 E k(x, y),       k(x, y) = (x.y / F + 1)^3, x not x'
    precision share of drawn images that lie in a ball of a good one, which reaches to its k-th
              neighbour among the good; recall is the same with the sets exchanged
    score     exp E KL(p(y | x) || p(y)),                  from 1 to the number K of classes
    memorised share of drawn images nearer to a training image than all but NEAR of the good images
              that the model was not trained on; the ratio is that of the median distances

(C C')^(1/2) has the trace of the singular values of C^(1/2) C'^(1/2): no root of a product that is
not symmetric, and fewer images than features do no harm. Frechet distances of few images are too
large, and comparable at one number of them alone; the kernel distance is not biased. The classes of
the score are clusters of good features, y given x by a mixture of equal Gaussians.

Sources: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium", NIPS 2017, equation 6 (FID). Binkowski et al., "Demystifying MMD GANs", ICLR 2018,
section 4 (KID). Kynkaanniemi et al., "Improved precision and recall metric for assessing generative
models", NeurIPS 2019, section 2. Salimans et al., "Improved techniques for training GANs", NIPS
2016, section 4 (inception score). Meehan, Chaudhuri, Dasgupta, "A non-parametric test to detect
data-copying in generative models", AISTATS 2020 (distances to training against held-out images).

Shapes: N, M images, F features, K clusters, W ways round to look at an image.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inspect_ai.scores import Bool, Float64

BLOCKS = 10  # of the kernel distance
NEIGHBOURS = 3  # k
NEAR = 0.05
AT_ONCE = 256  # images compared with all others at a time
ROUNDING = 1e-12  # of squared lengths, whose difference a squared distance is


class Gauss(NamedTuple):
    """Mean and covariance of features."""

    mean: Float64  # (F,)
    covariance: Float64  # (F, F)


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float


class Nearest(NamedTuple):
    """The nearest of other images."""

    distance: Float64  # (N,)
    place: NDArray[np.int64]  # (N,) which of the others it is


class Copied(NamedTuple):
    """How near images lie to those that were trained on."""

    share: float  # of images nearer than all but NEAR of the held-out ones
    ratio: float  # median distance over that of the held-out ones


def gauss(features: Float64) -> Gauss:
    """The Gaussian of (N, F) features, N >= 2."""
    return Gauss(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet(one: Gauss, other: Gauss) -> float:
    """Frechet (2-Wasserstein) distance of two Gaussians, squared; 0 or more."""
    apart = np.square(one.mean - other.mean).sum()
    shared = np.linalg.svd(_root(one.covariance) @ _root(other.covariance), compute_uv=False).sum()
    return max(0.0, float(apart + np.trace(one.covariance + other.covariance) - 2 * shared))


def kernel_distance(one: Float64, other: Float64, seed: int = 0) -> Estimate:
    """Unbiased squared MMD of features (N, F) and (M, F), each 4 or more: below 0 by chance.

    Mean and standard error over blocks of either set, which share no image.
    """
    rng = np.random.default_rng(seed)
    blocks = min(BLOCKS, len(one) // 2, len(other) // 2)
    cut = [np.array_split(x[rng.permutation(len(x))], blocks) for x in (one, other)]
    found = np.array([_mmd(x, y) for x, y in zip(*cut, strict=True)])
    return Estimate(float(found.mean()), float(found.std(ddof=1) / blocks**0.5))


def inside(images: Float64, good: Float64, neighbours: int = NEIGHBOURS) -> float:
    """Share of (N, F) that lie among (M, F): precision of drawn images, or recall of good ones."""
    k = min(neighbours, len(good) - 1)
    reach = np.concatenate([np.sort(d, 1)[:, k] for d in _distances(good, good)])  # itself first
    return float(np.concatenate([(d <= reach).any(1) for d in _distances(images, good)]).mean())


def nearest(images: Float64, others: Float64) -> Nearest:
    """The nearest of (M, F) others to each of (N, W, F) images, whichever way round."""
    found = list[Nearest]()
    for way in np.moveaxis(images, 1, 0):
        every = list(_distances(way, others))
        place = np.concatenate([d.argmin(1) for d in every])
        found.append(Nearest(np.concatenate([d.min(1) for d in every]), place))
    distances = np.stack([way.distance for way in found])
    best = distances.argmin(0)[None]
    places = np.stack([way.place for way in found])
    return Nearest(distances.min(0), np.take_along_axis(places, best, 0)[0])


def copied(images: Float64, held_out: Float64) -> Copied:
    """How near images lie to training images, from distances to the nearest: (N,) and (M,)."""
    middle = float(np.median(held_out))
    near: Bool = images < np.quantile(held_out, NEAR)
    if middle == 0:  # the held-out images themselves stand in the training set
        return Copied(float(near.mean()), 1.0)
    return Copied(float(near.mean()), float(np.median(images)) / middle)


def score(features: Float64, centres: Float64, spread: float) -> float:
    """Inception-style score of (N, F) features, from 1 to K.

    Args:
        centres: (K, F) of the classes.
        spread: variance of a feature within a class.
    """
    squares = np.square(np.concatenate(list(_distances(features, centres))))
    logit = -squares / (2 * max(spread, 1e-12))
    logit -= logit.max(1, keepdims=True)
    p = np.exp(logit)
    p /= p.sum(1, keepdims=True)
    return float(np.exp(_entropy(p.mean(0)) - _entropy(p).mean()))


def _root(covariance: Float64) -> Float64:
    """The symmetric root; what rounding has put below 0 counts as 0."""
    values, axes = np.linalg.eigh(covariance)
    root: Float64 = (axes * np.sqrt(values.clip(min=0))) @ axes.T
    return root


def _mmd(x: Float64, y: Float64) -> float:
    within = [
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (_kernel(x, x), _kernel(y, y))
    ]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def _kernel(x: Float64, y: Float64) -> Float64:
    kernel: Float64 = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def _distances(images: Float64, others: Float64) -> list[Float64]:
    """Euclidean distances in blocks of rows, (AT_ONCE, M) each."""
    squares = np.square(others).sum(1)
    found = list[Float64]()
    for start in range(0, len(images), AT_ONCE):
        x = images[start : start + AT_ONCE]
        sizes = np.square(x).sum(1)[:, None] + squares
        apart = sizes - 2 * x @ others.T
        found.append(np.sqrt(np.where(apart > ROUNDING * sizes, apart, 0.0)))  # copies are at 0
    return found


def _entropy(p: Float64) -> Float64:
    """Nats of (..., K) probabilities."""
    entropy: Float64 = -(p * np.log(p.clip(min=1e-300))).sum(-1)
    return entropy
