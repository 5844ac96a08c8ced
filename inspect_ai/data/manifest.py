"""The manifest: one row for each image of a data set, written once, never edited.

Columns: image_id (hash of pixels, type and shape; null where unreadable), image_path, split
(train, calibrate, test, or "duplicate"), label (as the source spells it), gt_label (0 good,
1 defect, null unknown), mask_path, group, and the source's own columns (lot, wafer, ...).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from inspect_ai.data import images, layouts, simulate, tables
from inspect_ai.data.specs import SPLITS, DataSpec, GroupRule, LabelRule, SplitRule
from inspect_ai.errors import BadImages, LeakyData, MissingData

Report = Callable[[int, int], None]  # done, total


def silent(done: int, total: int) -> None:
    """A report to nobody."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A table of images, the spec it came from and the root it was read under."""

    table: pd.DataFrame
    spec: DataSpec
    root: Path
    notes: tuple[str, ...] = ()
    chosen: str = "all"  # the split these rows are

    def good(self, split: str) -> pd.DataFrame:
        """Rows of readable, defect-free images of one split: all that the workshop sees."""
        readable = self.table["image_id"].notna()
        return self.table[readable & (self.table["split"] == split) & (self.table["gt_label"] == 0)]

    def part(self, split: str) -> "Manifest":
        """The rows of one split; "all" is every row."""
        table = self.table if split == "all" else self.table[self.table["split"] == split]
        return Manifest(table.reset_index(drop=True), self.spec, self.root, self.notes, split)


def listing(spec: DataSpec, root: Path | None = None, report: Report = silent) -> Manifest:
    """Every image under the root, unread: no image_id and no split. Quick; enough for a scan.

    A simulated set is made first where its own root is absent; `report` tells of that.

    Raises:
        MissingData: no such root, no image, or a column the spec names is absent.
    """
    if spec.simulate and root is None and not spec.root.is_dir():
        simulate.write(spec.simulate, spec.root, report)
    folder = spec.located(root)
    table, notes = layouts.rows(spec, folder)
    table["gt_label"] = _gt_label(table["label"], spec.label)
    table["group"] = _group(table, spec.group, notes)
    notes += _changed_files(spec, folder, refuse=root is None)
    return Manifest(table, spec, folder, tuple(notes))


def make(spec: DataSpec, root: Path | None = None, report: Report = silent) -> Manifest:
    """Every image under the root, read, named by content and dealt into splits.

    Raises:
        MissingData: no such root, no image, or a column the spec names is absent.
        LeakyData: splits given by folder or column share a group or a content.
    """
    listed = listing(spec, root, report)
    table, refused = listed.table, list[str]()
    table["image_id"] = pd.Series(_ids(listed, refused, report), dtype="string")
    notes = listed.notes
    if refused:
        notes += (f"{len(refused)} image(s) cannot be read; the first: {refused[0]}",)
    return Manifest(assign_splits(table, spec.split), spec, listed.root, notes)


def assign_splits(table: pd.DataFrame, rule: SplitRule) -> pd.DataFrame:
    """Deals whole groups into splits; then no group and no content stands in two of them.

    Groups are put in an order drawn from the seed and their names, and cut where the shares
    of good images are reached. A group without a good image has nothing to train on and goes
    to test. A content that comes up in several splits stays in the first of train, calibrate,
    test; its other copies, and repeats within train, become "duplicate".

    Raises:
        LeakyData: splits given by folder or column share a group or a content.
    """
    table = table.copy()
    if rule.by == "group":
        table["split"] = _dealt(table, rule, SPLITS)
    else:
        table["split"] = _given_split(table, rule.column if rule.by == "column" else "split")
        check_leaks(table)
    if rule.by == "folder":
        train = table["split"] == "train"
        table.loc[train, "split"] = _dealt(table[train], rule, ("train", "calibrate"))
    table["split"] = _without_copies(table)
    check_leaks(table)
    return table


def require_groups(manifest: Manifest) -> None:
    """Refuses splits that were dealt without the groups the spec names: lots would leak.

    Raises:
        MissingData: the group column is absent from this copy of the data.
    """
    rule = manifest.spec.group
    if rule is not None and rule.column not in manifest.table:
        raise MissingData(
            f"Spec '{manifest.spec.name}' groups by '{rule.column}', which {manifest.root} does not "
            "have; without it images of one group could be trained on and judged by. Add the "
            "column, or correct [group] in the spec."
        )


def check_leaks(table: pd.DataFrame) -> None:
    """Refuses a manifest in which a group or a content stands in two splits.

    Raises:
        LeakyData: names the first of them.
    """
    used = table[table["split"].isin(SPLITS)]
    for column, what in (("group", "group"), ("image_id", "content")):
        splits = used.dropna(subset=[column]).groupby(column, sort=True)["split"].unique()
        torn = splits[splits.map(len) > 1]
        if len(torn):
            paths = used.loc[used[column] == torn.index[0], "image_path"].head(3).tolist()
            raise LeakyData(
                f"{len(torn)} {what}(s) stand in two splits; the first is {torn.index[0]} in "
                f"{' and '.join(sorted(torn.iloc[0]))} ({', '.join(paths)}). A split must be new "
                "to the others: use split.by = 'group', or correct the splits."
            )


