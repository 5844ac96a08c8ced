"""train: a run file and the good images of split `train` -> a detector's weights.

Weights are fitted on most groups of the split; the rule's own statistics on the rest, which no
weight has seen, since residuals of images a model was fitted on are too small.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from inspect_ai import progress, steps
from inspect_ai.data import images
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import DataSpec, ImageRule
from inspect_ai.errors import BadSettings, MissingData, NoSuchDevice
from inspect_ai.preprocess import Preprocess
from inspect_ai.recipe import Recipe
from inspect_ai.review import curves
from inspect_ai.scores import Float32
from inspect_ai.tracking import Log
from inspect_ai.training import batches as feed
from inspect_ai.training.checkpoint import Checkpoints
from inspect_ai.training.descent import Run
from inspect_ai.training.detector import Detector

WEIGHTS, DESCRIPTION, HISTORY = "weights.safetensors", "model.json", "history.parquet"
CURVE, MANIFEST = "history.png", "manifest.parquet"
BATCH = 64  # images scored at a time


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint that was read back."""

    detector: Detector
    recipe: Recipe
    spec: DataSpec


def train(recipe: Recipe, manifest: Manifest, out: Path, log: Log, device: str = "cpu") -> Path:
    """Fits a detector on the good images of split `train`.

    Raises:
        MissingData: the split has no good image.
        BadImages: a training image breaks the image rule.
    """
    manifests.require_groups(manifest)
    step = steps.Step("train", out, inputs(recipe, manifest))
    if step.finished:
        return out
    with steps.disk(out):
        detector = new_detector(recipe, manifest.spec, manifest.root)
        fit_rows, held_rows = hold_out(manifest.good("train"), recipe)
        history = _History(out / "history.jsonl")
        with progress.bar("train") as bar:

            def report(number: int, losses: Mapping[str, float]) -> None:
                history.add(number, losses)
                if (number + 1) % 50 == 0:
                    log.numbers(number + 1, history.recent(50))
                bar(number + 1, recipe.budget.steps)

            run = Run(recipe.budget, report, Checkpoints(out / "state.safetensors"), device)
            with _pool(detector.preprocess, out) as pool:
                images = _prepared(pool, detector.preprocess, fit_rows, manifest)
                budget = recipe.budget
                drawn = feed.Batches(images, budget.batch_size, budget.seed, recipe.turn)
                detector.fit(drawn, lambda: feed.raw(held_rows, manifest, BATCH), run)
        _keep(detector, recipe, manifest, history, out)
        Checkpoints(out / "state.safetensors").drop()
        history.path.unlink(missing_ok=True)
        counts = {"images": len(fit_rows), "held_out_images": len(held_rows)}
        step.finish(**counts, notes=list(manifest.notes))
    return out


def load(checkpoint: Path) -> Trained:
    """A trained detector.

    Raises:
        MissingData: the folder is not finished work of train.
    """
    steps.read_record(checkpoint, "train")
    fields = json.loads((checkpoint / DESCRIPTION).read_text(encoding="utf-8"))
    recipe = Recipe.checked(fields["recipe"], str(checkpoint / DESCRIPTION))
    spec = DataSpec.checked(fields["data_spec"], str(checkpoint / DESCRIPTION))
    detector = new_detector(recipe, spec, None)
    tensors = load_file(checkpoint / WEIGHTS)
    detector.preprocess.region = tensors["preprocess.region"]  # of its own size
    detector.load_state_dict(tensors)
    return Trained(detector.eval(), recipe, spec)


def new_detector(recipe: Recipe, spec: DataSpec, root: Path | None) -> Detector:
    """An untrained detector; `root` is where a valid region is read, None leaves it whole."""
    torch.manual_seed(recipe.budget.seed)
    region = _region(spec, root) if root is not None else None
    channels = spec.image.channels
    if recipe.score.rule == "structure" and spec.image.kind != "wafer_map":
        raise BadSettings("rule = 'structure' needs wafer maps; use ssim or gradient for pictures.")
    model = recipe.model_config_().build(channels, recipe.grid)
    rule = recipe.score.build(channels, recipe.grid)
    return Detector(Preprocess(recipe.view(spec), region), model, rule)


