"""The guard of build: a model that finds less than PCA, or than chance, gets no bundle unasked.

Good images of split `calibrate`, at most 400 of as many groups as there are, are scored as they
are and with a defect planted on each: a map's in turn one of eight patterns, a picture's a lump,
a line or a swapped piece; up to eight, one at a time, where images are few. At the threshold

    capture = share of planted images that are flagged
    chance  = r / (n + 1), what a score that knows nothing flags where r - 1 of n good images
              lie above the threshold: the promised rate or less

Beside it stands the simplest rival, PCA-64 (training/rival.py), fitted to good images of split
`train` on the grid of the model (a fusion's first member), with a threshold for the same promise
on the same good images. A model is doubted

    * where its capture is below chance,
    * where its AUROC of planted against good images is below 1/2, or
    * where PCA-64 alone catches k of the m planted images that one of the two alone catches, and
      P(Binomial(m, 1/2) >= k) <= 5 %: more than the toss of a coin explains.

How well good images are redrawn is told, and no reason to refuse: what is redrawn less may show
defects the more. PSNR = -10 log10 (sum w (x - e)^2 / C sum w) in dB, e the expectation, on the
grid of a picture; of wafer maps at the dies, x 1 where one fails, and PCA's e is spread there.

Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12(2), 1947 (the paired test, here exact and to one side).

Shapes: N images, C channels, h, w cells (x their content, w their coverage).
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from scipy import stats

from inspect_ai import progress, steps
from inspect_ai.bundle.bundle import Guarded
from inspect_ai.calibration.lots import yardstick
from inspect_ai.data import simulate_maps, simulate_spots
from inspect_ai.data.conditions import Places
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.simulate_patterns import PATTERNS
from inspect_ai.data.specs import ImageRule
from inspect_ai.errors import WorseThanPCA
from inspect_ai.metrics import auroc
from inspect_ai.preprocess import Preprocess
from inspect_ai.scores import Bool, Float32, Pixels
from inspect_ai.train import BATCH, WEIGHTS, Trained, given, hold_out, load, named, yardsticks
from inspect_ai.training import batches as feed
from inspect_ai.training import rival as rivals
from inspect_ai.training.rival import Rival

KEPT = "guard.json"
MOST = 400  # good images that a defect is planted on
FEWEST, TURNS = 200, 8  # planted defects, as far as so many an image reach
SEED = 0  # of images and defects: every model on the same data meets the same ones
LEVEL = 0.05  # of the test
FLOOR = 1e-12  # a mean squared error below it counts as this: 120 dB
VERSION = 2  # goes up when a figure changes its meaning


def examined(checkpoint: Path, calibration: Path, manifest: Manifest, kept: Path) -> Guarded:
    """How a calibrated detector and PCA do on planted defects; reads `kept` where it holds that.

    Args:
        kept: JSON file of the figures; written in one move.

    Raises:
        MissingData: the folders are not the finished work of train and calibrate.
    """
    trained = load(checkpoint)
    promise = steps.read_record(calibration, "calibrate")
    inputs: dict[str, object] = {
        "version": VERSION,
        "weights": steps.sha256(checkpoint / WEIGHTS),
        "calibration": steps.sha256(calibration / "calibration.json"),
        **named(manifest, trained.recipe.condition),
    }
    found = _read(kept, inputs)
    if found is None:
        found = compared(trained, promise, manifest)
        with steps.disk(kept.parent):
            steps.write_json(kept, {"inputs": inputs, "found": found.model_dump(mode="json")})
    return found


def passed(found: Guarded, force: bool = False) -> Guarded:
    """Lets a model pass; one with doubts by force alone, and then marked so.

    Raises:
        WorseThanPCA: there are doubts, and no force.
    """
    if found.doubts and not force:
        raise WorseThanPCA(
            f"The trained model would be shipped worse than what it should beat. {summary(found)}. "
            f"{' '.join(found.doubts)} Train longer, take another model or rule, or pass --force "
            "to export it all the same: the bundle and its reports will say so."
        )
    return found.model_copy(update={"forced": bool(found.doubts)})


def summary(found: Guarded) -> str:
    """The figures in one line."""
    rival = f"PCA-{found.pca_components}"
    return (
        f"planted defects: {_percent(found.capture)} of {found.planted} caught at the threshold, "
        f"{rival} {_percent(found.pca_capture)}, chance {_percent(found.chance)}; AUROC "
        f"{found.auroc:.3f}, {rival} {found.pca_auroc:.3f}; good images redrawn at "
        f"{found.psnr:.1f} dB, {rival} {found.pca_psnr:.1f} dB"
    )


def told(found: Guarded | None) -> list[str]:
    """The figures, and what they warn of."""
    if found is None:
        return ["planted defects: not examined"]
    return [summary(found), *(f"warning: exported by force. {d}" for d in found.doubts)]


def numbers(found: Guarded) -> dict[str, float]:
    """Every figure by name, for the log."""
    plain = found.model_dump(exclude={"doubts", "forced"})
    return {f"guard_{name}": float(value) for name, value in plain.items()}


@dataclass(slots=True)
class _Tally:
    """What was measured, batch by batch."""

    good: list[Float32] = field(default_factory=list)
    bad: list[Float32] = field(default_factory=list)
    error: float = 0.0  # sum of w (x - expected)^2
    cells: float = 0.0  # sum of w

    def add(self, good: Float32, expected: Float32, image: Float32) -> None:
        """Scores of good images, what is expected of them, and the (N, C + 1, ...) images."""
        x, w = image[:, :-1], image[:, -1:]
        self.good.append(good)
        wrong = np.nan_to_num((x - expected) ** 2, nan=1.0, posinf=1.0)  # as wrong as can be
        self.error += float((w * wrong).sum(dtype=np.float64))
        self.cells += float(w.sum(dtype=np.float64)) * x.shape[1]

    @property
    def psnr(self) -> float:
        """In dB."""
        return -10 * math.log10(max(self.error / self.cells, FLOOR))

    @property
    def auroc(self) -> float:
        """Of images with a defect against the same without."""
        return auroc(np.concatenate(self.good), np.concatenate(self.bad))

    def caught(self, threshold: float) -> Bool:
        """(N,) planted images strictly above it; a score that is not a number is."""
        return ~(np.concatenate(self.bad) <= np.float32(threshold))


def compared(trained: Trained, promise: dict[str, Any], manifest: Manifest) -> Guarded:
    """The figures of a detector and its rival.

    Args:
        promise: what calibrate wrote; of a tail, what good images support without it counts.
    """
    _, rows = yardsticks(trained.recipe, manifest)
    rival = fitted(trained, manifest)
    theirs, chance = _calibrated(rival, rows, promise, manifest)
    ours, pca = _Tally(), _Tally()
    chosen, region = spread(rows), np.asarray(rival.view.region.numpy())
    turns = min(TURNS, -(-FEWEST // len(chosen)))
    with progress.bar("plant defects") as bar:
        for turn in range(turns):
            for good, bad, condition in pairs(trained, chosen, manifest, region, turn):
                ours.bad.append(trained.detector.score(bad, condition).pred_score)
                pca.bad.append(rival.score(bad))
                bar(sum(map(len, ours.bad)), turns * len(chosen))
                if turn == 0:  # the good ones are the same in each
                    said = trained.detector.score(good, condition)
                    assert said.expected is not None, "a detector says what it expects"
                    image = np.asarray(rival.view.detail(torch.from_numpy(good)).numpy())
                    ours.add(said.pred_score, said.expected, image)
                    pca.add(rival.score(good), rival.expected(good), image)
    caught, rival_caught = ours.caught(promise["supported_threshold"]), pca.caught(theirs)
    figures = {
        "images": len(chosen),
        "planted": len(caught),
        "chance": chance,
        "capture": float(caught.mean()),
        "pca_capture": float(rival_caught.mean()),
        "auroc": ours.auroc,
        "pca_auroc": pca.auroc,
        "psnr": ours.psnr,
        "pca_psnr": pca.psnr,
        "pca_components": rival.components,
    }
    found = Guarded.checked(figures, "the guard")
    return found.model_copy(update={"doubts": _doubts(found, caught, rival_caught)})


def fitted(trained: Trained, manifest: Manifest) -> Rival:
    """PCA of good images of split `train` that the weights were fitted on, on the same grid."""
    first = (trained.recipe.members or (trained.recipe,))[0]
    view = next(p for p in trained.detector.modules() if isinstance(p, Preprocess))
    rows, _ = hold_out(manifest.good("train"), first)
    return rivals.fit(view, feed.raw(spread(rows, rivals.most(view)), manifest, BATCH))


def spread(rows: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
    """So many rows at most, drawn from a seed, of each group as many as of any, in their order."""
    drawn = rows.sample(frac=1, random_state=SEED)
    turn = drawn.groupby("group").cumcount().sort_values(kind="stable")
    return rows.loc[sorted(turn.index[:most])]


def _calibrated(
    rival: Rival, rows: pd.DataFrame, promise: dict[str, Any], manifest: Manifest
) -> tuple[float, float]:
    """PCA's own threshold for the same promise on the same good images, and what chance flags."""
    found = np.concatenate([rival.score(p) for p in feed.raw(rows, manifest, BATCH)])
    table = rows[["image_id", "group"]].assign(pred_score=found)
    asked = (promise[name] for name in ("supported_rate", "confidence", "unit"))
    kept = yardstick(table, "pred_score", *asked)
    above = int((found > np.float32(kept.threshold)).sum())
    return kept.threshold, (1 + above) / (len(found) + 1)


