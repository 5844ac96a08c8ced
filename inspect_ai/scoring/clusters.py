"""Clusters of failing dies, found inside the graph.

Every die points at a die of its cluster; all point at the one of the largest index in the end.
Each round looks at the eight neighbours, moves what is pointed at as well (hooking), and skips
along pointers (shortcutting), so that a curl of n dies needs about log n rounds, not n.

Source: Zhang, Azad, Hu, "FastSV: a distributed-memory connected component algorithm with fast
convergence", SIAM PP 2020, algorithm 1, with the largest index in place of the smallest.

Shapes: N maps, H, W cells, L = H W.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 10  # enough for a spiral over 64 x 64 dies; real wafers need 7 at most


class Clusters(NamedTuple):
    """What is known of the cluster that each failing die lies in; 0 where no die fails."""

    area: Tensor  # (N, H, W) dies
    extent: Tensor  # (N, H, W) dies along the longer side


def clusters(fails: Tensor) -> Clusters:
    """8-connected clusters of failing dies (N, 1, H, W) in {0, 1}."""
    fails = fails[:, 0]
    n, h, w = fails.shape
    flat, root = fails.flatten(1), roots(fails)
    area = torch.zeros_like(flat).scatter_add(1, root, flat).gather(1, root)
    row = torch.arange(h, dtype=fails.dtype, device=fails.device)[:, None].expand(h, w)
    column = torch.arange(w, dtype=fails.dtype, device=fails.device).expand(h, w)
    ends = torch.stack([row, -row, column, -column]).flatten(1)[:, None].expand(4, n, h * w)
    lowest = torch.full_like(ends, -1e4)
    found = lowest.scatter_reduce(2, root.expand(4, n, h * w), ends, "amax")
    top, bottom, left, right = found.gather(2, root.expand(4, n, h * w))
    extent = 1 + torch.maximum(top + bottom, left + right)
    return Clusters(*((a * flat).reshape(n, h, w) for a in (area, extent)))


def roots(fails: Tensor) -> Tensor:
    """(N, L) index of the die that stands for the cluster of each; its own where none fails."""
    n, h, w = fails.shape
    own = torch.arange(h * w, device=fails.device).expand(n, h * w)
    root, failing = own, fails.flatten(1) > 0
    for _ in range(ROUNDS):
        seen = torch.where(failing, root.to(fails.dtype), torch.full_like(fails.flatten(1), -1.0))
        around = largest_of_nine(seen.reshape(n, 1, h, w)).flatten(1).to(root.dtype)
        around = torch.where(failing, around, own)
        root = torch.maximum(root.scatter_reduce(1, root, around, "amax"), around)
        root = root.gather(1, root)
    return root


def largest_of_nine(x: Tensor) -> Tensor:
    """Largest of each cell and its eight neighbours, -1 outside, for (N, 1, H, W)."""
    x = F.pad(x, (1, 1, 1, 1), value=-1.0)
    x = torch.maximum(torch.maximum(x[..., :-2], x[..., 1:-1]), x[..., 2:])
    return torch.maximum(torch.maximum(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])
