"""How the kernels of replay are compiled."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F")


def kernel(function: F, **options: Any) -> F:
    """Compile a kernel; numba keeps it in its cache if there is a place for one."""
    options = {
        "error_model": "numpy",
        "nogil": True,
        "no_cfunc_wrapper": True,
    } | options
    njit: Any = numba.njit
    try:
        made: F = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written
        made = njit(**options)(function)
    return made


def part(function: F) -> F:
    """Compile a part of a kernel, which only kernels call: there is less to make."""
    njit: Any = numba.njit
    made: F = njit(
        error_model="numpy",
        nogil=True,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
    )(function)
    return made


def fingerprint(*names: str) -> int:
    """Return a number of the sources of modules of this package.

    numba's cache looks only at the file of a kernel, not at those of its parts. A
    kernel that closes over this number is compiled anew when any of them changes.
    """
    folder = Path(__file__).parent
    number = 0
    for name in names:
        number = zlib.crc32((folder / f"{name}.py").read_bytes(), number)
    return number
