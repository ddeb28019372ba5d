"""Which solvers are compared, with which parameters, and what tables call them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meldopt.errors import SolverUnavailableError, UnsupportedFeatureError
from meldopt.solver import load_solver, params_of, solver_infos

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meldopt.solver import SolverInfo

ALL = "all"
"""Stands for every registered solver."""

BASELINES = "baselines"
"""Stands for every registered solver of the kind ``baseline``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """A solver with parameters.

    Attributes
    ----------
    solver
        As registered.
    options
        Parameters that were set.
    label
        Of rows and columns.
    kind
        As `meldopt.solver.SolverInfo.kind`; empty if the solver cannot be loaded.
    """

    solver: str
    options: Mapping[str, Any]
    label: str
    kind: str


def read_methods(
    texts: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    repair: bool = False,
) -> tuple[list[Method], list[str]]:
    """Find the solvers and check their parameters.

    Parameters
    ----------
    texts
        Names, separated by commas: ``"prism,eplb"``; with parameters of their own, as
        ``"lns[size=24]"``; ``"all"`` and ``"baselines"`` stand for many.
    settings
        Parameters by solver, for every run of it; those in brackets win.
    repair
        Whether every baseline is run a second time with ``repair=True``.

    Returns
    -------
    methods, notes
        In the order of the names, each once; and what is worth telling: solvers of
        ``all`` that cannot be loaded, baselines without a repair.

    Raises
    ------
    SolverNotFoundError, UnsupportedFeatureError
        If a solver or a parameter does not exist. A solver whose engine is not
        installed is no error: its runs are refused.
    """
    given = {name: dict(options) for name, options in (settings or {}).items()}
    for name in given:
        _info(name)
    found: dict[str, Method] = {}
    notes: list[str] = []
    for text in texts:
        for name, options in _split(text):
            for solver in _expand(name):
                method = _method(solver, given.get(solver, {}), options)
                found.setdefault(method.label, method)
                if not repair or method.kind != "baseline":
                    continue
                mended = _mended(method)
                if mended is None:
                    notes.append(f"{solver}: has no parameter 'repair'")
                else:
                    found.setdefault(mended.label, mended)
    for name in given:
        if name not in {method.solver for method in found.values()}:
            raise UnsupportedFeatureError(
                f"--set: got a parameter of {name!r}, which is not compared"
            )
    return list(found.values()), notes


def _info(name: str) -> SolverInfo | None:
    """Return what a solver says of itself; None if it cannot be loaded."""
    try:
        return load_solver(name).info
    except SolverUnavailableError:
        return None


def _expand(name: str) -> list[str]:
    if name == ALL:
        return list(solver_infos())
    if name == BASELINES:
        return [
            name for name, info in solver_infos().items() if info.kind == "baseline"
        ]
    return [name]


def _method(solver: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> Method:
    info = _info(solver)
    options = {**common, **own}
    if info is not None:
        params_of(info, options)  # refuses what does not exist
    label = solver
    if options:
        inside = ",".join(
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in sorted(options.items())
        )
        label = f"{solver}[{inside}]"
    return Method(
        solver=solver,
        options=options,
        label=label,
        kind="" if info is None else info.kind,
    )


def _mended(method: Method) -> Method | None:
    """Return a baseline with the common repair; None if it has none."""
    info = _info(method.solver)
    params = None if info is None else info.params
    known = {one.name for one in dataclasses.fields(params)} if params else set()
    if "repair" not in known:
        return None
    return Method(
        solver=method.solver,
        options={**method.options, "repair": True},
        label=f"{method.label} + repair",
        kind=method.kind,
    )


def _split(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Split at commas outside of brackets, and read what is inside of them."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    found = []
    for part in (one.strip() for one in parts):
        name, bracket, inside = part.partition("[")
        if not name or depth or (bracket and not inside.endswith("]")):
            raise UnsupportedFeatureError(
                f"solvers: got {text!r}, expected NAME or NAME[KEY=VALUE,…], separated "
                "by commas"
            )
        found.append((name.strip(), _options(inside.removesuffix("]"), text)))
    return found


def _options(inside: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for one in filter(None, (part.strip() for part in inside.split(","))):
        key, equals, value = one.partition("=")
        if not equals or not key.strip():
            raise UnsupportedFeatureError(
                f"solvers: got {text!r}, expected KEY=VALUE in brackets"
            )
        options[key.strip()] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
