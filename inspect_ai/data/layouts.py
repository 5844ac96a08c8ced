"""Layouts: what lies under a root, as a table of rows; and how to read one row's pixels.

Every layout gives the same columns: image_path (relative to root), label (as the source
spells it, null where there is none), mask_path, split (null unless the layout has one) and
whatever columns the source carries.
"""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inspect_ai.data import images, lswmd, specs, tables
from inspect_ai.data.specs import DataSpec, Folders, ImageRule, Lswmd, Table
from inspect_ai.data.stack import Stack
from inspect_ai.errors import BadImages, MissingData
from inspect_ai.scores import Bool, Pixels

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
        table = _stack(layout, root, notes)
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
        maps = lswmd.read(root / spec.layout.file)["waferMap"].to_numpy()
        return lambda name: images.checked(
            np.asarray(maps[_row(name, len(maps))])[None], rule, name
        )
    return lambda name: images.read(root / name, rule)


def read_mask(spec: DataSpec, root: Path, mask_path: str) -> Bool | None:
    """A ground-truth mask (H, W), true on the defect; None where a stack has none.

    Raises:
        BadImages: the mask file cannot be read.
    """
    if isinstance(spec.layout, specs.Stack):
        name = spec.layout.masks
        return _stack_reader(spec.layout, root, name, None)(mask_path)[0] > 0 if name else None
    try:
        data = np.frombuffer((root / mask_path).read_bytes(), np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):  # absent; empty or too large
        mask = None
    if mask is None:
        raise BadImages(f"{mask_path}: not a readable mask. Copy the file again.")
    faint = mask.max() <= 127  # class numbers or dark colours; else grey edges count from half
    return np.asarray(mask > (0 if faint else 127))


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    for column in ("label", "mask_path", "split"):
        if column not in table:
            table[column] = None
        text = table[column].astype("string")
        table[column] = text.mask(text == "")
    table["image_path"] = table["image_path"].astype("string")
    return table.reset_index(drop=True)


def _image_files(folder: Path, root: Path) -> list[str]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES and p.is_file())
    # a name that is not UTF-8 stands in no table: spelled out, it is refused when read
    names = (os.fsencode(p.relative_to(root).as_posix()) for p in found)
    return sorted(name.decode("utf-8", "backslashreplace") for name in names)


def _files(root: Path) -> pd.DataFrame:
    return pd.DataFrame({"image_path": _image_files(root, root)})


def _folders(layout: Folders, root: Path, notes: list[str]) -> pd.DataFrame:
    """train/<class>/..., test/<class>/...; a mask is found by its image's name."""
    masks = {Path(path).with_suffix("").as_posix(): path for path in _masks(layout, root)}
    records = []
    for folder, split in ((layout.train, "train"), (layout.test, "test")):
        for path in _image_files(root / folder, root):
            place = Path(path).relative_to(folder)
            mask = (layout.masks / place.with_name(place.stem + layout.mask_suffix)).as_posix()
            label = place.parts[0] if len(place.parts) > 1 else None
            records.append((path, label, split, masks.get(mask)))
    table = pd.DataFrame(records, columns=["image_path", "label", "split", "mask_path"])
    loose = int(table["label"].isna().sum())
    if loose:
        notes.append(f"{loose} image(s) lie in no class folder: their label is unknown")
    return table if layout.table is None else _joined(table, layout.table, layout.path, root, notes)


def _masks(layout: Folders, root: Path) -> list[str]:
    folder = root / layout.masks
    return _image_files(folder, root) if folder.is_dir() else []


def _joined(table: pd.DataFrame, name: str, key: str, root: Path, notes: list[str]) -> pd.DataFrame:
    """The table with the columns that a CSV knows of its images."""
    if not (root / name).is_file():
        notes.append(f"{name} is not under {root}: its columns are empty")
        return table
    extra = tables.read(root / name, [key]).rename(columns={key: "image_path"})
    kept = [c for c in extra.columns if c == "image_path" or c not in table]
    known = table["image_path"].isin(extra["image_path"])
    if not known.all():
        notes.append(
            f"{(~known).sum()} of {len(known)} images are not in {name}: their columns are empty"
        )
    return table.merge(extra[kept].drop_duplicates("image_path"), on="image_path", how="left")


