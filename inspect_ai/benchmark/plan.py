"""What is to be measured: run files, the data they name, seeds, and the state of the code.

Needs no torch and no data: a run file is read as TOML here, and checked when it is its turn.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings, InspectError, MissingData

# rooms that touch no score: a change there leaves rows as they are
OUTSIDE = {
    "benchmark", "cli", "commands", "demo", "progress", "recalibrate", "review", "suspects",
    "tracking", "watching",
}  # fmt: skip
BASELINE, LIKELIHOOD, ADVERSARIAL, DIFFUSION = "baseline", "likelihood", "adversarial", "diffusion"
SCAN = "scan"  # folder of a row's scores
FAMILIES = {
    "wafer_statistics": BASELINE,
    "pca": BASELINE,
    "ppca": BASELINE,
    "factor_analysis": BASELINE,
    "gmm": BASELINE,
    "vae": LIKELIHOOD,
    "vqvae": LIKELIHOOD,
    "pixelcnn": LIKELIHOOD,
    "pixelrnn": LIKELIHOOD,
    "nade": LIKELIHOOD,
    "flow": LIKELIHOOD,
    "f_anogan": ADVERSARIAL,
    "bigan": ADVERSARIAL,
    "ganomaly": ADVERSARIAL,
    "diffusion": DIFFUSION,
    "latent_diffusion": DIFFUSION,
}
# (data, run) -> data from elsewhere that its bundle is scanned on, all images
TRANSFERS = {("wm811k", "wm811k"): "mixedwm38"}
UNKNOWN = "unknown"  # data of a run file that cannot be read


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is measured.

    Args:
        seconds: cap of each training; None leaves the run files' own budgets.
        data: names of the data sets; None takes all.
        seeds: data set -> seeds of the best run of each family; one seed for all the others.
        without: models that are left out.
        times: steps of each training, times those of its run file; other than 1, the run file's
            own cap of seconds does not hold.
    """

    name: str
    seconds: float | None = None
    data: tuple[str, ...] | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    times: int = 1

    @property
    def changes_budgets(self) -> bool:
        """Whether trainings are other than the run files say."""
        return self.seconds is not None or self.times != 1


