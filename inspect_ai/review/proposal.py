"""What a recalibration would change, in figures, in words and in one picture, for a person to accept."""

import json
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from inspect_ai import steps
from inspect_ai.errors import BadBundle
from inspect_ai.scores import Float32
from inspect_ai.settings import Settings

OLD, NEW, ALARM = "#7d9dbd", "#2f6f4f", "#b0352c"
BINS = 60


class Proposal(Settings):
    """What proposal.json says."""

    bundle_hash: str  # of the bundle as it is
    hashes: dict[str, str]  # file -> sha256, of what would become the new bundle
    image_threshold_before: float
    image_threshold: float
    levels: dict[str, tuple[float | None, float | None]]  # before and after; None: that of "all"
    images_before: int  # good calibration images
    images: int
    lots_before: int
    lots: int
    promise_before: str
    promise: str
    scanned: int  # images of the scans
    joined: int  # of them that count as good
    false_alarms: int  # of these that were flagged
    alone: bool = False  # whether the good images of before are left out
    left_out: int  # decided as defects, or undecided and counted so
    undecided: int  # flagged ones that nobody decided or was sure of
    no_longer_flagged: int  # images of the scans whose verdict would change
    newly_flagged: int
    defects_missed: int  # of those no longer flagged: decided as defects
    notes: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """What a person should read before accepting it."""
        found = binomtest(self.false_alarms, max(self.joined, 1)).proportion_ci(0.95, "exact")
        share = self.false_alarms / max(self.joined, 1)
        missed = f", {self.defects_missed:,} of them decided as defects"
        return [
            f"threshold {self.image_threshold_before:.6g} -> {self.image_threshold:.6g}",
            *(
                f"  {name}: {'none of its own' if old is None else f'{old:.6g}'} -> "
                + ("all" if new is None else f"{new:.6g}")
                for name, (old, new) in self.levels.items()
            ),
            f"good images {self.images_before:,} -> {self.images:,}, lots {self.lots_before:,} -> "
            f"{self.lots:,}",
            f"was: {self.promise_before}",
            f"now: {self.promise}",
            f"false alarms in the scans: {self.false_alarms:,} of {self.joined:,} good images "
            f"({share:.2%}; as independent images, 95 % interval {found.low:.2%} to {found.high:.2%})",
            f"of {self.scanned:,} scanned images, {self.no_longer_flagged:,} would no longer be "
            f"flagged{missed * bool(self.defects_missed)}, {self.newly_flagged:,} would be new",
            *(f"note: {note}" for note in self.notes),
        ]


def read(path: Path) -> Proposal:
    """A proposal whose files are those that were proposed.

    Raises:
        BadBundle: one was changed.
    """
    proposal = Proposal.checked(json.loads(path.read_text(encoding="utf-8")), str(path))
    for name, wanted in proposal.hashes.items():
        if steps.sha256(path.with_name(name)) != wanted:
            raise BadBundle(
                f"{path.with_name(name)} was changed after it was proposed. Pass a new --out."
            )
    return proposal


def draw(before: Float32, after: Float32, found: Proposal, path: Path) -> None:
    """Draws the good scores of both calibrations as shares, with both thresholds.

    Args:
        before, after: good scores, of images.
        path: PNG to write.
    """
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    bins = min(BINS, max(10, len(before) // 5))
    edges = np.histogram_bin_edges(np.concatenate([before, after]), bins)
    for scores, colour, name, filled in (
        (before, OLD, "before", True),
        (after, NEW, "after", False),
    ):
        share = np.histogram(scores, edges)[0] / len(scores)
        label = f"{len(scores):,} good images {name}"
        axes.stairs(share, edges, fill=filled, color=colour, lw=1.5, label=label)
    marks = (found.image_threshold_before, "before", ":"), (found.image_threshold, "after", "--")
    for value, name, line in marks:
        if np.isfinite(value):
            axes.axvline(
                value, color=ALARM, ls=line, lw=1.5, label=f"threshold {name}: {value:.4g}"
            )
    axes.set(xlabel="score (higher is odder)", ylabel="share of images", yscale="log")
    axes.set_title(fill(f"Proposed: {found.promise}", 96), size=9, loc="left")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
