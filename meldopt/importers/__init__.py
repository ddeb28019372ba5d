"""What others recorded or wrote, turned into files of meldopt; one module a format.

A format of recordings is a module with a function that takes a path and keywords and
returns header, requests and chunks, and a line in `TRACE_FORMATS`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE_FORMATS = {"recording": "recordings:import_recording"}
"""Formats that `meldopt import trace` reads: module and function, loaded when used."""


def trace_importer(name: str) -> Callable[..., Any]:
    """Load the function that reads a format of recordings.

    Raises
    ------
    KeyError
        If there is no such format.
    """
    module, _, function = TRACE_FORMATS[name].partition(":")
    found: Callable[..., Any] = getattr(
        importlib.import_module(f".{module}", __name__), function
    )
    return found