PROFILES = (
    Profile(
        "quick",
        seconds=30.0,
        data=("wm811k", "magnetic_tile"),
        # the slower ones, each beside one of its kind
        without=("vqvae", "pixelrnn", "nade", "bigan", "ganomaly", "latent_diffusion"),
    ),
    Profile("full", seeds={"wm811k": 3}),
    # what the run files would be without a cap for two cores: for a GPU, with --device cuda
    Profile(
        "long",
        data=("wm811k", "simulated_dies", "magnetic_tile", "kolektor_sdd"),
        seeds={"wm811k": 3},
        times=10,
    ),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A run file on one data set.

    Args:
        spec: None where `problem` says why the run file or its spec cannot be read.
        base: the entry whose bundle is scanned, where the row is of a transfer.
        members: of a fusion, names of run files.
        stage: the name of its first stage's run file, where it has one.
    """

    run: str
    path: Path
    data: str
    spec: DataSpec | None
    model: str
    seed: int
    code_hash: str
    problem: str = ""
    base: "Entry | None" = None
    members: tuple[str, ...] = ()
    stage: str = ""

    @property
    def family(self) -> str:
        """See `family`."""
        return family(self.model)

    def root(self, data: Path | None) -> Path | None:
        """Where the images lie: `data`/<last part of the spec's root>, or the spec's own root."""
        if self.spec is None:
            return None
        return self.spec.root if data is None else data / self.spec.root.name

    def folder(self, seed: int, profile: str) -> str:
        """Name of the work's folder; another state of the code has another."""
        return f"{self.run.replace(' ', '-')}-s{seed}-{profile}-{self.code_hash[:12]}"


def profile(name: str) -> Profile:
    """The profile of a name.

    Raises:
        BadSettings: there is none.
    """
    for known in PROFILES:
        if known.name == name:
            return known
    names = ", ".join(p.name for p in PROFILES)
    raise BadSettings(f"No profile '{name}'. Pass --profile with one of: {names}.")


def family(model: str) -> str:
    """What a model is compared within; a model that is in no list is a family of its own."""
    return FAMILIES.get(model, model)


def entries(runs: Path, asked: Profile) -> list[Entry]:
    """Every run file that the profile takes, by data set, baselines first; then the transfers.

    A fusion comes after its members, and a model on codes after its first stage, whose training it
    then takes over.

    Raises:
        MissingData: no such folder, or no run file in it.
    """
    paths = sorted(runs.glob("*.toml"))
    if not paths:
        raise MissingData(f"{runs} holds no run file (*.toml). Pass their folder with --runs.")
    code = code_hash()
    found = [
        _entry(
            path, _sha(code, f"{asked.seconds} {asked.times}") if asked.changes_budgets else code
        )
        for path in paths
    ]
    found = [entry for entry in found if entry.model not in asked.without]
    taken = [e for e in found if asked.data is None or e.data in (*asked.data, UNKNOWN)]
    taken += [moved for e in taken if (moved := _transfer(e)) is not None]
    return sorted(taken, key=_turn)


def _turn(entry: Entry) -> tuple[bool, str, bool, int, str]:
    moved, later = entry.base is not None, 2 * bool(entry.members) + bool(entry.stage)
    return moved, entry.data, entry.family != BASELINE, later, entry.run


def more_seeds(first: int, count: int) -> list[int]:
    """The seeds after the first: 0, 1, 2 ... without it, `count` with it."""
    return [seed for seed in range(count + 1) if seed != first][: max(count - 1, 0)]


def code_hash() -> str:
    """Names the code that scores depend on."""
    package = Path(inspect_ai.__file__).parent
    content = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if Path(place.parts[0]).stem not in OUTSIDE:
            content.update(f"{place.as_posix()}\n".encode() + path.read_bytes())
    return content.hexdigest()


def _entry(path: Path, code: str) -> Entry:
    try:
        fields = _toml(path)
        spec_path, text = Path(str(fields["data_spec"])), _text(path, fields)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{path} is no run file ({type(error).__name__}: {error}). Correct it."
        named = _sha(code, str(error))
        return Entry(path.stem, path, UNKNOWN, None, "", 0, named, problem)
    model, seed = _model(fields), _seed(fields)
    try:
        spec = DataSpec.from_toml(spec_path)
    except InspectError as error:
        named = _sha(code, text, str(error))
        return Entry(path.stem, path, spec_path.stem, None, model, seed, named, str(error))
    named = _sha(code, text, spec.hash())
    members = tuple(Path(str(name)).stem for name in fields.get("members", ()))
    stage = Path(str(fields.get("first_stage", ""))).stem
    begun = Entry(path.stem, path, spec.name, spec, model, seed, named)
    return replace(begun, members=members, stage=stage)


def _transfer(base: Entry) -> Entry | None:
    """A bundle on data from elsewhere, whose spec lies beside that of its own."""
    other = TRANSFERS.get((base.data, base.run))
    if other is None or base.spec is None:
        return None
    path = Path(str(_toml(base.path)["data_spec"])).with_name(f"{other}.toml")
    if not path.is_file():
        return None
    run, model, seed = f"{base.run} on {other}", base.model, base.seed
    try:
        spec = DataSpec.from_toml(path)
    except InspectError as error:
        named = _sha(base.code_hash, str(error))
        return Entry(run, base.path, other, None, model, seed, named, str(error), base)
    named = _sha(base.code_hash, spec.hash())
    return Entry(run, base.path, spec.name, spec, model, seed, named, base=base)


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8-sig"))


def _text(path: Path, fields: Mapping[str, Any]) -> str:
    """Content of a run file, comments aside, and of those it names beside it."""
    names = [*fields.get("members", ()), fields.get("first_stage")]
    beside = [path.with_name(str(name)) for name in names if name is not None]
    inner = [_text(other, _toml(other)) for other in beside]
    return _sha(json.dumps(fields, sort_keys=True, default=str), *inner)


def _model(fields: Mapping[str, Any]) -> str:
    table = fields.get("model")
    return str(table.get("name", "")) if isinstance(table, dict) else ""


def _seed(fields: Mapping[str, Any]) -> int:
    table = fields.get("budget")
    seed = table.get("seed", 0) if isinstance(table, dict) else 0
    return seed if isinstance(seed, int) else 0


def _sha(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
