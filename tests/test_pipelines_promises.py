"""The counting of promises on few draws, and the observed table on scans written by hand."""

import json
import tomllib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.stats import binom
from sklearn.metrics import precision_recall_curve

from inspect_ai.calibration import lots
from pipelines import (
    counting_batches,
    counting_drift,
    counting_lots,
    counting_thresholds,
    observing,
    observing_tables,
    promise_plots,
    promises,
)
from pipelines.counting import KINDS, Asked, Row, judged
from pipelines.counting_lots import Pool
from pipelines.observing import PEER, Peer, Scanned, cell, compared, largest_f1

RUNS = Path(__file__).parents[1] / "pipelines" / "runs"
SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def table(scores, lots_=None, labels=None):
    names = [f"image {i}" for i in range(len(scores))]
    made = {"image_id": names, "group": lots_ or names, "pred_score": np.float32(scores)}
    label = pd.array(labels or [0] * len(scores), dtype="Int8")
    return pd.DataFrame(made).assign(gt_label=label, split="test")


def scanned(good, test, lots_=None, labels=None):
    return Scanned("wm811k", "denoiser", table(good, lots_), table(test, None, labels))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_knows_what_share_of_its_draws_lies_above(kind):
    drawn = kind.draw(kind.generator(0), 20_000)
    for at in (0.0, 0.5, 1.0, 2.0, 5.0):
        share = float(kind.above(np.array([at]))[0])
        low, high = binom.ppf([0.0005, 0.9995], len(drawn), share)
        assert low <= (drawn > at).sum() <= high


def test_overkill_of_smooth_scores_follows_its_law_and_ties_stay_below():
    for kind in KINDS:
        shares, law = counting_thresholds.overkill(kind, 0.1, 50, None, 300)
        row = judged(
            Asked("a rule", kind.name, "50", 0.1), shares, law=law if kind.smooth else None
        )
        assert row.kept
        assert law == (5, 46)
        assert row.law is None or row.law > 0.001
        assert kind.smooth or row.observed < 0.1


def test_a_wrong_law_is_told_from_the_right_one():
    shares, (r, rest) = counting_thresholds.overkill(KINDS[0], 0.1, 50, None, 300)
    assert judged(Asked("a rule", "", "", 0.1), shares, law=(r + 1, rest - 1)).law < 1e-4


def test_a_promise_on_average_is_broken_where_the_mean_lies_above():
    asked = Asked("a rule", "some", "9", 0.05)
    spread = np.linspace(-0.01, 0.01, 101)
    assert judged(asked, 0.05 + spread).kept
    assert judged(asked, np.full(100, 0.05)).kept
    assert not judged(asked, 0.054 + spread).kept
    assert "**no**" in str(judged(asked, 0.054 + spread))


def test_a_promise_with_confidence_is_broken_by_more_draws_than_chance_allows():
    asked, most = Asked("a rule", "some", "9", 0.05, 0.95), int(binom.ppf(0.999, 400, 0.05))
    for broke, kept in ((most, True), (most + 1, False)):
        row = judged(asked, np.where(np.arange(400) < broke, 0.2, 0.01))
        assert row.kept is kept
        assert row.broken == broke / 400


def test_lots_that_are_forgotten_break_the_promise_that_lots_keep():
    shares = counting_lots.made(40)
    kept = {row.rule: row.kept for row in counting_lots.made_rows(shares)}
    assert not kept["all images, lots forgotten, 95 % confidence"]
    assert kept["one image a lot, 95 % confidence"]
    assert kept["largest score of each lot, 95 % confidence"]
    assert sum(not one for one in kept.values()) == 1


def test_the_share_of_lots_with_any_image_above_is_that_of_drawn_lots():
    rng = np.random.default_rng(0)
    drawn = np.sqrt(0.5) * (rng.standard_normal((20_000, 1)) + rng.standard_normal((20_000, 25)))
    for at in (1.0, 2.0, 3.0):
        share = counting_lots._any_above(np.array([at]))[0]
        low, high = binom.ppf([0.0005, 0.9995], len(drawn), share)
        assert low <= (drawn.max(axis=1) > at).sum() <= high


@pytest.mark.parametrize("unit", ["image", "lot_share", "lot_maximum"])
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_pool_sets_the_thresholds_that_lots_set(unit, confidence):
    rng = np.random.default_rng(1)
    names = [f"lot {i:02d}" for i in rng.integers(0, 40, 200)]
    seen = scanned(rng.standard_normal(200), [9.0, 9.5], names, [1, 1])
    pool, every = Pool.of(seen), np.arange(len(set(names)))
    (at,) = pool.thresholds(every, unit, [(0.1, confidence)], np.zeros(len(every)))
    yardstick = lots.yardstick(seen.calibration, "pred_score", 0.1, confidence, unit)
    assert at == yardstick.threshold


