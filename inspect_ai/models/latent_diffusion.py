"""Latent diffusion: a diffusion process on the codes of a first stage, which redraws from them.

A first stage (a KL or VQ autoencoder) codes each patch of an image in a few numbers and redraws
it from them; the process (diffusing/process.py) learns what codes of good images look like
together. There are far fewer codes than cells, so its network is small or sees far.

    z = encode(x), standardised        coverage of a code: the mean over its patch; a vector's is 1
    errors                             of the noise guessed in z: each cell has that of its code
    pull, inverted                     of z, too: each cell has those of its code
    surprise                           a bound on -log p(z), not on -log p(x): a code's is shared
                                       out over the covered cells of its patch
    expected = decode(expected z)      in the image: what the first stage draws of likely codes

So there are scores in both spaces: rules "diffusion" and "likelihood" score the codes, rules on an
expectation and the structure statistics the image. A VQ stage is coded before quantisation, and
drawn from the nearest codes.

The first stage is trained before, by itself, on the same images, and does not move any more. It is
handed over as a value; its weights are kept beside the process's.

Source: Rombach, Blattmann, Lorenz, Esser, Ommer, "High-resolution image synthesis with latent
diffusion models", CVPR 2022, section 3. Vahdat, Kreis, Kautz, "Score-based generative modeling in
latent space", NeurIPS 2021 (the likelihood of codes).

Shapes: N images, C channels, H, W cells; D numbers of a code, a, b codes a side.
"""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.diffusing import config
from inspect_ai.diffusing.process import Process
from inspect_ai.diffusing.sizes import Sizes
from inspect_ai.diffusing.tale import Tale
from inspect_ai.errors import BadSettings
from inspect_ai.scoring.rule import Seen
from inspect_ai.training.detector import Model, Stage

AS_CODES = ("pull", "inverted")  # fields of Seen of which a cell has what its code has


class Small(Sizes):
    """Size of a network on codes."""

    network: Literal["unet", "dit"] = "dit"
    width: int = Field(default=64, ge=8, le=1024, multiple_of=8)  # numbers of a token
    depth: int = Field(default=4, ge=1, le=24)  # blocks of a DiT
    patch: Literal[1, 2, 4, 8] = 1  # side of a square of codes that is read as one


class Config(config.Config):
    """The process on codes, and how it is scored."""

    conditional: ClassVar[bool] = True

    noise: Literal["gaussian"] = "gaussian"  # codes have no clouds
    net: Small = Small()

    def build(
        self, channels: int, grid: tuple[int, int], classes: int = 0, stage: Model | None = None
    ) -> "LatentDiffusion":
        """The model of the codes of images of (H, W) cells, and so many conditions.

        Args:
            stage: the first stage, trained for these channels and this grid.

        Raises:
            BadSettings: no stage, one without a map of codes, or one that does not fit.
        """
        del channels  # the first stage sees them
        return LatentDiffusion(self, grid, classes, self._fitting(grid, classes, stage))

    def _fitting(self, grid: tuple[int, int], classes: int, stage: Model | None) -> Stage:
        if not isinstance(stage, Stage) or stage.latent is None:
            given = "none" if stage is None else f"a {type(stage).__name__} without a map of codes"
            raise BadSettings(
                f"latent_diffusion needs a first stage, got {given}. Write first_stage = the name "
                "of a run file, beside this one, of a vqvae, or of a vae with levels = 1 and skip "
                "= 0 (spatial = true keeps its codes in their places)."
            )
        _, a, b = stage.latent
        if stage.grid != grid:
            raise BadSettings(
                f"A first stage on a grid of {stage.grid[0]} x {stage.grid[1]} in a model on "
                f"{grid[0]} x {grid[1]}; needed is one grid. Build both on the same."
            )
        try:
            self.net.require((a, b))
        except BadSettings as error:
            raise BadSettings(f"Of the {a} x {b} codes of the first stage: {error}") from error
        if stage.classes not in (0, classes):
            raise BadSettings(
                f"A first stage that is told one of {stage.classes} conditions, in a model that is "
                f"told {f'one of {classes}' if classes else 'none'}; needed are as many, or a "
                "stage without. Use the same [condition] in both run files."
            )
        if a * b == 1 and self.net.network == "unet":
            raise BadSettings(
                "net.network = 'unet' on one code of the whole image; needed is a grid of codes. "
                "Use network = 'dit', or a first stage with several: a vqvae, or a vae with "
                "spatial = true."
            )
        return stage


