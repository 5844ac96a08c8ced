import pytest

from inspect_ai import progress


@pytest.fixture
def always(monkeypatch):
    """A log that takes a line at every report."""
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)


def test_a_log_stays_short_and_gets_a_line_at_the_end(capsys):
    with progress.bar("scan") as report:
        for done in range(1, 1001):
            report(done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("scan: 1,000 of 1,000, ")


def test_a_line_says_what_is_done_how_fast_and_how_long_it_still_takes(capsys, always):
    with progress.bar("scan") as report:
        report(64, 256)
        report(128, 256)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("scan: 128 of 256, ")
    assert last.endswith("/s, 0 s left")


def test_one_report_is_not_enough_for_a_rate(capsys, always):
    with progress.bar("scan") as report:
        report(52, 52)
    assert capsys.readouterr().err == "scan: 52 of 52\n"


def test_a_resumed_run_takes_no_credit_for_what_was_done_before(capsys, always, monkeypatch):
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.bar("scan") as report:
        report(900, 1000)
        report(950, 1000)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "scan: 950 of 1,000, 5.0/s, 10 s left"


def test_results_on_stdout_are_not_mixed_with_progress(capsys, always):
    with progress.bar("scan") as report:
        report(1, 1)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.bar("scan") as report:
        report(3, 4)
    shown = capsys.readouterr().err
    assert "scan" in shown
    assert "3/4" in shown
