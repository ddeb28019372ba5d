"""``meldopt solve``: plan an instance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._group import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED
from ._options import (
    Fraction,
    Positive,
    instance_argument,
    json_option,
    read_settings,
    seed_option,
    setting_options,
)

if TYPE_CHECKING:
    from meldopt.problem import Problem
    from meldopt.result import Result


@click.command("solve")
@instance_argument
@click.option("-s", "--solver", default="auto", show_default=True, help="Which solver.")
@click.option(
    "-t",
    "--time-limit",
    type=Positive("seconds"),
    metavar="SECONDS",
    help="Stop after this time ('inf' for no limit).  [default: 60; no limit with"
    " --work]",
)
@click.option(
    "--work",
    type=Positive("units"),
    metavar="N",
    help="Stop after this much deterministic work, in units of the solver of about a"
    " second: the same plan on every machine.",
)
@click.option(
    "--gap",
    type=Fraction(),
    metavar="GAP",
    help="Stop at this gap: 0.5% or 0.005.",
)
@seed_option
@click.option("--start", metavar="PLAN", help="Start from this plan.")
@click.option(
    "--threads", type=click.IntRange(min=1, max=256), help="Threads of the solver."
)
@click.option(
    "-o",
    "--output",
    metavar="PLAN",
    help="Write the plan here, '-' for standard output.  [default: written only when"
    " interrupted, to NAME.plan.json in the current folder]",
)
@setting_options("of the solver ('meldopt solvers NAME' lists them)")
@click.option(
    "--write-model",
    metavar="FILE",
    help="Write the MILP to FILE.mps or FILE.lp and do not solve.",
)
@json_option
@click.option("-v", "--verbose", count=True, help="Show messages of the solver.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    instance: str,
    solver: str,
    time_limit: float | None,
    work: float | None,
    gap: float | None,
    seed: int,
    start: str | None,
    threads: int | None,
    output: str | None,
    settings: tuple[str, ...],
    config: str | None,
    write_model: str | None,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> None:
    """Plan an instance and prove how good the plan is.

    Decides where each expert of INSTANCE lives, in which format, and what may cross.

    Shows objective, proven bound, gap and time while it works; Ctrl-C and SIGTERM keep
    the best plan so far.
    """
    if output == "-" and as_json:
        raise click.UsageError(
            "--json and -o - both write to standard output: give -o a file"
        )
    # Everything that can be refused is refused before any work is done.
    from meldopt.files import check_writable

    for target in (output, write_model):
        if target is not None and target != "-":
            check_writable(Path(target))
    options = read_settings(settings, config)
    _log_to_stderr(verbose)
    from meldopt.builder import build_problem
    from meldopt.instance import read_instance
    from meldopt.registry import load_solver

    if write_model is not None:
        _write_model(build_problem(read_instance(instance)), Path(write_model), quiet)
        return
    load_solver(solver)
    problem = build_problem(read_instance(instance))

    from meldopt.plan import read_plan
    from meldopt.solver import solve

    from ._interrupt import interruptions
    from ._live import LiveLine

    warm = None if start is None else read_plan(start, problem)
    with LiveLine(solver, shown=not quiet) as line, interruptions() as stopped:
        try:
            result = solve(
                problem,
                solver,
                time_limit=time_limit,
                work=work,
                gap=gap,
                seed=seed,
                start=warm,
                threads=threads,
                on_progress=line,
                options=options,
            )
        except KeyboardInterrupt:
            result = None
    if result is None:
        click.echo("interrupted before there was a plan", err=True)
        ctx.exit(stopped.exit_code or EXIT_INTERRUPTED)
    target = output
    if target is None and stopped.signal is not None and result.plan is not None:
        target = f"{problem.name.replace('/', '-')}.plan.json"
    written = _write(result, target, quiet=quiet)
    if as_json:
        from ._output import print_json

        print_json(_document(result, written))
    elif not quiet:
        _print(problem, result, to_stderr=target == "-")
    if stopped.exit_code is not None:
        ctx.exit(stopped.exit_code)
    if written is False:
        ctx.exit(EXIT_BAD_INPUT)
    if not result.feasible:
        ctx.exit(EXIT_FAILED)


def _write_model(problem: Problem, path: Path, quiet: bool) -> None:
    from meldopt.formulations.milp import build_milp

    model = build_milp(problem).model
    model.write(path)
    if not quiet:
        click.echo(
            f"{path}: {model.num_rows} rows, {model.num_columns} columns", err=True
        )


def _write(result: Result, target: str | None, *, quiet: bool) -> str | bool | None:
    """Write the plan; return where, none if there is nothing to write.

    A target that was writable before the solve may be gone after it: the results of
    the solve are shown all the same, and False is returned.
    """
    from meldopt.errors import FileFormatError
    from meldopt.plan import write_plan

    if target is None or result.plan is None:
        return None
    try:
        write_plan(result.plan, target)
    except FileFormatError as exc:
        click.echo(f"error: {exc}", err=True)
        return False
    if target != "-" and not quiet:
        click.echo(f"plan written to {target}", err=True)
    return target


def _document(result: Result, written: str | bool | None) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    judged = result.score
    return {
        "status": result.status.value,
        "stop_reason": result.stop_reason.value,
        "solver": result.solver,
        "objective": result.objective,
        "bound": result.bound,
        "gap": result.gap,
        "runtime_s": result.runtime_s,
        "seed": result.seed,
        "terms": {} if judged is None else dict(judged.terms),
        "violations": []
        if judged is None
        else [
            {"row": one.row, "where": one.where, "amount": one.amount}
            for one in judged.violations
        ],
        "ignored": list(result.ignored),
        "instance": {"name": result.instance_name, "digest": result.instance_digest},
        "options": dict(result.params),
        "versions": dict(result.versions),
        "plan": written or None,
    }


def _print(problem: Problem, result: Result, *, to_stderr: bool) -> None:
    from ._output import console, gap_percent, number
    from ._summary import print_plan_summary, print_violations

    out = console(stderr=to_stderr)
    if result.plan is not None and result.score is not None:
        print_plan_summary(problem, result.plan, result.score, to=out)
        if not result.score.feasible:
            print_violations(result.score, to=out)
    if result.ignored:
        out.print(f"  not used or honoured by {result.solver}: ", end="")
        out.print(", ".join(result.ignored))
    meaning = {
        "optimal": "optimal: no plan is better",
        "feasible": "feasible: every row holds",
        "violating": "violating: the plan breaks rows",
        "infeasible": "infeasible: no plan keeps every row"
        " ('meldopt check' says what would mend it)",
        "unknown": "unknown: no plan was found",
    }[result.status.value]
    out.print(f"{result.instance_name} by {result.solver}: {meaning}")
    out.print(
        f"objective {number(result.objective)}  bound {number(result.bound)}  "
        f"gap {gap_percent(result.gap)}  time {result.runtime_s:.1f} s  "
        f"({result.stop_reason.value})"
    )


def _log_to_stderr(verbose: int) -> None:
    if not verbose:
        return
    import logging

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose > 1 else logging.INFO,
        format="%(name)s: %(message)s",
    )
