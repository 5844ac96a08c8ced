"""What joins a calibration, on tables; the whole way is in tests/test_recalibrate.py."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from inspect_ai.calibration.conformal import calibrate
from inspect_ai.errors import MissingData
from inspect_ai.review import joining


def source(name, ids, kind="picture", lots=None, **columns):
    n = len(ids)
    given = {"image_id": ids, "image_path": [f"{i}.png" for i in ids]}
    given |= {"group": lots or ["L"] * n, "pred_score": np.arange(n, dtype=float)}
    table = pd.DataFrame(given | {"pred_label": [0] * n} | columns)
    run = SimpleNamespace(data_spec=SimpleNamespace(image=SimpleNamespace(kind=kind)))
    return joining.Source(SimpleNamespace(scores=table, run=run), name)


def decisions(**said):
    times = pd.to_datetime(["2026-11-22"] * len(said), utc=True)
    table = pd.DataFrame({"image_id": list(said), "verdict": list(said.values())}, dtype="string")
    return table.assign(reviewer="Ann", decided_at=times, decides=True)


def test_what_nobody_flagged_or_decided_is_told_so():
    rows = joining.told([source("s", list("abc"), pred_label=[0, 1, 1])], decisions(b="good"))
    assert rows["verdict"].iloc[:2].tolist() == ["not flagged", "good"]
    assert rows["verdict"].isna().tolist() == [False, False, True]
    assert joining.undecided(rows).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("counted", "wanted"), [("good", [1, 1, 1, 0, 1]), ("defect", [1, 1, 0, 0, 0])]
)
def test_all_join_but_defects_and_the_undecided_as_the_user_says(counted, wanted):
    scan = source("s", list("abcde"), pred_label=[0, 1, 1, 1, 1])
    rows = joining.told([scan], decisions(b="good", c="unsure", d="defect"))
    assert joining.good(rows, counted).astype(int).tolist() == wanted
    with pytest.raises(MissingData, match="2 of 4 flagged images are not decided"):
        joining.good(rows, None)


def test_unsure_of_an_image_that_was_not_flagged_leaves_it_good():
    rows = joining.told([source("s", ["a"])], decisions(a="unsure"))
    assert joining.good(rows, None).all()


def test_a_column_of_the_source_named_as_ours_gives_way():
    scan = source("s", ["a"], verdict=["scrap"], reviewer=["nobody"], good=[7])
    rows = joining.told([scan], decisions(a="good"))
    assert rows[["verdict", "reviewer"]].iloc[0].tolist() == ["good", "Ann"]


def test_a_picture_in_two_scans_is_refused_and_one_twice_in_a_scan_is_not():
    joining.told([source("s", ["a", "a"])], decisions())
    with pytest.raises(MissingData, match=r"1 image\(s\) stand in two of the scans; .* a\.png"):
        joining.told([source("s", ["a", "b"]), source("t", ["c", "a"])], decisions())


def test_wafer_maps_of_equal_content_are_told_apart_by_their_lots():
    first, same, other = (source(n, ["a"], "wafer_map", [lot]) for n, lot in ("sL", "tL", "uM"))
    assert len(joining.told([first, other], decisions())) == 2
    with pytest.raises(MissingData, match="stand in two"):
        joining.told([first, same], decisions())
    kept = pd.DataFrame({"image_id": ["a"], "group": ["L"]})
    joining.require_new(other.scan.scores, kept, "wafer_map")
    for scan, kind in ((same, "wafer_map"), (other, "picture")):
        with pytest.raises(MissingData, match="1 of 1 scanned images are in the calibration"):
            joining.require_new(scan.scan.scores, kept, kind)


def test_a_good_image_without_a_finite_score_is_refused_and_a_defect_is_not():
    scan = source("s", ["a", "b"], pred_score=[1.0, np.inf], pred_label=[0, 1])
    with pytest.raises(MissingData, match=r"score that is no number; the first is b\.png"):
        joining.good(joining.told([scan], decisions(b="good")), None)
    rows = joining.told([scan], decisions(b="defect"))
    assert joining.good(rows, None).tolist() == [True, False]


def bundle(rate, images, unit="image", worth=None):
    known = SimpleNamespace(images=images, lots=images, worth=float(worth or images))
    card = SimpleNamespace(false_alarm_rate=rate, confidence=None, unit=unit)
    return SimpleNamespace(card=card, thresholds=SimpleNamespace(effective=known))


def test_scans_that_flag_more_good_images_than_promised_are_found():
    lots = [f"l{i}" for i in range(300)]
    rows = [
        source("s", lots, lots=lots, pred_label=[1] * n + [0] * (300 - n)).scan.scores
        for n in (15, 60)
    ]
    usual, many = (table.assign(good=True) for table in rows)
    assert not joining.more_than_promised(usual, bundle(0.05, 500))
    assert joining.more_than_promised(many, bundle(0.05, 500))
    assert not joining.more_than_promised(many, bundle(0.05, 500, worth=20))  # its own luck
    one_lot = many.assign(group=["a"] * 60 + lots[60:])
    assert not joining.more_than_promised(one_lot, bundle(0.05, 500))
    defects = many.assign(good=many["pred_label"] == 0)
    assert not joining.more_than_promised(defects, bundle(0.05, 500))


def test_verdicts_on_images_of_other_scans_are_counted():
    rows = joining.told([source("s", ["a"])], decisions())
    assert joining.unknown(decisions(a="good"), rows) == []
    found = joining.unknown(decisions(a="good", x="good", y="defect"), rows)
    assert found == ["2 verdicts name no image of these scans"]


def test_no_good_image_is_refused():
    scan = source("s", ["a"], pred_label=[1])
    with pytest.raises(MissingData, match="No image of the scans counts as good"):
        joining.good(joining.told([scan], decisions(a="defect")), None)


def test_the_list_to_fill_in_names_each_undecided_image_once_the_oddest_first():
    scan = source("s", list("abca"), pred_label=[1, 1, 0, 1])
    found = joining.open_list(joining.told([scan], decisions()))
    assert found["image_id"].tolist() == ["a", "b"]
    assert (found[["verdict", "reviewer", "decided_at"]] == "").all(axis=None)


def test_over_many_recalibrations_the_promise_holds_only_if_all_good_images_join():
    rng = np.random.default_rng(0)
    rate, broken, naive = 0.05, 0, []
    for _ in range(300):
        old, new = rng.random((2, 400)).astype(np.float32)  # uniform: what lies above is flagged
        alarms = new[new > calibrate(old, rate, 0.9).threshold]
        whole = calibrate(np.concatenate([old, new]), rate, 0.9)
        broken += 1 - whole.threshold > rate
        naive.append(1 - calibrate(np.concatenate([old, alarms]), rate, 0.9).threshold)
    assert broken <= binom.ppf(0.999, 300, 0.1)
    assert np.mean(naive) < rate / 2  # far too few are flagged: defects pass
