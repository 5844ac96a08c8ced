"""Promised against observed overkill, on scores that scans have left (promises.py observed).

Thresholds are set on the good images of the calibrate lots alone (a scan's calibration.parquet);
overkill is the share of the good images of the test lots that lie above. Three promises: on average
over images; with 95 % confidence over images; with 95 % confidence over lots, one image of each by
a hash of its name. Overkill is that of all good images of the test lots; its interval is Clopper and
Pearson's, 95 %, as if images were independent, so where lots are alike it is wider in truth. A
promise that a set has too few good images or lots for is not made; the cell says how many it takes.

Beside them stands the threshold that anomalib 2 sets unless told otherwise, worked out here on the
very same scores; anomalib itself was not run. It takes labelled defects: the threshold is the score
t with the largest F1 of "score >= t is a defect" on a validation set, the lowest such t where
several tie, and what lies strictly above t is flagged. That set is, for a folder of one's own, a
random half of the test images of each label; for the benchmark sets it is all of them. Here the test
lots are cut in halves at random: t is chosen on one, and overkill is that of the good images of the
other. One cut (seed 0) is in the table; of CUTS cuts the 5 %, 50 % and 95 % quantiles are told, but for
cuts without a defect to choose on or without a good image to observe. Images whose label says
neither good nor defect are left out.

Sources: anomalib, metrics/threshold/f1_adaptive_threshold.py (the largest F1),
post_processing/post_processor.py (strictly above), data/datamodules (the validation set). Clopper,
Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
"""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai import metrics
from inspect_ai.benchmark.plan import SCAN
from inspect_ai.calibration import lots
from inspect_ai.calibration.conformal import Unit, needed, sure
from inspect_ai.scores import Float32
from inspect_ai.steps import is_finished

RUNS = Path("pipelines/runs")
FOLDERS = (Path("artefacts/benchmark"), Path("artefacts/bench_pictures"))
DETECTORS = {
    "wm811k": ("wm811k", "wm811k_diffusion", "wm811k_autoencoder"),
    "magnetic_tile": ("magnetic_tile", "magnetic_tile_diffusion", "magnetic_tile_gmm"),
    "kolektor_sdd": ("kolektor_sdd_autoencoder", "kolektor_sdd_diffusion", "kolektor_sdd_gmm"),
    "elpv_solar_cells": (
        "elpv_solar_cells_autoencoder",
        "elpv_solar_cells_pca",
        "elpv_solar_cells_gmm",
    ),
    "deeppcb": ("deeppcb_autoencoder", "deeppcb_pca", "deeppcb_gmm"),
    "simulated_dies": ("simulated_dies", "simulated_dies_diffusion", "simulated_dies_vae"),
    "hazelnut_toy": ("hazelnut_toy_autoencoder", "hazelnut_toy_pca", "hazelnut_toy_gmm"),
    "aws_cookies": ("aws_cookies_autoencoder", "aws_cookies_pca", "aws_cookies_gmm"),
}
PEER = "largest F1, needs defects"
RATES, CONFIDENCE, CUTS = (0.05, 0.01, 0.002), 0.95, 200
PROMISES: dict[str, tuple[float | None, Unit]] = {
    "on average": (None, "image"),
    "95 % confidence": (CONFIDENCE, "image"),
    "95 % confidence, over lots": (CONFIDENCE, "lot"),
}


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a detector said of good calibration images and of the test split.

    Args:
        calibration: image_id, group, pred_score of good images.
        test: the same and gt_label: 0 good, 1 defect, missing where unknown.
    """

    data: str
    detector: str
    calibration: pd.DataFrame
    test: pd.DataFrame

    @property
    def good(self) -> pd.DataFrame:
        """Good images of the test split."""
        return self._labelled(0)

    @property
    def bad(self) -> pd.DataFrame:
        """Images with a defect."""
        return self._labelled(1)

    def _labelled(self, label: int) -> pd.DataFrame:
        return self.test[(self.test["gt_label"] == label).fillna(False).to_numpy(bool)]


@dataclass(frozen=True, slots=True)
class Cell:
    """Overkill that was observed, and the defects that escaped, or why a promise was refused."""

    promise: str
    rate: float | None
    flagged: int = 0
    good: int = 0
    missed: int = 0
    defects: int = 0
    refusal: str = ""

    @property
    def fields(self) -> dict[str, object]:
        """For the JSON table: shares, or the refusal."""
        base: dict[str, object] = {"promise": self.promise, "promised": self.rate}
        if self.refusal:
            return base | {"refusal": self.refusal}
        share, low, high = self.numbers
        counts = {"flagged": self.flagged, "good": self.good}
        escape = {"missed": self.missed, "defects": self.defects}
        return base | counts | {"observed": share, "low": low, "high": high} | escape

    def __str__(self) -> str:
        """Share in per cent with its interval, or the refusal."""
        if self.refusal:
            return self.refusal
        share, low, high = (100 * number for number in self.numbers)
        digits = 2 if high < 10 else 1
        return f"{share:.{digits}f} % ({low:.{digits}f} to {high:.{digits}f})"

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above the promise."""
        return not self.refusal and self.rate is not None and self.numbers[1] > self.rate

    @property
    def numbers(self) -> tuple[float, float, float]:
        """Observed share and its interval, where it is no refusal."""
        low, high = metrics.binomial_interval(self.flagged, self.good)
        return self.flagged / self.good, float(low), float(high)


