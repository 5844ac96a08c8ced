"""sample: a trained model -> images that it draws, and figures of how good they are.

Drawn images take the coverage and the condition of held-out good images of split `train`, which no
weight has seen and which are the yardstick (judging/compare.py). Where a run is trained on images in
every orientation (`turn`), all images are looked at so. What a model leaves out counts against it:
a VAE the noise of its cells, NADE the fractions of a cell's fail rate.

Writes samples.npy (count, C, h, w) as float16, figures.json and samples.png: good images; drawn
ones; those nearest to a training image, above that image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspect_ai import progress, steps
from inspect_ai.data.manifest import Manifest
from inspect_ai.errors import BadSettings, Diverged, MissingData
from inspect_ai.judging import fidelity
from inspect_ai.judging.compare import (
    FEWEST,
    Described,
    Figure,
    described,
    figures,
)
from inspect_ai.judging.features import Net, OnnxNet, RandomConvolutions
from inspect_ai.recipe import Recipe
from inspect_ai.review.pictures import sheet
from inspect_ai.scores import Float32
from inspect_ai.train import DESCRIPTION, WEIGHTS, hold_out, kept_manifest, load, named
from inspect_ai.training import batches as feed
from inspect_ai.training.detector import Single

SAMPLES, SHEET, FIGURES = "samples.npy", "samples.png", "figures.json"
BATCH = 64  # images drawn at a time
MOST = 5000  # training images compared with
YARDSTICKS = 2000  # held-out images, at most
COLUMNS, REAL, DRAWN = 8, 2, 4  # of the sheet; rows of good images, and of drawn ones
Float16 = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be drawn, and what it is measured on."""

    count: int = 1000
    seed: int = 0
    features: Path | None = None  # an ONNX net


class Source(NamedTuple):
    """What images are drawn from, and what they are compared with."""

    detector: Single
    recipe: Recipe
    manifest: Manifest
    training: pd.DataFrame  # rows, in the order in which they are quick to read
    held_out: pd.DataFrame
    side: int  # dies of a canvas; 0: the model's grid

    @property
    def dies(self) -> bool:
        """Whether images are wafer maps."""
        return self.detector.view.kind == "wafer_map"


def sample(run: Path, out: Path, asked: Asked, root: Path | None = None) -> Path:
    """Draws images from a run that build or train wrote, and measures them.

    Raises:
        MissingData: no such run, or too few held-out images.
        BadSettings: the model draws no images, too few are asked for, or the net does not fit.
        Diverged: what it draws are no numbers.
    """
    checkpoint = checkpoint_of(run)
    source = _opened(checkpoint, root, asked)
    net: Net = OnnxNet(asked.features) if asked.features else _default(source)
    inputs = {
        "weights": steps.sha256(checkpoint / WEIGHTS),
        "asked": [asked.count, asked.seed],
        "features": steps.sha256(asked.features) if asked.features else net.name,
        **named(source.manifest, source.recipe.condition),
    }
    good = torch.cat(list(_views(source, source.held_out)))
    # some are taken in turn: mixed, or they would be those of the first lots
    mixed = np.random.default_rng(0).permutation(len(good))
    good, source = good[mixed], source._replace(held_out=source.held_out.iloc[mixed])
    if not steps.is_finished(out):  # refused before the folder is taken
        source.detector.model.sample(good[:1], asked.seed, _condition(source, np.arange(1)))
    step = steps.Step("sample", out, inputs)
    if step.finished:
        return out
    with steps.disk(out):
        drawn = _drawn(source, good, asked, out)
        found, training, samples = _measured(source, net, good, drawn)
        _pictures(
            source, good, drawn, fidelity.nearest(samples.features, training.features[:, 0]), out
        )
        counts = {"held_out": len(good), "training": len(training.features)}
        pairs = {f.name: {"samples": f.samples, "good": f.good} for f in found}
        fields = {"feature_net": net.name, "samples": len(drawn), **counts, "figures": pairs}
        steps.write_json(out / FIGURES, fields)
        step.finish(samples=len(drawn), **counts)
    return out


def checkpoint_of(run: Path) -> Path:
    """The folder with the weights of a run that build or train wrote.

    Raises:
        MissingData: it is neither.
    """
    for folder in (run / "checkpoint", run):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise MissingData(
        f"{run} is not a folder that 'inspect-ai build' or 'inspect-ai train' wrote. Pass one that "
        "either did."
    )


def _opened(checkpoint: Path, root: Path | None, asked: Asked) -> Source:
    trained = load(checkpoint)
    if not isinstance(trained.detector, Single):
        raise BadSettings(
            f"{checkpoint} holds a fusion, which draws no images. Sample a member that does: "
            f"{', '.join(sorted(p.parent.name for p in checkpoint.glob(f'*/{DESCRIPTION}')))}."
        )
    if asked.count < FEWEST:
        raise BadSettings(
            f"--count {asked.count}: figures need {FEWEST} images or more. Ask for more."
        )
    manifest = kept_manifest(checkpoint, root)
    fitted, held = hold_out(manifest.good("train"), trained.recipe)
    if min(len(fitted), len(held)) < FEWEST:
        raise MissingData(
            f"{len(held)} held-out good images and {len(fitted)} that were trained on; figures need "
            f"{FEWEST} of each. Add images to split 'train', or raise held_out in the run file."
        )
    rows = [
        r.sample(min(len(r), most), random_state=0).sort_index()  # a stack is read in its order
        for r, most in ((fitted, MOST), (held, YARDSTICKS))
    ]
    native = trained.detector.model.native and trained.detector.view.kind == "wafer_map"
    side = max(_canvas(r, manifest) for r in rows) if native else 0
    return Source(trained.detector, trained.recipe, manifest, rows[0], rows[1], side)