def _table(layout: Table, root: Path) -> pd.DataFrame:
    names = {layout.path: "image_path"}
    names |= {layout.label: "label"} if layout.label else {}
    names |= {layout.mask: "mask_path"} if layout.mask else {}
    path = root / layout.table
    table = tables.read(path, list(names))
    shadowed = [ours for ours in names.values() if ours in table and ours not in names]
    table = table.drop(columns=shadowed).rename(columns=names)
    tables.check_listed_once(table["image_path"], path)
    tables.check_paths(table["image_path"], path)
    if "mask_path" in table:
        tables.check_paths(table["mask_path"], path)
    return table


def _stack(layout: specs.Stack, root: Path, notes: list[str]) -> pd.DataFrame:
    """Maps and columns; a column that is not there is noted, for another copy may lack it."""
    stack = Stack(root / layout.file)
    wanted = {c: c for c in layout.columns} | ({"label": layout.label} if layout.label else {})
    columns = {c: stack.column(name) for c, name in wanted.items() if name in stack.names}
    absent = sorted(set(wanted.values()) - set(stack.names))
    if absent:
        notes.append(f"{layout.file} has no array {', '.join(absent)}: left out")
    names = [f"{layout.file}#{i:06d}" for i in range(stack.rows(layout.maps).count)]
    for column, values in columns.items():
        if values.shape != (len(names),):
            raise MissingData(
                f"Array '{column}' of {stack.path} has the shape {values.shape}, there are "
                f"{len(names)} maps. Name arrays with one value for each map."
            )
    table = pd.DataFrame({"image_path": names, **columns})
    if layout.masks:
        table["mask_path"] = table["image_path"]
    return table


def _lswmd(layout: Lswmd, root: Path) -> pd.DataFrame:
    frame = lswmd.read(root / layout.file)
    return pd.DataFrame(
        {
            "image_path": [f"{layout.file}#{i:06d}" for i in range(len(frame))],
            "label": frame["failureType"],
            "lot": frame["lotName"],
            "wafer": frame["waferIndex"].astype("Float64").astype("Int64"),
            "orig_split": frame["trianTestLabel"],
        }
    )


def _row(name: str, count: int) -> int:
    """The row that an image_path like maps.npz#000012 names."""
    digits = name.rpartition("#")[2]
    if not digits.isdecimal() or int(digits) >= count:
        raise MissingData(
            f"'{name}' names none of the {count} maps. Use the file that the manifest was made from."
        )
    return int(digits)


def _stack_reader(layout: specs.Stack, root: Path, name: str, rule: ImageRule | None) -> ReadImage:
    """Reads (1, rows, cols) of one map, cut to its native shape and checked by `rule`."""
    stack = Stack(root / layout.file)
    maps = stack.rows(name)
    shapes = _shapes(stack, layout.shapes, maps.count) if layout.shapes else None
    if len(maps.shape) != 2:
        raise MissingData(
            f"Array '{name}' of {stack.path} has rows of shape {maps.shape}, a map needs two "
            "sides. Correct the array names in the spec's layout."
        )

    def read(image_path: str) -> Pixels:
        row = _row(image_path, maps.count)
        whole = maps[row]
        if shapes is not None:
            whole = whole[: shapes[row][0], : shapes[row][1]]
        return images.checked(whole[None], rule, image_path) if rule else whole[None]

    return read


def _shapes(stack: Stack, name: str, count: int) -> NDArray[np.integer]:
    shapes = stack.column(name)
    if shapes.shape != (count, 2) or shapes.dtype.kind not in "iu" or (shapes < 0).any():
        raise MissingData(
            f"Array '{name}' of {stack.path} is {shapes.dtype} {shapes.shape}, the native shapes "
            f"of {count} maps need whole numbers ({count}, 2). Correct 'shapes' in the spec."
        )
    return shapes
