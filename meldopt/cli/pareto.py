"""``meldopt pareto``: the trade-off between two terms of the objective."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._group import EXIT_FAILED, EXIT_INTERRUPTED
from ._options import (
    Positive,
    instance_argument,
    json_option,
    read_settings,
    seed_option,
    setting_options,
)

if TYPE_CHECKING:
    from meldopt.pareto import Front, FrontProgress
    from meldopt.problem import Problem


@click.command("pareto")
@instance_argument
@click.option(
    "--terms",
    default="serial,quality",
    show_default=True,
    metavar="FIRST,SECOND",
    help="Two terms of the objective, or one and 'memory', the part of the fullest"
    " place's memory that is used; both are minimised.",
)
@click.option(
    "--points",
    type=click.IntRange(min=2, max=1000),
    default=9,
    show_default=True,
    metavar="N",
    help="At most so many points.",
)
@click.option(
    "--range",
    "span",
    metavar="LOW:HIGH",
    help="Only this range of the second term, in its unit; an end may be left out."
    "  [default for memory: 0.5:1]",
)
@click.option(
    "-s",
    "--solver",
    default="auto",
    show_default=True,
    help="Which solver minimises the weighted sums.",
)
@click.option(
    "-t",
    "--time-limit",
    type=Positive("seconds"),
    metavar="SECONDS",
    help="Stop each solve after this time.  [default: 60; no limit with --work]",
)
@click.option(
    "--work",
    type=Positive("units"),
    metavar="N",
    help="Stop each solve after this much deterministic work: the same front on every"
    " machine.",
)
@click.option(
    "--exact/--supported",
    default=None,
    help="Look between the points of weighted sums by a MILP with a cap, or never do."
    "  [default: if the MILP is small]",
)
@seed_option
@click.option("--start", metavar="PLAN", help="Start from this plan.")
@click.option(
    "--threads", type=click.IntRange(min=1, max=256), help="Threads of the solver."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write the front here: .json, or .csv for the table alone.",
)
@click.option(
    "--plans", metavar="FOLDER", help="Write the plan of each point into this folder."
)
@click.option("--plot", metavar="FILE", help="Draw it: .svg, .png or .pdf.")
@setting_options("of the solver ('meldopt solvers NAME' lists them)")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    instance: str,
    terms: str,
    points: int,
    span: str | None,
    solver: str,
    time_limit: float | None,
    work: float | None,
    exact: bool | None,
    seed: int,
    start: str | None,
    threads: int | None,
    output: str | None,
    plans: str | None,
    plot: str | None,
    settings: tuple[str, ...],
    config: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Trace the trade-off between two terms, with a proof.

    All rows of INSTANCE hold at every point; its own weights are not used. For each
    point, the table says what is proved of either term among all plans that are better
    in the other.
    """
    from meldopt.errors import FileFormatError
    from meldopt.files import check_writable

    for target in (output, plot):
        if target is not None:
            check_writable(Path(target))
    if output is not None and Path(output).suffix not in (".json", ".csv"):
        raise FileFormatError(f"{output}: got this name, expected .json or .csv")
    if plot is not None:
        from meldopt.pareto.plots import check_target

        check_target(plot)
    if plans is not None and Path(plans).exists() and not Path(plans).is_dir():
        raise FileFormatError(f"{plans}: got a file, expected a folder")
    options = read_settings(settings, config)
    ends = None if span is None else _span(span)
    pair = tuple(term.strip() for term in terms.split(","))

    from meldopt.builder import build_problem
    from meldopt.instance import read_instance
    from meldopt.pareto import pareto
    from meldopt.plan import read_plan

    from ._interrupt import interruptions

    problem = build_problem(read_instance(instance))
    warm = None if start is None else read_plan(start, problem)
    with interruptions() as stopped:
        front = pareto(
            problem,
            pair,  # type: ignore[arg-type]
            points=points,
            solver=solver,
            start=warm,
            time_limit=time_limit,
            work=work,
            seed=seed,
            threads=threads,
            span=ends,
            exact=exact,
            options=options,
            on_progress=None if quiet else _tell,
        )
    made = _Document(problem, front, solver=solver, seed=seed)
    if plans is not None:
        made.write_plans(Path(plans))
    if output is not None:
        made.write(Path(output))
    if plot is not None and front.points:
        from meldopt.pareto.plots import plot_front

        plot_front(front, plot, title=problem.name)
    if as_json:
        from ._output import print_json

        print_json(made.json())
    elif not quiet:
        _print(problem, front)
    if front.interrupted:
        ctx.exit(stopped.exit_code or EXIT_INTERRUPTED)
    if not front.points:
        ctx.exit(EXIT_FAILED)


