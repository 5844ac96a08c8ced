"""Differences between two detectors on the same images, from hand-made scores."""

import numpy as np
import pytest
from made_benches import a_row, scores

from inspect_ai.benchmark.compare import best, compared, differences
from inspect_ai.benchmark.rows import Figure

BAD = np.arange(2400) >= 1200  # 1,200 good images, enough for a rate of 1 %
GROUPS = np.arange(2400) % 60


def drawn(apart, seed=0):
    """Scores whose bad images lie `apart` standard deviations above the good ones."""
    score = np.random.default_rng(seed).normal(size=len(BAD)) + apart * BAD
    return scores(score, BAD, GROUPS)


def on_disk(out, row, table):
    folder = out / row.folder / "scan" / "scores"
    folder.mkdir(parents=True)
    for i, half in enumerate(np.array_split(np.arange(len(table)), 2)):
        table.iloc[half].to_parquet(folder / f"part-{i:05d}.parquet")
    return row


def test_a_detector_differs_from_itself_by_nothing():
    auroc, capture = differences(drawn(2), drawn(2))
    assert auroc == capture == Figure(value=0, low=0, high=0)


def test_the_better_of_two_is_surely_better_and_the_order_of_images_is_nothing_to_it():
    ours, theirs = drawn(3), drawn(1)
    auroc, capture = differences(ours, theirs.sample(frac=1, random_state=0))
    assert auroc.low > 0.1
    assert capture.low > 0.3
    back = differences(theirs, ours)
    assert back[0].value == pytest.approx(-auroc.value)
    assert back[1].high < 0


def test_differences_are_those_of_two_captures_and_two_areas():
    ours, theirs = drawn(2), drawn(1)
    _, capture = differences(ours, theirs)
    shares = []
    for table in (ours, theirs):
        good, bad = (table["pred_score"][kind == BAD].to_numpy() for kind in (False, True))
        shares.append((bad > np.sort(good)[-13]).mean())  # 12 of 1,200 lie above it
    assert capture.value == pytest.approx(shares[0] - shares[1])


def test_pairs_tell_apart_what_two_intervals_alone_would_not():
    theirs = drawn(1)
    shift = np.where(BAD, 0.03, 0.0)
    ours = theirs.assign(pred_score=theirs["pred_score"] + shift)
    auroc, _ = differences(ours, theirs)
    assert 0 < auroc.low < auroc.value < auroc.high < 0.02


def test_with_too_few_good_images_captures_are_not_compared():
    few = np.arange(2400) % 2400 >= 999
    table = scores(np.arange(2400.0), few, GROUPS)
    assert differences(table, table)[1] is None


def test_images_of_unknown_label_count_nowhere():
    table = drawn(2)
    unknown = table.assign(gt_label=table["gt_label"].astype("Int8"))
    unknown.loc[:200, "gt_label"] = None
    assert differences(unknown, drawn(1))[0].value != differences(table, drawn(1))[0].value


def test_a_score_that_is_no_number_is_the_oddest():
    table = drawn(2)
    table.loc[BAD, "pred_score"] = np.nan
    assert differences(table, table.assign(pred_score=0.0))[0].value == pytest.approx(0.5)


def test_rows_are_held_against_the_best_baseline_of_their_seed(tmp_path):
    at = {"family": "baseline"}
    rows = [
        a_row(run="odd", folder="odd", **at, capture_at_1=Figure(value=0.5)),
        a_row(run="even", folder="even", **at, capture_at_1=Figure(value=0.6)),
        a_row(run="even", folder="even1", seed=1, **at, capture_at_1=Figure(value=0.4)),
        a_row(run="net", folder="net"),
        a_row(run="net", folder="net1", seed=1),
        a_row(run="net", folder="net2", seed=2),
    ]
    tables = {"odd": 0.5, "even": 1, "even1": 4, "net": 3, "net1": 3, "net2": 0.2}
    for row in rows:
        on_disk(tmp_path, row, drawn(tables[row.folder]))
    told = {row.folder: row for row in compared(rows, tmp_path)}
    assert [told[n].against_folder for n in ("net", "net1", "net2")] == ["even", "even1", "even"]
    assert [told[n].verdict for n in ("net", "net1", "net2")] == ["beats", "loses", "loses"]
    assert not any(told[n].against for n in ("odd", "even", "even1"))


def test_a_row_whose_scores_are_gone_keeps_what_it_had(tmp_path):
    base = on_disk(tmp_path, a_row(run="ten", folder="ten", family="baseline"), drawn(1))
    known = {"auroc_difference": Figure(value=0.1, low=0.05, high=0.2), "against": "earlier"}
    row = a_row(folder="gone", **known)
    assert compared([base, row], tmp_path)[1] == row


def test_without_a_baseline_there_is_nothing_to_be_held_against(tmp_path):
    rows = [a_row(), a_row(run="ten", family="baseline", state="failed", auroc=None)]
    assert compared(rows, tmp_path) == rows


def test_where_good_images_are_few_the_best_is_that_of_the_highest_auroc():
    few = {"good_images": 100}
    high = a_row(run="a", auroc=Figure(value=0.9), capture_at_1=Figure(value=0.1), **few)
    low = a_row(run="b", auroc=Figure(value=0.8), capture_at_1=Figure(value=0.7), **few)
    assert best([low, high]) == high
    many = [row.model_copy(update={"good_images": 1000}) for row in (low, high)]
    assert best(many).run == "b"
    assert best([]) is None
