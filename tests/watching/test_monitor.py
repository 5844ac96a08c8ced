import json
import shutil

import made_scans as made
import numpy as np
import pandas as pd
import pytest

from inspect_ai import steps
from inspect_ai.errors import BadSettings, MissingData, OutputInUse
from inspect_ai.watching import flags, memory, output
from inspect_ai.watching.intake import arrivals
from inspect_ai.watching.judgement import judged
from inspect_ai.watching.memory import Watch
from inspect_ai.watching.monitor import take_in

GOOD = made.images(300, 0)


def watch(state, *folders, **asked):
    return take_in([arrivals(folder) for folder in folders], state, Watch(**asked))


def said(tmp_path, table, calibration=GOOD, **run):
    """What is judged of one scan after 300 images without a change."""
    old = made.images(300, 1)
    both = pd.concat([old, table], ignore_index=True)[table.columns]
    scan = made.write(tmp_path / "scan", both, calibration, **run)
    (place,) = watch(tmp_path / "state", scan)
    return judged(place)


def kept(state):
    return {path.name: path.read_bytes() for path in state.glob("*.npz")}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "Nothing has changed."),
        ({"defects": 0.05}, "Nothing has changed."),
        (
            {"shift": 1.5},
            "Scores of ordinary images rose and the input did not change: a new kind of good, or "
            "defects too faint to be flagged.",
        ),
        (
            {"shift": -1.5},
            "Scores of ordinary images fell and the input did not change: good looks more like "
            "what the model knows.",
        ),
        (
            {"shift": 1.5, "brightness": 2},
            "The input changed (brightness up), and the scores with it: look at the camera or the "
            "process before the scores.",
        ),
        ({"sharpness": -2}, "The input changed (sharpness down); the scores show no change."),
        (
            {"defects": 0.6},
            "More images are flagged than before, and ordinary ones look the same: more defects, "
            "or a new kind of good that is rare.",
        ),
    ],
)
def test_the_camera_is_told_from_defects_and_from_a_new_kind_of_good(tmp_path, change, sentence):
    found = said(tmp_path, made.images(300, 2, **change))
    assert found.sentence == sentence
    assert found.alarm == (sentence != "Nothing has changed.")
    assert found.recalibrate == ("shift" in change)


def test_of_wafer_maps_the_process_is_to_be_looked_at(tmp_path):
    names = {"input_brightness": "input_yield", "input_sharpness": "input_dies"}
    fresh = made.images(300, 2, shift=1.5, brightness=-3).rename(columns=names)
    old = made.images(300, 1).rename(columns=names)
    table = pd.concat([old, fresh], ignore_index=True)
    scan = made.write(tmp_path / "scan", table, GOOD.rename(columns=names), kind="wafer_map")
    (place,) = watch(tmp_path / "state", scan)
    assert judged(place).sentence == (
        "The input changed (yield down), and the scores with it: look at the process before the "
        "scores."
    )


@pytest.mark.parametrize(
    ("brightness", "sentence"),
    [
        (3, "look at the camera first, then whether this bundle is for these images."),
        (0, "and the input did not change: ask whether this bundle is for these images."),
    ],
)
def test_where_nearly_all_are_flagged_no_recalibration_is_proposed(tmp_path, brightness, sentence):
    table = made.images(200, 2, shift=9, brightness=brightness)
    scan = made.write(tmp_path / "scan", table, GOOD)
    found = judged(*watch(tmp_path / "state", scan))
    assert found.sentence.startswith("200 of 200 images score above 95 % of good ones")
    assert found.sentence.endswith(sentence)
    assert found.alarm
    assert not found.recalibrate


def test_steady_defects_and_a_score_that_is_not_a_number_are_no_drift(tmp_path):
    table = made.images(1500, 2, defects=0.05)
    table.loc[::60, "pred_score"] = np.nan
    scan = made.write(tmp_path / "scan", table, GOOD)
    (place,) = watch(tmp_path / "state", scan)
    assert not judged(place).alarm
    assert place.counts.flagged > 75


