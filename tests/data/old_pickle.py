"""Writes LSWMD.pkl, small, opcode by opcode as Python 2's cPickle wrote it at protocol 2.

Python 2's str is written as bytes here, its unicode as str.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Name:
    """A global: module and name."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A function called with arguments, and a state set on what it gave."""

    function: Name
    args: tuple
    state: Any = None


@dataclass(frozen=True)
class New:
    """An object made without arguments, and its state."""

    kind: Name
    state: Any


MULTIARRAY = "numpy.core.multiarray"
FRAME = Name("pandas.core.frame", "DataFrame")
MANAGER = Name("pandas.core.internals", "BlockManager")


def dumps(value):
    """A whole pickle."""
    return b"\x80\x02" + opcodes(value) + b"."


def opcodes(value):
    if isinstance(value, Name):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        made = opcodes(value.function) + opcodes(value.args) + b"R"
        return made if value.state is None else made + opcodes(value.state) + b"b"
    if isinstance(value, New):
        return opcodes(value.kind) + b")\x81" + opcodes(value.state) + b"b"
    if isinstance(value, np.ndarray):
        return opcodes(array(value))
    if isinstance(value, tuple | list | dict):
        return _container(value)
    return _plain(value)


def _container(value):
    if isinstance(value, dict):
        items = (opcodes(part) for pair in value.items() for part in pair)
        return b"}(" + b"".join(items) + b"u"
    items = b"".join(map(opcodes, value))
    return b"](" + items + b"e" if isinstance(value, list) else b"(" + items + b"t"


def _plain(value):
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return opcodes(Call(Name("__builtin__", "slice"), parts))
    if isinstance(value, bytes | str):
        return _text(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    return b"J" + struct.pack("<i", value)


def _text(value):
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<I", len(value)) + value


def dtype(kind):
    """A numpy.dtype, its flags as numpy 1.x under Python 2 gave them."""
    code, order, size, align, flags = kind.str[1:].encode(), kind.str[:1].encode(), -1, -1, 0
    if kind.hasobject:
        code, order, flags = b"O8", b"|", 63
    if kind.kind == "U":
        size, align, flags = kind.itemsize, 4, 8
    state = (3, order, None, None, None, size, align, flags)
    return Call(Name("numpy", "dtype"), (code, 0, 1), state)


def array_state(values):
    content = list(values.ravel()) if values.dtype == object else values.tobytes()
    return 1, values.shape, dtype(values.dtype), False, content


def array(values):
    args = (Name("numpy", "ndarray"), (0,), b"b")
    return Call(Name(MULTIARRAY, "_reconstruct"), args, array_state(values))


def index(values, module="pandas.indexes.base", name="Index"):
    """An Index as pandas 0.15 and later pickle it."""
    home = {"Int64Index": module.replace("base", "numeric")}.get(name, module)
    fields = {b"data": values, b"name": None}
    return Call(Name(module, "_new_Index"), (Name(home, name), fields))


def oldest_index(values):
    """An Index as pandas 0.13 pickled it: a kind of array."""
    args = (Name("pandas.core.index", "Index"), (0,), b"b")
    return Call(Name(MULTIARRAY, "_reconstruct"), args, (array_state(values), (None,)))


def range_index(count, module="pandas.indexes.range"):
    fields = {b"name": None, b"start": 0, b"stop": count, b"step": 1}
    return Call(
        Name(module.replace("range", "base"), "_new_Index"), (Name(module, "RangeIndex"), fields)
    )


def objects(*values):
    """(N,) array of objects."""
    made = np.empty(len(values), object)
    for i, value in enumerate(values):
        made[i] = value
    return made


def block(columns, names):
    """(columns, N) values of one block."""
    rows = [columns[name] for name in names]
    if rows[0].dtype != object:
        return np.stack(rows)
    made = np.empty((len(rows), len(rows[0])), object)
    for i, row in enumerate(rows):
        made[i] = row
    return made


def frame(axes, blocks, items, places=None):
    """A DataFrame: axes, values of each block, names of each block; places from 0.14.1 on."""
    state = (axes, blocks, items)
    if places is not None:
        pairs = zip(blocks, places, strict=True)
        newer = [{b"values": values, b"mgr_locs": where} for values, where in pairs]
        state = (*state, {b"0.14.1": {b"axes": axes, b"blocks": newer}})
    inner = {b"_data": New(MANAGER, state), b"_typ": b"dataframe", b"_metadata": []}
    return New(FRAME, inner)
