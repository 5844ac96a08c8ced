"""A stack of wafer maps in an npz file, read row by row.

np.load would hold the whole stack; a scan of a million maps must not. An npz is a zip of npy
files, and an npy file is a header and then the rows in order, so a row is read by reading on.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from inspect_ai.errors import MissingData


class Stack:
    """One npz file; small arrays whole, the stacks as streams."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise MissingData(f"No file {path}. Correct 'file' in the spec, or --root.") from None
        except zipfile.BadZipFile:
            raise MissingData(f"{path} is not a whole npz file. Copy it again.") from None
        except OSError as error:
            raise MissingData(f"{path}: {error.strerror}. Correct 'file' in the spec.") from None

    @property
    def names(self) -> list[str]:
        """The arrays there are, sorted."""
        return sorted(n.removesuffix(".npy") for n in self.archive.namelist())

    def column(self, name: str) -> NDArray[Any]:
        """One array, whole; never unpickled.

        Raises:
            MissingData: no such array, a damaged one, or one of Python objects.
        """
        with self.open(name) as file, self.whole(name):
            values = np.asarray(npy.read_array(file, allow_pickle=False))
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values

    def rows(self, name: str) -> "Rows":
        """The rows of one array as a stream.

        Raises:
            MissingData: no such array, a damaged one, or one that has no plain rows.
        """
        return Rows(self, name)

    def open(self, name: str) -> IO[bytes]:
        """The npy file of one array.

        Raises:
            MissingData: no such array; names those there are.
        """
        try:
            return self.archive.open(f"{name}.npy")
        except KeyError:
            raise MissingData(
                f"{self.path} has no array '{name}'; it has {', '.join(self.names)}. "
                "Correct the array names in the spec's layout."
            ) from None
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise MissingData(f"{self.path} is damaged ({error}). Copy it again.") from None

    @contextmanager
    def whole(self, name: str) -> Iterator[None]:
        """Names the file and the array where a read goes wrong."""
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise MissingData(
                f"Array '{name}' of {self.path} cannot be read: {error}. Copy the file again, "
                "or save the array with a number or text type."
            ) from None


class Rows:
    """Rows of one (N, ...) array; quick forwards, from the start again backwards."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack, self.name = stack, name
        self._rewind()

    def _rewind(self) -> None:
        self.file = self.stack.open(self.name)
        with self.stack.whole(self.name):
            version = npy.read_magic(self.file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, self.dtype = header(self.file)
        if not shape or fortran or self.dtype.hasobject:
            raise MissingData(
                f"Array '{self.name}' of {self.stack.path} is not a plain array in "
                "row order. Save it with np.ascontiguousarray and a number type."
            )
        self.count, self.shape = shape[0], shape[1:]
        self.bytes_per_row = int(np.prod(self.shape)) * self.dtype.itemsize
        self.next = 0

    def __getitem__(self, row: int) -> NDArray[Any]:
        if not 0 <= row < self.count:
            raise MissingData(
                f"Array '{self.name}' of {self.stack.path} has {self.count} rows, row {row} was "
                "asked for. Use the file that the manifest was made from."
            )
        if row < self.next:
            self._rewind()
        while self.next < row:
            self._read()
        return np.frombuffer(self._read(), self.dtype).reshape(self.shape)

    def _read(self) -> bytes:
        with self.stack.whole(self.name):
            data = self.file.read(self.bytes_per_row)
            if len(data) < self.bytes_per_row:
                raise EOFError(f"it ends in row {self.next}")
        self.next += 1
        return data
