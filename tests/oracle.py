"""The optimum of a small problem, by trying every placement.

Written from the text of ``docs/problem.md``, in plain loops over the base arrays of a
`Problem`; it shares no code with `meldopt.score`, with `meldopt.formulations` or with
the derived arrays of `meldopt.problem`, so that a mistake there shows as a difference.
In `home` every set of copies z is tried and the linear programme of the shares is
solved for each; in `roam` every placement of one copy per expert is evaluated. Partial
placements are dropped only when a row on copies is broken already or a relaxation (the
rest of z in [0, 1]) is no better than the best so far; ``cutoff=False`` drops the
second reason.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from meldopt.plan import Plan
from meldopt.problem import TERMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from meldopt.problem import Problem

Copy = tuple[int, int, int]
"""Expert, place, format."""

NEAR = 1e-9
"""Relative excess of a row on copies that is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleResult:
    """What enumeration found.

    Attributes
    ----------
    objective
        Least weighted sum of the terms; inf when no placement is feasible.
    copies
        The placement that reaches it, (C, 3) of expert, place, format; or None.
    feasible
        Whether any placement is.
    num_placements
        Placements that satisfy the rows on copies and were evaluated to the end.
    plan
        The placement with its best shares.
    """

    objective: float
    copies: NDArray[np.int64] | None
    feasible: bool
    num_placements: int
    plan: Plan | None


def optimum(
    problem: Problem, *, cutoff: bool = True, max_placements: int | None = None
) -> OracleResult:
    """Try every placement of a small problem.

    Parameters
    ----------
    problem
        Small: the work grows with the product over experts of their sets of copies.
    cutoff
        Drop partial placements whose relaxation is no better than the best so far.
    max_placements
        Give up with a RuntimeError after so many placements.
    """
    if problem.weight_of("parallel"):
        raise ValueError("parallel is no linear term: the oracle cannot minimise it")
    if problem.dataflow == "roam":
        return _Roam(problem, cutoff, max_placements).run()
    return _Home(problem, cutoff, max_placements).run()


# -- what both dataflows share ---------------------------------------------------------


def work_s(problem: Problem, copy: Copy) -> float:
    """work[i,v,b] = 2 parameters / compute[v,b] + size[i,b] / (read[v] reuse)."""
    i, v, b = copy
    return float(
        problem.flop[i] * problem.s_per_flop[v, b]
        + problem.size_bytes[i, b] * problem.s_per_byte[v]
    )


def possible_copies(problem: Problem) -> list[Copy]:
    """Copies in a format that the tier runs and that are not forbidden."""
    forbidden = {tuple(row) for row in problem.forbidden.tolist()}
    return [
        (i, v, b)
        for i in range(problem.num_experts)
        for v in range(problem.num_places)
        for b in range(problem.num_formats)
        if problem.allowed[v, b] and (i, v, b) not in forbidden
    ]


def copy_sets(problem: Problem, i: int, *, single: bool) -> list[tuple[Copy, ...]]:
    """Every set of copies of one expert that the rows of that expert allow."""
    copies = [copy for copy in possible_copies(problem) if copy[0] == i]
    per_server: list[list[Copy | None]] = []
    for s in range(problem.num_servers):
        here = [copy for copy in copies if problem.server_of[copy[1]] == s]
        per_server.append([None, *here])
    pinned = {tuple(row) for row in problem.pinned.tolist() if row[0] == i}
    sets = []
    for choice in itertools.product(*per_server):
        held = tuple(copy for copy in choice if copy is not None)
        if not held and (single or not problem.allow_missing):
            continue
        if single and len(held) != 1:
            continue
        if problem.max_copies is not None and len(held) > problem.max_copies:
            continue
        if not pinned <= set(held):
            continue
        servers = {int(problem.server_of[v]) for _, v, _ in held}
        # A missing expert, where that is allowed, has no copy to keep.
        if held and any(
            servers <= set(failed.tolist()) for failed in problem.failure_sets
        ):
            continue
        sets.append(held)
    return sets


