"""Studies b and c: the settings of HetRoute and of Prism, beside what they published.

The instances are those of ``instances/frozen.py``. Plans are judged by the objective
(`serial`) and replayed token by token on a trace that was drawn from the statistics of
the instance, one trace for each model. A ratio is of two of our values, or of two
published ones; never one of each: a paper's simulator is not ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from meldopt.builder import build_problem
from meldopt.compare.markup import Table
from meldopt.compare.replaying import replay_plan
from meldopt.compare.standing import best_bounds
from meldopt.compare.tables import columns_of, failures_table, violations_table
from meldopt.compare.trials import Library
from meldopt.gap import relative_gap
from meldopt.generate.arrivals import RequestTable
from meldopt.generate.traces import synthetic_trace
from meldopt.instance import read_instance
from meldopt.plan import read_plan
from meldopt.solver import solve
from meldopt.trace import write_trace

from .setting import JOINT, chosen, facts, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meldopt.compare.markup import Cell
    from meldopt.compare.records import RunRecord

    from .setting import Setting

Published = dict[tuple[str, str], float]
"""Values of one paper by instance and method."""

REQUESTS, TOKENS = 40, 128
"""Of a drawn trace: requests, and tokens of each."""

TRACE_SEED = 1
"""Of drawn traces: not the seed of any instance."""

HETROUTE_INSTANCES = (
    "hetroute/mixtral-r2-q20",
    "hetroute/mixtral-r3-q20",
    "hetroute/mixtral-r2-q5",
    "hetroute/mixtral-r2-q20-busy",
)

HETROUTE = "hetroute"

REDUNDANCY = {"hetroute/mixtral-r1-q20": 1.0, "hetroute/mixtral-r3-q20": 3.0}
"""Of HetRoute's own parameter, where it is not its 2."""

HETROUTE_PUBLISHED = {
    # Mean ms a token; what the paper gives as a difference in percent is made absolute.
    ("hetroute/mixtral-r2-q20", "hetroute"): 156.0,
    ("hetroute/mixtral-r2-q20", "prism"): 217.0,
    ("hetroute/mixtral-r2-q20", "edgeshard"): 380.0,
    ("hetroute/mixtral-r1-q20", "hetroute"): 221.0,
    ("hetroute/mixtral-r3-q20", "hetroute"): 147.0,
    ("hetroute/mixtral-r2-q5", "hetroute"): 188.0,
    ("hetroute/mixtral-r2-q20-busy", "hetroute"): 236.0,
    ("hetroute/mixtral-r2-q20-busy", "prism"): 359.0,
    ("hetroute/mixtral-r2-q20-busy", "edgeshard"): 612.0,
}
"""HetRoute, arXiv 2608.00577, after secondary summaries of the paper."""

HETROUTE_TAILS = {
    # 99th percentiles, ms.
    ("hetroute/mixtral-r2-q20", "hetroute"): 286.0,
    ("hetroute/mixtral-r2-q20", "prism"): 428.0,
    ("hetroute/mixtral-r2-q20", "edgeshard"): 681.0,
    ("hetroute/mixtral-r1-q20", "hetroute"): 431.0,
    ("hetroute/mixtral-r2-q20-busy", "hetroute"): 472.0,
    ("hetroute/mixtral-r2-q20-busy", "prism"): 711.0,
    ("hetroute/mixtral-r2-q20-busy", "edgeshard"): 1180.0,
}
"""The same paper."""

PRISM_INSTANCES = (
    "prism/v2-lite-bigbench",
    "prism/v2-lite-multidata",
    "prism/mixtral-bigbench",
    "prism/mixtral-multidata",
    "prism/mixtral-bits-bigbench",
    "prism/v2-lite-bits-bigbench",
)

PRISM = "prism"

PRISM_PUBLISHED = {
    # Mean seconds a request.
    ("prism/v2-lite-bigbench", "prism"): 6.63,
    ("prism/v2-lite-bigbench", "eplb"): 9.56,
    ("prism/v2-lite-multidata", "prism"): 13.29,
    ("prism/v2-lite-multidata", "eplb"): 14.93,
    ("prism/mixtral-bigbench", "prism"): 2.09,
    ("prism/mixtral-bigbench", "eplb"): 2.16,
    ("prism/mixtral-multidata", "prism"): 9.17,
    ("prism/mixtral-multidata", "eplb"): 9.36,
}
"""Prism, arXiv 2508.12851."""


