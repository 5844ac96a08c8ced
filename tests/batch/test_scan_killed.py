"""Scans that are killed, starved of disk and started again: each image once, nothing lost."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from inspect_ai import cli

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")]
IMAGES = 2500  # three parts
STAGES = [
    "run.json",
    "plan.parquet",
    "maps/*.tiff",
    "scores/part-00000.parquet",
    "rejected/part-00002.parquet",
    "rejected.parquet",
]


@pytest.fixture(scope="module")
def folder(dies, tmp_path_factory):
    """Many files of few contents, and some that cannot be read in every part."""
    made = tmp_path_factory.mktemp("many") / "in"
    made.mkdir()
    images = sorted((dies.root / "images").iterdir())
    for i in range(IMAGES):
        if i % 500 == 7:
            (made / f"{i:05d}.png").write_bytes(b"not an image")
        else:
            os.link(images[i % len(images)], made / f"{i:05d}.png")
    return made


def command(dies, folder, out):
    options = ["--out", out, "--device", "cpu", "--threads", "1", "--no-track"]
    return [str(a) for a in ("scan", dies.bundle, folder, *options)]


def found(out):
    """All rows of a finished scan, its rejects and the content of its maps."""
    assert json.loads((out / "run.json").read_text("utf-8"))["state"] == "finished"
    parts = [pd.read_parquet(p) for p in sorted((out / "scores").iterdir())]
    rows = pd.concat(parts).sort_values("image_path", ignore_index=True)
    maps = {p.name: p.read_bytes() for p in (out / "maps").iterdir()}
    return rows, pd.read_parquet(out / "rejected.parquet"), maps


def assert_same(out, reference):
    (rows, rejects, maps), (wanted, wanted_rejects, wanted_maps) = found(out), reference
    pd.testing.assert_frame_equal(rows, wanted)
    pd.testing.assert_frame_equal(rejects, wanted_rejects)
    assert maps == wanted_maps
    assert len(rows) + len(rejects) == IMAGES
    assert not [p for p in out.rglob("*") if p.suffix in (".tmp", ".part")]


@pytest.fixture(scope="module")
def reference(dies, folder, tmp_path_factory):
    """What a scan gives that nobody disturbs."""
    out = tmp_path_factory.mktemp("reference") / "out"
    assert cli.run(command(dies, folder, out)) == 0
    return found(out)


def killed(arguments, moment):
    """Starts a scan and kills it when `moment` returns; whether it was alive."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        moment(process)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("stage", STAGES)
def test_a_scan_killed_when_a_file_appears_goes_on_and_ends_the_same(
    shell, dies, folder, reference, tmp_path, stage
):
    def moment(process):
        while process.poll() is None and not any((tmp_path / "out").glob(stage)):
            time.sleep(0.0005)

    arguments = command(dies, folder, tmp_path / "out")
    assert killed(shell(*arguments), moment)
    assert cli.run(arguments) == 0
    assert_same(tmp_path / "out", reference)


def test_a_scan_killed_again_and_again_ends_the_same(shell, dies, folder, reference, tmp_path):
    arguments, kills = command(dies, folder, tmp_path / "out"), 0
    for share in (0.05, 0.15, 0.35, 0.6):

        def moment(process, share=share):
            while process.poll() is None and not (tmp_path / "out" / "run.json").exists():
                time.sleep(0.001)
            time.sleep(share)

        kills += killed(shell(*arguments), moment)
    assert kills > 0
    assert cli.run(arguments) == 0
    assert_same(tmp_path / "out", reference)


def test_a_half_written_part_is_dropped(shell, dies, folder, reference, tmp_path):
    def moment(process):
        while process.poll() is None and not (tmp_path / "out/scores/part-00000.parquet").exists():
            time.sleep(0.0005)

    arguments = command(dies, folder, tmp_path / "out")
    assert killed(shell(*arguments), moment)
    for name in ("scores/part-00001.tmp", "rejected/part-00001.tmp"):
        (tmp_path / "out" / name).write_bytes(b"PAR1 and no more")
    for name in ("rejected/part-00001.parquet", "maps/" + next(iter(reference[2]))):
        (tmp_path / "out" / name).write_bytes(b"")
    assert cli.run(arguments) == 0
    rows = found(tmp_path / "out")[0]
    pd.testing.assert_frame_equal(rows, reference[0])
    assert not [*(tmp_path / "out").rglob("*.tmp")]


def test_files_that_come_after_a_kill_wait_for_the_next_scan(
    shell, dies, reference, folder, tmp_path
):
    copy = tmp_path / "in"
    shutil.copytree(folder, copy, copy_function=os.link)

    def moment(process):
        while process.poll() is None and not (tmp_path / "out/scores/part-00000.parquet").exists():
            time.sleep(0.0005)

    arguments = command(dies, copy, tmp_path / "out")
    assert killed(shell(*arguments), moment)
    os.link(folder / "00000.png", copy / "00000a.png")
    os.link(folder / "00000.png", copy / "99999.png")
    assert cli.run(arguments) == 0
    assert_same(tmp_path / "out", reference)


@contextlib.contextmanager
def small_disk(place, size):
    """A disk of that many kilobytes; gives a function that makes it larger."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
    known = shutil.which("mount") is not None
    if not known or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs root and mount")
    try:
        yield lambda: subprocess.run(
            ["mount", "-o", "remount,size=200m", str(place)], check=True, capture_output=True
        )
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("size", [4, 64, 256, 1024])
def test_a_full_disk_is_said_and_the_scan_goes_on_once_there_is_space(
    dies, folder, reference, tmp_path, capsys, size
):
    with small_disk(tmp_path / "disk", size) as enlarge:
        arguments = command(dies, folder, tmp_path / "disk" / "out")
        assert cli.run(arguments) == 2
        told = capsys.readouterr().err
        assert "is full" in told
        assert "run the same command again" in told
        assert "Traceback" not in told
        enlarge()
        assert cli.run(arguments) == 0
        assert_same(tmp_path / "disk" / "out", reference)


def test_an_unwritable_place_is_said(dies, folder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine", "utf-8")
    assert cli.run(command(dies, folder, tmp_path / "file" / "out")) == 2
    assert "Pass another --out" in capsys.readouterr().err
    assert Path(tmp_path / "file").read_text("utf-8") == "mine"