def test_a_pool_counts_overkill_as_the_unit_does():
    seen = scanned([1, 5, 5, 1, 1, 1, 1], [9.0], [*"aabbbbc"], [1])
    pool, every = Pool.of(seen), np.arange(3)
    assert pool.overkill(every, "image", 3) == pytest.approx(2 / 7)
    assert pool.overkill(every, "lot", 3) == pytest.approx((1 / 2 + 1 / 4 + 0) / 3)
    assert pool.overkill(every, "lot_maximum", 3) == pytest.approx(2 / 3)
    assert pool.overkill(np.array([2, 2]), "image", 3) == 0
    assert list(pool.images(np.array([2, 0, 2]))) == [6, 0, 1, 6]


def test_scores_of_a_scan_keep_their_promises_when_cut_by_lot():
    rng = np.random.default_rng(2)
    names = [f"lot {i}" for i in rng.integers(0, 60, 300)]
    seen = scanned(rng.standard_normal(300), rng.standard_normal(80), names)
    rows = list(counting_lots.real_rows(seen, 40))
    assert {row.promised for row in rows} == {0.05}  # about 70 lots: no other is supported
    assert all(row.kept for row in rows)


def test_one_threshold_for_all_products_breaks_the_promise_of_the_odd_one():
    rows = {(row.rule, row.scores): row for row in counting_lots.group_rows(20)}
    assert not rows["one threshold for all products, on average", "product B"].kept
    assert rows["one a product, on average", "product B"].kept
    backed_off = rows["one a product, on average", "product C"]
    assert (backed_off.promised, backed_off.kept) == (None, None)
    assert "too few" in str(backed_off)


@given(SCORES, SCORES)
@settings(max_examples=100, deadline=None)
def test_the_largest_f1_is_found_and_the_lowest_of_several(good, bad):
    good, bad = np.float32(good), np.float32(bad)
    label, score = np.repeat([0, 1], [len(good), len(bad)]), np.concatenate([good, bad])
    tried = sorted(set(score.tolist()))
    # both halves of F1 as whole numbers: 2 tp / (2 tp + fp + fn)
    f1 = [Fraction(2 * int((bad >= at).sum()), int((score >= at).sum()) + len(bad)) for at in tried]
    best = tried[f1.index(max(f1))]
    assert largest_f1(good, bad) == best
    precision, recall, at = precision_recall_curve(label, score)
    curve = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert curve[:-1][list(at).index(best)] == pytest.approx(curve.max())


def test_the_peer_flags_what_lies_strictly_above_and_only_in_the_other_half():
    label = [0] * 40 + [1] * 40
    score = np.arange(80.0)  # told apart without a mistake, so every cut is without overkill
    peer = Peer(scanned([0.0], score, labels=label))
    cells = [peer.cell(seed) for seed in range(20)]
    assert all(0 < one.good < 40 for one in cells)
    assert all(one.flagged == 0 for one in cells)
    assert all(one.missed >= 0 and one.good + one.defects == 40 for one in cells)


def test_the_peer_says_when_a_half_lacks_what_it_needs():
    no_defect = Peer(scanned([0.0], [1, 2, 3, 4])).cell()
    assert no_defect.refusal == "a half without a defect"
    assert Peer(scanned([0.0], [1, 2, 3, 4])).spread(5) == []
    assert Peer(scanned([0.0], [1, 2, 3], labels=[1, 1, 1])).cell().refusal.endswith("good image")


def test_an_image_of_unknown_label_is_neither_good_nor_a_defect():
    seen = scanned(np.arange(100), [200.0, 1.0, 200.0, 1.0], labels=[0, 1, pd.NA, pd.NA])
    found = cell(seen, 0.05, "on average")
    assert (found.flagged, found.good, found.missed, found.defects) == (1, 1, 1, 1)
    assert sum(Peer(seen).cell(seed).good for seed in range(5)) <= 5


@pytest.mark.parametrize(
    ("rate", "promise", "refusal"),
    [
        (0.05, "on average", ""),
        (0.01, "on average", ""),
        (0.002, "on average", "needs 499 images, has 161"),
        (0.05, "95 % confidence", ""),
        (0.01, "95 % confidence", "needs 299 images, has 161"),
        (0.002, "95 % confidence", "needs 1,497 images, has 161"),
        (0.05, "95 % confidence, over lots", "needs 59 lots, has 23"),
        (0.01, "95 % confidence, over lots", "needs 299 lots, has 23"),
    ],
)
def test_what_is_promised_is_observed_and_the_rest_says_what_it_takes(rate, promise, refusal):
    seen = scanned(np.arange(161), [0, 200, 200, 200], [f"{i // 7}" for i in range(161)])
    found = cell(seen, rate, promise)
    assert found.refusal == refusal
    assert str(found) == refusal or (found.flagged, found.good) == (3, 4)


def test_a_threshold_comes_from_the_calibration_alone():
    found = [
        cell(scanned(np.arange(100), t, labels=[0, 1]), 0.05, "on average")
        for t in ((95, 1), (96, 1))
    ]
    assert [one.flagged for one in found] == [0, 1]  # the 5th largest of 100 is 95