def test_a_second_run_on_the_same_scan_changes_nothing(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(50, 2), GOOD)
    first = watch(tmp_path / "state", scan)
    before = kept(tmp_path / "state")
    again = watch(tmp_path / "state", scan, scan)
    assert kept(tmp_path / "state") == before
    assert again[0].counts == first[0].counts
    shutil.copytree(scan, tmp_path / "copy")
    watch(tmp_path / "state", tmp_path / "copy")
    assert kept(tmp_path / "state") == before


def test_two_scans_one_after_the_other_are_as_good_as_both_at_once(tmp_path):
    table = made.images(
        80, 2, taken_at=pd.date_range("2026-01-01", periods=80, freq="h").astype(str)
    )
    early = made.write(tmp_path / "early", table[:30], GOOD)
    late = made.write(tmp_path / "late", table[30:], GOOD, started_at="2026-01-09")
    watch(tmp_path / "one", early)
    (one,) = watch(tmp_path / "one", late)
    (both,) = watch(tmp_path / "both", late, early)
    for measure, stream in one.streams.items():
        assert stream.log_m == both.streams[measure].log_m
        assert (stream.bag == both.streams[measure].bag).all()
    assert (one.keys == both.keys).all()


def test_images_are_taken_in_the_order_of_their_time(tmp_path):
    table = made.images(
        40, 2, taken_at=pd.date_range("2026-01-01", periods=40, freq="h").astype(str)
    )
    tidy = made.write(tmp_path / "tidy", table, GOOD)
    mixed = made.write(tmp_path / "mixed", table.sample(frac=1, random_state=0), GOOD)
    (one,), (other,) = watch(tmp_path / "a", tidy), watch(tmp_path / "b", mixed)
    assert (one.keys == other.keys).all()
    assert one.streams["pred_score"].log_m == other.streams["pred_score"].log_m


def test_an_image_that_comes_again_in_another_scan_counts_once(tmp_path):
    table = made.images(60, 2)
    first = made.write(tmp_path / "first", table[:40], GOOD)
    grown = made.write(tmp_path / "grown", table, GOOD)
    watch(tmp_path / "state", first)
    (place,) = watch(tmp_path / "state", grown)
    assert place.counts.images == 60
    assert place.counts.repeated == 40


def test_alike_maps_of_different_wafers_all_count(tmp_path):
    names = {"input_brightness": "input_yield", "input_sharpness": "input_dies"}
    table = made.images(30, 2).rename(columns=names).assign(image_id="all dies pass")
    good = GOOD.rename(columns=names).assign(image_id="all dies pass")
    scan = made.write(tmp_path / "scan", table, good, kind="wafer_map")
    assert watch(tmp_path / "state", scan)[0].counts.images == 30


def test_images_that_made_the_bundle_are_left_out(tmp_path):
    fresh = made.images(30, 2).assign(split="test")
    trained = made.images(20, 3).assign(split="train")
    table = pd.concat([GOOD.assign(split=None), trained, fresh], ignore_index=True)
    scan = made.write(tmp_path / "scan", table, GOOD)
    assert arrivals(scan).left_out == 320
    assert watch(tmp_path / "state", scan)[0].counts.images == 30


def test_each_tool_and_product_of_each_bundle_is_a_place_of_its_own(tmp_path):
    tools = [made.images(20, seed, tool=f"t{seed}") for seed in (2, 3)]
    one = made.write(tmp_path / "one", pd.concat(tools), GOOD)
    other = made.write(tmp_path / "other", tools[0], GOOD, bundle_hash="cd" * 32)
    places = watch(tmp_path / "state", one, other)
    assert [p.identity.by["tool"] for p in places] == ["t2", "t3", "t2"]
    assert len(kept(tmp_path / "state")) == 3


