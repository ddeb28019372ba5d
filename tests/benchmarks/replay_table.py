"""What plans give on requests that the planner did not see: tables in Markdown.

``python -m tests.benchmarks.replay_table CASE… [--data FOLDER] [--time-limit SECONDS]``

One part of the recorded requests is for planning: its profile is imported (``meldopt
import profile``) and put into a bundled instance, which is planned by round-robin, by
published methods, by heuristics and jointly. All plans are then replayed on the other
part, in analytic and in event mode. Where nothing was recorded, the instance is planned
as it is, and requests are drawn from its statistics. With several cases there is one
table, of all plans beside the joint one. ``--keep FOLDER`` writes instance, plans and
trace, for ``meldopt replay``.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt import __version__
from meldopt.builder import build_problem
from meldopt.files import read_arrays
from meldopt.generate.arrivals import RequestTable, bursty
from meldopt.generate.traces import synthetic_trace
from meldopt.importers.profile import Settings, profile_of
from meldopt.importers.recordings import import_recording
from meldopt.instance import Instance, ModelSpec, read_instance, write_instance
from meldopt.plan import Plan, write_plan
from meldopt.replay.analytic import replay_analytic
from meldopt.replay.analytic_report import report_analytic
from meldopt.replay.backbone import backbone_of
from meldopt.replay.compute import ComputeModel
from meldopt.replay.event_report import report_events
from meldopt.replay.events import replay_events
from meldopt.replay.match import match
from meldopt.replay.paced import paced
from meldopt.score import score
from meldopt.solver import solve
from meldopt.trace import Trace, read_trace, slice_trace, write_trace
from meldopt.trace.records import joined
from meldopt.units import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from meldopt.instance import WorkloadSpec
    from meldopt.problem import Problem
    from meldopt.replay.report import AnalyticReport, EventReport

ROOT = Path(__file__).resolve().parents[2]
SOLVERS = ("greedy", "sequential", "auto")
JOINT = "auto"
"""The solver that decides everything together; it proves a bound."""

PUBLISHED = ("eplb", "prism", "hetroute", "occult", "pmq")
"""Published methods; where all their plans break rows, also mended by the common
repair."""

RESAMPLES = 2000
"""Samples of a bootstrap over requests; intervals hold 95 % of them."""

DRAWN_REQUESTS, DRAWN_TOKENS = 120, 64
"""Requests that are drawn where none were recorded, and tokens of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A recording, and the instance whose cluster it is planned for.

    Attributes
    ----------
    instance
        Bundled; cluster, rates, budgets and formats are its own.
    recorded
        Folder of the bundled recordings of a model: ``plan.trace.npz`` is planned with,
        ``test.trace.npz`` replayed; losses were measured with the text of the first.
    recording
        Or an archive within the folder of data, whose requests are split in halves.
        With neither, the instance is planned as it is, and requests are drawn.
    applications
        With it: the applications of the instance that its sets take the place of.
    loads
        Tokens/s of the replay over those of the instance.
    repeats
        How often each request comes in event mode.
    """

    instance: str
    recorded: str | None = None
    recording: str | None = None
    applications: dict[str, str] = field(default_factory=dict)
    loads: tuple[float, ...] = (0.1, 0.3)
    repeats: int = 4


CASES = {
    "tinymoe-a": Case(instance="tinymoe/edge-4", recorded="tinymoe/a"),
    "tinymoe-b": Case(instance="tinymoe/edge-4", recorded="tinymoe/b"),
    "gpt-oss-20b": Case(
        instance="gpt-oss-20b/metro-8",
        recording="gptoss20b/routing.npz",
        applications={
            "mmlu_dev": "chat",
            "mmlu_validation": "coding",
            "gpqa_main": "tutor",
        },
    ),
    "metro": Case(instance="mixtral-8x7b/metro-4", repeats=2),
    "star": Case(instance="star/mixtral-5-domains-medium", repeats=2),
    "tree": Case(instance="tree/phi-3.5-even-loose", repeats=2),
    "prism": Case(instance="prism/mixtral-bits-bigbench", repeats=2),
    "hetroute": Case(instance="hetroute/mixtral-r2-q20", repeats=2),
}


# -- what is planned -------------------------------------------------------------------


def traces_of(case: Case, data: Path, seed: int) -> tuple[Trace, Trace]:
    """Return the requests to plan with, and those to replay."""
    if case.recorded is not None:
        return tuple(read_trace(f"{case.recorded}/{part}") for part in ("plan", "test"))
    if case.recording is None:
        drawn = drawn_trace(read_instance(case.instance), seed)
        return drawn, drawn
    header, requests, chunks = import_recording(data / str(case.recording), seed=seed)
    return split(Trace.of(header, requests, joined(chunks)), seed)


def drawn_trace(instance: Instance, seed: int) -> Trace:
    """Draw requests from the statistics of an instance."""
    length = np.full(DRAWN_REQUESTS, DRAWN_TOKENS, dtype=np.int64)
    drawn = synthetic_trace(
        instance,
        RequestTable(
            arrival_s=np.arange(DRAWN_REQUESTS, dtype=np.float64),
            prompt_tokens=length // 4,
            output_tokens=length - length // 4,
        ),
        seed=seed,
    )
    return Trace.of(drawn.header, drawn.requests, drawn.load())


def split(trace: Trace, seed: int) -> tuple[Trace, Trace]:
    """Deal the requests of each application in halves."""
    rng = np.random.default_rng(seed)
    planning = np.zeros(trace.num_requests, dtype=bool)
    for g in range(len(trace.header.applications)):
        mine = rng.permutation(np.flatnonzero(trace.requests.application == g))
        planning[mine[: len(mine) // 2]] = True
    return slice_trace(trace, requests=planning), slice_trace(trace, requests=~planning)


def arriving(trace: Trace, repeats: int, seed: int) -> Trace:
    """Let each request come several times, in random order, one a second on average."""
    rng = np.random.default_rng(seed)
    count = trace.num_requests
    order = rng.permutation(np.tile(np.arange(count), repeats))
    rows = trace.rows()
    start = np.cumsum(rows) - rows
    index = np.concatenate([np.arange(start[n], start[n] + rows[n]) for n in order])
    whole = trace.load().take(index)
    requests = replace(
        trace.requests.take(order), arrival_s=bursty(rng, len(order), 1.0, 1.0)
    )
    request = np.repeat(np.arange(len(order)), rows[order])
    return Trace.of(trace.header, requests, replace(whole, token_request=request))


def _model(case: Case, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Any], str]:
    """Return the model, what was measured of it, and where that is from."""
    if case.recorded is None:
        measured = dict(read_instance(case.instance).arrays)
        for name, array in measured.items():
            # The domains of the instance are not those of the trace: one for all.
            if name.endswith("loss"):
                measured[name] = array.mean(axis=0, keepdims=True)
        return spec, measured, case.instance
    folder = ROOT / "instances" / case.recorded
    about = msgspec.json.decode((folder / "about.json").read_bytes())
    facts = about["model"]
    model = ModelSpec(
        layers=facts["layers"],
        experts=facts["experts"],
        top_k=float(facts["top_k"]),
        parameters_per_expert=float(facts["parameters_per_expert"]),
        hidden_size=facts["hidden_size"],
        backbone=2.0 * facts["backbone_parameters"],  # fp16
        loss_formats=about["figures"]["loss_formats"],
    )
    return model, read_arrays(folder / "profile.npz"), f"{case.recorded}/profile.npz"


def planning_instance(case: Case, trace: Trace) -> Instance:
    """Put model and profile of a recording in place of the instance's."""
    source = read_instance(case.instance)
    if case.recorded is None and case.recording is None:
        return source
    model, measured, name = _model(case, source.spec.model)
    found = profile_of(
        trace, Settings(paths=False), measured=measured, measured_name=name
    )
    spec = source.spec
    tokens = dict(zip(found.domains, found.tokens.tolist(), strict=True))
    return Instance(
        spec=msgspec.structs.replace(
            spec,
            name=f"{spec.name}-planned",
            about={"note": f"{case.instance} with the profile of {trace.header.name}"},
            model=msgspec.structs.replace(
                model, domains=list(found.domains), profile=None, digest=None
            ),
            workload=_workload(case, spec.workload, tokens),
        ),
        arrays=found.arrays,
    )


