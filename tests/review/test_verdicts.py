import datetime as dt

import pandas as pd
import pytest

from inspect_ai.errors import MissingData
from inspect_ai.review import verdicts

HEAD = "image_id,verdict,reviewer,decided_at"


def written(folder, *rows, head=HEAD, name="verdicts.csv"):
    path = folder / name
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def utc(*parts):
    return dt.datetime(*parts, tzinfo=dt.UTC)


def test_a_table_is_read_with_times_in_utc_the_earliest_first(tmp_path):
    path = written(
        tmp_path,
        "b2,defect,Ann Lee,2026-11-22T09:30:00+01:00",
        "a1,good,Bob,2026-11-21",
        "c3,unsure,Bob,2026-11-23T10:00:00Z",
    )
    found = verdicts.read(path)
    assert found["image_id"].tolist() == ["a1", "b2", "c3"]
    assert found["verdict"].tolist() == ["good", "defect", "unsure"]
    assert found["reviewer"].tolist() == ["Bob", "Ann Lee", "Bob"]
    assert found["decided_at"].tolist() == [
        utc(2026, 11, 21),
        utc(2026, 11, 22, 8, 30),
        utc(2026, 11, 23, 10),
    ]
    assert found["decides"].all()


def test_parquet_says_the_same_as_csv(tmp_path):
    path = written(tmp_path, "a1,good,Bob,2026-11-21T00:00:00Z", "a1,defect,Ann,2026-11-22")
    frame = pd.read_csv(path, dtype=str)
    frame.to_parquet(tmp_path / "texts.parquet")
    times = pd.to_datetime(frame["decided_at"], utc=True, format="ISO8601")
    frame.assign(decided_at=times).to_parquet(tmp_path / "times.parquet")
    for name in ("texts", "times"):
        found = verdicts.read(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(found, verdicts.read(path))


def test_days_of_a_parquet_file_are_dates(tmp_path):
    row = {"image_id": ["a1"], "verdict": ["good"], "reviewer": ["Bob"]}
    frame = pd.DataFrame(row | {"decided_at": [dt.date(2026, 11, 21)]})
    frame.to_parquet(tmp_path / "v.parquet")
    assert verdicts.read(tmp_path / "v.parquet")["decided_at"].tolist() == [utc(2026, 11, 21)]


def test_the_latest_decides_and_the_earlier_ones_stay(tmp_path):
    path = written(
        tmp_path,
        "a1,good,Bob,2026-11-22T12:00:00Z",
        "a1,defect,Ann,2026-11-21T12:00:00Z",
        "a1,unsure,Eve,2026-11-20T12:00:00Z",
        "b2,defect,Ann,2026-11-01",
    )
    found = verdicts.read(path)
    assert len(found) == 4
    assert verdicts.latest(found).to_dict() == {"a1": "good", "b2": "defect"}
    assert found.loc[~found["decides"], "reviewer"].tolist() == ["Eve", "Ann"]


def test_the_later_of_two_zones_decides(tmp_path):
    path = written(
        tmp_path,
        "a1,good,Bob,2026-11-22T12:00:00+09:00",  # 03:00 UTC
        "a1,defect,Ann,2026-11-22T04:00:00+00:00",
    )
    assert verdicts.latest(verdicts.read(path))["a1"] == "defect"


def test_two_latest_verdicts_at_one_moment_that_differ_are_refused_with_their_rows(tmp_path):
    path = written(
        tmp_path,
        "b2,good,Bob,2026-11-22",
        "a1,good,Bob,2026-11-22T10:00:00+01:00",
        "a1,defect,Ann,2026-11-22T09:00:00Z",
    )
    with pytest.raises(MissingData, match=r"image a1 as defect and as good .* rows 2, 3; needed"):
        verdicts.read(path)


def test_two_at_one_moment_that_agree_or_that_a_later_one_overrules_are_fine(tmp_path):
    path = written(
        tmp_path,
        "a1,good,Bob,2026-11-22",
        "a1,good,Ann,2026-11-22",
        "b2,good,Bob,2026-11-22",
        "b2,defect,Ann,2026-11-22",
        "b2,unsure,Eve,2026-11-23",
    )
    found = verdicts.read(path)
    assert found["decides"].sum() == 2
    assert verdicts.latest(found).to_dict() == {"a1": "good", "b2": "unsure"}


def test_names_of_digits_stay_as_they_are_written(tmp_path):
    path = written(tmp_path, "007,good,12,2026-11-22", "1e5,good,Bob,20261122")
    found = verdicts.read(path)
    assert found["image_id"].tolist() == ["007", "1e5"]
    assert found["reviewer"].tolist() == ["12", "Bob"]


def test_lines_that_nobody_has_decided_are_passed_over(tmp_path):
    head = "image_id,pred_score,verdict,reviewer,decided_at"
    path = written(tmp_path, "a1,0.5,,,", "b2,0.4,good,Bob,2026-11-22", head=head)
    assert verdicts.read(path)["image_id"].tolist() == ["b2"]
    assert verdicts.read(written(tmp_path, name="empty.csv")).empty


def test_a_table_as_a_spreadsheet_saves_it_is_read(tmp_path):
    path = tmp_path / "v.csv"
    path.write_bytes(f"\ufeff{HEAD}\r\na1 ,good,Bob,2026-11-22\r\n".encode())
    assert verdicts.read(path)["image_id"].tolist() == ["a1"]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ("a1,bad,Bob,2026-11-22", r"verdict 'bad' in row 2 \(image a1\); .* good, defect, unsure"),
        ("a1,,Bob,2026-11-22", r"verdict '' in row 2 .*clear verdict, reviewer and decided_at"),
        (",good,Bob,2026-11-22", r"no image_id in row 2\. Add it"),
        ("a1,good,,2026-11-22", r"no reviewer in row 2\. Add it"),
        ("a1,good,Bob,", r"decided_at is '' in row 2 .*Write ISO 8601 with the zone"),
        ("a1,good,Bob,22.11.2026", r"decided_at is '22.11.2026' in row 2 .*Write ISO 8601"),
        ("a1,good,Bob,2026-11-22T10:00:00", r"in row 2 .*, which has no zone\. Write ISO 8601"),
    ],
)
def test_a_row_that_says_what_it_must_not_is_named_with_what_to_do(tmp_path, row, wanted):
    path = written(tmp_path, "ok,good,Bob,2026-11-22", row)
    with pytest.raises(MissingData, match=wanted):
        verdicts.read(path)


def test_a_time_of_parquet_without_a_zone_is_refused(tmp_path):
    row = {"image_id": ["a1"], "verdict": ["good"], "reviewer": ["Bob"]}
    frame = pd.DataFrame(row | {"decided_at": [pd.Timestamp("2026-11-22 10:00")]})
    frame.to_parquet(tmp_path / "v.parquet")
    with pytest.raises(MissingData, match=r"in row 1 .*has no zone"):
        verdicts.read(tmp_path / "v.parquet")


def test_a_missing_table_and_missing_columns_are_refused_with_what_is_needed(tmp_path):
    with pytest.raises(MissingData, match=r"none\.csv\. Pass a CSV or parquet .* decided_at"):
        verdicts.read(tmp_path / "none.csv")
    path = written(tmp_path, "a1,good", head="image_id,verdict")
    with pytest.raises(MissingData, match=r"lacks the columns \['reviewer', 'decided_at'\]"):
        verdicts.read(path)
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(MissingData, match="not a whole table"):
        verdicts.read(tmp_path / "broken.parquet")