def test_a_place_that_calibration_never_saw_is_compared_with_its_own_past(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(400, 2, shift=5, tool="new"), GOOD)
    (place,) = watch(tmp_path / "state", scan)
    assert place.streams["pred_score"].began == 0
    assert not judged(place).alarm
    assert judged(place).sentence.startswith("390 of 400 images are flagged and the input did not")
    assert "compared with its own past" in judged(place).notes[0]


def test_columns_to_keep_apart_can_be_named_and_must_be_there(tmp_path):
    table = pd.concat([made.images(20, seed, line=f"l{seed}") for seed in (2, 3)])
    scan = made.write(tmp_path / "scan", table, GOOD)
    assert len(watch(tmp_path / "state", scan, by=("line",))) == 3  # and all together
    with pytest.raises(MissingData, match="has no column chamber"):
        watch(tmp_path / "other", scan, by=("line", "chamber"))


def test_where_lots_count_one_image_of_a_lot_enters_and_no_lot_twice(tmp_path):
    lots = made.images(60, 2).assign(group=[f"lot{i // 6}" for i in range(60)])
    good = GOOD.assign(group=[f"old{i // 6}" for i in range(300)])
    scan = made.write(tmp_path / "scan", lots, good, unit="lot")
    more = made.images(12, 3).assign(group=["lot9"] * 6 + ["lot10"] * 3 + ["old1"] * 3)
    later = made.write(tmp_path / "later", more, good, unit="lot")
    (place,) = watch(tmp_path / "state", scan)
    assert (place.identity.began, place.counts.images) == (50, 10)
    (place,) = watch(tmp_path / "state", later)
    assert place.counts.images == 11


def test_scans_from_before_inputs_were_measured_are_watched_by_their_scores(tmp_path):
    new = made.images(400, 2, shift=1.5).drop(columns=["input_brightness", "input_sharpness"])
    found = said(tmp_path, new)
    assert found.sentence.startswith(
        "Scores of ordinary images rose and the input was not measured"
    )
    assert "the input is not watched" in found.notes[0]


def test_a_source_may_call_its_columns_as_it_likes(tmp_path):
    own = made.images(40, 2).assign(key="k", time="noon", lot="lot", flagged="no")
    scan = made.write(tmp_path / "scan", own, GOOD)
    plain = made.write(tmp_path / "plain", made.images(40, 2), GOOD)
    (one,), (other,) = watch(tmp_path / "a", scan), watch(tmp_path / "b", plain)
    assert [s.log_m for s in one.streams.values()] == [s.log_m for s in other.streams.values()]


def test_a_promise_for_life_is_made_once(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(20, 2), GOOD)
    watch(tmp_path / "state", scan, delta=0.01)
    watch(tmp_path / "state", scan)
    with pytest.raises(BadSettings, match=r"watches with delta = 0\.01, asked was 0\.05"):
        watch(tmp_path / "state", scan, delta=0.05)


def test_the_promise_is_shared_among_the_streams_of_a_place(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(20, 2), GOOD)
    (place,) = watch(tmp_path / "state", scan, delta=0.04, run_length=100)
    assert sum(stream.delta for stream in place.streams.values()) == pytest.approx(0.04)
    assert sum(1 / s.run_length for s in place.streams.values()) == pytest.approx(1 / 100)


def test_an_unfinished_scan_is_refused_and_the_state_is_not_begun(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(20, 2), GOOD, state="unfinished")
    with pytest.raises(MissingData, match="is unfinished"):
        watch(tmp_path / "state", scan)
    assert not (tmp_path / "state").exists()


def test_a_folder_of_something_else_is_no_state(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(20, 2), GOOD)
    with pytest.raises(OutputInUse, match="Pass a new folder with --state"):
        watch(scan, scan)


