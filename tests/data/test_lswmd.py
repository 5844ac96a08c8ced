from pathlib import Path

import numpy as np
import pytest
from old_pickle import (
    Call,
    Name,
    New,
    block,
    dtype,
    dumps,
    frame,
    index,
    objects,
    oldest_index,
    range_index,
)

from inspect_ai.data import lswmd, manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import MissingData

NAMES = ("waferMap", "dieSize", "lotName", "waferIndex", "trianTestLabel", "failureType")
NUMBERS = ("dieSize", "waferIndex")
OTHERS = tuple(name for name in NAMES if name not in NUMBERS)
MAPS = [np.array(m, np.uint8) for m in ([[0, 1], [2, 1]], [[1, 2, 0]], [[0, 1, 0], [1, 1, 2]])]
EMPTY = np.empty((0, 0), "<U1")


def columns():
    return {
        "waferMap": objects(*MAPS),
        "dieSize": np.array([4.0, 3.0, 6.0]),
        "lotName": objects("lot1", "lot1", "lot2"),
        "waferIndex": np.array([1.0, 2.0, 1.0]),
        "trianTestLabel": objects(np.array([["Training"]]), EMPTY, np.array([["Test"]])),
        "failureType": objects(np.array([["none"]]), EMPTY, np.array([["Edge-Ring"]])),
    }


def names(chosen, label=index, kind=bytes):
    """An Index of column names, which Python 2 kept as str or as unicode."""
    return label(objects(*(n.encode() if kind is bytes else n for n in chosen)))


def places(chosen):
    return np.array([NAMES.index(name) for name in chosen])


def made(data=None, rows=None, where=None, label=index, kind=bytes):
    data = data or columns()
    axes = [names(NAMES, label, kind), range_index(3) if rows is None else rows]
    blocks = [block(data, NUMBERS), block(data, OTHERS)]
    items = [names(NUMBERS, label, kind), names(OTHERS, label, kind)]
    return frame(axes, blocks, items, where)


def by_hand(data=None):
    return made(data, where=[places(NUMBERS), places(OTHERS)])


def with_slices():
    """Numbers side by side in columns 1 and 3, the object columns one block each."""
    data = columns()
    blocks = [block(data, NUMBERS), *(block(data, [name]) for name in OTHERS)]
    at = [slice(1, 5, 2), *(slice(i, i + 1, 1) for i in map(NAMES.index, OTHERS))]
    items = [names(NUMBERS), *(names([name]) for name in OTHERS)]
    return frame([names(NAMES), range_index(3)], blocks, items, at)


def age(module, row_axis):
    def label(values):
        return index(values, module)

    return made(rows=row_axis, where=[places(NUMBERS), places(OTHERS)], label=label)


WAYS = {
    "places as arrays": by_hand,
    "places as slices": with_slices,
    "without the 0.14.1 part": made,
    "indexes that are arrays": lambda: made(rows=oldest_index(np.arange(3)), label=oldest_index),
    "names in unicode": lambda: made(where=[places(NUMBERS), places(OTHERS)], kind=str),
    "rows numbered one by one": lambda: made(
        rows=index(np.arange(3), name="Int64Index"), where=[places(NUMBERS), places(OTHERS)]
    ),
    "pandas 0.15": lambda: age(
        "pandas.core.index", index(np.arange(3), "pandas.core.index", "Int64Index")
    ),
    "pandas 0.20": lambda: age(
        "pandas.core.indexes.base", range_index(3, "pandas.core.indexes.range")
    ),
}


@pytest.fixture
def keep(tmp_path):
    def write(value):
        path = tmp_path / "LSWMD.pkl"
        path.write_bytes(value if isinstance(value, bytes) else dumps(value))
        return path

    return write