def _span(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        ends = (float(low or "-inf"), float(high or "inf"))
    except ValueError:
        ends = (math.nan, math.nan)
    if not colon or math.isnan(ends[0]) or math.isnan(ends[1]):
        raise click.UsageError(f"--range: got {text!r}, expected LOW:HIGH")
    return ends


def _tell(progress: FrontProgress) -> None:
    click.echo(
        f"run {progress.runs}: {progress.what}; {len(progress.points)} points", err=True
    )


def _finite(value: float) -> float | None:
    """Return what JSON can hold: null is no bound, or in a step no plan at all."""
    return value if math.isfinite(value) else None


class _Document:
    """A front as files: JSON, a CSV table, plans."""

    def __init__(
        self, problem: Problem, front: Front, *, solver: str, seed: int
    ) -> None:
        self.problem, self.front, self.solver, self.seed = problem, front, solver, seed
        self.plans: list[str] = []

    def json(self) -> dict[str, Any]:
        """Return the front as one object."""
        import meldopt

        front = self.front
        first, second = front.terms
        return {
            "instance": {
                "name": self.problem.name,
                "digest": self.problem.instance_digest,
            },
            "terms": [first, second],
            "status": front.status.value,
            "exact": front.exact,
            "solver": self.solver,
            "seed": self.seed,
            "versions": {"meldopt": meldopt.__version__},
            "runs": front.runs,
            "largest_gap": front.largest_gap(),
            "points": [
                {
                    first: point.first,
                    second: point.second,
                    "bound": {
                        first: _finite(point.first_bound),
                        second: _finite(point.second_bound),
                    },
                    "gap": {first: point.first_gap, second: point.second_gap},
                    "weights": list(point.weights),
                    "cap": point.cap,
                    "terms": dict(point.plan.record["terms"]),
                    "copies": point.plan.num_copies,
                    "plan": self.plans[n] if self.plans else None,
                }
                for n, point in enumerate(front.points)
            ],
            "proved": {
                "lines": [
                    {
                        first: line.first,
                        second: line.second,
                        "at_least": _finite(line.bound),
                    }
                    for line in front.certificate.lines
                ],
                "steps": [
                    {
                        f"{second}_at_most": step.cap,
                        f"{first}_at_least": _finite(step.bound),
                    }
                    for step in front.certificate.steps
                ],
            },
        }

    def write(self, path: Path) -> None:
        """Write the front as JSON or its table as CSV."""
        import csv
        import io
        import json

        from meldopt.files import write_bytes

        from ._output import JSON_VERSION

        if path.suffix == ".json":
            document = {"json_version": JSON_VERSION, **self.json()}
            text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        else:
            first, second = self.front.terms
            out = io.StringIO()
            table = csv.writer(out, lineterminator="\n")
            table.writerow(
                (first, second, f"{first}_bound", f"{second}_bound", "cap", "copies")
            )
            for p in self.front.points:
                table.writerow(
                    (
                        repr(p.first),
                        repr(p.second),
                        *(
                            repr(bound) if math.isfinite(bound) else ""
                            for bound in (p.first_bound, p.second_bound)
                        ),
                        "" if p.cap is None else repr(p.cap),
                        p.plan.num_copies,
                    )
                )
            text = out.getvalue()
        write_bytes(path, text.encode())

    def write_plans(self, folder: Path) -> None:
        """Write ``point-01.plan.json`` and so on, by rising first term."""
        from meldopt.plan import write_plan

        folder.mkdir(parents=True, exist_ok=True)
        width = max(2, len(str(len(self.front.points))))
        for n, point in enumerate(self.front.points):
            path = folder / f"point-{n + 1:0{width}d}.plan.json"
            write_plan(point.plan, path, problem=self.problem)
            self.plans.append(str(path))


def _print(problem: Problem, front: Front) -> None:
    from meldopt.pareto import UNITS

    from ._output import console, gap_percent, number, print_table

    out = console()
    first, second = front.terms
    if front.points:
        print_table(
            (
                f">{first}",
                ">proved",
                ">gap",
                f">{second}",
                ">proved",
                ">gap",
                ">copies",
                "found by",
            ),
            [
                (
                    number(p.first),
                    number(p.first_bound),
                    gap_percent(p.first_gap),
                    number(p.second),
                    number(p.second_bound),
                    gap_percent(p.second_gap),
                    p.plan.num_copies,
                    "cap" if p.cap is not None else "weights",
                )
                for p in front.points
            ],
            to=out,
            title=f"{first} in {UNITS[first]}, {second} in {UNITS[second]}; proved: no"
            " plan that is better in the other term is below",
        )
    meaning = {
        "optimal": "every point is on the front",
        "feasible": "every point keeps every row",
        "infeasible": "no plan keeps every row"
        " ('meldopt check' says what would mend it)",
        "unknown": "no plan was found",
    }[front.status.value]
    gap = front.largest_gap()
    out.print(
        f"{problem.name}: {front.status.value}: {meaning}; {len(front.points)} points, "
        f"{front.runs} solves, largest gap {gap_percent(gap)}"
    )
    if len(front.points) > 1 and not front.exact and second != "memory":
        out.print(
            "  points are those of weighted sums; between them the proof stands, but "
            "better plans may exist"
        )
