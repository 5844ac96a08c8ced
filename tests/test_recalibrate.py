import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from inspect_ai import recalibrate as step
from inspect_ai.batch import scan as floor
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle import thresholds
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.data import manifest as manifests
from inspect_ai.data import simulate
from inspect_ai.data.simulate_dies import DieSettings
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadBundle, BadSettings, MissingData, OutputInUse, TooFewGoodImages
from inspect_ai.review import joining, verdicts

ONE = floor.Options(device="cpu", threads=1, batch=16)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def scanned(line, folder, first_lot, seed):
    """A scan of 120 new pictures of three lots; those with a defect score as they do."""
    settings = DieSettings(
        lots=3, first_lot=first_lot, wafers_per_lot=2, dies_per_wafer=20, side=32, seed=seed
    )
    root = folder / "data"
    simulate.write(settings, root)
    spec = DataSpec.from_toml(line.spec)
    manifest = manifests.listing(spec, root)
    floor.scan(line.read(), manifest, folder / "scan", ONE)
    return folder / "scan"


@pytest.fixture(scope="module")
def new(dies, tmp_path_factory):
    """A scan of lots that the bundle has never met."""
    return scanned(dies, tmp_path_factory.mktemp("new"), 31, 9)


def rows_of(scan):
    return pd.concat(pd.read_parquet(p) for p in sorted((scan / "scores").glob("part-*.parquet")))


def decide(folder, scan, leave=0, **said):
    """A table in which every flagged image is decided as it is, but for the first `leave`."""
    rows = rows_of(scan)
    flagged = rows[rows["pred_label"] == 1].iloc[leave:]
    truth = flagged["gt_label"].map({0: "good", 1: "defect"})
    table = pd.DataFrame({"image_id": flagged["image_id"], "verdict": truth})
    for image_id, verdict in said.items():
        table = pd.concat(
            [
                table[table["image_id"] != image_id],
                pd.DataFrame({"image_id": [image_id], "verdict": [verdict]}),
            ]
        )
    path = folder / "verdicts.csv"
    table.assign(reviewer="Ann", decided_at="2026-11-22").to_csv(path, index=False)
    return path


def asked(dies, new, path, **fields):
    return step.Asked(dies.bundle, [new], path, **fields)


@pytest.fixture(scope="module")
def accepted(dies, new, tmp_path_factory):
    """A proposal, and the same folder once it was accepted."""
    folder = tmp_path_factory.mktemp("accepted")
    given = asked(dies, new, decide(folder, new))
    proposal = step.recalibrate(given, folder / "out")
    proposed = {p.name for p in (folder / "out").iterdir()}
    step.recalibrate(given, folder / "out", "Eve")
    return folder / "out", proposal, proposed


def test_without_a_name_there_is_a_proposal_and_no_bundle(accepted, dies):
    _, proposal, proposed = accepted
    assert proposed == {
        "run.json", "proposal.json", "proposal.png",
        "calibration.parquet", "audit.parquet", "verdicts.parquet",
    }  # fmt: skip
    assert proposal.bundle_hash == dies.read().hash


def test_all_good_images_join_and_no_defect_that_was_decided(accepted, dies, new):
    out, proposal, _ = accepted
    rows = rows_of(new)
    defect = (rows["pred_label"] == 1) & (rows["gt_label"] == 1)
    assert defect.sum() >= 3
    before = pd.read_parquet(dies.bundle / bundles.SCORES)
    after = pd.read_parquet(out / bundles.SCORES)
    assert after.columns.tolist() == before.columns.tolist()
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
    joined = after["image_id"].iloc[len(before) :]
    assert joined.tolist() == rows.loc[~defect, "image_id"].tolist()
    assert (proposal.joined, proposal.left_out) == (len(joined), int(defect.sum()))
    assert (proposal.images_before, proposal.images) == (len(before), len(after))
    assert proposal.lots == proposal.lots_before + 3


def test_what_joined_is_what_the_bundle_gives(accepted, new):
    after = pd.read_parquet(accepted[0] / bundles.SCORES)
    rows = rows_of(new).set_index("image_id")
    joined = after[after["image_id"].isin(rows.index)].set_index("image_id")
    kept = rows.loc[joined.index]
    assert joined["pred_score"].to_numpy() == pytest.approx(kept["pred_score"].to_numpy())
    for name in ("input_brightness", "input_sharpness"):
        assert joined[name].to_numpy() == pytest.approx(kept[name].to_numpy())
    assert (joined["group"] == kept["group"]).all()


