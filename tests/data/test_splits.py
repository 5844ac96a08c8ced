"""The promises of splits, on random tables: no group and no content in two of them."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspect_ai.data import manifest
from inspect_ai.data.specs import SPLITS, DataSpec, SplitRule
from inspect_ai.errors import LeakyData, MissingData

RULE = SplitRule()
PLACE = {split: i for i, split in enumerate(SPLITS)}


def table_of(rows, **columns):
    """Rows of (group, content, gt_label); no content is an image that cannot be read."""
    groups, contents, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return pd.DataFrame(
        {
            "image_path": pd.Series([f"{i}.png" for i in range(len(rows))], dtype="string"),
            "group": pd.Series([f"g{g}" for g in groups], dtype="string"),
            "image_id": pd.Series([c if c is None else f"c{c}" for c in contents], dtype="string"),
            "gt_label": pd.Series(labels, dtype="Int8"),
        }
    ).assign(**columns)


def splits(table, rule=RULE):
    return manifest.assign_splits(table, rule)["split"]


row = st.tuples(
    st.integers(0, 12),
    st.one_of(st.none(), st.integers(0, 15)),
    st.sampled_from([0, 0, 0, 1, None]),
)
tables = st.lists(row, min_size=1, max_size=40).map(table_of)
rules = st.builds(
    lambda seed, shares: SplitRule(seed=seed, train=shares[0], calibrate=shares[1], test=shares[2]),
    st.integers(0, 50),
    st.sampled_from([(0.5, 0.25, 0.25), (0.6, 0.4, 0.0), (0.1, 0.1, 0.8), (0.98, 0.01, 0.01)]),
)
random = settings(max_examples=60, deadline=None, derandomize=True)


@random
@given(tables, rules)
def test_no_group_and_no_content_stands_in_two_splits(table, rule):
    dealt = manifest.assign_splits(table, rule)
    used = dealt[dealt["split"].isin(SPLITS)]
    assert (used.groupby("group")["split"].nunique() <= 1).all()
    assert (used.groupby("image_id")["split"].nunique() <= 1).all()


@random
@given(tables, rules)
def test_every_row_gets_a_split_and_no_content_is_lost(table, rule):
    dealt = manifest.assign_splits(table, rule)
    assert dealt["split"].isin([*SPLITS, "duplicate"]).all()
    used = dealt[dealt["split"] != "duplicate"]
    assert set(used["image_id"].dropna()) == set(table["image_id"].dropna())
    assert (dealt.loc[dealt["image_id"].isna(), "split"] != "duplicate").all()


@random
@given(tables, rules)
def test_a_content_is_at_most_once_in_train(table, rule):
    dealt = manifest.assign_splits(table, rule)
    assert not dealt.loc[dealt["split"] == "train", "image_id"].dropna().duplicated().any()


@random
@given(tables, rules)
def test_where_copies_meet_in_train_a_good_one_stays(table, rule):
    dealt = manifest.assign_splits(table, rule)
    groups = set(dealt.loc[dealt["split"] == "train", "group"])
    rivals = dealt[dealt["group"].isin(groups) & dealt["image_id"].notna()]
    kept = rivals[rivals["split"] == "train"].set_index("image_id")["gt_label"].fillna(1)
    best = rivals["gt_label"].fillna(1).groupby(rivals["image_id"]).min()
    assert (kept == best[kept.index]).all()


@random
@given(tables, rules)
def test_a_group_without_a_good_image_goes_to_test(table, rule):
    dealt = manifest.assign_splits(table, rule)
    good = (table["gt_label"] == 0).fillna(False).groupby(table["group"]).any()
    bad = dealt[dealt["group"].map(good) == False]  # noqa: E712
    assert bad["split"].isin(["test", "duplicate"]).all()


@random
@given(tables, rules, st.randoms(use_true_random=False))
def test_the_same_seed_gives_the_same_splits_in_any_order_of_rows(table, rule, shuffle):
    table = table[~table["image_id"].duplicated() | table["image_id"].isna()]
    order = list(table.index)
    shuffle.shuffle(order)
    first, again = splits(table, rule), splits(table.loc[order], rule)
    assert first.equals(again.sort_index())


@random
@given(tables, rules, st.integers(100, 200))
def test_another_group_keeps_the_order_in_which_groups_are_dealt(table, rule, new):
    """It may move the cuts, so a group may go to a neighbour split; none overtakes another."""
    more = pd.concat([table, table_of([(new, None, 0)])], ignore_index=True)
    place, later = (
        manifest.assign_splits(t.assign(image_id=pd.NA), rule).query("gt_label == 0")
        for t in (table, more)
    )
    before, after = (
        dict(zip(t["group"], t["split"].map(PLACE), strict=True)) for t in (place, later)
    )
    for a, b in permutations(before, 2):
        assert before[a] >= before[b] or after[a] <= after[b]


def test_shares_count_good_images():
    rows = [(g, None, 0) for g in range(1000)] + [(g, None, 1) for g in range(500)]
    dealt = manifest.assign_splits(table_of(rows), SplitRule(train=0.5, calibrate=0.2, test=0.3))
    good = dealt.loc[dealt["gt_label"] == 0, "split"].value_counts(normalize=True)
    assert good["train"] == pytest.approx(0.5, abs=0.002)
    assert good["calibrate"] == pytest.approx(0.2, abs=0.002)


def test_another_seed_gives_other_splits():
    table = table_of([(g, g, 0) for g in range(40)])
    assert not splits(table).equals(splits(table, SplitRule(seed=1)))


def test_splits_once_made_stay_as_they_are():
    """Recorded: a change here would move images between splits of data sets in use."""
    table = table_of([(g % 8, g, 0) for g in range(16)])
    places = "".join(str(PLACE[split]) for split in splits(table))
    assert places == "0012020100120201"


def test_a_table_without_rows_and_one_without_good_images_are_dealt():
    assert splits(table_of([])).empty
    assert set(splits(table_of([(0, 0, 1), (1, 1, None)]))) == {"test"}


# copies


def test_in_test_each_file_of_one_content_keeps_its_row():
    table = table_of([(0, 7, 1), (1, 7, 1), (2, 7, None)])
    assert set(splits(table)) == {"test"}
    assert manifest.copies(table) == 2


@pytest.mark.parametrize("first", [0, 1])
def test_a_content_in_train_and_elsewhere_stays_in_train(first):
    table = table_of([(g, g, 0) for g in range(40)])
    dealt = splits(table)
    train, test = (dealt[dealt == split].index[first] for split in ("train", "test"))
    table.loc[[train, test], "image_id"] = "same"
    again = splits(table)
    assert again[train] == "train"
    assert again[test] == "duplicate"


def test_copies_count_rows_beyond_the_first_and_not_unreadable_ones():
    contents = (1, 1, 1, 2, None, None)
    assert manifest.copies(table_of([(i, c, 0) for i, c in enumerate(contents)])) == 2


# splits that are given


def given_splits(rows, names, by="column"):
    column = {"column": "split"} if by == "column" else {}
    table = table_of(rows, split=pd.Series(names, dtype="string"))
    return manifest.assign_splits(table, SplitRule(by=by, **column))["split"].tolist()


@pytest.mark.parametrize(
    ("by", "names"), [("column", ["train", "calibrate"]), ("folder", ["train", "test"])]
)
def test_a_content_in_two_given_splits_is_refused_by_name(by, names):
    with pytest.raises(LeakyData, match=r"1 content\(s\) .* c7 in .* \(0\.png, 1\.png\)"):
        given_splits([(0, 7, 0), (1, 7, 0)], names, by)


@pytest.mark.parametrize("by", ["column", "folder"])
def test_a_group_in_two_given_splits_is_refused_by_name(by):
    with pytest.raises(LeakyData, match=r"1 group\(s\) .* g3 in test and train .*by = 'group'"):
        given_splits([(3, 1, 0), (3, 2, 0)], ["train", "test"], by)


def test_given_splits_are_kept_and_an_empty_one_stays_empty():
    rows = [(i, i, 0) for i in range(4)]
    names = ["test", "train", None, "calibrate"]
    assert [s if isinstance(s, str) else None for s in given_splits(rows, names)] == names


def test_a_repeat_within_a_given_train_split_is_set_aside():
    names = given_splits([(0, 7, 0), (1, 7, 0), (2, 8, 0)], ["train"] * 3)
    assert names == ["train", "duplicate", "train"]


def test_a_repeat_within_a_given_test_split_keeps_its_row():
    assert given_splits([(0, 7, 0), (1, 7, 0)], ["test", "test"]) == ["test", "test"]


@random
@given(tables, st.integers(0, 9))
def test_a_train_folder_is_dealt_and_a_test_folder_kept(table, seed):
    rule = SplitRule(by="folder", train=0.5, calibrate=0.5, test=0.0, seed=seed)
    folder = table["group"].str[1:].astype(int) % 3 == 0
    table["split"] = folder.map({True: "test", False: "train"}).astype("string")
    contents = table.groupby("image_id")["split"].transform("nunique").fillna(1)
    table = table[contents == 1]
    dealt = manifest.assign_splits(table, rule)["split"]
    assert (dealt[folder] == "test").all()
    assert dealt[~folder].isin(["train", "calibrate", "duplicate"]).all()


def test_a_repeat_in_a_train_folder_is_no_leak_that_a_user_must_mend():
    rows = [(g, g % 10, 0) for g in range(20)]
    names = given_splits(rows, ["train"] * 20, "folder")
    assert names.count("duplicate") == 10


@pytest.mark.parametrize("word", ["Train", "val", "duplicate"])
def test_a_split_of_another_name_is_refused(word):
    with pytest.raises(MissingData, match=rf"holds \['{word}'\]; a split is one of train, cal"):
        given_splits([(0, 0, 0)], [word])


def test_an_absent_split_column_names_those_there_are():
    with pytest.raises(MissingData, match=r"needs the column 'part'; there are \['image_path'"):
        splits(table_of([(0, 0, 0)]), SplitRule(by="column", column="part"))


def test_a_leak_that_was_written_into_a_table_is_found():
    table = table_of([(0, 1, 0), (1, 1, 0)], split=["train", "test"])
    with pytest.raises(LeakyData, match="c1 in test and train"):
        manifest.check_leaks(table)
    manifest.check_leaks(table.assign(split=["train", "duplicate"]))


def test_a_spec_whose_group_column_is_not_there_is_scanned_but_never_trained_on(tmp_path):
    np.savez(tmp_path / "maps.npz", maps=np.ones((4, 3, 3), np.uint8))
    spec = DataSpec.model_validate(
        {
            "name": "ungrouped",
            "root": tmp_path,
            "source": "here",
            "licence": "none",
            "layout": {"kind": "stack", "file": "maps.npz"},
            "image": {"kind": "wafer_map"},
            "label": {"all_good": True},
            "group": {"column": "lot"},
        }
    )
    listed = manifest.listing(spec)
    assert any("no column 'lot'" in note for note in listed.notes)
    with pytest.raises(MissingData, match=r"groups by 'lot', which .* does not have"):
        manifest.require_groups(listed)