# -- traces ----------------------------------------------------------------------------


def trace_of(setting: Setting, name: str) -> str:
    """Draw a trace from the statistics of an instance, once; return its path."""
    instance = read_instance(name)
    path = setting.folder / "traces" / f"{name.replace('/', '--')}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        counts = np.full(REQUESTS, TOKENS, dtype=np.int64)
        drawn = synthetic_trace(
            instance,
            RequestTable(
                arrival_s=np.arange(REQUESTS, dtype=np.float64),
                prompt_tokens=0 * counts,
                output_tokens=counts,
            ),
            seed=TRACE_SEED,
        )
        write_trace(path, drawn.header, drawn.requests, drawn.chunks())
    return str(path)


def traces_by_statistics(setting: Setting, names: Sequence[str]) -> dict[str, str]:
    """Return a trace for each instance; instances of the same calls share one."""
    found: dict[str, str] = {}
    drawn: dict[tuple[bytes, str], str] = {}
    for name in names:
        instance = read_instance(name)
        same = instance.arrays["calls"].tobytes(), str(instance.spec.workload)
        found[name] = drawn.setdefault(same, name)
    return {name: trace_of(setting, source) for name, source in found.items()}


# -- the studies -----------------------------------------------------------------------


def hetroute(setting: Setting) -> str:
    """Compare in the setting of HetRoute."""
    return _study(
        setting,
        HETROUTE_INSTANCES,
        [HETROUTE, "prism", "edgeshard"],
        HETROUTE,
        (HETROUTE_PUBLISHED, HETROUTE_TAILS),
    )


def prism(setting: Setting) -> str:
    """Compare in the setting of Prism."""
    return _study(
        setting,
        PRISM_INSTANCES,
        [PRISM, "eplb", "round_robin"],
        PRISM,
        (PRISM_PUBLISHED, {}),
    )


def _study(
    setting: Setting,
    own: Sequence[str],
    baselines: Sequence[str],
    reference: str,
    published: tuple[Published, Published],
) -> str:
    names = chosen(setting, own)
    library = Library()
    records: list[RunRecord] = []
    traces = traces_by_statistics(setting, names)
    for path in dict.fromkeys(traces.values()):
        mine = [name for name in names if traces[name] == path]
        trials = library.trials(mine)
        made = setting.compare(library, trials, [*baselines, JOINT], traces=[path])
        made = [
            one
            for one in made
            if one.solver != HETROUTE or one.instance not in REDUNDANCY
        ]
        made += _own_redundancy(setting, library, mine, baselines, path)
        made += _mended(setting, library, made, path)
        records += made
        for name in mine:
            records += _continued(setting, made, name, path)
    tables = [
        ratios_table(setting, records, reference, published),
        violations_table(records),
        failures_table(records),
    ]
    parts = [shown(one) for one in tables if one.rows]
    return "\n".join([facts(setting, records), "", *parts])


def _own_redundancy(
    setting: Setting,
    library: Library,
    names: Sequence[str],
    baselines: Sequence[str],
    path: str,
) -> list[RunRecord]:
    """Run HetRoute with the redundancy of the instance, where it is not its own."""
    found = []
    for name in names if HETROUTE in baselines else ():
        if name in REDUNDANCY:
            found += setting.compare(
                library,
                library.trials([name]),
                [f"{HETROUTE}[redundancy={REDUNDANCY[name]}]"],
                traces=[path],
            )
    return found


def _mended(
    setting: Setting, library: Library, made: Sequence[RunRecord], path: str
) -> list[RunRecord]:
    """Run again, with the common repair, what broke a row."""
    found = []
    for label in dict.fromkeys(one.label for one in made):
        broken = [
            one.instance
            for one in made
            if one.label == label and one.status == "violating"
        ]
        if broken and label != JOINT:
            both = setting.compare(
                library, library.trials(broken), [label], repair=True, traces=[path]
            )
            found += [one for one in both if one.label != label]
    return found


