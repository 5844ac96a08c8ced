"""The table, from hand-made rows."""

from pathlib import Path

import pytest
from made_benches import a_class, a_row

from inspect_ai.benchmark import lines, page, table
from inspect_ai.benchmark.plan import Entry
from inspect_ai.benchmark.rows import Figure
from inspect_ai.data.specs import DataSpec

SPEC = {"root": "nowhere", "source": "a test", "licence": "none", "layout": {"kind": "files"}}
SIX = [a_class(n, 10 - i, 0.5) for i, n in enumerate("FBEDCA")]


def entry(run="a", data="wm811k", model="autoencoder", kind="wafer_map"):
    spec = DataSpec.checked(SPEC | {"name": data, "image": {"kind": kind}}, "a test")
    return Entry(run, Path(f"{run}.toml"), data, spec, model, 0, "today")


def section(rows, entries=None):
    return lines.sections(entries or [entry(run) for run in sorted({r.run for r in rows})], rows)[0]


def cells(rows, entries=None):
    """Title to cell, of each line of the table."""
    shown = section(rows, entries)
    wanted = table.columns(shown)
    return [{column.title: column.cell(line) for column in wanted} for line in shown.lines]


def difference(value, low, high, **more):
    return {"auroc_difference": Figure(value=value, low=low, high=high), "against": "ten"} | more


def test_a_line_tells_its_figures():
    costs = {"train_seconds": 35.4, "images_per_second": 2599.4, "model_bytes": 412_345}
    costs["speed_ratio"] = 0.712
    rates = {"overkill": Figure(value=0.009, low=0.0064, high=0.0124), "escape": Figure(value=0.08)}
    told = cells([a_row(**costs, **rates, fpr_at_95_tpr=Figure(value=0.031))])[0]
    told = {title: cell for title, cell in told.items() if title not in table.KNOWN["wm811k"]}
    assert told == {
        "detector": "a",
        "AUROC": ".9934 (.9924 to .9943)",
        "FPR@95TPR": ".031",
        "capture at 1 %": ".920 (.900 to .930)",
        "at 0.1 %": ".740 (too few)",
        "escape": ".080",
        "overkill": "0.90 % (0.64 to 1.24), promised 1 %",
        "against the best baseline": "–",
        "train s": "35",
        "images/s": "2,599 (0.71 x)",
        "MB": "0.41",
    }


def test_the_five_classes_of_most_images_are_shown_by_name():
    shown = list(cells([a_row(data="fab", classes=SIX)], [entry(data="fab")])[0])
    assert shown[5:10] == ["B", "C", "D", "E", "F"]


def test_of_wm811k_the_five_classes_are_always_the_same():
    shown = list(cells([a_row(classes=SIX)])[0])
    assert shown[5:10] == ["Center", "Edge-Loc", "Edge-Ring", "Loc", "Scratch"]


@pytest.mark.parametrize(("good", "said"), [(1000, ".50"), (999, "too few")])
def test_a_rate_that_fewer_than_ten_good_images_bear_is_too_few(good, said):
    row = a_row(data="fab", good_images=good, classes=SIX)
    told = cells([row], [entry(data="fab")])[0]
    assert told["F"] == said
    assert told["capture at 1 %"].endswith("(too few)") == (good < 1000)


def test_pictures_have_aupro_and_no_classes():
    told = cells(
        [a_row(kind="picture", classes=SIX, aupro=Figure(value=0.55, low=0.5, high=0.6))],
        [entry(kind="picture")],
    )[0]
    assert told["AUPRO"] == ".550 (.500 to .600)"
    assert not {"F", "escape", "at 0.1 %"} & set(told)


@pytest.mark.parametrize(
    ("auroc", "capture", "word"),
    [
        ((-0.01, -0.02, -0.001), (0.1, 0.05, 0.2), "loses"),
        ((0.01, 0.001, 0.02), (-0.1, -0.2, -0.05), "loses"),
        ((0.01, 0.001, 0.02), (-0.1, -0.2, 0.05), "beats"),
        ((0.01, -0.001, 0.02), (0.1, 0.05, 0.2), "beats"),
        ((-0.01, -0.02, 0.001), (0.1, -0.05, 0.2), "level"),
    ],
)
def test_a_detector_that_loses_to_the_baseline_is_marked_so(auroc, capture, word):
    ends = dict(zip(("value", "low", "high"), capture, strict=True))
    row = a_row(**difference(*auroc), capture_difference=Figure(**ends))
    said = cells([row, a_row(run="ten", family="baseline")])
    told = {line["detector"]: line["against the best baseline"] for line in said}
    phrase = {"loses": "loses to ten", "beats": "beats ten", "level": "level with ten"}[word]
    assert told["a"].endswith(f": {phrase}")
    assert told["a"].startswith(f"AUROC {table.signed(row.auroc_difference, 4)}, capture ")
    assert told["ten"] == "best baseline"


