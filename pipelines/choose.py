"""How bundles of a wafer-map spec do on simulated patterns: what settings are chosen by.

    python -m pipelines.choose artefacts/wm811k/bundle [BUNDLE ...]

Takes good maps of the calibrate lots of the spec that the first bundle names, and plants the
simulator's eight patterns (data/simulate_patterns.py, another generator than the denoiser's
painter) on some of them, at native dies. No defect map and no map of the test lots is read.
Prints AUROC and capture at 1 % and 0.25 % overkill among these maps, in total and by pattern.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from inspect_ai import metrics
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.data import images, layouts
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.simulate_maps import planted
from inspect_ai.data.simulate_patterns import PATTERNS
from inspect_ai.scores import Float32, Pixels

EACH = 250  # maps of a pattern
RATES = (0.01, 0.0025)
Maps = list[NDArray[np.uint8]]


def main(folders: list[str]) -> None:
    """Prints one row a bundle."""
    if not folders:
        sys.exit("No bundle. Pass folders that build wrote: artefacts/NAME/bundle ...")
    found = [bundles.read(Path(folder)) for folder in folders]
    good, bad = pattern_maps(manifests.make(found[0].card.data_spec))
    print("| bundle | AUROC | 1 % | 0.25 % | " + " | ".join(PATTERNS) + " |")
    print("|---|---|---|---|" + "---|" * len(PATTERNS))
    for folder, bundle in zip(folders, found, strict=True):
        scorer = Scorer(bundle, "cpu")
        usual = _scores(scorer, good)
        odd = {name: _scores(scorer, maps) for name, maps in bad.items()}
        everything = np.concatenate(list(odd.values()))
        cells = [f"{metrics.auroc(usual, everything):.4f}"]
        cells += [f"{_above(usual, everything, rate):.3f}" for rate in RATES]
        cells += ["/".join(f"{_above(usual, s, rate):.2f}" for rate in RATES) for s in odd.values()]
        print(f"| {folder} | " + " | ".join(cells) + " |", flush=True)


def pattern_maps(manifest: Manifest) -> tuple[Maps, dict[str, Maps]]:
    """Good maps of the calibrate lots, and some of them with each of the simulator's patterns."""
    read = layouts.reader(manifest.spec, manifest.root)
    paths = manifest.good("calibrate")["image_path"]
    good, rng = [read(path)[0].astype(np.uint8) for path in paths], np.random.default_rng(0)
    return good, {name: _with_pattern(rng, good, name) for name in PATTERNS}


def _with_pattern(rng: Generator, good: Maps, name: str) -> Maps:
    return [planted(rng, good[i], name) for i in rng.permutation(len(good))[:EACH]]


def _scores(scorer: Scorer, maps: Maps) -> Float32:
    order = sorted(range(len(maps)), key=lambda i: max(maps[i].shape))
    found = np.zeros(len(maps), np.float32)
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch: list[Pixels] = [maps[i][None] for i in rows]
        side = -(-max(max(m.shape) for m in batch) // 16) * 16
        found[rows] = scorer.score(images.padded(batch, (side, side))).pred_score
    return found


def _above(good: Float32, bad: Float32, rate: float) -> float:
    return float((bad > metrics.threshold_at(good, rate)).mean())


if __name__ == "__main__":
    main(sys.argv[1:])
