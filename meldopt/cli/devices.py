"""``meldopt devices``: the devices that instances may name."""

from __future__ import annotations

import click

from ._options import json_option


@click.command("devices")
@click.argument("name", required=False, metavar="[NAME]")
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the devices, or show all facts of one."""
    from meldopt.catalogue import device, devices
    from meldopt.units import format_bytes

    from ._facts import as_dict, print_facts
    from ._output import console, print_json, print_table

    if name is not None:
        print_facts(device(name), as_json=as_json)
        return
    if as_json:
        print_json({"devices": [as_dict(one) for one in devices()]})
        return
    print_table(
        ("name", "kind", ">memory", ">read/s", ">bf16 FLOP/s", ">power", "confidence"),
        [
            (
                one.name,
                one.kind,
                format_bytes(one.memory_bytes),
                f"{one.read_bytes_per_s / 1e9:.4g} GB",
                f"{one.flops['bf16'] / 1e12:.4g} T",
                f"{one.power_w:g} W",
                one.confidence,
            )
            for one in devices()
        ],
        to=console(),
    )
