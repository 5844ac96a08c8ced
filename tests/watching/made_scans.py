"""Scan folders for the monitor, written by hand: small, and of any drift."""

import json

import numpy as np
import pandas as pd

from inspect_ai.data.specs import DataSpec, ImageRule

PLACE = {"tool": "t1", "product": "p1"}


def images(n, seed, shift=0.0, brightness=0.0, defects=0.0, sharpness=0.0, **columns):
    """Rows of n images: normal scores and inputs; a share of defects scores far out."""
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < defects
    table = pd.DataFrame(
        {
            "image_id": [f"{seed:08x}{i:024x}" for i in range(n)],
            "image_path": [f"{seed}/{i}.png" for i in range(n)],
            "group": [f"{seed}-{i}" for i in range(n)],
            "pred_score": (rng.normal(shift, 1, n) + 6 * bad).astype(np.float32),
            "input_brightness": rng.normal(0.5 + 0.01 * brightness, 0.01, n),
            "input_sharpness": rng.normal(0.2 + 0.01 * sharpness, 0.01, n),
        }
    )
    return table.assign(**(PLACE | columns))


def write(folder, table, calibration, **run):
    """A scan folder; images that score above 3 are flagged."""
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    flagged = (~(table["pred_score"] <= 3)).astype(int)
    table = table.assign(pred_label=flagged, p_value=0.5, image_threshold=3.0)
    table.to_parquet(folder / "scores/part-00000.parquet")
    calibration.assign(map_max=calibration["pred_score"]).to_parquet(folder / "calibration.parquet")
    rule = ImageRule(kind=run.pop("kind", "picture"))
    layout = {"kind": "files"}
    spec = DataSpec(
        name="made", root=folder, source="here", licence="none", layout=layout, image=rule
    )
    fields = {
        "command": "scan",
        "state": "finished",
        "fingerprint": folder.name,
        "started_at": "2026-01-01T00:00:00+00:00",
        "spec_name": "made",
        "data_spec": spec.model_dump(mode="json"),
        "root": "images",
        "bundle": "bundle",
        "bundle_hash": "ab" * 32,
        "model": "vae",
        "false_alarm_rate": 0.05,
    }
    (folder / "run.json").write_text(json.dumps(fields | run))
    return folder