def pairs(
    trained: Trained, rows: pd.DataFrame, manifest: Manifest, region: Float32, turn: int = 0
) -> Iterator[tuple[Pixels, Pixels, Places | None]]:
    """Good pixels of rows, the same with a defect on each, and their conditions.

    Args:
        region: 1 where a picture counts, of any size; (1, 1) of ones: everywhere.
        turn: which of an image's defects.
    """
    done, rule = 0, manifest.spec.image
    for pixels, condition in given(trained.recipe, rows, manifest):
        bad = pixels.copy()
        for i in range(len(pixels)):
            bad[i] = _planted(pixels, i, (turn, done + i), rule, region)
        done += len(pixels)
        yield pixels, bad, condition


def _planted(
    pixels: Pixels, i: int, key: tuple[int, int], rule: ImageRule, region: Float32
) -> Pixels:
    """Image i of a batch with the defect whose turn it is."""
    rng, picture, number = np.random.default_rng([SEED, *key]), pixels[i], sum(key)
    if rule.kind == "wafer_map":
        label = list(PATTERNS)[number % len(PATTERNS)]
        return simulate_maps.planted(rng, np.asarray(picture[0], np.uint8), label)[None]
    kind = simulate_spots.KINDS[number % len(simulate_spots.KINDS)]
    sides = picture.shape[2], picture.shape[1]
    counts = cv2.resize(region, sides, interpolation=cv2.INTER_NEAREST) > 0
    other = pixels[(i + 1) % len(pixels)]  # of the same shape, as all of a batch
    return simulate_spots.planted(rng, picture, kind, rule, counts, other)[0]


