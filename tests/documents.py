"""Hypothesis strategies of documents: any value that a file's type admits."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec
from hypothesis import strategies as st

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


def documents(kind: type[Any], **fixed: Any) -> st.SearchStrategy[Any]:
    """Strategy of a msgspec struct; every field is drawn, some keep their default."""
    hints = typing.get_type_hints(kind)
    parts = {}
    for field in msgspec.structs.fields(kind):
        if field.name in fixed:
            parts[field.name] = st.just(fixed[field.name])
        else:
            parts[field.name] = values(hints[field.name])
    optional = {f.name for f in msgspec.structs.fields(kind) if not f.required}
    return st.fixed_dictionaries(
        {name: part for name, part in parts.items() if name not in optional},
        optional={name: part for name, part in parts.items() if name in optional},
    ).map(lambda drawn: kind(**drawn))


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Strategy of what an annotation admits."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(values(argument) for argument in arguments))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(values(arguments[0]), max_size=2)
    if origin is tuple:
        return st.tuples(*(values(argument) for argument in arguments))
    if origin is dict:
        return st.dictionaries(st.text(max_size=4), values(arguments[1]), max_size=2)
    if hint is Any:
        return _JSON
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return st.deferred(lambda: documents(hint))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(-(2**53), 2**53),
        # Whole numbers too: in Python people write 24, not 24.0.
        float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**53),
        str: st.text(max_size=6),
    }
    return simple[hint]