def _workload(
    case: Case, workload: WorkloadSpec, tokens: dict[str, int]
) -> WorkloadSpec:
    """Give applications the names of the trace, and their shares of its tokens.

    The sum of the rates stays, and how the rate of an application is spread over its
    homes.
    """
    set_of = {own: name for name, own in case.applications.items()}
    names, domains, mass = {}, {}, {}
    for one in workload.applications:
        names[one.name] = set_of.get(one.name, one.name)
        mine = [set_of[one.name]] if set_of else list(one.domain or ())
        mass[one.name] = sum(tokens[name] for name in mine)
        domains[one.name] = {name: tokens[name] / mass[one.name] for name in mine}
    rates = [parse_quantity(one.rate, "tokens/s") for one in workload.demands]
    own = dict.fromkeys(names, 0.0)
    for one, rate in zip(workload.demands, rates, strict=True):
        own[one.application] += rate
    scale = {
        name: mass[name] / sum(mass.values()) * sum(rates) / own[name] for name in own
    }
    return msgspec.structs.replace(
        workload,
        applications=[
            msgspec.structs.replace(one, name=names[one.name], domain=domains[one.name])
            for one in workload.applications
        ],
        demands=[
            msgspec.structs.replace(
                one,
                application=names[one.application],
                rate=rate * scale[one.application],
            )
            for one, rate in zip(workload.demands, rates, strict=True)
        ],
    )


