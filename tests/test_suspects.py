import pandas as pd
import pytest
import torch

from inspect_ai import suspects
from inspect_ai.errors import OutputInUse
from inspect_ai.review import verdicts


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_the_oddest_training_images_are_listed_for_a_reviewer(dies, tmp_path):
    out = tmp_path / "suspects.csv"
    words = suspects.listed(dies.built / "checkpoint", out, 7, None, None)
    table = pd.read_csv(out)
    train = dies.manifest().good("train")
    assert len(table) == 7
    assert set(table["image_id"]) <= set(train["image_id"])
    assert table["pred_score"].is_monotonic_decreasing
    assert words[0].startswith("images the model was fitted on: ")
    assert words[1].startswith("held-out images: ")
    assert verdicts.read(out).empty  # a table of verdicts that is not filled in


def test_verdicts_on_them_are_counted(dies, tmp_path):
    out = tmp_path / "suspects.csv"
    suspects.listed(dies.built / "checkpoint", out, 4, None, None)
    table = pd.read_csv(out)
    filled = table.assign(
        verdict=["defect", "good", "good", "unsure"], reviewer="Ann", decided_at="2026-11-22"
    )
    filled.to_csv(tmp_path / "filled.csv", index=False)
    again = tmp_path / "again.csv"
    words = suspects.listed(dies.built / "checkpoint", again, 4, tmp_path / "filled.csv", None)
    assert words[-1].startswith("1 of 3 reviewed images are no good ones")


def test_a_list_that_is_there_is_not_written_over(dies, tmp_path):
    out = tmp_path / "suspects.csv"
    out.write_text("begun")
    with pytest.raises(OutputInUse, match="may be half filled in"):
        suspects.listed(dies.built / "checkpoint", out, 7, None, None)
    assert out.read_text() == "begun"
