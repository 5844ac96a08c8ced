"""The figures of README that are no detector's: speed, memory, start; for promises see promises.py.

    python -m pipelines.benchmark            needs ../shared/data/wm811k, see its data spec

Detectors are compared by `inspect-ai benchmark`, whose table of the full profile is printed first,
from the rows in pipelines/results. The rest is measured here, on the winner's bundle, which
`inspect-ai benchmark --profile full --only wm811k` makes. Times are ratios within this run:
machines differ, and so do hours of one machine.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspect_ai.benchmark import plan, speed
from inspect_ai.benchmark.measure import BUILD, commit
from inspect_ai.benchmark.plan import SCAN
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.scores import Pixels
from inspect_ai.steps import is_finished

RUN = Path("pipelines/runs/wm811k.toml")
SPEC = Path("data_specs/wm811k.toml")
OUT = Path("artefacts/benchmark")
COMMAND = [sys.executable, "-m", "inspect_ai.cli"]
REPEATS = 5
CANVAS = (64, 64)  # dies
Floats = NDArray[np.float64]


def main() -> None:
    """Prints the tables."""
    spec = DataSpec.from_toml(SPEC)
    if not spec.root.is_dir():
        sys.exit(f"{spec.root} is not there: the figures are of WM-811K, see {SPEC}")
    print(_call("benchmark", "--profile", "full", "--print"))
    made = _made()
    bundle = bundles.read(made / BUILD / "bundle")
    print(f"{RUN} at commit {commit()}, {os.cpu_count()} cores\n")
    with tempfile.TemporaryDirectory(prefix="inspect-ai-") as folder:
        _print_speed(bundle, manifests.make(spec).part("test"), Path(folder))
        _print_memory(bundle, spec, Path(folder))
    _print_start()


def _made() -> Path:
    """The winner's folder of the full benchmark."""
    entries = plan.entries(RUN.parent, plan.profile("full"))
    entry = next(e for e in entries if e.run == RUN.stem)
    folder = OUT / entry.folder(entry.seed, "full")
    if not is_finished(folder / SCAN):
        sys.exit(f"{folder} is not there: inspect-ai benchmark --profile full --only {RUN.stem}")
    return folder


def _print_speed(bundle: bundles.Bundle, test: Manifest, folder: Path) -> None:
    """End to end against the bare session, on the same maps with 2 % defects, alternating.

    The session gets them on one canvas, a scan on canvases near their own size.
    """
    paths = speed.batch(test).table["image_path"].tolist()
    maps = speed.stack(test.spec, test.root, paths, folder / "speed")
    file = _spec_of(folder / "speed")
    scorer = Scorer(bundle, "cpu")
    ratios, whole = [], []
    for turn in range(REPEATS):
        bare = _bare(scorer, maps)
        out = folder / f"scan{turn}"
        _call("scan", str(bundle.folder), "--spec", str(file), "--out", str(out))
        rate = json.loads((out / "run.json").read_text(encoding="utf-8"))["images_per_second"]
        whole.append(rate)
        ratios.append(rate / bare)
    print(f"\nscan end to end: {statistics.median(whole):,.0f} maps/s on {len(paths):,} maps with")
    print(
        f"2 % defects; ratio to the bare session, median of {REPEATS}: {statistics.median(ratios):.2f}"
    )
    print(f"({min(ratios):.2f} to {max(ratios):.2f})")


def _spec_of(root: Path) -> Path:
    """A spec beside a stack that `speed.stack` wrote."""
    text = (
        f'name = "speed"\nroot = "{root.as_posix()}"\nsource = "wm811k"\nlicence = "see wm811k"\n'
        '[layout]\nkind = "stack"\nfile = "maps.npz"\nshapes = "shapes"\nlabel = ""\n'
        '[image]\nkind = "wafer_map"\n'
    )
    file = root.with_suffix(".toml")
    file.write_text(text, encoding="utf-8")
    return file


def _bare(scorer: Scorer, maps: Pixels) -> float:
    """Maps a second through the session alone, maps in memory."""
    scorer.score(maps[:64])
    began = time.monotonic()
    for start in range(0, len(maps), 64):
        scorer.score(maps[start : start + 64])
    return len(maps) / (time.monotonic() - began)


def _print_memory(bundle: bundles.Bundle, spec: DataSpec, folder: Path) -> None:
    """Peak memory of a scan's process at two sizes of batch."""
    listed = manifests.listing(spec).table["image_path"]
    peaks = {}
    for count in (1_000, 20_000):
        name = f"memory{count}"
        speed.stack(spec, spec.root, listed.head(count).tolist(), folder / name)
        arguments = ["scan", str(bundle.folder), "--spec", str(_spec_of(folder / name))]
        out = ["--out", str(folder / f"{name}_scan"), "--no-track"]
        peaks[count] = _peak([*COMMAND, *arguments, *out])
    sizes = ", ".join(f"{n:,} maps {mb:,.0f} MB" for n, mb in peaks.items())
    print(f"\npeak memory of a scan: {sizes}")


def _peak(command: list[str]) -> float:
    """Peak memory of a command in MB, from Linux's own mark.

    Not from the exit status: that counts the parent's memory at the fork.
    """
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        status, peak = Path(f"/proc/{process.pid}/status"), 0
        while process.poll() is None:
            marks = re.findall(r"VmHWM:\s+(\d+)", status.read_text(encoding="utf-8"))
            peak = max([peak, *map(int, marks)])
            time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return peak / 1024


def _print_start() -> None:
    times = []
    for _ in range(REPEATS):
        began = time.monotonic()
        _call("--help")
        times.append(time.monotonic() - began)
    print(f"\ninspect-ai --help: {statistics.median(times):.2f} s, median of {REPEATS}")


def _call(*arguments: str) -> str:
    """What a command said."""
    track = ["--no-track"] if arguments[0] in ("build", "scan") else []
    done = subprocess.run(
        [*COMMAND, *arguments, *track], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
