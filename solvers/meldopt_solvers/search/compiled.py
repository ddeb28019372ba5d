"""The kernels as Python functions, or compiled by numba.

Compiled kernels take the arrays of a named tuple as one reference-counted struct: the
dozens of arrays would otherwise be passed one by one in every call, and most of the
time of compiling goes there.
"""

from __future__ import annotations

import types
from typing import Any

_COMPILED: dict[str, types.SimpleNamespace] = {}


def plain(module: types.ModuleType) -> types.SimpleNamespace:
    """Return the ``KERNELS`` of a module as they are written; nothing is compiled."""
    return types.SimpleNamespace(
        pack=lambda values: values, **{f.__name__: f for f in module.KERNELS}
    )


def compiled(module: types.ModuleType) -> types.SimpleNamespace:
    """Return the ``ENTRIES`` of a module compiled; kept in numba's cache if it can be.

    A compiled function must see its compiled callees: each is made from the code of
    the plain one, with globals in which these stand under the same names.
    """
    if module.__name__ not in _COMPILED:
        import numba

        from .structs import pack

        njit: Any = numba.njit
        scope: dict[str, Any] = dict(vars(module))
        for kernel in module.KERNELS:
            twin = types.FunctionType(
                kernel.__code__, scope, kernel.__name__, kernel.__defaults__
            )
            twin.__qualname__ = kernel.__qualname__
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