def test_signs_are_told():
    assert (
        table.signed(Figure(value=0.0052, low=-0.004, high=0.0065), 4)
        == "+.0052 (-.0040 to +.0065)"
    )


def test_other_baselines_are_called_so():
    rows = [
        a_row(run=n, family="baseline", capture_at_1=Figure(value=v))
        for n, v in (("x", 0.1), ("y", 0.2))
    ]
    entries = [entry("x", model="pca"), entry("y", model="gmm")]
    assert [c["against the best baseline"] for c in cells(rows, entries)] == [
        "best baseline",
        "baseline",
    ]


def test_lines_are_ordered_by_capture_and_those_without_figures_come_last():
    rows = [a_row(run=n, capture_at_1=Figure(value=v)) for n, v in (("a", 0.3), ("b", 0.9))]
    names = [c["detector"] for c in cells(rows, [entry(n) for n in "abc"])]
    assert names == ["b", "a", "c: not yet run"]


def test_seeds_of_a_run_are_one_line():
    values = {0: 0.990, 1: 0.992, 2: 0.997}
    rows = [
        a_row(seed=s, auroc=Figure(value=v, low=0.5, high=1.0), **difference(s - 0.5, s - 0.9, s))
        for s, v in values.items()
    ]
    told = cells(rows)[0]
    assert told["detector"] == "a: mean of 3 seeds (min to max)"
    assert told["AUROC"] == ".9930 (.9900 to .9970)"
    assert told["against the best baseline"].endswith("level with ten in 1 of 3 seeds")


def test_a_row_of_older_code_says_so_and_gives_way_to_a_newer_one():
    old, new = a_row(code_hash="before"), a_row(seed=1)
    assert cells([old])[0]["detector"] == "a: older code (commit abc1234)"
    assert cells([old, new])[0]["detector"] == "a"


def test_a_failed_row_says_why_and_spoils_no_table():
    said = "Diverged: a | b " + 300 * "x"
    rows = [a_row(), a_row(run="b", state="failed", error=said)]
    text = table.markdown([section(rows)], "full")
    bars = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in bars}) == 1
    assert "b: seed 0 failed: Diverged: a / b xxx" in bars[-1]
    assert len(bars[-1]) < 300


def test_the_head_names_commits_and_the_command_that_prints_it():
    rows = [a_row(), a_row(run="b", commit="fff0000")]
    text = table.markdown([section(rows)], "full")
    assert text.startswith("Profile `full`, made at commit abc1234, fff0000 on 2 CPU cores")
    assert "inspect-ai benchmark --profile full --print" in text
    assert "**wm811k**: 4,200 good and 900 defect images in 50 groups" in text


def test_without_any_row_every_run_file_is_named():
    text = table.markdown(lines.sections([entry("a"), entry("b", "mvtec")], []), "full")
    assert "a: not yet run" in text
    assert "b: not yet run" in text


def test_rows_of_run_files_that_are_gone_are_left_out():
    assert "gone" not in table.markdown([section([a_row(run="gone")], [entry("a")])], "full")


def test_the_page_marks_losses_and_escapes_what_it_is_told(tmp_path):
    rows = [
        a_row(**difference(-0.01, -0.02, -0.001), classes=SIX, images_per_second=3000.0),
        a_row(run="ten", family="baseline", classes=SIX, images_per_second=500.0),
        a_row(run="b", state="failed", error="<script>"),
    ]
    made = page.render([section(rows)], "full", ["skipped <b>: not there"], tmp_path / "out")
    text = made.read_text()
    assert '<span class="chip alarm">loses</span>' in text
    assert text.count("<svg") == 2
    assert "&lt;script&gt;" in text
    assert "skipped &lt;b&gt;" in text
    assert "2 detectors, 0 above the best simple statistic, 1 below it" in text


def test_a_detector_that_the_guard_refused_is_marked_so():
    told = [cells([a_row(guard_refused=said)])[0]["detector"] for said in (True, False, None)]
    assert told == ["a: refused by the guard", "a", "a"]


def test_of_several_seeds_those_that_the_guard_refused_are_named():
    rows = [a_row(seed=s, guard_refused=s > 0) for s in range(3)]
    assert cells(rows)[0]["detector"].endswith("; refused by the guard for seed 1, 2")
