"""The trade-off of a scan, as numbers, on the page, and as the command says it."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from inspect_ai.calibration.conformal import calibrate
from inspect_ai.commands.operating import operating_point
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.review import report, scanned, trade

GOOD, BAD = 300, 100


@pytest.fixture
def folder(tmp_path):
    """A finished scan with the columns of an older version: good images, then defects."""
    return written(tmp_path, [0] * GOOD + [1] * BAD)


def written(folder, labels, good=GOOD):
    rng = np.random.default_rng(0)
    (folder / "scores").mkdir(parents=True)
    n = len(labels)
    score = rng.normal(size=n) + 3 * np.array([label == 1 for label in labels])
    score[-1] = np.nan
    pd.DataFrame(
        {
            "image_id": [f"{i:032x}" for i in range(n)],
            "image_path": [f"{i}.png" for i in range(n)],
            "pred_score": score.astype(np.float32),
            "p_value": 0.5,
            "pred_label": (score > 1.7).astype(int),
            "image_threshold": 1.7,
            "group": [f"lot{i % 9}" for i in range(n)],
            "gt_label": pd.array(labels, "Int8"),
        }
    ).to_parquet(folder / "scores" / "part-00000.parquet")
    scores = rng.normal(size=good).astype(np.float32)
    fields = {"image_id": "c", "group": "k", "pred_score": scores, "map_max": scores}
    pd.DataFrame(fields, index=range(good)).to_parquet(folder / "calibration.parquet")
    layout = {"kind": "table"}
    spec = DataSpec(name="demo", root=folder, source="here", licence="none", layout=layout)
    run = {
        "command": "scan",
        "state": "finished",
        "spec_name": "demo",
        "data_spec": spec.model_dump(mode="json"),
        "model": "pca",
        "false_alarm_rate": 0.05,
        "image_threshold": 1.7,
        "started_at": "2026-01-02T03:04:05+00:00",
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_rows_count_this_scans_images_above_the_threshold_of_each_rate(folder):
    read = scanned.read(folder)
    told = trade.numbers(read)
    assert [row["rate"] for row in told["rows"]] == [0.05, 0.01, 0.005]  # 300 bear no less
    assert (told["good_images"], told["defects"], told["shipped"]) == (GOOD, BAD, 1.7)
    good, score = trade.scores(read.calibration), trade.scores(read.scores)
    for row in told["rows"]:
        assert row["threshold"] == calibrate(good, row["rate"]).threshold
        assert row["flagged"] == (score > np.float32(row["threshold"])).sum()
        assert row["escape"] == (score[GOOD:] <= np.float32(row["threshold"])).mean()
    json.dumps(told, allow_nan=False)


def test_the_page_shows_the_trade_off_and_metrics_its_numbers(folder):
    page = report.render(folder).read_text()
    section = page.partition('id="operating"')[2].partition("</section>")[0]
    assert "escape on the 100 labelled defects" in section
    assert "threshold of this scan" in section
    assert section.count("<tr>") == 4
    assert "rates below 0.33&#8239;% need more good images" in section
    told = json.loads((folder / "metrics.json").read_text())["trade"]
    assert told["rows"][0]["escape"] == trade.numbers(scanned.read(folder))["rows"][0]["escape"]


def test_without_labelled_defects_the_page_says_that_escape_is_not_known(tmp_path):
    folder = written(tmp_path, [None] * 40)
    section = report.render(folder).read_text().partition('id="operating"')[2]
    assert "escape is not known: no labelled defects" in section
    assert "images of this scan flagged" in section
    told = trade.numbers(scanned.read(folder))
    assert {row["escape"] for row in told["rows"]} == {None}


def test_without_calibration_scores_nothing_is_told(tmp_path):
    folder = written(tmp_path, [0, 1], good=0)
    assert trade.figure(scanned.read(folder)) is None
    assert "came without calibration scores" in report.render(folder).read_text()
    with pytest.raises(MissingData, match="holds no calibration scores"):
        operating_point(folder)


def test_one_score_for_all_good_images_can_be_drawn(tmp_path):
    folder = written(tmp_path, [0] * 30)
    table = pd.read_parquet(folder / "calibration.parquet").assign(pred_score=np.float32(1))
    table.to_parquet(folder / "calibration.parquet")
    assert trade.figure(scanned.read(folder)).startswith("<svg")


def test_the_command_says_each_point_and_how_to_adopt_it(folder, tmp_path, capsys):
    out = tmp_path / "out"
    asked = {"images_per_hour": 1000, "reviews_per_hour": 40, "defect_share": 0.01}
    operating_point(folder, **asked, cost_overkill=1, cost_escape=20, escape=0.1, out=out)
    said = capsys.readouterr()
    assert "overkill  threshold" in said.out
    for way in ("capacity", "costs", "defects"):
        assert f"by {way}: threshold" in said.out
    assert said.out.count("--false-alarm-rate 0.0") >= 1
    assert "note: the 300 good images are of 1 lot(s)" in said.err
    told = json.loads((out / "operating_point.json").read_text())
    good = trade.scores(scanned.read(folder).calibration)
    for point in told["points"]:
        assert calibrate(good, point["false_alarm_rate"]).threshold == point["threshold"]
    assert cv2.imread(str(out / "operating_point.png")).shape[1] > 800


def test_options_that_go_together_are_asked_for_together(folder):
    with pytest.raises(BadSettings, match="--images-per-hour and --reviews-per-hour go together"):
        operating_point(folder, images_per_hour=10)
    with pytest.raises(BadSettings, match="--cost-overkill and --cost-escape go together"):
        operating_point(folder, cost_escape=10)
    with pytest.raises(BadSettings, match="Costs need the share of defects"):
        operating_point(folder, cost_escape=10, cost_overkill=1)
