import pytest
from pydantic import Field

from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.settings import Settings


class Deep(Settings):
    size: int = Field(default=1, ge=1, le=9)
    name: str = "x"


class Top(Settings):
    count: int
    deep: Deep = Deep()
    maybe: Deep | None = None
    many: tuple[Deep, ...] = ()


SPEC = """
name = "x"
root = "data"
source = "a test"
licence = "none"
"""
FOLDERS = SPEC + '[layout]\nkind = "folders"\n'


def checked(kind, tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return kind.from_toml(path)


def refused(kind, tmp_path, text):
    with pytest.raises(BadSettings) as caught:
        checked(kind, tmp_path, text)
    return str(caught.value)


def test_reads_a_file_and_keeps_it_frozen(tmp_path):
    top = checked(Top, tmp_path, "count = 3\n[deep]\nsize = 4\n")
    assert (top.count, top.deep.size) == (3, 4)
    with pytest.raises(ValueError, match="frozen"):
        top.count = 4


def test_a_byte_order_mark_of_a_windows_editor_is_no_mistake(tmp_path):
    assert checked(Top, tmp_path, "\ufeffcount = 3\n").count == 3


def test_an_unknown_key_is_named_with_its_neighbours(tmp_path):
    message = refused(Top, tmp_path, "count = 1\nconut = 2\n")
    assert "run.toml has 1 mistake(s)" in message
    assert "'conut': unknown key. Known keys beside it: count, deep, many, maybe" in message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[deep]\nsise = 1", "deep.sise"),
        ("[maybe]\nsise = 1", "maybe.sise"),
        ("[[many]]\nsize = 1\n[[many]]\nsise = 1", "many.1.sise"),
    ],
)
def test_an_unknown_key_inside_is_named_with_its_own_neighbours(tmp_path, text, key):
    message = refused(Top, tmp_path, f"count = 1\n{text}\n")
    assert f"'{key}': unknown key. Known keys beside it: name, size" in message
    assert "count" not in message


@pytest.mark.parametrize(
    ("kind", "beside"),
    [
        ("folders", "kind, mask_suffix, masks, path, table, test, train"),
        ("table", "kind, label, mask, path, table"),
        ("files", "kind"),
    ],
)
def test_an_unknown_key_of_one_layout_is_named_with_the_keys_of_that_layout(tmp_path, kind, beside):
    message = refused(DataSpec, tmp_path, SPEC + f'[layout]\nkind = "{kind}"\ntabel = "x"\n')
    assert f"'layout.tabel': unknown key. Known keys beside it: {beside}" in message


def test_a_wrong_value_of_a_layout_is_named_as_the_file_spells_it(tmp_path):
    message = refused(DataSpec, tmp_path, SPEC + '[layout]\nkind = "folders"\ntrain = 3\n')
    assert "'layout.train': Input should be a valid string, got 3" in message


def test_an_unknown_layout_is_refused_with_those_there_are(tmp_path):
    message = refused(DataSpec, tmp_path, SPEC + '[layout]\nkind = "folder"\n')
    assert "'folder'" in message
    assert "'folders', 'table', 'stack', 'lswmd', 'files'" in message


def test_a_layout_without_a_kind_is_told_the_kinds(tmp_path):
    message = refused(DataSpec, tmp_path, SPEC + '[layout]\ntable = "x"\n')
    assert "'layout.kind': missing. Add it: one of files, folders, lswmd, stack, table." in message


def test_a_value_out_of_range_shows_what_was_given(tmp_path):
    message = refused(Top, tmp_path, "count = 1\n[deep]\nsize = 12\n")
    assert "'deep.size': Input should be less than or equal to 9, got 12" in message


def test_a_long_wrong_value_is_cut_short(tmp_path):
    message = refused(Top, tmp_path, f'count = "{"9x" * 500}"\n')
    assert len(message) < 400
    assert message.endswith(" ...")


def test_a_missing_key_is_named(tmp_path):
    assert "'count': missing. Add it." in refused(Top, tmp_path, "")


def test_all_mistakes_are_told_at_once(tmp_path):
    message = refused(Top, tmp_path, "x = 1\n[deep]\nsize = 0\ny = 2\n")
    assert "has 4 mistake(s)" in message
    assert message.count("\n") == 4


def test_a_rule_over_several_keys_names_their_table(tmp_path):
    message = refused(DataSpec, tmp_path, FOLDERS + "[split]\ntrain = 0.9\n")
    assert "'split': Value error, train + calibrate + test must be 1, got {'train': 0.9}" in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"No file .*none\.toml\. Pass the path of an existing"):
        Top.from_toml(tmp_path / "none.toml")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(MissingData, match="directory"):
        Top.from_toml(tmp_path)


@pytest.mark.parametrize("data", [b"count : 3\n", b"\xff\xfe", b"count = 1\ncount = 2\n"])
def test_a_file_that_is_not_toml_is_named_with_its_line(tmp_path, data):
    path = tmp_path / "run.toml"
    path.write_bytes(data)
    with pytest.raises(BadSettings, match=r"run\.toml is not a TOML file: .*(line|position)"):
        Top.from_toml(path)


def test_a_table_where_a_value_belongs_is_refused(tmp_path):
    assert "'count': Input should be a valid integer" in refused(Top, tmp_path, "[count]\nx = 1\n")
    assert "'deep': Input should be" in refused(Top, tmp_path, "count = 1\ndeep = 3\n")
