"""What a trained process says of an image that is to be scored; the noise is always the same.

With e^ and x_0^ what the network has at x_t (schedules.py), over D channels of a cell:

    errors      mean of |e - e^|^2 at K levels t_k, one call each and draw: a step, no sampler
    expected    mean of x_0^ over the same calls; or "partial": x_t at t = start, drawn back by DDIM
    pull        |e^(a_t x_0)|^2 where no noise was added, a small t told: the score's length there
    inverted    |x_T|^2 / 2 for the noise x_T from which DDIM would draw the image; in few steps,
                which are coarse (below about 50), of what stands for it
    time        expected time of a clean image, as a share of T, as the timer sees it
    surprise    the variational bound on -log p(x) of the sampler with that many steps (bound.py)

All levels and draws go through the network as one batch. Noise is shared by all images, so that
scores compare, and comes in pairs of opposite sign, so that what is odd in it cancels: both of a
pair at one level where `draws` is even, else at neighbouring levels.

Sources: Graham et al., "Denoising diffusion models for out-of-distribution detection", CVPRW 2023
(several levels). Wyatt, Leach, Schmon, Willcocks, "AnoDDPM", CVPRW 2022 (partial diffusion,
simplex noise). Tebbe, Tayyub, "Dynamic addition of noise in a diffusion model for anomaly
detection", CVPRW 2024 (a scaled image without noise). Song, Meng, Ermon, "Denoising diffusion
implicit models", ICLR 2021, section 4.3 (inversion). Livernoche, Jain, Hezaveh, Ravanbakhsh, "On
diffusion modeling for anomaly detection", ICLR 2024 (time). Kingma et al., "Variational diffusion
models", NeurIPS 2021 (bound).

Shapes: N images, D channels, h, w cells, K levels, E draws, M = K E.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inspect_ai.diffusing.bound import Bound, bound
from inspect_ai.diffusing.process import Image, Process
from inspect_ai.diffusing.samplers import draw, inverted, strided
from inspect_ai.training.draws import copies


class Looks(nn.Module):
    """See the module's docstring."""

    at: Tensor
    level_noise: Tensor
    start_noise: Tensor
    bound_noise: Tensor

    def __init__(self, process: Process) -> None:
        super().__init__()
        config = process.config
        self._process = [process]  # not a part: its weights have their place in the model
        times = torch.tensor(config.times).repeat_interleave(config.draws)
        self.register_buffer("at", times, persistent=False)
        self.bound_times = process.schedule.even(config.bound)
        kept = {"level": len(times), "start": 1, "bound": config.bound}
        for seed, (name, count) in enumerate(kept.items()):
            noise = process.fixed(count, seed)
            self.register_buffer(f"{name}_noise", noise, persistent=False)

    @property
    def process(self) -> Process:
        """The process that is asked."""
        return self._process[0]

    def levels(self, image: Image) -> tuple[Tensor, Tensor]:
        """errors (N, K, h, w), and the expected x_0 (N, D, h, w)."""
        noise, x_t, x0 = self._many(image, self.level_noise, self.at)
        eps = self.process.schedule.eps(x0, x_t, self.at, "x0")
        errors = (noise - eps).square().mean(2) * image.there
        return self._by_level(errors), x0.mean(1)

    def expected(self, image: Image) -> Tensor:
        """The expected x_0 of each level, (N, K, D, h, w)."""
        return self._by_level(self._many(image, self.level_noise, self.at)[2])

    def partial(self, image: Image) -> Tensor:
        """x_0 (N, D, h, w) drawn back from `start` by DDIM."""
        config, schedule = self.process.config, self.process.schedule
        times = strided(config.steps, config.calls, config.time(config.start))
        x_t = schedule.noised(image.x, self.start_noise * image.there, times[0])
        return draw(lambda x, t: self.process.denoised(image, x, t), schedule, x_t, times)

    def pull(self, image: Image) -> Tensor:
        """(N, h, w); in units of the noise told."""
        t = self.process.config.time(self.process.config.still)
        schedule = self.process.schedule
        x_t = schedule.at(t)[0] * image.x
        eps = schedule.eps(self.process.denoised(image, x_t, t), x_t, t, "x0")
        return eps.square().mean(1)

    def inverted(self, image: Image) -> Tensor:
        """(N, h, w) nats; with few calls, about so."""
        config = self.process.config
        times = strided(config.steps, config.inversion + 1)[-2::-1]
        ends = inverted(
            lambda x, t: self.process.denoised(image, x, t), self.process.schedule, image.x, times
        )
        return 0.5 * ends.square().sum(1)

    def time(self, image: Image) -> Tensor:
        """(N,) in (0, 1)."""
        logits: Tensor = self.process.timer(torch.cat([image.x, image.w], 1))
        bins = self.process.config.bins
        middles = (torch.arange(bins, device=logits.device) + 0.5) / bins
        return (logits.softmax(1) * middles).sum(1)

    def surprise(self, image: Image) -> Tensor:
        """(N, h, w) nats of raw numbers, weighted with coverage."""
        nats = self.bound(image, self.bound_noise, self.bound_times).total
        return ((nats + self.process.scale.log()) * image.w).sum(1)

    def bound(self, image: Image, noise: Tensor, times: Sequence[int]) -> Bound:
        """The bound on -log p(x) of standardised numbers, by noise (M, D, h, w) at M times."""
        at = torch.tensor(times, device=image.x.device)
        x0 = self._many(image, noise, at)[2]
        return bound(self.process.schedule, image.x, x0, times, self.process.misfit(times))

    def _by_level(self, each: Tensor) -> Tensor:
        """(N, M, ...) to the mean over the draws of each level, (N, K, ...)."""
        k, e = self.process.config.levels, self.process.config.draws
        return each.reshape(-1, k, e, *each.shape[2:]).mean(2)

    def _many(self, image: Image, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, x_t and x_0^, (N, M, D, h, w), of noise (M, D, h, w) at (M,) times: one call."""
        m, noise = times.shape[0], noise * image.there[:, None]
        x_t = self.process.schedule.noised(image.x[:, None], noise, times)
        many = Image(*(part if part is None else copies(part, m) for part in image))  # type: ignore[arg-type]
        t = times[None].expand(image.x.shape[0], m).flatten()
        x0 = self.process.denoised(many, x_t.flatten(0, 1), t)
        return noise, x_t, x0.reshape(-1, m, *x0.shape[1:])
