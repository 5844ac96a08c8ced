"""VQ-VAE: an image in a few known parts; odd is which parts stand where, or what they cannot draw.

Each patch of 2^depth x 2^depth cells becomes a vector z and is redrawn from the nearest of
`codes` code vectors e (training/codebook.py). Trained on good images only,

    loss = D(x, x') / D0 + commitment * mean |z - sg(e)|^2

with D the squared error (output "gaussian") or the cross-entropy of the fail rate ("bernoulli",
for wafer maps), averaged over covered cells, and D0 that of the best constant image. The codes
follow z by their own running means; sg stops gradients. Until 60 % of the budget is spent, codes
that are hardly used move.

A prior learns at once, as a second player, which codes are usual (training/tokens.py): row by
row ("autoregressive") or from both sides ("masked"). Code i costs c_i = -log p(k_i | others
shown), and

    surprise    c_i, shared out over the patch's covered cells: sums to -log p(k), where masked to
                a pseudo-likelihood. `usual` and `varied` are mean and variance of c_i under p
    expected    the restoration: where c_i exceeds the limit, the prior's likeliest code instead,
                then redrawn. The limit is the quantile `restore` of good codes' costs.
                With rounds = 0 the plain redraw

A patch without coverage has no code. Between the two nearest codes, and within RAMP nats above
the limit, an image has some of both: a code that flips at the last digit would flip a verdict.

Sources: van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", NeurIPS
2017, section 3, equation 3 and appendix A.1. Naval Marimont, Tarroni, "Anomaly detection through
latent space restoration using vector-quantized variational autoencoders", ISBI 2021.

Shapes: N images, C channels, h, w cells, D numbers of a code vector, K codes, r, s codes a side.
"""

import math
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.errors import BadSettings
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.training.blocks import Up, down, require_halvings
from inspect_ai.training.codebook import Codebook, perplexity, straight_through
from inspect_ai.training.descent import Batch, Drawn, Run, descend
from inspect_ai.training.detector import Stage
from inspect_ai.training.tokens import Hidden, Ordered, Prior, Sizes, cost, moments

RAMP = 1.0  # nats from none of the likeliest code to all of it
SHARP = 8.0  # power of p that stands for its likeliest code
SETTLED = 0.6  # of the budget; the running mean of the weights forgets what moved before
FLAT = 1e-4  # least misfit of the best constant image
SHOWN = 8  # images on a sheet


class Config(Settings):
    """Size and output of a VQ-VAE, and the prior of its codes."""

    width: int = Field(default=16, ge=4)  # channels of the first layer; doubled at each halving
    depth: int = Field(default=2, ge=1, le=6)  # halvings
    codes: int = Field(default=32, ge=2)  # K
    dimension: int = Field(default=16, ge=1)  # D
    output: Literal["gaussian", "bernoulli"] = "gaussian"
    commitment: float = Field(default=0.25, ge=0)  # weight of the distance of z from its code
    decay: float = Field(default=0.8, ge=0, lt=1)  # g of the codebook, at a step
    prior: Literal["autoregressive", "masked"] = "autoregressive"
    prior_width: int = Field(default=32, ge=1)  # channels of the prior
    prior_layers: int = Field(default=2, ge=1)
    restore: float = Field(default=0.98, gt=0, lt=1)  # share of good codes that stay as they are
    rounds: int = Field(default=1, ge=0, le=16)  # of restoration; 0: the plain redraw

    def build(self, channels: int, grid: tuple[int, int]) -> "VQVAE":
        """The model for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: the grid cannot be halved `depth` times.
        """
        require_halvings(grid, self.depth)
        return VQVAE(self, channels, grid)


