"""What is to be measured, and when a row is of older code."""

import pytest
from made_benches import Bench

from inspect_ai import recipe
from inspect_ai.benchmark import clock, measure, plan, speed
from inspect_ai.data import manifest as manifests
from inspect_ai.data.specs import DataSpec


def hashes(bench, profile="full"):
    found = plan.entries(bench.folder / "runs", plan.profile(profile))
    return {entry.run: entry.code_hash for entry in found}


def test_baselines_come_first():
    families = [plan.family(name) for name in ("wafer_statistics", "gmm", "fusion", "my_own")]
    assert families == ["baseline", "baseline", "fusion", "my_own"]


def test_entries_are_by_data_set_and_baselines_before_the_others(bench):
    spec = bench.spec("wm811k")
    bench.run_file("a", spec)
    bench.run_file("z", spec, model="ppca", seed=3)
    bench.run_file("m", bench.spec("deeppcb"))
    found = plan.entries(bench.folder / "runs", plan.profile("full"))
    assert [(e.data, e.run, e.seed) for e in found] == [
        ("deeppcb", "m", 0),
        ("wm811k", "z", 3),
        ("wm811k", "a", 0),
    ]
    bench.run_file("b", bench.spec("wm811k"), model="fusion")
    joined = bench.folder / "runs" / "b.toml"
    joined.write_text(f'members = ["c.toml"]\n{joined.read_text()}')
    bench.run_file("c", bench.spec("wm811k"))
    quick = plan.entries(bench.folder / "runs", plan.profile("quick"))
    assert [e.run for e in quick] == ["z", "a", "c", "b"]  # a fusion after its members


def test_the_quick_profile_leaves_the_slow_likelihoods_out(bench):
    spec = bench.spec("wm811k")
    for name in ("pixelrnn", "nade", "vqvae", "vae"):
        bench.run_file(name, spec, model=name)
    runs = bench.folder / "runs"
    assert [e.run for e in plan.entries(runs, plan.profile("quick"))] == ["vae"]
    assert len(plan.entries(runs, plan.profile("full"))) == 4


def test_models_of_a_likelihood_are_one_family():
    assert {plan.family(name) for name in ("vae", "pixelcnn", "nade", "flow")} == {"likelihood"}


def test_a_row_depends_on_its_run_file_its_members_its_spec_and_the_code(bench, monkeypatch):
    spec = bench.spec("wm811k")
    member = bench.run_file("b", spec)
    fusion = bench.run_file("c", spec, model="fusion")
    fusion.write_text(f'members = ["b.toml"]\n{fusion.read_text()}')
    bench.run_file("d", spec)
    first = hashes(bench)
    member.write_text("# a word, which changes no score\n" + member.read_text())
    assert hashes(bench) == first
    member.write_text(member.read_text().replace("steps = 5", "steps = 6"))
    second = hashes(bench)
    assert [name for name in first if first[name] != second[name]] == ["b", "c"]
    spec.write_text(spec.read_text().replace("0.4, calibrate = 0.4", "0.3, calibrate = 0.5"))
    assert not set(hashes(bench).values()) & set(second.values())
    monkeypatch.setattr(plan, "code_hash", lambda: "other")
    assert not set(hashes(bench).values()) & set(second.values())


def test_a_model_on_codes_comes_after_its_first_stage_and_depends_on_it(bench):
    spec = bench.spec("wm811k")
    stage = bench.run_file("z", spec, model="vqvae")
    latent = bench.run_file("a", spec, model="latent_diffusion")
    latent.write_text(f'first_stage = "z.toml"\n{latent.read_text()}')
    found = plan.entries(bench.folder / "runs", plan.profile("full"))
    assert [(e.run, e.stage) for e in found] == [("z", ""), ("a", "z")]
    first = hashes(bench)
    stage.write_text(stage.read_text().replace("steps = 5", "steps = 6"))
    second = hashes(bench)
    assert all(first[name] != second[name] for name in ("a", "z"))


