"""Batches of preprocessed good images, as a pure function of the step.

What a step sees depends on the seed and the step alone, so a training run that is killed and
resumed sees the same batches as one that was not.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspect_ai.data import images, layouts
from inspect_ai.data.images import stacked
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import ImageRule
from inspect_ai.errors import MissingData
from inspect_ai.scores import Float32, Pixels, UInt8

CANVAS_STEP = 32  # dies; canvases of wafer maps are rounded up to this
NATIVE_STEP = 8  # dies; the same for models that see dies themselves, in training
TOGETHER = 16  # batches that are sorted by size together


class Batches:
    """Draws batches from an array of images, shuffled anew in each round.

    With `sizes`, images of about one size come together, cut to the canvas they need: a wafer of
    30 dies in a batch with one of 60 would cost four times as much.
    """

    def __init__(
        self,
        pool: Float32 | UInt8,
        size: int,
        seed: int,
        turn: bool = False,
        sizes: NDArray[np.int64] | None = None,
        conditions: NDArray[np.int64] | None = None,
    ) -> None:
        """With `turn`, each image comes in one of its eight orientations.

        Args:
            pool: (M, C + 1, h, w) preprocessed images, in memory or on disk.
            sizes: (M,) cells a side that each image fills from the top left.
            conditions: (M,) which product or layer each image is of.
        """
        if not len(pool):
            raise MissingData("No good image in the train split. Check labels and split shares.")
        if turn and pool.shape[2] != pool.shape[3]:
            raise MissingData(f"turn = true needs a square grid, got {pool.shape[2:]}.")
        self.pool, self.size, self.seed, self.turn, self.sizes = pool, size, seed, turn, sizes
        self.conditions = conditions
        self.known: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))  # newest order

    def at(self, step: int) -> Tensor:
        """The (N, C + 1, h, w) batch of one step; the last of a round runs into the next."""
        chosen = self._chosen(step)
        side = self._side(chosen)
        batch = np.stack([self.pool[i, :, :side, :side] for i in chosen])
        found = torch.from_numpy(batch).float()
        return turned(found, np.random.default_rng([self.seed, 1, step])) if self.turn else found

    def condition(self, step: int) -> Tensor | None:
        """(N,) conditions of the same images; None without any."""
        if self.conditions is None:
            return None
        return torch.from_numpy(self.conditions[self._chosen(step)])

    def first(self, steps: int) -> Float32:
        """The images of the first steps in one array, for a model that is fitted in one go."""
        return np.concatenate([self.at(step).numpy() for step in range(steps)])

    def _chosen(self, step: int) -> list[np.int64]:
        rows = np.arange(step * self.size, (step + 1) * self.size)
        rounds, places = np.divmod(rows, len(self.pool))
        return [self._order(int(r))[p] for r, p in zip(rounds, places, strict=True)]

    def _side(self, chosen: list[np.int64]) -> int | None:
        if self.sizes is None:
            return None
        return -(-int(self.sizes[chosen].max()) // NATIVE_STEP) * NATIVE_STEP

    def _order(self, turn: int) -> NDArray[np.int64]:
        if turn != self.known[0]:
            rng = np.random.default_rng([self.seed, 0, turn])
            order = rng.permutation(len(self.pool))
            self.known = (turn, order if self.sizes is None else self._alike(order, rng))
        return self.known[1]

    def _alike(self, order: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """The order, sorted by size within every `TOGETHER` batches, these in any order again."""
        assert self.sizes is not None
        together = TOGETHER * self.size
        blocks = [order[i : i + together] for i in range(0, len(order), together)]
        batches = [
            block[np.argsort(self.sizes[block], kind="stable")][i : i + self.size]
            for block in blocks
            for i in range(0, len(block), self.size)
        ]
        return np.concatenate([batches[i] for i in rng.permutation(len(batches))])


def turned(batch: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image turned by a quarter turn or mirrored, one of eight ways."""
    ways = torch.from_numpy(rng.integers(0, 8, len(batch)))
    made = batch.clone()
    for way in range(8):
        chosen = ways == way
        view = torch.rot90(batch[chosen], way % 4, (2, 3))
        made[chosen] = view.flip(3) if way >= 4 else view
    return made


