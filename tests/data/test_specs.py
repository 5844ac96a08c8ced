from pathlib import Path

import numpy as np
import pytest

from inspect_ai.data.specs import DataSpec, ImageRule, plain_folder
from inspect_ai.errors import BadSettings, MissingData

HOUSE = Path(__file__).parents[2]
FIELDS = {"name": "x", "root": "data", "source": "a test", "licence": "none"}
FIELDS |= {"layout": {"kind": "folders"}}


def spec_of(**fields):
    return DataSpec.checked(FIELDS | fields, "a test")


@pytest.mark.parametrize(
    "path", sorted((HOUSE / "data_specs").glob("*.toml")), ids=lambda p: p.stem
)
def test_every_spec_of_the_house_is_sound_and_named_like_its_file(path):
    assert DataSpec.from_toml(path).name == path.stem


def test_the_hash_names_the_content_and_not_the_place():
    spec = spec_of()
    assert spec.hash() == spec_of(root="elsewhere").hash()
    assert len(spec.hash()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"name": "y"},
        {"image": {"channels": 3}},
        {"split": {"seed": 1}},
        {"label": {"good": ["ok"]}},
        {"checksums": {"a": "b"}},
        {"group": {"column": "lot"}},
        {"layout": {"kind": "files"}},
    ],
)
def test_the_hash_changes_with_anything_else(change):
    assert spec_of(**change).hash() != spec_of().hash()


@pytest.mark.parametrize(
    ("depth", "dtype", "largest"),
    [
        (8, np.uint8, 255),
        (10, np.uint16, 1023),
        (12, np.uint16, 4095),
        (14, np.uint16, 16383),
        (16, np.uint16, 65535),
    ],
)
def test_a_depth_gives_type_and_largest_pixel(depth, dtype, largest):
    rule = ImageRule(depth=depth)
    assert rule.dtype is dtype
    assert rule.largest == largest


def test_float_images_and_wafer_maps_have_their_own_largest_pixel():
    assert ImageRule(depth=32, minimum=-1, maximum=7.5).largest == 7.5
    assert ImageRule(depth=32, minimum=-1, maximum=7.5).dtype is np.float32
    assert ImageRule(kind="wafer_map").largest == 2


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"depth": 32}, "needs minimum and maximum"),
        ({"minimum": 5, "maximum": 5}, "maximum must lie above minimum"),
        ({"height": 5}, "give height and width together"),
        ({"kind": "wafer_map", "channels": 3}, "a wafer_map has channels = 1 and depth = 8"),
        ({"kind": "wafer_map", "depth": 16}, "a wafer_map has channels = 1 and depth = 8"),
        ({"valid_region": "m.png", "resize": "fit"}, "valid_region needs resize = 'stretch'"),
        ({"depth": 9}, "Input should be 8, 10, 12, 14, 16 or 32, got 9"),
        ({"channels": 0}, "greater than or equal to 1, got 0"),
    ],
)
def test_an_image_rule_that_does_not_fit_together_is_refused(image, words):
    with pytest.raises(BadSettings, match=words):
        spec_of(image=image)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("lot", r"needs exactly one \(bracket\)"),
        ("(a)(b)", "needs exactly one"),
        ("(", "is no pattern"),
    ],
)
def test_a_group_pattern_needs_one_bracket(pattern, words):
    with pytest.raises(BadSettings, match=words):
        spec_of(group={"column": "lot", "pattern": pattern})


@pytest.mark.parametrize("split", [{"train": 0.5, "test": 0.4}, {"train": 1.0}, {"seed": -1}])
def test_shares_that_do_not_add_up_are_refused(split):
    with pytest.raises(BadSettings, match=r"must be 1|less than 1|greater than or equal to 0"):
        spec_of(split=split)


def test_a_split_by_folder_needs_folders():
    with pytest.raises(BadSettings, match=r"needs layout.kind = 'folders'"):
        spec_of(layout={"kind": "files"}, split={"by": "folder"})


@pytest.mark.parametrize("kind", ["stack", "lswmd"])
def test_stacks_hold_wafer_maps_only(kind):
    with pytest.raises(BadSettings, match=r"go with image.kind = 'wafer_map'"):
        spec_of(layout={"kind": kind, "file": "x"})


@pytest.mark.parametrize("kind", ["folders", "table", "files"])
def test_wafer_maps_may_also_be_pictures(kind):
    assert spec_of(layout={"kind": kind}, image={"kind": "wafer_map"}).image.largest == 2


@pytest.mark.parametrize("rule", [ImageRule(), ImageRule(kind="wafer_map")])
def test_a_plain_folder_takes_any_rule(rule):
    assert plain_folder(rule).image == rule


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../x"])
def test_a_name_is_fit_for_a_folder(name):
    with pytest.raises(BadSettings, match="'name'"):
        spec_of(name=name)


def test_a_root_that_is_not_there_says_what_to_pass(tmp_path):
    with pytest.raises(MissingData, match=r"needs the folder .*none.* Pass .* with --root DIR"):
        spec_of().located(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(MissingData, match="needs the folder"):
        spec_of(root=tmp_path / "file").located(None)


def test_a_given_root_comes_before_the_specs_own(tmp_path):
    assert spec_of(root=tmp_path).located(None) == tmp_path
    assert spec_of().located(tmp_path) == tmp_path