class LatentDiffusion(Tale):
    """See the module's docstring."""

    gives: ClassVar[tuple[str, ...]] = ("errors", "pull", "time", "inverted", "surprise")
    bits: ClassVar[float] = 0.0  # codes have no smallest step

    def __init__(self, config: Config, grid: tuple[int, int], classes: int, stage: Stage) -> None:
        assert stage.latent is not None
        super().__init__(Process(config, stage.latent, classes), grid)
        self.stage = stage.requires_grad_(False)
        self.whole = stage.latent[1:] == (1, 1)  # one code of the whole image
        self.patch = (grid[0] // stage.latent[1], grid[1] // stage.latent[2])

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.stage.eval()  # it has learnt what it learns
        return self

    @override
    def raw(self, images: Tensor, condition: Tensor | None) -> Tensor:
        return self.stage.encode(images, self._told(condition))

    @override
    def shown(self, raw: Tensor, w: Tensor, condition: Tensor | None) -> Tensor:
        return self.stage.decode(raw, w, self._told(condition))

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        w = images[:, -1:]
        seen = super().forward(images, condition)
        if seen.errors is not None:
            seen = seen._replace(errors=self.spread(seen.errors) * (w > 0))
        for name in AS_CODES:
            of_codes = getattr(seen, name)
            if of_codes is not None:
                seen = seen._replace(**{name: self.spread(of_codes[:, None])[:, 0] * (w > 0)[:, 0]})
        if seen.surprise is not None:
            seen = seen._replace(surprise=self.shared(seen.surprise, w))
        return seen

    @override
    def covered(self, w: Tensor) -> Tensor:
        cells = self.summed(w)
        return torch.ones_like(cells) if self.whole else cells / (self.patch[0] * self.patch[1])

    def summed(self, w: Tensor) -> Tensor:
        """(N, 1, H, W) to its sums over patches, (N, 1, a, b)."""
        (tall, wide), (height, width) = self.patch, w.shape[2:]
        cut = w.reshape(-1, 1, height // tall, tall, width // wide, wide)
        return cut.sum((3, 5))

    def spread(self, of_codes: Tensor) -> Tensor:
        """(N, K, a, b) to (N, K, H, W): to each cell what its code has."""
        sides = (float(self.patch[0]), float(self.patch[1]))
        return F.interpolate(of_codes, scale_factor=sides, mode="nearest")

    def shared(self, of_codes: Tensor, w: Tensor) -> Tensor:
        """(N, a, b) to (N, H, W): shared out over what is covered of each patch."""
        cells = self.summed(w)
        each = of_codes[:, None] / (cells + (cells == 0).to(w))
        return (self.spread(each) * w)[:, 0]

    @override
    def levels(self, images: Tensor, condition: Tensor | None) -> list[Tensor]:
        """What the first stage redraws by itself, and what is expected at each noise level."""
        z = self.raw(images, condition)
        return [self.shown(z, images[:, -1:], condition), *super().levels(images, condition)]

    @override
    @torch.no_grad()
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        found = super().told(images, condition)
        return {f"latent_{name}": figure for name, figure in found.items()}

    def _told(self, condition: Tensor | None) -> Tensor | None:
        """What the first stage is told: nothing, where it is told of no condition."""
        return condition if self.stage.classes else None