@dataclass(frozen=True, slots=True)
class Compared:
    """All of one detector: its cells, and the peer's 5 %, 50 % and 95 % quantiles over cuts."""

    seen: Scanned
    cells: list[Cell]
    spread: list[float]

    @property
    def fields(self) -> dict[str, object]:
        """For the JSON table."""
        named = {"data": self.seen.data, "detector": self.seen.detector}
        cells = [cell.fields for cell in self.cells]
        return named | {"cells": cells, "largest_f1_quantiles": self.spread}


def scans(folders: tuple[Path, ...] = FOLDERS, runs: Path = RUNS) -> Iterator[Scanned]:
    """Scans at hand of seed 0, in the order of DETECTORS."""
    for data, names in DETECTORS.items():
        for name in names:
            model = tomllib.loads((runs / f"{name}.toml").read_text("utf-8"))["model"]["name"]
            folder = newest(name, model, folders)
            if folder is not None:
                calibration = pd.read_parquet(folder / "calibration.parquet")
                test = pd.read_parquet(folder / "scores")
                yield Scanned(data, model, calibration, test[test["split"] == "test"])


def newest(name: str, model: str, folders: tuple[Path, ...]) -> Path | None:
    """The last finished scan of a run by that model; a run file may have had another before."""
    found = dict[str, Path]()
    for folder in folders:
        for scan in folder.glob(f"{name}-s0-full-*/{SCAN}"):
            if is_finished(scan):
                run = json.loads((scan / "run.json").read_text(encoding="utf-8"))
                if run["model"] == model:
                    found[run["finished_at"]] = scan
    return found[max(found)] if found else None


def compared(seen: Scanned) -> Compared:
    """A cell for each rate and each promise, then the peer's."""
    asked = ((rate, name) for rate in RATES for name in PROMISES)
    peer = Peer(seen)
    cells = [*(cell(seen, rate, name) for rate, name in asked), peer.cell()]
    return Compared(seen, cells, peer.spread())


def cell(seen: Scanned, rate: float, promise: str) -> Cell:
    """What a promise came to, or that the set has too few good images or lots for it."""
    confidence, unit = PROMISES[promise]
    has = lots.units(seen.calibration["group"], unit)
    takes = needed(rate, sure(confidence, unit))
    if has < takes:
        what = "images" if unit == "image" else "lots"
        return Cell(promise, rate, refusal=f"needs {takes:,} {what}, has {has:,}")
    made = lots.yardstick(seen.calibration, "pred_score", rate, confidence, unit)
    good, bad = (made.is_anomalous(scores(rows)) for rows in (seen.good, seen.bad))
    return Cell(promise, rate, int(good.sum()), len(good), int((~bad).sum()), len(bad))


class Peer:
    """Overkill at the largest F1 of one half of the test lots, among the good of the other."""

    def __init__(self, seen: Scanned) -> None:
        self.lot, _ = pd.factorize(seen.test["group"].astype(str), sort=True)
        self.score = scores(seen.test)
        self.label = seen.test["gt_label"].fillna(-1).to_numpy(np.int8)

    def cell(self, seed: int = 0) -> Cell:
        """Of one cut of the lots into halves; the larger half chooses where they are odd."""
        count = int(self.lot.max()) + 1
        chooses = (np.random.default_rng(seed).permutation(count) < (count + 1) // 2)[self.lot]
        good, bad = (self.score[chooses & (self.label == label)] for label in (0, 1))
        fresh, odd = (self.score[~chooses & (self.label == label)] for label in (0, 1))
        for scores_, what in ((bad, "a defect"), (fresh, "a good image")):
            if not len(scores_):
                return Cell(PEER, None, refusal=f"a half without {what}")
        at = largest_f1(good, bad)
        flagged, missed = int((~(fresh <= at)).sum()), int((odd <= at).sum())
        return Cell(PEER, None, flagged, len(fresh), missed, len(odd))

    def spread(self, cuts: int = CUTS) -> list[float]:
        """The 5 %, 50 % and 95 % quantiles over many cuts; none where no cut serves."""
        every = (self.cell(seed) for seed in range(cuts))
        shares = [one.flagged / one.good for one in every if not one.refusal]
        return [float(q) for q in np.quantile(shares, (0.05, 0.5, 0.95))] if shares else []


def largest_f1(good: Float32, bad: Float32) -> float:
    """The score t that makes F1 of "score >= t is a defect" largest; the lowest of several.

    Args:
        good: (n,) scores; may be none.
        bad: (d,) scores, one at least.
    """
    at = np.unique(np.concatenate([good, bad]))
    found = len(bad) - np.searchsorted(np.sort(bad), at, side="left")
    false = len(good) - np.searchsorted(np.sort(good), at, side="left")
    return float(at[np.argmax(2 * found / (found + false + len(bad)))])


def scores(table: pd.DataFrame) -> Float32:
    """(N,) scores of a table."""
    return table["pred_score"].to_numpy(np.float32)