def round_robin(problem: Problem) -> Plan:
    """Deal experts to servers in turn, all in one format: the largest that fits.

    A server that is full is passed over. Tiers are filled in their order. Where no
    format fits, the most compact one is dealt as far as it goes, and the rest is put
    where it would have been dealt, against the memory rows.
    """
    order = np.argsort(-problem.size_bytes.sum(axis=0), kind="stable")
    for b in order.tolist():
        copies = _dealt(problem, b, force=False)
        if copies is not None:
            return Plan.of(problem, copies)
    copies = _dealt(problem, int(order[-1]), force=True)
    assert copies is not None
    return Plan.of(problem, copies)


def _dealt(problem: Problem, b: int, *, force: bool) -> np.ndarray[Any, Any] | None:
    room = problem.room_bytes.copy()
    places = [
        [v for v in mine.tolist() if problem.allowed[v, b]]
        for mine in problem.places_of
    ]
    copies = []
    for i in range(problem.num_experts):
        size = problem.size_bytes[i, b]
        turn = [(i + n) % problem.num_servers for n in range(problem.num_servers)]
        fitting = [v for s in turn for v in places[s] if room[v] >= size]
        if not fitting and not force:
            return None
        place = (fitting or [v for s in turn for v in places[s]])[0]
        room[place] -= size
        copies.append((i, place, b))
    return np.array(copies, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, what its maker promises, and what it breaks."""

    name: str
    plan: Plan
    serial_s: float
    bound_gap: float | None
    broken: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name for the table."""
        return f"{self.name} (joint)" if self.name == JOINT else self.name


def plans_of(
    problem: Problem, *, time_limit: float, seed: int, say: Callable[[str], None]
) -> list[Planned]:
    """Plan by round-robin, by published methods and by each solver.

    A published method whose plan breaks a row has a second one, mended.
    """
    methods: list[tuple[str, str, dict[str, Any]]] = []
    for name in PUBLISHED:
        methods += [(name, name, {}), (f"{name} + repair", name, {"repair": True})]
    methods += [(name, name, {}) for name in SOLVERS]
    say("planning: round-robin")
    found = [_planned(problem, "round-robin", round_robin(problem), None)]
    for label, name, options in methods:
        if options and found[-1].name == name and not found[-1].broken:
            continue  # nothing to mend
        say(f"planning: {label}")
        result = solve(problem, name, time_limit=time_limit, seed=seed, options=options)
        if result.plan is None:
            say(f"  {label} found no plan: {result.status.value}")
            continue
        found.append(_planned(problem, label, result.plan, result.gap))
    return found


def _planned(problem: Problem, name: str, plan: Plan, gap: float | None) -> Planned:
    judged = score(problem, plan)
    return Planned(
        name=name,
        plan=plan,
        serial_s=judged.terms["serial"],
        bound_gap=gap,
        broken=tuple(sorted({one.row for one in judged.violations})),
    )


# -- what is replayed ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A plan on held-out requests."""

    planned: Planned
    alone: AnalyticReport
    runs: tuple[EventReport, ...]  # one for each load
    token_s: NDArray[np.float64]  # parallel, of each token alone
    request_of: NDArray[np.int64]  # of each token
    latency_s: tuple[NDArray[np.float64], ...]  # of each request, by load


def replayed(
    instance: Instance,
    problem: Problem,
    trace: Trace,
    again: Trace,
    planned: Planned,
    loads: Sequence[float],
) -> Replayed:
    """Replay a plan in both modes."""
    found = match(problem, trace, instance=instance)
    many = match(problem, again, instance=instance)
    backbone = backbone_of(instance, problem)
    compute = ComputeModel.fitted(
        problem,
        [server.device for server in instance.spec.cluster.servers],
        reuse=instance.spec.limits.reuse,
    )
    times = replay_analytic(problem, planned.plan, trace, found)
    requests = again.requests
    each = float((requests.prompt_tokens + requests.output_tokens).mean())
    own = again.num_requests / float(requests.arrival_s[-1])  # requests/s
    records = [
        replay_events(
            problem,
            planned.plan,
            paced(again, load * problem.total_rate / each / own),
            many,
            backbone=backbone,
            compute=compute,
        )
        for load in loads
    ]
    return Replayed(
        planned=planned,
        alone=report_analytic(problem, planned.plan, trace, found, times, backbone),
        runs=tuple(report_events(problem, one) for one in records),
        token_s=times.parallel_s,
        request_of=np.repeat(np.arange(trace.num_requests), trace.rows()),
        latency_s=tuple(one.finish_s - one.arrival_s for one in records),
    )


# -- intervals -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of two plans with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratios(
    mine: NDArray[np.float64],
    other: NDArray[np.float64],
    request_of: NDArray[np.int64],
    *,
    seed: int = 0,
) -> tuple[Ratio, Ratio] | None:
    """Return the ratios of means and of 99th percentiles, by a bootstrap of requests.

    Requests are drawn, with all their values, the same ones for both plans: values of
    one request are not independent, and both plans served the same.

    Parameters
    ----------
    mine, other
        Values under two plans, (T,).
    request_of
        Request of each value, (T,).

    Returns
    -------
    tuple of Ratio or None
        None if a value is not finite: a request that never ended.
    """
    if not (np.isfinite(mine).all() and np.isfinite(other).all()):
        return None
    rng = np.random.default_rng(seed)
    count = int(request_of.max()) + 1
    sums = [np.bincount(request_of, values, count) for values in (mine, other)]
    orders = [np.argsort(values, kind="stable") for values in (mine, other)]
    drawn = np.empty((RESAMPLES, 2))
    for n in range(RESAMPLES):
        weight = np.bincount(rng.integers(count, size=count), minlength=count)
        tails = [
            _percentile(values, order, weight[request_of])
            for values, order in zip((mine, other), orders, strict=True)
        ]
        drawn[n] = (weight @ sums[0]) / (weight @ sums[1]), tails[0] / tails[1]
    ones = np.ones(len(mine), dtype=np.int64)
    means = float(mine.mean() / other.mean())
    tail = _percentile(mine, orders[0], ones) / _percentile(other, orders[1], ones)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return (
        Ratio(value=means, low=float(low[0]), high=float(high[0])),
        Ratio(value=tail, low=float(low[1]), high=float(high[1])),
    )


