"""Explain an infeasible problem: which row, by how much, and what would mend it.

Whether any plan exists is a feasibility problem of the exact model. If none does, the
same model with elastic rows, each of which may be exceeded at a price of one per
relative excess, finds the smallest relaxation that mends the problem; it is found,
not guessed, and applying it (`relax`) makes its plan feasible. What no relaxation of a
limit can mend (a pinned copy that is forbidden, say) is named in words. A problem too
large for the exact model is searched heuristically and checked against sums that any
plan must reach; then nothing is claimed to be smallest.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .bounds import cheapest_answers, cheapest_copies
from .errors import MeldoptError
from .formulations.milp import build_milp
from .score import score
from .sums import sum_by
from .tolerance import allowed
from .units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from .engines.outcome import Outcome
    from .formulations.milp import Formulation
    from .plan import Plan
    from .problem import Problem
    from .score import Row, Score

ELASTIC = {
    "memory": "bytes",
    "compute": "busy share",
    "link": "bytes/s",
    "budget": "tokens/s",
    "quality": "nats",
    "latency": "s",
    "coverage": "experts",
    "count": "copies",
}
"""Rows that a relaxation may exceed, and their units."""

MAX_COLUMNS = 400_000
"""Shares and copies up to which the exact model is built."""

FIRST, SECOND = 0.2, 0.2
"""Shares of the time for a plan by the exact model, and then by heuristics."""

ANY_OBJECTIVE = 1e300
"""An objective that every feasible plan reaches."""

SHOWN = 3
"""Experts named one by one in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """One limit to loosen.

    Attributes
    ----------
    row, where
        As in `meldopt.score.Row`.
    amount
        By how much, in ``unit``: to raise an upper limit, to lower a lower one.
    unit
        Of the row.
    relative
        ``amount`` as a fraction of the limit; none where the limit is 0.
    """

    row: str
    where: str
    amount: float
    unit: str
    relative: float | None

    def __str__(self) -> str:
        """Write it for people: ``memory lab/gpu +1.3 GiB (6.1 %)``."""
        if self.unit == "bytes":
            amount = format_bytes(self.amount)
        elif self.unit == "bytes/s":
            amount = f"{format_bytes(self.amount)}/s"
        elif self.unit == "s":
            amount = format_seconds(self.amount)
        else:
            amount = f"{self.amount:.4g} {self.unit}"
        share = "" if self.relative is None else f" ({100 * self.relative:.2g} %)"
        return f"{self.row} {self.where} +{amount}{share}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """Why a problem has no plan, or a plan that shows that it has one.

    Attributes
    ----------
    feasible
        Whether a feasible plan exists; none if that is not known.
    plan
        A feasible plan, or the one that the relaxations make feasible; or none.
    relaxations
        What would mend the problem together; empty if feasible or unmendable.
    proved
        Whether no smaller relaxation does (sum of relative amounts); for a feasible
        problem true.
    reasons
        In words: what no relaxation of a limit can mend, or which sums any plan must
        exceed.
    """

    feasible: bool | None
    plan: Plan | None
    relaxations: tuple[Relaxation, ...]
    proved: bool
    reasons: tuple[str, ...] = ()


def explain(problem: Problem, time_limit: float = 60.0) -> Explanation:
    """Find a feasible plan or the smallest relaxation that makes one.

    Parameters
    ----------
    problem
        Of either dataflow.
    time_limit
        Seconds for all of it.

    Returns
    -------
    Explanation
        ``proved`` is false if time ran out, or the problem is too large for the exact
        model.
    """
    deadline = perf_counter() + time_limit
    reasons = tuple(_obstacles(problem))
    if reasons:
        return Explanation(
            feasible=False, plan=None, relaxations=(), proved=True, reasons=reasons
        )
    if _num_columns(problem) > MAX_COLUMNS:
        return _explain_large(problem, deadline)
    return _explain_small(problem, deadline)


def relax(problem: Problem, relaxations: Iterable[Relaxation]) -> Problem:
    """Loosen the limits of a problem as an explanation says.

    The busy share is one number for all processors and grows by the largest amount; a
    failure set whose coverage is relaxed is dropped.
    """
    capacity = np.array(problem.capacity_bytes)
    bandwidth = np.array(problem.link_bandwidth)
    quality, latency = (
        np.array(problem.quality_budget),
        np.array(problem.latency_target),
    )
    busy = [problem.busy]
    caps, counts = list(problem.budget_caps), list(problem.count_rows)
    sets = list(problem.failure_sets)
    labels = problem.labels
    places = ["/".join(place) for place in labels.places]
    links = [" -> ".join(link) for link in labels.links]

    def memory(where: str, amount: float) -> None:
        capacity[places.index(where)] += amount

    def compute(where: str, amount: float) -> None:
        busy.append(problem.busy + amount)

    def link(where: str, amount: float) -> None:
        bandwidth[links.index(where)] += amount / problem.link_busy

    def budget(where: str, amount: float) -> None:
        for n, cap in enumerate(problem.budget_caps):
            if budget_label(problem, n) == where:
                caps[n] = dataclasses.replace(
                    cap, max_tokens_per_s=cap.max_tokens_per_s + amount
                )

    def nats(where: str, amount: float) -> None:
        quality[labels.applications.index(where)] += amount

    def seconds(where: str, amount: float) -> None:
        latency[labels.applications.index(where)] += amount

    def coverage(where: str, amount: float) -> None:
        for n, servers in enumerate(problem.failure_sets):
            if "+".join(labels.servers[s] for s in servers) == where:
                sets[n] = np.zeros(0, dtype=np.int64)

    def count(where: str, amount: float) -> None:
        for n, row in enumerate(problem.count_rows):
            if row.name == where:
                more = math.ceil(amount - 1e-6)
                counts[n] = dataclasses.replace(
                    row,
                    lower=None if row.lower is None else max(row.lower - more, 0),
                    upper=None if row.upper is None else row.upper + more,
                )

    changes: dict[str, Callable[[str, float], None]] = {
        "memory": memory,
        "compute": compute,
        "link": link,
        "budget": budget,
        "quality": nats,
        "latency": seconds,
        "coverage": coverage,
        "count": count,
    }
    for one in relaxations:
        changes[one.row](one.where, one.amount)
    return problem.replace(
        capacity_bytes=capacity,
        link_bandwidth=bandwidth,
        quality_budget=quality,
        latency_target=latency,
        busy=max(busy),
        budget_caps=tuple(caps),
        count_rows=tuple(counts),
        failure_sets=tuple(servers for servers in sets if len(servers)),
    )


def budget_label(problem: Problem, n: int) -> str:
    """Return what the report of a cap on transfer budgets calls it."""
    cap, names = problem.budget_caps[n], problem.labels.servers
    layer = "all layers" if cap.layer is None else f"layer {cap.layer}"
    if cap.link is not None:
        ends = problem.labels.links[cap.link]
    else:
        pair = (cap.from_server, cap.to_server)
        ends = (
            "any" if pair[0] is None else names[pair[0]],
            "any" if pair[1] is None else names[pair[1]],
        )
    return f"{layer}, {' -> '.join(ends)}"


# -- small: the exact model ------------------------------------------------------------


def _num_columns(problem: Problem) -> int:
    """Return about how many columns the exact model has."""
    copies: int = problem.num_experts * int(problem.allowed.sum())
    if problem.dataflow == "roam":
        return copies + len(problem.pairs) * problem.num_servers**2
    segments: int = problem.fuse_width.shape[2]
    fused = problem.num_experts * problem.num_servers * segments
    return copies + problem.num_demands * (copies + fused)


def _explain_small(problem: Problem, deadline: float) -> Explanation:
    from .engines.highs import solve_highs

    # An expert of several copies roams to one of them: one copy is a plan as well.
    several = problem.dataflow == "roam" and problem.max_copies != 1
    modelled = problem.replace(max_copies=1) if several else problem
    form = build_milp(modelled)
    free = dataclasses.replace(
        form.model, objective=np.zeros(form.model.num_columns), objective_scale=1.0
    )
    left = max(deadline - perf_counter(), 0.1)
    outcome = solve_highs(free, time_limit=FIRST * left)
    if outcome.x is not None:
        plan = _plan_of(problem, form, outcome)
        if score(problem, plan).feasible:
            return _feasible(plan)
    refuted = outcome.status == "infeasible" and not several
    near: Plan | None = None
    if outcome.status != "infeasible":
        near = _search(problem, SECOND * left)
        if near is not None and score(problem, near).feasible:
            return _feasible(near)
    form = build_milp(modelled, elastic=frozenset(ELASTIC))
    outcome = solve_highs(
        form.model,
        time_limit=max(deadline - perf_counter(), 0.1),
        start=None if near is None else form.encode(near),
    )
    if outcome.status == "infeasible":
        return Explanation(
            feasible=None if several else False,
            plan=None,
            relaxations=(),
            proved=not several,
            reasons=tuple(_culprits(modelled, deadline)),
        )
    plans = [] if outcome.x is None else [_plan_of(problem, form, outcome)]
    plans += [] if near is None or outcome.status == "optimal" else [near]
    best: tuple[float, Plan | None, Score | None] = (math.inf, None, None)
    for plan in plans:
        judged = score(problem, plan)
        if judged.feasible:
            return _feasible(plan)
        if {broken.row for broken in judged.violations} <= set(ELASTIC):
            best = min(best, (_excess(judged), plan, judged), key=lambda one: one[0])
    if best[2] is None:
        return _unknown(refuted)
    bound = 0.0 if outcome.bound is None else outcome.bound
    return Explanation(
        # A relaxation of nothing is below the bound: no plan keeps every row.
        feasible=False if refuted or (bound > 1e-7 and not several) else None,
        plan=best[1],
        relaxations=_relaxations(best[2]),
        proved=outcome.status == "optimal" and not several,
    )


def _feasible(plan: Plan) -> Explanation:
    return Explanation(feasible=True, plan=plan, relaxations=(), proved=True)


def _unknown(refuted: bool) -> Explanation:
    return Explanation(
        feasible=False if refuted else None, plan=None, relaxations=(), proved=False
    )


def _plan_of(problem: Problem, form: Formulation, outcome: Outcome) -> Plan:
    assert outcome.x is not None
    plan = form.decode(outcome.x)
    return dataclasses.replace(plan, instance_digest=problem.instance_digest)


def _excess(judged: Score) -> float:
    """Add up what a plan breaks, relative to the limits; a limit of 0 counts units."""
    return sum(
        -row.relative_slack if row.limit else -row.slack
        for row in judged.rows
        if row.violated
    )


def _relaxations(judged: Score) -> tuple[Relaxation, ...]:
    """Turn the rows that a plan breaks into what would mend them."""
    broken = [row for row in judged.rows if row.violated]
    return tuple(_relaxation(row) for row in broken if row.row in ELASTIC)


def _relaxation(row: Row) -> Relaxation:
    amount = -row.slack
    return Relaxation(
        row=row.row,
        where=row.where,
        amount=amount,
        unit=ELASTIC[row.row],
        relative=amount / abs(row.limit) if row.limit else None,
    )


def _culprits(problem: Problem, deadline: float) -> Iterator[str]:
    """Name the rows without a limit to loosen whose removal leaves a plan.

    Nothing else can be wrong once every row with a limit is elastic.
    """
    from .engines.highs import solve_highs

    none = np.zeros((0, 3), dtype=np.int64)
    removals: dict[str, tuple[str, dict[str, Any]]] = {
        "pin": ("the pinned copies", {"pinned": none}),
        "forbid": ("the forbidden copies", {"forbidden": none}),
        "uniform": ("the uniform formats", {"uniform_groups": ()}),
        "copies": (
            f"the limit of {problem.max_copies} copies",
            {"max_copies": problem.max_copies if problem.dataflow == "roam" else None},
        ),
        "trust": ("trust", {"trusted": np.ones_like(problem.trusted)}),
        "coverage": ("coverage", {"failure_sets": ()}),
    }
    found = False
    for row, (what, changes) in removals.items():
        form = build_milp(problem.replace(**changes), elastic=frozenset(ELASTIC))
        left = max(deadline - perf_counter(), 0.1)
        if solve_highs(form.model, time_limit=left).x is not None:
            found = True
            yield f"{row}: {what} leave no plan, however much the limits are loosened"
    if not found:
        yield (
            "pin, forbid, uniform, copies, trust and coverage together leave no plan, "
            "however much the limits are loosened"
        )


# -- what no limit mends ---------------------------------------------------------------


def _expert(problem: Problem, i: int) -> str:
    layer = int(problem.layer_of[i])
    return f"expert ({layer}, {i - int(problem.layer_start[layer])})"


def _experts(problem: Problem, experts: NDArray[np.int64]) -> str:
    named = [_expert(problem, int(i)) for i in experts[:SHOWN]]
    more = len(experts) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _copy(problem: Problem, i: int, v: int, b: int) -> str:
    place = "/".join(problem.labels.places[v])
    return f"{_expert(problem, i)} at {place} in {problem.labels.formats[b]}"


def _obstacles(problem: Problem) -> Iterator[str]:
    """Name what contradicts itself before any limit is looked at."""
    may = problem.copy_allowed(fits=False)
    yield from _pins(problem, may)
    yield from _uniform(problem, may)
    holds = np.zeros((problem.num_experts, problem.num_servers), dtype=bool)
    for v, s in enumerate(problem.server_of):
        holds[:, s] |= may[:, v].any(axis=1)
    yield from (
        _unheard_roam(problem, holds)
        if problem.dataflow == "roam"
        else _unheard(problem, holds)
    )


def _pins(problem: Problem, may: NDArray[np.bool_]) -> Iterator[str]:
    pinned = problem.pinned
    for i, v, b in pinned.tolist():
        if not problem.allowed[v, b]:
            yield (
                f"pin: {_copy(problem, i, v, b)} is pinned, but the tier does not run "
                "the format"
            )
        elif not may[i, v, b]:
            yield f"pin: {_copy(problem, i, v, b)} is both pinned and forbidden"
    if not len(pinned):
        return
    at = np.stack([pinned[:, 0], problem.server_of[pinned[:, 1]]], axis=1)
    pairs, times = np.unique(at, axis=0, return_counts=True)
    for (i, s), n in zip(pairs.tolist(), times.tolist(), strict=True):
        if n > 1:
            yield (
                f"pin: {n} copies of {_expert(problem, i)} are pinned at "
                f"{problem.labels.servers[s]}, which holds at most one"
            )
    held = sum_by(pinned[:, 0], np.ones(len(pinned)), problem.num_experts)
    most = problem.max_copies
    if most is not None and (held > most).any():
        i = int(np.argmax(held))
        yield (
            f"pin: {int(held[i])} copies of {_expert(problem, i)} are pinned, but "
            f"limits.copies is {most}"
        )
    for group in problem.uniform_groups:
        used = np.unique(pinned[np.isin(pinned[:, 0], group.experts), 2])
        if len(used) > 1:
            names = ", ".join(problem.labels.formats[b] for b in used)
            yield f"uniform: {group.name} has copies pinned in {names}"


def _uniform(problem: Problem, may: NDArray[np.bool_]) -> Iterator[str]:
    if problem.allow_missing:
        return
    can: NDArray[np.bool_] = np.array(may.any(axis=1))  # (N, B)
    for group in problem.uniform_groups:
        if (
            can[group.experts].any(axis=1).all()
            and not can[group.experts].all(axis=0).any()
        ):
            yield f"uniform: no format that all experts of {group.name} may have"


def _unheard(problem: Problem, holds: NDArray[np.bool_]) -> Iterator[str]:
    """Name calls in `home` that no copy may serve or similar expert answer."""
    app, layer_of = problem.application_of, problem.layer_of
    for q in range(problem.num_demands):
        g = app[q]
        served: NDArray[np.bool_] = np.array(
            (holds & problem.reachable[q][layer_of]).any(axis=1)
        )
        for i, j in problem.similar:
            served[i] |= holds[j, problem.source[q, layer_of[i]]]
        served |= problem.prune_width[g].sum(axis=1)[layer_of] >= 1 - 1e-9
        called = np.asarray(problem.calls[g] > 0)
        lost = np.flatnonzero(called & ~served & holds.any(axis=1))
        if len(lost):
            name, home = problem.labels.demands[q]
            yield (
                f"trust: no server that {name!r} at {home!r} trusts may hold "
                f"{_experts(problem, lost)}"
            )


def _unheard_roam(problem: Problem, holds: NDArray[np.bool_]) -> Iterator[str]:
    """Name experts in `roam` that no server may hold whom all callers trust."""
    apps = np.unique(problem.application_of)  # an application may have no demand
    called = np.asarray(problem.calls[apps] > 0)
    bad = called.T.astype(int) @ (~problem.trusted[apps]).astype(int) > 0  # (N, S)
    lost = np.flatnonzero(
        called.any(axis=0) & holds.any(axis=1) & ~(holds & ~bad).any(axis=1)
    )
    if len(lost):
        yield (
            "trust: no server that every application trusts which calls them may hold "
            f"{_experts(problem, lost)}"
        )


# -- large: sums that any plan must reach, and a heuristic plan ------------------------


def _explain_large(problem: Problem, deadline: float) -> Explanation:
    reasons = tuple(f"any plan needs at least {one}" for one in _sums(problem))
    plan = _search(problem, max(deadline - perf_counter(), 0.1))
    judged = None if plan is None else score(problem, plan)
    if plan is not None and judged is not None and judged.feasible:
        return _feasible(plan)
    mends = judged is not None and {v.row for v in judged.violations} <= set(ELASTIC)
    return Explanation(
        feasible=False if reasons else None,
        plan=plan if mends else None,
        relaxations=_relaxations(judged) if judged is not None and mends else (),
        proved=False,
        reasons=reasons,
    )


def _search(problem: Problem, time_limit: float) -> Plan | None:
    """Return the first feasible plan of the installed heuristics, or their last."""
    from .solver import AnyOf, MaxRuntime, TargetObjective, make_solver, solver_names

    stop = AnyOf(MaxRuntime(time_limit), TargetObjective(ANY_OBJECTIVE))
    plan: Plan | None = None
    for name in ("greedy", "local"):
        if name not in solver_names():
            continue
        try:
            solver = make_solver(name)
            if problem.dataflow not in solver.info.capabilities:
                continue
            found = solver.solve(problem, stop=stop, seed=0, start=plan)
        except MeldoptError:
            continue
        plan = plan if found.plan is None else found.plan
        if found.feasible:
            break
    return plan


def _sums(problem: Problem) -> Iterator[Relaxation]:
    """Compare what every plan needs at least with what there is in all."""
    yield from _least_memory(problem)
    yield from _least_work(problem)
    if problem.dataflow == "home":
        yield from _least_of_applications(problem)


def _over(row: str, where: str, least: float, limit: float) -> Iterator[Relaxation]:
    if least - limit > allowed(limit):
        yield Relaxation(
            row=row,
            where=where,
            amount=least - limit,
            unit=ELASTIC[row],
            relative=(least - limit) / abs(limit) if limit else None,
        )


def _least_memory(problem: Problem) -> Iterator[Relaxation]:
    if problem.allow_missing:
        return
    runs = problem.allowed.any(axis=0)
    least = problem.size_bytes[:, runs].min(axis=1).sum()
    singles = {int(s[0]) for s in problem.failure_sets if len(s) == 1}
    if len(singles) == problem.num_servers > 1:
        least *= 2  # any server may fail: two copies of each
    room = np.maximum(problem.room_bytes, 0.0).sum()
    yield from _over("memory", "all places", float(least), float(room))


def _least_work(problem: Problem) -> Iterator[Relaxation]:
    """Compare the least busy seconds per second with those of all processors."""
    work = cheapest_copies(problem, 0.0, np.ones(problem.num_places)).min(axis=(0, 1))
    least = 0.0
    for g, rate in enumerate(problem.application_rate):
        pruned = np.minimum(problem.prune_width[g].sum(axis=1), 1.0)
        called = problem.calls[g] > 0
        calls = problem.calls[g] * (1 - pruned[problem.layer_of])
        if len(problem.similar):
            calls[problem.similar[:, 0]] = 0.0  # a similar expert may be faster
        if np.isfinite(work[called]).all():
            least += float(rate * (calls[called] @ work[called]))
    limit = problem.busy * len(problem.processor_server)
    yield from _over("compute", "all processors", least, limit)


def _least_of_applications(problem: Problem) -> Iterator[Relaxation]:
    """Compare the least loss and the least time of applications with their limits."""
    shape = problem.round_trip_s.shape
    nothing, app = np.zeros(shape), problem.application_of
    reach = problem.reachable
    time = np.where(reach, problem.round_trip_s + problem.transfer_s, np.inf)
    saved = (1 - problem.fuse_factor) * problem.transfer_s * problem.remote
    zero, one = np.zeros(problem.num_places), np.ones(problem.num_places)
    free = np.where(reach, 0.0, np.inf)
    for row, limits, net, saving, work_price, nat in (
        ("quality", problem.quality_budget, free, nothing, zero, 1.0),
        ("latency", problem.latency_target, time, saved, one, 0.0),
    ):
        if not np.isfinite(limits).any():
            continue
        each = cheapest_answers(problem, net, saving, work_price, nat)  # (Q, N)
        for g in np.flatnonzero(np.isfinite(limits)):
            weight = np.where(app == g, problem.application_weight, 0.0)
            calls = weight[:, None] * problem.calls[g]
            used = calls > 0
            least = float((calls[used] * each[used]).sum())
            if math.isfinite(least):
                name = problem.labels.applications[g]
                yield from _over(row, name, least, float(limits[g]))
