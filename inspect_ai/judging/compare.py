"""The figures of drawn images: each beside what good images reach that a model was trained on.

The yardstick are held-out good images. A perfect generator draws what the training images were
drawn from, so that no figure can be asked to be better than that of the training images themselves:
it stands beside each as "good". Both are taken from one number of images, since most depend on it.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from inspect_ai.judging import fidelity, maps
from inspect_ai.judging.features import Net, unit
from inspect_ai.judging.fidelity import frechet, gauss, inside, kernel_distance
from inspect_ai.scores import Float64

CLASSES = 10  # of the inception-style score, at most
FEWEST = 8  # images of either set


class Figure(NamedTuple):
    """One figure of drawn images, and what it would be at best."""

    name: str
    samples: float | None
    good: float | None


class Described(NamedTuple):
    """What figures are made of."""

    features: Float64  # (N, W, F), W ways round to look at each image
    maps: maps.Maps | None  # of wafer maps


def described(batches: Iterable[Tensor], net: Net, dies: bool, ways: int = 1) -> Described:
    """Features of batches of (N, C + 1, h, w) images, and what is read off wafer maps.

    Args:
        dies: whether they are wafer maps.
        ways: 8 looks at square images in each orientation, 1 as they are.
    """
    features, read = list[Float64](), list[maps.Maps]()
    for images in batches:
        turned = orientations(images) if ways == 8 else images[None]
        features.append(np.stack([net.features(way) for way in turned], 1))
        if dies:
            read.append(maps.measured(np.asarray(images.float().numpy())))
    return Described(np.concatenate(features), maps.joined(read) if read else None)


def figures(net: Net, samples: Described, training: Described, held_out: Described) -> list[Figure]:
    """All figures; the sets may differ in size, and the larger of the first two is cut."""
    if not net.raw:
        first = training.features[:, 0]
        samples, training, held_out = (
            d._replace(features=(d.features - first.mean(0)) / unit(first))
            for d in (samples, training, held_out)
        )
    n, good = min(len(samples.features), len(training.features)), held_out.features[:, 0]
    some = (np.arange(n), np.random.default_rng(0).permutation(len(training.features))[:n])
    sets = (samples.features[some[0], 0], training.features[some[1], 0])
    sides = [_of_sets(net.name, features, good) for features in sets]
    found = [Figure(name, value, sides[1][name]) for name, value in sides[0].items()]
    found += _near(net.name, samples, training, held_out)
    if held_out.maps is not None and samples.maps is not None and training.maps is not None:
        drawn, real = (
            maps.figures(maps.Maps(*(of[which] for of in read)), held_out.maps)
            for read, which in zip((samples.maps, training.maps), some, strict=True)
        )
        found += [Figure(name, value, real[name]) for name, value in drawn.items()]
    return found


def orientations(images: Tensor) -> Tensor:
    """(N, C, h, h) images in their eight orientations, (8, N, C, h, h); the first is their own."""
    turned = [torch.rot90(images, quarter, (2, 3)) for quarter in range(4)]
    return torch.stack([*turned, *(way.flip(3) for way in turned)])


def table(found: Iterable[Figure]) -> str:
    """The figures in columns, for people."""
    rows = [
        ("", "samples", "good"),
        *((f.name, _number(f.samples), _number(f.good)) for f in found),
    ]
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows)


def _of_sets(net: str, images: Float64, good: Float64) -> dict[str, float]:
    """Figures of one set of features (N, F) against the yardstick's (M, F)."""
    kernel = kernel_distance(images, good)
    centres, spread = _classes(good)
    return {
        f"FID-like on {net}": frechet(gauss(images), gauss(good)),
        f"KID-like on {net}": kernel.value,
        f"KID-like on {net}: standard error": kernel.error,
        f"precision on {net}": inside(images, good),
        f"recall on {net}": inside(good, images),
        f"inception-style score, {len(centres)} clusters of {net}": fidelity.score(
            images, centres, spread
        ),
    }


def _near(net: str, samples: Described, training: Described, held_out: Described) -> list[Figure]:
    """Whether images were learnt by heart; the held-out ones were not."""
    own = fidelity.nearest(held_out.features, training.features[:, 0]).distance
    near = fidelity.nearest(samples.features, training.features[:, 0]).distance
    drawn, good = fidelity.copied(near, own), fidelity.copied(own, own)
    return [
        Figure(f"memorised share on {net}", drawn.share, good.share),
        Figure(f"nearest-train distance on {net}, over held-out", drawn.ratio, good.ratio),
    ]


def _classes(good: Float64) -> tuple[Float64, float]:
    """Centres of clusters of (M, F) features, and the variance of a feature within one."""
    with threadpool_limits(1):  # the same clusters on any number of cores
        count = min(CLASSES, len(good) // 2)
        fitted = KMeans(count, n_init=4, random_state=0).fit(good)
    return np.asarray(fitted.cluster_centers_), float(fitted.inertia_ / good.size)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
