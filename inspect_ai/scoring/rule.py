"""What a scoring rule is: expectation and image in, anomaly map and one number out."""

from collections.abc import Iterable

from torch import Tensor, nn


class Rule(nn.Module):
    """A scoring rule; exported with the model.

    Shapes: an image is (N, C + 1, H, W), its last channel the coverage; an expectation is
    (N, C, H, W). Both lie in [0, 1].
    """

    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learns what is usual from (image, expected) of good images no weight was fitted on."""

    def forward(self, image: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
        """pred_score (N,) and anomaly_map (N, H, W); higher is odder."""
        raise NotImplementedError
