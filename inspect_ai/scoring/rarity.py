"""How rare a score is among good ones, as a curve that a graph can hold.

    L(s) = -log P(S >= s),    S the score of a good image, in nats

read off good scores up to a high quantile u, between knots by straight lines. Above it, scores
are taken to fall off exponentially,

    L(s) = -log P(S >= u) + (s - u) / m,    m the mean of s - u over good scores above u.

Source: Pickands, "Statistical inference using extreme order statistics", Annals of Statistics 3,
1975 (the tail beyond a high quantile; here of shape 0).

Shapes: N images, K scores of each, Q knots of a curve, M good images.
"""

import numpy as np
from torch import Tensor

from inspect_ai.scores import Float64

KNOTS = 32


def rarity(scores: Tensor, knots: Tensor, slopes: Tensor) -> Tensor:
    """L of (N, K) scores: a sum of ramps, each of which begins at a knot; 0 below the first."""
    return ((scores[:, :, None] - knots).clamp(min=0) * slopes).sum(2)


def curve(scores: Float64, tail: float) -> tuple[Float64, Float64]:
    """Knots (Q,) of the curve of (M,) good scores, and the change of slope at each.

    Knots are evenly spaced in L up to where the tail begins; the last has the tail's slope.
    """
    ordered = np.sort(scores)
    places = np.quantile(ordered, 1 - np.exp(np.linspace(0, np.log(tail), KNOTS)))
    # the width of the body: one good image far out must not make all others a tie
    width = max(float(np.ptp(places)), 1e-5 * float(np.abs(ordered).max()), 1e-6)
    far = np.flatnonzero(np.diff(places, prepend=-np.inf) > 1e-3 * width)  # ties are one knot
    knots = places[far]
    nats = -np.log(1 - np.searchsorted(ordered, knots) / len(ordered))
    above = ordered[ordered > knots[-1]] - knots[-1]
    mean = float(above.mean()) if len(above) else width
    slopes = np.append(np.diff(nats) / np.diff(knots), 1 / max(mean, 1e-3 * width))
    spare = KNOTS - len(knots)
    return np.pad(knots, (0, spare), "edge"), np.pad(np.diff(slopes, prepend=0.0), (0, spare))
