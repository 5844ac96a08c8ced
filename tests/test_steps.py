import json

import pytest

from inspect_ai import steps
from inspect_ai.errors import MissingData, NoSpace, OutputInUse


def test_a_new_folder_is_taken_and_says_it_is_unfinished(tmp_path):
    step = steps.Step("scan", tmp_path / "a" / "b", {"x": 1})
    kept = json.loads((tmp_path / "a" / "b" / "run.json").read_text("utf-8"))
    assert not step.finished
    assert (kept["command"], kept["state"]) == ("scan", "unfinished")


def test_an_empty_folder_is_taken(tmp_path):
    assert not steps.Step("scan", tmp_path, {}).finished


def test_the_same_inputs_find_their_unfinished_work(tmp_path):
    first = steps.Step("scan", tmp_path, {"x": 1})
    again = steps.Step("scan", tmp_path, {"x": 1})
    assert not again.finished
    assert again.record == first.record


def test_the_same_inputs_find_their_finished_work_and_what_it_said(tmp_path):
    steps.Step("scan", tmp_path, {"x": 1}).finish(images=7)
    again = steps.Step("scan", tmp_path, {"x": 1})
    assert again.finished
    assert again.record["images"] == 7


@pytest.mark.parametrize(("command", "inputs"), [("scan", {"x": 2}), ("train", {"x": 1})])
def test_other_inputs_or_another_command_are_refused(tmp_path, command, inputs):
    steps.Step("scan", tmp_path, {"x": 1})
    with pytest.raises(OutputInUse, match=r"belongs to an 'inspect-ai scan'.*Pass a new folder"):
        steps.Step(command, tmp_path, inputs)


@pytest.mark.parametrize("name", ["holiday.jpg", ".hidden", "run.json"])
def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("{}", "utf-8")
    with pytest.raises(OutputInUse, match=r"did not write.*Pass a new folder with --out"):
        steps.Step("scan", tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text("utf-8") == "{}"


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine", "utf-8")
    with pytest.raises(OutputInUse, match="Pass a new folder"):
        steps.Step("scan", tmp_path / "out", {})


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(OutputInUse, match=r"Cannot write to .*Pass another --out"):
        steps.Step("scan", tmp_path / "file" / "out", {})


def test_a_folder_killed_while_its_record_was_written_is_taken_again(tmp_path):
    (tmp_path / "run.part").write_text('{"command": "sc', "utf-8")
    assert not steps.Step("scan", tmp_path, {}).finished


def test_a_kill_while_the_record_is_finished_leaves_the_unfinished_one(tmp_path):
    steps.Step("scan", tmp_path, {"x": 1})
    (tmp_path / "run.part").write_text('{"state": "fini', "utf-8")
    assert not steps.Step("scan", tmp_path, {"x": 1}).finished


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_of_no_number_is_refused_and_the_old_file_stays(tmp_path, number):
    path = tmp_path / "figures.json"
    steps.write_json(path, {"auroc": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        steps.write_json(path, {"auroc": number})
    assert json.loads(path.read_text("utf-8")) == {"auroc": 0.5}


def test_an_earlier_steps_record_is_read_once_it_is_finished(tmp_path):
    step = steps.Step("train", tmp_path, {})
    with pytest.raises(MissingData, match=r"unfinished. Run the same 'inspect-ai train' again"):
        steps.read_record(tmp_path, "train")
    step.finish(images=3)
    assert steps.read_record(tmp_path, "train")["images"] == 3


def test_the_record_of_another_command_or_of_none_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(MissingData, match="not a folder that 'inspect-ai train' wrote"):
            steps.read_record(folder, "train")


def test_a_full_disk_is_one_clear_message(tmp_path):
    message = r"full.*free some space and run the same command again"
    with pytest.raises(NoSpace, match=message), steps.disk(tmp_path):
        raise OSError(28, "No space left on device")


def test_other_trouble_with_a_disk_is_not_called_full(tmp_path):
    with pytest.raises(OSError, match="Input/output error"), steps.disk(tmp_path):
        raise OSError(5, "Input/output error")


def test_a_folder_that_cannot_be_made_is_the_users_to_change(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputInUse, match="Pass another --out"):
        steps.Step("scan", tmp_path / "file" / "out", {})
