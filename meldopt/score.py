"""Problem + Plan -> every term and every row; the only judge.

No solver is believed: `score` re-computes a plan from the problem alone, and a plan is
feasible only if every row holds within `meldopt.tolerance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .errors import PlanError
from .plan import BudgetEntry
from .problem import TERMS
from .sums import sum_by
from .tolerance import SHARE, SHARE_SUM, allowed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .plan import Plan
    from .problem import BudgetCap, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the problem at a plan: ``value`` against its ``limit``.

    ``slack`` is what is left, in the unit of the row; negative when violated.
    """

    row: str
    where: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def slack(self) -> float:
        """What is left before the row is violated."""
        return self.value - self.limit if self.at_least else self.limit - self.value

    @property
    def relative_slack(self) -> float:
        """Slack as a fraction of the limit; inf for a limit of 0."""
        return self.slack / abs(self.limit) if self.limit else float("inf")

    @property
    def violated(self) -> bool:
        """Whether the row is violated beyond tolerance; a nan is no proof."""
        return not self.slack >= -allowed(self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A row that a plan breaks, where, and by how much in the unit of the row."""

    row: str
    where: str
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a plan is worth.

    Attributes
    ----------
    objective
        Weighted sum of the terms.
    terms
        Every term that the dataflow has, whether it is weighted or not.
    rows
        Every row with a limit.
    violations
        The rows that are broken; empty for a feasible plan.
    """

    objective: float
    terms: Mapping[str, float]
    rows: tuple[Row, ...]
    violations: tuple[Violation, ...]

    @property
    def feasible(self) -> bool:
        """Whether every row holds."""
        return not self.violations


class Flows:
    """The shares of a plan with the default rule filled in.

    Attributes
    ----------
    q, i, c, share
        Served: demand, expert, copy and share; equally long arrays.
    fq, fi, fv, fm, fshare
        Fused: demand, expert, place, segment and share.
    uq, ui, uc, ushare
        Substituted: demand, expert, answering copy and share.
    pq, pi, pn, pshare
        Pruned: demand, expert, segment and share.
    missing
        (demand, expert) pairs that are called but have no way to be answered.
    location
        In `roam`, where a call of an expert is answered, (G, C); else None.
    """

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem = problem
        self.plan = plan
        self.copies = plan.copies
        self.location: NDArray[np.float64] | None = None
        self.missing = np.zeros((0, 2), dtype=np.int64)
        self.uq, self.ui, self.uc = plan.substituted.T
        self.ushare = plan.substituted_share
        self.pq, self.pi, self.pn = plan.pruned.T
        self.pshare = plan.pruned_share
        self.fq, self.fi, self.fv, self.fm = plan.fused.T
        self.fshare = plan.fused_share
        if problem.dataflow == "roam":
            self._roam()
        else:
            self._home()
        self.layer = problem.layer_of[self.i]
        self.place = self.copies[self.c, 1]
        self.format = self.copies[self.c, 2]
        self.server = problem.server_of[self.place]
        self.calls = problem.calls[problem.application_of[self.q], self.i]
        work = problem.work_s(self.copies[self.c, 0], self.place, self.format)
        # None of what cannot be (inf) is nothing, not a NaN.
        self.work = np.where(self.mass != 0, work, 0.0)

    def _home(self) -> None:
        problem, plan = self.problem, self.plan
        listed = np.zeros((problem.num_demands, problem.num_experts), dtype=bool)
        for table in (plan.served, plan.substituted, plan.pruned):
            listed[table[:, 0], table[:, 1]] = True
        best = least_time_copies(problem, self.copies)
        called = problem.calls[problem.application_of] > 0
        free = ~listed & (best >= 0)
        q, i = np.nonzero(free)
        self.missing = np.argwhere(~listed & (best < 0) & called)
        self.q = np.concatenate([plan.served[:, 0], q])
        self.i = np.concatenate([plan.served[:, 1], i])
        self.c = np.concatenate([plan.served[:, 2], best[free]])
        self.share = np.concatenate([plan.served_share, np.ones(len(q))])

    def _roam(self) -> None:
        problem = self.problem
        if len(self.plan.served) + len(self.fq) + len(self.uq) + len(self.pq):
            raise PlanError("shares: got exceptions, but in roam a plan has none")
        self.location = locate_calls(problem, self.copies)
        of = self.location[problem.application_of]  # (Q, C)
        q, c = np.nonzero(of > 0)
        self.q, self.c, self.share = q, c, of[q, c]
        self.i = self.copies[c, 0]
        held = np.zeros(problem.num_experts, dtype=bool)
        held[self.copies[:, 0]] = True
        gone = np.flatnonzero(problem.needed & ~held)
        self.missing = np.stack([np.zeros_like(gone), gone], axis=1)

    @cached_property
    def mass(self) -> NDArray[np.float64]:
        """Calls per second that each served entry stands for."""
        mass: NDArray[np.float64] = self.problem.rate[self.q] * self.calls * self.share
        return mass

    def calls_of(
        self, q: NDArray[np.int64], i: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the calls per second of experts by demands."""
        problem = self.problem
        calls: NDArray[np.float64] = (
            problem.rate[q] * problem.calls[problem.application_of[q], i]
        )
        return calls


def substituted_work(problem: Problem, flows: Flows) -> NDArray[np.float64]:
    """Seconds of one call of each substituted entry, at the copy that answers; (U,)."""
    work = problem.work_s(*flows.copies[flows.uc].T)
    mass = flows.calls_of(flows.uq, flows.ui) * flows.ushare
    return np.where(mass != 0, work, 0.0)


def least_time_copies(problem: Problem, copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the copy of least time of each (demand, expert), (Q, N); -1: none.

    Ties go to the first copy in order of place and format.
    """
    best = np.full((problem.num_demands, problem.num_experts), -1, dtype=np.int64)
    if not len(copies):
        return best
    expert, place, format_ = copies.T
    work = problem.work_s(expert, place, format_)
    layer, server = problem.layer_of[expert], problem.server_of[place]
    starts = np.flatnonzero(np.diff(expert, prepend=-1))
    held = expert[starts]
    which = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(expert))))
    net = problem.round_trip_s + problem.transfer_s
    net = np.where(problem.reachable, net, np.inf)
    index = np.arange(len(copies))
    for q in range(problem.num_demands):
        time = net[q, layer, server] + work
        least = np.minimum.reduceat(time, starts)
        first = np.where(time <= least[which], index, len(copies))
        winner = np.minimum.reduceat(first, starts)
        best[q, held] = np.where(np.isfinite(least), winner, -1)
    return best


