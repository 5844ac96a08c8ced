"""What a machine does with a model: images a second in training and scoring, memory, precision.

    python -m pipelines.pace RUN.toml [--device cuda] [--seconds 20] [--batch 64]

The run is trained for at most so many seconds on at most IMAGES good images of the train lots, and
its rule fitted on some that were held out; nothing is kept. Training is timed after the first WARM
of its steps; a first stage is left untrained. Then the detector scores the held-out images,
so many at a time, over and over: in fp32 as torch has it (of late GPUs convolutions are in TF32
then), and with the model under autocast in bf16 and fp16. What comes before the model and the rule
behind it stay in fp32. A difference is that of a score to its own in fp32, in deviations of the
fp32 scores. On a GPU memory is the most that torch held there in training, and in scoring with each
precision; on a CPU it is the most that the process ever had, all its libraries with it.
"""

import platform
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from typing_extensions import override

from inspect_ai import recipe, train
from inspect_ai.assembly import single
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import InspectError
from inspect_ai.recipe import Recipe
from inspect_ai.scores import Float32
from inspect_ai.scoring.rule import Seen
from inspect_ai.training import batches as feed
from inspect_ai.training.descent import Drawn, Run
from inspect_ai.training.detector import Given, Model, Single

IMAGES, HELD = 2048, 256  # to train on, and to fit the rule on and score
WARM, SHARE = 0.2, 0.2  # of the steps, before the clock; of the seconds, to score
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
HEAD = "| | images/s | memory, MiB | largest score difference, deviations |\n|---|---|---|---|"


class Lower(Model):
    """A trained model under autocast."""

    def __init__(self, model: Model, precision: torch.dtype) -> None:
        super().__init__()
        self.model, self.precision = model, precision
        self.classes, self.native = model.classes, model.native  # type: ignore[misc]

    @override
    def fit(self, batches: Drawn, run: Run) -> Self:
        return self

    @override
    def forward(self, images: Tensor, condition: Tensor | None = None) -> Seen:
        device = images.device.type
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is left out; said below
            lower = torch.autocast(device, self.precision)
        with lower:
            if not torch.is_autocast_enabled(device):
                raise RuntimeError(f"autocast on {device} knows no {self.precision}")
            seen: Seen = self.model(images, condition)
        told = {name: part for name, part in seen._asdict().items() if part is not None}
        return Seen(**{name: part.float() for name, part in told.items()})


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it runs, and for how long."""

    device: str
    seconds: float

    @property
    def name(self) -> str:
        """The device, in words."""
        if self.device == "cuda":
            return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        what = platform.processor() or platform.machine()
        return f"{what}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Starts counting memory anew, where that is possible."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @property
    def memory(self) -> float:
        """The most memory since then, MiB."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        import resource  # not on Windows

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


def main(path: Path, machine: Machine, batch: int = 64) -> None:
    """Prints a table.

    Raises:
        SystemExit: the run is not trained in steps, or ends before one can be timed.
    """
    made = recipe.read(path)
    if made.members:
        sys.exit(f"{path} is a fusion. Pass the run files of its members, one at a time.")
    manifest = manifests.make(DataSpec.from_toml(made.data_spec))
    detector, held, rate = trained(made, manifest, machine)
    lines = [f"**{path.stem}** on {machine.name}", "", HEAD]
    told = f"training in fp32, {made.budget.batch_size} at a time"
    lines.append(f"| {told} | {rate:,.0f} | {machine.memory:,.0f} | |")
    given, exact = list(_repeated(made, held, manifest, batch)), None
    for name, precision in PRECISIONS.items():
        machine.forget()
        told = f"| scoring in {name}, {batch} at a time |"
        try:
            scores, rate = scored(_in(detector, precision), given, machine)
        except RuntimeError as error:
            if precision is None:
                raise
            lines.append(f"{told} not on this device: {str(error).splitlines()[0]} | | |")
            continue
        exact = scores if exact is None else exact
        memory = f"{machine.memory:,.0f}" if machine.device == "cuda" else ""
        lines.append(f"{told} {rate:,.0f} | {memory} | {apart(scores, exact)} |")
    print("\n".join(lines))


