"""The whole benchmark on small simulated maps: rows, going on, errors that become rows."""

import pandas as pd
import pytest
from made_benches import Bench

from inspect_ai import train
from inspect_ai.benchmark import benchmark, measure, results
from inspect_ai.errors import BadSettings, MissingData, NoSpace, OutputInUse

pytestmark = pytest.mark.slow  # builds


@pytest.fixture(scope="module", autouse=True)
def today():
    """The code has one name while these tests run, whatever is edited meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark.plan, "code_hash", lambda: "today")
        yield


@pytest.fixture(scope="module")
def ran(today, tmp_path_factory):
    """Two run files that work, one that fails, one that is no TOML, one whose data are absent."""
    bench = Bench(tmp_path_factory.mktemp("bench"))
    spec = bench.spec("wm811k")
    bench.maps("wm811k")
    bench.maps("mixedwm38", lots=3, seed=9)
    bench.spec("mixedwm38", masks="")
    bench.run_file("wm811k", spec)
    bench.run_file("paint", spec, model="painter")
    bench.run_file("tiles", bench.spec("magnetic_tile"))
    bench.run_file("scribble", spec).write_text("this is no [TOML")
    bench.page = bench.start()
    bench.first = list(bench.said), list(bench.logged)
    return bench


def row(bench, name):
    found = results.read(next((bench.folder / "results").rglob(name)))
    assert found is not None
    return found


def test_a_run_becomes_a_row_with_its_figures(ran):
    told = row(ran, "wm811k-s0.parquet")
    assert (told.state, told.error, told.family) == ("done", "", "autoencoder")
    assert told.good_images > 5
    assert told.bad_images >= 10
    assert sum(c.images for c in told.classes) == told.bad_images
    assert 0 <= told.auroc.low <= told.auroc.value <= told.auroc.high <= 1
    assert 0 <= told.aupro.value <= 1
    assert told.overkill.low <= told.overkill.value <= told.overkill.high
    assert told.promised == 0.1
    assert told.images_per_second > 0
    assert told.speed_ratio == 1  # an autoencoder is what speed is told against
    assert told.train_seconds >= 0
    assert told.build_seconds >= 0
    assert told.model_bytes > 1000
    assert told.weights > 100
    assert told.cores >= 1
    assert told.created_at.startswith("20")


def test_the_row_says_what_its_scores_say(ran):
    told = row(ran, "wm811k-s0.parquet")
    parts = sorted((ran.folder / "out" / told.folder / "scan" / "scores").glob("*.parquet"))
    scores = pd.concat([pd.read_parquet(part) for part in parts])
    good = scores["gt_label"] == 0
    assert (told.good_images, told.bad_images) == (good.sum(), (~good).sum())
    assert told.groups == scores["group"].nunique()
    assert set(scores["split"]) == {"test"}
    flagged = scores["pred_label"] == 1
    assert told.overkill.value == pytest.approx(flagged[good].mean())
    assert told.escape.value == pytest.approx(1 - flagged[~good].mean())


def test_a_bundle_is_scanned_on_another_fabs_maps_too(ran):
    told = row(ran, "wm811k-on-mixedwm38-s0.parquet")
    assert (told.state, told.run, told.data) == ("done", "wm811k on mixedwm38", "mixedwm38")
    assert told.trained_on == "wm811k"
    assert told.good_images + told.bad_images == 3 * 8
    assert told.overkill is not None
    assert told.against == ""


def test_a_detector_that_fails_is_a_row_with_its_error(ran):
    told = row(ran, "paint-s0.parquet")
    assert told.state == "failed"
    assert told.error.startswith("UnknownModel: No model 'painter'")
    assert "seed 0 failed: UnknownModel: No model 'painter'" in ran.table()
    said = [line for line in ran.first[0] if line.startswith("done paint on wm811k, seed 0")]
    assert "failed, UnknownModel" in said[0]


def test_a_file_that_is_no_run_file_is_a_row_too(ran):
    told = row(ran, "scribble-s0.parquet")
    assert (told.state, told.data) == ("failed", "unknown")
    assert "scribble.toml is no run file" in told.error


def test_absent_data_are_named_and_nothing_is_measured_there(ran):
    skipped = [line for line in ran.first[0] if line.startswith("skipped")]
    root = ran.folder / "data" / "magnetic_tile"
    assert skipped == [f"skipped magnetic_tile: {root} is not there"]
    assert "tiles: not yet run" in ran.table()
    assert skipped[0] in ran.page.read_text()


def test_every_row_is_logged_once(ran):
    titles = [title for title, _ in ran.first[1]]
    runs = ("wm811k on mixedwm38", "scribble", "paint", "wm811k")
    assert sorted(titles) == sorted(f"benchmark {run}, seed 0" for run in runs)
    assert "on mixedwm38" in titles[-1]  # a bundle travels when it is made
    assert len({key for _, key in ran.first[1]}) == len(titles)


def test_started_again_nothing_is_measured(ran, monkeypatch):
    before = {p: p.read_bytes() for p in (ran.folder / "results").rglob("*.parquet")}
    monkeypatch.setattr(benchmark, "measured", lambda *_: pytest.fail("measured again"))
    ran.start()
    assert {p: p.read_bytes() for p in (ran.folder / "results").rglob("*.parquet")} == before
    assert ran.logged == []
    assert all(line.startswith(("kept", "skipped")) for line in ran.said)
    again = next(line for line in ran.said if line.startswith("kept paint"))
    assert again.endswith(f"to try again remove {next(ran.folder.rglob('paint-s0.parquet'))}")


def test_a_row_says_what_the_guard_found_and_is_measured_whatever_it_says(ran):
    for name in ("wm811k-s0.parquet", "wm811k-on-mixedwm38-s0.parquet"):
        told = row(ran, name)
        assert told.guard_refused in (True, False)
        assert 0 <= told.guard_pca_capture <= 1
        assert 0 < told.guard_capture <= 1
    assert row(ran, "paint-s0.parquet").guard_refused is None


def test_a_row_that_was_lost_goes_on_from_the_work_that_stands(ran, monkeypatch):
    file = next(ran.folder.rglob("results/**/wm811k-s0.parquet"))
    before = results.read(file)
    file.unlink()
    monkeypatch.setattr("inspect_ai.train._fit", lambda *_: pytest.fail("trained again"))
    ran.start(only=("wm811k",))
    after = results.read(file)
    assert (after.auroc, after.aupro, after.classes) == (before.auroc, before.aupro, before.classes)
    assert after.train_seconds == before.train_seconds


def test_the_table_is_written_and_needs_neither_data_nor_work(ran, tmp_path):
    kept = (ran.folder / "results" / "quick" / "table.md").read_text()
    assert ran.table() == kept
    bare = Bench(tmp_path)
    for name in ("runs", "results", "specs"):
        (tmp_path / name).symlink_to(ran.folder / name)
    assert bare.table() == kept
    table = pd.read_parquet(ran.folder / "results" / "quick" / "table.parquet")
    assert sorted(table["run"]) == ["paint", "scribble", "wm811k", "wm811k on mixedwm38"]


def test_the_page_is_one_file_that_fetches_nothing(ran):
    text = ran.page.read_text()
    assert ran.page == ran.folder / "out" / "benchmark.html"
    assert "wm811k on mixedwm38" in text
    assert "<svg" in text
    assert "Capture at 1" in text
    assert not [word for word in ("http://", "https://", "src=") if word in text]


def test_other_code_makes_a_new_row_in_a_new_folder(bench, monkeypatch):
    seen = []

    def instead(place, entry, seed):
        seen.append(entry.folder(seed, "quick"))
        return measure._begun(place, entry, seed)

    monkeypatch.setattr(benchmark, "measured", instead)
    bench.maps("wm811k", lots=1)
    bench.run_file("a", bench.spec("wm811k"))
    bench.start()
    monkeypatch.setattr(benchmark.plan, "code_hash", lambda: "other")
    assert "older code (commit " in bench.table()
    bench.start()
    assert "older code" not in bench.table()
    assert len(set(seen)) == 2
    assert bench.rows() == ["a-s0.parquet"]


def test_a_changed_run_file_is_measured_again_and_others_are_not(bench, monkeypatch):
    monkeypatch.setattr(benchmark, "measured", measure._begun)
    bench.maps("wm811k", lots=1)
    spec = bench.spec("wm811k")
    changed = bench.run_file("a", spec)
    bench.run_file("b", spec)
    bench.start()
    changed.write_text(changed.read_text().replace("steps = 5", "steps = 6"))
    bench.start()
    assert [line.split(",")[0] for line in bench.said] == ["done a on wm811k", "kept b on wm811k"]


def made(auroc):
    """In the place of measuring: a row with the AUROC of its run file."""

    def instead(place, entry, seed):
        told = {"good_images": 40, "auroc": {"value": auroc[entry.run]}}
        return measure.Row.checked(measure._begun(place, entry, seed).model_dump() | told, "a test")

    return instead


def test_the_full_profile_gives_three_seeds_to_the_best_of_each_family(bench, monkeypatch):
    monkeypatch.setattr(benchmark, "measured", made({"a": 0.8, "b": 0.9, "ten": 0.7}))
    for name in ("wm811k", "deeppcb"):
        bench.maps(name, lots=1)
    spec = bench.spec("wm811k")
    bench.run_file("a", spec)
    bench.run_file("b", spec, seed=1)
    bench.run_file("ten", spec, model="wafer_statistics")
    bench.run_file("c", bench.spec("deeppcb"))
    monkeypatch.setattr(benchmark, "measured", made({"a": 0.8, "b": 0.9, "ten": 0.7, "c": 0.6}))
    bench.start("full")
    ten = [f"ten-s{seed}.parquet" for seed in (0, 1, 2)]
    b = [f"b-s{seed}.parquet" for seed in (0, 1, 2)]
    assert bench.rows("full") == ["a-s0.parquet", *b, "c-s0.parquet", *ten]
    assert bench.said[1].startswith("done ten on wm811k")  # baselines first
    assert "mean of 3 seeds" in bench.table("full")


def test_only_measures_what_it_names(bench, monkeypatch):
    monkeypatch.setattr(benchmark, "measured", measure._begun)
    bench.maps("wm811k", lots=1)
    spec = bench.spec("wm811k")
    for name in ("a", "b"):
        bench.run_file(name, spec)
    bench.start(only=("b",))
    assert bench.rows() == ["b-s0.parquet"]
    assert "| a: not yet run |" in bench.table()
    with pytest.raises(BadSettings, match=r"--only names c, .* It has: a, b"):
        bench.start(only=("c",))


def test_data_are_found_under_another_folder(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "measured", measure._begun)
    bench.maps("wm811k", lots=1)
    bench.run_file("a", bench.spec("wm811k"))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    bench.start()
    assert bench.said == [f"skipped wm811k: {tmp_path / 'data' / 'wm811k'} is not there"]
    bench.start(data=tmp_path / "elsewhere")
    assert bench.said[0].startswith("done a on wm811k")


def test_a_full_disk_stops_the_benchmark_and_makes_no_row(bench, monkeypatch):
    def full(*_):
        raise NoSpace("The disk is full.")

    monkeypatch.setattr(measure, "_measured", full)
    bench.maps("wm811k", lots=1)
    bench.run_file("a", bench.spec("wm811k"))
    with pytest.raises(NoSpace):
        bench.start()
    assert bench.rows() == []


def test_a_profile_that_is_none_is_refused(bench):
    with pytest.raises(BadSettings, match=r"No profile 'slow'\. Pass --profile with one of: quick"):
        bench.start("slow")


def test_a_folder_without_run_files_is_refused(bench):
    with pytest.raises(MissingData, match=r"holds no run file .* with --runs"):
        bench.start()


def test_results_that_cannot_be_kept_are_refused_before_any_work(bench):
    bench.run_file("a", bench.spec("wm811k"))
    (bench.folder / "results").write_text("a file")
    with pytest.raises(OutputInUse, match=r"Rows cannot be kept .* with --results"):
        bench.start()


def test_a_file_among_the_rows_that_is_no_row_is_named(bench):
    bench.run_file("a", bench.spec("wm811k"))
    path = bench.folder / "results" / "quick" / "wm811k" / "a-s0.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(MissingData, match=r"a-s0.parquet is no row of the benchmark"):
        bench.table()


def test_a_fusion_takes_over_members_that_have_rows_of_their_own(bench, monkeypatch):
    spec = bench.spec("kept")
    bench.maps("kept", lots=30)
    for name, statistic in (("one", "moran"), ("two", "walks_4")):
        member = bench.run_file(name, spec, model="wafer_statistics")
        text = member.read_text().replace("width = 4\ndepth = 2\nlatent = 4\n", "")
        member.write_text(text.replace('"moran", "walks_4"', f'"{statistic}"'))
    text = f'data_spec = "{spec.as_posix()}"\nfalse_alarm_rate = 0.1\nmembers = ["one.toml", "two.toml"]\n'
    fusion = bench.folder / "runs" / "both.toml"
    fusion.write_text(text + '[model]\nname = "fusion"\ncurve_share = 0.5\n')
    bench.start("full", only=("one", "two"))

    def refused(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "_fit", refused)
    bench.start("full")
    told = row(bench, "both-s0.parquet")
    assert (told.state, told.error) == ("done", "")
