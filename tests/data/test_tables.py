import numpy as np
import pandas as pd
import pytest
from made_images import encoded

from inspect_ai.data import layouts
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import MissingData


def spec_of(root, layout, **fields):
    given = {"name": "made", "root": root, "source": "a test", "licence": "none"}
    return DataSpec.checked(given | {"layout": layout} | fields, "a test")


def listed(root, layout):
    return layouts.rows(spec_of(root, layout), root)


TABLE = {"kind": "table", "mask": "mask"}


def written(root, frame, name):
    path = root / name
    frame.to_parquet(path) if name.endswith(".parquet") else frame.to_csv(path, index=False)


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_a_table_keeps_numbers_dates_and_words(tmp_path, name):
    frame = pd.DataFrame(
        {
            "path": ["a.png", "b/c.png"],
            "label": ["none", "NA"],
            "mask": ["", "m.png"],
            "wafer": [1, 2],
            "thickness": [1.5, np.nan],
            "taken_at": pd.to_datetime(["2026-01-02", "2026-01-03"]),
        }
    )
    written(tmp_path, frame, name)
    table, _ = listed(tmp_path, {**TABLE, "table": name})
    assert table["image_path"].tolist() == ["a.png", "b/c.png"]
    assert table["label"].tolist() == ["none", "NA"]
    assert table["mask_path"].isna().tolist() == [True, False]
    assert table["wafer"].dtype == np.int64
    assert table["thickness"].dtype == np.float64
    assert pd.to_datetime(table["taken_at"]).tolist() == frame["taken_at"].tolist()
    if name.endswith(".parquet"):
        assert table["taken_at"].dtype.kind == "M"


def test_labels_that_are_numbers_become_words(tmp_path):
    written(tmp_path, pd.DataFrame({"path": ["a.png", "b.png"], "label": [0, 1]}), "t.csv")
    table, _ = listed(tmp_path, {"kind": "table", "table": "t.csv"})
    assert table["label"].tolist() == ["0", "1"]


def test_columns_may_have_other_names_and_shadowed_ones_give_way(tmp_path):
    frame = pd.DataFrame(
        {"file": ["a.png"], "class": ["dent"], "label": ["old"], "image_path": ["x"]}
    )
    written(tmp_path, frame, "t.csv")
    names = {"table": "t.csv", "path": "file", "label": "class"}
    table, _ = listed(tmp_path, {"kind": "table", **names})
    assert table["image_path"].tolist() == ["a.png"]
    assert table["label"].tolist() == ["dent"]


def test_a_missing_column_names_those_there_are(tmp_path):
    written(tmp_path, pd.DataFrame({"path": ["a.png"], "klass": ["x"]}), "manifest.csv")
    with pytest.raises(
        MissingData, match=r"lacks the columns \['label', 'mask'\]; it has \['path', 'klass'\]"
    ):
        listed(tmp_path, TABLE)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00garbage\x81", b'path,label\n"a'])
def test_a_file_that_is_no_table_is_named(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MissingData, match=rf"{name} "):
        listed(tmp_path, {"kind": "table", "table": name})


def test_a_missing_table_says_what_to_correct(tmp_path):
    with pytest.raises(MissingData, match=r"No table .*manifest\.csv\. Write it, or correct"):
        listed(tmp_path, TABLE)


def test_an_empty_table_has_no_image(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\n")
    with pytest.raises(MissingData, match="no image for layout 'table'"):
        listed(tmp_path, {"kind": "table", "table": "t.csv"})


OUTSIDE = [
    "../x.png",
    "a/../../x.png",
    "/etc/x.png",
    "C:/x.png",
    "C:x.png",
    "a\\x.png",
    "\\\\s\\x.png",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("column", ["path", "mask"])
def test_a_path_that_leaves_the_root_is_refused(tmp_path, path, column):
    row = {"path": "a.png", "label": "good", "mask": "m.png"} | {column: path}
    written(tmp_path, pd.DataFrame([row]), "manifest.csv")
    with pytest.raises(MissingData, match=r"not a path under the root. Write it relative"):
        listed(tmp_path, TABLE)


def test_a_path_with_dots_in_its_name_is_fine(tmp_path):
    frame = pd.DataFrame({"path": ["a..b/c...png", "./d.png"], "label": ["x", "y"]})
    written(tmp_path, frame, "t.csv")
    assert len(listed(tmp_path, {"kind": "table", "table": "t.csv"})[0]) == 2


@pytest.mark.parametrize(("second", "words"), [("a.png", "lists 1 path"), ("", "no path in row 2")])
def test_a_path_that_is_there_twice_or_not_at_all_is_refused(tmp_path, second, words):
    (tmp_path / "t.csv").write_text(f"path,label\na.png,x\n{second},y\n")
    with pytest.raises(MissingData, match=words):
        listed(tmp_path, {"kind": "table", "table": "t.csv"})


def test_a_table_may_list_wafer_maps(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(".png", np.array([[0, 1], [2, 1]], np.uint8)))
    written(tmp_path, pd.DataFrame({"path": ["a.png"], "label": ["none"]}), "manifest.csv")
    spec = spec_of(tmp_path, {"kind": "table"}, image={"kind": "wafer_map"})
    assert layouts.reader(spec, tmp_path)("a.png").tolist() == [[[0, 1], [2, 1]]]
