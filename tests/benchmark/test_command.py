"""The command as a user types it."""

from made_benches import a_row

from inspect_ai.benchmark import benchmark, measure, results


def arguments(bench):
    names = ("runs", "results", "out")
    return [part for name in names for part in (f"--{name}", bench.folder / name)]


def test_the_table_is_printed_from_rows_alone(say, bench):
    bench.run_file("a", bench.spec("wm811k"))
    results.write(bench.folder / "results", a_row())
    code, out, err = say("benchmark", "--print", "--profile", "full", *arguments(bench))
    assert (code, err) == (0, "")
    assert "| a: older code (commit abc1234) | .9934 (.9924 to .9943) |" in out
    assert not (bench.folder / "out").exists()


def test_a_run_says_what_it_did_and_where_the_page_is(say, bench, monkeypatch):
    monkeypatch.setattr(benchmark, "measured", measure._begun)
    bench.maps("wm811k", lots=1)
    bench.run_file("a", bench.spec("wm811k"))
    bench.run_file("b", bench.spec("magnetic_tile"))
    code, out, _ = say("benchmark", "--no-track", *arguments(bench))
    assert code == 0
    assert "done a on wm811k, seed 0" in out
    assert "skipped magnetic_tile" in out
    assert "| b: not yet run |" in out
    assert out.splitlines()[-1] == f"page: {bench.folder / 'out' / 'benchmark.html'}"


def test_a_row_lands_in_mlflow(say, bench, monkeypatch, mlflow_client):
    monkeypatch.setattr(benchmark, "measured", lambda *_: a_row(profile="quick", code_hash="x"))
    bench.maps("wm811k", lots=1)
    bench.run_file("a", bench.spec("wm811k"))
    code, out, err = say("benchmark", *arguments(bench))
    assert (code, err) == (0, "")
    run = out.partition("MLflow, run ")[2].split()[0].rstrip(",")
    data = mlflow_client.get_run(run).data
    assert data.params["run"] == "a"
    assert data.metrics["auroc"] == 0.9934
    assert [f.path for f in mlflow_client.list_artifacts(run)] == ["a-s0.parquet"]


def test_mistakes_end_with_2_and_say_what_to_do(say, bench):
    code, _, err = say("benchmark", "--profile", "slow", *arguments(bench))
    assert code == 2
    assert "No profile 'slow'" in err
    code, _, err = say("benchmark", *arguments(bench))
    assert code == 2
    assert "holds no run file" in err
