"""What is asked of a diffusion model: schedule, network, training, and looks in scoring."""

from typing import Literal, Self

from pydantic import Field, model_validator

from inspect_ai.diffusing.networks import Sizes
from inspect_ai.diffusing.schedules import Kind, Target
from inspect_ai.settings import Settings


class Config(Settings):
    """Schedule, network and what is looked at when an image is scored."""

    schedule: Kind = "cosine"
    steps: int = Field(default=1000, ge=2)  # T
    target: Target = "v"  # what the network is asked for
    gamma: float = Field(default=5.0, gt=0)  # of min-SNR
    noise: Literal["gaussian", "simplex"] = "gaussian"
    net: Sizes = Sizes()
    bins: int = Field(default=10, ge=2)  # diffusion times that are told apart
    levels: int = Field(default=4, ge=1)  # K, noise levels of the denoising error
    draws: int = Field(default=1, ge=1)  # of noise at each level
    lowest: float = Field(default=0.1, gt=0, le=1)  # first level, as a share of T
    highest: float = Field(default=0.6, gt=0, le=1)  # and last; a single one is midway
    redraw: Literal["levels", "partial"] = "levels"  # what is expected: see the model
    start: float = Field(default=0.25, gt=0, le=1)  # partial: where a redraw begins, share of T
    calls: int = Field(default=5, ge=1)  # partial: of the network
    still: float = Field(default=0.1, gt=0, le=1)  # score norm: told this share of T
    inversion: int = Field(default=3, ge=1)  # calls; coarse below about 50
    bound: int = Field(default=8, ge=2)  # calls
    drop: float = Field(default=0.1, ge=0, lt=1)  # share of conditions left out in training
    guidance: float = Field(default=1.0, ge=0)  # of samples
    sampling: int = Field(default=50, ge=1)  # calls for a sample
    eta: float = Field(default=1.0, ge=0, le=1)  # of samples: 1 is DDPM, 0 DDIM

    @model_validator(mode="after")
    def _fits_its_schedule(self) -> Self:
        most = {"levels": self.steps, "bound": self.steps, "sampling": self.steps}
        most |= {"inversion": self.steps - 1}  # it begins where there is no noise
        for name, limit in most.items():
            count = getattr(self, name)
            if count > limit:
                raise ValueError(
                    f"{name} = {count} is more than the schedule has: {self.steps} steps; use "
                    f"{name} = {limit} or less, or more steps"
                )
        if self.calls > self.time(self.start):
            raise ValueError(
                f"calls = {self.calls} from start = {self.start:g}, which is step "
                f"{self.time(self.start)} of {self.steps}; use calls = {self.time(self.start)} or "
                "less, or a later start"
            )
        if self.lowest > self.highest:
            raise ValueError(
                f"lowest = {self.lowest:g} lies above highest = {self.highest:g}; swap them"
            )
        if len(set(self.times)) < self.levels:
            raise ValueError(
                f"levels = {self.levels} from lowest = {self.lowest:g} to highest = "
                f"{self.highest:g} fall on {len(set(self.times))} of {self.steps} steps; use fewer "
                "levels, a wider span, or 'draws' for more noise at one level"
            )
        if self.guidance != 1 and not self.drop:
            raise ValueError(
                f"guidance = {self.guidance:g} with drop = 0: nothing is learnt of images without "
                "a condition; use drop = 0.1, or guidance = 1"
            )
        return self

    def time(self, share: float) -> int:
        """The time at a share of T, at least 1."""
        return max(1, round(share * self.steps))

    @property
    def times(self) -> tuple[int, ...]:
        """The K times of the denoising error, ascending."""
        if self.levels == 1:
            return (self.time((self.lowest + self.highest) / 2),)
        step = (self.highest - self.lowest) / (self.levels - 1)
        return tuple(self.time(self.lowest + k * step) for k in range(self.levels))
