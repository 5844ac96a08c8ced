import shutil

import numpy as np
import pandas as pd
import pytest
from made_images import encoded

from inspect_ai.data import layouts
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadImages, BadSettings, MissingData

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def spec_of(root, layout, **fields):
    given = {"name": "made", "root": root, "source": "a test", "licence": "none"}
    return DataSpec.checked(given | {"layout": layout} | fields, "a test")


def put(root, *names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(path.suffix.lower(), PIXELS + np.uint8(number)))


def listed(root, layout, **fields):
    return layouts.rows(spec_of(root, layout, **fields), root)


# folders


@pytest.fixture
def mvtec(tmp_path):
    """Defects a and c have masks, b has none: by order, b would get the mask of c."""
    put(tmp_path, "train/good/1.png", "train/good/2.png", "test/good/1.png")
    put(tmp_path, "test/scratch/a.png", "test/scratch/b.png", "test/scratch/c.png")
    put(tmp_path, "ground_truth/scratch/a_mask.png", "ground_truth/scratch/c_mask.png")
    return tmp_path


def test_folders_give_split_label_and_the_mask_of_the_same_name(mvtec):
    table, notes = listed(mvtec, {"kind": "folders"})
    seen = table.set_index("image_path")
    assert list(seen.loc["train/good/1.png", ["split", "label"]]) == ["train", "good"]
    assert list(seen.loc["test/scratch/b.png", ["split", "label"]]) == ["test", "scratch"]
    assert seen.loc["test/scratch/a.png", "mask_path"] == "ground_truth/scratch/a_mask.png"
    assert seen.loc["test/scratch/c.png", "mask_path"] == "ground_truth/scratch/c_mask.png"
    assert seen["mask_path"].isna().sum() == 4
    assert not notes


def test_the_order_of_rows_is_fixed(mvtec):
    paths = listed(mvtec, {"kind": "folders"})[0]["image_path"].tolist()
    assert paths[:2] == ["train/good/1.png", "train/good/2.png"]
    assert paths[2:] == sorted(paths[2:])


def test_images_of_one_name_in_two_folders_have_their_own_masks(tmp_path):
    put(tmp_path, "train/good/1.png", "test/dent/left/1.png", "test/dent/right/1.png")
    put(tmp_path, "ground_truth/dent/left/1_mask.png", "ground_truth/dent/right/1_mask.png")
    table = listed(tmp_path, {"kind": "folders"})[0].set_index("image_path")
    for side in ("left", "right"):
        row = table.loc[f"test/dent/{side}/1.png"]
        assert row["mask_path"] == f"ground_truth/dent/{side}/1_mask.png"
        assert row["label"] == "dent"


def test_a_mask_may_be_of_another_format_than_its_image(tmp_path):
    put(tmp_path, "train/good/1.jpg", "test/dent/1.jpg", "ground_truth/dent/1_mask.BMP")
    table = listed(tmp_path, {"kind": "folders"})[0]
    assert table["mask_path"].dropna().tolist() == ["ground_truth/dent/1_mask.BMP"]


def test_other_folder_names_and_a_name_with_a_dot(tmp_path):
    put(tmp_path, "ok/good/w.1.png", "all/bad/w.2.png", "masks/bad/w.2.png")
    names = {"train": "ok", "test": "all", "masks": "masks", "mask_suffix": ""}
    table = listed(tmp_path, {"kind": "folders", **names})[0]
    assert table["split"].tolist() == ["train", "test"]
    assert table["mask_path"].dropna().tolist() == ["masks/bad/w.2.png"]


def test_an_image_in_no_class_folder_has_no_label_and_a_note_says_so(tmp_path):
    put(tmp_path, "train/good/1.png", "test/2.png")
    table, notes = listed(tmp_path, {"kind": "folders"})
    assert table["label"].isna().tolist() == [False, True]
    assert notes == ["1 image(s) lie in no class folder: their label is unknown"]


