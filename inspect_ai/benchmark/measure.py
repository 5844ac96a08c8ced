"""One row: build, scan the test split, take the figures; what goes wrong becomes the row's error.

    <out>/<run>-s<seed>-<profile>-<code hash>/
        attempts.json        when work on the row began, or went on
        checkpoint/ ...      what `inspect-ai build` writes
        scan/                the test split, or all images where the row is of a transfer

Every step goes on where a kill left it.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspect_ai import build, progress, recipe, steps
from inspect_ai.batch.scan import Options, scan
from inspect_ai.benchmark import clock, speed, told
from inspect_ai.benchmark.plan import SCAN, Entry, Profile
from inspect_ai.benchmark.rows import Row
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.bundle import Bundle
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.errors import BadSettings, NoSpace, OutputInUse
from inspect_ai.recipe import Recipe
from inspect_ai.review import scanned
from inspect_ai.tracking import Nothing
from inspect_ai.train import DESCRIPTION, FIRST_STAGE, inputs, load, member_folder

BUILD, SPEED = "build", "speed"
REFERENCE = "autoencoder"  # model that others' speed is told against
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, in torch's messages
LONGEST = 1000  # characters of an error
DEPENDED_ON = ("inspect_ai", "pipelines/runs", "data_specs")  # not the rows themselves


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how rows are measured.

    Args:
        data: folder of data sets; None reads each at its spec's own root.
        device: to train on; scans are on the CPU.
        manifests: what was read already, by spec.
        known: every entry of the benchmark, by run file.
    """

    profile: Profile
    out: Path
    data: Path | None = None
    device: str = "cpu"
    manifests: dict[str, Manifest] = field(default_factory=dict)
    known: dict[str, Entry] = field(default_factory=dict)

    def images(self, entry: Entry) -> Manifest:
        """The images of an entry, dealt into splits; read once."""
        assert entry.spec is not None, "an entry with a problem is not measured"
        root = None if self.data is None else entry.root(self.data)
        if entry.data not in self.manifests:
            with progress.bar("look at images") as bar:
                self.manifests[entry.data] = manifests.make(entry.spec, root, bar)
        return self.manifests[entry.data]


def measured(bench: Bench, entry: Entry, seed: int) -> Row:
    """The row of an entry and a seed; one with its error where anything goes wrong.

    Raises:
        NoSpace, OutputInUse: the disk is full or closed to us, which is no detector's fault.
    """
    row = _begun(bench, entry, seed)
    try:
        with steps.disk(bench.out):
            return row.model_copy(update=_measured(bench, entry, seed, bench.out / row.folder))
    except (NoSpace, OutputInUse):
        raise
    except Exception as error:
        said = " ".join(COLOUR.sub("", str(error)).split())
        what = f"{type(error).__name__}: {said}"[:LONGEST]
        return row.model_copy(update={"state": "failed", "error": what})


def commit() -> str:
    """The commit of the current folder, '-dirty' where what scores depend on differs from it."""
    found = _git("rev-parse", "--short", "HEAD")
    if found is None:
        return "unknown"
    return f"{found}-dirty" if _git("status", "--porcelain", "--", *DEPENDED_ON) else found