def _doubts(found: Guarded, caught: Bool, rivals: Bool) -> tuple[str, ...]:
    """Why the model should not be used, in sentences."""
    said, rival = list[str](), f"PCA-{found.pca_components}"
    if found.capture < found.chance:
        said.append(
            f"At its threshold it catches {_percent(found.capture)} of {found.planted} planted "
            f"defects, and a score that knows nothing {_percent(found.chance)}."
        )
    if found.auroc < 0.5:
        said.append(
            "Images with a planted defect score below good ones more often than above (AUROC "
            f"{found.auroc:.3f})."
        )
    alone, theirs = int((caught & ~rivals).sum()), int((rivals & ~caught).sum())
    if theirs and stats.binom.sf(theirs - 1, alone + theirs, 0.5) <= LEVEL:
        said.append(
            f"At its threshold it catches {_percent(found.capture)} of {found.planted} planted "
            f"defects and {rival} {_percent(found.pca_capture)}: {theirs} that it misses, against "
            f"{alone} the other way round, more than chance explains."
        )
    return tuple(said)


def _read(kept: Path, inputs: dict[str, object]) -> Guarded | None:
    """Figures of the same work; None where there are none."""
    try:
        fields = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        fields = None
    same = isinstance(fields, dict) and fields.get("inputs") == inputs
    return Guarded.checked(fields.get("found"), str(kept)) if same else None


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
