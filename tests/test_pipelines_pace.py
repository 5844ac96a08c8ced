"""What a machine does with a model, on small simulated data."""

import numpy as np
import pytest
import torch

from inspect_ai import recipe
from pipelines import pace

ROWS = ["training in fp32", "scoring in fp32", "scoring in bf16", "scoring in fp16"]


@pytest.fixture
def cpu():
    return pace.Machine("cpu", 1.0)


def cells(said):
    """Rows of the table by what they are of."""
    rows = [line.strip("|").split("|") for line in said.splitlines()[4:]]
    return {row[0].split(",")[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_run_is_timed_in_training_and_in_every_precision(dies, cpu, capsys):
    pace.main(dies.run, cpu, 16)
    found = cells(capsys.readouterr().out)
    assert list(found) == ROWS
    assert all(float(found[row][0].replace(",", "")) > 0 for row in ROWS)
    assert float(found["training in fp32"][1].replace(",", "")) > 50  # MiB; torch alone is more
    assert found["scoring in fp32"][2] == "0"
    assert 0 < float(found["scoring in fp16"][2]) < float(found["scoring in bf16"][2]) < 3


def test_a_map_model_at_its_own_dies_is_timed_too(maps, cpu, capsys, tmp_path):
    run = tmp_path / "native.toml"
    head = maps.run.read_text().split("[model]")[0]
    run.write_text(
        head + '[model]\nname = "denoiser"\nwidth = 8\n'
        '[score]\nrule = "odds"\n[budget]\nsteps = 6\nbatch_size = 4\n'
    )
    pace.main(run, cpu, 8)
    assert list(cells(capsys.readouterr().out)) == ROWS


def test_a_precision_that_the_device_lacks_is_a_row_that_says_so(dies, cpu, capsys, monkeypatch):
    monkeypatch.setitem(pace.PRECISIONS, "fp16", torch.float64)  # autocast knows none
    pace.main(dies.run, cpu, 16)
    found = cells(capsys.readouterr().out)
    assert list(found) == ROWS
    assert found["scoring in fp16"][0].startswith("not on this device: autocast on cpu knows no")


def test_scores_that_are_no_numbers_are_said_to_be_none():
    exact = np.array([1.0, 2.0, 3.0], np.float32)
    assert pace.apart(np.array([1.0, np.inf], np.float32), exact) == "not finite"
    assert pace.apart(np.array([1.0, 2.5], np.float32), exact) == "0.61"


def test_a_run_that_is_not_trained_in_steps_is_refused(dies, cpu, tmp_path):
    run = tmp_path / "pca.toml"
    run.write_text(dies.run.read_text().replace('"autoencoder"\nwidth = 4\ndepth = 2\nlatent = 4', '"pca"'))  # fmt: skip
    assert recipe.read(run).model["name"] == "pca"
    with pytest.raises(SystemExit, match=r"0 step\(s\) of training"):
        pace.main(run, cpu)


def test_few_held_out_images_fill_a_batch_by_coming_again(dies):
    made, manifest = recipe.read(dies.run), dies.manifest()
    rows = manifest.good("train")[:5]
    (batch,) = pace._repeated(made, rows, manifest, 12)
    assert batch[0].shape[0] == 12
    assert np.array_equal(batch[0][:5], batch[0][5:10])
