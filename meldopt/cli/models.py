"""``meldopt models``: the models that instances may name."""

from __future__ import annotations

import click

from ._options import json_option


@click.command("models")
@click.argument("name", required=False, metavar="[NAME]")
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the models, or show all facts of one."""
    from meldopt.catalogue import model, models

    from ._facts import as_dict, print_facts
    from ._output import console, print_json, print_table

    if name is not None:
        print_facts(model(name), as_json=as_json)
        return
    if as_json:
        print_json({"models": [as_dict(one) for one in models()]})
        return
    print_table(
        ("name", ">MoE layers", ">experts", ">top-k", ">per expert", ">routed", "from"),
        [
            (
                one.name,
                one.moe_layers,
                one.experts,
                one.top_k,
                f"{one.parameters_per_expert / 1e6:.4g} M",
                f"{one.routed_parameters / 1e9:.4g} B",
                one.confidence,
            )
            for one in models()
        ],
        to=console(),
    )
