"""Structs of numba that hold the arrays of a named tuple by reference.

A named tuple is passed to a compiled function array by array, and most of the time of
compiling would go there; a struct is one pointer.
"""

from __future__ import annotations

from typing import Any

import numba
from numba.core import types
from numba.experimental import structref

_numba: Any = numba  # parts of it have no types
_structref: Any = structref


@structref.register
class PackedType(types.StructRef):
    """Type of packed named tuples."""


class _Packed(structref.StructRefProxy):
    """What Python holds of a struct."""


_structref.define_boxing(PackedType, _Packed)

_type: Any = PackedType

_MAKERS: dict[Any, Any] = {}


def pack(values: Any) -> Any:
    """Return a struct with the arrays of a named tuple; both share the memory."""
    fields = [
        (name, _numba.typeof(value))
        for name, value in zip(values._fields, values, strict=True)
    ]
    struct = _type(fields)
    if struct not in _MAKERS:
        names = [name for name, _ in fields]
        lines = [f"def maker({', '.join(names)}):", "    made = new(struct)"]
        lines += [f"    made.{name} = {name}" for name in names]
        scope: dict[str, Any] = {"new": structref.new, "struct": struct}
        exec("\n".join([*lines, "    return made"]), scope)
        _MAKERS[struct] = _numba.njit(scope["maker"], no_cfunc_wrapper=True)
    return _MAKERS[struct](*values)
