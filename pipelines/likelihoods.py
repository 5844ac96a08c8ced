"""Rules on one trained model: how one is chosen, and what the others would have reached.

    python -m pipelines.likelihoods CHECKPOINT [CHECKPOINT ...] [--test] [--regret]

A checkpoint is what `inspect-ai build` leaves in OUT/checkpoint. Each rule that the model can feed
is fitted on the held-out good images of the train lots. Without --test, rules are compared on odd
images that were made: the simulator's patterns on good maps of the calibrate lots (choose.py),
dies of later lots of the simulated fab, or good pictures of the calibrate split with the spots that
the guard plants. No image of the test split is read; a run file's rule is
chosen from this. With --test the same table on (some of) the test split is written to
pipelines/results/likelihoods.md, for the record (adversarial.md, of models without a likelihood;
diffusion.md, of those alone).

--regret adds the likelihood regret of a VAE: for each image the code is sought anew, so that it is
no part of any graph, and only FEW images of either kind are scored.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inspect_ai import guard, metrics, train
from inspect_ai.data import images
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.simulate_dies import Die, DieSettings, dies
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import InspectError
from inspect_ai.models.vae import VAE
from inspect_ai.preprocess import Preprocess
from inspect_ai.recipe import Recipe
from inspect_ai.scores import Float32, Pixels
from inspect_ai.scoring.rule import Rule, Seen
from inspect_ai.train import Trained
from inspect_ai.training.detector import Given, Single
from pipelines.choose import Maps, pattern_maps
from pipelines.rules import RULES

Cells = dict[str, str]
OUT = Path("pipelines/results")  # likelihoods.md, or adversarial.md of models without one
FEW, STEPS, RATE = 200, 60, 0.05  # of the regret: images of either kind, and a descent
REGRET = f"likelihood regret, offline, {FEW} images of either kind"
MOST = 2000  # test images of either kind
LATER = 500  # number of the first lot of simulated dies that nothing was trained on
SPOTS = 3  # planted on each good picture, one of a kind, in copies of their own


@dataclass(frozen=True, slots=True)
class Look:
    """A rule, and the detector through which it sees."""

    rule: Rule
    through: Single


def main(folders: list[Path], on_test: bool, regret: bool) -> None:
    """Prints a table a data set: a rule a row, a model a column, AUROC and capture at 1 %."""
    tables: dict[str, dict[str, Cells]] = {}
    for folder in folders:
        trained, manifest = train.load(folder), train.kept_manifest(folder, None)
        cells = dict(_cells(trained, manifest, on_test, regret))
        print(f"{folder}: {len(cells)} rules", file=sys.stderr)
        tables.setdefault(manifest.spec.name, {})[trained.recipe.model["name"]] = cells
    where = "test images" if on_test else "images that were made odd"
    parts = [_table(f"**{data}**, {where}", models) for data, models in tables.items()]
    print("\n".join(parts), end="")
    if on_test:
        likely = any("sum" in cells for models in tables.values() for cells in models.values())
        diffused = all("diffusion" in model for models in tables.values() for model in models)
        name = "diffusion.md" if diffused else "likelihoods.md" if likely else "adversarial.md"
        (OUT / name).write_text("\n".join(parts), encoding="utf-8")


def _table(head: str, models: dict[str, Cells]) -> str:
    names = [n for n in ("shipped", *RULES, REGRET) if any(n in cells for cells in models.values())]
    lines = [head, "", f"| rule | {' | '.join(models)} |", "|---|" + "---|" * len(models)]
    for name in names:
        told = [cells.get(name, "–") for cells in models.values()]
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _cells(
    trained: Trained, manifest: Manifest, on_test: bool, regret: bool
) -> Iterator[tuple[str, str]]:
    """Rules by name, and what they reach."""
    detector, made = trained.detector, trained.recipe
    assert isinstance(detector, Single), "a fusion has no rule of its own"
    looks = dict(_looks(detector, made, manifest.spec))
    _, held = train.hold_out(manifest.good("train"), made)
    fit(looks, train.given(made, held, manifest))
    source = tested if on_test else made_odd
    found = [scored(looks, batches) for batches in source(trained, manifest)]
    for name in looks:
        good, bad = (scores[name] for scores in found)
        capture = float((bad > metrics.threshold_at(good, 0.01)).mean())
        yield name, f"{metrics.auroc(good, bad):.3f} / {capture:.3f}"
    if regret and isinstance(detector.model, VAE):
        few = [_regrets(detector, batches) for batches in source(trained, manifest)]
        yield REGRET, f"{metrics.auroc(*few):.3f}"


def _looks(detector: Single, made: Recipe, spec: DataSpec) -> Iterator[tuple[str, Look]]:
    """The rules that the model can feed, on these images."""
    maps, channels = spec.image.kind == "wafer_map", spec.image.channels
    model, through = detector.model, dict[bool, Single]()
    for name, fields in {"shipped": made.model_dump()["score"], **RULES}.items():
        score = Recipe.checked(made.model_dump() | {"score": fields}, name).score
        assert score is not None
        rule = score.build(channels, made.grid)
        fits = set(rule.needs) <= set(model.gives) and (maps or not rule.maps_only)
        if fits and not (maps and model.native and not (rule.at_dies or rule.any_size)):
            single = through.setdefault(rule.at_dies, Single(detector.preprocess, model, rule))
            yield name, Look(rule, single)
    model.wanted = frozenset(model.gives)  # each rule reads its part of one look


def fit(looks: dict[str, Look], batches: Iterable[Given]) -> None:
    """Fits every rule on what its detector sees of good images."""
    seen = [_seen(looks, batch) for batch in batches]
    for look in looks.values():
        look.rule.fit([pairs[look.through] for pairs in seen])


@torch.no_grad()
def _seen(looks: dict[str, Look], batch: Given) -> dict[Single, tuple[Tensor, Seen]]:
    pixels = torch.from_numpy(batch[0])
    condition = None if batch[1] is None else torch.from_numpy(batch[1])
    return {s: s.eval().look(pixels, condition) for s in {look.through for look in looks.values()}}


@torch.no_grad()
def scored(looks: dict[str, Look], batches: Iterable[Given]) -> dict[str, Float32]:
    """Scores (N,) of all images by every rule."""
    found: dict[str, list[Float32]] = {name: [] for name in looks}
    for batch in batches:
        seen = _seen(looks, batch)
        for name, look in looks.items():
            found[name].append(look.rule(*seen[look.through])[0].numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _regrets(detector: Single, batches: Iterable[Given]) -> Float32:
    """Likelihood regret of FEW images drawn from the batches."""
    model, found = detector.model, list[Tensor]()
    assert isinstance(model, VAE)
    drawn, every = np.random.default_rng(0), list(batches)
    for i in drawn.permutation(len(every)):
        pixels, places = every[i]
        some = drawn.permutation(len(pixels))[: max(1, FEW // len(every) + 1)]
        images = detector.seen_by_model(torch.from_numpy(pixels[some]))
        told = None if places is None else torch.from_numpy(places[some])
        found.append(model.regret(images, STEPS, RATE, told))
    return np.asarray(torch.cat(found)[:FEW].numpy())


def tested(trained: Trained, manifest: Manifest) -> list[Iterator[Given]]:
    """Good and bad images of the test split, at most MOST of either, drawn by a seed."""
    table = manifest.part("test").table
    kinds = [table[table["gt_label"] == label] for label in (0, 1)]
    drawn = [rows.sample(min(len(rows), MOST), random_state=0).sort_index() for rows in kinds]
    return [train.given(trained.recipe, rows, manifest) for rows in drawn]


def made_odd(trained: Trained, manifest: Manifest) -> list[Iterator[Given]]:
    """Good images that nothing was fitted on, and odd ones that were made."""
    made = trained.recipe
    if manifest.spec.image.kind == "wafer_map":
        if made.condition:
            raise SystemExit("Maps with planted patterns have no product. Pass --test.")
        usual, odd = pattern_maps(manifest)
        return [_maps(usual), _maps([m for maps in odd.values() for m in maps])]
    settings = manifest.spec.simulate
    if not isinstance(settings, DieSettings):
        return _spotted(trained, manifest)
    later = settings.model_copy(update={"first_lot": LATER, "lots": 6, "defect_share": 0.5})
    drawn = list(dies(later))
    good, bad = ([d for d in drawn if (d.label == "good") == wanted] for wanted in (True, False))
    return [_dies(made, good), _dies(made, bad)]


def _spotted(trained: Trained, manifest: Manifest) -> list[Iterator[Given]]:
    """Good pictures of the calibrate split, and the same with spots as the guard plants them."""
    view = next(p for p in trained.detector.modules() if isinstance(p, Preprocess))
    rows, region = manifest.good("calibrate"), np.asarray(view.region.numpy())
    usual, odd = list[Given](), list[Given]()
    for turn in range(SPOTS):
        for good, bad, places in guard.pairs(trained, rows, manifest, region, turn):
            usual += [(good, places)] * (turn == 0)
            odd.append((bad, places))
    return [iter(usual), iter(odd)]


def _maps(maps: Maps) -> Iterator[Given]:
    ordered = sorted(maps, key=lambda m: max(m.shape))
    for start in range(0, len(ordered), 64):
        batch: list[Pixels] = [m[None] for m in ordered[start : start + 64]]
        side = -(-max(max(m.shape) for m in batch) // 16) * 16
        yield images.padded(batch, (side, side)), None


def _dies(made: Recipe, drawn: list[Die]) -> Iterator[Given]:
    for start in range(0, len(drawn), 64):
        part = drawn[start : start + 64]
        table = pd.DataFrame([{"product": d.product, "layer": d.layer} for d in part])
        pixels: Pixels = np.stack([d.image for d in part])[:, None]  # type: ignore[assignment]
        yield pixels, made.places(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = [a for a in sys.argv[1:] if not a.startswith("--")]
    if not given:
        sys.exit("No checkpoint. Pass folders that build wrote: artefacts/NAME/checkpoint ...")
    try:
        main([Path(a) for a in given], "--test" in sys.argv, "--regret" in sys.argv)
    except InspectError as error:
        sys.exit(str(error))
