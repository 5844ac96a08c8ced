"""Rules on one fixed autoencoder: how much the choice of a rule moves a detector.

    python -m pipelines.study [--only DATA ...]

For each data set at hand, one autoencoder is trained (its run file below), and each rule is then
fitted on the same held-out good images and scores the same test images. AUROC on the test split,
as Markdown, written to pipelines/results/study.md. It tells how rules differ; no run file's rule
was chosen from it.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from inspect_ai import metrics, recipe, train
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import MissingData
from inspect_ai.recipe import Recipe
from inspect_ai.scores import Pixels
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings
from inspect_ai.tracking import Nothing
from inspect_ai.training import batches as feed
from inspect_ai.training.descent import Drawn, Run
from inspect_ai.training.detector import Model, Single

RUNS = Path("pipelines/runs")
NAMES = (
    "wm811k_autoencoder",
    "magnetic_tile",
    "kolektor_sdd_autoencoder",
    "elpv_solar_cells_autoencoder",
    "deeppcb_autoencoder",
    "hazelnut_toy_autoencoder",
    "aws_cookies_autoencoder",
)
OUT, TABLE = Path("artefacts/study"), Path("pipelines/results/study.md")
NOT_HERE = "–"  # needs dies, or more good images than there are
PLAIN = {"blur": 1.0}
MIXED = ["l1", "l2", "largest", "ssim", "gradient"]
RULES: dict[str, dict[str, object]] = {
    "l1": {"rule": "l1", **PLAIN},
    "l2": {"rule": "l2", **PLAIN},
    "variance": {"rule": "variance", **PLAIN},
    "ssim": {"rule": "ssim", **PLAIN},
    "gradient": {"rule": "gradient", **PLAIN},
    "density, Gaussian, of l1 l2 largest ssim gradient": {
        "rule": "density",
        "statistics": MIXED,
        "density": "gaussian",
    },
    "density, sum, of moran walks_4 walks_12": {
        "rule": "density",
        "statistics": ["moran", "walks_4", "walks_12"],
    },
    "density, Gaussian, of energies lines rings sectors": {
        "rule": "density",
        "statistics": ["energy_0.7", "energy_1.2", "energy_2", "lines", "rings", "sectors"],
        "density": "gaussian",
    },
}


class Fixed(Model):
    """A model that is trained already."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        seen: Seen = self.model(images, condition)
        return seen


def main(only: list[str]) -> None:
    """Prints the table and writes it down; with `only`, prints some of its columns."""
    columns: dict[str, dict[str, float]] = {}
    for name in NAMES:
        found = recipe.read(RUNS / f"{name}.toml")
        spec = DataSpec.from_toml(found.data_spec)
        if only and spec.name not in only:
            continue
        if not spec.root.is_dir():
            print(f"skipped {spec.name}: {spec.root} is not there", file=sys.stderr)
            continue
        columns[spec.name] = dict(_column(found, manifests.make(spec), OUT / name))
    lines = ["| rule | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for rule in RULES:
        cells = [f"{c[rule]:.3f}" if rule in c else NOT_HERE for c in columns.values()]
        lines.append(f"| {rule} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if not only:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(text, encoding="utf-8")


def _column(made: Recipe, manifest: Manifest, out: Path) -> Iterator[tuple[str, float]]:
    """Rules that can score these images, and what they reach."""
    trained = train.load(train.train(made, manifest, out, Nothing())).detector
    assert isinstance(trained, Single)
    _, held = train.hold_out(manifest.good("train"), made)
    run = Run(made.budget, lambda _step, _losses: None)
    unused = feed.Batches(np.zeros((1, 2, 4, 4), np.float32), 1, 0)
    test = manifest.part("test").table
    for name, fields in RULES.items():
        config: Settings = Recipe.checked(made.model_dump() | {"score": fields}, name).score  # type: ignore[assignment]
        rule = config.build(manifest.spec.image.channels, made.grid)  # type: ignore[attr-defined]
        if rule.maps_only and manifest.spec.image.kind != "wafer_map":
            continue
        detector = Single(trained.preprocess, Fixed(trained.model), rule)
        try:
            detector.fit(unused, lambda: feed.told(feed.raw(held, manifest, 64), None), run)
        except MissingData as error:
            print(f"{manifest.spec.name}, {name}: {error}", file=sys.stderr)
            continue
        good, bad = (
            _scores(detector, feed.raw(test[test["gt_label"] == label], manifest, 64))
            for label in (0, 1)
        )
        yield name, metrics.auroc(good, bad)
        print(f"{manifest.spec.name}, {name}: {metrics.auroc(good, bad):.4f}", file=sys.stderr)


def _scores(
    detector: Single, batches: Iterable[Pixels]
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.concatenate([detector.score(pixels).pred_score for pixels in batches])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] and (sys.argv[1] != "--only" or not sys.argv[2:]):
        sys.exit("Usage: python -m pipelines.study [--only DATA ...]")
    main(sys.argv[2:])