def test_the_accepted_folder_is_a_bundle_with_the_thresholds_of_its_scores(accepted, dies):
    out, proposal, _ = accepted
    bundle, before = bundles.read(out), dies.read()
    scores = pd.read_parquet(out / bundles.SCORES)
    assert bundle.card.image_threshold == proposal.image_threshold
    found = thresholds.derive(scores, before.card.promised)
    assert bundle.card.image_threshold == found.fields()["image_threshold"]
    assert bundle.card.calibration_images == len(scores)
    assert bundle.hash != before.hash


def test_the_graph_is_the_same_and_names_the_new_calibration(accepted, dies):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 1, 32, 32)).astype(np.uint8)
    old, new = (Scorer(bundles.read(f), "cpu", threads=1) for f in (dies.bundle, accepted[0]))
    assert (old.score(pixels).pred_score == new.score(pixels).pred_score).all()


def test_the_history_says_who_accepted_what(accepted, dies, new):
    out, proposal, _ = accepted
    (entry,) = bundles.read(out).card.history
    assert entry.bundle_hash == dies.read().hash
    assert entry.accepted_by == "Eve"
    assert (entry.joined, entry.left_out) == (proposal.joined, proposal.left_out)
    assert entry.image_threshold_before == dies.read().card.image_threshold
    assert entry.verdicts_hash == step._hash(out.with_name("verdicts.csv"))
    assert len(entry.scans) == 1


def test_the_audit_says_of_each_image_why_it_joined(accepted, dies, new):
    audit = pd.read_parquet(accepted[0] / step.AUDIT).set_index("image_id")
    rows = rows_of(new).set_index("image_id")
    assert len(audit) == accepted[1].joined
    flagged = rows.loc[audit.index, "pred_label"] == 1
    assert flagged.any()
    assert (audit.loc[flagged, "verdict"] == "good").all()
    assert (audit.loc[flagged, "reviewer"] == "Ann").all()
    assert (audit.loc[~flagged, "verdict"] == "not flagged").all()
    assert (audit["bundle_hash"] == dies.read().hash).all()


def test_the_same_call_again_changes_nothing_and_another_name_is_refused(accepted, dies, new):
    out = accepted[0]
    before = {p: p.read_bytes() for p in out.iterdir()}
    given = asked(dies, new, out.with_name("verdicts.csv"))
    step.recalibrate(given, out, "Eve")
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    with pytest.raises(OutputInUse, match="accepted by Eve already"):
        step.recalibrate(given, out, "Mallory")


def test_a_second_recalibration_keeps_the_history_and_the_audit_of_the_first(
    accepted, dies, tmp_path
):
    class Line:
        spec, bundle = dies.spec, accepted[0]

        def read(self):
            return bundles.read(self.bundle)

    later = scanned(Line(), tmp_path, 51, 13)
    given = step.Asked(Line.bundle, [later], decide(tmp_path, later))
    step.recalibrate(given, tmp_path / "out", "Eve")
    card = bundles.read(tmp_path / "out").card
    assert [e.bundle_hash for e in card.history] == [dies.read().hash, Line().read().hash]
    audit = pd.read_parquet(tmp_path / "out" / step.AUDIT)
    assert audit["bundle_hash"].unique().tolist() == [e.bundle_hash for e in card.history]
    assert len(audit) == sum(e.joined for e in card.history)


def test_a_changed_proposal_is_not_accepted(dies, new, tmp_path):
    given = asked(dies, new, decide(tmp_path, new))
    step.recalibrate(given, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / bundles.SCORES)
    table.iloc[:-1].to_parquet(tmp_path / "out" / bundles.SCORES, index=False)
    with pytest.raises(BadBundle, match="changed after it was proposed"):
        step.recalibrate(given, tmp_path / "out", "Eve")
    assert not (tmp_path / "out" / bundles.CARD).exists()


