"""Wafer statistics: no model at all, the yardstick of all others on wafer maps.

Each die is expected to fail at the wafer's own rate, so that residuals are fails less that rate.
Rule "density" puts classical numbers on them: the fail rate, the largest cluster, smoothed
energies, products of neighbours, and densities over several of these.

Sources: Jeong, Kim, Jeong, "Automatic identification of defect patterns in semiconductor wafer
maps using spatial correlogram and dynamic time warping", IEEE Trans. Semicond. Manuf. 21(4),
2008 (products of neighbours). Hansen, Nair, Friedman, "Monitoring wafer map data from integrated
circuit fabrication processes for spatially clustered defects", Technometrics 39(3), 1997.

Shapes: N maps, H, W dies.
"""

from typing import ClassVar, Self

from torch import Tensor
from typing_extensions import override

from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.descent import Drawn, Run
from inspect_ai.training.detector import Model


class Config(Settings):
    """There is nothing to set, and nothing to learn; all is in the rule."""

    def build(self, channels: int, grid: tuple[int, int]) -> "WaferStatistics":
        """The model; it fits any grid."""
        del channels, grid
        return WaferStatistics()


class WaferStatistics(Model):
    """See the module's docstring."""

    maps_only: ClassVar[bool] = True
    native: ClassVar[bool] = True

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        fails, dies = images[:, :1] * images[:, 1:], images[:, 1:]
        count = dies.sum((1, 2, 3), keepdim=True).clamp(min=1)
        return Seen((fails.sum((1, 2, 3), keepdim=True) / count).expand_as(fails))
