"""A small bench: run files and specs in a folder of their own, and hand-made rows and scores."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai.benchmark.benchmark import Asked, run
from inspect_ai.benchmark.rows import ClassFigures, Figure, Row
from inspect_ai.benchmark.table import printed
from inspect_ai.data import simulate
from inspect_ai.data.simulate_maps import MapSettings
from inspect_ai.tracking import Nothing

SPEC = """\
name = "{name}"
root = "{root}"
source = "simulated"
licence = "Apache-2.0"
group = {{ column = "lot" }}
image = {{ kind = "wafer_map" }}
label = {{ good = ["none"] }}
split = {{ train = 0.4, calibrate = 0.4, test = 0.2 }}

[layout]
kind = "stack"
file = "maps.npz"
shapes = "shapes"
{masks}
columns = ["lot", "wafer"]
"""

RUN = """\
data_spec = "{spec}"
grid = [16, 16]
false_alarm_rate = 0.1

[model]
name = "{model}"
width = 4
depth = 2
latent = 4

[score]
rule = "density"
statistics = ["moran", "walks_4"]

[budget]
steps = 5
batch_size = 16
seed = {seed}
"""


@dataclass
class Bench:
    """A folder with run files, specs, results and an out folder; and what was said and logged."""

    folder: Path
    said: list[str] = field(default_factory=list)
    logged: list[tuple[str, str]] = field(default_factory=list)

    def spec(self, name, masks='masks = "masks"'):
        path = self.folder / "specs" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        root = self.folder / "data" / name
        path.write_text(SPEC.format(name=name, root=root.as_posix(), masks=masks))
        return path

    def maps(self, name, **settings):
        given = {"lots": 20, "wafers_per_lot": 8, "largest": 28, "canvas": 32, "seed": 4}
        settings = MapSettings(**given | {"defect_share": 0.4} | settings)
        simulate.write(settings, self.folder / "data" / name)

    def run_file(self, name, spec, model="autoencoder", seed=0):
        path = self.folder / "runs" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(RUN.format(spec=spec.as_posix(), model=model, seed=seed))
        return path

    def asked(self, profile="quick", **more):
        folders = (self.folder / name for name in ("runs", "results", "out"))
        return Asked(profile, *folders, **more)

    def start(self, profile="quick", **more):
        self.said.clear()
        self.logged.clear()
        return run(self.asked(profile, **more), self.said.append, self.log)

    def table(self, profile="quick"):
        return printed(profile, self.folder / "runs", self.folder / "results")

    def rows(self, profile="quick"):
        return sorted(p.name for p in (self.folder / "results" / profile).glob("*/*.parquet"))

    @contextmanager
    def log(self, title, key):
        self.logged.append((title, key))
        yield Nothing()


def a_row(**fields):
    """A row that is done."""
    given = {"run": "a", "data": "wm811k", "seed": 0, "profile": "full", "code_hash": "today"}
    given |= {"kind": "wafer_map", "family": "autoencoder", "commit": "abc1234", "cores": 2}
    figures = {"good_images": 4200, "bad_images": 900, "groups": 50, "promised": 0.01}
    figures |= {"auroc": Figure(value=0.9934, low=0.9924, high=0.9943)}
    figures |= {"capture_at_1": Figure(value=0.92, low=0.9, high=0.93)}
    figures |= {"capture_at_01": Figure(value=0.74)}
    return Row.checked(given | figures | fields, "a test")


def a_class(name, images, capture=0.5):
    told = {"auroc": Figure(value=0.9), "escape": Figure(value=0.2, low=0.1, high=0.3)}
    captures = {"capture_at_1": Figure(value=capture), "capture_at_01": Figure(value=0.1)}
    return ClassFigures(name=name, images=images, **told, **captures)


def scores(score, bad, group):
    """A table of scores as a scan keeps it."""
    paths = [f"maps.npz#{i}" for i in range(len(score))]
    given = {"image_path": paths, "group": np.asarray(group).astype(str)}
    return pd.DataFrame(given | {"gt_label": np.asarray(bad, int), "pred_score": score})