class _Combinations:
    """Memory, count and uniform rows while experts are decided one after the other."""

    def __init__(self, problem: Problem, sets: list[list[tuple[Copy, ...]]]) -> None:
        self.problem = problem
        self.used = [0.0] * problem.num_places
        self.before: list[list[float]] = []
        self.counts = [0] * len(problem.count_rows)
        self.inside = [
            (
                set(row.experts.tolist()),
                set(row.places.tolist()),
                set(row.formats.tolist()),
            )
            for row in problem.count_rows
        ]
        self.most = [  # most that experts i, i+1, … can still add to a row
            [0] * (len(sets) + 1) for _ in problem.count_rows
        ]
        for n in range(len(problem.count_rows)):
            for i in range(len(sets) - 1, -1, -1):
                best = max((self.add(n, held) for held in sets[i]), default=0)
                self.most[n][i] = self.most[n][i + 1] + best
        self.formats: list[list[int]] = [[] for _ in problem.uniform_groups]
        self.members = [set(group.experts.tolist()) for group in problem.uniform_groups]

    def add(self, n: int, held: tuple[Copy, ...]) -> int:
        experts, places, formats = self.inside[n]
        return sum(i in experts and v in places and b in formats for i, v, b in held)

    def push(self, i: int, held: tuple[Copy, ...]) -> bool:
        """Add the copies of expert i; False if a row is broken for good."""
        problem = self.problem
        good = True
        self.before.append(list(self.used))
        for _, v, b in held:
            self.used[v] += float(problem.size_bytes[i, b])
        for n, row in enumerate(problem.count_rows):
            self.counts[n] += self.add(n, held)
            good &= row.upper is None or self.counts[n] <= row.upper
            good &= row.lower is None or (
                self.counts[n] + self.most[n][i + 1] >= row.lower
            )
        for n, members in enumerate(self.members):
            if i in members:
                self.formats[n].extend(b for _, _, b in held)
                good &= len(set(self.formats[n])) <= 1
        for v in range(problem.num_places):
            room = float(problem.capacity_bytes[v] - problem.reserve_bytes[v])
            good &= self.used[v] <= room + NEAR * abs(room)
        return bool(good)

    def pop(self, i: int, held: tuple[Copy, ...]) -> None:
        self.used = self.before.pop()
        for n in range(len(self.counts)):
            self.counts[n] -= self.add(n, held)
        for n, members in enumerate(self.members):
            if i in members and held:
                del self.formats[n][-len(held) :]


# -- home ------------------------------------------------------------------------------


def _quiet_highs() -> Any:
    # The class behind `highspy.Highs`, whose constructor prints a banner.
    quiet = highspy.Highs.__mro__[1]
    quiet.resetGlobalScheduler(True)  # another number of threads would be refused
    solver = quiet()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("presolve", "off")  # a basis is at hand: it costs more
    # Rows and costs are scaled to about 1.
    solver.setOptionValue("primal_feasibility_tolerance", 1e-9)
    solver.setOptionValue("dual_feasibility_tolerance", 1e-9)
    return solver


