"""Two questions about adversarial models: do they train twice alike, and what is an encoder worth.

    python -m pipelines.adversarial stability RUN.toml [--runs N] [--seconds S]

trains a run file N times (10 by default) for at most S seconds (60), each with a seed of its own,
and calibrates and examines each as a build does (nothing is exported). A run that the watch or the
loop stops is a row that says why. Of a run that ends: the critic's last win rate, the diversity of
samples against that of good images, and what the guard found: planted defects caught at the
threshold, their AUROC, and PCA's. No test image is read. Written to pipelines/results/stability_RUN.md.

    python -m pipelines.adversarial search CHECKPOINT [--few N]

holds an encoder against AnoGAN's search for the code (adversarial/search.py), from random starts
and from where the encoder ends, on N good images of split `calibrate` (64) and the same with a
planted defect: AUROC of AnoGAN's own loss, the residual, and seconds an image. Written to
pipelines/results/search_DATA_MODEL.md.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inspect_ai import build, guard, metrics, recipe, train
from inspect_ai.adversarial.drawing import Drawing
from inspect_ai.adversarial.search import Plan, losses, search
from inspect_ai.bundle.bundle import Guarded
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import Collapsed, Diverged, InspectError
from inspect_ai.models.bigan import BiGAN
from inspect_ai.models.f_anogan import FAnoGAN
from inspect_ai.recipe import Recipe
from inspect_ai.steps import read_record
from inspect_ai.tracking import Nothing
from inspect_ai.training.descent import FIGURE
from inspect_ai.training.detector import Single
from inspect_ai.training.history import HISTORY

OUT, RESULTS = Path("artefacts/stability"), Path("pipelines/results")
WATCHED = ("critic_win_rate", "sample_diversity")
HEAD = (
    "| seed | ended | critic's win rate | diversity of samples | redrawn, dB | planted defects "
    "caught | AUROC | PCA caught | PCA AUROC |\n|---|---|---|---|---|---|---|---|---|"
)


def stability(run: Path, runs: int, seconds: float) -> None:
    """Trains a run file with several seeds and tells how each ended."""
    asked = recipe.read(run)
    manifest = manifests.make(DataSpec.from_toml(asked.data_spec))
    head = f"`{run.stem}`, {runs} seeds, at most {seconds:g} s of training each"
    lines = [f"**{head}**", "", HEAD]
    for seed in range(runs):
        lines.append(_row(asked.seeded(seed, seconds), manifest, OUT / f"{run.stem}-s{seed}"))
        print(lines[-1], flush=True)
    (RESULTS / f"stability_{run.stem}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(asked: Recipe, manifest: Manifest, out: Path) -> str:
    seed = asked.budget.seed
    try:
        checkpoint = train.train(asked, manifest, out / "checkpoint", Nothing())
    except (Collapsed, Diverged) as error:
        return f"| {seed} | stopped: {error} |" + " |" * 7
    calibration = build.calibrate(checkpoint, manifest, out / "calibration")
    found = guard.examined(checkpoint, calibration, manifest, out / guard.KEPT)
    history = pd.read_parquet(checkpoint / HISTORY)
    last = [history[FIGURE + name].dropna().iloc[-1] for name in WATCHED]
    told = read_record(checkpoint, "train")["told"]["redrawn_psnr_db"]
    steps = f"{len(history):,} steps"
    cells = [f"{last[0]:.3f}", f"{last[1]:.2f}", f"{told:.1f}", *_caught(found)]
    return f"| {seed} | {steps} | " + " | ".join(cells) + " |"


def _caught(found: Guarded) -> list[str]:
    shares = [f"{100 * found.capture:.1f} %", f"{found.auroc:.3f}"]
    return [*shares, f"{100 * found.pca_capture:.1f} %", f"{found.pca_auroc:.3f}"]


def against_search(checkpoint: Path, few: int) -> None:
    """Holds a model's encoder against a search for the code."""
    trained, manifest = train.load(checkpoint), train.kept_manifest(checkpoint, None)
    detector = trained.detector
    if not isinstance(detector, Single) or not isinstance(detector.model, FAnoGAN | BiGAN):
        sys.exit("A search needs a model with generator and encoder: f_anogan or bigan.")
    made = trained.recipe
    rows = guard.spread(manifest.good("calibrate"), few)
    good, bad = list[Tensor](), list[Tensor]()
    region = np.asarray(detector.preprocess.region.numpy())
    for clean, odd, _ in guard.pairs(trained, rows, manifest, region):
        good.append(detector.seen_by_model(torch.from_numpy(clean)))
        bad.append(detector.seen_by_model(torch.from_numpy(odd)))
    images = torch.cat([*good, *bad])
    places = made.places(rows)
    condition = None if places is None else torch.from_numpy(np.concatenate([places, places]))
    lines = [
        f"**{manifest.spec.name}, {made.model['name']}**, {len(rows)} good images and the same "
        "with a planted defect",
        "",
        "| code by | AUROC of the loss | of the residual | residual of good images | s an image |",
        "|---|---|---|---|---|",
    ]
    for name, way in _ways(detector.model, images, condition).items():
        lines.append(_compared(name, way, images))
        print(lines[-1], flush=True)
    name = f"search_{manifest.spec.name}_{made.model['name']}.md"
    (RESULTS / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


Way = Callable[[], tuple[Tensor, Tensor]]  # to what is drawn (N, C, h, w), and losses (N,)


def _ways(model: FAnoGAN | BiGAN, images: Tensor, condition: Tensor | None) -> dict[str, Way]:
    codes = model.codes(images, condition)
    draw = partial(_drawn, model, condition)
    look = partial(_looked, model, condition, codes)
    torch.manual_seed(0)
    start = torch.randn_like(codes)

    def by_encoder() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            drawn = draw(model.codes(images, condition))
            return drawn, losses(images, drawn, look, Plan().features)

    def by_search(begin: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        found = search(images, draw, look, begin, plan)
        return found.expected, found.loss

    return {
        "encoder": by_encoder,
        "search, 200 steps": partial(by_search, start, Plan()),
        "search, 200 steps, best of 3 starts": partial(by_search, start, Plan(starts=3)),
        "encoder, then 50 steps": partial(by_search, codes, Plan(steps=50)),
    }


def _drawn(model: Drawing, condition: Tensor | None, z: Tensor) -> Tensor:
    drawn: Tensor = model.generator(z, condition)
    return drawn


def _looked(
    model: FAnoGAN | BiGAN, condition: Tensor | None, codes: Tensor, images: Tensor
) -> Tensor:
    """Features of the critic; a joint one is told the encoder's codes."""
    told = {"code": codes} if isinstance(model, BiGAN) else {}
    found: Tensor = model.rival.critic.features(images, condition, **told)
    return found


def _compared(name: str, way: Way, images: Tensor) -> str:
    began = time.monotonic()
    drawn, loss = way()
    seconds = (time.monotonic() - began) / len(images)
    x, w = images[:, :-1], images[:, -1:]
    gap = ((x - drawn).square() * w).sum((1, 2, 3)) / (w.sum((1, 2, 3)) * x.shape[1]).clamp(
        min=1e-6
    )
    half = len(images) // 2
    cells = [
        f"{metrics.auroc(part[:half].numpy(), part[half:].numpy()):.3f}" for part in (loss, gap)
    ]
    return f"| {name} | {' | '.join(cells)} | {float(gap[:half].mean()):.4f} | {seconds:.3g} |"


def _asked(name: str, usual: float) -> float:
    """The number behind an option."""
    return float(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else usual


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        match sys.argv[1:3]:
            case ["stability", run]:
                stability(Path(run), int(_asked("--runs", 10)), _asked("--seconds", 60.0))
            case ["search", checkpoint]:
                against_search(Path(checkpoint), int(_asked("--few", 64)))
            case _:
                sys.exit(__doc__)
    except InspectError as error:
        sys.exit(str(error))