def trained(
    made: Recipe, manifest: Manifest, machine: Machine
) -> tuple[Single, pd.DataFrame, float]:
    """A detector that was trained for a while, rows held out, and images a second."""
    rows, held = train.hold_out(manifest.good("train"), made)
    rows = rows.sample(min(len(rows), IMAGES), random_state=0).sort_index()
    held = held.sample(min(len(held), HELD), random_state=0).sort_index()
    marks = list[float]()

    def report(_step: int, _losses: Mapping[str, float]) -> None:
        marks.append(time.perf_counter())

    detector = single(made, manifest.spec, manifest.root)
    budget = made.budget.model_copy(update={"seconds": machine.seconds})
    drawn = _batches(detector, made, rows, manifest)
    machine.forget()
    run = Run(budget, report, None, machine.device)
    detector.fit(drawn, lambda: train.given(made, held, manifest), run)
    first = int(WARM * len(marks))
    if len(marks) - first < 2:
        sys.exit(
            f"{len(marks)} step(s) of training, needed are 3 to time. Raise --seconds, or pass a "
            "run file of a model that is trained in steps, with more of them."
        )
    steps = len(marks) - 1 - first
    return detector, held, steps * budget.batch_size / (marks[-1] - marks[first])


def _batches(
    detector: Single, made: Recipe, rows: pd.DataFrame, manifest: Manifest
) -> feed.Batches:
    """Batches of what the model sees of rows, as training draws them."""
    dies = detector.model.native and detector.view.kind == "wafer_map"
    sizes = [pixels.shape[2:] for pixels in feed.raw(rows, manifest, train.BATCH)] if dies else []
    side = max((max(size) for size in sizes), default=0)
    seen = [
        detector.seen_by_model(torch.from_numpy(pixels)).numpy()
        for pixels in feed.raw(rows, manifest, train.BATCH, side)
    ]
    pool: Float32 = np.concatenate(seen)
    budget, sides = made.budget, feed.sides(pool) if dies else None
    return feed.Batches(pool, budget.batch_size, budget.seed, made.turn, sides, made.places(rows))


def _repeated(made: Recipe, rows: pd.DataFrame, manifest: Manifest, size: int) -> Iterator[Given]:
    """Batches of rows; of few rows, the same again, so that one batch is full."""
    rows = rows.iloc[np.arange(max(size, len(rows))) % len(rows)]
    return feed.told(feed.raw(rows, manifest, size), made.places(rows))


def _in(detector: Single, precision: torch.dtype | None) -> Single:
    if precision is None:
        return detector
    return Single(detector.preprocess, Lower(detector.model, precision), detector.rule)


@torch.no_grad()
def scored(detector: Single, given: list[Given], machine: Machine) -> tuple[Float32, float]:
    """Scores of the first batches, (N,), of all where there is time for them; images a second."""
    detector.to(machine.device).eval()
    moved = [_moved(batch, machine.device) for batch in given]
    detector(*moved[0])
    machine.wait()
    found, done, turns = list[Float32](), 0, 0
    began = time.perf_counter()
    while not turns or time.perf_counter() - began < SHARE * machine.seconds:
        pixels, places = moved[turns % len(moved)]
        score = detector(pixels, places).pred_score.cpu().numpy()
        found += [score] if turns < len(moved) else []
        done, turns = done + len(pixels), turns + 1
    return np.concatenate(found), done / (time.perf_counter() - began)


def _moved(batch: Given, device: str) -> tuple[Tensor, Tensor | None]:
    pixels, places = batch
    told = None if places is None else torch.from_numpy(places).to(device)
    return torch.from_numpy(pixels).to(device), told


def apart(scores: Float32, exact: Float32) -> str:
    """The largest difference to the exact scores of the same images, in the deviations of all."""
    if not np.isfinite(scores).all():
        return "not finite"
    few = min(len(scores), len(exact))
    gap = np.abs(scores[:few] - exact[:few]).max()
    return f"{gap / max(float(exact.std()), 1e-12):.2g}"


def _asked(name: str, usual: str) -> str:
    """What stands behind an option."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else usual


if __name__ == "__main__":
    if not sys.argv[1:] or sys.argv[1].startswith("--"):
        sys.exit("No run file. Pass pipelines/runs/NAME.toml [--device cuda] [--seconds 20]")
    try:
        place = train.torch_device(_asked("--device", "cpu"))
        asked = Machine(place, float(_asked("--seconds", "20")))
        main(Path(sys.argv[1]), asked, int(_asked("--batch", "64")))
    except InspectError as error:
        sys.exit(str(error))