def _canvas(rows: pd.DataFrame, manifest: Manifest) -> int:
    return max(int(max(pixels.shape[2:])) for pixels in feed.raw(rows, manifest, BATCH))


def _default(source: Source) -> RandomConvolutions:
    return RandomConvolutions(source.detector.view.channels)


@torch.no_grad()
def _views(source: Source, rows: pd.DataFrame) -> Iterator[Tensor]:
    """What the model sees of rows, in order, each turned at random where it was trained so."""
    done = 0
    for pixels in feed.raw(rows, source.manifest, BATCH, source.side):
        images = source.detector.seen_by_model(torch.from_numpy(pixels))
        if source.recipe.turn:
            images = feed.turned(images, np.random.default_rng([0, done]))
        done += len(images)
        yield images


def _condition(source: Source, turn: NDArray[np.int64]) -> Tensor | None:
    """Conditions of some held-out images, by their places."""
    places = source.recipe.places(source.held_out)
    return None if places is None else torch.from_numpy(places[turn])


def _drawn(source: Source, good: Tensor, asked: Asked, out: Path) -> Float16:
    """Images drawn in batches, each of which is kept: stopped, it goes on with the next."""
    if (out / SAMPLES).is_file():
        return np.asarray(np.load(out / SAMPLES), np.float16)
    shape, part = (good.shape[1] - 1, *good.shape[2:]), out / "samples.part"
    size = BATCH * int(np.prod(shape)) * np.dtype(np.float16).itemsize
    done = part.stat().st_size // size if part.is_file() else 0
    with progress.bar("draw") as bar, part.open("r+b" if done else "wb") as file:
        file.truncate(done * size)
        file.seek(0, 2)
        for number in range(done, -(-asked.count // BATCH)):
            turn = np.arange(number * BATCH, min((number + 1) * BATCH, asked.count)) % len(good)
            seed = int(np.random.SeedSequence([asked.seed, number]).generate_state(1)[0])
            images = source.detector.model.sample(good[turn], seed, _condition(source, turn))
            if not images.isfinite().all():
                raise Diverged(
                    "The model draws images that are no numbers. Train it anew with a lower "
                    "learning_rate."
                )
            file.write(images.half().numpy().tobytes())
            file.flush()
            bar(number * BATCH + len(turn), asked.count)
    cells = np.fromfile(part, np.float16).reshape(-1, *shape)
    with (out / "whole.part").open("wb") as file:
        np.save(file, cells, allow_pickle=False)
    (out / "whole.part").replace(out / SAMPLES)
    part.unlink()
    return cells


def _measured(
    source: Source, net: Net, good: Tensor, drawn: Float16
) -> tuple[list[Figure], Described, Described]:
    """The figures, and what they were made of: training images and samples."""
    ways = 8 if source.recipe.turn else 1
    training = described(_views(source, source.training), net, source.dies)
    held_out = described(torch.split(good, BATCH), net, source.dies, ways)
    every = (np.arange(i, min(i + BATCH, len(drawn))) for i in range(0, len(drawn), BATCH))
    samples = described((_covered(good, drawn, some) for some in every), net, source.dies, ways)
    return figures(net, samples, training, held_out), training, samples


def _covered(good: Tensor, drawn: Float16, some: NDArray[np.int64]) -> Tensor:
    """Some of the drawn images, with the coverage that they took: (N, C + 1, h, w)."""
    cells = torch.from_numpy(drawn[some].astype(np.float32))
    return torch.cat([cells, good[some % len(good), -1:]], 1)


def _pictures(
    source: Source, good: Tensor, drawn: Float16, near: fidelity.Nearest, out: Path
) -> None:
    """Good images, drawn ones, and those nearest to a training image above that image."""
    closest = np.argsort(near.distance, kind="stable")[:COLUMNS]
    places, again = np.unique(near.place[closest], return_inverse=True)
    trained = torch.cat(list(_views(source, source.training.iloc[places])))
    first = _covered(good, drawn, np.arange(min(len(drawn), DRAWN * COLUMNS)))
    copies = torch.cat([_covered(good, drawn, closest), trained[again]])
    parts = [good[: REAL * COLUMNS], first, copies]
    cells = [_in_rows(_shown(images, source.dies)) for images in parts]
    gap = np.ones_like(cells[0][:1])
    sheet(np.concatenate([cells[0], gap, cells[1], gap, cells[2]]), out / SHEET)


def _shown(images: Tensor, dies: bool) -> Float32:
    """(N, C, h, w); of wafer maps: none white, passing light grey, failing dark."""
    x, w = images[:, :-1], (images[:, -1:] > 0).float()
    return np.asarray((1 - w * (0.2 + 0.8 * x) if dies else x * w).numpy(), np.float32)


def _in_rows(cells: Float32) -> Float32:
    """(N, C, h, w) to (rows, COLUMNS, C, h, w), the last row filled up with white."""
    missing = -len(cells) % COLUMNS
    full = np.concatenate([cells, np.ones((missing, *cells.shape[1:]), np.float32)])
    return full.reshape(-1, COLUMNS, *cells.shape[1:])