def _continued(
    setting: Setting, made: Sequence[RunRecord], name: str, path: str
) -> list[RunRecord]:
    """Let the joint solver go on from a better plan of others; return what it makes.

    A comparison has no plans to start from, so this runs here, and anew every time.
    """
    ranked = [one for one in made if one.instance == name and one.ranked]
    blank = next(one for one in made if one.instance == name and one.label == JOINT)
    label = f"{JOINT} from the best"
    first = min(ranked, key=lambda one: one.objective or 0.0, default=blank)
    if first.label == JOINT:
        return []  # nobody has a better one
    instance = read_instance(name)
    problem = build_problem(instance)
    start = read_plan(setting.folder / str(first.plan), problem)
    setting.say(f"{label}, {first.label}, on {name}")
    limit = setting.limit
    result = solve(
        problem,
        JOINT,
        time_limit=math.inf if limit.time_limit_s is None else limit.time_limit_s,
        work=limit.work,
        seed=setting.seed,
        start=start,
    )
    assert result.plan is not None
    return [
        msgspec.structs.replace(
            blank,
            label=label,
            status=result.status.value,
            objective=result.objective,
            bound=result.bound,
            gap=result.gap,
            violations=[],
            replay={
                path: replay_plan(instance, problem, result.plan, path, "analytic")
            },
        )
    ]


def ratios_table(
    setting: Setting,
    records: Sequence[RunRecord],
    reference: str,
    published: tuple[Published, Published],
) -> Table:
    """Return every plan beside that of one method, with gaps and published ratios.

    Parameters
    ----------
    setting
        Of the study.
    records
        All of them.
    reference
        The method that others are divided by: its own plan if it keeps every row, else
        the mended one.
    published
        Mean latency and 99th percentile by instance and method, of one paper.
    """
    bounds = best_bounds(records, setting.index())
    rows: list[tuple[Cell, ...]] = []
    for name in dict.fromkeys(one.instance for one in records):
        mine = [record for record in records if record.instance == name]
        bases = [one for one in mine if one.solver == reference]
        base = next((one for one in bases if one.ranked), bases[-1])
        solvers = list(dict.fromkeys(one.solver for one in mine))
        for one in sorted(mine, key=lambda record: solvers.index(record.solver)):
            bound = bounds.get(one.instance_digest)
            gap = (
                relative_gap(one.objective, bound.value)
                if one.ranked and one.objective is not None and bound is not None
                else None
            )
            seen, theirs = _replayed(one), _replayed(base)
            rows.append(
                (
                    name,
                    one.label,
                    one.status,
                    one.objective,
                    gap,
                    _over(one.objective, base.objective),
                    None if seen is None else 1e3 * seen[0],
                    None if seen is None else 1e3 * seen[1],
                    _over(seen and seen[0], theirs and theirs[0]),
                    _over(seen and seen[1], theirs and theirs[1]),
                    *(
                        _over(part.get((name, one.solver)), part.get((name, reference)))
                        for part in published
                    ),
                )
            )
    return Table(
        name="papers",
        title="Beside the published ratios",
        caption=(
            f"Objective: serial seconds a token. Over: divided by the same of the plan "
            f"of {reference}, the mended one where its own breaks rows. Replay: "
            "seconds a token with the calls of a layer side by side, on the drawn "
            "trace. Gap: to the best certified bound known. A "
            "violating plan is not ranked and has no gap; its numbers are shown to "
            "explain what the method does."
        ),
        columns=columns_of(
            ("instance", "text"),
            ("solver", "text"),
            ("status", "text"),
            ("objective s", "number"),
            ("gap", "percent"),
            ("over", "ratio"),
            ("replay mean ms", "number"),
            ("p99 ms", "number"),
            ("mean over", "ratio"),
            ("p99 over", "ratio"),
            ("published mean", "ratio"),
            ("published p99", "ratio"),
        ),
        rows=tuple(rows),
    ).without_empty()


def _replayed(record: RunRecord) -> tuple[float, float] | None:
    """Return mean and 99th percentile of the replay, if there is one."""
    for found in record.replay.values():
        if found.mean_s is not None and found.p99_s is not None:
            return found.mean_s, found.p99_s
    return None


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
