import zipfile

import numpy as np
import pytest

from inspect_ai.data import layouts, manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.data.stack import Stack
from inspect_ai.errors import BadImages, MissingData

RNG = np.random.default_rng(3)
MAPS = RNG.integers(1, 3, (6, 5, 4), dtype=np.uint8)
SHAPES = np.array([[5, 4], [3, 2], [1, 1], [5, 1], [2, 4], [4, 4]])
LABELS = np.array(["none", "Loc", "none", "Donut", "none", "Scratch"])
LAYOUT = {"kind": "stack", "file": "maps.npz", "shapes": "shapes", "columns": ["lot"]}


def saved(root, compressed=True, **changes):
    arrays = {"maps": MAPS, "shapes": SHAPES, "labels": LABELS, "lot": np.arange(6) // 2} | changes
    save = np.savez_compressed if compressed else np.savez
    save(root / "maps.npz", **{k: v for k, v in arrays.items() if v is not None})
    return root


def spec_of(root, **layout):
    fields = {"name": "s", "root": root, "source": "a test", "licence": "none"}
    fields |= {"layout": LAYOUT | layout, "image": {"kind": "wafer_map"}}
    return DataSpec.checked(fields | {"label": {"good": ["none"]}}, "a test")


def names(rows):
    return [f"maps.npz#{row:06d}" for row in rows]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("rows", [range(6), range(5, -1, -1), [2, 2, 0, 5, 1, 1]])
def test_reads_maps_of_native_shape_in_any_order(tmp_path, compressed, rows):
    read = layouts.reader(spec_of(saved(tmp_path, compressed)), tmp_path)
    for row, name in zip(rows, names(rows), strict=True):
        height, width = SHAPES[row]
        assert np.array_equal(read(name), MAPS[row, :height, :width][None])


def test_lists_a_row_for_each_map_with_label_and_columns(tmp_path):
    table, notes = layouts.rows(spec_of(saved(tmp_path)), tmp_path)
    assert table["image_path"].tolist() == names(range(6))
    assert table["label"].tolist() == LABELS.tolist()
    assert table["lot"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["mask_path"].isna().all()
    assert not notes


def test_without_shapes_and_labels_maps_are_whole_and_unknown(tmp_path):
    spec = spec_of(saved(tmp_path), shapes=None, label=None)
    assert layouts.reader(spec, tmp_path)("maps.npz#000002").shape == (1, 5, 4)
    assert layouts.rows(spec, tmp_path)[0]["label"].isna().all()


def test_masks_come_in_native_shape_too(tmp_path):
    masks = (MAPS == 2).astype(np.uint8)
    spec = spec_of(saved(tmp_path, masks=masks), masks="masks")
    mask_path = layouts.rows(spec, tmp_path)[0]["mask_path"][4]
    assert np.array_equal(layouts.read_mask(spec, tmp_path, mask_path), masks[4, :2, :4] > 0)


def test_a_stack_without_masks_has_none(tmp_path):
    assert layouts.read_mask(spec_of(saved(tmp_path)), tmp_path, "maps.npz#000000") is None


def test_labels_of_bytes_are_words(tmp_path):
    table, _ = layouts.rows(spec_of(saved(tmp_path, labels=LABELS.astype("S"))), tmp_path)
    assert table["label"].tolist() == LABELS.tolist()


def test_missing_maps_are_named_with_the_arrays_there_are(tmp_path):
    with pytest.raises(
        MissingData, match=r"has no array 'wafers'; it has labels, lot, maps, shapes"
    ):
        layouts.rows(spec_of(saved(tmp_path), maps="wafers"), tmp_path)


@pytest.mark.parametrize(
    ("layout", "missing"), [({"columns": ["tool"]}, "tool"), ({"label": "kind"}, "kind")]
)
def test_a_missing_column_is_left_out_and_said(tmp_path, layout, missing):
    table, notes = layouts.rows(spec_of(saved(tmp_path), **layout), tmp_path)
    assert notes == [f"maps.npz has no array {missing}: left out"]
    assert len(table) == len(MAPS)
    assert "tool" not in table


def test_objects_are_refused_and_never_unpickled(tmp_path):
    saved(tmp_path, labels=LABELS.astype(object), maps=MAPS.astype(object))
    with pytest.raises(MissingData, match=r"'maps' .*not a plain array .*ascontiguousarray"):
        layouts.reader(spec_of(tmp_path), tmp_path)
    with pytest.raises(MissingData, match=r"'labels' .*cannot be read: Object arrays"):
        layouts.rows(spec_of(tmp_path), tmp_path)


def test_fortran_order_is_refused_and_the_advice_works(tmp_path):
    fortran = np.asfortranarray(MAPS)
    with pytest.raises(MissingData, match="not a plain array in row order"):
        layouts.reader(spec_of(saved(tmp_path, maps=fortran)), tmp_path)
    saved(tmp_path, maps=np.ascontiguousarray(fortran))
    layouts.reader(spec_of(tmp_path), tmp_path)("maps.npz#000000")


@pytest.mark.parametrize("maps", [MAPS[:, :, 0], MAPS[..., None], np.uint8(1)])
def test_an_array_that_is_no_stack_of_maps_is_refused(tmp_path, maps):
    with pytest.raises(MissingData, match=r"two sides|not a plain array"):
        layouts.reader(spec_of(saved(tmp_path, maps=maps)), tmp_path)


@pytest.mark.parametrize("shapes", [SHAPES[:3], SHAPES.astype(float), -SHAPES, SHAPES[:, :1]])
def test_shapes_that_fit_no_stack_are_refused(tmp_path, shapes):
    with pytest.raises(MissingData, match=r"6 maps need whole numbers \(6, 2\)"):
        layouts.reader(spec_of(saved(tmp_path, shapes=shapes)), tmp_path)


def test_a_map_of_no_size_is_refused_by_name(tmp_path):
    read = layouts.reader(spec_of(saved(tmp_path, shapes=SHAPES * 0)), tmp_path)
    with pytest.raises(BadImages, match=r"maps\.npz#000001: an array of shape \(1, 0, 0\)"):
        read("maps.npz#000001")


@pytest.mark.parametrize("column", [np.arange(5), np.zeros((6, 8))])
def test_a_column_that_has_not_one_value_a_map_is_refused(tmp_path, column):
    with pytest.raises(MissingData, match=r"'lot' .* has the shape .* there are 6 maps"):
        layouts.rows(spec_of(saved(tmp_path, lot=column)), tmp_path)


def test_maps_of_another_type_are_not_converted(tmp_path):
    made = manifest.make(spec_of(saved(tmp_path, maps=MAPS.astype(np.int64))))
    assert made.table["image_id"].isna().all()
    assert "6 image(s) cannot be read" in made.notes[0]
    assert "pixels are int64" in made.notes[0]


@pytest.mark.parametrize("name", ["maps.npz#000006", "maps.npz#-1", "maps.npz#", "a.png", ""])
def test_a_row_that_is_not_there_is_refused(tmp_path, name):
    read = layouts.reader(spec_of(saved(tmp_path)), tmp_path)
    with pytest.raises(MissingData, match="names none of the 6 maps"):
        read(name)


@pytest.mark.parametrize("row", [-1, 6])
def test_rows_beyond_the_stack_are_refused(tmp_path, row):
    saved(tmp_path)
    with pytest.raises(MissingData, match=rf"has 6 rows, row {row} was asked for"):
        Stack(tmp_path / "maps.npz").rows("maps")[row]


def test_a_missing_file_a_folder_and_text_are_named(tmp_path):
    for make, words in (
        (lambda path: None, "No file"),
        (lambda path: path.write_text("x"), "not a whole npz"),
        (lambda path: (path.unlink(), path.mkdir()), "directory"),
    ):
        make(tmp_path / "maps.npz")
        with pytest.raises(MissingData, match=rf"maps\.npz.*{words}|{words}.*maps\.npz"):
            layouts.rows(spec_of(tmp_path), tmp_path)


def test_a_cut_off_file_is_named(tmp_path):
    path = saved(tmp_path) / "maps.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MissingData, match=r"maps\.npz is not a whole npz file\. Copy it again"):
        layouts.rows(spec_of(tmp_path), tmp_path)


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_inside_the_stack_is_named_and_never_read_as_pixels(tmp_path, compressed):
    maps = RNG.integers(1, 3, (200, 40, 40), dtype=np.uint8)
    more = {"shapes": None, "labels": None, "lot": None}
    path = saved(tmp_path, compressed, maps=maps, **more) / "maps.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    read = layouts.reader(spec_of(tmp_path, shapes=None), tmp_path)
    with pytest.raises((MissingData, BadImages), match=r"cannot be read|a pixel of"):
        for name in names(range(200)):
            read(name)


def test_an_array_shorter_than_its_header_says_is_named(tmp_path):
    saved(tmp_path)
    with zipfile.ZipFile(tmp_path / "maps.npz") as file:
        data = file.read("maps.npy")
    with zipfile.ZipFile(tmp_path / "maps.npz", "w") as file:
        file.writestr("maps.npy", data[:-15])
    read = layouts.reader(spec_of(tmp_path, shapes=None, label=None, columns=[]), tmp_path)
    read("maps.npz#000004")
    with pytest.raises(MissingData, match=r"'maps' .*it ends in row 5"):
        read("maps.npz#000005")
