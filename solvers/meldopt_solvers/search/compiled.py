"""The kernels as Python functions, or compiled by numba.

Compiled kernels take the arrays of a named tuple as one reference-counted struct: the
dozens of arrays would otherwise be passed one by one in every call, and most of the
time of compiling goes there.
"""

from __future__ import annotations

import types
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

_COMPILED: dict[str, types.SimpleNamespace] = {}


def plain(module: types.ModuleType) -> types.SimpleNamespace:
    """Return the ``KERNELS`` of a module as they are written; nothing is compiled."""
    return types.SimpleNamespace(
        pack=lambda values: values, **{f.__name__: f for f in module.KERNELS}
    )


def compiled(module: types.ModuleType) -> types.SimpleNamespace:
    """Return the ``ENTRIES`` of a module compiled; kept in numba's cache if it can be.

    A compiled function must see its compiled callees: each is made from the code of
    the plain one, with globals in which these stand under the same names. Kernels may
    come from several modules. Numba's cache looks only at the file of an entry: its
    name says what all the kernels are, so that no change of a callee is missed.
    """
    if module.__name__ not in _COMPILED:
        import numba

        from .structs import pack

        njit: Any = numba.njit
        scope: dict[str, Any] = {}
        for kernel in module.KERNELS:
            scope.update(kernel.__globals__)
        digest = _digest(module.KERNELS)
        for kernel in module.KERNELS:
            twin = types.FunctionType(
                kernel.__code__, scope, kernel.__name__, kernel.__defaults__
            )
            twin.__qualname__ = f"{kernel.__qualname__}_{digest}"
            twin.__module__ = kernel.__module__
            inner = kernel.__name__ not in module.ENTRIES
            options = {
                "error_model": "numpy",
                "fastmath": {"reassoc", "contract", *getattr(module, "FASTMATH", ())},
                "no_cpython_wrapper": inner,
                "no_cfunc_wrapper": True,
                "nogil": True,
            }
            try:
                made = njit(cache=not inner, **options)(twin)
            except RuntimeError:  # no folder for the cache can be written
                made = njit(**options)(twin)
            scope[kernel.__name__] = made
        _COMPILED[module.__name__] = types.SimpleNamespace(
            pack=pack, **{name: scope[name] for name in module.ENTRIES}
        )
    return _COMPILED[module.__name__]


def _digest(kernels: Iterable[types.FunctionType]) -> str:
    """Return a name for what functions do, and for the numbers that they refer to."""
    said = []
    for kernel in kernels:
        code = [kernel.__code__]
        while code:
            one = code.pop()
            code += [value for value in one.co_consts if _is_code(value)]
            said += [one.co_code.hex(), repr(one.co_names)]
            said += [repr(value) for value in one.co_consts if not _is_code(value)]
            for name in one.co_names:
                value = kernel.__globals__.get(name)
                if isinstance(value, (int, float, np.generic)):
                    said.append(f"{name} = {value!r}")
    return sha256("\n".join(said).encode()).hexdigest()[:8]


def _is_code(value: object) -> bool:
    return isinstance(value, types.CodeType)