@pytest.mark.parametrize("damage", ["cut", "not a file of arrays", "pickle", "bag"])
def test_a_damaged_state_is_refused_with_what_to_do(tmp_path, damage):
    scan = made.write(tmp_path / "scan", made.images(20, 2), GOOD)
    (place,) = watch(tmp_path / "state", scan)
    path = tmp_path / "state" / place.identity.file
    with np.load(path) as file:
        arrays = dict(file)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "pickle":
        np.savez(path, **(arrays | {"keys": np.array([{}], object)}))
    elif damage == "bag":
        np.savez(path, **(arrays | {"pred_score.bag": np.zeros(3)}))
    else:
        path.write_bytes(b"text")
    with pytest.raises(MissingData, match="Restore it from a copy, or begin anew"):
        memory.load_all(tmp_path / "state")


def test_after_a_kill_each_place_takes_in_just_what_it_lacks(tmp_path, monkeypatch):
    tools = pd.concat([made.images(20, seed, tool=f"t{seed}") for seed in (2, 3)])
    scan = made.write(tmp_path / "scan", tools, GOOD)
    moves = []

    def killed_before_the_second_move(path):
        moves.append(path)
        if len(moves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(steps, "fsync", killed_before_the_second_move)
        watch(tmp_path / "killed", scan)
    assert len(kept(tmp_path / "killed")) == 1
    watch(tmp_path / "killed", scan)
    watch(tmp_path / "whole", scan)
    both = (memory.load_all(tmp_path / state) for state in ("killed", "whole"))
    for one, other in zip(*both, strict=True):
        assert one.counts == other.counts
        assert one.streams["pred_score"].log_m == other.streams["pred_score"].log_m


def test_what_is_kept_is_read_back_as_it_was(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(500, 2, shift=2), GOOD)
    (place,) = watch(tmp_path / "state", scan)
    (back,) = memory.load_all(tmp_path / "state")
    assert place.streams["pred_score"].alarm is not None
    for measure, stream in place.streams.items():
        read = back.streams[measure]
        assert (read.alarm, read.quick, read.peak) == (stream.alarm, stream.quick, stream.peak)
        assert (read.level == stream.level).all()
    assert (back.counts, back.cut) == (place.counts, place.cut)


def test_the_numbers_are_strict_json_and_the_plot_is_drawn(tmp_path):
    table = pd.concat([made.images(30, seed, tool=f"t{seed}") for seed in (2, 3)])
    scan = made.write(tmp_path / "scan", table, GOOD)
    state = tmp_path / "state"
    told = output.write(state, watch(state, scan), {"ab" * 32}).told
    numbers = json.loads((state / "monitor.json").read_text(), parse_constant=pytest.fail)
    assert len(told) == len(numbers["places"]) == 2
    assert numbers["places"][0]["streams"]["pred_score"]["delta"] == 0.05 / 4
    assert (state / "drift.png").read_bytes().startswith(b"\x89PNG")
    assert not list(state.glob("*.part"))


def test_what_calibration_does_not_tell_apart_is_watched_whole_as_well(tmp_path):
    table = pd.concat([made.images(200, s, shift=2, tool=f"t{s}") for s in (2, 3)])
    scan = made.write(tmp_path / "scan", table, GOOD.drop(columns=["tool", "product"]))
    found = {len(p.identity.by): judged(p) for p in watch(tmp_path / "state", scan)}
    assert found[0].alarm
    assert not found[2].alarm


def test_the_command_says_what_changed_and_proposes_a_recalibration(say, tmp_path):
    scan = made.write(tmp_path / "a scan", made.images(400, 2, shift=1), GOOD, bundle="my bundle")
    code, out, _ = say("monitor", scan, "--state", tmp_path / "state")
    assert code == 0
    assert out.startswith("tool=t1, product=p1: 400 images, ")
    assert "Scores of ordinary images rose and the input did not change" in out
    assert "  pred_score CHANGED up, since about number " in out
    command = f"inspect-ai recalibrate 'my bundle' '{scan}' --verdicts FILE --out NEW"
    assert command in out
    assert say("monitor", scan, "--state", tmp_path / "state", "--fail-on-alarm")[:2] == (4, out)


def test_the_command_is_quiet_where_nothing_changed(say, tmp_path):
    scan = made.write(tmp_path / "scan", made.images(200, 2), GOOD)
    code, out, err = say("monitor", scan, "--state", tmp_path / "state", "--fail-on-alarm")
    assert (code, err) == (0, "")
    assert "200 images, " in out
    assert "Nothing has changed." in out
    assert "recalibrate" not in out


def test_the_command_says_that_a_scan_of_the_calibration_tells_nothing(say, tmp_path):
    scan = made.write(tmp_path / "scan", GOOD, GOOD)
    code, out, err = say("monitor", scan, "--state", tmp_path / "state")
    assert (code, out) == (0, "nothing to watch: no new image in these scans\n")
    assert err == "note: 300 image(s) of these scans are the bundle's own and were left out\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--delta", 1.5], "'delta': Input should be less than 1"),
        (["--run-length", 1], "'run_length': Input should be greater than 1"),
        (["--by", "chamber"], "has no column chamber"),
    ],
)
def test_the_command_refuses_what_cannot_be_watched(say, tmp_path, arguments, message):
    scan = made.write(tmp_path / "scan", made.images(20, 2), GOOD)
    code, _, err = say("monitor", scan, "--state", tmp_path / "state", *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "state").exists()


