"""``meldopt formats``: the storage formats that instances may name."""

from __future__ import annotations

import click

from ._options import json_option


@click.command("formats")
@click.argument("name", required=False, metavar="[NAME]")
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the storage formats, or show all facts of one."""
    from meldopt.catalogue import format_named, formats

    from ._facts import as_dict, print_facts
    from ._output import console, print_json, print_table

    if name is not None:
        print_facts(format_named(name), as_json=as_json)
        return
    if as_json:
        print_json({"formats": [as_dict(one) for one in formats()]})
        return
    print_table(
        ("name", ">bits/weight", "runs in", "confidence", "source"),
        [
            (
                one.name,
                f"{one.bits_per_weight:g}",
                one.precision,
                one.confidence,
                one.source,
            )
            for one in formats()
        ],
        to=console(),
    )
