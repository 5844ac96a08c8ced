"""Watches a game of critic and generator, and stops one that is lost.

A loss says little: it is finite, and may even fall, while all samples become one image (mode
collapse), while the critic's outputs run off, or while the critic wins so surely that the generator
learns no more. At each look, over about the last 100 of them:

    win_rate    P(D(x) > D(x')) + 1/2 P(D(x) = D(x')), the critic's AUROC of good images against
                samples; 1/2 where it cannot tell them apart
    diversity   mean distance of neighbouring samples in a batch / that of good images, distances
                root mean squares over cells that both cover; 1 until there is anything to compare
    largest     mean |D|

The first looks, a generator's first steps, are not judged, except for what is not a number.

Sources: Goodfellow, "NIPS 2016 tutorial: generative adversarial networks", section 5.1 (mode
collapse). Arjovsky, Bottou, "Towards principled methods for training generative adversarial
networks", ICLR 2017, section 2 (a critic that wins everywhere teaches nothing). Karras et al.,
"Training generative adversarial networks with limited data", NeurIPS 2020, section 3 (a critic's
outputs as a running sign of trouble). The limits are our own.

Shapes: N images, M samples, C channels, h, w cells.
"""

import torch
from torch import Tensor, nn

from inspect_ai.errors import Collapsed

MEMORY = 100  # looks


class Watch(nn.Module):
    """See the module's docstring. Held by the critic's player, so that it is saved with it."""

    win_rate: Tensor
    diversity: Tensor
    looks: Tensor
    largest: Tensor
    apart: Tensor

    def __init__(
        self,
        patience: int = 300,
        alike: float = 0.03,
        stalled: float = 0.25,
        beaten: float = 0.9995,
        most: float = 1e4,
    ) -> None:
        """Limits of a game that goes on.

        Args:
            patience: looks before anything but a number that is none is judged.
            alike: diversity below which it has collapsed.
            stalled, beaten: diversity below which, and win rate above which, together, the
                generator has been left behind.
            most: mean |D| above which the critic has run off.
        """
        super().__init__()
        self.patience, self.alike, self.stalled = patience, alike, stalled
        self.beaten, self.most = beaten, most
        self.register_buffer("win_rate", torch.tensor(0.5))
        self.register_buffer("diversity", torch.tensor(1.0))
        self.register_buffer("largest", torch.tensor(0.0))
        self.register_buffer("looks", torch.tensor(0))
        self.register_buffer("apart", torch.zeros(2))  # distances of good images, of samples

    @torch.no_grad()
    def see(self, real: Tensor, fake: Tensor, real_images: Tensor, fake_images: Tensor) -> None:
        """Takes a look, and stops a lost game; gives no gradient.

        Args:
            real, fake: logits (N,) of good images and (M,) of samples.
            real_images, fake_images: (N, C + 1, h, w), (M, C + 1, h, w), the last channel
                coverage, before they are augmented: moving copies of one image about would make
                them look different.

        Raises:
            Collapsed: samples all alike, a critic that has run off or wins against a generator
                that hardly varies; or a number that is none.
        """
        self._require_numbers(real, fake, fake_images)
        self.looks += 1
        _into(self.win_rate, _wins(real, fake), self.looks)
        _into(self.largest, torch.cat([real, fake]).abs().mean(), self.looks)
        if min(real_images.shape[0], fake_images.shape[0]) > 1:
            found = torch.stack([_apart(real_images), _apart(fake_images)])
            _into(self.apart, found, self.looks)
            usual, of_samples = self.apart
            self.diversity.copy_(torch.where(usual > 0, of_samples / usual.clamp(min=1e-12), 1))
        if self.looks > self.patience:
            self._judge()

    def numbers(self) -> dict[str, float]:
        """The running means, for the records."""
        return {
            "critic_win_rate": self.win_rate.item(),
            "sample_diversity": self.diversity.item(),
            "critic_logit": self.largest.item(),
        }

    def _require_numbers(self, real: Tensor, fake: Tensor, fake_images: Tensor) -> None:
        told = {"logits of good images": real, "logits of samples": fake, "samples": fake_images}
        for name, values in told.items():
            if not torch.isfinite(values).all():
                raise Collapsed(
                    f"The {name} are no longer finite numbers, and must be. Lower [budget] "
                    "learning_rate, or give the critic a penalty or spectral normalisation."
                )

    def _judge(self) -> None:
        wins, differ = self.win_rate.item(), self.diversity.item()
        largest = self.largest.item()
        if largest > self.most:
            raise Collapsed(
                f"The critic has run off: its outputs are {largest:.3g} in size, and should stay "
                f"below {self.most:g}. Give it a penalty or spectral normalisation, or lower "
                "[budget] learning_rate."
            )
        if differ < self.alike:
            raise Collapsed(
                f"Mode collapse: samples are all alike. They differ by {differ:.2g} of what good "
                f"images do, and should by {self.alike:g} or more. Choose another objective, give "
                "the critic a penalty, or lower [budget] learning_rate."
            )
        if wins > self.beaten and differ < self.stalled:
            raise Collapsed(
                f"The generator has been left behind: the critic wins {wins:.2%} of pairs (limit "
                f"{self.beaten:.2%}), and samples differ by {differ:.2g} of what good images do "
                f"(needed {self.stalled:g}). Lower the critic's rate or its number of turns, or "
                "give it a penalty."
            )


def diversity(real_images: Tensor, fake_images: Tensor) -> float:
    """Of samples against good images, (N, C + 1, h, w) and (M, C + 1, h, w); see above."""
    usual = float(_apart(real_images))
    return float(_apart(fake_images)) / usual if usual > 0 else 1.0


def _into(mean: Tensor, value: Tensor, count: Tensor) -> None:
    """Moves a running mean on; a plain mean until its memory is full."""
    mean.lerp_(value.to(mean.dtype), 1 / count.clamp(max=MEMORY))


def _wins(real: Tensor, fake: Tensor) -> Tensor:
    one, other = real[:, None], fake
    return ((one > other).float() + 0.5 * (one == other).float()).mean()


def _apart(images: Tensor) -> Tensor:
    """Mean distance of an image (C + 1, h, w) and the next one in its batch."""
    x, w = images[:, :-1], images[:, -1:]
    both = w[1:] * w[:-1]
    covered = (both.sum((1, 2, 3)) * x.shape[1]).clamp(min=1e-6)
    return (((x[1:] - x[:-1]).square() * both).sum((1, 2, 3)) / covered).sqrt().mean()
