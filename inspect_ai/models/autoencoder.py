"""Convolutional autoencoder: odd is what a narrow code of good images cannot redraw.

The image goes through a code of `latent` numbers and is redrawn; trained on good images only,

    loss = mean over covered cells of D(x, x') + penalty * |dz/dx|_F^2

with D the squared error (output "gaussian") or the cross-entropy of the fail rate (output
"bernoulli", for wafer maps: binomial with as many trials as dies). Four variants:

    plain         x' from x
    denoising     x' from x + coarse Gaussian noise: pixel noise would teach only smoothing
    contractive   plain, with a penalty on how much the code z moves with the image
    masked        x' of each cell from an image in which that cell is hidden

Sources: Vincent et al., "Stacked denoising autoencoders", JMLR 11, 2010, section 3.
Kascenas, Pugeault, O'Neil, "Denoising autoencoders for unsupervised anomaly detection in brain
MRI", MIDL 2022, section 2 (noise on a coarse grid). Rifai et al., "Contractive auto-encoders",
ICML 2011, equation 3; its Frobenius norm by random projections, Hutchinson, Commun. Stat. 19,
1990. Zavrtanik, Kristan, Skocaj, "Reconstruction by inpainting for visual anomaly detection",
Pattern Recognition 112, 2021, section 3 (masked: every cell hidden once in disjoint sets).

Shapes: N images, C channels, h, w cells, Z latent numbers.
"""

from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.blocks import Up, down, require_halvings
from inspect_ai.training.descent import Drawn, Run, descend
from inspect_ai.training.detector import Model


class Config(Settings):
    """Size, output and variant of an autoencoder."""

    width: int = Field(default=16, ge=4)  # channels of the first layer; doubled at each halving
    depth: int = Field(default=3, ge=1, le=6)  # halvings
    latent: int = Field(default=32, ge=1)
    output: Literal["gaussian", "bernoulli"] = "gaussian"
    variant: Literal["plain", "denoising", "contractive", "masked"] = "plain"
    noise: float = Field(default=0.2, gt=0)  # denoising: standard deviation, on [0, 1]
    noise_cells: int = Field(default=16, ge=1)  # denoising: cells of the coarse noise a side
    penalty: float = Field(default=1e-3, gt=0)  # contractive: weight of the Jacobian's norm
    mask_cells: int = Field(default=4, ge=1)  # masked: side of a hidden square, in cells
    mask_sets: int = Field(default=4, ge=2)  # masked: disjoint sets that hide every cell once

    def build(self, channels: int, grid: tuple[int, int]) -> "Autoencoder":
        """The model for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: the grid cannot be halved `depth` times.
        """
        require_halvings(grid, self.depth)
        return Autoencoder(self, channels, grid)


class Autoencoder(Model):
    """See the module's docstring for the method."""

    hidden: Tensor

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        widths = [config.width * 2**i for i in range(config.depth)]
        small = (widths[-1], grid[0] >> config.depth, grid[1] >> config.depth)
        flat = small[0] * small[1] * small[2]
        enter = [channels + 1, *widths[:-1]]
        self.encoder = nn.Sequential(*(down(a, b) for a, b in zip(enter, widths, strict=True)))
        self.code = nn.Linear(flat, config.latent)
        self.decoder = nn.Sequential(
            nn.Linear(config.latent, flat),
            nn.SiLU(),
            nn.Unflatten(1, small),
            *(Up(a, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)),
            nn.Conv2d(widths[0], 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),  # the last doubling; half the network's cost otherwise
        )
        if config.variant == "masked":
            self.register_buffer("hidden", hiding_sets(config.mask_sets, config.mask_cells, grid))

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        descend({"autoencoder": self}, lambda _, batch: self.loss(batch.images), batches, run)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        if self.config.variant != "masked":
            return Seen(torch.sigmoid(self.redraw(images)))
        redrawn = torch.zeros_like(images[:, :-1])
        for hidden in self.hidden:
            redrawn = redrawn + hidden * torch.sigmoid(self.redraw(hide(images, hidden)))
        return Seen(redrawn)

    def loss(self, images: Tensor) -> Tensor:
        """Mean over covered cells, for (N, C + 1, h, w) images."""
        kind = self.config.variant
        if kind == "denoising":
            return self.misfit(self.redraw(self.noisy(images)), images)
        if kind == "masked":
            chosen = self.hidden[torch.randint(len(self.hidden), (len(images),))][:, None]
            return self.misfit(self.redraw(hide(images, chosen)), images)
        if kind == "contractive":
            images = images.detach().requires_grad_()
            z = self.encode(images)
            (slope,) = torch.autograd.grad(z, images, torch.randn_like(z), create_graph=True)
            stiff = slope[:, :-1].square().sum((1, 2, 3)).mean()  # x alone, not the coverage
            return self.misfit(self.decoder(z), images) + self.config.penalty * stiff
        return self.misfit(self.redraw(images), images)

    def misfit(self, logits: Tensor, images: Tensor) -> Tensor:
        """D(x, x') averaged over covered cells; what is not covered has no say."""
        x, w = images[:, :-1], images[:, -1:]
        if self.config.output == "bernoulli":
            error = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        else:
            error = (x - torch.sigmoid(logits)).square()
        return (w * error).sum() / (w.sum() * self.channels)

    def redraw(self, images: Tensor) -> Tensor:
        """(N, C + 1, h, w) images to (N, C, h, w) logits."""
        logits: Tensor = self.decoder(self.encode(images))
        return logits

    def encode(self, images: Tensor) -> Tensor:
        """(N, C + 1, h, w) images to codes (N, Z)."""
        covered = torch.cat([images[:, :-1] * images[:, -1:], images[:, -1:]], 1)
        codes: Tensor = self.code(self.encoder(covered).flatten(1))
        return codes

    def noisy(self, images: Tensor) -> Tensor:
        """Adds noise drawn on a coarse grid and smoothed between its cells."""
        n, _, h, w = images.shape
        cells = self.config.noise_cells
        coarse = torch.randn(n, self.channels, cells, cells, device=images.device)
        noise = F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
        return torch.cat([images[:, :-1] + self.config.noise * noise, images[:, -1:]], 1)


def hiding_sets(sets: int, side: int, grid: tuple[int, int]) -> Tensor:
    """Disjoint 0/1 masks (sets, h, w) of squares that together hide every cell once.

    Squares go to the sets along diagonals, so that a hidden square's neighbours are seen.
    """
    row = torch.arange(grid[0])[:, None] // side
    column = torch.arange(grid[1])[None, :] // side
    owner = (row + column * (1 + sets // 2 if sets > 2 else 1)) % sets
    return torch.stack([(owner == s).float() for s in range(sets)])


def hide(images: Tensor, hidden: Tensor) -> Tensor:
    """Images with the hidden cells at half grey; the coverage stays."""
    shown = images[:, :-1] * (1 - hidden) + 0.5 * hidden
    return torch.cat([shown, images[:, -1:]], 1)
