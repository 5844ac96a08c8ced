"""The shop-floor step: bundle + images -> verdicts; resumable, each image exactly once.

The plan (which images, in which order) is frozen when the scan starts. Images are read ahead
in threads while ONNX Runtime scores, in parts; see ledger.py for what a kill leaves.
"""

import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import steps
from inspect_ai.batch import stages
from inspect_ai.batch.ledger import Ledger, tidy
from inspect_ai.batch.maps import Maps
from inspect_ai.bundle.bundle import SCORES, Bundle, Card
from inspect_ai.bundle.runtime import Device, Scorer
from inspect_ai.data import inputs, layouts
from inspect_ai.data.manifest import Manifest, Report, silent
from inspect_ai.errors import BadSettings, MissingData

PLAN = "plan.parquet"
NOTHING_YET = {"images": 0, "flagged": 0, "rejected": 0, "seconds": 0, "images_per_second": 0}
AHEAD = 4  # batches read before they are scored
ROUND = 4  # calls of wafer maps that are read together, to be sorted by size
ROWS = "2"  # what a row holds; parts of another kind are not gone on with
BATCH_BYTES = 64 * 2**20  # of pixels in a batch


@dataclass(frozen=True, slots=True)
class Options:
    """How to scan; no value changes a verdict."""

    device: Device = "auto"
    threads: int = 0  # of ONNX Runtime; 0 takes all cores
    batch: int = 64  # images a call
    part: int = 1024  # images a part: what a kill may cost
    readers: int = 0  # threads that read files; 0 picks


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan found."""

    out: Path
    images: int
    flagged: int
    rejected: int
    seconds: float


def scan(
    bundle: Bundle,
    manifest: Manifest,
    out: Path,
    options: Options = Options(),
    report: Report = silent,
) -> ScanResult:
    """Scores every image of the manifest that the folder does not hold yet.

    Raises:
        BadSettings: the manifest's image rule is not the bundle's.
        MissingData: it lacks a column that a conditional bundle is told.
        OutputInUse: the folder holds something else.
        NoSuchDevice: the session does not run where it was asked to.
        NoSpace: the disk is full; what was done is kept.
    """
    _check_rule(bundle, manifest)
    step = steps.Step("scan", out, _inputs(bundle, manifest))
    if step.finished:
        tidy(out)  # a kill may have come before, and before the lock was let go
        (out / steps.LOCK).unlink(missing_ok=True)
        return _result(out, step)
    began = time.monotonic()
    with steps.alone(out), steps.disk(out):
        step.describe(**_described(bundle, manifest), **NOTHING_YET)
        plan = _frozen_plan(out, manifest)
        shutil.copyfile(bundle.folder / SCORES, out / SCORES)
        scorer = Scorer(bundle, options.device, options.threads)
        ledger = Ledger(out)
        fresh = _scan_parts(plan, manifest, scorer, ledger, options, report)
        rejected, verdicts = ledger.close()
        ledger.extend(stages.discoveries(verdicts, bundle.thresholds))
        seconds = time.monotonic() - began
        flagged = int(verdicts["pred_label"].sum())
        step.finish(
            images=len(verdicts),
            flagged=flagged,
            rejected=len(rejected),
            seconds=round(seconds, 3),
            images_per_second=round(fresh / max(seconds, 1e-9), 1),
            device=scorer.device,
        )
        tidy(out)
    return _result(out, step)


def _scan_parts(
    plan: pd.DataFrame,
    manifest: Manifest,
    scorer: Scorer,
    ledger: Ledger,
    options: Options,
    report: Report,
) -> int:
    """Scores the parts that are not done; gives the number of images seen."""
    parts = stages.parts(len(plan), options.part)
    waiting = [(i, rows) for i, rows in enumerate(parts) if not ledger.is_done(i)]
    done = len(plan) - sum(len(rows) for _, rows in waiting)
    fresh, keep_all = 0, bool(plan["mask_path"].notna().any())
    ahead = _read_ahead([rows for _, rows in waiting], plan, manifest, options, scorer.bundle.card)
    with Maps(scorer.bundle, ledger, plan, keep_all) as maps:
        for part, rows in waiting:
            # of an image only its verdict stays: a part of large pictures must not fill memory
            refused: list[stages.Seen] = []
            found: list[Mapping[str, object]] = []
            while len(found) + len(refused) < len(rows):
                ready = next(ahead)
                refused += ready.refused
                for scored in stages.score(ready.calls, scorer.score):
                    maps.keep(scored)
                    found += map(_row, scored)
                report(done + len(found) + len(refused), len(plan))
            numbers = ["pred_score", *inputs.names(manifest.spec.image)]
            table = pd.DataFrame(found, columns=["row", "image_id", *numbers]).set_index("row")
            table[numbers] = table[numbers].astype(np.float64)  # of a part of rejects alone too
            scores = stages.decide(plan, table.sort_index(), scorer.bundle.thresholds)
            maps.settle()
            ledger.commit(part, scores, stages.rejected(plan, refused), maps.regions())
            done += len(rows)
            fresh += len(rows)
    return fresh


def _row(scored: stages.Scored) -> Mapping[str, object]:
    """What stays of an image."""
    seen = scored.seen
    return {"row": seen.row, "image_id": seen.image_id, "pred_score": scored.pred_score} | dict(
        seen.measures
    )


def _read_ahead(
    parts: list[range],
    plan: pd.DataFrame,
    manifest: Manifest,
    options: Options,
    card: Card,
) -> Iterator[stages.Ready]:
    """Batches in order, read in threads a few ahead of the one that is scored."""
    read = layouts.reader(manifest.spec, manifest.root)
    measure = partial(inputs.measured, rule=manifest.spec.image)
    paths, told, canvas = (
        plan["image_path"].tolist(),
        stages.told(plan, card.condition),
        card.canvas,
    )
    size = _batch_size(paths, read, options.batch)
    taken = size * ROUND if canvas else size  # maps of about one size are scored together
    batches = [rows[i : i + taken] for rows in parts for i in range(0, len(rows), taken)]
    # a stack or pickle is one stream and has one reader; files are read side by side
    single = manifest.spec.layout.kind in ("stack", "lswmd")
    readers = 1 if single else options.readers or min(8, os.cpu_count() or 1)
    waiting: deque[Future[stages.Ready]] = deque()

    def job(rows: range) -> stages.Ready:
        places = [told[r] for r in rows] if told else None
        seen = stages.see(rows, [paths[r] for r in rows], read, places, measure)
        return stages.ready(seen, canvas, size)

    with ThreadPoolExecutor(readers, thread_name_prefix="read") as pool:
        for rows in batches:
            waiting.append(pool.submit(job, rows))
            if len(waiting) > AHEAD + readers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batch_size(paths: list[str], read: stages.ReadImage, wanted: int) -> int:
    """Images a call, fewer where the first readable one says that they are large."""
    for one in stages.see(range(min(8, len(paths))), paths[:8], read):
        if one.pixels is not None:
            return max(1, min(wanted, BATCH_BYTES // one.pixels.nbytes))
    return wanted


def _check_rule(bundle: Bundle, manifest: Manifest) -> None:
    if bundle.card.condition:
        bundle.card.condition.said(manifest.table)
    bundle.thresholds.scores.level(manifest.table[:0])  # refuses a column that is not there
    ours, theirs = bundle.card.image, manifest.spec.image
    fields = ("kind", "channels", "depth", "minimum", "maximum")
    wrong = [f for f in fields if getattr(ours, f) != getattr(theirs, f)]
    if wrong:
        raise BadSettings(
            f"The bundle was made for images with {', '.join(f'{f} = {getattr(ours, f)}' for f in wrong)}"
            f"; spec '{manifest.spec.name}' says "
            f"{', '.join(f'{f} = {getattr(theirs, f)}' for f in wrong)}. Scan images of the "
            "bundle's kind, or build a bundle for these."
        )


def _frozen_plan(out: Path, manifest: Manifest) -> pd.DataFrame:
    """The rows to scan, as they were when the scan began."""
    path = out / PLAN
    if not path.is_file():
        if manifest.table.empty:
            raise MissingData(
                f"No image of {manifest.root} is in the split asked for. Pass --split all."
            )
        part = path.with_suffix(".part")
        manifest.table.to_parquet(part, index=False)
        part.replace(path)
    return pd.read_parquet(path)


def _inputs(bundle: Bundle, manifest: Manifest) -> dict[str, str]:
    condition = bundle.card.condition
    told = {"conditions": condition.hash(manifest.table)} if condition else {}
    return told | {
        "bundle": bundle.hash,
        "spec": manifest.spec.hash(),
        "root": str(manifest.root.resolve()),
        "split": manifest.chosen,
        "rows": ROWS,
    }


def _described(bundle: Bundle, manifest: Manifest) -> dict[str, object]:
    card = bundle.card
    return {
        "spec_name": manifest.spec.name,
        "spec_hash": manifest.spec.hash(),
        "data_spec": manifest.spec.model_dump(mode="json"),
        "root": str(manifest.root),
        "split": manifest.chosen,
        "bundle": str(bundle.folder),
        "bundle_hash": bundle.hash,
        "model": card.model,
        "rule": card.rule,
        "false_alarm_rate": card.false_alarm_rate,
        "confidence": card.confidence,
        "image_threshold": card.image_threshold,
        "pixel_threshold": card.pixel_threshold,
        "promise": card.promise,
        "calibration_images": card.calibration_images,
        "unit": card.unit,
        "lots": card.lots,
        "worth": card.worth,
        "levels": {name: level.model_dump() for name, level in card.levels.items()},
        "pixel_rate": card.pixel_rate,
        "pixel_rate_threshold": card.pixel_rate_threshold,
        "device": "",
        "doubts": list(card.guard.doubts) if card.guard and card.guard.forced else [],
        "notes": [*manifest.notes, *_seen_before(bundle, manifest), *_left_out(manifest)],
    }


def _left_out(manifest: Manifest) -> list[str]:
    """A note where the data have columns of the names that a scan's own have."""
    names = [name for name in stages.OWN if name in manifest.table]
    return [f"the data's own {', '.join(names)} left out: a scan has columns of that name"] * bool(
        names
    )


def _seen_before(bundle: Bundle, manifest: Manifest) -> list[str]:
    """A warning where the scan holds images that the bundle was made from."""
    ours, theirs = manifest.spec, bundle.card.data_spec_hash
    if ours.hash() != theirs or manifest.root.resolve() != ours.root.resolve():
        return []
    if manifest.chosen == "test":
        return []
    return [
        f"split '{manifest.chosen}' holds images that the bundle was trained or calibrated on: "
        "rates among them say nothing about the promise; see --split test"
    ]


def _result(out: Path, step: steps.Step) -> ScanResult:
    r = step.record
    return ScanResult(out, r["images"], r["flagged"], r["rejected"], r["seconds"])
