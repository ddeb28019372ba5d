"""``meldopt instances``: the library of instances and their best plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._group import EXIT_BAD_INPUT, EXIT_FAILED
from ._options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meldopt.library import IndexEntry

_FILTERS = (
    click.option("--family", metavar="PATTERN", help="Only these families: 'metro'."),
    click.option("--model", metavar="PATTERN", help="Only these models: 'qwen*'."),
    click.option(
        "--dataflow", type=click.Choice(["home", "roam"]), help="Only this dataflow."
    ),
    click.option(
        "--min-experts",
        type=click.IntRange(min=0),
        metavar="N",
        help="At least so many.",
    ),
    click.option(
        "--max-experts",
        type=click.IntRange(min=0),
        metavar="N",
        help="At most so many.",
    ),
    click.option(
        "--names", "only_names", is_flag=True, help="Print the names only, one a line."
    ),
)


def _filters(command: Any) -> Any:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.group("instances", invoke_without_command=True)
@_filters
@json_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """List, check and export the bundled instances.

    Without a command, lists them.
    """
    if ctx.invoked_subcommand is None:
        _list(ctx, **given)
    elif any(given.values()):
        raise click.UsageError(
            f"options of the list come after its name: meldopt instances "
            f"{ctx.invoked_subcommand} ..."
        )


@command.command("list")
@_filters
@json_option
@click.pass_context
def list_(ctx: click.Context, /, **given: Any) -> None:
    """List the instances: sizes, best plan known, its bound and who found it."""
    _list(ctx, **given)


def _list(
    ctx: click.Context,
    *,
    family: str | None,
    model: str | None,
    dataflow: str | None,
    min_experts: int | None,
    max_experts: int | None,
    only_names: bool,
    as_json: bool,
) -> None:
    from fnmatch import fnmatchcase

    known = _known()
    if not known:
        click.echo("error: no instance is bundled with this installation", err=True)
        ctx.exit(EXIT_BAD_INPUT)

    def wanted(one: dict[str, Any]) -> bool:
        experts = one["experts"] or 0
        return (
            (family is None or fnmatchcase(one["name"].split("/")[0], family))
            and (model is None or fnmatchcase(one["model"] or "", model))
            and (dataflow is None or one["dataflow"] == dataflow)
            and (min_experts is None or experts >= min_experts)
            and (max_experts is None or experts <= max_experts)
        )

    from ._output import console, gap_percent, number, print_json, print_table

    chosen = [one for one in known if wanted(one)]
    if as_json:
        print_json({"instances": chosen})
        return
    if only_names:
        for one in chosen:
            click.echo(one["name"])
        return
    sizes = ("experts", "servers", "demands", "formats")
    print_table(
        ("name", *(f">{size}" for size in sizes), ">best objective", ">bound", ">gap",
         "by"),
        [
            (
                one["name"],
                *("" if one[size] is None else one[size] for size in sizes),
                number(one["objective"]),
                number(one["bound"]),
                gap_percent(one["gap"]),
                one["solver"] or "",
            )
            for one in chosen
        ],
        to=console(),
    )  # fmt: skip
    click.echo(f"  {len(chosen)} of {len(known)} instances")


def _known() -> list[dict[str, Any]]:
    """Return what is known of every instance, from the index and the best plans."""
    import msgspec

    from meldopt.errors import FileFormatError
    from meldopt.gap import relative_gap
    from meldopt.library import best_plan, instance_names, read_index

    class Best(msgspec.Struct):
        """What of a plan file is listed; the rest is skipped unread."""

        objective: float | None = None
        bound: float | None = None
        solver: str | None = None

    index: dict[str, IndexEntry] = {}
    try:
        index = read_index()
    except FileFormatError as exc:  # the instances are there all the same
        click.echo(f"warning: {exc}", err=True)
    known = []
    for name in instance_names():
        path = best_plan(name)
        record = (
            Best()
            if path is None
            else msgspec.json.decode(path.read_bytes(), type=Best)
        )
        entry = index.get(name)
        facts = ("model", "dataflow", "layers", "experts", "servers", "demands",
                 "formats", "recipe", "digest")  # fmt: skip
        known.append(
            {
                "name": name,
                **{fact: getattr(entry, fact, None) for fact in facts},
                "objective": record.objective,
                "bound": record.bound,
                "gap": (
                    None
                    if record.objective is None
                    else relative_gap(record.objective, record.bound)
                ),
                "solver": record.solver,
                "best_plan": None if path is None else str(path),
            }
        )
    return known


# -- check -----------------------------------------------------------------------------


@command.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@click.pass_context
def check(ctx: click.Context, /, names: Sequence[str], as_json: bool) -> None:
    """Re-score best plans and compare instances with the index.

    NAME may be a pattern such as 'metro/*'; all instances without one. Digest, sizes,
    feasibility, objective and bound must be as the index says.
    """
    from meldopt.best import check_instance
    from meldopt.errors import MeldoptError
    from meldopt.library import read_index

    from ._output import print_json

    folder = _folder(ctx)
    index = read_index(folder)
    report = []
    for name in _matching(names, sorted(index)):
        entry = index[name]
        try:
            found = list(check_instance(name, entry, folder).found)
        except MeldoptError as exc:
            found = [str(exc)]
        worth = None if entry.best is None else entry.best.objective
        report.append({"name": name, "found": found, "objective": worth})
        if not as_json:
            told = "no plan" if worth is None else f"objective {worth:.6g}"
            click.echo(f"{name}: {'; '.join(found) if found else f'ok, {told}'}")
    if as_json:
        print_json({"instances": report})
    if any(one["found"] for one in report):
        ctx.exit(EXIT_FAILED)


def _folder(ctx: click.Context) -> Path:
    from meldopt.library import instances_folder

    folder = instances_folder()
    if folder is None:
        click.echo("error: no instance is bundled with this installation", err=True)
        ctx.exit(EXIT_BAD_INPUT)
    return folder


def _matching(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names that patterns match, each of which must match some."""
    from fnmatch import fnmatchcase

    from meldopt.errors import FileFormatError

    if not patterns:
        return list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise FileFormatError(
                f"{pattern}: no bundled instance of that name "
                "('meldopt instances' lists them)"
            )
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]


