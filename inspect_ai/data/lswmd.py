"""WM-811K's original LSWMD.pkl, read without running anything that is in it.

The file is a pandas 0.x DataFrame pickled by Python 2 (protocol 2): 811,457 rows with waferMap,
dieSize, lotName, waferIndex, trianTestLabel (sic) and failureType. A pickle may name any
function to be called; the reader here admits the few numpy and pandas names that such a frame
needs and refuses every other one. None of them reaches numpy or pandas: each stands for a
plain holder below, and arrays are made from the holders' bytes, of number and text types only.

What pandas 0.14 to 0.25 writes of a frame, and the file's age (module pandas.indexes) points
to 0.18 or 0.19: DataFrame, state {"_data": BlockManager}; BlockManager, state (axes, blocks'
values, blocks' items, {"0.14.1": {"axes": ..., "blocks": [{"values", "mgr_locs"}, ...]}}), the
last item absent before 0.14.1; Index, _new_Index(class, {"data" or "start", "stop", "step"}),
before 0.15 numpy's _reconstruct(class) with state (array's state, (name,)).

Source: Wu, Jang, Chen, "Wafer Map Failure Pattern Recognition and Similarity Ranking for
Large-Scale Data Sets", IEEE Trans. Semicond. Manuf. 28(1), 2015, doi:10.1109/TSM.2014.2364237.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inspect_ai.errors import MissingData

COLUMNS = ("waferMap", "dieSize", "lotName", "waferIndex", "trianTestLabel", "failureType")
WORDS = ("lotName", "trianTestLabel", "failureType")
DEEPEST = 4  # arrays within arrays around a word


class _Holder:
    """Stands in for a class: keeps what the pickle says and does nothing."""

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Frame(_Holder):
    """A DataFrame."""


class _Manager(_Holder):
    """A BlockManager."""


class _Axis(_Holder):
    """An Index, Int64Index or RangeIndex."""


class _Dtype(_Holder):
    """A numpy.dtype of booleans, numbers, text or objects: the only ones a frame needs."""

    state: tuple[Any, ...] = (3, "=")

    @property
    def dtype(self) -> np.dtype[Any]:
        code, order = str(self.args[0]), str(self.state[1])
        if not re.fullmatch(r"[biufSUO]\d{0,4}", code) or order not in "<>=|":
            raise ValueError(f"an array of type {order}{code}")
        return np.dtype(object) if code[0] == "O" else np.dtype(order + code)


class _Array(_Holder):
    """A numpy.ndarray, made from its state: (version, shape, dtype, Fortran order, content)."""

    value: NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        self.value = _filled(kind, content).reshape(shape, order="F" if fortran else "C")


def _filled(kind: _Dtype, content: Any) -> NDArray[Any]:
    dtype = kind.dtype
    if dtype.hasobject:
        values = np.empty(len(content), object)
        for i, item in enumerate(content):
            values[i] = item.value if isinstance(item, _Array) else item
        return values
    return np.frombuffer(_bytes(content), dtype) if content else np.empty(0, dtype)


def _bytes(content: str | bytes) -> bytes:
    """Python 2 kept bytes in its str, which the unpickler gives as latin-1 text."""
    return content.encode("latin1") if isinstance(content, str) else content


def _reconstruct(kind: type[_Holder], *_: object) -> _Holder:
    return kind()


def _scalar(kind: _Dtype, content: str | bytes) -> Any:
    return np.frombuffer(_bytes(content), kind.dtype)[0]


def _new_index(kind: type[_Axis], fields: dict[str, object]) -> _Axis:
    axis = kind()
    axis.state = fields
    return axis


INDEXES = ("pandas.core.index", "pandas.indexes.base", "pandas.core.indexes.base")
KINDS = ("pandas.core.index", "pandas.indexes.range", "pandas.core.indexes.range")
NUMERIC = ("pandas.core.index", "pandas.indexes.numeric", "pandas.core.indexes.numeric")
ADMITTED: dict[tuple[str, str], object] = {
    ("__builtin__", "slice"): slice,  # where a block's columns stand side by side
    ("builtins", "slice"): slice,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.internals", "BlockManager"): _Manager,
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    **{(module, "_new_Index"): _new_index for module in INDEXES},
    **{(module, "Index"): _Axis for module in INDEXES},
    **{(module, "RangeIndex"): _Axis for module in KINDS},
    **{(module, "Int64Index"): _Axis for module in NUMERIC},
}


class _Restricted(pickle.Unpickler):
    """Admits the names above; numpy's and pandas' own functions stay out of reach."""

    def find_class(self, module: str, name: str) -> object:
        found = ADMITTED.get((module, name))
        if found is None:
            raise MissingData(
                f"The pickle asks for {module}.{name}, which a LSWMD.pkl never needs, so it was "
                "not read. Use the file as its authors publish it."
            )
        return found


def read(path: Path) -> pd.DataFrame:
    """The rows of LSWMD.pkl.

    Costs the memory of the whole file (about 2 GB and its objects), since a pickle has no
    other way in.

    Returns:
        columns of the source under its own names; lot and the two label columns as plain
        strings, empty where unlabelled; waferMap as (rows, cols) arrays in the file's type.

    Raises:
        MissingData: no such file, it asks for a name outside the list, or is no such frame.
    """
    try:
        with path.open("rb") as file:
            columns = _columns(_Restricted(file, encoding="latin1").load())
    except FileNotFoundError:
        raise MissingData(f"No file {path}. Correct 'file' in the spec, or --root.") from None
    except (pickle.UnpicklingError, EOFError, ArithmeticError, LookupError) as error:
        raise _broken(path, error) from None
    except (AttributeError, TypeError, ValueError, OSError, MemoryError) as error:
        raise _broken(path, error) from None
    absent = [name for name in COLUMNS if name not in columns]
    if absent:
        raise MissingData(
            f"{path} lacks the columns {absent}; it has {sorted(columns)}. "
            "Use LSWMD.pkl as its authors publish it."
        )
    return pd.DataFrame({name: columns[name] for name in COLUMNS})


def _broken(path: Path, error: Exception) -> MissingData:
    return MissingData(f"{path} is not a whole LSWMD.pkl ({error}). Download it again.")


def _columns(frame: object) -> dict[str, Any]:
    """Columns, each N values, out of the blocks of a DataFrame."""
    if not isinstance(frame, _Frame):
        raise TypeError(f"it holds a {type(frame).__name__.strip('_')}, no table")
    manager = frame.state["_data"] if isinstance(frame.state, dict) else frame.state
    columns: dict[str, Any] = {}
    for values, names in _blocks(manager.state):
        for name, column in zip(names, values.value, strict=True):
            columns[str(name)] = column
    for name in set(WORDS) & set(columns):
        columns[name] = [_word(value) for value in columns[name]]
    return columns


def _blocks(state: Any) -> list[tuple[_Array, NDArray[Any]]]:
    """(values, names of its rows) of each block of a block manager's state."""
    _, values, items = state[:3]
    if len(state) > 3 and "0.14.1" in state[3]:
        newer = state[3]["0.14.1"]
        names = _labels(newer["axes"][0])
        return [(block["values"], names[_places(block["mgr_locs"])]) for block in newer["blocks"]]
    return [(block, _labels(axis)) for block, axis in zip(values, items, strict=True)]


def _places(places: slice | _Array) -> slice | NDArray[Any]:
    return places if isinstance(places, slice) else places.value


def _labels(axis: _Axis) -> NDArray[Any]:
    """The labels of an Index, in any of the ways pandas 0.x pickled one."""
    state = axis.state
    if isinstance(state, tuple):  # before 0.15: (the state of its array, (its name,))
        array = _Array()
        array.__setstate__(state[0])
        return array.value
    if "data" in state:
        return np.asarray(state["data"].value)
    return np.arange(int(state["start"]), int(state["stop"]), int(state["step"]))


def _word(value: object) -> str:
    """A text out of its nested arrays: array([['none']]) is 'none', array([]) is ''."""
    for _ in range(DEEPEST):
        if isinstance(value, np.ndarray):
            value = list(value.ravel()[:1])
        if not isinstance(value, list | tuple):
            break
        value = value[0] if value else ""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
