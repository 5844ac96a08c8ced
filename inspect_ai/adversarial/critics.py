"""Critics: how real an image looks, alone or as a pair with a code; and encoders.

Both read an image times its coverage, and the coverage, through strided convolutions down to the
coarsest level. A critic's logit is linear in its last maps p,

    logit = psi(p) + <e(y), p>        y the class, where there are classes

A joint critic adds an MLP of the code to what makes p, so that it judges pairs (x, z). While a
level fades in, its maps are mixed with those of the level below, seen directly:

    m_l-1 = (1 - f) enter_l-1(halved(x)) + f down_l(enter_l(x))

With `spectral`, every weight is divided by its largest singular value s, found by one step of
power iteration a look, s = |W v| / |v|: also the weights of a running mean, whose v is a mean of
unit vectors and shorter than 1.

Sources: Miyato, Kataoka, Koyama, Yoshida, "Spectral normalization for generative adversarial
networks", ICLR 2018, section 2 and appendix A. Miyato, Koyama, "cGANs with projection
discriminator", ICLR 2018, equation 3. Donahue, Krahenbuhl, Darrell, "Adversarial feature
learning", ICLR 2017, and Dumoulin et al., "Adversarially learned inference", ICLR 2017 (pairs).
Karras et al., "Progressive growing of GANs", ICLR 2018, section 2.

Shapes: N images, C channels, h, w cells, h', w' of the coarsest level, F channels there, Z
numbers of the code.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from typing_extensions import override

from inspect_ai.adversarial.generators import Sizes
from inspect_ai.adversarial.growth import Stage, shrunk
from inspect_ai.adversarial.leaky import SLOPE, begin, leaky

WEIGHTED = (nn.Conv2d, nn.Linear, nn.Embedding)
FIRST_STEPS = 15  # of power iteration on random weights


class Critic(nn.Module):
    """See the module's docstring."""

    def __init__(
        self,
        sizes: Sizes,
        channels: int,
        grid: tuple[int, int],
        classes: int = 0,
        spectral: bool = False,
        code: int = 0,
    ) -> None:
        """One for C channels on a grid of (h, w) cells.

        Args:
            classes: that it is told of; 0 is none.
            code: numbers of the code it judges along with an image; 0 is none.

        Raises:
            BadSettings: the grid cannot be halved `depth` times.
        """
        super().__init__()
        wide = sizes.widths[0]
        flat = wide * math.prod(sizes.coarsest(grid))
        self.trunk = Trunk(sizes, channels, grown=True)
        self.last = nn.Conv2d(wide, wide, 3, padding=1)
        self.code = _perceptron(code, wide) if code else None
        self.psi = nn.Linear(flat, 1)
        begin(self)
        begin(self.psi, 0.5)
        self.condition = nn.Embedding(classes, flat) if classes else None
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=0.5 / math.sqrt(flat))
        if spectral:
            for part in [p for p in self.modules() if isinstance(p, WEIGHTED)]:
                parametrize.register_parametrization(part, "weight", Spectral(part.weight))

    @override
    def forward(
        self,
        images: Tensor,
        condition: Tensor | None = None,
        stage: Stage | None = None,
        code: Tensor | None = None,
    ) -> Tensor:
        """Logits (N,) of images (N, C + 1, h, w) of the stage's level; the larger, the more real.

        Args:
            condition: (N,) int64, where there are classes.
            stage: None is full resolution.
            code: (N, code), where a code is judged too.
        """
        phi = self._phi(images, stage, code).flatten(1)
        logits: Tensor = self.psi(phi)[:, 0]
        if self.condition is None:
            return logits
        told: Tensor = self.condition(condition)
        return logits + (told * phi).sum(1)

    def features(
        self, images: Tensor, condition: Tensor | None = None, code: Tensor | None = None
    ) -> Tensor:
        """The last maps, (N, F, h', w'), at full resolution; the class has no part in them."""
        del condition
        return self._phi(images, None, code)

    def _phi(self, images: Tensor, stage: Stage | None, code: Tensor | None) -> Tensor:
        last = self.last(self.trunk(images, stage))
        if self.code is not None:
            last = last + self.code(code)[:, :, None, None]
        return leaky(last)


class Encoder(nn.Module):
    """Images to codes; told a class, by a bias of the last maps."""

    def __init__(
        self, sizes: Sizes, channels: int, grid: tuple[int, int], classes: int = 0
    ) -> None:
        """One for C channels on a grid of (h, w) cells.

        Raises:
            BadSettings: the grid cannot be halved `depth` times.
        """
        super().__init__()
        wide = sizes.widths[0]
        self.trunk = Trunk(sizes, channels, grown=False)
        self.last = nn.Conv2d(wide, wide, 3, padding=1)
        self.code = nn.Linear(wide * math.prod(sizes.coarsest(grid)), sizes.latent)
        begin(self)
        begin(self.code, 1.0)
        self.condition = nn.Embedding(classes, wide) if classes else None

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, C + 1, h, w) images to codes (N, Z)."""
        last = self.last(self.trunk(images))
        if self.condition is not None:
            last = last + self.condition(condition)[:, :, None, None]
        codes: Tensor = self.code(leaky(last).flatten(1))
        return codes


class Trunk(nn.Module):
    """Images to maps of the coarsest level."""

    def __init__(self, sizes: Sizes, channels: int, grown: bool) -> None:
        """With `grown`, images of every level can be entered, else those of the finest."""
        super().__init__()
        widths, self.depth = sizes.widths, sizes.depth
        self.enter = nn.ModuleList(
            nn.Conv2d(channels + 1, wide, 3, padding=1)
            for wide in (widths if grown else widths[-1:])
        )
        self.down = nn.ModuleList(
            nn.Conv2d(b, a, 4, stride=2, padding=1) for a, b in pairwise(widths)
        )

    @override
    def forward(self, images: Tensor, stage: Stage | None = None) -> Tensor:
        """(N, C + 1, h, w) images of the stage's level to (N, F, h', w')."""
        level, fade = stage or Stage(self.depth, 1.0)
        maps: Tensor = self._entered(images, level)
        for n in range(level, 0, -1):
            maps = leaky(self.down[n - 1](maps))
            if n == level and fade < 1:
                maps = (1 - fade) * self._entered(shrunk(images, 1), n - 1) + fade * maps
        return maps

    def _entered(self, images: Tensor, level: int) -> Tensor:
        x, w = images[:, :-1], images[:, -1:]
        enter = self.enter[level - self.depth - 1]
        maps: Tensor = enter(torch.cat([x * w, w], 1))
        return leaky(maps)


class Spectral(nn.Module):
    """Weights divided by their largest singular value, as matrices of as many rows as outputs."""

    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("v", F.normalize(torch.randn(weight[0].numel()), dim=0))
        with torch.no_grad():
            for _ in range(FIRST_STEPS):
                self._step(weight.flatten(1))

    @override
    def forward(self, weight: Tensor) -> Tensor:
        W = weight.flatten(1)
        if self.training:
            with torch.no_grad():
                self._step(W)
        v = self.v.clone()  # a later look changes it before this one's gradient is taken
        largest = torch.linalg.vector_norm(W @ v) / torch.linalg.vector_norm(v)
        divided: Tensor = weight / largest
        return divided

    def _step(self, W: Tensor) -> None:
        self.v.copy_(F.normalize(W.T @ F.normalize(W @ self.v, dim=0), dim=0))


def _perceptron(inside: int, outside: int) -> nn.Sequential:
    hidden = nn.Linear(inside, outside)
    return nn.Sequential(hidden, nn.LeakyReLU(SLOPE), nn.Linear(outside, outside))
