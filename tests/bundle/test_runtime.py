import subprocess
import sys

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from inspect_ai import train
from inspect_ai.bundle.bundle import MODEL, SCORES
from inspect_ai.bundle.runtime import CUDA, Scorer, has_driver
from inspect_ai.errors import NoSuchDevice
from inspect_ai.training import batches

WITHOUT_GPU = pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")


@pytest.fixture(params=["dies", "maps"])
def line(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def good(line):
    """Good images of the calibrate split, in one batch as the floor makes it."""
    manifest = line.manifest()
    return np.concatenate(list(batches.raw(manifest.good("calibrate"), manifest, 64)))


def test_the_floor_scores_as_the_workshop_does(line, good):
    ours = train.load(line.built / "checkpoint").detector.score(good)
    theirs = Scorer(line.bundle, "cpu").score(good)
    tolerance = 1e-3 * float(ours.pred_score.std())  # the gate's
    np.testing.assert_allclose(theirs.pred_score, ours.pred_score, atol=tolerance)
    np.testing.assert_allclose(theirs.anomaly_map, ours.anomaly_map, rtol=1e-3, atol=tolerance)
    np.testing.assert_allclose(theirs.expected, ours.expected, atol=1e-4)


def test_the_floor_gives_the_workshops_verdict_on_every_calibration_image(line, good):
    yardstick = line.read().calibration
    ours = train.load(line.built / "checkpoint").detector.score(good).pred_score
    theirs = Scorer(line.bundle, "cpu").score(good).pred_score
    workshop = np.sort(ours)[-yardstick.rank]  # the same rank of torch's own scores
    assert (yardstick.is_anomalous(theirs) == (ours > workshop)).all()


def test_the_floor_measures_the_yardstick_again(line, good):
    kept = pd.read_parquet(line.bundle / SCORES)["pred_score"].to_numpy()
    assert Scorer(line.bundle, "cpu").score(good).pred_score == pytest.approx(kept, rel=1e-5)


def test_scores_come_in_single_precision_one_to_an_image(line, good):
    scores = Scorer(line.bundle, "cpu").score(good[:3])
    assert scores.pred_score.shape == (3,)
    assert scores.anomaly_map.shape[0] == scores.expected.shape[0] == 3
    assert {a.dtype for a in (scores.pred_score, scores.anomaly_map)} == {np.dtype(np.float32)}


def test_an_image_scores_the_same_alone_as_in_a_batch_and_on_one_thread(line, good):
    batch = Scorer(line.bundle, "cpu").score(good[:8]).pred_score
    alone = Scorer(line.bundle, "cpu", threads=1).score(good[3:4]).pred_score
    assert alone[0] == pytest.approx(batch[3], rel=1e-5)


def test_the_cpu_is_said_to_be_the_cpu(dies):
    assert Scorer(dies.bundle, "cpu").device == "cpu"


@WITHOUT_GPU
def test_a_gpu_that_is_not_there_is_refused_with_advice(dies):
    with pytest.raises(NoSuchDevice, match=r"--device cuda was asked for, but .*--device cpu"):
        Scorer(dies.bundle, "cuda")


@WITHOUT_GPU
def test_auto_takes_the_cpu_without_a_word(dies):
    call = (
        "import sys; from pathlib import Path; from inspect_ai.bundle.runtime import Scorer; "
        "sys.stdout.write(Scorer(Path(sys.argv[1])).device)"
    )
    done = subprocess.run(
        [sys.executable, "-c", call, dies.bundle],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("cpu", "", 0)


@pytest.mark.skipif(not has_driver(), reason="needs an NVIDIA driver")
def test_auto_takes_a_gpu_that_works_and_gives_the_same_verdicts(line, good):
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built without CUDA")
    scorer, yardstick = Scorer(line.bundle, "auto"), line.read().calibration
    here = Scorer(line.bundle, "cpu").score(good).pred_score
    there = scorer.score(good).pred_score
    assert scorer.device == "cuda"
    assert there == pytest.approx(here, rel=1e-3)
    assert (yardstick.is_anomalous(there) == yardstick.is_anomalous(here)).mean() > 0.99


def test_nothing_is_written_into_the_bundle(dies):
    before = sorted(p.name for p in dies.bundle.iterdir())
    Scorer(dies.bundle, "auto")
    assert sorted(p.name for p in dies.bundle.iterdir()) == before
    assert MODEL in before