LOTS = 60


def lots_alike(lots, seed, first=0, shift=0.0):
    """Ten images a lot, alike: what is odd is the lot."""
    table = made.images(10 * lots, seed)
    own = np.repeat(np.random.default_rng(seed).normal(shift, 1, (3, lots)), 10, axis=1)
    return table.assign(
        group=[f"lot{first + i // 10}" for i in range(10 * lots)],
        pred_score=(own[0] + 0.3 * table["pred_score"]).astype(np.float32),
        input_brightness=0.5 + 0.01 * own[1] + 0.1 * (table["input_brightness"] - 0.5),
        input_sharpness=0.2 + 0.01 * own[2] + 0.1 * (table["input_sharpness"] - 0.2),
    )


def test_images_of_lots_that_are_alike_do_not_alarm_where_the_promise_counts_images(tmp_path):
    alarms = 0
    for seed in range(6):
        good = lots_alike(LOTS // 3, 2 * seed)
        fresh = lots_alike(LOTS, 2 * seed + 1, first=LOTS)
        scan = made.write(tmp_path / f"{seed}", fresh, good)
        (place,) = watch(tmp_path / f"state{seed}", scan)
        assert (place.identity.began, place.counts.images) == (LOTS // 3, LOTS)
        assert place.counts.seen == 10 * LOTS
        alarms += judged(place).alarm
    assert alarms <= 1  # more than 1 of 6 at 5 %: a chance of 3 %; each image for itself, all do


def test_images_without_a_lot_are_each_their_own_also_where_names_come_again(tmp_path):
    tables = [made.images(30, seed) for seed in (2, 3)]
    tables = [
        t.assign(image_path=GOOD["image_path"][:30], group=GOOD["image_path"][:30]) for t in tables
    ]
    good = GOOD.assign(group=GOOD["image_path"])
    one, other = (made.write(tmp_path / f"{i}", t, good) for i, t in enumerate(tables))
    watch(tmp_path / "state", one)
    assert watch(tmp_path / "state", other)[0].counts.images == 60
    assert watch(tmp_path / "both", one, other)[0].counts.images == 60


def recalibrated(folder, **tables):
    """A bundle folder as far as the monitor reads it; its hash."""
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    for name, ids in tables.items():
        pd.DataFrame({"image_id": ids}).to_parquet(folder / f"{name}.parquet")
    return steps.sha256(folder / "bundle.json")


def test_of_a_scan_that_the_bundle_was_calibrated_again_from_nothing_is_fed(tmp_path):
    table = made.images(60, 2, defects=0.9)  # reviewers called most of them defects
    good = table[table["pred_score"] < 3]
    name = recalibrated(tmp_path / "b", audit=good["image_id"], verdicts=table["image_id"])
    kept = pd.concat([GOOD, good])
    rest = {"bundle": str(tmp_path / "b"), "bundle_hash": name}
    assert arrivals(made.write(tmp_path / "scan", table, kept, **rest)).left_out == 60
    changed = rest | {"bundle_hash": "cd" * 32}  # the folder holds another bundle by now
    scan = arrivals(made.write(tmp_path / "other", table, kept, **changed))
    assert scan.left_out == len(good)


def test_what_is_left_of_a_scan_or_a_lot_that_joined_the_calibration_is_left_out(tmp_path):
    table = made.images(60, 2)
    mostly = made.write(tmp_path / "mostly", table, pd.concat([GOOD, table[:40]]))
    assert arrivals(mostly).left_out == 60
    lots = table.assign(group=[f"lot{i // 6}" for i in range(60)])
    some = made.write(tmp_path / "some", lots, pd.concat([GOOD, lots[:3]]))
    assert arrivals(some).left_out == 6


def test_a_state_that_took_images_of_a_lot_for_independent_is_refused(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(20, 2), GOOD)
    watch(tmp_path / "state", scan)
    path = tmp_path / "state" / "settings.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(BadSettings, match="Begin anew with another --state"):
        watch(tmp_path / "state", scan)


def scans_of(tmp_path, *tables):
    return [
        made.write(tmp_path / f"day{i}", table, GOOD, started_at=f"2026-01-0{i + 1}")
        for i, table in enumerate(tables)
    ]


def test_the_scans_since_the_change_are_proposed_and_none_that_is_flagged_whole(say, tmp_path):
    days = (made.images(150, 2), made.images(200, 3, shift=1.2), made.images(100, 4, shift=9))
    calm, moved, flood = scans_of(tmp_path, *days)
    state = tmp_path / "state"
    assert "recalibrate" not in say("monitor", calm, "--state", state)[1]
    command = f"inspect-ai recalibrate bundle {moved} --verdicts FILE --out NEW --alone\n"
    assert command in say("monitor", moved, "--state", state)[1]
    assert command in say("monitor", flood, "--state", state)[1]
    _, out, _ = say("monitor", flood, "--state", tmp_path / "alone")
    assert "recalibrate" not in out


def test_a_hint_alone_does_not_leave_the_good_images_of_before_out(tmp_path):
    scan = made.write(tmp_path / "scan", made.images(100, 2, shift=1.2), GOOD)
    (place,) = watch(tmp_path / "state", scan, delta=1e-12, run_length=50)
    (found,) = output.proposals([(place, judged(place))])
    assert judged(place).changes["pred_score"].certain is False
    assert found.endswith("--out NEW")


def test_a_scan_that_is_bad_from_the_start_is_compared_with_the_promise(say, tmp_path):
    scan = made.write(tmp_path / "scan", made.images(200, 2, defects=0.4), GOOD)
    code, out, _ = say("monitor", scan, "--state", tmp_path / "state", "--fail-on-alarm")
    assert code == 4
    flagged = int((pd.read_parquet(scan / "scores")["pred_label"]).sum())
    assert out.splitlines()[0].endswith(
        "flagged (promised of good ones: 5\u202f%). Nothing has changed."
    )
    assert f"  {flagged} of 200 images are flagged in these scans" in out
    assert "MORE than good ones explain: defects, or the promise is broken" in out


def test_all_places_together_show_what_each_is_too_small_for(tmp_path):
    tools = [made.images(12, seed, tool=f"t{seed}", defects=0.25) for seed in range(2, 12)]
    scan = arrivals(made.write(tmp_path / "scan", pd.concat(tools), GOOD))
    *each, whole = flags.compared([scan], tmp_path / "state", Watch())
    assert len(each) == 10
    assert (whole.images, whole.flagged) == (120, sum(one.flagged for one in each))
    assert whole.more
    assert sum(one.more for one in each) < 10


def test_one_bad_lot_of_a_few_is_no_proof_and_its_images_all_count_in_the_share(tmp_path):
    bad = made.images(100, 2, shift=9).assign(group="bad")
    calm = made.images(100, 3).assign(group=[f"lot{i // 25}" for i in range(100)])
    scan = arrivals(made.write(tmp_path / "scan", pd.concat([bad, calm]), GOOD))
    (found,) = flags.compared([scan], tmp_path / "state", Watch())
    assert (found.images, found.lots, found.flagged) == (200, 5, 100)
    assert not found.more


def test_good_images_are_seldom_more_than_good_ones_explain(tmp_path):
    rang = 0
    for seed in range(20):  # three sigma are promised 5 %; move both so that 5 % is what they are
        good, fresh = (made.images(n, 100 + 2 * seed + i) for i, n in enumerate((99, 200)))
        limit = np.sort(good["pred_score"])[-5]
        tables = [t.assign(pred_score=t["pred_score"] + 3 - limit) for t in (good, fresh)]
        scan = arrivals(made.write(tmp_path / f"{seed}", tables[1], tables[0]))
        rang += flags.compared([scan], tmp_path / "state", Watch())[0].more
    assert rang <= 4  # P(more than 4 of 20 at 5 %) < 0.3 %


def test_an_alarm_of_before_is_told_from_what_is_new(say, tmp_path):
    days = (made.images(300, 2, shift=1.2), made.images(100, 3), made.images(200, 4, defects=0.6))
    state, scans = tmp_path / "state", scans_of(tmp_path, *days)
    told = [say("monitor", scan, "--state", state)[1] for scan in scans]
    assert "Still open" not in told[0]
    assert "flagged (promised of good ones: 5\u202f%). " in told[1]
    assert "Still open since about number " in told[1]
    assert "  pred_score still open, changed up" in told[1]
    assert "ore images are flagged than before: more defects, or a new kind" in told[2]
    assert "  flagged CHANGED " in told[2]
    assert "Still open" in told[2]


def test_alarms_are_closed_by_name_and_the_streams_begin_anew(say, tmp_path):
    days = (made.images(300, 2, shift=1.2), made.images(100, 3), made.images(300, 4, shift=1.2))
    first, calm, again = scans_of(tmp_path, *days)
    command = ["--state", tmp_path / "state", "--fail-on-alarm"]
    assert say("monitor", first, *command)[0] == 4
    assert say("monitor", calm, *command)[0] == 4
    code, out, _ = say("monitor", calm, *command, "--acknowledge", "Ann")
    assert code == 0
    assert out.startswith("closed by Ann: the alarms of tool=t1, product=p1\n")
    assert "may once more alarm in vain, with probability delta at most" in out
    (place,) = memory.load_all(tmp_path / "state")
    assert place.counts.closed[0].by == "Ann"
    assert "pred_score" in place.counts.closed[0].alarms
    assert (place.counts.images, len(place.counts.intakes)) == (0, 2)
    code, out, _ = say("monitor", first, *command, "--acknowledge", "Bob")
    assert code == 0  # what is in it already does not come again
    assert "nothing was closed" in out
    code, out, _ = say("monitor", again, *command)
    assert code == 4
    assert f"recalibrate bundle {again} --verdicts" in out
    code, _, err = say("monitor", again, *command, "--acknowledge", " ")
    assert code == 2
    assert "--acknowledge needs the name" in err


def test_an_alarm_is_open_also_while_its_place_has_no_images(say, tmp_path):
    here, there = made.images(300, 2, shift=1.2), made.images(50, 3, tool="t2")
    first, later = scans_of(tmp_path, here, there)
    command = ["--state", tmp_path / "state", "--fail-on-alarm"]
    say("monitor", first, *command)
    code, out, _ = say("monitor", later, *command)
    assert code == 4
    assert "not in these scans, tool=t1, product=p1: " in out
    assert "  pred_score" not in out
