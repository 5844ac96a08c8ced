"""The figures of README, measured in one run and printed as Markdown.

    python -m pipelines.benchmark            needs ../shared/data/wm811k, see its data spec

Builds and scans WM-811K if `artefacts/wm811k` does not hold it yet. The detector and the two
baselines see the same lots; rates come with 95 % intervals, by lot where wafers of a lot hang
together. Times are ratios within this run: machines differ, and so do hours of one machine.
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
import pandas as pd
from numpy.typing import NDArray

from inspect_ai import metrics
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.calibration.conformal import calibrate
from inspect_ai.data import images, layouts
from inspect_ai.data.specs import DataSpec
from pipelines import baselines

RUN = Path("pipelines/runs/wm811k_autoencoder.toml")
SPEC = Path("data_specs/wm811k.toml")
OUT = Path("artefacts")
COMMAND = [sys.executable, "-m", "inspect_ai.cli"]
REPEATS = 5
Floats = NDArray[np.float64]


def main() -> None:
    """Prints the tables."""
    spec = DataSpec.from_toml(SPEC)
    if not spec.root.is_dir():
        sys.exit(f"{spec.root} is not there: the figures are of WM-811K, see {SPEC}")
    bundle, scores = _built(OUT / "wm811k", OUT / "scan")
    print(f"commit {_commit()}, {os.cpu_count()} cores\n")
    _print_detection(spec, scores)
    _print_mixed_lots(bundle, spec)
    _print_promises(bundle, scores)
    with tempfile.TemporaryDirectory(prefix="inspect-ai-") as folder:
        _print_speed(bundle, spec, scores, Path(folder))
        _print_memory(bundle, spec, Path(folder))
    _print_start()


def _built(run: Path, scan: Path) -> tuple[bundles.Bundle, pd.DataFrame]:
    began = time.monotonic()
    fresh = not (run / "bundle" / bundles.CARD).is_file()
    _call("build", str(RUN), "--out", str(run))
    if fresh:
        print(f"build, training and export included: {time.monotonic() - began:.0f} s\n")
    bundle = run / "bundle"
    _call("scan", str(bundle), "--spec", str(SPEC), "--split", "test", "--out", str(scan))
    return bundles.read(bundle), pd.read_parquet(scan / "scores")


def _print_detection(spec: DataSpec, scores: pd.DataFrame) -> None:
    """The detector beside the two baselines, on the same wafers."""
    manifest = pd.read_parquet(OUT / "wm811k" / "checkpoint" / "manifest.parquet")
    normal = manifest[(manifest["split"] == "train") & (manifest["gt_label"] == 0)]
    read = layouts.reader(spec, spec.root)
    cluster = np.array([baselines.largest_cluster(read(p)[0]) for p in scores["image_path"]])
    ten = np.stack([baselines.ten_statistics(read(p)[0]) for p in scores["image_path"]])
    usual = np.stack([baselines.ten_statistics(read(p)[0]) for p in normal["image_path"]])
    rows = {
        "log area of the largest cluster": cluster,
        "Fisher sum of ten statistics": baselines.fisher_sum(ten, usual),
        "**autoencoder + structure**": scores["pred_score"].to_numpy(float),
    }
    good, group = scores["gt_label"].to_numpy(int) == 0, scores["group"].to_numpy(str)
    kinds = ("Center", "Edge-Loc", "Edge-Ring", "Loc", "Scratch")
    print(f"WM-811K test lots: {good.sum():,} normal, {(~good).sum():,} defect wafers\n")
    print("| score | AUROC | capture at 1 % | at 0.1 % | " + " | ".join(kinds) + " |")
    print("|---|---|---|---|" + "---|" * len(kinds))
    for name, score in rows.items():
        cells = [_auroc(score, good, group)]
        cells += [_capture(score, good, group, rate) for rate in (0.01, 0.001)]
        of = {k: score[(scores["label"] == k).to_numpy()] for k in kinds}
        cells += [f"{_share(score[good], of[k], 0.01):.2f}" for k in kinds]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _print_mixed_lots(bundle: bundles.Bundle, spec: DataSpec) -> None:
    """Defect wafers of train and calibrate lots, which nothing is fitted on, and their normals.

    Every lot here holds normal wafers too, and its patterns are fainter. The rule was chosen on
    these wafers: a look at difficulty, not a result.
    """
    table = pd.read_parquet(OUT / "wm811k" / "checkpoint" / "manifest.parquet")
    normal = table[(table["split"] == "calibrate") & (table["gt_label"] == 0)]
    defect = table[table["split"].isin(["train", "calibrate"]) & (table["gt_label"] == 1)]
    read, scorer = layouts.reader(spec, spec.root), Scorer(bundle, "cpu")
    found: dict[str, list[Floats]] = {"largest cluster": [], "autoencoder + structure": []}
    for rows in (normal, defect):
        maps = [read(path) for path in rows["image_path"]]
        cluster = [baselines.largest_cluster(m[0]) for m in maps]
        batch = images.padded(maps, (64, 64))
        parts = [scorer.score(batch[i : i + 64]).pred_score for i in range(0, len(batch), 64)]
        found["largest cluster"].append(np.array(cluster))
        found["autoencoder + structure"].append(np.concatenate(parts).astype(float))
    print(f"\n{len(defect):,} defect wafers of train and calibrate lots, {len(normal):,} normals:")
    for name, (good, bad) in found.items():
        print(
            f"{name}: AUROC {metrics.auroc(good, bad):.4f}, capture {_share(good, bad, 0.01):.3f}"
        )


def _auroc(score: Floats, good: NDArray[np.bool_], group: NDArray[np.str_]) -> str:
    def of(rows: NDArray[np.int_]) -> float:
        return metrics.auroc(score[rows][good[rows]], score[rows][~good[rows]])

    low, high = metrics.bootstrap_interval(of, group, resamples=200)
    return f"{of(np.arange(len(score))):.4f} ({low:.4f} to {high:.4f})"


def _capture(score: Floats, good: NDArray[np.bool_], group: NDArray[np.str_], rate: float) -> str:
    if good.sum() * rate < 10:
        return f"{_share(score[good], score[~good], rate):.3f} (too few normals for an interval)"

    def of(rows: NDArray[np.int_]) -> float:
        return _share(score[rows][good[rows]], score[rows][~good[rows]], rate)

    low, high = metrics.bootstrap_interval(of, group, resamples=200)
    return f"{of(np.arange(len(score))):.3f} ({low:.3f} to {high:.3f})"


def _share(good: Floats, bad: Floats, rate: float) -> float:
    return float((bad > metrics.threshold_at(good, rate)).mean())


def _print_promises(bundle: bundles.Bundle, scores: pd.DataFrame) -> None:
    """Promised against observed overkill on test lots."""
    good = scores.loc[scores["gt_label"] == 0, "pred_score"].to_numpy(np.float32)
    print("\n| promised overkill | observed on test lots (95 % interval) | with 95 % confidence |")
    print("|---|---|---|")
    for rate in (0.05, 0.01, 0.002):
        cells = []
        for confidence in (None, 0.95):
            made = calibrate(bundle.calibration.good_scores, rate, confidence)
            flagged = int(made.is_anomalous(good).sum())
            low, high = metrics.binomial_interval(flagged, len(good))
            cells.append(f"{flagged / len(good):.2%} ({float(low):.2%} to {float(high):.2%})")
        print(f"| {rate:.1%} | {cells[0]} | {cells[1]} |")


def _print_speed(
    bundle: bundles.Bundle, spec: DataSpec, scores: pd.DataFrame, folder: Path
) -> None:
    """End to end against the bare session, on the same maps with 2 % defects, alternating."""
    good = scores[scores["gt_label"] == 0]
    few = scores[scores["gt_label"] == 1].sample(len(good) // 49, random_state=0)
    batch = pd.concat([good, few]).sample(frac=1, random_state=0)
    maps = _stack(spec, batch["image_path"].tolist(), folder / "speed")
    scorer = Scorer(bundle, "cpu")
    ratios, whole = [], []
    for turn in range(REPEATS):
        bare = _bare(scorer, maps)
        out = folder / f"scan{turn}"
        _call("scan", str(bundle.folder), "--spec", str(folder / "speed.toml"), "--out", str(out))
        rate = json.loads((out / "run.json").read_text(encoding="utf-8"))["images_per_second"]
        whole.append(rate)
        ratios.append(rate / bare)
    print(f"\nscan end to end: {statistics.median(whole):,.0f} maps/s on {len(batch):,} maps with")
    print(
        f"2 % defects; ratio to the bare session, median of {REPEATS}: {statistics.median(ratios):.2f}"
    )
    print(f"({min(ratios):.2f} to {max(ratios):.2f})")


def _stack(spec: DataSpec, paths: list[str], root: Path) -> NDArray[np.uint8]:
    """Writes maps as a data set of their own, with a spec beside it; gives the padded maps."""
    read = layouts.reader(spec, spec.root)
    found = {path: read(path) for path in sorted(set(paths))}
    native = [found[path] for path in paths]
    maps = images.padded(native, (64, 64))
    root.mkdir()
    shapes = np.array([m.shape[1:] for m in native])
    np.savez_compressed(root / "maps.npz", maps=maps[:, 0], shapes=shapes)
    text = (
        f'name = "speed"\nroot = "{root.as_posix()}"\nsource = "wm811k"\nlicence = "see wm811k"\n'
        '[layout]\nkind = "stack"\nfile = "maps.npz"\nshapes = "shapes"\nlabel = ""\n'
        '[image]\nkind = "wafer_map"\n'
    )
    root.with_suffix(".toml").write_text(text, encoding="utf-8")
    return np.asarray(maps, np.uint8)


def _bare(scorer: Scorer, maps: NDArray[np.uint8]) -> float:
    """Maps a second through the session alone, maps in memory."""
    scorer.score(maps[:64])
    began = time.monotonic()
    for start in range(0, len(maps), 64):
        scorer.score(maps[start : start + 64])
    return len(maps) / (time.monotonic() - began)


def _print_memory(bundle: bundles.Bundle, spec: DataSpec, folder: Path) -> None:
    """Peak memory of a scan's process at two sizes of batch."""
    listed, _ = layouts.rows(spec, spec.root)
    peaks = {}
    for count in (1_000, 20_000):
        name = f"memory{count}"
        _stack(spec, listed["image_path"].head(count).tolist(), folder / name)
        arguments = ["scan", str(bundle.folder), "--spec", str(folder / f"{name}.toml")]
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


def _call(*arguments: str) -> None:
    track = ["--no-track"] if arguments[0] in ("build", "scan") else []
    done = subprocess.run(
        [*COMMAND, *arguments, *track], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
