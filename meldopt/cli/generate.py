"""``meldopt generate``: make an instance from a family, a seed and parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._options import json_option, read_settings

if TYPE_CHECKING:
    from meldopt.instance import Instance


class _Generate(click.Group):
    """A command with FAMILY; ``trace`` is no family but a command of its own."""

    allow_extra_args = False
    allow_interspersed_args = True

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["trace"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "trace":
            return None
        from ._generate_trace import command as trace

        return trace

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if args and args[0] == "trace":
            from ._generate_trace import command as trace

            name = f"{info_name} trace"
            return trace.make_context(name, args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)

    # The rest is that of a plain command: a family is no name of a command.
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return click.Command.parse_args(self, ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return click.Command.collect_usage_pieces(self, ctx)

    def invoke(self, ctx: click.Context) -> Any:
        return click.Command.invoke(self, ctx)


class _Family(click.Argument):
    """FAMILY, which is no part of the path of the command ``trace``."""

    def get_usage_pieces(self, ctx: click.Context) -> list[str]:
        return super().get_usage_pieces(ctx) if ctx.command.name == "generate" else []


@click.command("generate", cls=_Generate, invoke_without_command=True)
@click.argument("family", cls=_Family, metavar="[FAMILY]", required=False)
@click.option("--model", help="A model of the catalogue; short for -p model=...")
@click.option("--servers", help="How many servers; short for -p servers=...")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--name", help="Name of the instance.  [default: FAMILY-SEED]")
@click.option(
    "-p",
    "--parameter",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a parameter of the family; the value is JSON or text; may be repeated.",
)
@click.option(
    "--config",
    metavar="FILE.toml",
    help="Read parameters from a TOML file; -p wins over it.",
)
@click.option(
    "-o",
    "--output",
    default="-",
    metavar="FILE.json",
    help="Write the instance here, its arrays beside it.  [default: the recipe, on"
    " standard output]",
)
@click.option(
    "--recipe", is_flag=True, help="Write the recipe: short, made again on reading."
)
@click.option(
    "--parameters", "explain", is_flag=True, help="List the parameters of FAMILY."
)
@json_option
def command(
    family: str | None,
    model: str | None,
    servers: str | None,
    seed: int,
    name: str | None,
    settings: tuple[str, ...],
    config: str | None,
    output: str,
    recipe: bool,
    explain: bool,
    as_json: bool,
) -> None:
    """Make an instance from a recipe, or list the families.

    Without FAMILY, lists the families. "meldopt generate trace INSTANCE" draws a trace
    from an instance; "meldopt generate trace --help" says how.

    The same family, seed and parameters give the same instance everywhere.
    """
    if family is None or explain:
        _list(family, as_json)
        return
    if as_json and output == "-":
        raise click.UsageError(
            "--json and -o - both write to standard output: give -o a file"
        )
    from meldopt.files import check_writable

    from ._options import parse_value

    if output != "-":
        check_writable(Path(output))
    parameters = read_settings(settings, config)
    for key, value in (("model", model), ("servers", servers)):
        if value is not None:
            parameters[key] = parse_value(value)
    from meldopt.generate import generate
    from meldopt.instance import write_instance

    name = name or f"{family}-{seed}"
    made = generate(family, name=name, seed=seed, parameters=parameters)
    if output == "-" or recipe:
        _write_recipe(made, family, seed, parameters, output)
    else:
        write_instance(made, output)
    if as_json:
        from ._output import print_json

        print_json(
            {
                "name": made.name,
                "digest": made.digest(),
                "family": family,
                "seed": seed,
                "parameters": parameters,
                "path": output,
            }
        )
    elif output != "-":
        click.echo(f"{made.name} written to {output}", err=True)


def _write_recipe(
    made: Instance, family: str, seed: int, parameters: dict[str, Any], output: str
) -> None:
    import msgspec

    from meldopt.files import FORMAT_VERSION, write_bytes
    from meldopt.instance import RecipeFile, RecipeSpec

    file = RecipeFile(
        format_version=FORMAT_VERSION,
        name=made.name,
        recipe=RecipeSpec(family=family, seed=seed, parameters=parameters),
        digest=made.digest(),
    )
    text = msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
    if output == "-":
        click.echo(text.decode(), nl=False)
    else:
        write_bytes(Path(output), text)


def _list(family: str | None, as_json: bool) -> None:
    from meldopt.errors import InstanceError
    from meldopt.generate import families

    from ._output import console, print_json, print_table

    found = families()
    if family is not None:
        if family not in found:
            raise InstanceError(
                f"got family {family!r}, expected one of {', '.join(found)}"
            )
        found = {family: found[family]}
    if as_json:
        print_json(
            {
                "families": [
                    {
                        "name": name,
                        "description": one.description,
                        "parameters": [
                            {
                                "name": key,
                                "kind": parameter.kind,
                                "default": parameter.default,
                                "help": parameter.help,
                            }
                            for key, parameter in one.parameters.items()
                        ],
                    }
                    for name, one in found.items()
                ]
            }
        )
        return
    out = console()
    if family is None:
        print_table(
            ("family", "what it makes"),
            [(name, one.description) for name, one in found.items()],
            to=out,
        )
        out.print("  'meldopt generate FAMILY --parameters' lists its parameters")
        return
    for name, one in found.items():
        print_table(
            ("parameter", "default", "meaning"),
            [
                (
                    key,
                    "" if parameter.default is None else parameter.default,
                    parameter.help,
                )
                for key, parameter in one.parameters.items()
            ],
            to=out,
            title=f"{name}: {one.description}",
        )