def _percentile(
    values: NDArray[np.float64], order: NDArray[np.int64], weight: NDArray[np.int64]
) -> float:
    """Return the least value that 99 % of the weight is not above."""
    reached = np.cumsum(weight[order])
    at = int(np.searchsorted(reached, 0.99 * reached[-1]))
    return float(values[order[at]])


# -- the table -------------------------------------------------------------------------


def table(rows: Sequence[Replayed], loads: Sequence[float]) -> str:
    """Write the results in Markdown."""
    head = [
        "plan",
        "planned serial, ms",
        "serial, ms",
        "parallel, ms (p95)",
        "loss / budget",
        "KB/token",
        "rows broken",
    ]
    lines = []
    for one in rows:
        serial, parallel = one.alone.all.serial_s, one.alone.all.parallel_s
        lines.append(
            [
                one.planned.label,
                _ms(one.planned.serial_s),
                f"{_ms(serial.mean)} ± {_ms(_half(serial))}",
                f"{_ms(parallel.mean)} ({_ms(parallel.p95)})",
                _worst(one.alone),
                _short(one.alone.terms["traffic"] / 1e3),
                ", ".join(one.planned.broken) or "none",
            ]
        )
    text = _markdown(head, lines)
    head = ["plan"]
    for load in loads:
        head += [
            f"TTFT at {load:g}, s (p95)",
            f"TPOT at {load:g}, ms (p95)",
            f"tokens/s at {load:g}",
            f"J/token at {load:g}",
        ]
    lines = []
    for one in rows:
        line = [one.planned.label]
        for run in one.runs:
            ttft, tpot = run.all.ttft_s, run.all.tpot_s
            mark = "" if run.warm_up.settled else "*"
            line += [
                f"{_short(ttft.mean)}{mark} ({_short(ttft.p95)})",
                f"{_ms(tpot.mean)} ± {_ms(_half(tpot))} ({_ms(tpot.p95)})",
                _short(run.throughput.output_tokens_per_s),
                _short(run.energy.joule_per_token),
            ]
        lines.append(line)
    return text + "\n" + _markdown(head, lines)


