"""The solvers that are installed: entry points of the group ``meldopt.solvers``.

Names are listed without importing any solver; a solver is loaded when it is asked for.
Bundled solvers register exactly as those of another distribution do.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import warnings
from typing import TYPE_CHECKING

from .errors import MeldoptWarning, SolverNotFoundError, SolverUnavailableError

if TYPE_CHECKING:
    from .solver import Solver, SolverInfo

GROUP = "meldopt.solvers"
"""Group of entry points, name -> class."""

HINT = "install the project first ('make install' or 'pip install -e .')"


def _entries() -> dict[str, importlib.metadata.EntryPoint]:
    """Return entry points by name, sorted; of a name that stands twice, the first."""
    by_name: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        by_name.setdefault(entry.name, []).append(entry)
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for name, entries in sorted(by_name.items()):
        if len(entries) > 1:  # only then: who registered it is read from a file
            entries.sort(key=lambda one: (_distribution(one) != "meldopt", one.value))
        found[name] = entries[0]
        # Metadata of one distribution may be on the path twice; that is no conflict.
        for other in entries[1:]:
            if other.value != entries[0].value:
                warnings.warn(
                    f"solver {name!r}: registered twice; {entries[0].value} is used, "
                    f"{other.value} is skipped",
                    MeldoptWarning,
                    stacklevel=3,
                )
    return found


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else ""


def solver_names() -> tuple[str, ...]:
    """Return the names of all registered solvers, sorted; imports none of them.

    Raises
    ------
    SolverNotFoundError
        If none is registered: the project is not installed.
    """
    names = tuple(_entries())
    if not names:
        raise SolverNotFoundError(f"no solver is registered: {HINT}")
    return names


def load_solver(name: str) -> type[Solver]:
    """Import a solver and return its class.

    Raises
    ------
    SolverNotFoundError
        If no solver of that name is registered; the message names near ones.
    SolverUnavailableError
        If it is registered but cannot be imported, or is no solver.
    """
    entries = _entries()
    if not entries:
        raise SolverNotFoundError(f"no solver is registered: {HINT}")
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=3)
        meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise SolverNotFoundError(
            f"got solver {name!r}; {meant}registered: {', '.join(entries)}"
        )
    return _load(entries[name])


def _load(entry: importlib.metadata.EntryPoint) -> type[Solver]:
    from .solver import SolverInfo

    try:
        found = entry.load()
    except ModuleNotFoundError as exc:
        raise SolverUnavailableError(
            f"solver {entry.name!r} ({entry.value}) needs {exc.name!r}, "
            "which is not installed"
        ) from exc
    except Exception as exc:
        raise SolverUnavailableError(
            f"solver {entry.name!r} ({entry.value}) cannot be imported: "
            f"{type(exc).__name__}: {exc}"
        ) from exc
    info = getattr(found, "info", None)
    if not isinstance(info, SolverInfo) or not callable(getattr(found, "solve", None)):
        raise SolverUnavailableError(
            f"solver {entry.name!r} ({entry.value}) is no solver: expected a class "
            "with 'info' and 'solve'"
        )
    if info.name != entry.name:
        raise SolverUnavailableError(
            f"solver {entry.name!r} ({entry.value}) calls itself {info.name!r}"
        )
    solver: type[Solver] = found
    return solver


def solver_infos() -> dict[str, SolverInfo]:
    """Import all registered solvers and return what they say of themselves.

    Those that cannot be imported are skipped with a `MeldoptWarning`.
    """
    infos = {}
    if not (entries := _entries()):
        raise SolverNotFoundError(f"no solver is registered: {HINT}")
    for name, entry in entries.items():
        try:
            infos[name] = _load(entry).info
        except SolverUnavailableError as exc:
            warnings.warn(f"{exc}; skipped", MeldoptWarning, stacklevel=2)
    return infos
