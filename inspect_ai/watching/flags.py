"""Are more images of these scans flagged than good ones explain? No drift: a look at these scans.

A stream compares the share that is flagged with its own past, and says nothing of scans that were
bad from the start. So each place, and all of a bundle together, is compared with the promised rate,
by the shares of its lots (excess.py). Among P comparisons each gets delta / P: at one call, one is
in vain with probability delta at most, where all images are good. On a floor with many defects it
says so each time; that is what it is for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai.calibration import excess, lots
from inspect_ai.calibration.conformal import allowed_rank, sure
from inspect_ai.watching import intake, memory
from inspect_ai.watching.intake import GROUP, Arrivals
from inspect_ai.watching.memory import SCORE, Identity, Watch
from inspect_ai.watching.monitor import Part, by_place

LEVEL = "group_level"


@dataclass(frozen=True, slots=True)
class Flags:
    """What is flagged of the images of a place in these scans.

    Args:
        images, flagged: how many.
        lots: how many lots they are of.
        rate: promised.
        more: whether good images do not explain as many.
    """

    identity: Identity
    images: int
    flagged: int
    lots: int
    rate: float
    more: bool


def compared(found: Sequence[Arrivals], state: Path, asked: Watch) -> list[Flags]:
    """Each place of the scans, and last all of each bundle where it has several."""
    watch = memory.opened(state, asked)
    asked_of = list(by_place(found, watch))
    whole = {one.run.bundle_hash: one for one in found}
    for name in whole:
        of = [(identity, parts) for identity, parts in asked_of if identity.bundle_hash == name]
        if len(of) > 1 and all(identity.by for identity, _ in of):
            scans = {one.scan: one for one in found if one.run.bundle_hash == name}
            identity = of[0][0].model_copy(update={"by": {}})
            asked_of.append((identity, [(one, one.rows) for one in scans.values()]))
    level = watch.delta / max(1, len(asked_of))
    return [_flags(identity, parts, level) for identity, parts in asked_of]


def _flags(identity: Identity, parts: list[Part], level: float) -> Flags:
    tables = []
    for one, rows in parts:
        key = intake.keys(rows, one.run)
        lot = intake.lot_keys(rows, key)
        tables.append(pd.DataFrame({"flag": rows["pred_label"].to_numpy(), "key": key, "lot": lot}))
    table = pd.concat(tables).drop_duplicates("key")
    by_lot = table["flag"].groupby(table["lot"])
    shares = (by_lot.max() if identity.unit == "lot_maximum" else by_lot.mean()).to_numpy(float)
    rate = parts[0][0].run.false_alarm_rate
    limit = max(_explained(*part, level / 2) for part in parts)
    more = excess.chance(shares, limit, len(table) / len(shares)) <= level / 2
    flagged = int(table["flag"].sum())
    return Flags(identity, len(table), flagged, len(shares), rate, more)


def _explained(one: Arrivals, rows: pd.DataFrame, level: float) -> float:
    """The largest share that the luck of the calibration explains, of the level with fewest."""
    run, good = one.run, one.calibration
    asked = run.false_alarm_rate, sure(run.confidence, run.unit)
    names = set(rows[LEVEL].dropna()) if LEVEL in rows else set[str]()
    units = [run.levels[name].units for name in names if name in run.levels]
    n = min(units, default=lots.units(good[GROUP], run.unit))
    worth = 1.0
    if run.unit == "image" and len(good):
        scores = good[SCORE].to_numpy(np.float32)
        worth = lots.effective(scores, good[GROUP]).worth / len(good)
    rank = max(1, allowed_rank(n, *asked))
    ends = rank * worth, max(n, rank) * worth
    return float(excess.explained(run.false_alarm_rate, *ends, level))
