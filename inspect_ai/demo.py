"""The whole path on simulated wafers: two lines of product, from nothing to two reports."""

from collections.abc import Iterator
from pathlib import Path

from inspect_ai import build, progress, recipe
from inspect_ai.batch.scan import scan
from inspect_ai.bundle import bundle as bundles
from inspect_ai.data import manifest as manifests
from inspect_ai.data import simulate
from inspect_ai.data.simulate_dies import DieSettings
from inspect_ai.data.simulate_maps import MapSettings
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import MissingData
from inspect_ai.review import report
from inspect_ai.tracking import Tracked

RUNS = Path("pipelines/runs")
# a night's production of the same fab (seed): later lots, which nothing has seen
PRODUCTION: dict[str, simulate.SimulateSettings] = {
    "simulated_maps": MapSettings(lots=80, first_lot=1001, defect_share=0.05, seed=1),
    "simulated_dies": DieSettings(
        lots=6, first_lot=1001, dies_per_wafer=20, side=64, defect_share=0.05, seed=1
    ),
}


def run(out: Path) -> Iterator[str]:
    """Builds, scans and reports both lines under `out`; yields what to tell the user.

    Raises:
        MissingData: the current folder is no checkout.
    """
    if not RUNS.is_dir():
        raise MissingData(
            f"The demo needs the run files of a checkout, and {Path.cwd()} has no {RUNS}. "
            "Clone the repository and run 'make demo' in it."
        )
    pages = []
    for name in PRODUCTION:
        yield f"== {name} =="
        page, line = _line(name, out)
        pages.append(page)
        yield line
    yield ""
    yield "Open the reports:"
    yield from (f"  {page.resolve()}" for page in pages)
    yield "See the runs:  .venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db"


def _line(name: str, out: Path) -> tuple[Path, str]:
    """One line of product; its report and what was found."""
    made = recipe.read(RUNS / f"{name}.toml")
    spec = DataSpec.from_toml(made.data_spec)
    with progress.bar("look at images") as bar:
        manifest = manifests.make(spec, report=bar)
    log = Tracked(f"demo {name}")
    log.settings(made.model_dump(mode="json"))
    bundle = bundles.read(build.build(made, manifest, out / name, log))
    batch = out / f"{name}_production"
    if not batch.is_dir():
        with progress.bar("simulate production") as bar:
            simulate.write(PRODUCTION[name], batch, bar)
    with progress.bar("scan") as bar:
        found = scan(bundle, manifests.listing(spec, batch), out / f"{name}_scan", report=bar)
    page = report.render(found.out)
    log.artefact(page)
    log.artefact(page.with_name("metrics.json"))
    return page, f"{found.images:,} scored, {found.flagged:,} flagged. {log.close()}"
