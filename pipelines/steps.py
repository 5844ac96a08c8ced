"""Accuracy against steps: what each score of a diffusion model finds, and how fast.

    python -m pipelines.steps CHECKPOINT [CHECKPOINT ...] [--test] [--out DIR]

One set of weights is scored in many ways: each is a rule, and settings that are read in scoring
alone. Their noise is made anew, and each rule is fitted anew on held-out good images of the train
lots. Compared are GOOD good and ODD odd images, drawn by a seed: made odd as likelihoods.py does,
or with --test those of the test split, for the record. Written to DIR/steps_RUN.md and .png, where
DIR is pipelines/results if not given.

Calls are counted as they are made, and are those of one image: a score that does not come with an
expected image has one more, for the picture that a reviewer sees; the timer's is not counted.
Several levels of a run that has one are spread AWAY from it to either side. Images a second are
those of the exported graph by ONNX Runtime, best of RUNS runs on THREADS threads, for batches of
BATCH images (fewer where more than MOST would be in one call) that have the size of the grid
already: 32 x 32 dies on a grid of 32 x 32 cells. Calls that wait for each other make a long graph:
one of more than UNROLLED is not exported, its time follows from the longest that was in proportion
to its calls, and it has a ~.

The knee of a score is its quickest point whose capture is at most NEAR below its best; the knee of
all is that of all points (points.py). Capture is that at 1 % overkill, or at 5 % where 1 % of the
good images are fewer than ten. Its standard error is up to .02 with ODD odd images; points share
their images, so that differences between them are surer than that.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inspect_ai import metrics, parity, train
from inspect_ai.assembly import new_detector
from inspect_ai.bundle.runtime import answer, open_session
from inspect_ai.data.manifest import Manifest
from inspect_ai.diffusing.config import Config
from inspect_ai.diffusing.tale import Tale
from inspect_ai.errors import BadSettings, InspectError
from inspect_ai.scores import Float32, Pixels
from inspect_ai.train import Trained
from inspect_ai.training.detector import Given, Model, Single
from pipelines import likelihoods
from pipelines.likelihoods import Look
from pipelines.points import RATES, THREADS, Point, Way, completed, picture, row, table

OUT = Path("pipelines/results")
GOOD, ODD, HELD = 1000, 500, 500  # images to compare, and to fit a rule on
PIECE, BATCH, MOST = 32, 64, 1024  # images scored and timed at a time; most in one network call
RUNS, SHORT = 3, 0.3  # of a measured speed: runs, and the least seconds of one
LEVELS, REDRAWS, BOUNDS = (1, 2, 4, 8, 16, 32, 50), (1, 2, 5, 10, 25, 50), (2, 5, 10, 25, 50)
UNROLLED = 10  # calls, at most, of a graph that is exported to be timed
AWAY, LEAST = 0.2, 0.05  # of the schedule: levels around a run's only one, and their least


@dataclass(frozen=True, slots=True)
class Data:
    """Batches of good images to fit rules on, and of either kind to compare."""

    held: list[Given]
    good: list[Given]
    odd: list[Given]


Ways = Callable[[Trained], Sequence[Way]]


def ways(trained: Trained) -> list[Way]:
    """All ways; the run's own score is one of them, with the run's own settings among its points."""
    made, config = trained.recipe, trained.recipe.model_config_()
    own, asks = made.model_dump()["score"], _single(trained).rule.needs
    redrawn = {"rule": "l2", "blur": 1.0} if asks else own
    on = "l2" if asks else str(own["rule"])
    levels = tuple(sorted({*LEVELS, config.levels}))
    calls = tuple(sorted({*REDRAWS, config.calls}))
    inversions = tuple(sorted({*REDRAWS, 3, config.inversion}))
    bounds = tuple(sorted({*BOUNDS, config.bound}))
    one: dict[str, object] = {"redraw": "levels", "draws": 1, **_span(config)}
    least = {**one, "levels": 1}

    def score(kind: str) -> dict[str, object]:
        ours = own["rule"] == "diffusion" and own["kind"] == kind
        return own if ours else {"rule": "diffusion", "kind": kind}

    bound = own if own["rule"] == "likelihood" else {"rule": "likelihood"}
    found = [
        Way("denoising error", score("error"), "levels", levels, one),
        Way(f"{on} on one-step redraw", redrawn, "levels", levels, one),
        Way(f"{on} on partial redraw", redrawn, "calls", calls, {"redraw": "partial"}, True),
        Way("score norm", score("pull"), "levels", (1,), one),
        Way("inversion", score("inversion"), "inversion", inversions, least, True),
        Way("diffusion time", score("time"), "levels", (1,), one),
        Way("bound", bound, "bound", bounds, least),
    ]
    if any(way.ships(made, count) for way in found for count in way.counts):
        return found
    return [*found, Way("as it ships", own, "levels", (config.levels,))]


def _span(config: Config) -> dict[str, object]:
    """Ends for more levels than one, around the one of a run that has no more."""
    if config.lowest < config.highest:
        return {}
    away = min(AWAY, config.lowest - LEAST, 1 - config.lowest)
    return {"lowest": config.lowest - away, "highest": config.lowest + away}


def main(folders: list[Path], on_test: bool, out: Path = OUT, ask: Ways = ways) -> None:
    """Writes a table and a picture for each checkpoint, and prints the table."""
    out.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        trained, manifest = train.load(folder), train.kept_manifest(folder, None)
        if not isinstance(trained.detector, Single) or not isinstance(trained.detector.model, Tale):
            sys.exit(f"{folder} is no diffusion model. Pass checkpoints of models that are.")
        data = _data(trained, manifest, on_test)
        asked = ask(trained)
        points = completed(_points(trained, asked, data))
        points.sort(key=lambda point: asked.index(point.way))
        name = folder.parent.name if folder.name == "checkpoint" else folder.name
        where = "of the test split" if on_test else "that were made odd"
        good, odd = (sum(len(pixels) for pixels, _ in part) for part in (data.good, data.odd))
        at = 0 if good * RATES[0] >= metrics.FEWEST else 1
        head = f"**{name}**, {good:,} good images and {odd:,} odd ones {where}"
        text = table(head, points, at)
        (out / f"steps_{name}.md").write_text(text, encoding="utf-8")
        picture(points, at).savefig(out / f"steps_{name}.png")
        print(text)


def _single(trained: Trained) -> Single:
    assert isinstance(trained.detector, Single)
    return trained.detector


def _data(trained: Trained, manifest: Manifest, on_test: bool) -> Data:
    _, held = train.hold_out(manifest.good("train"), trained.recipe)
    held = held.sample(min(len(held), HELD), random_state=0).sort_index()
    good, odd = (likelihoods.tested if on_test else likelihoods.made_odd)(trained, manifest)
    given = train.given(trained.recipe, held, manifest)
    return Data(few(given, HELD), few(good, GOOD), few(odd, ODD))


def few(batches: Iterable[Given], most: int) -> list[Given]:
    """So many images of all batches, drawn by a seed, in pieces of at most PIECE."""
    every, done = list(batches), 0
    total = sum(len(pixels) for pixels, _ in every)
    kept, found = np.zeros(total, bool), list[Given]()
    kept[np.random.default_rng(0).permutation(total)[:most]] = True
    for pixels, places in every:
        rows = np.flatnonzero(kept[done : done + len(pixels)])
        done += len(pixels)
        for start in range(0, len(rows), PIECE):
            part = rows[start : start + PIECE]
            found.append((pixels[part], None if places is None else places[part]))
    return found


def _points(trained: Trained, asked: Iterable[Way], data: Data) -> Iterator[Point]:
    """Points in any order; those with the same settings of the model share what it sees."""
    groups: dict[str, dict[Way, int]] = {}
    for way in asked:
        for count in way.counts:
            model = way.recipe(trained.recipe, count).model
            groups.setdefault(json.dumps(model, sort_keys=True), {})[way] = count
    for group in groups.values():
        looks = _looks(trained, group)
        named = {way.name: look for way, look in looks.items()}
        likelihoods.fit(named, data.held)
        good, odd = (likelihoods.scored(named, part) for part in (data.good, data.odd))
        for way, look in looks.items():
            yield _point(trained, (way, group[way]), look, (good[way.name], odd[way.name]))


def _looks(trained: Trained, group: dict[Way, int]) -> dict[Way, Look]:
    """One model with the weights that were trained, and a rule for each way that it allows."""
    trunk, found, through = _single(trained), dict[Way, Look](), dict[bool, Single]()
    model: Model | None = None
    for way, count in group.items():
        try:
            blank = new_detector(way.recipe(trained.recipe, count), trained.spec, None)
        except BadSettings as error:
            print(f"left out: {way.name}, {count}: {error}", file=sys.stderr)
            continue
        assert isinstance(blank, Single)
        if model is None:
            model = blank.model.eval()
            model.load_state_dict(trunk.model.state_dict())
        single = Single(trunk.preprocess, model, blank.rule)
        found[way] = Look(blank.rule, through.setdefault(blank.rule.at_dies, single))
    if model is not None:
        model.wanted = frozenset(name for look in found.values() for name in look.rule.needs)
    return found


def _point(
    trained: Trained, at: tuple[Way, int], look: Look, scores: tuple[Float32, Float32]
) -> Point:
    way, count = at
    detector = Single(look.through.preprocess, look.through.model, look.rule).eval()
    calls, few = network_calls(detector), way.unrolled and count > max(UNROLLED, min(way.counts))
    captures = [metrics.capture_at(*scores, rate, fewest=0) or 0.0 for rate in RATES]
    found = Point(
        *at,
        ships=way.ships(trained.recipe, count),
        calls=calls,
        auroc=metrics.auroc(*scores),
        captures=(captures[0], captures[1]),
        rate=0.0 if few else speed(detector, calls),
    )
    print(row(found), file=sys.stderr, flush=True)
    return found


def network_calls(detector: Single) -> int:
    """Calls of the network for one image."""
    assert isinstance(detector.model, Tale)
    made = list[int]()
    handle = detector.model.process.net.register_forward_hook(
        lambda _net, given, _out: made.append(given[0].shape[0])
    )
    detector.score(*_noise(detector, 2))
    handle.remove()
    return sum(made) // 2


def speed(detector: Single, calls: int) -> float:
    """Images a second of the exported graph."""
    pixels, places = _noise(detector, max(2, min(BATCH, MOST // calls)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        parity.to_onnx(detector, pixels[:2], path)
        session = open_session(path, "cpu", THREADS)
        batches, best = 0, math.inf
        for run in range(RUNS + 1):  # the first warms up, and tells how long a run is
            began = time.perf_counter()
            for _ in range(max(batches, 1)):
                answer(session, pixels, places)
            each = (time.perf_counter() - began) / max(batches, 1)
            best = min(best, each) if run else best
            batches = batches or math.ceil(SHORT / each)
    return len(pixels) / best


def _noise(detector: Single, count: int) -> Given:
    """Images of the grid's own size, and conditions; what they show is of no account here."""
    view, draw = detector.view, np.random.default_rng(0)
    shape = (count, view.channels, *view.grid)
    if view.kind == "wafer_map":
        pixels: Pixels = (1 + (draw.random(shape) < 0.1)).astype(np.uint8)
    else:
        pixels = draw.uniform(view.minimum, view.maximum, shape).astype(np.float32)
    places = np.arange(count) % detector.classes if detector.classes else None
    return pixels, places


if __name__ == "__main__":
    arguments, folder = sys.argv[1:], OUT
    if "--out" in arguments:
        place = arguments.index("--out")
        folder = Path(arguments[place + 1])
        arguments = arguments[:place] + arguments[place + 2 :]
    checkpoints = [Path(a) for a in arguments if not a.startswith("--")]
    if not checkpoints:
        sys.exit("No checkpoint. Pass folders that train or build wrote: artefacts/NAME/checkpoint")
    try:
        main(checkpoints, "--test" in arguments, folder)
    except InspectError as error:
        sys.exit(str(error))