@pytest.mark.parametrize("way", WAYS)
def test_reads_a_frame_as_every_pandas_0_pickled_it(keep, way):
    table = lswmd.read(keep(WAYS[way]()))
    assert tuple(table.columns) == NAMES
    for read, wafer in zip(table["waferMap"], MAPS, strict=True):
        assert read.dtype == np.uint8
        assert np.array_equal(read, wafer)
    assert list(table["lotName"]) == ["lot1", "lot1", "lot2"]
    assert list(table["waferIndex"]) == [1, 2, 1]
    assert list(table["dieSize"]) == [4, 3, 6]
    assert list(table["trianTestLabel"]) == ["Training", "", "Test"]
    assert list(table["failureType"]) == ["none", "", "Edge-Ring"]


@pytest.mark.parametrize(
    "label",
    [
        np.array([["Loc"]]),
        np.array(["Loc"]),
        np.array([[b"Loc"]]),
        objects(np.array(["Loc"])),
        b"Loc",
        "Loc",
        [["Loc"]],
        np.array([["Loc"]], order="F"),
        np.array([["Loc"]], dtype=">U4"),
    ],
)
def test_finds_a_label_in_whatever_it_is_nested(keep, label):
    data = columns() | {"failureType": objects(label, [], EMPTY)}
    assert list(lswmd.read(keep(by_hand(data)))["failureType"]) == ["Loc", "", ""]


def test_reads_numbers_kept_one_by_one_as_numpy_scalars(keep):
    numbers = [
        Call(
            Name("numpy.core.multiarray", "scalar"),
            (dtype(np.dtype("f8")), np.float64(i).tobytes()),
        )
        for i in range(3)
    ]
    data = columns() | {"lotName": objects(*numbers)}
    assert list(lswmd.read(keep(by_hand(data)))["lotName"]) == ["0.0", "1.0", "2.0"]


def test_an_array_in_fortran_order_is_not_turned(keep):
    state = (1, (2, 3), dtype(np.dtype("u1")), True, bytes([1, 2, 1, 0, 1, 2]))
    kind = (Name("numpy", "ndarray"), (0,), b"b")
    wafer = Call(Name("numpy.core.multiarray", "_reconstruct"), kind, state)
    data = columns() | {"waferMap": objects(wafer, *MAPS[1:])}
    read = lswmd.read(keep(by_hand(data)))["waferMap"][0]
    assert read.tolist() == [[1, 1, 1], [2, 0, 2]]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("__builtin__", "eval"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy.testing._private.utils", "runstring"),
        ("pandas", "read_pickle"),
        ("pandas.io.common", "urlopen"),
        ("numpy.core.multiarray", "frompyfunc"),
        ("copy_reg", "_reconstructor"),
        ("pickle", "loads"),
        ("pandas.core.frame", "DataFrame.to_csv"),
    ],
)
def test_refuses_any_other_name_without_running_anything(keep, tmp_path, module, name):
    proof = tmp_path / "ran"
    path = keep(Call(Name(module, name), (f"touch {proof}",)))
    with pytest.raises(MissingData, match=rf"{module}\.{name}, which a LSWMD.pkl never needs"):
        lswmd.read(path)
    assert not proof.exists()


def test_refuses_a_name_hidden_in_a_map(keep):
    data = columns() | {"waferMap": objects(Call(Name("os", "getcwd"), ()), *MAPS[1:])}
    with pytest.raises(MissingData, match=r"os\.getcwd"):
        lswmd.read(keep(by_hand(data)))


