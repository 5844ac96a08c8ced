"""Data specs: what a set of images is, in one TOML file that a person can check.

A spec says where the images are, what one image must look like, which labels mean good,
which images hang together (lot, part, cluster) and how groups are dealt into splits.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from inspect_ai.data.simulate import SimulateSettings
from inspect_ai.errors import MissingData
from inspect_ai.settings import Settings

SPLITS = ("train", "calibrate", "test")


class Folders(Settings):
    """MVTec-style folders: train/good, test/<class>, ground_truth/<class>/<name>_mask.png."""

    kind: Literal["folders"]
    train: str = "train"
    test: str = "test"
    masks: str = "ground_truth"
    mask_suffix: str = "_mask"
    table: str | None = None  # CSV with more columns, joined by its path column
    path: str = "path_or_index"


class Table(Settings):
    """A CSV or parquet table: a path column, and any columns to carry along."""

    kind: Literal["table"]
    table: str = "manifest.csv"
    path: str = "path"
    label: str | None = "label"
    mask: str | None = None


class Stack(Settings):
    """An npz with a stack of wafer maps (N, H, W), zero padded, and columns of N values."""

    kind: Literal["stack"]
    file: str
    maps: str = "maps"
    shapes: str | None = None  # (N, 2) native rows and columns; without it no padding
    label: str | None = "labels"
    masks: str | None = None  # (N, H, W), 1 = die killed by a defect
    columns: tuple[str, ...] = ()


class Lswmd(Settings):
    """WM-811K as users download it: LSWMD.pkl, a pandas 0.x pickle of wafer maps."""

    kind: Literal["lswmd"]
    file: str = "LSWMD.pkl"


class Files(Settings):
    """A plain folder, however deep: every file that looks like an image, without labels."""

    kind: Literal["files"]


Layout = Annotated[Folders | Table | Stack | Lswmd | Files, Field(discriminator="kind")]


class ImageRule(Settings):
    """What one image must look like; anything else is refused by name."""

    kind: Literal["picture", "wafer_map"] = "picture"
    channels: int = Field(default=1, ge=1)
    depth: Literal[8, 10, 12, 14, 16, 32] = 8  # bits per channel; 32 is float
    minimum: float = 0.0  # pixel that becomes 0 in the model
    maximum: float | None = None  # pixel that becomes 1; default the depth's largest
    height: int | None = Field(default=None, ge=1)  # pixels; None: any, also mixed
    width: int | None = Field(default=None, ge=1)
    resize: Literal["stretch", "fit"] = "stretch"  # to the model's grid; fit keeps the aspect
    valid_region: str | None = None  # 8-bit picture under root, 0 = never looked at

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.depth == 32 and self.maximum is None:
            raise ValueError("depth = 32 (float) needs minimum and maximum; add them")
        if self.maximum is not None and self.maximum <= self.minimum:
            raise ValueError("maximum must lie above minimum")
        if (self.height is None) != (self.width is None):
            raise ValueError("give height and width together, or neither")
        if self.kind == "wafer_map" and (self.channels, self.depth) != (1, 8):
            raise ValueError("a wafer_map has channels = 1 and depth = 8 (0 none, 1 pass, 2 fail)")
        if self.valid_region and self.resize == "fit":
            raise ValueError("valid_region needs resize = 'stretch'")
        return self

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16] | type[np.float32]:
        """The file's own pixel type."""
        if self.depth == 32:
            return np.float32
        return np.uint8 if self.depth == 8 else np.uint16

    @property
    def largest(self) -> float:
        """The largest pixel that is allowed: 255 for 8 bit, 2 for a wafer map."""
        if self.kind == "wafer_map":
            return 2.0
        return self.maximum if self.maximum is not None else float(2**self.depth - 1)


class LabelRule(Settings):
    """Which labels mean good; every other label is a defect, an empty one is unknown."""

    good: tuple[str, ...] = ("good",)
    unknown: tuple[str, ...] = ()  # labels nobody is sure of: scored, counted in no rate
    all_good: bool = False  # a folder of defect-free images without labels


class GroupRule(Settings):
    """Which images hang together: never in two splits, resampled together."""

    column: str
    pattern: str | None = None  # its first bracket is the group; without one, the whole value

    @model_validator(mode="after")
    def _is_a_pattern(self) -> Self:
        try:
            brackets = 1 if self.pattern is None else re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no pattern: {error}") from None
        if brackets != 1:
            raise ValueError(f"pattern {self.pattern!r} needs exactly one (bracket)")
        return self


class SplitRule(Settings):
    """How groups are dealt into train, calibrate and test.

    `by = "group"` deals groups by these shares of the good images. `by = "folder"` keeps a
    test folder as the test split and deals the train folder. `by = "column"` takes the
    split from a column of the data.
    """

    by: Literal["group", "folder", "column"] = "group"
    column: str = "split"
    train: float = Field(default=0.5, gt=0, lt=1)  # share of good images
    calibrate: float = Field(default=0.25, gt=0, lt=1)
    test: float = Field(default=0.25, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.train + self.calibrate + self.test - 1) > 1e-6:
            raise ValueError("train + calibrate + test must be 1")
        return self


class DataSpec(Settings):
    """One data set; see data_specs/template.toml for every key with a comment."""

    name: str = Field(pattern=r"^[\w.-]+$")
    root: Path  # relative to the current folder
    source: str  # where the bytes come from
    licence: str
    citation: tuple[str, ...] = ()
    layout: Layout
    image: ImageRule = ImageRule()
    label: LabelRule = LabelRule()
    group: GroupRule | None = None  # None: each image is its own group
    split: SplitRule = SplitRule()
    simulate: SimulateSettings | None = None  # made at `root` when absent
    # file under root -> sha256 of the published copy
    checksums: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _layout_fits(self) -> Self:
        if self.layout.kind in ("stack", "lswmd") and self.image.kind != "wafer_map":
            raise ValueError("layouts 'stack' and 'lswmd' go with image.kind = 'wafer_map'")
        if self.split.by == "folder" and self.layout.kind != "folders":
            raise ValueError("split.by = 'folder' needs layout.kind = 'folders'")
        return self

    def hash(self) -> str:
        """Names the spec's content, wherever its data lie: root is left out."""
        fields = self.model_dump(mode="json", exclude={"root"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def located(self, root: Path | None) -> Path:
        """The folder to read: `root`, or the spec's own.

        Raises:
            MissingData: it is not there.
        """
        folder = root if root is not None else self.root
        if not folder.is_dir():
            raise MissingData(
                f"Data spec '{self.name}' needs the folder {folder} (seen from {Path.cwd()}), "
                "which is not there. Pass the folder that holds the data with --root DIR."
            )
        return folder


def plain_folder(rule: ImageRule) -> DataSpec:
    """The spec of a folder nobody wrote a spec for, under a bundle's image rule."""
    return DataSpec(
        name="folder",
        root=Path(),
        source="a folder",
        licence="unknown",
        layout=Files(kind="files"),
        image=rule,
    )
