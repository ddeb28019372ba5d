"""The command line: one module per command, imported when the command is called.

Commands are thin: they parse, call the library and print. Results go to standard
output, progress and messages to standard error.
"""

from __future__ import annotations

import click

from meldopt import __version__

from ._group import LazyGroup

COMMANDS = (
    "solve",
    "check",
    "show",
    "replay",
    "compare",
    "report",
    "pareto",
    "generate",
    "profile",
    "import",
    "models",
    "devices",
    "formats",
    "solvers",
    "instances",
    "schema",
)
"""All commands, in the order of the help; each is ``command`` in its module."""


@click.group(cls=LazyGroup, names=COMMANDS, package=__name__)
@click.version_option(__version__, prog_name="meldopt")
def main() -> None:
    """Plan Mixture-of-Experts language models over unequal edge servers.

    INSTANCE is the path of an instance file, "-" for standard input, or the name of a
    bundled instance such as mixtral-8x7b/metro-4.

    Exit codes: 0 a feasible plan, or all is well; 1 infeasible, nothing found, or a
    check failed; 2 bad input, or something is not installed or not writable; 3 an
    engine failed; 130 and 143 interrupted, the best plan was kept.
    """