@pytest.mark.parametrize("code", [b"V8", b"M8", b"O8,O8", b"{}"])
def test_refuses_arrays_of_types_that_a_wafer_has_not(keep, code):
    kind = Call(Name("numpy", "dtype"), (code, 0, 1), (3, b"|", None, None, None, -1, -1, 0))
    state = (1, (1, 1), kind, False, b"\0" * 8)
    args = (Name("numpy", "ndarray"), (0,), b"b")
    wafer = Call(Name("numpy.core.multiarray", "_reconstruct"), args, state)
    data = columns() | {"waferMap": objects(wafer, *MAPS[1:])}
    with pytest.raises(MissingData, match="not a whole LSWMD"):
        lswmd.read(keep(by_hand(data)))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_cut_off_file_is_named_and_a_new_download_advised(keep, share):
    whole = dumps(by_hand())
    path = keep(whole[: int(len(whole) * share)])
    with pytest.raises(MissingData, match=r"LSWMD\.pkl is not a whole .*Download it again"):
        lswmd.read(path)


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        None,
        Name("pandas.core.frame", "DataFrame"),
        New(Name("pandas.core.frame", "DataFrame"), {b"_data": None}),
        New(Name("pandas.core.frame", "DataFrame"), {}),
        New(Name("pandas.core.internals", "BlockManager"), ([], [], [])),
        Call(Name("__builtin__", "slice"), (1, 2, 3)),
    ],
)
def test_anything_that_is_no_frame_is_refused(keep, value):
    with pytest.raises(MissingData, match="not a whole LSWMD"):
        lswmd.read(keep(value))


def test_text_is_refused(keep):
    with pytest.raises(MissingData, match="not a whole LSWMD"):
        lswmd.read(keep(b"waferMap,lotName\n"))


def test_a_frame_without_a_column_names_what_there_is(keep):
    data = columns()
    data["lot"] = data.pop("lotName")
    chosen = [*NUMBERS, *(("lot" if n == "lotName" else n) for n in OTHERS)]
    axes = [names(chosen), range_index(3)]
    numbers, others = chosen[:2], chosen[2:]
    blocks = [block(data, numbers), block(data, others)]
    path = keep(frame(axes, blocks, [names(numbers), names(others)]))
    with pytest.raises(MissingData, match=r"lacks the columns \['lotName'\]; it has .*'lot'"):
        lswmd.read(path)


def test_a_missing_file_says_what_to_correct(tmp_path):
    with pytest.raises(MissingData, match=r"No file .*LSWMD\.pkl\. Correct 'file'"):
        lswmd.read(tmp_path / "LSWMD.pkl")


def spec_of(root: Path, **fields):
    given = {
        "name": "lswmd",
        "root": root,
        "source": "mirlab.org",
        "licence": "see there",
        "layout": {"kind": "lswmd"},
        "image": {"kind": "wafer_map"},
        "label": {"good": ["none"]},
        "group": {"column": "lot"},
    }
    return DataSpec.checked(given | fields, "a test")


def test_a_spec_reads_maps_labels_and_lots(keep, tmp_path):
    keep(by_hand())
    table = manifest.make(spec_of(tmp_path)).table
    assert list(table["image_path"]) == [f"LSWMD.pkl#{i:06d}" for i in range(3)]
    assert table["label"].fillna("?").tolist() == ["none", "?", "Edge-Ring"]
    assert table["gt_label"].fillna(-1).tolist() == [0, -1, 1]
    assert table["group"].tolist() == table["lot"].tolist() == ["lot1", "lot1", "lot2"]
    assert table["wafer"].tolist() == [1, 2, 1]
    assert table["image_id"].notna().all()


def test_a_map_without_a_die_is_listed_but_not_read(keep, tmp_path):
    blank = np.zeros((2, 2), np.uint8)
    keep(by_hand(columns() | {"waferMap": objects(blank, MAPS[1], np.full((2, 2), 3, np.uint8))}))
    made_of = manifest.make(spec_of(tmp_path))
    assert made_of.table["image_id"].isna().tolist() == [True, False, True]
    assert made_of.notes == (
        "2 image(s) cannot be read; the first: LSWMD.pkl#000000: a wafer map with no die (all 0). "
        "Drop it from the data.",
    )


def test_a_map_of_another_type_is_not_converted(keep, tmp_path):
    wide = np.array([[256, 1]], np.int64)
    keep(by_hand(columns() | {"waferMap": objects(wide, *MAPS[1:])}))
    assert "pixels are int64" in manifest.make(spec_of(tmp_path)).notes[0]
