"""Augmentation that a generator learns through: good images and samples alike are changed.

Where a critic has few images it learns them by heart. It is shown changed ones instead, samples
changed by the same kinds, with gradients going through to the generator:

    brightness   x + b + (k - 1)(x - mean),  b even in +-1/4, k even in 1/2 .. 3/2; for pictures
    shift        by whole cells, up to 1/8 of a side either way; nothing comes in, covered by 0
    cutout       a rectangle of half the sides is no longer covered
    flip         mirrored along either axis; on a square grid turned by quarters, too

An image keeps its coverage with it: cells move together with what covers them, and what is not
covered has no say.

Samples must not learn to look changed ("leak"). They do not where the changed images' distribution
tells that of the unchanged ones, one to one. Turns drawn evenly would make all orientations one
and the same; so each kind leaves 3 in 10 images as they are, chosen anew each time. Not to be turned
is then likelier than any turn. Cells that are cut out show in the coverage, and whole images are
still seen. Even draws from -k .. k have a Fourier transform that is nowhere below -1/3, and 3/10
left alone lift it above 0 in all: no difference between two distributions is lost.

Sources: Zhao, Liu, Lin, Zhu, Han, "Differentiable augmentation for data-efficient GAN training",
NeurIPS 2020, section 3 (kinds and sizes; ours are for images in [0, 1]). Karras, Aittala, Hellsten,
Laine, Lehtinen, Aila, "Training generative adversarial networks with limited data", NeurIPS 2020,
section 2.2 and appendix C (leaks, and the share that is left alone).

Shapes: N images, C channels, h, w cells.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Augment = Literal["none", "brightness", "shift", "cutout", "flip"]
CHANGED = 0.7  # share of images that a kind is tried on


def augmented(images: Tensor, kinds: Sequence[Augment]) -> Tensor:
    """Images (N, C + 1, h, w), the last channel coverage, changed by one kind after the other.

    Each image is changed in its own way, all its channels in the same: pictures that are to be
    changed alike are handed in as channels of one. Random by torch's global generator.
    """
    for kind in kinds:
        images = CHANGES[kind](images)
    return images


def _brightness(images: Tensor) -> Tensor:
    x, w = images[:, :-1], images[:, -1:]
    covered = (w.sum((1, 2, 3), keepdim=True) * x.shape[1]).clamp(min=1e-6)
    mean = (x * w).sum((1, 2, 3), keepdim=True) / covered
    lighter, contrast = (_even(images) - 0.5) / 2, _even(images) - 0.5  # b, k - 1
    change = (lighter + contrast * (x - mean)) * (_tried(images) & (w > 0))
    return torch.cat([x + change, w], 1)


def _shift(images: Tensor) -> Tensor:
    tried = _tried(images)
    for axis in (2, 3):
        most = images.shape[axis] // 8
        by = ((_even(images) * (2 * most + 1)).floor().long() - most) * tried
        place = _cells(images, axis) - by
        inside = (place >= 0) & (place < images.shape[axis])
        place = place.clamp(0, images.shape[axis] - 1).expand_as(images)
        images = images.gather(axis, place) * inside
    return images


def _cutout(images: Tensor) -> Tensor:
    hole = _tried(images)
    for axis in (2, 3):
        side = images.shape[axis]
        first = (_even(images) * side).floor() - side // 4  # centred on any cell
        from_first = _cells(images, axis) - first
        hole = hole & (from_first >= 0) & (from_first < side // 2)
    return images * ~hole


def _flip(images: Tensor) -> Tensor:
    tried = _tried(images)
    for axis in (2, 3):
        images = torch.where(tried & _heads(images), images.flip(axis), images)
    if images.shape[2] == images.shape[3]:  # both mirrors and this one make all eight turns
        images = torch.where(tried & _heads(images), images.transpose(2, 3), images)
    return images


CHANGES: dict[Augment, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "brightness": _brightness,
    "shift": _shift,
    "cutout": _cutout,
    "flip": _flip,
}


def _even(images: Tensor) -> Tensor:
    """A number in [0, 1) for each image, (N, 1, 1, 1)."""
    return torch.rand(images.shape[0], 1, 1, 1, device=images.device)


def _tried(images: Tensor) -> Tensor:
    return _even(images) < CHANGED


def _heads(images: Tensor) -> Tensor:
    return _even(images) < 0.5


def _cells(images: Tensor, axis: int) -> Tensor:
    """Places 0, 1, ... along an axis, broadcast along the others."""
    shape = [-1 if i == axis else 1 for i in range(4)]
    return torch.arange(images.shape[axis], device=images.device).reshape(shape)
