"""What a scoring rule is: an image and what a model makes of it in, a map and one number out."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from inspect_ai.errors import MissingData


class Seen(NamedTuple):
    """What a model makes of N images; None where it does not say.

    Shapes: C channels, H, W cells of the view at which images are scored.
    """

    expected: Tensor  # (N, C, H, W) in [0, 1], what it expects to see
    surprise: Tensor | None = None  # (N, H, W) nats; sums to -log p(x), or to a bound on it
    odds: Tensor | None = None  # (N,) log-odds that the image is not as good ones are
    usual: Tensor | None = None  # (N, H, W) nats; mean of the surprise under the prediction itself
    varied: Tensor | None = None  # (N, H, W) nats^2; its variance there
    background: Tensor | None = None  # (N, H, W) nats; surprise of a simpler model
    kl: Tensor | None = None  # (N,) nats; what the latent code costs
    slope: Tensor | None = None  # (N, H, W) nats; how fast the surprise changes with the image
    features: Tensor | None = None  # (N, H, W); sums to the distance of a critic's features
    codes: Tensor | None = None  # (N,); squared distance of two latent codes
    unreal: Tensor | None = None  # (N,); how little a critic takes it for a good image
    errors: Tensor | None = None  # (N, K, H, W); squared error of the noise guessed at K levels
    pull: Tensor | None = None  # (N, H, W); squared length of the score at the clean image
    inverted: Tensor | None = None  # (N, H, W) nats; x_T^2 / 2, the noise an image comes from
    time: Tensor | None = None  # (N,) in [0, 1]; how noisy it looks, as a share of the schedule


class Rule(nn.Module):
    """A scoring rule; exported with the model.

    An image is (N, C + 1, H, W) in [0, 1], its last channel the coverage.
    """

    needs: tuple[str, ...] = ()  # fields of Seen beyond the expectation
    maps_only: bool = False  # whether it can score wafer maps alone
    at_dies: bool = False  # whether it sees a map's dies, on a canvas of any size, or the grid
    any_size: bool = False  # whether it can score either, as its model does

    def fit(self, pairs: Iterable[tuple[Tensor, Seen]]) -> None:
        """Learns what is usual from good images that no weight was fitted on."""

    def forward(self, image: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """pred_score (N,) and anomaly_map (N, H, W); higher is odder."""
        raise NotImplementedError


def require_two(good: int, rule: str) -> None:
    """Refuses good images, or cells of them, too few to tell what is usual.

    Raises:
        MissingData: fewer than two.
    """
    if good < 2:
        raise MissingData(
            f"{good} good image(s) or cells held out of training; rule '{rule}' learns what is "
            "usual from 2 or more. Add images, or raise 'held_out' in the run file."
        )
