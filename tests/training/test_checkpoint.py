import pytest
import torch

from inspect_ai.training.checkpoint import Checkpoints, load_into

STATE = {"a/b": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}


def test_what_was_saved_comes_back(tmp_path):
    kept = Checkpoints(tmp_path / "state.safetensors")
    assert kept.load() is None
    kept.save(5, STATE)
    step, tensors = kept.load()
    assert step == 5
    assert all(torch.equal(tensors[name], value) for name, value in STATE.items())


def test_the_newest_state_replaces_the_one_before(tmp_path):
    kept = Checkpoints(tmp_path / "state.safetensors")
    kept.save(5, STATE)
    kept.save(6, {"a": torch.zeros(1)})
    step, tensors = kept.load()
    assert (step, list(tensors)) == (6, ["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_half_written_file_is_passed_over_and_written_again(tmp_path):
    kept = Checkpoints(tmp_path / "state.safetensors")
    kept.save(5, STATE)
    whole = kept.path.read_bytes()
    half = tmp_path / "state.part"
    half.write_bytes(whole[: len(whole) // 2])
    assert kept.load()[0] == 5
    kept.save(6, STATE)
    assert kept.load()[0] == 6
    assert not half.exists()


def test_a_half_written_first_state_is_no_state(tmp_path):
    (tmp_path / "state.part").write_bytes(b"half")
    assert Checkpoints(tmp_path / "state.safetensors").load() is None


def test_dropping_removes_the_file_and_may_be_done_twice(tmp_path):
    kept = Checkpoints(tmp_path / "state.safetensors")
    kept.save(5, STATE)
    kept.drop()
    kept.drop()
    assert kept.load() is None


def test_tensors_that_share_memory_are_saved(tmp_path):
    whole = torch.arange(4.0)
    kept = Checkpoints(tmp_path / "state.safetensors")
    kept.save(0, {"whole": whole, "half": whole[:2], "turned": whole.reshape(2, 2).T})
    assert kept.load()[1]["turned"].tolist() == [[0, 2], [1, 3]]


def test_a_module_takes_tensors_of_exactly_its_names():
    net = torch.nn.Linear(2, 1)
    load_into(net, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    assert net(torch.ones(1, 2)).item() == 2
    with pytest.raises(RuntimeError, match="bias"):
        load_into(net, {"weight": torch.ones(1, 2)})
