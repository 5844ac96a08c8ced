"""Diffusion: odd is what a denoiser of good images takes for noise.

A network learns to tell good images from the noise added to them, at all levels of noise at once
(diffusing/process.py). To score needs no sampler: a few noise levels, one call each, all in one
batch (diffusing/looks.py). Rule "diffusion" scores the denoising error, the score's length, the
noise an image comes from or the time it seems to stand at; the rules on an expectation score

    redraw = "levels"     the mean of what is expected at those noise levels
    redraw = "partial"    the image noised to `start` and drawn back by DDIM in `calls` steps

and those on a likelihood the variational bound. Strong noise leaves little of the image: what is
expected is then the good image of its kind. Which levels are best depends on the images: of the
schedule about a third on wafer maps, two thirds on printed dies, all of the middle on textures.

With noise = "simplex" the noise has clouds of all sizes, and patches are what is taken away; there
is then no bound on a likelihood.

Sources: see diffusing/process.py, looks.py, schedules.py.

Shapes: N images, C channels, h, w cells.
"""

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from inspect_ai.diffusing import config
from inspect_ai.diffusing.process import Process
from inspect_ai.diffusing.tale import Tale


class Config(config.Config):
    """The process, and how it is scored."""

    conditional: ClassVar[bool] = True

    def build(self, channels: int, grid: tuple[int, int], classes: int = 0) -> "Cloudy":
        """The model for C channels on a grid of (h, w) cells, and so many conditions.

        Raises:
            BadSettings: the grid cannot be halved as often as the network asks for.
        """
        kind = Diffusion if self.noise == "gaussian" else Cloudy
        return kind(self, channels, grid, classes)


class Cloudy(Tale):
    """One whose noise is no Gaussian."""

    gives: ClassVar[tuple[str, ...]] = ("errors", "pull", "time")

    def __init__(
        self, config: Config, channels: int, grid: tuple[int, int], classes: int = 0
    ) -> None:
        super().__init__(Process(config, (channels, *grid), classes), grid)

    @override
    def raw(self, images: Tensor, condition: Tensor | None) -> Tensor:
        return images[:, :-1]

    @override
    def shown(self, raw: Tensor, w: Tensor, condition: Tensor | None) -> Tensor:
        return raw.clamp(0, 1)


class Diffusion(Cloudy):
    """See the module's docstring."""

    gives: ClassVar[tuple[str, ...]] = ("errors", "pull", "time", "inverted", "surprise")