def _git(*arguments: str) -> str | None:
    """What git says; None where there is no git or no checkout."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _begun(bench: Bench, entry: Entry, seed: int) -> Row:
    return Row(
        run=entry.run,
        data=entry.data,
        seed=seed,
        profile=bench.profile.name,
        code_hash=entry.code_hash,
        trained_on=entry.base.data if entry.base else "",
        kind=entry.spec.image.kind if entry.spec else "picture",
        model=entry.model,
        family=entry.family,
        commit=commit(),
        created_at=steps.now(),
        cores=os.cpu_count() or 1,
        device=bench.device,
        folder=entry.folder(seed, bench.profile.name),
    )


def _measured(bench: Bench, entry: Entry, seed: int, folder: Path) -> dict[str, Any]:
    if entry.problem:
        raise BadSettings(entry.problem)
    folder.mkdir(parents=True, exist_ok=True)
    if entry.base is None:
        bundle = _built(bench, entry, seed, folder)
        test = bench.images(entry).part("test")
        fields = _costs(bundle, folder) | timed(bench, entry, folder.name)
    else:
        made = bench.out / entry.base.folder(seed, bench.profile.name)
        bundle = _built(bench, entry.base, seed, made)
        assert entry.spec is not None, "a transfer has the spec of its data"
        root = None if bench.data is None else entry.root(bench.data)
        test, fields = manifests.listing(entry.spec, root), {}
    found = _scanned(bundle, test, folder / SCAN)
    return fields | {"rule": bundle.card.rule, **_guarded(bundle), **found}


def _built(bench: Bench, entry: Entry, seed: int, folder: Path) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    asked = recipe.read(entry.path).seeded(seed, bench.profile.seconds)
    if bench.profile.times != 1:
        asked = longer(asked, bench.profile.times)
    clock.begin(folder)
    images = bench.images(entry)
    if asked.members or asked.first_stage:
        _take_over(bench, entry, asked, images, folder / BUILD)
    return bundles.read(
        build.build(asked, images, folder / BUILD, Nothing(), bench.device, force=True)
    )


def longer(asked: Recipe, times: int) -> Recipe:
    """The same run with so many times the steps, however long they take."""
    members = tuple(longer(member, times) for member in asked.members)
    stage = asked.first_stage and longer(asked.first_stage, times)
    steps = asked.budget.steps * times
    budget = asked.budget.model_copy(update={"steps": steps, "seconds": None})
    return asked.model_copy(update={"members": members, "first_stage": stage, "budget": budget})


def _take_over(bench: Bench, entry: Entry, asked: Recipe, images: Manifest, out: Path) -> None:
    """Members and first stages that were trained for rows of their own are taken as they are.

    From the same seed, that is, and by the same settings.
    """
    steps.Step("build", out, inputs(asked, images))
    steps.Step("train", out / "checkpoint", inputs(asked, images))
    numbered = enumerate(zip(entry.members, asked.members, strict=True), 1)
    parts = [(name, member, member_folder(number, member)) for number, (name, member) in numbered]
    parts += [(entry.stage, asked.first_stage, FIRST_STAGE)] if asked.first_stage else []
    for name, member, folder in parts:
        target = out / "checkpoint" / folder
        if target.exists() or name not in bench.known:
            continue
        row = bench.known[name].folder(member.budget.seed, bench.profile.name)
        source = bench.out / row / BUILD / "checkpoint"
        if steps.is_finished(source) and load(source).recipe == member:
            part = target.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of a kill
            shutil.copytree(source, part)
            part.replace(target)


def timed(bench: Bench, entry: Entry, folder: str) -> dict[str, Any]:
    """Images a second of a bundle that was built, on the test split's speed batch.

    The autoencoder of the same data, as last built under `out`, is scanned in turns with it.
    """
    bundle = bundles.read(bench.out / folder / BUILD / "bundle")
    test = bench.images(entry).part("test")
    reference = None if entry.model == REFERENCE else _reference(bench, entry)
    found = speed.measured(bundle, test, bench.out / folder / SPEED, reference)
    ratio = 1.0 if entry.model == REFERENCE else found.ratio
    return {"images_per_second": found.rate, "speed_ratio": ratio}


def _reference(bench: Bench, entry: Entry) -> Bundle | None:
    runs = [e.run for e in bench.known.values() if (e.data, e.model) == (entry.data, REFERENCE)]
    built = [p for run in runs for p in bench.out.glob(f"{run}-s*-*/{BUILD}/bundle/{bundles.CARD}")]
    if not built:
        return None
    return bundles.read(max(built, key=lambda p: p.stat().st_mtime).parent)


def _costs(bundle: Bundle, folder: Path) -> dict[str, Any]:
    checkpoint = f"{BUILD}/checkpoint"
    described = json.loads((folder / checkpoint / DESCRIPTION).read_text(encoding="utf-8"))
    return {
        "train_seconds": clock.seconds(folder, checkpoint, "train_seconds"),
        "build_seconds": clock.seconds(folder, BUILD),
        "model_bytes": (bundle.folder / bundles.MODEL).stat().st_size,
        "weights": described["weights"],
    }


def _guarded(bundle: Bundle) -> dict[str, Any]:
    """What the guard said of it; nothing of a bundle from before there was one."""
    found = bundle.card.guard
    if found is None:
        return {}
    return {
        "guard_capture": found.capture,
        "guard_pca_capture": found.pca_capture,
        "guard_refused": bool(found.doubts),
    }


def _scanned(bundle: Bundle, images: Manifest, out: Path) -> dict[str, Any]:
    with progress.bar("scan") as bar:
        scan(bundle, images, out, Options("cpu"), bar)
    figures = told.figures(scanned.read(out))
    if images.table["mask_path"].isna().all():
        shutil.rmtree(
            out / "maps", ignore_errors=True
        )  # pictures of thousands of defects, which nobody looks at
    return figures