def against_table(cases: Mapping[str, Sequence[Replayed]], load: float) -> str:
    """Write all plans beside the joint one of their case, in Markdown.

    Parameters
    ----------
    cases
        Rows by case; those without a joint plan are left out.
    load
        Of the event mode that stands in the table; the last one.
    """
    head = [
        "family",
        "plan",
        "planned",
        "token, mean",
        "token, p99",
        f"request at {load:g}, mean",
        f"request at {load:g}, p99",
        "rows broken",
    ]
    lines = []
    for case, rows in cases.items():
        joint = next((one for one in rows if one.planned.name == JOINT), None)
        if joint is None:
            continue
        for one in rows:
            if one is joint:
                continue
            alone = ratios(one.token_s, joint.token_s, one.request_of)
            many = np.arange(len(one.latency_s[-1]))
            loaded = ratios(one.latency_s[-1], joint.latency_s[-1], many)
            lines.append(
                [
                    case,
                    one.planned.name,
                    f"{one.planned.serial_s / joint.planned.serial_s:.2f}",
                    *(map(str, alone) if alone else ["–"] * 2),
                    *(map(str, loaded) if loaded else ["–"] * 2),
                    ", ".join(one.planned.broken) or "none",
                ]
            )
    return _markdown(head, lines)


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _worst(report: AnalyticReport) -> str:
    shares = [
        one.quality_loss / one.quality_budget
        for one in report.applications
        if one.quality_loss is not None and one.quality_budget
    ]
    return f"{100 * max(shares):.0f} %" if shares else "–"


def _half(spread: Any) -> float | None:
    return None if spread.high is None else spread.high - spread.mean


def _short(value: float | None) -> str:
    """Write three digits, and no exponent."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ms(value: float | None) -> str:
    return _short(None if value is None else 1e3 * value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _study(
    case: Case, name: str, given: argparse.Namespace
) -> tuple[list[Replayed], str]:
    """Plan and replay a case; return its rows and a line on how they were made."""
    data = given.data or Path(os.environ.get("MELDOPT_DATA", ""))
    planning, held_out = traces_of(case, data, given.seed)
    instance = planning_instance(case, planning)
    problem = build_problem(instance)
    planned = plans_of(problem, time_limit=given.time_limit, seed=given.seed, say=_say)
    if given.keep:
        keep = given.keep if len(given.case) == 1 else given.keep / name
        keep.mkdir(parents=True, exist_ok=True)
        write_instance(instance, keep / "instance.json")
        write_trace(
            keep / "held-out.npz",
            held_out.header,
            held_out.requests,
            held_out.chunks(),
        )
        for one in planned:
            label = one.name.replace(" + ", "-")
            write_plan(one.plan, keep / f"{label}.plan.json", problem=problem)
    again = arriving(held_out, case.repeats, given.seed)
    rows = []
    for one in planned:
        _say(f"replaying: {one.name}")
        rows.append(replayed(instance, problem, held_out, again, one, case.loads))
    gap = next((one.bound_gap for one in planned if one.name == JOINT), None)
    made = (
        "requests drawn"
        if planning is held_out
        else f"{planning.num_requests} requests ({planning.num_tokens} tokens) to plan "
        "with"
    )
    return rows, (
        f"{name}: {made}, {held_out.num_requests} ({held_out.num_tokens}) to replay, "
        f"each {case.repeats} times in event mode; gap of {JOINT} "
        f"{'–' if gap is None else f'{100 * gap:.3g} %'}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES, nargs="+")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loads", type=float, nargs="*")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args(arguments)
    found: dict[str, list[Replayed]] = {}
    lines = []
    for name in given.case:
        case = CASES[name]
        if given.loads:
            case = replace(case, loads=tuple(given.loads))
        _say(name)
        found[name], line = _study(case, name, given)
        lines.append(line)
    first = CASES[given.case[0]]
    loads = tuple(given.loads) if given.loads else first.loads
    if len(found) == 1:
        print(table(found[given.case[0]], loads))
    print(against_table(found, loads[-1]))
    names = ("highspy", "ortools", "numpy")
    lines.append(
        f"time limit {given.time_limit:g} s, seed {given.seed}; meldopt {__version__}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )
    print("; ".join(lines))


if __name__ == "__main__":
    main()
