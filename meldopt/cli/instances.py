"""``meldopt instances``: the bundled instances."""

from __future__ import annotations

from typing import Any

import click

from ._group import EXIT_BAD_INPUT
from ._options import json_option


@click.command("instances")
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool) -> None:
    """List the bundled instances and their best plans."""
    import msgspec

    from meldopt.library import best_plan, instance_names

    from ._output import console, gap_percent, number, print_json, print_table

    class Best(msgspec.Struct):
        """What of a plan file is listed; the rest is skipped unread."""

        objective: float | None = None
        bound: float | None = None
        gap: float | None = None
        solver: str | None = None

    known: list[dict[str, Any]] = []
    for name in instance_names():
        path = best_plan(name)
        record = (
            Best()
            if path is None
            else msgspec.json.decode(path.read_bytes(), type=Best)
        )
        known.append(
            {
                "name": name,
                "objective": record.objective,
                "bound": record.bound,
                "gap": record.gap,
                "solver": record.solver,
                "best_plan": None if path is None else str(path),
            }
        )
    if not known:
        click.echo("error: no instance is bundled with this installation", err=True)
        ctx.exit(EXIT_BAD_INPUT)
    if as_json:
        print_json({"instances": known})
        return
    print_table(
        ("name", ">best objective", ">bound", ">gap", "by"),
        [
            (
                one["name"],
                number(one["objective"]),
                number(one["bound"]),
                gap_percent(one["gap"]),
                one["solver"] or "",
            )
            for one in known
        ],
        to=console(),
    )
