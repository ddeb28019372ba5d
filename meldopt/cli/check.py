"""``meldopt check``: whether an instance or a plan keeps every row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ._group import EXIT_FAILED
from ._options import Positive, instance_argument, json_option

if TYPE_CHECKING:
    from meldopt.problem import Problem


@click.command("check")
@instance_argument
@click.argument("plan", metavar="[PLAN]", required=False)
@click.option(
    "-t",
    "--time-limit",
    type=Positive("seconds"),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time to look for a plan, and for the smallest relaxation.",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; see the exit code.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    instance: str,
    plan: str | None,
    time_limit: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check an instance, or a plan, and explain what is wrong.

    Says whether INSTANCE is valid, and which rows PLAN breaks and by how much. Without
    a plan, looks for one; if there is none, says which smallest relaxation would mend
    the instance.
    """
    from meldopt.builder import build_problem
    from meldopt.instance import read_instance

    problem = build_problem(read_instance(instance))
    if plan is not None:
        good = _check_plan(problem, plan, as_json=as_json, quiet=quiet)
    else:
        good = _explain(problem, time_limit, as_json=as_json, quiet=quiet)
    if not good:
        ctx.exit(EXIT_FAILED)


def _about(problem: Problem) -> dict[str, Any]:
    return {"name": problem.name, "digest": problem.instance_digest}


def _check_plan(problem: Problem, path: str, *, as_json: bool, quiet: bool) -> bool:
    from meldopt.plan import read_plan
    from meldopt.score import score

    judged = score(problem, read_plan(path, problem))
    if as_json:
        from ._output import print_json

        print_json(
            {
                "status": "feasible" if judged.feasible else "violating",
                "instance": _about(problem),
                "plan": path,
                "objective": judged.objective,
                "terms": dict(judged.terms),
                "violations": [
                    {"row": one.row, "where": one.where, "amount": one.amount}
                    for one in judged.violations
                ],
            }
        )
    elif not quiet:
        from ._output import console, number
        from ._summary import print_terms, print_tightest, print_violations

        out = console()
        print_terms(problem, judged, to=out)
        if judged.feasible:
            print_tightest(judged, to=out)
            out.print(f"{path}: feasible for {problem.name}: every row holds")
        else:
            print_violations(judged, to=out)
            count = len(judged.violations)
            out.print(f"{path}: not feasible for {problem.name}: {count} broken rows")
        out.print(f"objective {number(judged.objective)}")
    return judged.feasible


def _amount(amount: float, unit: str) -> str:
    """Write how much a limit has to grow, for people."""
    from meldopt.units import format_bytes, format_seconds

    if unit.startswith("bytes"):
        return format_bytes(amount) + unit.removeprefix("bytes")
    return format_seconds(amount) if unit == "s" else f"{amount:.4g} {unit}"


def _explain(
    problem: Problem, time_limit: float, *, as_json: bool, quiet: bool
) -> bool:
    from meldopt.check import explain

    found = explain(problem, time_limit)
    status = {True: "feasible", False: "infeasible", None: "unknown"}[found.feasible]
    if as_json:
        from ._output import print_json

        print_json(
            {
                "status": status,
                "instance": _about(problem),
                "proved": found.proved,
                "relaxations": [
                    {
                        "row": one.row,
                        "where": one.where,
                        "amount": one.amount,
                        "unit": one.unit,
                        "relative": one.relative,
                    }
                    for one in found.relaxations
                ],
                "reasons": list(found.reasons),
            }
        )
    elif not quiet:
        from ._output import console, percent, print_table

        out = console()
        if found.feasible:
            out.print(f"{problem.name}: valid and feasible")
        elif found.feasible is None:
            out.print(
                f"{problem.name}: valid; no plan was found within {time_limit:g} s, "
                "and no proof that there is none"
            )
        else:
            out.print(f"{problem.name}: valid, but no plan keeps every row")
        for reason in found.reasons:
            out.print(f"  {reason}")
        if found.relaxations:
            print_table(
                ("row", "where", ">by", ">relative"),
                [
                    (
                        one.row,
                        one.where,
                        _amount(one.amount, one.unit),
                        percent(one.relative, 2),
                    )
                    for one in found.relaxations
                ],
                to=out,
                title="smallest relaxation that mends it"
                if found.proved
                else "a relaxation that mends it; a smaller one may exist",
            )
    return found.feasible is True