@pytest.mark.parametrize(
    ("name", "counts"), [("models/pca.py", 1), ("review/a.py", 0), ("cli.py", 0)]
)
def test_the_code_that_counts_is_that_which_scores_depend_on(tmp_path, monkeypatch, name, counts):
    package = tmp_path / "inspect_ai"
    (package / "models").mkdir(parents=True)
    (package / "review").mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(plan.inspect_ai, "__file__", str(package / "__init__.py"))
    before = plan.code_hash()
    (package / name).write_text("x = 1\n")
    assert (plan.code_hash() != before) == bool(counts)


def test_a_broken_spec_is_a_problem_of_its_own_run_file(bench):
    spec = bench.spec("wm811k")
    bench.run_file("a", spec)
    bench.run_file("b", bench.folder / "specs" / "gone.toml")
    found = {e.run: e for e in plan.entries(bench.folder / "runs", plan.profile("full"))}
    assert found["a"].problem == ""
    assert "No file" in found["b"].problem
    assert (found["b"].data, found["b"].root(None)) == ("gone", None)


def test_a_folder_is_named_by_run_seed_profile_and_code(bench):
    bench.run_file("a", bench.spec("wm811k"))
    (entry,) = plan.entries(bench.folder / "runs", plan.profile("quick"))
    assert entry.folder(2, "quick") == f"a-s2-quick-{entry.code_hash[:12]}"


def test_more_seeds_leave_out_the_first():
    assert plan.more_seeds(0, 3) == [1, 2]
    assert plan.more_seeds(1, 3) == [0, 2]
    assert plan.more_seeds(7, 3) == [0, 1]
    assert plan.more_seeds(0, 1) == []


def test_a_batch_for_speed_is_good_images_and_two_in_a_hundred_bad_ones(tmp_path):
    bench = Bench(tmp_path)
    bench.maps("wm811k", lots=20, wafers_per_lot=25, defect_share=0.5)
    whole = manifests.make(DataSpec.from_toml(bench.spec("wm811k")))
    batch = speed.batch(whole)
    good = int((whole.table["gt_label"] == 0).sum())
    assert batch.table["gt_label"].value_counts().to_dict() == {0: good, 1: round(good / 49)}
    assert batch.table["mask_path"].isna().all()
    stacked = speed.prepared(batch, tmp_path / "stack")
    assert len(stacked.table) == len(batch.table)


def record(folder, began, ended):
    (folder / "build").mkdir(parents=True)
    text = f'{{"started_at": "{began}", "finished_at": "{ended}", "own": 7.5}}'
    (folder / "build" / "run.json").write_text(text)


@pytest.mark.parametrize(("second", "told"), [("09:59:58", 20.0), ("10:00:10", None)])
def test_the_time_of_a_step_that_was_stopped_on_the_way_is_not_known(
    tmp_path, monkeypatch, second, told
):
    day = "2026-11-01T"
    for attempt in ("09:00:00", second):
        monkeypatch.setattr(clock.steps, "now", lambda at=attempt: f"{day}{at}+00:00")
        clock.begin(tmp_path)
    record(tmp_path, f"{day}10:00:00+00:00", f"{day}10:00:20+00:00")
    assert clock.seconds(tmp_path, "build") == told
    assert clock.seconds(tmp_path, "build", "own") == (7.5 if told else None)


def test_the_long_profile_trains_ten_times_as_long_without_a_cap(bench):
    path = bench.run_file("a", bench.spec("wm811k"))
    short = recipe.read(path).seeded(0, seconds=5.0)
    made = measure.longer(short, plan.profile("long").times)
    assert made.budget.steps == 10 * short.budget.steps
    assert made.budget.seconds is None
    assert made.budget.batch_size == short.budget.batch_size
    assert hashes(bench, "long")["a"] != hashes(bench)["a"]


def test_a_stack_for_speed_keeps_what_a_conditional_model_is_told(tmp_path):
    bench = Bench(tmp_path)
    bench.maps("wm811k", lots=2)
    spec = DataSpec.from_toml(bench.spec("wm811k"))
    batch = speed.batch(manifests.make(spec))
    made = speed.prepared(batch, tmp_path / "stack", ("lot",))
    assert made.table["lot"].tolist() == batch.table["lot"].tolist()