# -- best ------------------------------------------------------------------------------


@command.command("best")
@click.argument("name")
@click.option(
    "-o", "--output", metavar="FILE", help="Write the best plan here, '-' for"
    " standard output."
)  # fmt: skip
@click.option(
    "--submit", metavar="PLAN", help="Say whether this plan is better than the best."
)
@click.option(
    "--keep",
    "kept",
    is_flag=True,
    help="With --submit: write a better plan into instances/best of this checkout.",
)
@click.option("--by", metavar="NAME", help="With --keep: who or what found the plan.")
@json_option
@click.pass_context
def best(
    ctx: click.Context,
    /,
    name: str,
    output: str | None,
    submit: str | None,
    kept: bool,
    by: str | None,
    as_json: bool,
) -> None:
    """Show or export the best plan known of an instance, or submit a better one.

    A plan is better if it belongs to the very instance, keeps every row, and its
    objective, as scored here, is lower by at least 1e-6 of it. What its file claims
    does not count; bounds come from 'python instances/make.py solve' only.

    Exit code 1: no plan is known, or the submitted one is not better.
    """
    if submit is not None:
        if output is not None:
            raise click.UsageError("got --submit and -o, expected one of them")
        _submit(ctx, name, submit, kept=kept, by=by, as_json=as_json)
        return
    if kept or by is not None:
        raise click.UsageError("--keep and --by come with --submit")
    if output == "-" and as_json:
        raise click.UsageError(
            "--json and -o - both write to standard output: give -o a file"
        )
    from meldopt.builder import build_problem
    from meldopt.files import check_writable
    from meldopt.gap import relative_gap
    from meldopt.instance import read_instance
    from meldopt.library import best_plan
    from meldopt.plan import read_plan, write_plan
    from meldopt.score import score

    from ._output import console, gap_percent, number, print_json
    from ._summary import print_plan_summary

    if output is not None and output != "-":
        check_writable(Path(output))
    entry = _entry(ctx, name)
    path = best_plan(name)
    if path is None or entry.best is None:
        click.echo(f"{name}: no plan is known", err=True)
        ctx.exit(EXIT_FAILED)
    problem = build_problem(read_instance(name))
    plan = read_plan(path, problem)
    if output is not None:
        write_plan(plan, output, problem=problem)
        if output != "-":
            click.echo(f"plan written to {output}", err=True)
    record = entry.best
    gap = relative_gap(record.objective, record.bound)
    if as_json:
        print_json(
            {
                "name": name,
                "digest": entry.digest,
                "objective": record.objective,
                "bound": record.bound,
                "gap": gap,
                "solver": record.solver,
                "seed": record.seed,
                "version": record.version,
                "date": record.date,
                "time_limit_s": record.time_limit_s,
                "best_plan": str(path),
                "plan": output,
            }
        )
    elif output is None:
        out = console()
        print_plan_summary(problem, plan, score(problem, plan), to=out)
        out.print(
            f"{name}: objective {number(record.objective)}  bound "
            f"{number(record.bound)}  gap {gap_percent(gap)}  "
            f"by {record.solver}, {record.date}"
        )


def _entry(ctx: click.Context, name: str) -> IndexEntry:
    from meldopt.library import read_index

    index = read_index(_folder(ctx))
    _matching([name], [name] if name in index else [])
    return index[name]


def _submit(
    ctx: click.Context,
    name: str,
    path: str,
    *,
    kept: bool,
    by: str | None,
    as_json: bool,
) -> None:
    from meldopt.best import judge, keep
    from meldopt.builder import build_problem
    from meldopt.errors import FileFormatError
    from meldopt.instance import read_instance
    from meldopt.library import checkout_folder
    from meldopt.plan import read_plan

    from ._output import print_json

    folder = checkout_folder()
    if kept and folder is None:
        raise FileFormatError(
            "--keep: got an installed package, expected a checkout of the repository"
        )
    known = _entry(ctx, name).best
    problem = build_problem(read_instance(name))
    plan = read_plan(path, problem)
    verdict = judge(problem, plan, known)
    if kept and verdict.better and folder is not None:
        solver = by or str(plan.record.get("solver", "unknown"))
        seed = plan.record.get("seed")
        keep(name, problem, plan, folder=folder, solver=solver, seed=seed)
    if as_json:
        print_json(
            {
                "name": name,
                "objective": verdict.objective,
                "known": verdict.known,
                "bound": verdict.bound,
                "feasible": verdict.feasible,
                "better": verdict.better,
                "violations": [
                    {"row": one.row, "where": one.where, "amount": one.amount}
                    for one in verdict.violations
                ],
                "kept": kept and verdict.better,
            }
        )
    else:
        done = ", kept" if kept and verdict.better else ""
        click.echo(f"{name}: {verdict.text()}{done}")
    if not verdict.better:
        ctx.exit(EXIT_FAILED)