def write(manifest: Manifest, path: Path) -> None:
    """Keeps the table as parquet."""
    manifest.table.to_parquet(path, index=False)


def read(path: Path, spec: DataSpec, root: Path) -> Manifest:
    """A written manifest.

    Raises:
        MissingData: no such file, or no manifest.
        LeakyData: a group or a content stands in two splits.
    """
    if not path.is_file():
        raise MissingData(f"No manifest {path}. Pass a folder that build or train has written.")
    table = tables.read(path, ["image_path", "image_id", "split", "gt_label", "group"])
    check_leaks(table)
    return Manifest(table, spec, root)


def copies(table: pd.DataFrame) -> int:
    """How many rows repeat the content of an earlier row."""
    return int(table["image_id"].dropna().duplicated().sum())


def _ids(listed: Manifest, refused: list[str], report: Report) -> list[str | None]:
    """Each image's content, null where it cannot be read; what is wrong goes into `refused`."""
    read = layouts.reader(listed.spec, listed.root)
    ids = list[str | None]()
    for path in listed.table["image_path"]:
        try:
            ids.append(images.content_id(read(path)))
        except BadImages as error:  # scan and training meet it again and name it
            refused.append(str(error))
            ids.append(None)
        report(len(ids), len(listed.table))
    return ids


def _gt_label(label: pd.Series, rule: LabelRule) -> pd.Series:
    """0 good, 1 defect, null where the label is absent or nobody is sure."""
    if rule.all_good:
        return pd.Series(0, index=label.index, dtype="Int8")
    defect = (~label.isin(rule.good)).astype("Int8")
    return defect.mask(label.isna() | label.isin(rule.unknown))


def _group(table: pd.DataFrame, rule: GroupRule | None, notes: list[str]) -> pd.Series:
    own = table["image_path"]
    if rule is None:
        return own.copy()
    if rule.column not in table:
        notes.append(f"no column '{rule.column}': each image is its own group")
        return own.copy()
    value = table[rule.column].astype("string")
    if rule.pattern is not None:
        value = value.str.extract(rule.pattern, expand=False)
    alone = value.isna() | (value == "")
    if alone.any():
        notes.append(f"{alone.sum()} image(s) without a group: each is its own group")
    return value.mask(alone, own)


def _given_split(table: pd.DataFrame, column: str) -> pd.Series:
    if column not in table:
        raise MissingData(
            f"split.by = 'column' needs the column '{column}'; there are {list(table.columns)}. "
            "Add it, or use split.by = 'group'."
        )
    given = table[column].astype("string")
    given = given.mask(given == "")
    wrong = sorted(set(given.dropna()) - set(SPLITS))
    if wrong:
        raise MissingData(
            f"Column '{column}' holds {wrong[:3]}; a split is one of {', '.join(SPLITS)} or empty. "
            "Correct the column."
        )
    return given


def _dealt(table: pd.DataFrame, rule: SplitRule, splits: tuple[str, ...]) -> pd.Series:
    """Split of each row: groups in seeded order, cut by their share of the good images."""
    good = (table["gt_label"] == 0).fillna(False).groupby(table["group"], sort=True).sum()
    with_good = sorted(good.index[good > 0], key=lambda g: _draw(rule.seed, g))
    shares = np.array([getattr(rule, s) for s in splits])
    edges = np.cumsum(shares / shares.sum())[:-1]
    before = np.cumsum(good[with_good].to_numpy()) - good[with_good].to_numpy() / 2
    part = np.searchsorted(edges, before / max(good.sum(), 1))
    names = dict(zip(with_good, np.array(splits)[part], strict=True))
    return table["group"].map(names).astype("string").fillna(splits[-1])


def _draw(seed: int, group: str) -> bytes:
    """A group's place in the seeded order; other groups do not move it."""
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def _without_copies(table: pd.DataFrame) -> pd.Series:
    """Splits in which a content has its place in one split, and once in train (a good copy)."""
    order = table["split"].map({s: i for i, s in enumerate(SPLITS)}).astype(float)
    elsewhere = order > order.groupby(table["image_id"]).transform("min")
    train = table[(table["split"] == "train") & table["image_id"].notna()]
    good_first = train["gt_label"].fillna(1).sort_values(kind="stable").index
    again = train.loc[good_first, "image_id"].duplicated().reindex(table.index, fill_value=False)
    return table["split"].mask(elsewhere | again, "duplicate")


def _changed_files(spec: DataSpec, folder: Path, refuse: bool) -> list[str]:
    """Files that differ from the published copy: refused at the spec's own root, else noted."""
    changed = [
        name
        for name, wanted in spec.checksums.items()
        if not (folder / name).is_file() or _sha256(folder / name) != wanted
    ]
    if changed and refuse:
        raise MissingData(
            f"{', '.join(changed)} under {folder} differ from the published copy that spec "
            f"'{spec.name}' names by checksum. Restore them, or pass your own copy with --root."
        )
    return [f"{name} differs from the published copy" for name in changed]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
