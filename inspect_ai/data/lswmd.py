"""WM-811K's original LSWMD.pkl, read without running anything that is in it.

The file is a pandas 0.x DataFrame pickled by Python 2: 811,457 rows with waferMap, dieSize,
lotName, waferIndex, trianTestLabel (sic) and failureType. A pickle may name any function to
be called; the reader here admits the few numpy and pandas names that such a frame needs and
refuses every other one. pandas' own classes of that age are replaced by plain holders.

Source: Wu, Jang, Chen, "Wafer Map Failure Pattern Recognition and Similarity Ranking for
Large-Scale Data Sets", IEEE Trans. Semicond. Manuf. 28(1), 2015, doi:10.1109/TSM.2014.2364237.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy._core.multiarray import _reconstruct, scalar

from inspect_ai.errors import MissingData

COLUMNS = ("waferMap", "dieSize", "lotName", "waferIndex", "trianTestLabel", "failureType")


class _Holder:
    """Stands in for a pandas class: keeps what the pickle says and does nothing."""

    def __init__(self, *args: object) -> None:
        self.args = args
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Axis(_Holder):
    """An Index or RangeIndex; its labels are in the arguments or the state."""


def _new_index(kind: type[_Axis], fields: dict[str, object]) -> _Axis:
    axis = kind()
    axis.state = fields
    return axis


def _new_block(*_: object) -> None: ...


ADMITTED: dict[tuple[str, str], object] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): scalar,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): scalar,
    ("pandas.core.frame", "DataFrame"): _Holder,
    ("pandas.core.internals", "BlockManager"): _Holder,
    ("pandas.core.internals.managers", "BlockManager"): _Holder,
    ("pandas.core.index", "_new_Index"): _new_index,
    ("pandas.core.index", "Index"): _Axis,
    ("pandas.core.index", "RangeIndex"): _Axis,
    ("pandas.core.index", "Int64Index"): _Axis,
    ("pandas.indexes.base", "_new_Index"): _new_index,
    ("pandas.indexes.base", "Index"): _Axis,
    ("pandas.indexes.range", "RangeIndex"): _Axis,
    ("pandas.indexes.numeric", "Int64Index"): _Axis,
    ("pandas.core.indexes.base", "_new_Index"): _new_index,
    ("pandas.core.indexes.base", "Index"): _Axis,
    ("pandas.core.indexes.range", "RangeIndex"): _Axis,
    ("pandas.core.indexes.numeric", "Int64Index"): _Axis,
}


class _Restricted(pickle.Unpickler):
    """Admits the names above; numpy's own functions stay out of reach."""

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
        columns of the source under its own names; the two label columns as plain strings,
        empty where unlabelled; waferMap as (rows, cols) uint8 arrays.

    Raises:
        MissingData: the file asks for a name outside the list, or is no such frame.
    """
    with path.open("rb") as file:
        try:
            frame = _Restricted(file, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, KeyError) as error:
            raise MissingData(
                f"{path} is not a whole LSWMD.pkl ({error}). Download it again."
            ) from None
    table = _table(frame, path)
    for column in ("trianTestLabel", "failureType"):
        table[column] = [_word(value) for value in table[column]]
    return table


def _table(frame: object, path: Path) -> pd.DataFrame:
    """Columns out of a DataFrame's block manager: (axes, blocks' values, blocks' items, ...)."""
    state = getattr(frame, "state", None)
    manager = state.get("_data") if isinstance(state, dict) else state
    axes, blocks = _parts(getattr(manager, "state", None))
    if not axes:
        raise MissingData(f"{path} holds no table. Use LSWMD.pkl as its authors publish it.")
    names = [str(name) for name in _labels(axes[0])]
    columns: dict[str, object] = {}
    for values, items in blocks:
        for row, name in zip(np.asarray(values), _labels(items), strict=True):
            columns[str(name)] = row
    absent = [c for c in COLUMNS if c not in columns]
    if absent or set(names) != set(columns):
        raise MissingData(f"{path} lacks the columns {absent}; it has {sorted(columns)}.")
    return pd.DataFrame({name: columns[name] for name in names})


def _parts(state: object) -> tuple[list[object], list[tuple[object, object]]]:
    """Axes and (values, items) pairs of a block manager's state, pandas 0.14 or older."""
    if not isinstance(state, tuple) or len(state) < 3:
        return [], []
    if len(state) > 3 and isinstance(state[3], dict) and "0.14.1" in state[3]:
        newer = state[3]["0.14.1"]
        axes = list(newer["axes"])
        names = _labels(axes[0])
        return axes, [(b["values"], names[b["mgr_locs"]]) for b in newer["blocks"]]
    axes, values, items = state[:3]
    return list(axes), list(zip(values, items, strict=True))


def _labels(axis: object) -> np.ndarray:
    """The labels of an Index, in any of the ways pandas has pickled one."""
    if isinstance(axis, np.ndarray):
        return axis
    state = getattr(axis, "state", None)
    if isinstance(state, dict) and "data" in state:
        return np.asarray(state["data"])
    if isinstance(state, dict) and "stop" in state:
        return np.arange(int(state["start"]), int(state["stop"]), int(state["step"]))
    if isinstance(state, tuple) and isinstance(state[0], np.ndarray):
        return state[0]
    found: Callable[..., np.ndarray] = np.asarray
    return found(getattr(axis, "args", ((),))[0])


def _word(value: object) -> str:
    """A label out of its nested arrays: array([['none']]) is 'none', array([]) is ''."""
    flat = np.asarray(value).ravel()
    return str(flat[0]) if flat.size else ""
