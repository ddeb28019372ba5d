"""Structs of numba that hold the arrays of `Tables` and `State` by reference."""

from __future__ import annotations

from typing import Any

import numba
from numba.core import types
from numba.experimental import structref

_numba: Any = numba  # parts of it have no types
_structref: Any = structref


@structref.register
class TablesType(types.StructRef):
    """Type of packed `Tables` and `RoamTables`."""


@structref.register
class StateType(types.StructRef):
    """Type of packed `State` and `RoamState`."""


class _PackedTables(structref.StructRefProxy):
    """What Python holds of a struct."""


class _PackedState(structref.StructRefProxy):
    """What Python holds of a struct."""


_structref.define_boxing(TablesType, _PackedTables)
_structref.define_boxing(StateType, _PackedState)

_MAKERS: dict[Any, Any] = {}


def pack(values: Any) -> Any:
    """Return a struct with the arrays of a named tuple; both share the memory."""
    kind = TablesType if type(values).__name__.endswith("Tables") else StateType
    fields = [
        (name, _numba.typeof(value))
        for name, value in zip(values._fields, values, strict=True)
    ]
    struct = kind(fields)
    if struct not in _MAKERS:
        names = [name for name, _ in fields]
        lines = [f"def maker({', '.join(names)}):", "    made = new(struct)"]
        lines += [f"    made.{name} = {name}" for name in names]
        scope: dict[str, Any] = {"new": structref.new, "struct": struct}
        exec("\n".join([*lines, "    return made"]), scope)
        _MAKERS[struct] = _numba.njit(scope["maker"], no_cfunc_wrapper=True)
    return _MAKERS[struct](*values)