class _Model:
    """A linear programme that grows by columns and rows; coefficients by column."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.upper: list[float] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []

    def column(self, upper: float = math.inf) -> int:
        self.cost.append(0.0)
        self.upper.append(upper)
        return len(self.cost) - 1

    def row(self, coefficients: dict[int, float], low: float, high: float) -> None:
        """Add low <= sum <= high, scaled so that tolerances are relative to it."""
        most = max((abs(value) for value in coefficients.values()), default=0.0)
        limit = max((abs(x) for x in (low, high) if math.isfinite(x)), default=0.0)
        scale = max(limit, 1e-6 * most) if limit else most or 1.0
        self.rows.append(
            (
                {n: value / scale for n, value in coefficients.items() if value},
                low / scale,
                high / scale,
            )
        )

    def load(self) -> Any:
        solver = _quiet_highs()
        scale = max((abs(value) for value in self.cost), default=0.0) or 1.0
        self.cost_scale = scale
        num = len(self.cost)
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = num, len(self.rows)
        model.col_cost_ = np.array(self.cost) / scale
        model.col_lower_ = np.zeros(num)
        model.col_upper_ = np.array(self.upper)
        model.row_lower_ = np.array([low for _, low, _ in self.rows])
        model.row_upper_ = np.array([high for _, _, high in self.rows])
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.num_col_, model.a_matrix_.num_row_ = num, len(self.rows)
        lengths = [len(row) for row, _, _ in self.rows]
        model.a_matrix_.start_ = np.concatenate([[0], np.cumsum(lengths)]).astype(
            np.int32
        )
        model.a_matrix_.index_ = np.array(
            [n for row, _, _ in self.rows for n in row], dtype=np.int32
        )
        model.a_matrix_.value_ = np.array(
            [value for row, _, _ in self.rows for value in row.values()]
        )
        solver.passModel(model)
        return solver


class _Home:
    """Dataflow home: a linear programme of the shares for each placement."""

    def __init__(
        self, problem: Problem, cutoff: bool, max_placements: int | None
    ) -> None:
        self.problem = problem
        self.cutoff = cutoff
        self.max_placements = max_placements
        self.best = math.inf
        self.best_x: NDArray[np.float64] | None = None
        self.best_copies: list[Copy] = []
        self.num_placements = 0
        self.sets = [
            copy_sets(problem, i, single=False) for i in range(problem.num_experts)
        ]
        self.build()

    # -- the model, variable by variable and row by row ------------------------------
    def build(self) -> None:
        p = self.problem
        self.model = model = _Model()
        self.z = {copy: model.column(1.0) for copy in possible_copies(p)}
        self.r: dict[tuple[int, Copy], int] = {}
        self.u: dict[tuple[int, int, Copy], int] = {}
        self.f: dict[tuple[int, int, int, int], int] = {}
        self.d: dict[tuple[int, int, int], int] = {}
        similar = {(int(i), int(j)): n for n, (i, j) in enumerate(p.similar)}
        self.similar = similar
        segments = p.fuse_width.shape[2]
        for q in range(p.num_demands):
            g = int(p.application_of[q])
            for i in range(p.num_experts):
                if p.calls[g, i] <= 0:
                    continue  # never called: nothing to answer
                layer = int(p.layer_of[i])
                src, snk = int(p.source[q, layer]), int(p.sink[q, layer])
                one: dict[int, float] = {}
                at_place: dict[int, list[int]] = defaultdict(list)
                for copy, z in self.z.items():
                    s = int(p.server_of[copy[1]])
                    if copy[0] == i:
                        routed = math.isfinite(
                            p.route_latency[src, s]
                        ) and math.isfinite(p.route_latency[s, snk])
                        if not (routed and p.trusted[g, s]):
                            continue
                        n = self.r[q, copy] = model.column()
                        one[n] = 1.0
                        model.row({n: 1.0, z: -1.0}, -math.inf, 0.0)
                        if s != src:
                            at_place[copy[1]].append(n)
                    elif (i, copy[0]) in similar and s == src:
                        n = self.u[q, i, copy] = model.column()
                        one[n] = 1.0
                        model.row({n: 1.0, z: -1.0}, -math.inf, 0.0)
                for v, served in at_place.items():
                    for m in range(segments):
                        width = float(p.fuse_width[g, layer, m])
                        n = self.f[q, i, v, m] = model.column()
                        model.row(
                            {n: 1.0} | {k: -width for k in served}, -math.inf, 0.0
                        )
                for m in range(p.prune_width.shape[2]):
                    n = self.d[q, i, m] = model.column(
                        float(p.prune_width[g, layer, m])
                    )
                    one[n] = 1.0
                model.row(one, 1.0, 1.0)
        self.rows_of_copies()
        self.rows_of_shares()
        self.objective()
        self.solver = model.load()

    def rows_of_copies(self) -> None:
        """What of the rows on z is linear; it only tightens partial placements."""
        p, model, z = self.problem, self.model, self.z
        for v in range(p.num_places):
            room = float(p.capacity_bytes[v] - p.reserve_bytes[v])
            # Whole placements are checked exactly; here rounding must not cut any off.
            model.row(
                {n: float(p.size_bytes[c[0], c[2]]) for c, n in z.items() if c[1] == v},
                -math.inf,
                room + 1e-7 * abs(room),
            )
        for i in range(p.num_experts):
            mine = {n: 1.0 for c, n in z.items() if c[0] == i}
            model.row(mine, 0.0 if p.allow_missing else 1.0, math.inf)
        for row in p.count_rows:
            inside = {
                n: 1.0
                for (i, v, b), n in z.items()
                if i in row.experts and v in row.places and b in row.formats
            }
            model.row(
                inside,
                -math.inf if row.lower is None else float(row.lower),
                math.inf if row.upper is None else float(row.upper),
            )

    def served_cost(self, q: int, copy: Copy) -> tuple[float, float, float, float]:
        """Seconds, bytes over links, joules of links and work of one call."""
        p = self.problem
        layer, s = int(p.layer_of[copy[0]]), int(p.server_of[copy[1]])
        src, snk = int(p.source[q, layer]), int(p.sink[q, layer])
        work = work_s(p, copy)
        seconds = p.route_latency[src, s] + p.route_latency[s, snk] + work
        seconds += p.bytes_out * p.route_s_per_byte[src, s]
        seconds += p.bytes_back * p.route_s_per_byte[s, snk]
        crossed = joule = 0.0
        for links, size in (
            (p.route_links[src][s], p.bytes_out),
            (p.route_links[s][snk], p.bytes_back),
        ):
            for e in links:
                crossed += size
                joule += size * float(p.link_joule_per_byte[e])
        return float(seconds), crossed, joule, work

    def entries(self) -> Iterator[tuple[str, int, int, int, int, float]]:
        """Every share: kind, column, demand, expert, place or -1, calls per second."""
        p = self.problem
        for (q, (i, v, _)), n in self.r.items():
            yield "r", n, q, i, v, self.mass(q, i)
        for (q, i, v, _), n in self.f.items():
            yield "f", n, q, i, v, -(1.0 - p.fuse_factor) * self.mass(q, i)
        for (q, i, (_, v, _)), n in self.u.items():
            yield "u", n, q, i, v, self.mass(q, i)

    def mass(self, q: int, i: int) -> float:
        p = self.problem
        return float(p.rate[q] * p.calls[p.application_of[q], i])

    def rows_of_shares(self) -> None:
        p, model = self.problem, self.model
        compute: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for (q, copy), n in self.r.items():
            compute[int(p.processor_of[copy[1]])][n] += self.mass(q, copy[0]) * work_s(
                p, copy
            )
        for (q, i, copy), n in self.u.items():
            compute[int(p.processor_of[copy[1]])][n] += self.mass(q, i) * work_s(
                p, copy
            )
        for row in compute.values():
            model.row(dict(row), -math.inf, p.busy)
        link: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        sent: dict[tuple[int, int, int], dict[int, float]] = defaultdict(
            lambda: defaultdict(float)
        )
        for kind, n, q, i, v, mass in self.entries():
            if kind == "u":
                continue  # answered at home: nothing moves
            layer, s = int(p.layer_of[i]), int(p.server_of[v])
            src, snk = int(p.source[q, layer]), int(p.sink[q, layer])
            for e in p.route_links[src][s]:
                link[int(e)][n] += mass * p.bytes_out
            for e in p.route_links[s][snk]:
                link[int(e)][n] += mass * p.bytes_back
            if src != s:
                sent[layer, src, s][n] += mass
        for e, row in link.items():
            model.row(dict(row), -math.inf, p.link_busy * float(p.link_bandwidth[e]))
        for cap in p.budget_caps:
            total: dict[int, float] = defaultdict(float)
            for (layer, src, s), row in sent.items():
                if cap.layer is not None and cap.layer != layer:
                    continue
                if cap.link is not None:
                    if cap.link not in p.route_links[src][s].tolist():
                        continue
                elif cap.from_server not in (None, src) or cap.to_server not in (
                    None,
                    s,
                ):
                    continue
                for n, value in row.items():
                    total[n] += value
            model.row(dict(total), -math.inf, cap.max_tokens_per_s)
        for g in range(p.num_applications):
            rate = sum(
                float(p.rate[q])
                for q in range(p.num_demands)
                if p.application_of[q] == g
            )
            if rate <= 0:
                continue  # no tokens: both means are over nothing
            for limit, cost in (
                (p.quality_budget[g], self.quality_cost(g)),
                (p.latency_target[g], self.serial_cost(g)),
            ):
                if math.isfinite(limit):
                    model.row(
                        {n: value / rate for n, value in cost.items()},
                        -math.inf,
                        float(limit),
                    )

    def quality_cost(self, only: int | None = None) -> dict[int, float]:
        """Nats per second of each share (of one application)."""
        p = self.problem
        cost: dict[int, float] = {}
        for (q, (i, _, b)), n in self.r.items():
            g = int(p.application_of[q])
            cost[n] = self.mass(q, i) * float(p.format_loss[g, i, b])
        for (q, i, _, m), n in self.f.items():
            g, layer = int(p.application_of[q]), int(p.layer_of[i])
            cost[n] = self.mass(q, i) * float(p.fuse_loss[g, layer, m])
        for (q, i, (j, _, b)), n in self.u.items():
            g = int(p.application_of[q])
            cost[n] = self.mass(q, i) * float(
                p.similar_loss[g, self.similar[i, j]] + p.format_loss[g, j, b]
            )
        for (q, i, m), n in self.d.items():
            g, layer = int(p.application_of[q]), int(p.layer_of[i])
            cost[n] = self.mass(q, i) * float(p.prune_loss[g, layer, m])
        return self.restricted(cost, only)

    def serial_cost(self, only: int | None = None) -> dict[int, float]:
        """Seconds per second of each share (of one application)."""
        p = self.problem
        cost: dict[int, float] = {}
        for (q, copy), n in self.r.items():
            cost[n] = self.mass(q, copy[0]) * self.served_cost(q, copy)[0]
        for (q, i, v, _), n in self.f.items():
            layer, s = int(p.layer_of[i]), int(p.server_of[v])
            src, snk = int(p.source[q, layer]), int(p.sink[q, layer])
            transfer = p.bytes_out * p.route_s_per_byte[src, s]
            transfer += p.bytes_back * p.route_s_per_byte[s, snk]
            cost[n] = -(1.0 - p.fuse_factor) * self.mass(q, i) * float(transfer)
        for (q, i, copy), n in self.u.items():
            cost[n] = self.mass(q, i) * work_s(p, copy)
        return self.restricted(cost, only)

    def restricted(self, cost: dict[int, float], only: int | None) -> dict[int, float]:
        if only is None:
            return cost
        p = self.problem
        owner = {n: key[0] for key, n in self.r.items()}
        owner |= {n: key[0] for key, n in self.u.items()}
        owner |= {n: key[0] for key, n in self.f.items()}
        owner |= {n: key[0] for key, n in self.d.items()}
        return {n: c for n, c in cost.items() if p.application_of[owner[n]] == only}

    def objective(self) -> None:
        p, model = self.problem, self.model
        total = float(p.rate.sum())
        weight = dict(zip(TERMS, p.weights.tolist(), strict=True))
        for term, cost in (
            ("serial", self.serial_cost()),
            ("quality", self.quality_cost()),
        ):
            for n, value in cost.items():
                model.cost[n] += weight[term] * value / total
        for kind, n, q, i, v, mass in self.entries():
            if kind == "u":
                continue
            _, crossed, joule, _ = self.served_cost(q, (i, v, 0))
            model.cost[n] += weight["traffic"] * mass * crossed / total
            model.cost[n] += weight["energy"] * mass * joule / total
        loads: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
        shares = [(n, q, copy[0], copy) for (q, copy), n in self.r.items()]
        shares += [(n, q, i, copy) for (q, i, copy), n in self.u.items()]
        for n, q, i, copy in shares:
            seconds = self.mass(q, i) * work_s(p, copy) / total
            model.cost[n] += weight["energy"] * seconds * float(p.power_w[copy[1]])
            loads[int(p.layer_of[i]), int(p.server_of[copy[1]])][n] = seconds
        if weight["bottleneck"]:
            slowest = {layer: model.column() for layer in range(p.num_layers)}
            for n in slowest.values():
                model.cost[n] = weight["bottleneck"]
            for (layer, _), row in loads.items():
                model.row(
                    {slowest[layer]: 1.0} | {n: -x for n, x in row.items()}, 0, math.inf
                )
        if weight["fluid"]:
            self.fluid(weight["fluid"])

    def fluid(self, weight: float) -> None:
        """Epigraph of the slowest server of each sampled (token, layer)."""
        p, model = self.problem, self.model
        tokens = len(p.sample_demand)
        for t in range(tokens):
            q = int(p.sample_demand[t])
            for layer in range(p.num_layers):
                experts = [int(i) for i in p.sample_experts[t, layer] if i >= 0]
                if not experts:
                    continue
                slowest = model.column()
                model.cost[slowest] = weight / tokens
                src, snk = int(p.source[q, layer]), int(p.sink[q, layer])
                for s in range(p.num_servers):
                    trip = p.route_latency[src, s] + p.route_latency[s, snk]
                    move = p.bytes_out * p.route_s_per_byte[src, s]
                    move += p.bytes_back * p.route_s_per_byte[s, snk]
                    if not math.isfinite(trip):
                        continue
                    used, moved = model.column(), model.column()
                    row = {slowest: 1.0, used: -float(trip), moved: -float(move)}
                    for i in experts:
                        here = {
                            n: -1.0
                            for (q_, c), n in self.r.items()
                            if q_ == q and c[0] == i and p.server_of[c[1]] == s
                        }
                        less = {
                            n: 1.0 - p.fuse_factor
                            for (q_, i_, v, _), n in self.f.items()
                            if q_ == q and i_ == i and p.server_of[v] == s
                        }
                        model.row({used: 1.0} | here, 0.0, math.inf)
                        model.row({moved: 1.0} | here | less, 0.0, math.inf)
                        for (_, c), n in self.r.items():
                            if n in here:
                                row[n] = row.get(n, 0.0) - work_s(p, c)
                        for (q_, i_, c), n in self.u.items():
                            if q_ == q and i_ == i and p.server_of[c[1]] == s:
                                row[n] = row.get(n, 0.0) - work_s(p, c)
                    model.row(row, 0.0, math.inf)

    # -- the search ------------------------------------------------------------------
    def run(self) -> OracleResult:
        p = self.problem
        pinned = {tuple(row) for row in p.pinned.tolist()}
        if not pinned <= set(self.z) or not all(self.sets):
            return OracleResult(
                objective=math.inf,
                copies=None,
                feasible=False,
                num_placements=0,
                plan=None,
            )
        self.columns = [
            [(copy, n) for copy, n in self.z.items() if copy[0] == i]
            for i in range(p.num_experts)
        ]
        self.combinations = _Combinations(p, self.sets)
        if self.cutoff:
            self.order_sets()
        if not self.cutoff or self.relaxed() < math.inf:
            self.visit(0, [])
        plan = None if self.best_x is None else self.plan()
        return OracleResult(
            objective=self.best,
            copies=None if plan is None else plan.copies,
            feasible=plan is not None,
            num_placements=self.num_placements,
            plan=plan,
        )

    def order_sets(self) -> None:
        """Try sets first that are cheap on their own: a good plan early cuts more."""
        cost = self.model.cost
        by_copy: dict[Copy, dict[int, float]] = defaultdict(dict)
        for (q, copy), n in self.r.items():
            by_copy[copy][q] = cost[n]
        for sets in self.sets:
            sets.sort(
                key=lambda held: sum(
                    min((by_copy[c].get(q, math.inf) for c in held), default=math.inf)
                    for q in range(self.problem.num_demands)
                    if any(q in by_copy[c] for c in held)
                )
            )

    def fix(self, i: int, held: tuple[Copy, ...] | None) -> None:
        """Fix the copies of an expert, or free them."""
        columns = np.array([n for _, n in self.columns[i]], dtype=np.int32)
        if held is None:
            low, high = np.zeros(len(columns)), np.ones(len(columns))
        else:
            low = high = np.array([float(c in held) for c, _ in self.columns[i]])
        self.solver.changeColsBounds(len(columns), columns, low, high)

    def relaxed(self) -> float:
        """Solve the linear programme as it stands; inf if it is infeasible."""
        self.solver.run()
        status = self.solver.getModelStatus()
        if status == highspy.HighsModelStatus.kOptimal:
            value: float = self.solver.getInfo().objective_function_value
            return value * self.model.cost_scale
        if status in (
            highspy.HighsModelStatus.kInfeasible,
            highspy.HighsModelStatus.kUnboundedOrInfeasible,
        ):
            return math.inf
        # A warm start can get stuck: the same programme once more, from nothing.
        fresh = _quiet_highs()
        fresh.setOptionValue("presolve", "choose")
        fresh.passModel(self.solver.getLp())
        self.solver = fresh
        fresh.run()
        status = fresh.getModelStatus()
        fresh.setOptionValue("presolve", "off")
        if status == highspy.HighsModelStatus.kOptimal:
            return fresh.getInfo().objective_function_value * self.model.cost_scale
        if status == highspy.HighsModelStatus.kInfeasible:
            return math.inf
        raise RuntimeError(f"HiGHS: {status}")

    def promising(self) -> bool:
        """Whether the relaxation leaves room for something better."""
        value = self.relaxed()
        if math.isinf(self.best):
            return value < math.inf
        return value < self.best - NEAR * abs(self.best)

    def visit(self, i: int, chosen: list[Copy]) -> None:
        if i == self.problem.num_experts:
            self.num_placements += 1
            if self.max_placements and self.num_placements > self.max_placements:
                raise RuntimeError(f"more than {self.max_placements} placements")
            value = self.relaxed()
            if value < self.best:
                self.best_x = np.array(self.solver.getSolution().col_value)
                self.best = value
                self.best_copies = list(chosen)
            return
        last = i + 1 == self.problem.num_experts
        for held in self.sets[i]:
            if self.combinations.push(i, held):
                self.fix(i, held)
                if last or not self.cutoff or self.promising():
                    self.visit(i + 1, [*chosen, *held])
                self.fix(i, None)
            self.combinations.pop(i, held)

    # -- the answer --------------------------------------------------------------------
    def plan(self) -> Plan:
        """Turn the best solution into a plan; dust is swept, sums are made one."""
        p = self.problem
        assert self.best_x is not None
        x = np.where(self.best_x < 1e-9, 0.0, self.best_x)
        copies = sorted(self.best_copies)
        index = {copy: c for c, copy in enumerate(copies)}
        sums: dict[tuple[int, int], float] = defaultdict(float)
        for (q, copy), n in self.r.items():
            sums[q, copy[0]] += x[n]
        for (q, i, _), n in (*self.u.items(), *self.d.items()):
            sums[q, i] += x[n]
        tables: dict[str, list[tuple[int, ...]]] = defaultdict(list)
        values: dict[str, list[float]] = defaultdict(list)

        def put(name: str, row: tuple[int, ...], q: int, i: int, n: int) -> None:
            if x[n] > 0:
                tables[name].append(row)
                values[name].append(float(x[n]) / sums[q, i])

        for (q, copy), n in self.r.items():
            if copy in index:
                put("served", (q, copy[0], index[copy]), q, copy[0], n)
        for (q, i, copy), n in self.u.items():
            if copy in index:
                put("substituted", (q, i, index[copy]), q, i, n)
        for (q, i, m), n in self.d.items():
            put("pruned", (q, i, m), q, i, n)
        for (q, i, v, m), n in self.f.items():
            put("fused", (q, i, v, m), q, i, n)
        shares = {}
        for name, width in (
            ("served", 3),
            ("fused", 4),
            ("substituted", 3),
            ("pruned", 3),
        ):
            shares[name] = np.array(tables[name], dtype=np.int64).reshape(-1, width)
            shares[f"{name}_share"] = np.array(values[name], dtype=np.float64)
        return Plan.of(p, np.array(copies, dtype=np.int64).reshape(-1, 3), **shares)


# -- roam ------------------------------------------------------------------------------


@dataclass(slots=True)
class RoamValue:
    """Terms and rows of one roaming placement, evaluated call by call."""

    terms: dict[str, float]
    compute: list[float]
    link: list[float]
    budget: list[float]
    quality: list[float]
    latency: list[float]
    untrusted: bool


def roam_value(problem: Problem, copies: list[Copy]) -> RoamValue:
    """Evaluate a placement of one copy per expert; the hidden state walks the pairs."""
    p = problem
    total = float(p.rate.sum())
    at = {i: int(p.server_of[v]) for i, v, _ in copies}
    rate_of = [0.0] * p.num_applications
    for q in range(p.num_demands):
        rate_of[int(p.application_of[q])] += float(p.rate[q])
    # Every walk: tokens per second, from, to, application, layer (None: to the home).
    walks: list[tuple[float, int, int, int, int | None]] = []
    for r, (i, j) in enumerate(p.pairs.tolist()):
        for g in range(p.num_applications):
            flow = rate_of[g] * float(p.pair_weight[g, r])
            walks.append((flow, at[i], at[j], g, int(p.layer_of[j])))
    for q in range(p.num_demands):
        g, home = int(p.application_of[q]), int(p.home_of[q])
        for i, s in at.items():
            rate = float(p.rate[q])
            walks.append((rate * float(p.entry[g, i]), home, s, g, int(p.layer_of[i])))
            walks.append((rate * float(p.exit[g, i]), s, home, g, None))
    pair = traffic = joule = 0.0
    latency = [0.0] * p.num_applications
    link = [0.0] * len(p.link_from)
    budget = [0.0] * len(p.budget_caps)
    for flow, s, t, g, layer in walks:
        if not flow:
            continue
        pair += flow * float(p.distance[s, t])
        latency[g] += flow * float(p.distance[s, t])
        for e in p.route_links[s][t].tolist():
            link[e] += flow * p.bytes_out
            traffic += flow * p.bytes_out
            joule += flow * p.bytes_out * float(p.link_joule_per_byte[e])
        if layer is None or s == t:
            continue
        for n, cap in enumerate(p.budget_caps):
            if cap.layer not in (None, layer):
                continue
            if cap.link is not None:
                inside = cap.link in p.route_links[s][t].tolist()
            else:
                inside = cap.from_server in (None, s) and cap.to_server in (None, t)
            budget[n] += flow if inside else 0.0
    work = 0.0
    compute = [0.0] * len(p.processor_server)
    quality = [0.0] * p.num_applications
    loads: dict[tuple[int, int], float] = defaultdict(float)
    untrusted = False
    for copy in copies:
        i, v, b = copy
        for g in range(p.num_applications):
            calls = float(p.calls[g, i])
            if calls > 0 and g in p.application_of and not p.trusted[g, at[i]]:
                untrusted = True
            seconds = rate_of[g] * calls * work_s(p, copy)
            work += seconds
            latency[g] += seconds
            compute[int(p.processor_of[v])] += seconds
            joule += seconds * float(p.power_w[v])
            loads[int(p.layer_of[i]), at[i]] += seconds
            quality[g] += rate_of[g] * calls * float(p.format_loss[g, i, b])
    slowest: dict[int, float] = defaultdict(float)
    for (layer_, _), seconds in loads.items():
        slowest[layer_] = max(slowest[layer_], seconds)
    return RoamValue(
        terms={
            "serial": (pair + work) / total,
            "bottleneck": sum(slowest.values()) / total,
            "traffic": traffic / total,
            "energy": joule / total,
            "quality": sum(quality) / total,
            "pair": pair / total,
        },
        compute=compute,
        link=link,
        budget=budget,
        quality=[
            x / rate if rate else 0.0 for x, rate in zip(quality, rate_of, strict=True)
        ],
        latency=[
            x / rate if rate else 0.0 for x, rate in zip(latency, rate_of, strict=True)
        ],
        untrusted=untrusted,
    )


class _Roam:
    """Dataflow roam: one copy per expert, every placement evaluated."""

    def __init__(
        self, problem: Problem, cutoff: bool, max_placements: int | None
    ) -> None:
        self.problem = problem
        self.cutoff = cutoff
        self.max_placements = max_placements
        self.best = math.inf
        self.best_copies: list[Copy] | None = None
        self.num_placements = 0
        self.sets = [
            copy_sets(problem, i, single=True) for i in range(problem.num_experts)
        ]

    def run(self) -> OracleResult:
        p = self.problem
        pinned = {tuple(row) for row in p.pinned.tolist()}
        if pinned <= set(possible_copies(p)) and all(self.sets):
            self.combinations = _Combinations(p, self.sets)
            self.prepare()
            self.visit(0, [], 0.0)
        copies = None
        if self.best_copies is not None:
            copies = np.array(self.best_copies, dtype=np.int64).reshape(-1, 3)
        return OracleResult(
            objective=self.best,
            copies=copies,
            feasible=copies is not None,
            num_placements=self.num_placements,
            plan=None if copies is None else Plan.of(p, copies),
        )

    def prepare(self) -> None:
        """Costs of single copies and of pairs, for cut-offs only.

        Whole placements are evaluated by `roam_value`. The bottleneck is left out of
        the costs, which bounds it by 0.
        """
        p = self.problem
        weight = dict(zip(TERMS, p.weights.tolist(), strict=True))
        total = float(p.rate.sum())
        rates = [
            sum(
                float(p.rate[q])
                for q in range(p.num_demands)
                if p.application_of[q] == g
            )
            for g in range(p.num_applications)
        ]
        dist = weight["serial"] + weight["pair"]
        num = p.num_servers
        self.step = np.zeros((num, num))
        for s, t in itertools.product(range(num), repeat=2):
            per_byte = sum(
                weight["traffic"] + weight["energy"] * float(p.link_joule_per_byte[e])
                for e in p.route_links[s][t]
            )
            cost = dist * float(p.distance[s, t]) if dist else 0.0
            self.step[s, t] = (cost + p.bytes_out * per_byte) / total
        self.linear: dict[Copy, float] = {}
        for sets in self.sets:
            for (copy,) in sets:
                i, v, b = copy
                s = int(p.server_of[v])
                cost = 0.0
                for g, rate in enumerate(rates):
                    seconds = rate * float(p.calls[g, i]) * work_s(p, copy)
                    joule = weight["energy"] * float(p.power_w[v])
                    cost += seconds * (weight["serial"] + joule) / total
                    loss = float(p.calls[g, i] * p.format_loss[g, i, b])
                    cost += weight["quality"] * rate * loss / total
                for q in range(p.num_demands):
                    g, h = int(p.application_of[q]), int(p.home_of[q])
                    ends = (
                        (p.entry[g, i], self.step[h, s]),
                        (p.exit[g, i], self.step[s, h]),
                    )
                    cost += float(p.rate[q]) * sum(float(w * x) for w, x in ends if w)
                self.linear[copy] = cost
        self.least = [0.0] * (p.num_experts + 1)
        for i in range(p.num_experts - 1, -1, -1):
            self.sets[i].sort(key=lambda held: self.linear[held[0]])
            self.least[i] = self.least[i + 1] + self.linear[self.sets[i][0][0]]
        self.earlier: list[list[tuple[int, float, bool]]] = [
            [] for _ in range(p.num_experts)
        ]
        for r, (i, j) in enumerate(p.pairs.tolist()):
            flow = sum(
                rate * float(p.pair_weight[g, r]) for g, rate in enumerate(rates)
            )
            self.earlier[max(i, j)].append((min(i, j), flow, i <= j))

    def visit(self, i: int, chosen: list[Copy], cost: float) -> None:
        p = self.problem
        if i == p.num_experts:
            self.evaluate(chosen)
            return
        for held in self.sets[i]:
            (copy,) = held
            if self.combinations.push(i, held):
                more = self.linear[copy]
                t = int(p.server_of[copy[1]])
                for j, flow, forward in self.earlier[i]:
                    s = t if j == i else int(p.server_of[chosen[j][1]])
                    if flow:
                        more += flow * (self.step[s, t] if forward else self.step[t, s])
                bound = cost + more + self.least[i + 1]
                slack = NEAR * (abs(bound) + abs(cost))
                if not self.cutoff or bound - slack < self.best:
                    self.visit(i + 1, [*chosen, copy], cost + more)
            self.combinations.pop(i, held)

    def evaluate(self, copies: list[Copy]) -> None:
        p = self.problem
        self.num_placements += 1
        if self.max_placements and self.num_placements > self.max_placements:
            raise RuntimeError(f"more than {self.max_placements} placements")
        value = roam_value(p, copies)
        objective = sum(
            weight * value.terms[term]
            for term, weight in zip(TERMS, p.weights.tolist(), strict=True)
            if weight
        )
        if objective >= self.best:
            return
        limits = (
            (value.compute, [p.busy] * len(value.compute)),
            (value.link, [p.link_busy * x for x in p.link_bandwidth.tolist()]),
            (value.budget, [cap.max_tokens_per_s for cap in p.budget_caps]),
            (value.quality, p.quality_budget.tolist()),
            (value.latency, p.latency_target.tolist()),
        )
        for values, bounds in limits:
            for x, bound in zip(values, bounds, strict=True):
                if x > bound + max(1e-12, NEAR * abs(bound)):
                    return
        if not value.untrusted:
            self.best, self.best_copies = objective, copies
