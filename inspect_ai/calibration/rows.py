"""What calibration.parquet holds of each good image: all that a promise is made from.

    pred_score, map_max   through the model; map_max is the largest value of the anomaly map
    map_shares            the map's upper values, for a promised rate of pixels (pixels.py)
    input_brightness, ... of the input, for the monitor of later scans (data/inputs.py)

Beside them stand image_id, group (the lot), image_path, and the columns of the promise's groups.
"""

import pandas as pd

from inspect_ai.calibration import pixels as maps
from inspect_ai.data import inputs
from inspect_ai.data.conditions import text
from inspect_ai.data.specs import ImageRule
from inspect_ai.scores import Pixels, Scores

NAMES = ("image_id", "image_path", "group")
PLACES = ("tool", "product")  # that the monitor keeps apart


def noted(images: Pixels, scores: Scores, rule: ImageRule) -> pd.DataFrame:
    """What is kept of a batch: N rows.

    Args:
        images: (N, C, H, W) in the file's own type, wafer maps padded with 0.
        scores: theirs.
    """
    heat = scores.anomaly_map
    on_wafer = images[:, 0] > 0 if rule.kind == "wafer_map" else None
    counted = [None] * len(images) if on_wafer is None else list(on_wafer)
    shares = [maps.summary(one, where) for one, where in zip(heat, counted, strict=True)]
    kept = {"pred_score": scores.pred_score, "map_max": heat.max(axis=(1, 2)), "map_shares": shares}
    measures = pd.DataFrame([inputs.measured(image, rule) for image in images])
    return pd.DataFrame(kept).join(measures)


def table(rows: pd.DataFrame, found: pd.DataFrame, groups: tuple[str, ...]) -> pd.DataFrame:
    """Rows of the manifest, as far as promises and the monitor need them, with what was noted."""
    own = dict.fromkeys((*groups, *PLACES))
    names = [c for c in own if c in rows and c not in NAMES]
    kept = rows[[*NAMES, *names]].assign(**{c: text(rows[c]) for c in names})
    return kept.reset_index(drop=True).join(found.reset_index(drop=True))
