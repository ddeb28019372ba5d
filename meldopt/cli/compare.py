"""``meldopt compare``: solvers on instances, run side by side and judged alike."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._group import EXIT_FAILED, EXIT_INTERRUPTED
from ._options import Positive, json_option, parse_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meldopt.compare.grid import Limit, Trial
    from meldopt.compare.records import RunRecord
    from meldopt.compare.runner import Executor, Setup, TraceFile
    from meldopt.compare.standing import Case
    from meldopt.compare.trials import Library

WIDE = 6
"""Methods side by side in one table."""


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas."""

    name = "numbers"

    def __init__(self, one: click.ParamType) -> None:  # type: ignore[type-arg]
        self._one = one

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Turn the text into numbers, each once."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        numbers = [self._one.convert(part, param, ctx) for part in parts]
        return tuple(dict.fromkeys(numbers))


@click.command("compare")
@click.argument("instances", nargs=-1, metavar="INSTANCE...")
@click.option(
    "-s",
    "--solvers",
    multiple=True,
    required=True,
    metavar="NAME,...",
    help="Which solvers: greedy,lns; 'lns[size=24]' sets parameters of one;"
    " 'all' and 'baselines' stand for many. May be repeated.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run each with the seeds 0 to N - 1.  [default: 1]",
)
@click.option(
    "--seed",
    type=_Numbers(click.IntRange(min=0)),
    metavar="N,...",
    help="Run each with these seeds.",
)
@click.option(
    "-t",
    "--time-limit",
    type=_Numbers(Positive("seconds")),
    metavar="SECONDS,...",
    help="Stop each run after this time ('inf' for no limit); several make a run each."
    "  [default: 60; no limit with --work]",
)
@click.option(
    "--work",
    type=_Numbers(Positive("units")),
    metavar="N,...",
    help="Stop each run after this much deterministic work, in units of the solver of"
    " about a second.",
)
@click.option(
    "--train",
    multiple=True,
    metavar="WORKLOAD",
    help="Plan on this: an instance, or a demand set or trace in place of the workload"
    " of INSTANCE. May be repeated.",
)
@click.option(
    "--test",
    multiple=True,
    metavar="WORKLOAD",
    help="Judge the plans on this, which must have the same model and cluster; copies"
    " stay, shares follow the default rule. May be repeated.",
)
@click.option(
    "--reroute",
    is_flag=True,
    help="Judge also with the best shares for the copies on the test, by a linear"
    " programme.",
)
@click.option(
    "--trace",
    "traces",
    multiple=True,
    metavar="TRACE",
    help="Replay each plan on this trace. May be repeated.",
)
@click.option(
    "--events",
    is_flag=True,
    help="Replay requests with batches and queues, not each token alone.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Run each baseline once more, its plan mended by the common repair.",
)
@click.option(
    "-o",
    "--output",
    default="comparison",
    show_default=True,
    metavar="FOLDER",
    help="Keep results here; a folder with results is continued.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Runs at a time.  [default: cores / threads of a run; threads of the workers"
    " with --cluster]",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1, max=256),
    help="Threads of each run.  [default: 1 when several run at a time, else the"
    " solver's own]",
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Memory that a run may take, as '8 GiB'.  [default: no limit]",
)
@click.option(
    "--grace",
    type=Positive("seconds"),
    metavar="SECONDS",
    help="Kill a run this long after its time limit, or after 20 s a unit of work"
    " without one.  [default: 30 and half the limit; 600 without one]",
)
@click.option(
    "--retry", is_flag=True, help="Do runs again that crashed, hung or were refused."
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Run on the workers of this Dask scheduler, as tcp://host:8786. Needs the"
    " extra 'cluster'.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SOLVER.KEY=VALUE",
    help="Set a parameter of a solver in all its runs; may be repeated.",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    instances: tuple[str, ...],
    solvers: tuple[str, ...],
    seeds: int | None,
    seed: tuple[int, ...] | None,
    time_limit: tuple[float, ...] | None,
    work: tuple[float, ...] | None,
    train: tuple[str, ...],
    test: tuple[str, ...],
    reroute: bool,
    traces: tuple[str, ...],
    events: bool,
    repair: bool,
    output: str,
    jobs: int | None,
    threads: int | None,
    memory: str | None,
    grace: float | None,
    retry: bool,
    cluster: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare solvers on instances, with one judge.

    INSTANCE is a path, the name of a bundled instance, or a pattern of such names, as
    'mixtral-8x7b/*'.

    Every run is a process of its own: one that crashes or hangs costs its own row.
    Results are kept as they come; the same command again does what is missing, nothing
    twice. Ctrl-C keeps what is finished.
    """
    if seeds is not None and seed is not None:
        raise click.UsageError("--seeds and --seed exclude each other")
    if reroute and not (train or test):
        raise click.UsageError("--reroute has no meaning without --train or --test")
    if events and not traces:
        raise click.UsageError("--events has no meaning without --trace")
    # Everything that can be refused is refused before anything is written.
    from meldopt.compare.folder import Folder
    from meldopt.compare.grid import grid
    from meldopt.compare.methods import read_methods
    from meldopt.compare.runner import Comparison, Setup
    from meldopt.compare.trials import Library

    limit_bytes = _memory(memory)
    methods, notes = read_methods(solvers, _settings(settings), repair=repair)
    library = Library()
    trials = library.trials(instances, train, test)
    files = _traces(traces, trials, library)
    runs = grid(
        trials, methods, _limits(time_limit, work), seed or tuple(range(seeds or 1))
    )
    folder = Folder(output)
    slots, threads = _slots(jobs, threads)
    executor: Executor | None = None
    if cluster is not None:
        from meldopt.compare.cluster import ClusterProcesses

        threads = threads or 1
        executor = remote = ClusterProcesses(
            cluster, threads=threads, memory_bytes=limit_bytes
        )
        slots = jobs or max(1, remote.slots)
    setup = Setup(
        slots=slots,
        threads=threads,
        grace_s=grace,
        memory_bytes=limit_bytes,
        traces=files,
        mode="events" if events else "analytic",
        reroute=reroute,
        again=retry,
    )
    from ._interrupt import interruptions
    from ._runs import RunsLine

    folder.prepare()
    library.keep(folder)
    if not quiet:
        for note in notes:
            click.echo(f"note: {note}", err=True)
        click.echo(_announced(len(runs), setup, cluster), err=True)
    records: list[RunRecord] | None = None
    with RunsLine(shown=not quiet) as line, interruptions() as stopped:
        comparison = Comparison(
            folder, runs, setup, executor=executor, on_progress=line
        )
        with contextlib.suppress(KeyboardInterrupt):
            records = comparison.complete()
    if records is None:
        click.echo(
            f"interrupted: {line.done} of {len(runs)} runs are kept in {output}; the"
            " same command continues",
            err=True,
        )
        ctx.exit(stopped.exit_code or EXIT_INTERRUPTED)
    if as_json:
        from ._output import print_json

        print_json(_document(records, output))
    else:
        _print(records)
        click.echo(
            f"{len(records)} records in {output}; 'meldopt report {output}' makes"
            " tables, pictures and a page of them"
        )
    if not any(one.ranked for one in records):
        ctx.exit(EXIT_FAILED)


def _announced(runs: int, setup: Setup, cluster: str | None) -> str:
    """Say how runs are run: it decides what timings mean."""
    threads = setup.threads
    each = (
        "as many threads as the solver takes"
        if threads is None
        else f"{threads} thread{'s' if threads > 1 else ''} each"
    )
    where = "" if cluster is None else f" on {cluster}"
    return f"{runs} runs, {setup.slots} at a time{where}, {each}"


def _slots(jobs: int | None, threads: int | None) -> tuple[int, int | None]:
    """Return runs at a time and threads of each, from what was given of them."""
    from meldopt.compare.machine import usable_cores

    slots = jobs or max(1, usable_cores() // (threads or 1))
    if threads is None and slots > 1:
        threads = 1
    return slots, threads


def _limits(
    seconds: Sequence[float] | None, work: Sequence[float] | None
) -> list[Limit]:
    from meldopt.compare.grid import Limit
    from meldopt.solver import DEFAULT_TIME_S

    if seconds is None:
        seconds = (DEFAULT_TIME_S,) if work is None else (math.inf,)
    return [
        Limit(time_limit_s=None if one == math.inf else one, work=units)
        for one in seconds
        for units in (work or (None,))
    ]


def _memory(text: str | None) -> int | None:
    if text is None:
        return None
    from meldopt.units import parse_quantity

    try:
        size = parse_quantity(parse_value(text), "bytes")
    except (ValueError, TypeError) as exc:
        raise click.UsageError(f"--memory: {exc}") from exc
    if not (math.isfinite(size) and size >= 1):
        raise click.UsageError(f"--memory: got {text!r}, expected a size above 0")
    return int(size)


def _settings(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read SOLVER.KEY=VALUE."""
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        solver, dot, key = name.strip().partition(".")
        if not (equals and dot and solver and key):
            raise click.UsageError(f"--set: got {text!r}, expected SOLVER.KEY=VALUE")
        settings.setdefault(solver, {})[key] = parse_value(value.strip())
    return settings


def _traces(
    names: Sequence[str], trials: Sequence[Trial], library: Library
) -> list[TraceFile]:
    """Find the traces, and refuse those that do not fit all that is judged on."""
    from meldopt.compare.runner import TraceFile
    from meldopt.library import locate_trace
    from meldopt.replay.match import match
    from meldopt.trace import read_trace

    found = []
    judged = dict.fromkeys(one for trial in trials for one in trial.judged)
    for name in dict.fromkeys(names):
        trace = read_trace(name)
        for subject in judged:
            instance, problem = library.instance(subject)
            match(problem, trace, instance=instance)
        path = str(Path(locate_trace(name)).resolve())
        found.append(TraceFile(name=name, path=path, digest=trace.header.digest))
    return found


def _document(records: Sequence[RunRecord], output: str) -> dict[str, Any]:
    """Return what ``--json`` prints: records without their histories."""
    import msgspec

    documents = []
    for record in records:
        document = msgspec.to_builtins(record)
        del document["history"]
        documents.append(document)
    return {"folder": output, "records": documents}


def _print(records: Sequence[RunRecord]) -> None:
    """Print who stands where, by the rules that reports follow too."""
    from meldopt.compare.records import RANKED
    from meldopt.compare.standing import best_bounds, standing
    from meldopt.gap import relative_gap

    from ._output import console, gap_percent, number, print_table

    table, bounds = standing(records), best_bounds(records)
    several = len({case.limit for case in table.cases}) > 1

    def row(case: Case) -> str:
        parts = [case.instance]
        if case.planned_on:
            parts.append(f"planned on {case.planned_on}")
        return ", ".join(parts + ([case.limit] if several else []))

    def cell(c: int, k: int) -> str:
        entry = table.entries.get((c, k))
        if entry is None:
            return ""
        parts = []
        if entry.ranked:
            bound = bounds.get(entry.case.digest)
            gap = relative_gap(entry.value, None if bound is None else bound.value)
            parts.append(f"{table.ratio[c, k]:.4g} ({gap_percent(gap)})")
        for status, count in sorted(entry.statuses.items()):
            if status not in RANKED:
                whole = count == len(entry.runs)
                parts.append(status if whole else f"{count}/{len(entry.runs)} {status}")
        return " ".join(parts)

    out = console()
    for start in range(0, len(table.labels), WIDE):
        labels = range(start, min(start + WIDE, len(table.labels)))
        print_table(
            ("instance", ">best", *(f">{table.labels[k]}" for k in labels)),
            [
                (
                    row(case),
                    number(float(table.best[c])),
                    *(cell(c, k) for k in labels),
                )
                for c, case in enumerate(table.cases)
            ],
            to=out,
            title="" if start else "objective / best (gap to the best bound)",
        )
    broken: dict[str, set[str]] = {}
    for one in records:
        if one.status == "violating":
            rows = {violation.row for violation in one.violations}
            broken.setdefault(one.label, set()).update(rows)
    for label, rows in broken.items():
        out.print(f"  {label}: breaks {', '.join(sorted(rows))}")
    failed: dict[tuple[str, str, str], list[str]] = {}
    for one in records:
        if one.error is not None:
            case = (one.label, one.instance, one.status)
            failed.setdefault(case, []).append(one.error)
    for (label, instance, status), errors in failed.items():
        times = f" ({len(errors)} times)" if len(errors) > 1 else ""
        line = f"  {label} on {instance}: {status}{times}: {errors[0]}"
        out.print(line, soft_wrap=True)
