"""The house rules, kept by machine."""

import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted((ROOT / "inspect_ai").rglob("*.py")) + sorted((ROOT / "pipelines").rglob("*.py"))
DRAWERS = {"utils", "util", "helpers", "common", "misc", "base", "core", "tools", "manager"}
TOP = {"pyproject.toml", "inspect_ai", "pipelines", "tests", "data_specs", "deploy", "README.md"}
TOP |= {"Makefile", "LICENSE", "constraints.txt"}


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def code_of(room):
    """A file's tokens without comments and texts."""
    with room.open("rb") as file:
        return " ".join(
            t.string
            for t in tokenize.tokenize(file.readline)
            if t.type not in (tokenize.COMMENT, tokenize.STRING, tokenize.ENCODING)
        )


def test_imports_run_one_way():
    linted = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout
    assert "4 kept, 0 broken" in linted.stdout


def test_every_room_is_in_the_layers():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = settings["contracts"][0]
    assert layers["type"] == "layers"
    listed = {name.strip() for row in layers["layers"] for name in row.split("|")}
    rooms = {p.stem if p.is_file() else p.name for p in (ROOT / "inspect_ai").iterdir()}
    assert listed == rooms - {"__init__", "__pycache__"}


def test_no_room_is_a_drawer():
    assert not DRAWERS & {room.stem for room in ROOMS}
    assert not DRAWERS & {room.parent.name for room in ROOMS}


def test_no_room_is_longer_than_300_lines():
    long = {str(room): n for room in ROOMS if (n := len(room.read_text().splitlines())) > 300}
    assert not long


def test_every_room_says_what_it_is_for():
    silent = [str(r) for r in ROOMS if not r.read_text().lstrip().startswith('"""')]
    assert not silent


def test_nothing_but_the_users_names_stands_at_the_top():
    top = {name.split("/")[0] for name in tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP


def test_pickle_is_read_in_one_file_only_and_written_in_none():
    users = [r.stem for r in ROOMS if re.search(r"\b(pickle|joblib|dill|shelve)\b", code_of(r))]
    assert users == ["lswmd"]
    unsafe = r"allow_pickle = True|weights_only = False|pickle \. (dump|load)|torch \. load"
    assert not [str(r) for r in ROOMS if re.search(unsafe, code_of(r))]


def test_no_word_of_unfinished_work_stands_in_the_code():
    words = re.compile(r"\b(todo|fixme|xxx|placeholder|not implemented)\b", re.IGNORECASE)
    assert not [str(r) for r in ROOMS if words.search(r.read_text())]


def test_no_kwargs_are_passed_on():
    assert not [str(r) for r in ROOMS if re.search(r"\* \* kwargs", code_of(r))]


def test_every_error_stands_in_the_tree_of_its_module():
    from inspect_ai import errors

    kinds = {n for n, k in vars(errors).items() if isinstance(k, type)} - {"InspectError"}
    in_tree = set(re.findall(r"^ +- (\w+)", errors.__doc__, re.MULTILINE))
    assert kinds == in_tree


def test_no_tracked_file_is_large():
    large = [n for n in tracked() if (ROOT / n).stat().st_size > 2_000_000]
    assert not large


def test_every_run_file_and_every_spec_is_read():
    from inspect_ai import recipe
    from inspect_ai.data.specs import DataSpec

    runs, specs = sorted(ROOT.glob("pipelines/runs/*.toml")), sorted(ROOT.glob("data_specs/*.toml"))
    assert len(runs) >= 4
    assert len(specs) >= 11
    for run in runs:
        assert (ROOT / recipe.read(run).data_spec).is_file()
    for spec in specs:
        assert DataSpec.from_toml(spec).name == spec.stem
