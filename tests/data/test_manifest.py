import hashlib

import numpy as np
import pandas as pd
import pytest
from made_images import encoded, noise

from inspect_ai.data import images, manifest
from inspect_ai.data.specs import DataSpec, ImageRule
from inspect_ai.errors import LeakyData, MissingData, OutputInUse


def put(root, name, seed):
    """A grey PNG whose content the seed decides."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(".png", np.roll(noise(), seed)))


@pytest.fixture
def root(tmp_path):
    """12 good images of 4 lots, 3 defects of lot 9, one file that is no image."""
    rows = []
    for i in range(12):
        put(tmp_path, f"good/{i}.png", i)
        rows.append((f"good/{i}.png", "good", f"LOT{i // 3}-w{i}", 1.5 * i))
    for i in range(3):
        put(tmp_path, f"bad/{i}.png", 100 + i)
        rows.append((f"bad/{i}.png", "scratch", f"LOT9-w{i}", 0.0))
    (tmp_path / "bad" / "x.png").write_text("no image")
    rows.append(("bad/x.png", "maybe", "odd name", 1.0))
    table = pd.DataFrame(rows, columns=["path", "label", "wafer", "dose"])
    table["taken_at"] = pd.Timestamp("2026-03-04 05:06:07")
    table.to_parquet(tmp_path / "t.parquet")
    return tmp_path


def spec_of(root, **fields):
    given = {"name": "made", "root": root, "source": "a test", "licence": "none"}
    given |= {"layout": {"kind": "table", "table": "t.parquet"}}
    given |= {"label": {"good": ["good"], "unknown": ["maybe"]}}
    given |= {"group": {"column": "wafer", "pattern": "^(LOT\\d+)-"}}
    return DataSpec.checked(given | fields, "a test")


def test_an_image_is_named_by_its_pixels(root):
    table = manifest.make(spec_of(root)).table.set_index("image_path")
    pixels = images.read(root / "good/3.png", ImageRule())
    assert table.loc["good/3.png", "image_id"] == images.content_id(pixels)
    assert table["image_id"].dropna().nunique() == 15


def test_labels_become_good_defect_and_unknown(root):
    table = manifest.make(spec_of(root)).table
    assert table["gt_label"].dtype == "Int8"
    assert table["gt_label"].tolist() == [0] * 12 + [1] * 3 + [pd.NA]


def test_a_label_that_nobody_named_is_a_defect_and_none_at_all_is_unknown(tmp_path):
    put(tmp_path, "a.png", 1)
    fields = {"layout": {"kind": "files"}, "group": None}
    assert manifest.make(spec_of(tmp_path, **fields)).table["gt_label"].isna().all()
    all_good = manifest.make(spec_of(tmp_path, **fields, label={"all_good": True}))
    assert all_good.table["gt_label"].tolist() == [0]


def test_a_pattern_takes_the_lot_out_of_a_column_and_notes_what_has_none(root):
    made = manifest.make(spec_of(root))
    assert made.table["group"].tolist()[:4] == ["LOT0", "LOT0", "LOT0", "LOT1"]
    assert made.table["group"].iloc[-1] == "bad/x.png"
    assert "1 image(s) without a group: each is its own group" in made.notes


def test_without_a_group_column_each_image_is_its_own_and_a_note_says_so(root):
    made = manifest.make(spec_of(root, group={"column": "lot"}))
    assert (made.table["group"] == made.table["image_path"]).all()
    assert made.notes[0] == "no column 'lot': each image is its own group"


def test_an_unreadable_image_has_no_name_stops_nothing_and_is_noted(root):
    made = manifest.make(spec_of(root))
    bad = made.table.set_index("image_path").loc["bad/x.png"]
    assert pd.isna(bad["image_id"])
    assert bad["split"] == "test"
    note = "1 image(s) cannot be read; the first: bad/x.png: not a whole PNG, JPEG, BMP or TIFF"
    assert made.notes[-1].startswith(note)


def test_an_image_that_is_listed_but_not_there_is_unreadable(root):
    (root / "good" / "0.png").unlink()
    assert pd.isna(manifest.make(spec_of(root)).table["image_id"][0])


def test_the_progress_counts_every_image(root):
    calls = []
    manifest.make(spec_of(root), report=lambda *call: calls.append(call))
    assert calls == [(i, 16) for i in range(1, 17)]


def test_a_listing_reads_no_image_and_has_no_split(root):
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    table = manifest.listing(spec_of(root)).table
    assert len(table) == 16
    assert "image_id" not in table
    assert table["split"].isna().all()


def test_good_rows_and_parts_are_those_of_a_split(root):
    made = manifest.make(spec_of(root))
    assert (made.good("train")["gt_label"] == 0).all()
    assert sum(len(made.good(split)) for split in ("train", "calibrate", "test")) == 12
    assert len(made.part("all").table) == 16
    part = made.part("test").table
    assert (part["split"] == "test").all()
    assert part.index.tolist() == list(range(len(part)))
    assert {"LOT9", "bad/x.png"} <= set(part["group"])


def test_copies_of_a_file_are_counted_and_dealt_once(root):
    for i in range(6):
        put(root, f"good/{i}.png", 0)
    made = manifest.make(spec_of(root))
    assert manifest.copies(made.table) == 5
    same = made.table[made.table["image_id"] == made.table["image_id"][0]]
    assert sorted(set(same["split"]) - {"duplicate"}) in (["train"], ["calibrate"], ["test"])


# by folder


def folders(root, **fields):
    layout = {"kind": "folders"}
    split = {"by": "folder", "train": 0.5, "calibrate": 0.5, "test": 0.0}
    return spec_of(root, layout=layout, split=split, **({"group": None} | fields))


def test_one_content_in_train_and_test_folders_is_refused_by_name(tmp_path):
    put(tmp_path, "train/good/a.png", 1)
    put(tmp_path, "test/good/b.png", 1)
    with pytest.raises(LeakyData, match=r"content\(s\).*\(train/good/a\.png, test/good/b\.png\)"):
        manifest.make(folders(tmp_path))


def test_one_group_in_train_and_test_folders_is_refused_by_name(tmp_path):
    put(tmp_path, "train/good/p1_a.png", 1)
    put(tmp_path, "test/good/p1_b.png", 2)
    group = {"column": "image_path", "pattern": "(p\\d)_"}
    with pytest.raises(LeakyData, match=r"group\(s\) .* p1 in test and train"):
        manifest.make(folders(tmp_path, group=group))


def test_a_test_folder_stays_the_test_split(tmp_path):
    for i in range(10):
        put(tmp_path, f"train/good/{i}.png", i)
    put(tmp_path, "test/dent/1.png", 20)
    put(tmp_path, "test/dent/2.png", 20)
    counts = manifest.make(folders(tmp_path)).table["split"].value_counts()
    assert counts.to_dict() == {"train": 5, "calibrate": 5, "test": 2}


# checksums and roots


def test_a_changed_file_is_refused_at_the_specs_own_root_and_noted_elsewhere(root):
    digest = hashlib.sha256((root / "t.parquet").read_bytes()).hexdigest()
    right, wrong = ({"t.parquet": digest}, {"t.parquet": "0" * 64})
    assert not any("differs" in n for n in manifest.make(spec_of(root, checksums=right)).notes)
    with pytest.raises(MissingData, match=r"t\.parquet under .* Restore them, or .* --root"):
        manifest.make(spec_of(root, checksums=wrong))
    made = manifest.make(spec_of(root, checksums=wrong), root)
    assert "t.parquet differs from the published copy" in made.notes
    assert made.root == root


def test_a_named_file_that_is_absent_counts_as_changed(root):
    with pytest.raises(MissingData, match=r"readme\.txt under"):
        manifest.listing(spec_of(root, checksums={"readme.txt": "0" * 64}))


def test_a_simulated_set_is_made_where_its_own_root_is_absent(tmp_path):
    fields = {
        "layout": {"kind": "stack", "file": "maps.npz", "shapes": "shapes", "columns": ["lot"]},
        "image": {"kind": "wafer_map"},
        "label": {"good": ["none"]},
        "group": {"column": "lot"},
        "simulate": {"kind": "maps", "lots": 6, "wafers_per_lot": 2, "seed": 1},
    }
    spec = spec_of(tmp_path / "made", **fields)
    table = manifest.make(spec).table
    assert len(table) == 12
    assert table["group"].nunique() == 6
    with pytest.raises(MissingData, match="needs the folder"):
        manifest.listing(spec, tmp_path / "other")
    with pytest.raises(OutputInUse):
        manifest.simulate.write(spec.simulate, tmp_path / "made")


# written and read


def test_a_written_manifest_reads_back_equal_with_its_types(root, tmp_path):
    made = manifest.make(spec_of(root))
    manifest.write(made, tmp_path / "manifest.parquet")
    back = manifest.read(tmp_path / "manifest.parquet", made.spec, made.root)
    pd.testing.assert_frame_equal(back.table, made.table)
    types = back.table.dtypes
    assert types["gt_label"] == "Int8"
    assert types["dose"] == np.float64
    assert types["taken_at"].kind == "M"


def test_a_manifest_with_a_leak_is_not_read(root, tmp_path):
    made = manifest.make(spec_of(root))
    made.table["split"] = (["train", "test"] * 8)[: len(made.table)]
    manifest.write(made, tmp_path / "manifest.parquet")
    with pytest.raises(LeakyData, match="LOT0 in test and train"):
        manifest.read(tmp_path / "manifest.parquet", made.spec, root)


def test_a_manifest_that_is_missing_or_none_is_refused(root, tmp_path):
    with pytest.raises(MissingData, match=r"No manifest .* Pass a folder"):
        manifest.read(tmp_path / "none.parquet", spec_of(root), root)
    with pytest.raises(MissingData, match="lacks the columns"):
        manifest.read(root / "t.parquet", spec_of(root), root)
