"""``meldopt schema``: JSON Schemas of the files."""

from __future__ import annotations

import json

import click


@click.command("schema")
@click.argument(
    "kind",
    type=click.Choice(["instance", "plan", "recipe", "trace"]),
    default="instance",
)
def command(kind: str) -> None:
    """Print the JSON Schema of a kind of file, made from the code."""
    import msgspec

    from meldopt.instance import InstanceSpec, RecipeFile
    from meldopt.plan import PlanFile
    from meldopt.trace import TraceHeader

    types = {
        "instance": InstanceSpec,
        "plan": PlanFile,
        "recipe": RecipeFile,
        "trace": TraceHeader,
    }
    schema = msgspec.json.schema(types[kind])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"meldopt {kind}"
    click.echo(json.dumps(schema, indent=1, sort_keys=True))
