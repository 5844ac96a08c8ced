"""A row is kept and read back as it was."""

from made_benches import a_class, a_row

from inspect_ai.benchmark import results, rows
from inspect_ai.benchmark.rows import Figure

FULL = {"classes": [a_class("Scratch", 12)], "aupro": Figure(value=0.5, low=0.4, high=0.6)}


def test_a_row_is_read_back_as_it_was_kept(tmp_path):
    for row in (
        a_row(run="wm811k on mixedwm38", **FULL, train_seconds=3.0, weights=7),
        a_row(guard_capture=0.61, guard_pca_capture=0.35, guard_refused=False),
        a_row(state="failed", error="Diverged: loss", auroc=None, capture_at_1=None, promised=None),
    ):
        assert results.read(results.write(tmp_path, row)) == row


def test_a_row_in_a_table_is_flat_and_has_its_intervals():
    flat = rows.flat(a_row(**FULL))
    assert (flat["aupro"], flat["aupro_low"], flat["aupro_high"]) == (0.5, 0.4, 0.6)
    assert flat["escape"] is None
    assert not [name for name, value in flat.items() if isinstance(value, (dict, list))]


def test_numbers_for_the_log_are_numbers():
    told = rows.numbers(a_row(**FULL))
    assert told["auroc_low"] == 0.9924
    assert told["capture_at_1.Scratch"] == 0.5
    assert "escape" not in told
    assert all(isinstance(value, float) for value in told.values())


def test_a_row_whose_figures_meant_something_else_does_not_count(tmp_path, monkeypatch):
    results.write(tmp_path, a_row())
    assert len(results.read_all(tmp_path, "full")) == 1
    monkeypatch.setattr(results, "FORMAT", 2)
    assert results.read_all(tmp_path, "full") == []


def test_another_measurement_of_the_same_run_is_another_run_in_the_log():
    assert a_row().key == a_row().key
    assert a_row().key != a_row(created_at="2026-11-01T00:00:00+00:00").key