def write_scan(folder, model, finished_at, state="finished"):
    scan = folder / "scan"
    (scan / "scores").mkdir(parents=True)
    fields = {"state": state, "model": model, "finished_at": finished_at}
    (scan / "run.json").write_text(json.dumps(fields))
    rng = np.random.default_rng(3)
    table(rng.standard_normal(120)).to_parquet(scan / "calibration.parquet")
    tested = table(rng.standard_normal(60) + 4 * (np.arange(60) > 39), None, [0] * 40 + [1] * 20)
    tested.to_parquet(scan / "scores" / "part-00000.parquet")
    return scan


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the pipelines look for scans, below a working folder with the run files."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "runs").symlink_to(RUNS)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "artefacts" / "benchmark"


@pytest.fixture
def filled(folder):
    write_scan(folder / "wm811k-s0-full-aaa", "denoiser", "2026-01-01")
    write_scan(folder / "wm811k-s0-full-bbb", "denoiser", "2026-01-02")
    write_scan(folder / "wm811k-s0-full-ccc", "denoiser", "2026-01-03", "begun")
    write_scan(folder / "wm811k-s0-full-ddd", "fusion", "2026-01-04")
    write_scan(folder / "wm811k-s1-full-eee", "denoiser", "2026-01-05")
    return folder


def test_the_newest_finished_scan_of_the_run_files_model_is_read(filled):
    assert tomllib.loads((RUNS / "wm811k.toml").read_text())["model"]["name"] == "denoiser"
    found = observing.newest("wm811k", "denoiser", (filled,))
    assert found == filled / "wm811k-s0-full-bbb" / "scan"
    assert observing.newest("wm811k", "pca", (filled,)) is None
    assert [seen.detector for seen in observing.scans()] == ["denoiser"]


def test_every_detector_of_the_table_has_a_run_file():
    names = [name for of in observing.DETECTORS.values() for name in of]
    assert not [name for name in names if not (RUNS / f"{name}.toml").is_file()]


def test_the_observed_table_has_every_rate_and_strict_numbers(filled):
    found = [compared(seen) for seen in observing.scans()]
    lines = list(observing_tables.tables(found))
    rows = [line for line in lines if line.startswith("| wm811k")]
    assert len(rows) == 1 + len(observing.RATES) + 1  # in short, for each rate, what escapes
    assert len({line.count("|") for line in lines if line.startswith("| data set")}) == 2
    assert "needs 299 lots, has 120" in rows[2]
    numbers = json.loads(json.dumps(found[0].fields, allow_nan=False))
    (peer,) = (one for one in numbers["cells"] if one["promise"] == PEER)
    assert peer["observed"] == peer["flagged"] / peer["good"]


def test_the_command_line_writes_table_numbers_and_picture(filled, capsys):
    promises.main(["observed", "--out", "made"])
    text = Path("made/promises_observed.md").read_text()
    assert capsys.readouterr().out.startswith(text)
    assert json.loads(Path("made/promises_observed.json").read_text())["rows"][0]["cells"]
    assert imread("made/promises_observed.png").shape[1] > 900


def test_the_command_line_says_what_to_do_where_there_is_no_scan(folder):
    with pytest.raises(SystemExit, match="inspect-ai benchmark --profile full"):
        promises.main(["observed", "--out", "made"])


def test_the_law_is_drawn_beside_few_draws(tmp_path):
    promise_plots.counted(20, counting_lots.made(3)).savefig(tmp_path / "counted.png")
    assert imread(tmp_path / "counted.png").shape[1] > 900


def test_a_batch_without_defects_has_no_true_alarm_so_its_share_is_all_or_nothing():
    shares = list(counting_batches._false_shares(KINDS[0], 0.0, 20))
    assert {share for both in shares for share in both} <= {0.0, 1.0}


def test_a_batch_of_odd_images_has_a_share_of_good_ones_below_q_on_average():
    shares = np.array(list(counting_batches._false_shares(KINDS[0], 0.5, 60)))
    for column in shares.T:
        assert judged(Asked("", "", "", counting_batches.Q), column).kept
    assert shares[:, 1].mean() > shares[:, 0].mean() > 0


def test_no_tail_is_fitted_to_ties():
    assert counting_batches._far(KINDS[4], KINDS[4].generator(0)) is None


def test_a_shift_is_found_soon_and_false_alarms_are_far_apart():
    delays = list(counting_drift._delays(10))
    assert all(row.kept and row.observed < 100 for row in delays)
    row = counting_drift._run_length(10.0, 50)
    assert row.kept
    assert row.observed > 10
    assert "at least 10.0 images" in str(row)


def test_rows_without_a_number_are_printed_and_kept_as_strict_numbers():
    row = Row("a rule", "some", "9", None, None, None, None, note="refused")
    assert str(row) == "| a rule | some | 9 | nothing |  |  |  | refused |"
    assert json.loads(json.dumps(row.fields, allow_nan=False))["observed"] is None


def test_times_are_told_with_what_was_done():
    told = [str(one) for one in promises.timed(1000, 2000)]
    assert len(told) == 4
    assert told[1].startswith("* p-values of 2,000 scores among them: 0.")
    assert "cores" in promises.machine()
