import pytest

from inspect_ai.training.descent import FIGURE
from inspect_ai.training.history import HISTORY, History


def told(history, steps, level=0.0):
    for step in steps:
        history.add(step, {"net": level + step, FIGURE + "win_rate": 0.5})


def test_a_run_that_was_killed_and_goes_on_tells_of_its_own_steps_alone(tmp_path):
    path = tmp_path / "history.jsonl"
    told(History(path), range(20), level=100.0)
    again = History(path)
    told(again, range(10, 15))
    assert list(again.rows) == list(range(15))
    assert again.recent(5) == pytest.approx({"loss_net": 12.0, "win_rate": 0.5})
    assert list(History(path).rows) == list(range(15))


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    path = tmp_path / "history.jsonl"
    told(History(path), range(3))
    path.write_text(path.read_text("utf-8")[:-10], "utf-8")
    assert list(History(path).rows) == [0, 1]


def test_players_that_move_in_turn_share_one_table_and_one_picture(tmp_path):
    history = History(tmp_path / "history.jsonl")
    for step in range(4):
        history.add(step, {"critic": 1.0, FIGURE + "win_rate": 0.5} if step < 2 else {"coder": 2.0})
    assert history.recent(1) == {"loss_coder": 2.0}
    history.draw(tmp_path)
    assert (tmp_path / HISTORY).is_file()
    assert (tmp_path / "history.png").stat().st_size > 1000
    assert not (tmp_path / "history.jsonl").exists()
