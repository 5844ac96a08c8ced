"""A stack of wafer maps in an npz file, read row by row.

np.load would hold the whole stack; a scan of a million maps must not. An npz is a zip of npy
files, and an npy file is a header and then the rows in order, so a row is read by reading on.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from inspect_ai.errors import MissingData


class Stack:
    """One npz file; small arrays whole, the stacks as streams."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise MissingData(f"No file {path}. Correct 'file' in the spec, or --root.") from None
        except zipfile.BadZipFile:
            raise MissingData(f"{path} is not a whole npz file. Copy it again.") from None

    def column(self, name: str) -> NDArray[Any]:
        """One array, whole; never unpickled."""
        with self._open(name) as file:
            return np.asarray(npy.read_array(file, allow_pickle=False))

    def rows(self, name: str) -> "Rows":
        """The rows of one array as a stream."""
        return Rows(self, name)

    def _open(self, name: str) -> zipfile.ZipExtFile:
        try:
            return self.archive.open(f"{name}.npy")  # type: ignore[return-value]
        except KeyError:
            has = sorted(n.removesuffix(".npy") for n in self.archive.namelist())
            raise MissingData(
                f"{self.archive.filename} has no array '{name}'; it has {', '.join(has)}. "
                "Correct the array names in the spec's layout."
            ) from None


class Rows:
    """Rows of one (N, ...) array; quick forwards, from the start again backwards."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack, self.name = stack, name
        self._rewind()

    def _rewind(self) -> None:
        self.file = self.stack._open(self.name)
        version = npy.read_magic(self.file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, self.dtype = header(self.file)
        if fortran or self.dtype.hasobject:
            raise MissingData(
                f"Array '{self.name}' of {self.stack.archive.filename} is not a plain array in "
                "row order. Save it with np.ascontiguousarray and a number type."
            )
        self.count, self.shape = shape[0], shape[1:]
        self.bytes_per_row = int(np.prod(self.shape)) * self.dtype.itemsize
        self.next = 0

    def __getitem__(self, row: int) -> NDArray[Any]:
        if row < self.next:
            self._rewind()
        while self.next < row:
            self._read()
        return np.frombuffer(self._read(), self.dtype).reshape(self.shape)

    def _read(self) -> bytes:
        self.next += 1
        return self.file.read(self.bytes_per_row)
