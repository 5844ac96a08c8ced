"""A codebook: the nearest of K vectors stands for a vector, and the K follow what they stand for.

Code k is the mean of the vectors it was nearest to, over a window that forgets, g the decay:

    N_k <- g N_k + (1 - g) n_k,    m_k <- g m_k + (1 - g) sum of those z,    e_k = m_k / N_k

with N_k smoothed to (N_k + s) / (N + K s) * N, N = sum_k N_k, so that nothing divides by 0.
Gradients pass the rounding as if it were not there: z + sg(e_k - z), sg stops them.

A code that is hardly used moves to a random vector of the batch (`restart`). N and m are kept,
not e: their running means over training steps, which are the weights that stay, then weigh each
step by how much the code was used in it, and where a dead code once lay is forgotten.

`shares` are how much of each code a vector has when an image is scored,

    q_k = softmax_k(-|z - e_k|^2 / (TIE v)),    v the mean squared distance to the nearest code

all on the nearest code but where a second one is as near to within a few TIE v. There the last
digit of z would pick the code, torch and ONNX Runtime would pick differently now and then, and a
verdict could flip; shares change as little as z does. (Rounding z before the search would not
help: what it saves at the border of two codes it costs at its own steps.) Distances are taken in
double: in single, those between long vectors flipped codes in 3 of 1,200 simulated maps.

Sources: van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", NeurIPS
2017, section 3 and appendix A.1. Dhariwal et al., "Jukebox", 2020, section 3.1 (restarts). Roy
et al., "Theory and experiments on vector quantized autoencoders", 2018, section 3 (shares).

Shapes: N images, D numbers of a vector, K codes, h, w cells of the grid of codes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMOOTH = 1e-5  # s
DEAD = 0.1  # of even use; below it a code is moved
TIE = 0.05  # of the mean squared distance


class Codebook(nn.Module):
    """See the module's docstring."""

    sizes: Tensor
    sums: Tensor
    strayed: Tensor

    def __init__(self, codes: int, dimension: int, decay: float) -> None:
        """K random vectors, which the first `restart` replaces."""
        super().__init__()
        self.decay = decay
        little = torch.full((codes,), 1e-3)  # the first batch outweighs it
        self.register_buffer("sizes", little)  # N_k
        self.register_buffer("sums", little[:, None] * torch.randn(codes, dimension))  # m_k
        self.register_buffer("strayed", little.sum())  # sum of |z - e|^2, forgetting as N does

    @property
    def vectors(self) -> Tensor:
        """e, (K, D)."""
        total = self.sizes.sum()
        shrunk = total / (total + self.sizes.shape[0] * SMOOTH)
        return self.sums / ((self.sizes + SMOOTH) * shrunk)[:, None]

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances (N, K, h, w) of vectors (N, D, h, w) to the codes, in double."""
        # |z|^2 - 2 e'z + |e|^2 keeps few digits of a small distance between long vectors
        e, rows = self.vectors.double(), z.double().flatten(2)
        found = rows.square().sum(1, keepdim=True) - 2 * (e @ rows) + e.square().sum(1)[:, None]
        return found.reshape(-1, e.shape[0], *z.shape[2:])

    def nearest(self, z: Tensor) -> Tensor:
        """Vectors (N, D, h, w) to 0/1 choices of one code each, (N, K, h, w)."""
        return one_hot(self.distances(z).argmin(1), self.sizes.shape[0])

    def shares(self, z: Tensor) -> Tensor:
        """Vectors (N, D, h, w) to q (N, K, h, w), which sums to 1."""
        found = self.distances(z)
        further = (found - found.amin(1, keepdim=True)).float()
        mean = self.strayed / self.sizes.sum()
        return torch.softmax(-further / (TIE * mean).clamp(min=1e-12), 1)

    def mixed(self, q: Tensor) -> Tensor:
        """Shares (N, K, h, w) to the vectors that they make, (N, D, h, w)."""
        return F.conv2d(q, self.vectors.T[:, :, None, None])

    @torch.no_grad()
    def follow(self, z: Tensor, chosen: Tensor) -> None:
        """Moves sizes and sums towards a batch.

        Args:
            z: (N, D, h, w) vectors.
            chosen: (N, K, h, w) choices; all 0 where a vector does not count.
        """
        apart = (z - self.mixed(chosen)).square().sum(1) * chosen.sum(1)
        picked, vectors = as_rows(chosen), as_rows(z)
        self.sizes.lerp_(picked.sum(0), 1 - self.decay)
        self.sums.lerp_(picked.T @ vectors, 1 - self.decay)
        self.strayed.lerp_(apart.sum(), 1 - self.decay)

    @torch.no_grad()
    def restart(self, z: Tensor, counted: Tensor) -> None:
        """Moves codes that are hardly used to random ones of a batch's vectors.

        Args:
            z: (N, D, h, w) vectors.
            counted: (N, h, w), 1 where a vector counts.
        """
        vectors = as_rows(z)[counted.flatten() > 0]
        count = vectors.shape[0]
        if not count:
            return
        least = DEAD * count / self.sizes.shape[0]
        dead = self.sizes < least
        order = torch.randperm(count, device=z.device)
        drawn = order[torch.arange(self.sizes.shape[0], device=z.device) % count]
        # twice: it has a while to be found of use before it is dead again
        self.sums.copy_(torch.where(dead[:, None], 2 * least * vectors[drawn], self.sums))
        self.sizes.copy_(torch.where(dead, 2 * least, self.sizes))


def straight_through(z: Tensor, chosen: Tensor) -> Tensor:
    """The value of the chosen vectors with the gradient of z, both (N, D, h, w)."""
    return z + (chosen - z).detach()


def one_hot(index: Tensor, codes: int) -> Tensor:
    """Places (N, h, w) of codes to 0/1 choices (N, K, h, w)."""
    return F.one_hot(index, codes).movedim(-1, 1).float()


def perplexity(chosen: Tensor) -> float:
    """exp of the entropy of use: as many codes, used evenly, would be as hard to guess.

    Args:
        chosen: (N, K, h, w) choices; all 0 where a vector does not count.

    Returns:
        In 1 .. K; 0 where nothing counts.
    """
    used = chosen.sum((0, 2, 3))
    share = used / used.sum().clamp(min=1)
    return float(torch.special.entr(share).sum().exp()) if used.sum() > 0 else 0.0


def as_rows(x: Tensor) -> Tensor:
    """(N, C, h, w) to (N h w, C)."""
    return x.movedim(1, -1).flatten(0, -2)
