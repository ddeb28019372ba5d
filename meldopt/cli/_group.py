"""The group of commands: loads them lazily and turns errors into exit codes."""

from __future__ import annotations

import errno
import importlib
import keyword
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import click

from meldopt.errors import MeldoptError, SolverError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_ENGINE = 3
EXIT_INTERRUPTED = 130

AS_JSON = "meldopt.json"
"""Key of a context: whether ``--json`` stands on the command line."""


class LazyGroup(click.Group):
    """Commands that are modules of a package, each with a ``command`` in it."""

    def __init__(
        self, *args: Any, names: Sequence[str] = (), package: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._names = tuple(names)
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order they were given."""
        return list(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        if cmd_name not in self._names:
            return None
        # "import" is no name that a module can be imported by.
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = importlib.import_module(f".{name}", self._package)
        command: click.Command = module.command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether a JSON object is asked for: errors then are one, too."""
        options = args[: args.index("--")] if "--" in args else args
        ctx.meta[AS_JSON] = "--json" in options
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; every error is one line and an exit code."""
        for stream in (sys.stdout, sys.stderr):
            # A name that the terminal cannot show is no reason to fail.
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="replace")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except SolverError as exc:
                _fail(ctx, exc, EXIT_ENGINE)
            except MeldoptError as exc:
                _fail(ctx, exc, EXIT_BAD_INPUT)
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)
                ctx.exit(EXIT_INTERRUPTED)
            except MemoryError:
                _fail(ctx, "out of memory", EXIT_ENGINE)
            except OSError as exc:
                if exc.errno == errno.EPIPE:  # whoever read our output has gone
                    raise
                _fail(ctx, exc, EXIT_BAD_INPUT)
            except click.ClickException as exc:
                _print_error(ctx, exc.format_message())
                raise
            except (click.Abort, click.exceptions.Exit):
                raise
            except Exception:
                # Not exit 1, which says that a check failed or nothing was found.
                traceback.print_exc()
                _fail(ctx, "this is a bug in meldopt or in a solver", EXIT_ENGINE)


def _fail(ctx: click.Context, error: object, code: int) -> None:
    message = " ".join(str(error).split())
    _print_error(ctx, message)
    click.echo(f"error: {message}", err=True)
    ctx.exit(code)


def _print_error(ctx: click.Context, message: str) -> None:
    """Print an error as a JSON object, where one was asked for."""
    if ctx.meta.get(AS_JSON):
        from ._output import print_json

        print_json({"status": "error", "error": " ".join(message.split())})


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)
