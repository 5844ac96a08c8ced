"""A diffusion process on images or on codes: schedule, network, training and drawing.

x has deviation 1 over good images, one centre and scale a channel; what is not covered is 0 in x,
in noise and in what a network gives. Per image, with time t drawn evenly (one draw for a batch,
the others in equal steps from it),

    loss = weight(t) * mean over covered numbers of |network(x_t, w, t / T) - target|^2

A condition (product, layer) is dropped for a share of images, so that one network knows both
p(x | c) and p(x); guidance g moves a draw from one past the other:

    x_0 = x_0(none) + g (x_0(c) - x_0(none)),    g = 1 is the conditional network alone

Sources: Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, algorithm 1.
Ho, Salimans, "Classifier-free diffusion guidance", 2022, equation 6. Kingma, Salimans, Poole, Ho,
"Variational diffusion models", NeurIPS 2021, appendix I.1 (times in equal steps). The range: Ho,
Jain, Abbeel, 2020, appendix B, of whose images it is [-1, 1].

Shapes: N images, D channels, h, w cells; an image is x (N, D, h, w) and coverage w (N, 1, h, w).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspect_ai.diffusing.config import Config
from inspect_ai.diffusing.networks import network
from inspect_ai.diffusing.noise import antithetic, simplex
from inspect_ai.diffusing.samplers import Denoise, draw, strided
from inspect_ai.diffusing.schedules import Schedule
from inspect_ai.diffusing.timer import Timer
from inspect_ai.errors import BadSettings
from inspect_ai.training.descent import Batch, Drawn, Run, descend
from inspect_ai.training.draws import opposite

TIMER = 16  # channels of the timer: it is to cost little beside the network
MEASURED = 32  # times at which the network's error is measured, in even steps
FLATTEST = 1e-3  # least deviation of a channel: a flat one would become all noise


class Image(NamedTuple):
    """Standardised numbers, how much of each cell is covered, and what it is an image of."""

    x: Tensor  # (N, D, h, w)
    w: Tensor  # (N, 1, h, w) in [0, 1]
    condition: Tensor | None  # (N,) int64

    @property
    def there(self) -> Tensor:
        """1 where anything is covered, (N, 1, h, w)."""
        return (self.w > 0).to(self.x)


Images = Callable[[Tensor, Tensor | None], Image]  # (N, C + 1, h, w) and condition to an image


class Process(nn.Module):
    """See the module's docstring."""

    centre: Tensor
    scale: Tensor
    misfits: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, config: Config, shape: tuple[int, int, int], classes: int = 0) -> None:
        """For (D, h, w) numbers.

        Raises:
            BadSettings: the network does not fit, or is to be guided by a condition that is none.
        """
        super().__init__()
        if config.guidance != 1 and not classes:
            raise BadSettings(
                f"guidance = {config.guidance:g} without a [condition] to be guided by; needed is "
                "one. Add it to the run file, or drop 'guidance'."
            )
        self.config, self.shape, self.classes = config, shape, classes
        d, *grid = shape
        self.schedule = Schedule(config.schedule, config.steps)
        self.net = network(config.net, d + 1, d, (grid[0], grid[1]), classes)
        self.timer = Timer(d + 1, TIMER, config.bins, (grid[0], grid[1]))
        self.register_buffer("centre", torch.zeros(d, 1, 1))
        self.register_buffer("scale", torch.ones(d, 1, 1))
        self.register_buffer("misfits", torch.ones(MEASURED))
        self.register_buffer("least", torch.full((d, 1, 1), -torch.inf))
        self.register_buffer("most", torch.full((d, 1, 1), torch.inf))

    def standardise(self, x: Tensor, w: Tensor) -> None:
        """Learns centre, scale and range of each channel from (M, D, h, w) good images."""
        total = w.sum().clamp(min=1)
        self.centre.copy_(((w * x).sum((0, 2, 3)) / total)[:, None, None])
        spread = ((w * (x - self.centre).square()).sum((0, 2, 3)) / total).sqrt()
        self.scale.copy_(spread.clamp(min=FLATTEST)[:, None, None])
        seen = self.image(x, w, None).x.transpose(0, 1).flatten(1)  # 0, the mean, where not covered
        self.least.copy_(seen.amin(1)[:, None, None])
        self.most.copy_(seen.amax(1)[:, None, None])

    def image(self, x: Tensor, w: Tensor, condition: Tensor | None) -> Image:
        """Standardised, 0 where nothing is covered."""
        return Image((x - self.centre) / self.scale * (w > 0), w, condition)

    def raw(self, x: Tensor) -> Tensor:
        """Standardised numbers as they were."""
        return x * self.scale + self.centre

    def fit(self, images: Images, batches: Drawn, run: Run) -> None:
        """Trains network and timer; `images` makes x, w and condition of a batch."""
        made: list[tuple[Tensor, Image]] = []  # both players see the same batch

        def loss(player: str, batch: Batch) -> Tensor:
            if not made or made[0][0] is not batch.images:
                with torch.no_grad():
                    made[:] = [(batch.images, images(batch.images, batch.condition))]
            image = made[0][1]
            return self.loss(image) if player == "network" else self.timing(image)

        descend({"network": self.net, "timer": self.timer}, loss, batches, run)

    @torch.no_grad()
    def measure(self, images: Sequence[Image]) -> None:
        """Measures the mean squared error of x_0 along the schedule, on images of the training.

        It is kept as a share of what is left of N(0, 1) numbers, 1 / (1 + SNR): that hardly moves.
        """
        numbers = torch.stack([i.w.sum() for i in images]).sum().clamp(min=1) * self.shape[0]
        noise = self.fixed(MEASURED * len(images), 4).to(images[0].x)
        for place in range(MEASURED):
            t, total = 1 + place * (self.config.steps - 1) // (MEASURED - 1), 0 * numbers
            for image, eps in zip(images, noise[place * len(images) :], strict=False):
                x_t = self.schedule.noised(image.x, eps * image.there, t)
                total += (image.w * (image.x - self.denoised(image, x_t, t)).square()).sum()
            share = total / numbers * (1 + self.schedule.snr(t))
            self.misfits[place] = share.clamp(min=FLATTEST)

    def misfit(self, times: Sequence[int]) -> Tensor:
        """The mean squared error of x_0 (K,) at times, between those that were measured."""
        place = (torch.tensor(times, device=self.scale.device) - 1) * (MEASURED - 1)
        place = place / (self.config.steps - 1)
        low = place.long().clamp(max=MEASURED - 2)
        share = torch.lerp(self.misfits[low], self.misfits[low + 1], place - low)
        return share / (1 + self.schedule.snr(torch.tensor(times, device=self.scale.device)))

    def loss(self, image: Image) -> Tensor:
        """The network's, a scalar."""
        t, eps = self._times(image.x), self.fresh(image.x) * image.there
        x_t = self.schedule.noised(image.x, eps, t)
        target = self.config.target
        out = self._asked(image._replace(condition=self._dropped(image.condition)), x_t, t)
        wanted = self.schedule.wanted(image.x, eps, t, target)
        error = (image.w * (out - wanted).square()).sum((1, 2, 3))
        numbers = (image.w.sum((1, 2, 3)) * self.shape[0]).clamp(min=1)
        return (self.schedule.weight(t, target, self.config.gamma) * error / numbers).mean()

    def timing(self, image: Image) -> Tensor:
        """The timer's: cross-entropy of the time that x_t was made at."""
        t, eps = self._times(image.x), self.fresh(image.x) * image.there
        x_t = self.schedule.noised(image.x, eps, t)
        logits = self.timer(torch.cat([x_t, image.w], 1))
        return F.cross_entropy(logits, (t - 1) * self.config.bins // self.config.steps)

    def denoised(self, image: Image, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The expected x_0 of (N, D, h, w) noisy ones, 0 where nothing is covered.

        Args:
            t: one time for all, or (N,).
        """
        out = self._asked(image, x_t, t)
        return self.schedule.x0(out, x_t, t, self.config.target) * image.there

    def guided(self, image: Image, guidance: float) -> Denoise:
        """x_0 as drawn images of a class are guided to it, in the range of good images."""

        def denoise(x_t: Tensor, t: int) -> Tensor:
            x0 = self.denoised(image, x_t, t)
            if image.condition is not None and guidance != 1:
                untold = image._replace(condition=torch.full_like(image.condition, self.classes))
                other = self.denoised(untold, x_t, t)
                x0 = other + guidance * (x0 - other)
            # of almost nothing but noise, e^ says little of x_0, and is multiplied by 1 / a_t
            return x0.clamp(self.least, self.most)

        return denoise

    def draw(self, w: Tensor, seed: int, condition: Tensor | None, calls: int) -> Tensor:
        """New raw numbers (N, D, h, w) where w (N, 1, h, w) covers; the same seed, the same."""
        like = Image(torch.zeros(w.shape[0], *self.shape, device=w.device), w, condition)
        with torch.random.fork_rng():
            torch.manual_seed(seed)

            def noise(x: Tensor) -> Tensor:
                return self.fresh(x) * like.there

            times = strided(self.config.steps, calls)
            guided = self.guided(like, self.config.guidance)
            x = draw(guided, self.schedule, noise(like.x), times, self.config.eta, noise)
        return self.raw(x)

    def fresh(self, x: Tensor) -> Tensor:
        """New noise in the shape of x, by torch's global generator."""
        if self.config.noise == "gaussian":
            return torch.randn_like(x)
        return simplex(x.shape[0], self.shape, octaves=self.octaves).to(x)

    def fixed(self, count: int, seed: int) -> Tensor:
        """Noise (count, D, h, w) that never changes, in pairs of opposite sign."""
        if self.config.noise == "gaussian":
            return antithetic(count, self.shape, seed)
        seeded = torch.Generator().manual_seed(seed)
        return opposite(simplex((count + 1) // 2, self.shape, seeded, self.octaves), count)

    @property
    def octaves(self) -> int:
        """Of simplex noise, from a quarter of the longer side down to a period of two cells."""
        return max(1, int(math.log2(max(self.shape[1:]) / 4)))

    def _asked(self, image: Image, x_t: Tensor, t: int | Tensor) -> Tensor:
        share = x_t.new_ones(x_t.shape[0]) * t / self.config.steps
        out: Tensor = self.net(torch.cat([x_t, image.w], 1), share, image.condition)
        return out

    def _times(self, x: Tensor) -> Tensor:
        """(N,) times in 1 .. T, in equal steps around the schedule from one that is drawn."""
        steps = torch.arange(x.shape[0], device=x.device) / x.shape[0]
        share = (torch.rand(1, device=x.device) + steps) % 1
        return (share * self.config.steps).long().clamp(max=self.config.steps - 1) + 1

    def _dropped(self, condition: Tensor | None) -> Tensor | None:
        if condition is None:
            return None
        left_out = torch.rand(condition.shape, device=condition.device) < self.config.drop
        return torch.where(left_out, self.classes, condition)