def hold_out(rows: pd.DataFrame, recipe: Recipe) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cuts rows by group into those for the weights and those for the rule's statistics."""
    seed = recipe.budget.seed
    names = sorted(
        rows["group"].unique(), key=lambda g: hashlib.sha256(f"{seed}/{g}".encode()).digest()
    )
    sizes = rows.groupby("group").size().reindex(names).cumsum()
    few = max(1, int((sizes <= recipe.held_out * len(rows)).sum()))  # a group at least
    held = rows["group"].isin(names[:few])
    if not held.any() or held.all():
        raise MissingData(
            f"{len(rows)} good training images in {len(names)} group(s) cannot be cut in two by "
            "group. Add images, or a larger 'train' share in the data spec."
        )
    return rows[~held], rows[held]


class _History:
    """Losses by step, written down at once, so that a killed run finds them again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[int, dict[str, float]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            with suppress(ValueError):  # a line that a kill cut short
                row = json.loads(line)
                self.rows[row["step"]] = row

    def add(self, step: int, losses: Mapping[str, float]) -> None:
        self.rows[step] = {"step": step, **losses}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(self.rows[step]))

    def recent(self, steps: int) -> dict[str, float]:
        """Mean losses of the last steps, as a log names them."""
        mean = pd.DataFrame(list(self.rows.values())[-steps:]).drop(columns="step").mean()
        return {f"loss_{k}": float(v) for k, v in mean.items()}


def _pool(preprocess: Preprocess, out: Path) -> feed.Pool:
    view = preprocess.view
    return feed.Pool(out / "pool.part", (view.channels + 1, *view.grid))


def _prepared(
    pool: feed.Pool, preprocess: Preprocess, rows: pd.DataFrame, manifest: Manifest
) -> Float32:
    with progress.bar("read") as bar:

        def report(done: int) -> None:
            bar(done, len(rows))

        return pool.fill(feed.raw(rows, manifest, BATCH), preprocess, report)


def _keep(
    detector: Detector,
    recipe: Recipe,
    manifest: Manifest,
    history: _History,
    out: Path,
) -> None:
    tensors = {k: v.contiguous() for k, v in detector.state_dict().items()}
    save_file(tensors, out / WEIGHTS)
    table = pd.DataFrame(list(history.rows.values()))
    table.to_parquet(out / HISTORY, index=False)
    curves.losses(table, out / CURVE)
    manifests.write(manifest, out / MANIFEST)
    description = {
        "recipe": recipe.model_dump(mode="json"),
        "data_spec": manifest.spec.model_dump(mode="json"),
        "root": str(manifest.root),
        "weights": sum(p.numel() for p in detector.parameters()),
    }
    steps.write_json(out / DESCRIPTION, description)


def _region(spec: DataSpec, root: Path) -> torch.Tensor | None:
    """The valid region as its own picture: 1 where pixels count, 0 where not."""
    if spec.image.valid_region is None:
        return None
    mask = images.read(root / spec.image.valid_region, ImageRule()) > 0
    return torch.from_numpy(mask[0]).float()


def torch_device(wanted: str) -> str:
    """The device to train on: "auto" takes a GPU that torch sees.

    Raises:
        NoSuchDevice: "cuda" was asked for and torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise NoSuchDevice(
            "--device cuda was asked for, but torch sees no GPU. Install a CUDA build of torch "
            "and a driver, or pass --device cpu."
        )
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def kept_manifest(checkpoint: Path, root: Path | None) -> Manifest:
    """The manifest a checkpoint was trained on, read at the same root or another."""
    steps.read_record(checkpoint, "train")
    fields = json.loads((checkpoint / DESCRIPTION).read_text(encoding="utf-8"))
    spec = DataSpec.checked(fields["data_spec"], str(checkpoint / DESCRIPTION))
    return manifests.read(checkpoint / MANIFEST, spec, spec.located(root or Path(fields["root"])))


def inputs(recipe: Recipe, manifest: Manifest) -> dict[str, object]:
    """What a training run depends on."""
    return {"recipe": recipe.hash(), **named(manifest)}


def named(manifest: Manifest) -> dict[str, object]:
    """What identifies the data: the spec, and every image with its split."""
    rows = manifest.table[["image_id", "image_path", "split"]]
    content = hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()
    return {"spec": manifest.spec.hash(), "images": content}