def locate_calls(problem: Problem, copies: NDArray[np.int64]) -> NDArray[np.float64]:
    """Say where a roaming token finds each expert: shares of its copies, (G, C).

    A call takes the copy nearest to where the token is (ties: the first copy). Layers
    are visited in order; experts that no path leads to are called from the homes.
    With one copy of an expert there is nothing to decide.
    """
    num_apps, num = problem.num_applications, len(copies)
    location = np.zeros((num_apps, num))
    if not num:
        return location
    expert, place, _ = copies.T
    server = problem.server_of[place]
    starts = np.searchsorted(expert, np.arange(problem.num_experts + 1))
    homes = np.zeros((num_apps, problem.num_servers))
    np.add.at(
        homes,
        (problem.application_of, problem.home_of),
        np.where(
            problem.application_rate[problem.application_of] > 0,
            problem.application_weight,
            1.0,
        ),
    )
    sources, targets = problem.pairs.T
    forward = problem.layer_of[sources] < problem.layer_of[targets]
    order = np.argsort(targets, kind="stable")
    order = order[forward[order]]
    bounds = np.searchsorted(targets[order], np.arange(problem.num_experts + 1))
    trusted = problem.trusted
    spread = np.zeros((num_apps, problem.num_experts, problem.num_servers))
    for i in range(problem.num_experts):
        mine = np.arange(starts[i], starts[i + 1])
        if not len(mine):
            continue
        arrive = problem.entry[:, i, None] * homes
        for r in order[bounds[i] : bounds[i + 1]]:
            arrive = arrive + problem.pair_weight[:, r, None] * spread[:, sources[r]]
        total = arrive.sum(axis=1, keepdims=True)
        arrive = np.where(total > 0, arrive / np.where(total > 0, total, 1), homes)
        far = problem.distance[:, server[mine]]  # (S, copies)
        for g in range(num_apps):
            seen = trusted[g, server[mine]]
            cost = np.where(seen, far, np.inf) if seen.any() else far
            nearest = np.argmin(cost, axis=1)
            np.add.at(location[g], mine[nearest], arrive[g])
        for c in mine:
            spread[:, i, server[c]] += location[:, c]
    return location