def test_suffixes_of_any_case_count_and_other_files_and_folders_do_not(tmp_path):
    names = ["a.PNG", "b.Jpg", "c.jpeg", "d.BMP", "e.TIF", "f.tiff"]
    put(tmp_path, *names)
    (tmp_path / "g.png").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "png").write_text("x")
    assert listed(tmp_path, {"kind": "files"})[0]["image_path"].tolist() == names


def test_files_are_found_however_deep_and_have_no_label(tmp_path):
    put(tmp_path, "b/c/d/1.png", "a.png")
    table = listed(tmp_path, {"kind": "files"})[0]
    assert table["image_path"].tolist() == ["a.png", "b/c/d/1.png"]
    assert table[["label", "mask_path", "split"]].isna().all(axis=None)


@pytest.mark.parametrize("kind", ["folders", "files"])
@pytest.mark.parametrize("text", [False, True])
def test_a_folder_without_images_says_what_to_put_there(tmp_path, kind, text):
    if text:
        (tmp_path / "train" / "good").mkdir(parents=True)
        (tmp_path / "train" / "good" / "a.txt").write_text("x")
    with pytest.raises(
        MissingData, match=rf"no image for layout '{kind}'.*Put images there \(\.bmp"
    ):
        listed(tmp_path, {"kind": kind})


# a table joined to folders


def test_a_joined_table_brings_its_columns_and_loses_no_image(mvtec):
    path = mvtec / "split.csv"
    path.write_text("path_or_index,lot,label\ntest/scratch/a.png,7,ignored\ntrain/good/1.png,8,x\n")
    table, notes = listed(mvtec, {"kind": "folders", "table": "split.csv"})
    seen = table.set_index("image_path")
    assert len(table) == 6
    assert seen.loc["test/scratch/a.png", "lot"] == 7
    assert seen.loc["test/scratch/a.png", "label"] == "scratch"
    assert seen["lot"].isna().sum() == 4
    assert notes == ["4 of 6 images are not in split.csv: their columns are empty"]


def test_a_table_of_backslashes_matches_nothing_and_a_note_says_so(mvtec):
    (mvtec / "split.csv").write_text("path_or_index,lot\ntrain\\good\\1.png,7\n")
    _, notes = listed(mvtec, {"kind": "folders", "table": "split.csv"})
    assert notes == ["6 of 6 images are not in split.csv: their columns are empty"]


def test_an_absent_joined_table_is_a_note(mvtec):
    table, notes = listed(mvtec, {"kind": "folders", "table": "split.csv"})
    assert len(table) == 6
    assert notes == [f"split.csv is not under {mvtec}: its columns are empty"]


def test_a_joined_table_without_its_path_column_names_what_there_is(mvtec):
    (mvtec / "split.csv").write_text("file,lot\nx,1\n")
    with pytest.raises(
        MissingData, match=r"lacks the columns \['path_or_index'\]; it has \['file'"
    ):
        listed(mvtec, {"kind": "folders", "table": "split.csv"})


# all layouts


def test_the_reader_gives_checked_pixels_and_names_a_missing_file(tmp_path):
    put(tmp_path, "a.png")
    read = layouts.reader(spec_of(tmp_path, {"kind": "files"}), tmp_path)
    assert np.array_equal(read("a.png")[0], PIXELS)
    with pytest.raises(BadImages, match=r"b\.png: No such file"):
        read("b.png")


def test_a_listing_is_the_same_wherever_the_folder_stands(mvtec, tmp_path):
    moved = tmp_path / "elsewhere"
    for part in ("train", "test", "ground_truth"):
        shutil.copytree(mvtec / part, moved / part)
    here, there = (listed(root, {"kind": "folders"})[0] for root in (mvtec, moved))
    pd.testing.assert_frame_equal(here, there)


def test_a_stack_needs_the_rule_of_wafer_maps(tmp_path):
    with pytest.raises(BadSettings, match=r"'stack' and 'lswmd' go with image.kind = 'wafer_map'"):
        spec_of(tmp_path, {"kind": "stack", "file": "x.npz"})
