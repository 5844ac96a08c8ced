"""What several folders of tests share: small bundles, made once a session, and MLflow in a file."""

import os
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from inspect_ai import cli
from inspect_ai.bundle import bundle as bundles
from inspect_ai.data import manifest as manifests
from inspect_ai.data import simulate
from inspect_ai.data.simulate_dies import DieSettings
from inspect_ai.data.simulate_maps import MapSettings
from inspect_ai.data.specs import DataSpec

COMMON = """\
source = "simulated"
licence = "Apache-2.0"

[group]
column = "lot"

[split]
train = 0.4
calibrate = 0.4
test = 0.2
"""

DIES = f"""\
name = "few_dies"
root = "{{root}}"
{COMMON}
[layout]
kind = "table"
mask = "mask"
"""

MAPS = f"""\
name = "few_maps"
root = "{{root}}"
{COMMON}
[layout]
kind = "stack"
file = "maps.npz"
shapes = "shapes"
columns = ["lot", "wafer"]

[image]
kind = "wafer_map"

[label]
good = ["none"]
"""

RUN = """\
data_spec = "{spec}"
grid = [16, 16]
false_alarm_rate = 0.05

[model]
name = "autoencoder"
width = 4
depth = 2
latent = 4

[score]
{rule}

[budget]
steps = 20
batch_size = 16
"""


STRUCTURE = 'rule = "density"\nstatistics = ["moran", "walks_4"]'


@dataclass(frozen=True)
class Line:
    """One line of product: its data and what the workshop made of them."""

    spec: Path  # data spec
    root: Path  # the images
    run: Path  # run file
    built: Path  # checkpoint/, calibration/ and bundle/

    @property
    def bundle(self) -> Path:
        return self.built / "bundle"

    def read(self) -> bundles.Bundle:
        return bundles.read(self.bundle)

    def manifest(self) -> manifests.Manifest:
        return manifests.make(DataSpec.from_toml(self.spec))


def pytest_configure(config):
    """Workers take files in the order below; pytest-xdist's own looks at the number of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: one begun last leaves the other workers without work."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path], item.path))


def _line(folder, settings, spec, rule):
    from inspect_ai import build, recipe
    from inspect_ai.tracking import Nothing

    line = Line(folder / "spec.toml", folder / "data", folder / "run.toml", folder / "built")
    simulate.write(settings, line.root)
    line.spec.write_text(spec.format(root=line.root.as_posix()), encoding="utf-8")
    line.run.write_text(RUN.format(spec=line.spec.as_posix(), rule=rule), encoding="utf-8")
    # a model of 20 steps may be worse than PCA, and is made in a second
    build.build(recipe.read(line.run), line.manifest(), line.built, Nothing(), force=True)
    return line


@pytest.fixture(scope="session")
def dies(tmp_path_factory):
    """240 pictures of 32 pixels, 8 bits, in files of their own; about a tenth with a defect."""
    settings = DieSettings(lots=12, wafers_per_lot=2, dies_per_wafer=10, side=32, seed=3)
    return _line(tmp_path_factory.mktemp("dies"), settings, DIES, 'rule = "l2"')


@pytest.fixture(scope="session")
def products(tmp_path_factory):
    """240 pictures in lots enough that each of three products is in every split; nothing built."""
    folder = tmp_path_factory.mktemp("products")
    line = Line(folder / "spec.toml", folder / "data", folder / "run.toml", folder / "built")
    settings = DieSettings(lots=30, wafers_per_lot=1, dies_per_wafer=8, side=32, seed=3)
    simulate.write(settings, line.root)
    line.spec.write_text(DIES.format(root=line.root.as_posix()), encoding="utf-8")
    line.run.write_text(RUN.format(spec=line.spec.as_posix(), rule='rule = "l2"'), encoding="utf-8")
    return line


@pytest.fixture(scope="session")
def maps(tmp_path_factory):
    """150 wafer maps of several shapes in one stack; about a tenth with a pattern."""
    settings = MapSettings(lots=15, wafers_per_lot=10, seed=3)
    return _line(tmp_path_factory.mktemp("maps"), settings, MAPS, STRUCTURE)


@pytest.fixture(scope="session", autouse=True)
def mlflow_in_a_file(tmp_path_factory):
    """No test writes to a tracking server or into the current folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{(folder / 'mlflow.db').as_posix()}"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["INSPECT_AI_WAITING"] = str(folder / "waiting")
    return folder


@pytest.fixture(scope="session")
def mlflow_client(mlflow_in_a_file):
    """A client of the session's own tracking file; making its tables takes seconds."""
    from inspect_ai.tracking import EXPERIMENT, _mlflow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own code
        client = _mlflow().MlflowClient()
        client.create_experiment(EXPERIMENT, (mlflow_in_a_file / "artefacts").as_uri())
    return client


@pytest.fixture(scope="session")
def shell():
    """The command line of inspect-ai, for a process of its own."""
    call = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    call += "from inspect_ai.cli import main; main()"
    return lambda *arguments: [sys.executable, "-c", call, *map(str, arguments)]


@pytest.fixture
def say(capsys):
    """Runs a command; its exit code, and what it said on stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = cli.run([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