class VQVAE(Stage):
    """See the module's docstring for the method."""

    gives: ClassVar[tuple[str, ...]] = ("surprise", "usual", "varied")

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.channels, self.step = config, channels, 2**config.depth
        small = (grid[0] // self.step, grid[1] // self.step)
        self.latent, self.grid = (config.dimension, *small), grid
        self.coder = Coder(config, channels)
        sizes = Sizes(config.codes, small, config.prior_width, config.prior_layers)
        self.prior: Prior = Hidden(sizes) if config.prior == "masked" else Ordered(sizes)

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        descend({"coder": self.coder, "prior": self.prior}, self.loss, batches, run)
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        places = self.places(images)
        q = self.coder.book.shares(self.coder.encode(images)) * places.counts
        logp = self.prior(q, places.covered)
        usual, varied = moments(logp)
        c = cost(q, logp)
        shared = [self.shared(x * places.counts[:, 0], places) for x in (c, usual, varied)]
        restored = self.restored(q, logp, places)
        expected = torch.sigmoid(self.coder.redraw(restored))
        return Seen(expected, shared[0], usual=shared[1], varied=shared[2])

    def loss(self, player: str, batch: Batch) -> Tensor:
        """A scalar for (N, C + 1, h, w) images; the codebook follows on the coder's turn."""
        places = self.places(batch.images)
        if player == "coder":
            return self.coder.loss(batch.images, places.counts, batch.course < SETTLED)
        with torch.no_grad():
            q = self.chosen(batch.images, places)
        return self.prior.loss(q, places.covered, self.config.restore)

    def restored(self, q: Tensor, logp: Tensor, places: "Places") -> Tensor:
        """Codes with shares q (N, K, r, s), the unusual ones replaced.

        Args:
            logp: (N, K, r, s), what the prior says of q.
        """
        for turn in range(self.config.rounds):
            if turn:
                logp = self.prior(q, places.covered)
            unusual = ((cost(q, logp) - self.prior.limit) / RAMP).clamp(0, 1)[:, None]
            likeliest = torch.softmax(SHARP * logp, 1) * places.counts
            q = q + unusual * (likeliest - q)
        return q

    def chosen(self, images: Tensor, places: "Places") -> Tensor:
        """The nearest code of each patch, 0/1 (N, K, r, s)."""
        return self.coder.book.nearest(self.coder.encode(images)) * places.counts

    def places(self, images: Tensor) -> "Places":
        """What is covered of images (N, C + 1, h, w)."""
        w, step = images[:, -1:], self.step
        rows, columns = w.shape[2] // step, w.shape[3] // step
        sums = w.reshape(-1, 1, rows, step, columns, step).sum((3, 5))
        return Places(w, sums / step**2, (sums > 0).float())

    def shared(self, nats: Tensor, places: "Places") -> Tensor:
        """Nats of codes (N, r, s) over the cells they stand for, (N, h, w), by coverage."""
        each = nats[:, None] / (places.covered + (1 - places.counts)) / self.step**2
        return (F.interpolate(each, scale_factor=float(self.step), mode="nearest") * places.w)[:, 0]

    @override
    @torch.no_grad()
    def sample(self, like: Tensor, seed: int, condition: Tensor | None = None) -> Tensor:
        if not isinstance(self.prior, Ordered):
            raise BadSettings(
                'prior = "masked" cannot be sampled, needed is one with an order of codes. Train '
                'with prior = "autoregressive".'
            )
        q = self.prior.sample(self.places(like).covered, torch.Generator().manual_seed(seed))
        return torch.sigmoid(self.coder.redraw(q)) * (like[:, -1:] > 0)

    @override
    def told(self, images: Tensor, condition: Tensor | None) -> dict[str, float]:
        places = self.places(images)
        q = self.chosen(images, places)
        used = q.sum((0, 2, 3)) > 0
        c = cost(q, self.prior(q, places.covered))
        numbers = (images[:, -1:].sum() * self.channels).clamp(min=1)
        count = places.counts.sum().clamp(min=1)
        return {
            "codes_used": float(used.sum()),
            "codes_used_share": float(used.float().mean()),
            "code_perplexity": perplexity(q),
            "code_nats": float(c.sum() / count),
            "code_bits_per_dim": float(c.sum() / numbers / math.log(2)),
            "codes_restored_share": float((c > self.prior.limit).sum() / count),
            "redraw_misfit": float(misfit(self.coder.redraw(q), images, self.config.output)),
        }

    @override
    def pictures(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        images = images[:SHOWN]
        odd = planted(images)
        sheets = {"redraws": [images[:, :-1], self.redrawn(images)]}
        sheets["restorations"] = [odd[:, :-1], self.redrawn(odd), self(odd).expected]
        if isinstance(self.prior, Ordered):
            sheets["samples"] = [self.sample(images, seed) for seed in (0, 1)]
        seen = images[:, -1:] > 0
        return {name: torch.stack([x * seen for x in sheet]) for name, sheet in sheets.items()}

    @override
    def encode(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """z, which no code stands for yet."""
        return self.coder.encode(images)

    @override
    def decode(self, z: Tensor, coverage: Tensor, condition: Tensor | None = None) -> Tensor:
        """Redrawn from the nearest codes; where nothing is covered there is none."""
        q = self.coder.book.shares(z) * self.places(coverage).counts
        return torch.sigmoid(self.coder.redraw(q))

    def redrawn(self, images: Tensor) -> Tensor:
        """(N, C, h, w) in [0, 1], each patch from its nearest code."""
        return torch.sigmoid(self.coder.redraw(self.chosen(images, self.places(images))))


class Places(NamedTuple):
    """What is covered of images."""

    w: Tensor  # (N, 1, h, w) coverage
    covered: Tensor  # (N, 1, r, s) in [0, 1], the mean of w over a patch
    counts: Tensor  # (N, 1, r, s) 1 where any of a patch is covered, else 0


class Coder(nn.Module):
    """Images to vectors and codes back to images."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**i for i in range(config.depth)]
        enter = [channels + 1, *widths[:-1]]
        self.encoder = nn.Sequential(
            *(down(a, b) for a, b in zip(enter, widths, strict=True)),
            nn.Conv2d(widths[-1], config.dimension, 1),
        )
        self.book = Codebook(config.codes, config.dimension, config.decay)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.dimension, widths[-1], 3, padding=1),
            nn.SiLU(),
            *(Up(a, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)),
            nn.Conv2d(widths[0], 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, images: Tensor) -> Tensor:
        """(N, C + 1, h, w) images to z (N, D, r, s)."""
        shown = torch.cat([images[:, :-1] * images[:, -1:], images[:, -1:]], 1)
        z: Tensor = self.encoder(shown)
        return z

    def redraw(self, q: Tensor) -> Tensor:
        """Shares of codes (N, K, r, s) to logits (N, C, h, w)."""
        logits: Tensor = self.decoder(self.book.mixed(q))
        return logits

    def loss(self, images: Tensor, counts: Tensor, restarts: bool) -> Tensor:
        """Misfit and commitment; the codebook follows.

        Args:
            counts: (N, 1, r, s), 1 where a patch has a code.
            restarts: whether codes that are hardly used move.
        """
        z = self.encode(images)
        if restarts:
            self.book.restart(z.detach(), counts[:, 0])
        chosen = self.book.nearest(z.detach()) * counts
        e = self.book.mixed(chosen)
        logits = self.decoder(straight_through(z, e) * counts)
        kind = self.config.output
        drawn = misfit(logits, images, kind) / constant_misfit(images, kind)
        apart = ((z - e).square() * counts).sum() / (counts.sum() * z.shape[1]).clamp(min=1)
        self.book.follow(z.detach(), chosen)
        return drawn + self.config.commitment * apart


def misfit(logits: Tensor, images: Tensor, output: str) -> Tensor:
    """D(x, x') averaged over covered cells; what is not covered has no say."""
    x, w = images[:, :-1], images[:, -1:]
    if output == "bernoulli":
        error = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    else:
        error = (x - torch.sigmoid(logits)).square()
    return (w * error).sum() / (w.sum() * x.shape[1]).clamp(min=1)


def constant_misfit(images: Tensor, output: str) -> Tensor:
    """D0: D of the images' mean, by channel, averaged over channels."""
    x, w = images[:, :-1], images[:, -1:]
    total = w.sum().clamp(min=1)
    mean = (w * x).sum((0, 2, 3)) / total
    if output == "bernoulli":
        found = torch.special.entr(mean) + torch.special.entr(1 - mean)
    else:
        found = (w * (x - mean[:, None, None]).square()).sum((0, 2, 3)) / total
    least: Tensor = found.mean().clamp(min=FLAT)
    return least


def planted(images: Tensor) -> Tensor:
    """Images with a square in the middle, bright where they are dark and dark where bright."""
    h, w = images.shape[2] // 2, images.shape[3] // 2
    far, odd = max(1, h // 4), images.clone()
    middle = odd[:, :-1, h - far : h + far, w - far : w + far]
    middle.copy_((middle.mean((2, 3), keepdim=True) < 0.5).float().expand_as(middle))
    return odd