def pair_flows(
    problem: Problem, flows: Flows
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return traversals per token between servers in `roam`.

    Returns
    -------
    tuple of ndarray
        Along pairs by application, layer of the target, from and to, (G, L, S, S);
        entries by demand, layer and server, (Q, L, S); exits likewise.
    """
    assert flows.location is not None
    shape = (problem.num_applications, problem.num_layers, *(problem.num_servers,) * 2)
    between = np.zeros(shape)
    expert = flows.copies[:, 0]
    server = problem.server_of[flows.copies[:, 1]]
    location = flows.location
    starts = np.searchsorted(expert, np.arange(problem.num_experts + 1))
    count = np.diff(starts)
    layer_of = problem.layer_of
    for g in range(problem.num_applications):
        weight = problem.pair_weight[g]
        single = (count[problem.pairs] == 1).all(axis=1)
        sources, targets = problem.pairs[single].T
        np.add.at(
            between[g],
            (
                layer_of[targets],
                server[starts[sources]],
                server[starts[targets]],
            ),
            weight[single],
        )
        for r in np.flatnonzero(~single & (weight > 0)):
            i, j = problem.pairs[r]
            mine = np.arange(starts[i], starts[i + 1])
            other = np.arange(starts[j], starts[j + 1])
            if not len(mine) or not len(other):
                continue
            if layer_of[i] < layer_of[j]:
                cost = problem.distance[np.ix_(server[mine], server[other])].copy()
                seen = problem.trusted[g, server[other]]
                if seen.any():
                    cost[:, ~seen] = np.inf
                nearest = other[np.argmin(cost, axis=1)]
                np.add.at(
                    between[g, layer_of[j]],
                    (server[mine], server[nearest]),
                    weight[r] * location[g, mine],
                )
            else:
                joint = np.outer(location[g, mine], location[g, other])
                np.add.at(
                    between[g, layer_of[j]],
                    np.ix_(server[mine], server[other]),
                    weight[r] * joint,
                )
    ends = []
    for end in (problem.entry, problem.exit):
        table = np.zeros((problem.num_demands, problem.num_layers, problem.num_servers))
        of, c = np.nonzero(location[problem.application_of] > 0)
        app = problem.application_of[of]
        np.add.at(
            table,
            (of, layer_of[expert[c]], server[c]),
            end[app, expert[c]] * location[app, c],
        )
        ends.append(table)
    return between, ends[0], ends[1]


def _check_indices(problem: Problem, plan: Plan) -> None:
    """Refuse what names nothing: a negative index would count from the end."""
    pairs = (problem.num_demands, problem.num_experts)
    places, held = problem.num_places, len(plan.copies)
    for name, table, limit in (
        ("copies", plan.copies, (problem.num_experts, places, problem.num_formats)),
        ("served", plan.served, (*pairs, held)),
        ("fused", plan.fused, (*pairs, places, problem.fuse_width.shape[2])),
        ("substituted", plan.substituted, (*pairs, held)),
        ("pruned", plan.pruned, (*pairs, problem.prune_width.shape[2])),
    ):
        if ((table < 0) | (table >= np.array(limit))).any():
            raise PlanError(
                f"{name}: got an index out of range, expected below {limit}"
            )


class _Judge:
    """Terms and rows of one plan."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        if plan.instance_digest != problem.instance_digest:
            raise PlanError(
                f"got a plan for {plan.instance_name!r} "
                f"({plan.instance_digest[:18]}…), expected {problem.name!r} "
                f"({problem.instance_digest[:18]}…)"
            )
        _check_indices(problem, plan)
        self.problem = problem
        self.plan = plan
        self.flows = flows = Flows(problem, plan)
        self.roam = problem.dataflow == "roam"
        self.usub_work = substituted_work(problem, flows)
        self.sub_mass = flows.calls_of(flows.uq, flows.ui) * flows.ushare
        self.fuse_mass = flows.calls_of(flows.fq, flows.fi) * flows.fshare
        self.prune_mass = flows.calls_of(flows.pq, flows.pi) * flows.pshare
        if self.roam:
            self.between, self.entry, self.exit = pair_flows(problem, flows)

    # -- sums of served, fused and substituted shares --------------------------------
    def by_application(
        self,
        net: NDArray[np.float64],
        fused: NDArray[np.float64],
        work: bool,
    ) -> NDArray[np.float64]:
        """Sum costs of calls per second of each application; (G,).

        ``net`` and ``fused`` are costs of one call and what a fused call saves of
        it, (Q, L, S); ``work`` adds the work.
        """
        problem, flows = self.problem, self.flows
        app = problem.application_of
        cost = net[flows.q, flows.layer, flows.server]
        if work:
            cost = cost + flows.work
        total = sum_by(app[flows.q], flows.mass * cost, problem.num_applications)
        server = problem.server_of[flows.fv]
        saved = (1 - problem.fuse_factor) * fused[
            flows.fq, problem.layer_of[flows.fi], server
        ]
        total -= sum_by(app[flows.fq], self.fuse_mass * saved, problem.num_applications)
        if work:
            total += sum_by(
                app[flows.uq], self.sub_mass * self.usub_work, problem.num_applications
            )
        return total

    def roam_cost(self, cost: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum a cost between servers per second over traversals; (G,)."""
        problem = self.problem
        per_token = np.einsum("glst,st->g", self.between, cost)
        total: NDArray[np.float64] = problem.application_rate * per_token
        for table, matrix in (
            (self.entry, cost[problem.home_of]),
            (self.exit, cost.T[problem.home_of]),
        ):
            each = problem.rate * np.einsum("qls,qs->q", table, matrix)
            np.add.at(total, problem.application_of, each)
        return total

    @cached_property
    def serial_by_application(self) -> NDArray[np.float64]:
        """Seconds per second of the calls of each application; (G,)."""
        problem = self.problem
        if self.roam:
            nothing = np.zeros(
                (problem.num_demands, problem.num_layers, problem.num_servers)
            )
            work = self.by_application(nothing, nothing, True)
            total: NDArray[np.float64] = self.roam_cost(problem.distance) + work
            return total
        return self.by_application(
            problem.round_trip_s + problem.transfer_s, problem.transfer_s, True
        )

    @cached_property
    def quality_by_application(self) -> NDArray[np.float64]:
        """Nats per second of each application; (G,)."""
        problem, flows = self.problem, self.flows
        app, num = problem.application_of, problem.num_applications
        loss = problem.format_loss
        g = app[flows.q]
        total = sum_by(g, flows.mass * loss[g, flows.i, flows.format], num)
        g = app[flows.fq]
        layer = problem.layer_of[flows.fi]
        total += sum_by(g, self.fuse_mass * problem.fuse_loss[g, layer, flows.fm], num)
        g = app[flows.pq]
        layer = problem.layer_of[flows.pi]
        total += sum_by(
            g, self.prune_mass * problem.prune_loss[g, layer, flows.pn], num
        )
        g = app[flows.uq]
        copy = flows.copies[flows.uc]
        total += sum_by(
            g,
            self.sub_mass
            * (
                problem.similar_loss[g, self.similar_index]
                + loss[g, copy[:, 0], copy[:, 2]]
            ),
            num,
        )
        return total

    @cached_property
    def similar_index(self) -> NDArray[np.int64]:
        """Which similar pair each substituted entry uses; (U,)."""
        problem, flows = self.problem, self.flows
        index = {(int(i), int(j)): n for n, (i, j) in enumerate(problem.similar)}
        answering = flows.copies[flows.uc, 0]
        found = [
            index.get((int(i), int(j)), -1)
            for i, j in zip(flows.ui, answering, strict=True)
        ]
        if -1 in found:
            raise PlanError(
                "substituted: got an expert that is not similar to the one it answers"
            )
        return np.array(found, dtype=np.int64)

    @cached_property
    def busy(self) -> NDArray[np.float64]:
        """Busy share of each place; (V,)."""
        problem, flows = self.problem, self.flows
        busy = sum_by(flows.place, flows.mass * flows.work, problem.num_places)
        busy += sum_by(
            flows.copies[flows.uc, 1],
            self.sub_mass * self.usub_work,
            problem.num_places,
        )
        return busy

    @cached_property
    def sent(self) -> NDArray[np.float64]:
        """Calls per second that cross, fused ones counted phi, (L, S, S): out."""
        problem, flows = self.problem, self.flows
        sent = np.zeros((problem.num_layers, *(problem.num_servers,) * 2))
        if self.roam:
            sent += np.einsum("g,glst->lst", problem.application_rate, self.between)
            for q in range(problem.num_demands):
                sent[:, problem.home_of[q], :] += problem.rate[q] * self.entry[q]
            return sent
        np.add.at(
            sent,
            (flows.layer, problem.source[flows.q, flows.layer], flows.server),
            flows.mass,
        )
        layer = problem.layer_of[flows.fi]
        np.add.at(
            sent,
            (layer, problem.source[flows.fq, layer], problem.server_of[flows.fv]),
            -(1 - problem.fuse_factor) * self.fuse_mass,
        )
        return sent

    @cached_property
    def returned(self) -> NDArray[np.float64]:
        """Calls per second that come back, fused ones counted phi, (S, S)."""
        problem, flows = self.problem, self.flows
        back = np.zeros((problem.num_servers,) * 2)
        if self.roam:
            for q in range(problem.num_demands):
                back[:, problem.home_of[q]] += problem.rate[q] * self.exit[q].sum(
                    axis=0
                )
            return back
        np.add.at(back, (flows.server, problem.sink[flows.q, flows.layer]), flows.mass)
        layer = problem.layer_of[flows.fi]
        np.add.at(
            back,
            (problem.server_of[flows.fv], problem.sink[flows.fq, layer]),
            -(1 - problem.fuse_factor) * self.fuse_mass,
        )
        return back

    @cached_property
    def link_bytes(self) -> NDArray[np.float64]:
        """Bytes per second on each directed link; (K,)."""
        problem = self.problem
        there = self.sent.sum(axis=0) * problem.bytes_out
        # Roaming tokens are states on their way in both tables.
        back = self.returned * (problem.bytes_out if self.roam else problem.bytes_back)
        load = np.zeros(len(problem.link_from))
        for s, t in np.argwhere(there + back != 0):
            load[problem.route_links[s][t]] += there[s, t] + back[s, t]
        return load

    # -- terms -------------------------------------------------------------------------
    def terms(self) -> dict[str, float]:
        problem = self.problem
        total = problem.total_rate
        terms = {"serial": float(self.serial_by_application.sum()) / total}
        if self.roam:
            terms["pair"] = float(self.roam_cost(problem.distance).sum()) / total
        elif len(problem.sample_demand):
            terms["parallel"] = parallel(problem, self.flows)
            terms["fluid"] = fluid(problem, self.flows)
        terms["bottleneck"] = self.bottleneck()
        terms["traffic"] = float(self.link_bytes.sum()) / total
        terms["energy"] = (
            float((self.busy * problem.power_w)[self.busy > 0].sum())
            + float(self.link_bytes @ problem.link_joule_per_byte)
        ) / total
        terms["quality"] = float(self.quality_by_application.sum()) / total
        return {term: terms[term] for term in TERMS if term in terms}

    def bottleneck(self) -> float:
        problem, flows = self.problem, self.flows
        table = np.zeros((problem.num_layers, problem.num_servers))
        np.add.at(table, (flows.layer, flows.server), flows.mass * flows.work)
        np.add.at(
            table,
            (
                problem.layer_of[flows.ui],
                problem.server_of[flows.copies[flows.uc, 1]],
            ),
            self.sub_mass * self.usub_work,
        )
        return float(table.max(axis=1).sum()) / problem.total_rate

    # -- rows --------------------------------------------------------------------------
    def rows(self) -> list[Row]:
        return [
            *self.memory_rows(),
            *self.compute_rows(),
            *self.link_rows(),
            *self.budget_rows(),
            *self.application_rows(),
            *self.copy_rows(),
            *self.share_rows(),
        ]

    def memory_rows(self) -> list[Row]:
        problem, copies = self.problem, self.plan.copies
        used = sum_by(
            copies[:, 1],
            problem.size_bytes[copies[:, 0], copies[:, 2]],
            problem.num_places,
        )
        return [
            Row(
                row="memory",
                where="/".join(problem.labels.places[v]),
                value=float(used[v]),
                limit=float(problem.room_bytes[v]),
            )
            for v in range(problem.num_places)
        ]

    def compute_rows(self) -> list[Row]:
        problem = self.problem
        busy = sum_by(problem.processor_of, self.busy, len(problem.processor_server))
        return [
            Row(
                row="compute",
                where=problem.labels.processors[p],
                value=float(busy[p]),
                limit=problem.busy,
            )
            for p in range(len(busy))
        ]

    def link_rows(self) -> list[Row]:
        problem = self.problem
        return [
            Row(
                row="link",
                where=" -> ".join(problem.labels.links[k]),
                value=float(self.link_bytes[k]),
                limit=float(problem.link_busy * problem.link_bandwidth[k]),
            )
            for k in range(len(problem.link_from))
        ]

    def budget_rows(self) -> list[Row]:
        problem = self.problem
        names = problem.labels.servers
        rows = []
        for cap in problem.budget_caps:
            table = self.sent if cap.layer is None else self.sent[cap.layer][None]
            pairs = budget_pairs(problem, cap)
            value = sum(float(table[:, s, t].sum()) for s, t in pairs)
            parts = [
                "all layers" if cap.layer is None else f"layer {cap.layer}",
                " -> ".join(problem.labels.links[cap.link])
                if cap.link is not None
                else " -> ".join(
                    "any" if s is None else names[s]
                    for s in (cap.from_server, cap.to_server)
                ),
            ]
            rows.append(
                Row(
                    row="budget",
                    where=", ".join(parts),
                    value=value,
                    limit=cap.max_tokens_per_s,
                )
            )
        return rows

    def application_rows(self) -> list[Row]:
        problem = self.problem
        rate = np.where(problem.application_rate > 0, problem.application_rate, 1.0)
        rows = []
        for name, values, limits in (
            ("quality", self.quality_by_application / rate, problem.quality_budget),
            ("latency", self.serial_by_application / rate, problem.latency_target),
        ):
            rows += [
                Row(
                    row=name,
                    where=problem.labels.applications[g],
                    value=float(values[g]),
                    limit=float(limits[g]),
                )
                for g in range(problem.num_applications)
                if np.isfinite(limits[g])
            ]
        if not problem.trusted.all():
            flows = self.flows
            g = problem.application_of[flows.q]
            seen = ~problem.trusted[g, flows.server] & (flows.calls > 0)
            for app in np.flatnonzero(~problem.trusted.all(axis=1)):
                rows.append(
                    Row(
                        row="trust",
                        where=problem.labels.applications[app],
                        value=float(flows.share[seen & (g == app)].sum()),
                        limit=0.0,
                    )
                )
        return rows

    def copy_rows(self) -> list[Row]:
        problem, copies = self.problem, self.plan.copies
        expert, place, format_ = copies.T
        num = problem.num_experts
        rows: list[Row] = []
        held = np.bincount(expert, minlength=num)
        if not problem.allow_missing:
            rows.append(_zero("expert", "experts without a copy", (held == 0).sum()))
        twice = np.unique(np.stack([expert, problem.server_of[place]], axis=1), axis=0)
        rows.append(_zero("one-per-server", "second copies", len(copies) - len(twice)))
        rows.append(
            _zero(
                "format",
                "copies in a format that the tier does not run",
                (~problem.allowed[place, format_]).sum(),
            )
        )
        if problem.max_copies is not None:
            over = np.maximum(held - problem.max_copies, 0).sum()
            rows.append(_zero("copies", f"copies over {problem.max_copies}", over))
        for servers in problem.failure_sets:
            outside = ~np.isin(problem.server_of[place], servers)
            safe = np.bincount(expert[outside], minlength=num)
            lost = (safe == 0) & ((held > 0) | (not problem.allow_missing))
            names = "+".join(problem.labels.servers[s] for s in servers)
            rows.append(_zero("coverage", names, lost.sum()))
        for row in problem.count_rows:
            inside = (
                np.isin(expert, row.experts)
                & np.isin(place, row.places)
                & np.isin(format_, row.formats)
            )
            for limit, at_least in ((row.lower, True), (row.upper, False)):
                if limit is not None:
                    rows.append(
                        Row(
                            row="count",
                            where=row.name,
                            value=float(inside.sum()),
                            limit=float(limit),
                            at_least=at_least,
                        )
                    )
        for group in problem.uniform_groups:
            used = np.unique(format_[np.isin(expert, group.experts)])
            rows.append(_zero("uniform", group.name, max(len(used) - 1, 0)))
        mine = {tuple(copy) for copy in copies.tolist()}
        if len(problem.pinned):
            gone = sum(tuple(copy) not in mine for copy in problem.pinned.tolist())
            rows.append(_zero("pin", "pinned copies that are missing", gone))
        if len(problem.forbidden):
            found = mine & {tuple(copy) for copy in problem.forbidden.tolist()}
            rows.append(_zero("forbid", "forbidden copies", len(found)))
        return rows

    def share_rows(self) -> list[Row]:
        problem, flows, plan = self.problem, self.flows, self.plan
        shape = (problem.num_demands, problem.num_experts)
        rows = []
        rows.append(_zero("share", "calls without an answer", len(flows.missing)))
        if self.roam:
            return rows
        total = np.zeros(shape)
        np.add.at(total, (flows.q, flows.i), flows.share)
        np.add.at(total, (flows.uq, flows.ui), flows.ushare)
        np.add.at(total, (flows.pq, flows.pi), flows.pshare)
        called = problem.calls[problem.application_of] > 0
        called[tuple(flows.missing.T)] = False
        off = np.abs(total - 1)[called]
        rows.append(
            Row(
                row="share",
                where="largest deviation of a sum of shares from 1",
                value=float(off.max(initial=0.0)),
                limit=SHARE_SUM,
            )
        )
        negative = max(
            0.0,
            *(
                -float(values.min(initial=0.0))
                for values in (
                    plan.served_share,
                    plan.fused_share,
                    plan.substituted_share,
                    plan.pruned_share,
                )
            ),
        )
        rows.append(
            Row(row="share", where="negative shares", value=negative, limit=SHARE)
        )
        wrong = (flows.copies[flows.c, 0] != flows.i).sum()
        rows.append(_zero("share", "shares of a copy of another expert", wrong))
        unreachable = ~np.isfinite(
            problem.round_trip_s[flows.q, flows.layer, flows.server]
        )
        rows.append(_zero("share", "shares without a route", int(unreachable.sum())))
        rows += self.fuse_rows()
        width = np.zeros((*shape, problem.prune_width.shape[2]))
        np.add.at(width, (flows.pq, flows.pi, flows.pn), flows.pshare)
        rows.append(
            Row(
                row="share",
                where="pruned beyond the width of a segment",
                value=float(
                    (width - self.widths(problem.prune_width)).max(initial=0.0)
                ),
                limit=SHARE_SUM,
            )
        )
        home = problem.source[flows.uq, problem.layer_of[flows.ui]]
        away = problem.server_of[flows.copies[flows.uc, 1]] != home
        rows.append(
            _zero("share", "substituted by an expert that is not here", away.sum())
        )
        return rows

    def widths(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        """Widths of segments by demand and expert, (Q, N, M)."""
        problem = self.problem
        spread: NDArray[np.float64] = curve[problem.application_of][:, problem.layer_of]
        return spread

    def served_at(
        self, q: NDArray[np.int64], i: NDArray[np.int64], v: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the shares that demands are served of experts at places."""
        return served_at(self.problem, self.flows, q, i, v)

    def fuse_rows(self) -> list[Row]:
        """Check that fused shares are part of served ones and within the curve."""
        problem, flows = self.problem, self.flows
        if not len(flows.fshare):
            return []
        served = self.served_at(flows.fq, flows.fi, flows.fv)
        segments, index = np.unique(self.plan.fused, axis=0, return_inverse=True)
        index = index.ravel()
        fused = sum_by(index, flows.fshare, len(segments))
        part = np.zeros(len(segments))
        part[index] = served
        q, i, v, m = segments.T
        layer = problem.layer_of[i]
        width = problem.fuse_width[problem.application_of[q], layer, m]
        excess = float((fused - width * part).max(initial=0.0))
        home = int((problem.server_of[v] == problem.source[q, layer]).sum())
        return [
            Row(
                row="share",
                where="fused beyond the width of a segment",
                value=excess,
                limit=SHARE_SUM,
            ),
            _zero("share", "fused at home", home),
        ]


def served_at(
    problem: Problem,
    flows: Flows,
    q: NDArray[np.int64],
    i: NDArray[np.int64],
    v: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the share of experts ``i`` that places ``v`` serve demands ``q``."""
    num = problem.num_places

    def key(
        q: NDArray[np.int64], i: NDArray[np.int64], v: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        return (q * problem.num_experts + i) * num + v

    keys, index = np.unique(key(flows.q, flows.i, flows.place), return_inverse=True)
    shares = np.append(sum_by(index, flows.share, len(keys)), 0.0)
    wanted = key(q, i, v)
    found = np.searchsorted(keys, wanted)
    hit = (found < len(keys)) & (keys[np.minimum(found, len(keys) - 1)] == wanted)
    served: NDArray[np.float64] = shares[np.where(hit, found, len(keys))]
    return served


def _zero(row: str, where: str, value: float) -> Row:
    return Row(row=row, where=where, value=float(value), limit=0.0)


def budget_pairs(problem: Problem, cap: BudgetCap) -> list[tuple[int, int]]:
    """Return the pairs of servers that a cap on transfer budgets sums over."""
    num = problem.num_servers
    pairs = [(s, t) for s in range(num) for t in range(num) if s != t]
    if cap.link is not None:
        return [
            (s, t) for s, t in pairs if cap.link in problem.route_links[s][t].tolist()
        ]
    return [
        (s, t)
        for s, t in pairs
        if cap.from_server in (None, s) and cap.to_server in (None, t)
    ]


def score(problem: Problem, plan: Plan) -> Score:
    """Judge a plan: every term, every row with its slack, every violation.

    Parameters
    ----------
    problem
        Built from the instance that the plan belongs to.
    plan
        From a solver or a file; it may break any row.

    Returns
    -------
    Score
        The objective is the weighted sum of the terms; `inf` cannot occur for a plan
        whose shares all have a route.

    Raises
    ------
    PlanError
        If the plan belongs to another instance.
    """
    judge = _Judge(problem, plan)
    terms = judge.terms()
    rows = tuple(judge.rows())
    return Score(
        objective=sum(
            problem.weight_of(term) * value
            for term, value in terms.items()
            if problem.weight_of(term)
        ),
        terms=terms,
        rows=rows,
        violations=tuple(
            Violation(row=row.row, where=row.where, amount=-row.slack)
            for row in rows
            if row.violated
        ),
    )


def transfer_budgets(problem: Problem, plan: Plan) -> list[BudgetEntry]:
    """Return the transfer budgets of a plan, one for each (layer, from, to) in use.

    Pruned calls count where they would have gone: the copy of least time. Calls that
    would have stayed at home are in no budget.
    """
    judge = _Judge(problem, plan)
    flows = judge.flows
    shape = (problem.num_layers, *(problem.num_servers,) * 2)
    names = problem.labels.servers
    fused, pruned, plain = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    if judge.roam:
        plain = judge.sent
    else:
        np.add.at(
            plain,
            (flows.layer, problem.source[flows.q, flows.layer], flows.server),
            flows.mass,
        )
        layer = problem.layer_of[flows.fi]
        np.add.at(
            fused,
            (layer, problem.source[flows.fq, layer], problem.server_of[flows.fv]),
            judge.fuse_mass,
        )
        best = least_time_copies(problem, plan.copies)[flows.pq, flows.pi]
        known = best >= 0
        layer = problem.layer_of[flows.pi][known]
        np.add.at(
            pruned,
            (
                layer,
                problem.source[flows.pq[known], layer],
                problem.server_of[plan.copies[best[known], 1]],
            ),
            judge.prune_mass[known],
        )
    meant = plain + pruned
    meant[:, range(problem.num_servers), range(problem.num_servers)] = 0.0
    at = np.nonzero(meant > 0)
    all_ = meant[at]
    columns = (
        *at,
        np.maximum(judge.sent[at], 0.0),
        (plain - fused)[at] / all_,
        fused[at] / all_,
        pruned[at] / all_,
    )
    return [
        BudgetEntry(
            layer=layer_,
            from_=names[s],
            to=names[t],
            tokens_per_s=sent,
            kept=kept,
            fused=fused_,
            pruned=pruned_,
        )
        for layer_, s, t, sent, kept, fused_, pruned_ in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


# -- sampled tokens --------------------------------------------------------------------


def token_hash(
    tokens: NDArray[np.int64], experts: NDArray[np.int64], salt: int
) -> NDArray[np.float64]:
    """Map (token, expert) to [0, 1) by a fixed hash (splitmix64)."""
    with np.errstate(over="ignore"):
        x = (
            tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            + experts.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
            + np.uint64(salt) * np.uint64(0x94D049BB133111EB)
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampledCalls:
    """What becomes of the calls of sampled tokens; arrays of one entry a call.

    ``server`` is -1 for a pruned call; ``factor`` is phi for a fused one, 0 for one
    that a similar expert at home answers (no transfer), else 1.
    """

    token: NDArray[np.int64]
    layer: NDArray[np.int64]
    demand: NDArray[np.int64]
    server: NDArray[np.int64]
    work: NDArray[np.float64]
    factor: NDArray[np.float64]


def sampled_calls(problem: Problem, flows: Flows) -> SampledCalls:
    """Turn shares into copies for the sampled tokens, by a fixed hash."""
    token, layer, slot = np.nonzero(problem.sample_experts >= 0)
    expert = problem.sample_experts[token, layer, slot]
    demand = problem.sample_demand[token]
    if not len(flows.q) + len(flows.uq):  # whatever is not pruned has no answer
        nothing = np.zeros(len(token))
        return SampledCalls(
            token=token,
            layer=layer,
            demand=demand,
            server=np.full(len(token), -1),
            work=nothing,
            factor=nothing,
        )
    draw = token_hash(token, expert, 1)
    second = token_hash(token, expert, 2)
    # Options of a (demand, expert) in a fixed order: served, substituted, pruned.
    key = np.concatenate(
        [
            q * problem.num_experts + i
            for q, i in (
                (flows.q, flows.i),
                (flows.uq, flows.ui),
                (flows.pq, flows.pi),
            )
        ]
    )
    share = np.concatenate([flows.share, flows.ushare, flows.pshare])
    copy = np.concatenate([flows.c, flows.uc, np.full(len(flows.pq), -1)])
    kind = np.repeat([0, 1, 2], [len(flows.q), len(flows.uq), len(flows.pq)])
    order = np.lexsort((copy, kind, key))
    key, share, copy, kind = key[order], share[order], copy[order], kind[order]
    edge = np.cumsum(share)
    wanted = demand * problem.num_experts + expert
    low = np.searchsorted(key, wanted, side="left")
    high = np.searchsorted(key, wanted, side="right")
    known = high > low
    before = np.where(low > 0, edge[np.maximum(low - 1, 0)], 0.0)
    end = np.where(known, edge[np.maximum(high - 1, 0)], 0.0)
    target = before + draw * (end - before)
    pick = np.clip(np.searchsorted(edge, target, side="right"), low, high - 1)
    pick = np.where(known, pick, 0)
    chosen = np.where(known, copy[pick], -1)
    kinds = np.where(known, kind[pick], 2)
    gone = chosen < 0
    index = np.maximum(chosen, 0)
    row = flows.copies[index]
    place = row[:, 1]
    work = np.where(gone, 0.0, problem.work_s(row[:, 0], place, row[:, 2]))
    factor = np.where(kinds == 0, 1.0, 0.0)
    if len(flows.fshare):
        pairs, index = np.unique(flows.plan.fused[:, :3], axis=0, return_inverse=True)
        shares = sum_by(index.ravel(), flows.fshare, len(pairs))
        served = served_at(problem, flows, *pairs.T)
        size = problem.num_places
        known_keys = (pairs[:, 0] * problem.num_experts + pairs[:, 1]) * size + pairs[
            :, 2
        ]
        mine = wanted * size + place
        at = np.minimum(np.searchsorted(known_keys, mine), len(pairs) - 1)
        fraction = np.where(
            known_keys[at] == mine, shares[at] / np.maximum(served[at], SHARE), 0.0
        )
        # What is forgiven of a tiny share does not fuse more than may be fused.
        widths = problem.fuse_width.sum(axis=2)[problem.application_of[demand], layer]
        fraction = np.minimum(fraction, widths)
        factor = np.where(
            (kinds == 0) & (second < fraction), problem.fuse_factor, factor
        )
    return SampledCalls(
        token=token,
        layer=layer,
        demand=demand,
        server=np.where(gone, -1, problem.server_of[place]),
        work=work,
        factor=factor,
    )


def parallel(problem: Problem, flows: Flows) -> float:
    """Mean seconds per sampled token with the calls of a layer side by side.

    A layer takes as long as its slowest server: one round trip, one transfer (fused
    if all calls that go there are) and the work of its experts.
    """
    calls = sampled_calls(problem, flows)
    kept = calls.server >= 0
    token, layer, server = (
        array[kept] for array in (calls.token, calls.layer, calls.server)
    )
    demand = calls.demand[kept]
    num_tokens = len(problem.sample_demand)
    group = (token * problem.num_layers + layer) * problem.num_servers + server
    groups, inverse = np.unique(group, return_inverse=True)
    work = sum_by(inverse, calls.work[kept], len(groups))
    factor = np.zeros(len(groups))
    np.maximum.at(factor, inverse, calls.factor[kept])
    first = np.zeros(len(groups), dtype=np.int64)
    first[inverse] = np.arange(len(inverse))
    q, l_, s = demand[first], layer[first], server[first]
    trip = np.where(factor > 0, problem.round_trip_s[q, l_, s], 0.0)
    if problem.fuse_factor == 0:
        # A fused call of zero bytes still takes the latency.
        remote = problem.remote[q, l_, s]
        trip = np.where(remote, problem.round_trip_s[q, l_, s], trip)
    time = trip + factor * problem.transfer_s[q, l_, s] + work
    slowest = np.zeros(num_tokens * problem.num_layers)
    np.maximum.at(slowest, groups // problem.num_servers, time)
    return float(slowest.sum()) / max(num_tokens, 1)


def fluid(problem: Problem, flows: Flows) -> float:
    """Return `parallel` with the shares themselves in place of hashed copies.

    For a sampled token a server is used as much as the largest share that one of its
    experts is served there: round trip and transfer count that share, work the sum of
    shares. It is convex in the shares, so exact models can minimise it.
    """
    num_n, num_s = problem.num_experts, problem.num_servers
    token, layer, slot = np.nonzero(problem.sample_experts >= 0)
    if not len(token):
        return 0.0
    demand = problem.sample_demand[token]
    wanted = demand * num_n + problem.sample_experts[token, layer, slot]
    keys, call = np.unique(wanted, return_inverse=True)

    def table(
        q: NDArray[np.int64],
        i: NDArray[np.int64],
        s: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Sum values of sampled (demand, expert) pairs by server; (keys, S)."""
        key = q * num_n + i
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        hit = keys[at] == key
        size = len(keys) * num_s
        return sum_by((at * num_s + s)[hit], values[hit], size).reshape(-1, num_s)

    served = table(flows.q, flows.i, flows.server, flows.share)
    fused_at = problem.server_of[flows.fv]
    fused = table(flows.fq, flows.fi, fused_at, flows.fshare)
    work = table(flows.q, flows.i, flows.server, flows.share * flows.work)
    copy = flows.copies[flows.uc]
    work += table(
        flows.uq,
        flows.ui,
        problem.server_of[copy[:, 1]],
        flows.ushare * problem.work_s(copy[:, 0], copy[:, 1], copy[:, 2]),
    )
    moved = served - (1 - problem.fuse_factor) * fused
    # One group for each token and layer; its calls stand side by side.
    first = np.flatnonzero(np.diff(token * problem.num_layers + layer, prepend=-1))
    q, l_ = demand[first], layer[first]
    trip = np.where(problem.reachable[q, l_], problem.round_trip_s[q, l_], 0.0)
    time = trip * np.maximum.reduceat(served[call], first)
    time += problem.transfer_s[q, l_] * np.maximum.reduceat(moved[call], first)
    time += np.add.reduceat(work[call], first)
    return float(time.max(axis=1).sum()) / len(problem.sample_demand)


def worst_rows(rows: Sequence[Row], count: int = 5) -> list[Row]:
    """Return the rows with the least relative slack, tightest first."""
    limited = [row for row in rows if row.limit]
    return sorted(limited, key=lambda row: row.relative_slack)[:count]
