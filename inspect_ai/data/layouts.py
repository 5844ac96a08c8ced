"""Layouts: what lies under a root, as a table of rows; and how to read one row's pixels.

Every layout gives the same columns: image_path (relative to root), label (as the source
spells it, null where there is none), mask_path, split (null unless the layout has one) and
whatever columns the source carries.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from inspect_ai.data import images, lswmd
from inspect_ai.data import specs
from inspect_ai.data.specs import DataSpec, Folders, ImageRule, Lswmd, Table
from inspect_ai.data.stack import Stack
from inspect_ai.errors import BadImages, MissingData
from inspect_ai.scores import Pixels

ReadImage = Callable[[str], Pixels]  # image_path -> (C, H, W); raises BadImages


def rows(spec: DataSpec, root: Path) -> tuple[pd.DataFrame, list[str]]:
    """The images under `root`, in a fixed order, and notes a user should see.

    Raises:
        MissingData: a file the layout names is not there, or there is no image at all.
    """
    notes: list[str] = []
    layout = spec.layout
    if isinstance(layout, Folders):
        table = _folders(layout, root, notes)
    elif isinstance(layout, Table):
        table = _table(layout, root)
    elif isinstance(layout, specs.Stack):
        table = _stack(layout, root)
    elif isinstance(layout, Lswmd):
        table = _lswmd(layout, root)
    else:
        table = _files(root)
    if table.empty:
        raise MissingData(
            f"{root} holds no image for layout '{layout.kind}' of spec '{spec.name}'. "
            f"Put images there ({', '.join(sorted(images.SUFFIXES))}) or correct the layout."
        )
    return _complete(table), notes


def reader(spec: DataSpec, root: Path) -> ReadImage:
    """A function that reads one image of `root`; quickest when called in the rows' order."""
    rule = spec.image
    if isinstance(spec.layout, specs.Stack):
        return _stack_reader(spec.layout, root, spec.layout.maps, spec.image)
    if isinstance(spec.layout, Lswmd):
        maps = lswmd.read(root / spec.layout.file)["waferMap"]

        def read_row(name: str) -> Pixels:
            return images.checked(np.asarray(maps[_row(name)])[None].astype(np.uint8), rule, name)

        return read_row
    return lambda name: images.read(root / name, rule)


def read_mask(spec: DataSpec, root: Path, mask_path: str) -> Pixels | None:
    """A ground-truth mask (H, W), non-zero on the defect; None where a stack has none.

    Raises:
        BadImages: the mask file cannot be read.
    """
    if isinstance(spec.layout, specs.Stack):
        name = spec.layout.masks
        return _stack_reader(spec.layout, root, name, None)(mask_path)[0] > 0 if name else None
    mask = cv2.imread(str(root / mask_path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise BadImages(f"{mask_path}: not a readable mask. Copy the file again.")
    return mask > 127


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    for column in ("label", "mask_path", "split"):
        if column not in table:
            table[column] = None
        table[column] = table[column].astype("string").replace("", pd.NA)
    table["image_path"] = table["image_path"].astype("string")
    return table.reset_index(drop=True)


def _image_files(folder: Path, root: Path) -> list[str]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES and p.is_file())
    return sorted(p.relative_to(root).as_posix() for p in found)


def _files(root: Path) -> pd.DataFrame:
    return pd.DataFrame({"image_path": _image_files(root, root)})


def _folders(layout: Folders, root: Path, notes: list[str]) -> pd.DataFrame:
    """train/<class>/..., test/<class>/...; a mask is found by its image's name."""
    records = []
    for split in (layout.train, layout.test):
        for path in _image_files(root / split, root):
            label = Path(path).relative_to(split).parts[0]
            stem = Path(path).stem + layout.mask_suffix
            mask = f"{layout.masks}/{label}/{stem}.png"
            records.append(
                {
                    "image_path": path,
                    "label": label,
                    "split": "train" if split == layout.train else "test",
                    "mask_path": mask if (root / mask).is_file() else None,
                }
            )
    table = pd.DataFrame(records, columns=["image_path", "label", "split", "mask_path"])
    if layout.table is None:
        return table
    if not (root / layout.table).is_file():
        notes.append(f"{layout.table} is not under {root}: its columns are empty")
        return table
    extra = _read_table(root / layout.table).rename(columns={layout.path: "image_path"})
    kept = [c for c in extra.columns if c == "image_path" or c not in table]
    return table.merge(extra[kept].drop_duplicates("image_path"), on="image_path", how="left")


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise MissingData(f"No table {path}. Write it, or correct 'table' in the spec's layout.")
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, keep_default_na=False)


def _table(layout: Table, root: Path) -> pd.DataFrame:
    table = _read_table(root / layout.table)
    names = {layout.path: "image_path"}
    names |= {layout.label: "label"} if layout.label else {}
    names |= {layout.mask: "mask_path"} if layout.mask else {}
    absent = [given for given in names if given not in table]
    if absent:
        raise MissingData(
            f"{root / layout.table} lacks the columns {absent}; it has {list(table.columns)}. "
            "Correct the column names in the spec's layout."
        )
    return table.rename(columns=names)


def _stack(layout: specs.Stack, root: Path) -> pd.DataFrame:
    stack = Stack(root / layout.file)
    columns = {c: stack.column(c) for c in layout.columns}
    if layout.label:
        columns["label"] = stack.column(layout.label)
    names = [f"{layout.file}#{i:06d}" for i in range(stack.rows(layout.maps).count)]
    table = pd.DataFrame({"image_path": names, **columns})
    if layout.masks:
        table["mask_path"] = table["image_path"]
    return table


def _lswmd(layout: Lswmd, root: Path) -> pd.DataFrame:
    if not (root / layout.file).is_file():
        raise MissingData(f"No file {root / layout.file}. Correct 'file' in the spec, or --root.")
    frame = lswmd.read(root / layout.file)
    return pd.DataFrame(
        {
            "image_path": [f"{layout.file}#{i:06d}" for i in range(len(frame))],
            "label": frame["failureType"],
            "lot": frame["lotName"].astype(str),
            "wafer": frame["waferIndex"].astype(float).astype(int),
            "orig_split": frame["trianTestLabel"],
        }
    )


def _row(name: str) -> int:
    return int(name.rpartition("#")[2])


def _stack_reader(
    layout: specs.Stack, root: Path, name: str, rule: ImageRule | None
) -> ReadImage:
    """Reads (1, rows, cols) of one map, cut to its native shape and checked by `rule`."""
    stack = Stack(root / layout.file)
    shapes = stack.column(layout.shapes) if layout.shapes else None
    maps = stack.rows(name)

    def read(image_path: str) -> Pixels:
        row = _row(image_path)
        whole = maps[row]
        if shapes is not None:
            whole = whole[: shapes[row][0], : shapes[row][1]]
        return images.checked(whole[None], rule, image_path) if rule else whole[None]

    return read