def test_a_flagged_image_that_nobody_decided_is_refused_and_listed(dies, new, tmp_path):
    path = decide(tmp_path, new, leave=2)
    with pytest.raises(MissingData, match=r"2 of \d+ flagged images are not decided") as told:
        step.recalibrate(asked(dies, new, path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (listed,) = tmp_path.glob("undecided-*.csv")
    assert str(listed) in str(told.value)
    assert verdicts.read(listed).empty  # a table of verdicts that is not filled in
    flagged = rows_of(new).query("pred_label == 1")["image_id"].iloc[:2]
    assert sorted(pd.read_csv(listed)["image_id"]) == sorted(flagged)


def test_a_list_that_somebody_fills_in_is_not_written_over(dies, new, tmp_path):
    given = asked(dies, new, decide(tmp_path, new, leave=2))
    for _ in range(2):
        with pytest.raises(MissingData):
            step.recalibrate(given, tmp_path / "out")
        (listed,) = tmp_path.glob("undecided-*.csv")
        if listed.read_text() != "begun":
            listed.write_text("begun")
    assert listed.read_text() == "begun"


def test_unsure_is_not_decided_and_the_user_may_say_what_it_counts_as(dies, new, tmp_path):
    oddest = rows_of(new).nlargest(1, "pred_score")["image_id"].iloc[0]
    path = decide(tmp_path, new, **{oddest: "unsure"})
    with pytest.raises(MissingData, match=r"1 of .* flagged images are not decided"):
        step.recalibrate(asked(dies, new, path), tmp_path / "out")
    good, bad = (
        step.recalibrate(asked(dies, new, path, undecided=word), tmp_path / word)
        for word in ("good", "defect")
    )
    assert good.joined == bad.joined + 1
    assert good.image_threshold >= bad.image_threshold
    audit = pd.read_parquet(tmp_path / "good" / step.AUDIT).set_index("image_id")
    assert audit.loc[oddest, "verdict"] == "unsure, counted as good"
    assert "1 undecided images count as good" in good.words()[-2] + good.words()[-1]


def test_a_defect_that_was_not_flagged_is_left_out_once_it_is_decided(dies, new, tmp_path):
    rows = rows_of(new)
    calm = rows.loc[rows["pred_label"] == 0, "image_id"].iloc[0]
    with_it = step.recalibrate(asked(dies, new, decide(tmp_path, new)), tmp_path / "a")
    path = decide(tmp_path, new, **{calm: "defect", "elsewhere": "good", "else": "defect"})
    without = step.recalibrate(asked(dies, new, path), tmp_path / "b")
    assert without.joined == with_it.joined - 1
    assert "note: 2 verdicts name no image of these scans" in without.words()
    assert not any("name no image" in line for line in with_it.words())


def test_a_tighter_promise_can_be_asked_for_and_one_too_tight_is_refused(dies, new, tmp_path):
    path = decide(tmp_path, new)
    tighter = step.recalibrate(
        asked(dies, new, path, changed={"false_alarm_rate": 0.01}), tmp_path / "tighter"
    )
    same = step.recalibrate(asked(dies, new, path), tmp_path / "same")
    assert tighter.image_threshold > same.image_threshold
    with pytest.raises(TooFewGoodImages, match=r"got \d+\. Give more scans"):
        step.recalibrate(
            asked(dies, new, path, changed={"false_alarm_rate": 1e-4}), tmp_path / "never"
        )
    assert not (tmp_path / "never").exists()


def test_changes_of_verdict_are_counted(dies, new, tmp_path):
    path = decide(tmp_path, new)
    found = step.recalibrate(
        asked(dies, new, path, changed={"false_alarm_rate": 0.3}), tmp_path / "out"
    )
    rows = rows_of(new)
    now = rows["pred_score"] > found.image_threshold
    assert found.newly_flagged == (now & (rows["pred_label"] == 0)).sum() > 0
    assert found.no_longer_flagged == 0


def test_the_commands_say_what_would_change_and_how_to_accept_it(say, dies, new, tmp_path):
    path, out = decide(tmp_path, new), tmp_path / "out"
    arguments = ["recalibrate", dies.bundle, new, "--verdicts", path, "--out", out]
    code, said, _ = say(*arguments)
    assert code == 0
    assert said.startswith(f"threshold {dies.read().card.image_threshold:.6g} -> ")
    assert said.splitlines()[-1].endswith(
        "nothing was changed. To accept it: the same with --accept NAME"
    )
    code, said, _ = say(*arguments, "--accept", "Eve")
    assert code == 0
    assert said.splitlines()[-1] == f"bundle: {out}"
    assert bundles.read(out).card.history[0].accepted_by == "Eve"
    code, _, err = say(*arguments, "--accept", "Mallory")
    assert code == 2
    assert "accepted by Eve already" in err


@pytest.mark.parametrize("split", ["all", "calibrate"])
def test_a_scan_of_the_bundles_own_images_is_refused(dies, tmp_path, split):
    floor.scan(dies.read(), dies.manifest().part(split), tmp_path / "scan", ONE)
    with pytest.raises(MissingData, match="images of the folder that the bundle was made from"):
        step.recalibrate(asked(dies, tmp_path / "scan", None), tmp_path / "out")


def test_the_test_split_may_join_and_the_proposal_says_what_that_costs(dies, tmp_path):
    floor.scan(dies.read(), dies.manifest().part("test"), tmp_path / "scan", ONE)
    path = decide(tmp_path, tmp_path / "scan")
    found = step.recalibrate(asked(dies, tmp_path / "scan", path), tmp_path / "out")
    assert any("is split 'test' of the bundle's own data" in note for note in found.notes)


def test_images_that_were_calibrated_on_are_refused_wherever_they_lie(dies, tmp_path):
    spec = DataSpec.from_toml(dies.spec).model_copy(update={"name": "other"})
    table = dies.manifest().part("calibrate").table
    table = table[table["gt_label"] == 0]
    copy = shutil.copytree(dies.root, tmp_path / "copy")
    floor.scan(dies.read(), manifests.Manifest(table, spec, copy), tmp_path / "scan", ONE)
    path = decide(tmp_path, tmp_path / "scan")
    with pytest.raises(MissingData, match="are in the calibration already"):
        step.recalibrate(asked(dies, tmp_path / "scan", path), tmp_path / "out")


def test_a_scan_of_another_bundle_is_refused(dies, new, accepted, tmp_path):
    given = step.Asked(accepted[0], [new], decide(tmp_path, new))
    with pytest.raises(MissingData, match="Scores of another bundle are other scores"):
        step.recalibrate(given, tmp_path / "out")


def test_an_unfinished_scan_and_one_given_twice_are_refused(dies, new, tmp_path):
    path = decide(tmp_path, new)
    with pytest.raises(MissingData, match="given twice"):
        step.recalibrate(step.Asked(dies.bundle, [new, new], path), tmp_path / "out")
    record = json.loads((new / "run.json").read_text())
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text(json.dumps(record | {"state": "unfinished"}))
    with pytest.raises(MissingData, match="is unfinished"):
        step.recalibrate(step.Asked(dies.bundle, [tmp_path / "half"], path), tmp_path / "out")


def test_images_that_changed_since_the_scan_are_refused_and_may_lie_elsewhere(dies, new, tmp_path):
    path = decide(tmp_path, new)
    with pytest.raises(MissingData, match=r"not there as they were scanned; .* pass .* --root"):
        step.recalibrate(asked(dies, new, path, root=tmp_path), tmp_path / "out")
    moved = new.parent / "data"
    assert step.recalibrate(asked(dies, new, path, root=moved), tmp_path / "out").joined > 0


def test_an_empty_name_accepts_nothing(dies, new, tmp_path):
    with pytest.raises(BadSettings, match="--accept needs the name"):
        step.recalibrate(asked(dies, new, decide(tmp_path, new)), tmp_path / "out", " ")


def test_after_a_change_the_good_images_of_before_can_be_left_out(dies, new, tmp_path):
    given = asked(dies, new, decide(tmp_path, new), alone=True)
    proposal = step.recalibrate(given, tmp_path / "out", "Eve")
    bundle = bundles.read(tmp_path / "out")
    kept = pd.read_parquet(tmp_path / "out" / bundles.SCORES)
    assert set(kept["image_id"]) <= set(rows_of(new)["image_id"])
    assert len(kept) == proposal.images == proposal.joined
    assert bundle.card.history[-1].alone
    assert "note: the good images of before are left out" in proposal.words()


def test_thresholds_of_groups_and_lots_are_proposed_group_by_group(dies, new, tmp_path):
    changed = {"groups": ["product"], "unit": "lot", "false_alarm_rate": 0.2}
    given = asked(dies, new, decide(tmp_path, new), changed=changed)
    proposal = step.recalibrate(given, tmp_path / "out", "Eve")
    card = bundles.read(tmp_path / "out").card
    assert (card.unit, card.groups) == ("lot", ("product",))
    assert set(proposal.levels) == set(card.levels) - {"all"} != set()
    assert all(before is None for before, _ in proposal.levels.values())


def test_a_category_that_loses_its_threshold_is_told(accepted, dies, new):
    out, bundle = accepted[0], dies.read()
    had = thresholds.Level(
        images=9, units=9, image_threshold=4.1, pixel_threshold=1.0, promise="a promise"
    )
    card = bundle.card.model_copy(update={"levels": bundle.card.levels | {"product=A": had}})
    found = thresholds.derive(pd.read_parquet(out / bundles.SCORES), bundle.card.promised)
    decided = verdicts.read(out.with_name("verdicts.csv"))
    rows = joining.told(joining.sources([new], bundle), decided).assign(good=True)
    proposal = step._changes(replace(bundle, card=card), found, rows, out)
    assert proposal.levels == {"product=A": (4.1, None)}
    assert "  product=A: 4.1 -> all" in proposal.words()