def raw(table: pd.DataFrame, manifest: Manifest, size: int, square: int = 0) -> Iterator[Pixels]:
    """Pixel batches (N, C, H, W) of a manifest's rows, in order, each of one size of image.

    With `square`, wafer maps are padded to a square canvas of so many dies.

    Raises:
        BadImages: an image breaks the rule; training data must be clean.
    """
    read = layouts.reader(manifest.spec, manifest.root)
    rule, waiting = manifest.spec.image, list[Pixels]()
    for path in table["image_path"]:
        image = read(path)
        if waiting and (len(waiting) == size or not _together(image, waiting[0], rule)):
            yield joined(waiting, rule, square)
            waiting = []
        waiting.append(image)
    if waiting:
        yield joined(waiting, rule, square)


def told(
    batches: Iterable[Pixels], conditions: NDArray[np.int64] | None
) -> Iterator[tuple[Pixels, NDArray[np.int64] | None]]:
    """Pixel batches, each with the conditions of its images, in order; None without any."""
    done = 0
    for pixels in batches:
        yield pixels, None if conditions is None else conditions[done : done + len(pixels)]
        done += len(pixels)


def joined(waiting: list[Pixels], rule: ImageRule, square: int = 0) -> Pixels:
    """Images (C, H, W) as one batch; wafer maps are padded to a canvas."""
    if rule.kind == "wafer_map":
        return images.padded(waiting, (square, square) if square else canvas(waiting))
    return stacked(waiting)


def canvas(maps: list[Pixels]) -> tuple[int, int]:
    """The canvas of a batch of wafer maps: their largest sides, rounded up."""
    tall, wide = (max(m.shape[axis] for m in maps) for axis in (1, 2))
    return -(-tall // CANVAS_STEP) * CANVAS_STEP, -(-wide // CANVAS_STEP) * CANVAS_STEP


def _together(image: Pixels, first: Pixels, rule: ImageRule) -> bool:
    return rule.kind == "wafer_map" or image.shape == first.shape


def sides(pool: UInt8 | Float32) -> NDArray[np.int64]:
    """(M,) cells a side that each of (M, C + 1, h, w) images fills from the top left."""
    found = np.zeros(len(pool), np.int64)
    for i, image in enumerate(pool):
        covered = np.nonzero(image[-1])
        found[i] = max((int(axis.max()) + 1 for axis in covered if len(axis)), default=1)
    return found


class Pool:
    """Preprocessed images in a file, so that a large set does not need a large memory.

    The file lives as long as the `with` block.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(PermissionError):  # Windows keeps a file that is still mapped
            self.path.unlink(missing_ok=True)

    def fill(
        self,
        batches: Iterator[Pixels],
        view: Callable[[Tensor], Tensor],
        report: Callable[[int], None],
        kind: type[np.float32] | type[np.uint8] = np.float32,
    ) -> Float32 | UInt8:
        """Runs every batch through `view`, which gives one shape; all (M, ...) of it, read-only.

        Raises:
            OSError: the disk is full; writing to a mapped file would end the process instead.
        """
        done, shape = 0, tuple[int, ...]()
        with self.path.open("wb") as file:
            for pixels in batches:
                with torch.no_grad():
                    seen = view(torch.from_numpy(pixels)).numpy().astype(kind, copy=False)
                file.write(seen.tobytes())
                done, shape = done + len(pixels), seen.shape[1:]
                report(done)
        if not done:
            return np.empty(0, np.float32)
        mapped: Float32 | UInt8 = np.memmap(self.path, kind, "r", shape=(done, *shape))
        return mapped
