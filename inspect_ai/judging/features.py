"""What figures of drawn images are measured on: the features of a net that needs no download.

A net is named wherever a figure of it is: "FID-like on random convolutions" is no FID, and figures
of two nets say nothing about each other. The default is

    f = mean and standard deviation over covered cells, of the image and of each of three layers
    layer = ReLU(K * (x - mean x)),   0 for x - mean x where nothing is covered; halved by means

with orthogonal kernels K drawn from a fixed seed: textures, edges and clusters at three scales, and
no layout of the whole image. Its features are measured in deviations of training images.
Any ONNX net can stand in its place; its features are taken as they come.

Sources: Ulyanov, Vedaldi, Lempitsky, "Deep image prior", CVPR 2018, and Gatys, Ecker, Bethge,
"Texture synthesis using convolutional neural networks", NIPS 2015 (moments of a layer as texture);
Ustyuzhaninov et al., "What does it take to generate natural textures?", ICLR 2017 (random filters
do). Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
linear neural networks", ICLR 2014 (orthogonal kernels).

Shapes: N images, C channels, h, w cells, F features.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from inspect_ai.bundle.runtime import open_session
from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.scores import Float64

WIDTHS = (16, 32, 64)
KERNEL = 5  # cells
SEED = 20240229
LEAST = 1e-6  # coverage that counts
SLACK = 0.1  # of a usual deviation: the least that a feature is measured in
AT_ONCE = 64  # images


class Net(Protocol):
    """What turns images into features."""

    name: str  # stands in the name of each figure
    raw: bool  # whether features are taken as they come, or in deviations of training images

    def features(self, images: Tensor) -> Float64:
        """(N, C + 1, h, w) images, the last channel coverage, to (N, F)."""


class RandomConvolutions(nn.Module):
    """See the module's docstring."""

    name = "random convolutions"
    raw = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(SEED)
        for number, (enter, leave) in enumerate(zip((channels, *WIDTHS), WIDTHS, strict=False)):
            kernel = torch.empty(leave, enter, KERNEL, KERNEL)
            nn.init.orthogonal_(kernel, gain=2**0.5, generator=draw)
            self.register_buffer(f"kernel_{number}", kernel)

    @torch.no_grad()
    def features(self, images: Tensor) -> Float64:
        """(N, C + 1, h, w) images to (N, 2 C + 224)."""
        few = torch.split(images, AT_ONCE)
        return np.concatenate([self(part.float()).double().numpy() for part in few])

    @override
    def forward(self, images: Tensor) -> Tensor:
        """(N, C + 1, h, w) images to (N, 2 C + 224)."""
        x, w = images[:, :-1], images[:, -1:]
        mean, deviation = moments(x, w)
        found = [mean, deviation]
        for number in range(len(WIDTHS)):
            apart = (x - mean[:, :, None, None]) * w  # or brightness would decide what ReLU cuts
            x = F.relu(F.conv2d(apart, self.get_buffer(f"kernel_{number}"), padding=KERNEL // 2))
            mean, deviation = moments(x, w)
            found += [mean, deviation]
            x, w = (F.avg_pool2d(each, 2, ceil_mode=True) for each in (x * w, w))
            x = x / w.clamp(min=LEAST)
        return torch.cat(found, 1)


class OnnxNet:
    """A net in an ONNX file, as somebody has trained it.

    Its input is (N, 3 or 1, H, W) float in [0, 1], of a fixed size or any; its output (N, F), or
    (N, F, h, w), which is averaged over cells.
    """

    raw = True

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            MissingData: no such file.
            BadSettings: not an ONNX graph, or its input is none of those named above.
        """
        if not path.is_file():
            raise MissingData(f"No file {path}. Pass an ONNX net that turns images into features.")
        self.name = path.name
        try:
            self.session = open_session(path, "cpu")
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise BadSettings(
                f"{path} is not a graph that ONNX Runtime can run: {first}. Export it again."
            ) from None
        self.given = self.session.get_inputs()[0]
        batch, channels, *self.size = (self.given.shape + [None] * 4)[:4]
        fits = len(self.given.shape) == 4 and not isinstance(batch, int) and channels in (1, 3)
        if not fits or len(self.session.get_inputs()) > 1 or self.given.type != "tensor(float)":
            raise BadSettings(
                f"{path} asks for {self.given.type} of shape {self.given.shape}; needed is one "
                "input (N, 3 or 1, H, W) of float in [0, 1], N free. Export the net so."
            )
        self.channels = int(channels)

    def features(self, images: Tensor) -> Float64:
        """(N, C + 1, h, w) images to (N, F)."""
        return np.concatenate([self._some(part) for part in torch.split(images, AT_ONCE)])

    def _some(self, images: Tensor) -> Float64:
        x = images[:, :-1].float() * (images[:, -1:] > LEAST)
        if x.shape[1] != self.channels:
            x = x.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        size = [
            s if isinstance(s, int) else now for s, now in zip(self.size, x.shape[2:], strict=True)
        ]
        if size != list(x.shape[2:]):
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        found = self._answer(np.ascontiguousarray(x.clamp(0, 1).numpy()))
        return found.mean((2, 3)) if found.ndim == 4 else found

    def _answer(self, x: np.ndarray) -> Float64:
        try:
            (found, *_) = self.session.run(None, {self.given.name: x})
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise BadSettings(
                f"{self.name} cannot be given images of {x.shape[2]} x {x.shape[3]}: {first}. "
                "Export it with the size that it needs as a fixed one; images are then resized."
            ) from None
        if found.ndim not in (2, 4) or len(found) != len(x) or not np.isfinite(found).all():
            raise BadSettings(
                f"{self.name} gives {found.shape} for {len(x)} images; needed are finite numbers "
                "(N, F) or (N, F, h, w). Export the net up to such a layer."
            )
        return np.asarray(found, np.float64)


def unit(training: Float64) -> Float64:
    """The deviation of each of (M, F) features, in which it is measured: (F,).

    Never less than a tenth of the usual one: what hardly varies among good images would otherwise
    outweigh all else.
    """
    variance = training.var(0)
    usual = variance.mean()
    root: Float64 = np.sqrt(np.maximum(variance, SLACK**2 * usual)) if usual > 0 else variance + 1.0
    return root


def moments(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of (N, D, h, w) over covered cells, (N, D) each."""
    total = w.sum((2, 3)).clamp(min=LEAST)
    mean = (x * w).sum((2, 3)) / total
    apart = (x - mean[:, :, None, None]).square()
    return mean, ((apart * w).sum((2, 3)) / total).sqrt()
