"""``meldopt solvers``: what can solve, and with which parameters."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from ._options import json_option

if TYPE_CHECKING:
    from meldopt.solver import SolverInfo


@click.command("solvers")
@click.argument("name", required=False, metavar="[NAME]")
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the solvers, or show one and its parameters."""
    from meldopt.solver import load_solver, solver_infos

    from ._output import console, print_json, print_table

    if name is not None:
        _show(load_solver(name).info, as_json)
        return
    infos = solver_infos()
    if as_json:
        print_json({"solvers": [_document(info) for info in infos.values()]})
        return
    print_table(
        ("name", "kind", "dataflow", "proves a bound", "what it does"),
        [
            (
                info.name,
                info.kind,
                ", ".join(one for one in ("home", "roam") if one in info.capabilities),
                "yes" if "bound" in info.capabilities else "",
                info.summary,
            )
            for info in infos.values()
        ],
        to=console(),
    )


def _parameters(info: SolverInfo) -> list[dict[str, Any]]:
    if info.params is None:
        return []
    return [
        {
            "name": field.name,
            "type": getattr(field.type, "__name__", str(field.type)),
            "default": field.default,
        }
        for field in dataclasses.fields(info.params)
        if field.init
    ]


def _document(info: SolverInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "kind": info.kind,
        "summary": info.summary,
        "capabilities": sorted(info.capabilities),
        "terms": list(info.terms),
        "deterministic": info.deterministic,
        "stops": None
        if info.stops is None
        else sorted(kind.__name__ for kind in info.stops),
        "citation": info.citation,
        "parameters": _parameters(info),
    }


def _show(info: SolverInfo, as_json: bool) -> None:
    from ._output import console, print_json, print_table

    document = _document(info)
    if as_json:
        print_json(document)
        return
    out = console()
    for key, value in document.items():
        if key != "parameters":
            if value is None:
                value = "all"
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            if shown != "":
                out.print(f"{key:<14}{shown}", soft_wrap=True)
    if document["parameters"]:
        print_table(
            ("parameter", "type", "default"),
            [
                (one["name"], one["type"], one["default"])
                for one in document["parameters"]
            ],
            to=out,
        )
