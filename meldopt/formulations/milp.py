"""Problem -> MILP, both dataflows, with index maps and decoder.

``home``: binary copies ``z`` and continuous shares ``r`` (served), ``u``
(substituted), ``d`` (pruned) and ``f`` (travels fused). ``roam``: binary copies and
the products of locations of paired experts, linearised exactly. What tightens the
relaxation is listed in `TIGHTENINGS` and measured in ``docs/formulations.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from meldopt.costs import linear_costs
from meldopt.errors import UnsupportedFeatureError
from meldopt.plan import Plan
from meldopt.score import budget_pairs
from meldopt.tolerance import SHARE

from .linear import Block, LinearBuilder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .linear import LinearModel

TIGHTENINGS = {
    "disaggregated": "r <= z for each demand and copy, not summed over demands",
    "coverage": "two copies where any single server may fail, not one outside each",
    "pruned": "what is not pruned goes away from home unless a copy is there",
    "products": "roam: products sum to the location of either end, not p >= x + x' - 1",
}
"""Inequalities that integer points satisfy anyway; each can be left out to measure."""

Entries = list[tuple["NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.float64]"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Formulation:
    """A linear model of a problem and the maps between the two.

    Attributes
    ----------
    problem, model
        What was formulated and the arrays.
    candidates
        Expert, place and format of each possible copy, sorted; (C, 3).
    z
        Columns of the copies; None when the copies are fixed.
    blocks
        Columns of the shares by name: ``r``, ``u``, ``d``, ``f``.
    by_layer
        Whether ``f`` stands for the fused calls of a whole layer.
    """

    problem: Problem
    model: LinearModel
    candidates: NDArray[np.int64]
    z: Block | None
    blocks: dict[str, Block] = field(default_factory=dict)
    by_layer: bool = False

    def copies(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        """Read the copies off a solution; (C, 3)."""
        if self.z is None:
            return self.candidates
        chosen = x[self.z.start : self.z.stop] > 0.5
        return self.candidates[chosen]

    def decode(self, x: NDArray[np.float64]) -> Plan:
        """Turn a solution with integral copies into a plan, shares cleaned."""
        problem = self.problem
        copies = self.copies(x)
        if problem.dataflow == "roam" or not self.blocks:
            return Plan.of(problem, copies)
        index = np.full(len(self.candidates), -1, dtype=np.int64)
        if self.z is None:
            index = np.arange(len(copies))
        else:
            index[x[self.z.start : self.z.stop] > 0.5] = np.arange(len(copies))
        return clean_plan(self, x, copies, index)

    def encode(self, plan: Plan) -> NDArray[np.float64]:
        """Return the copies of a plan as values of ``z`` (other columns are nan)."""
        x = np.full(self.model.num_columns, np.nan)
        assert self.z is not None
        key = {tuple(row): c for c, row in enumerate(self.candidates.tolist())}
        x[self.z.range] = 0.0
        for row in plan.copies.tolist():
            c = key.get(tuple(row))
            if c is not None:
                x[self.z.start + c] = 1.0
        return x


def clean_plan(
    form: Formulation,
    x: NDArray[np.float64],
    copies: NDArray[np.int64],
    index: NDArray[np.int64],
) -> Plan:
    """Read shares off a solution: drop the tiny, make sums one, fit the widths."""
    problem, blocks = form.problem, form.blocks
    app = problem.application_of
    num_n = problem.num_experts

    def values(name: str) -> NDArray[np.float64]:
        block = blocks[name]
        return np.clip(x[block.start : block.stop], 0.0, None)

    rq, rc = blocks["r"].keys
    r = np.where(index[rc] >= 0, values("r"), 0.0)
    uq, ui, uc = blocks["u"].keys
    u = np.where(index[uc] >= 0, values("u"), 0.0)
    dq, di, dn = blocks["d"].keys
    d = np.minimum(values("d"), problem.prune_width[app[dq], problem.layer_of[di], dn])
    r[r < SHARE], u[u < SHARE], d[d < SHARE] = 0.0, 0.0, 0.0
    ri = form.candidates[rc, 0]
    key_r, key_u, key_d = rq * num_n + ri, uq * num_n + ui, dq * num_n + di
    size = problem.num_demands * num_n
    # Added, not in place: without any key bincount returns integers.
    kept = np.bincount(key_r, weights=r, minlength=size) + np.bincount(
        key_u, weights=u, minlength=size
    )
    dropped = np.bincount(key_d, weights=d, minlength=size)
    # Sums are mended on what is answered; pruned shares stay within their widths.
    factor = np.where(kept > 0, (1 - dropped) / np.where(kept > 0, kept, 1), 1.0)
    r, u = r * factor[key_r], u * factor[key_u]
    on_r, on_u, on_d = r > 0, u > 0, d > 0
    served = np.stack([rq, ri, index[rc]], axis=1)[on_r]
    fused, fused_share = _fused(form, values("f"), served, r[on_r], copies)
    return Plan.of(
        problem,
        copies,
        served=served,
        served_share=r[on_r],
        substituted=np.stack([uq, ui, index[uc]], axis=1)[on_u],
        substituted_share=u[on_u],
        pruned=np.stack([dq, di, dn], axis=1)[on_d],
        pruned_share=d[on_d],
        fused=fused,
        fused_share=fused_share,
    )


def _fused(
    form: Formulation,
    f: NDArray[np.float64],
    served: NDArray[np.int64],
    share: NDArray[np.float64],
    copies: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read fused shares off a solution; those of a layer go to its experts in turn."""
    problem = form.problem
    on = np.flatnonzero(f > SHARE)
    if not len(on):
        return np.zeros((0, 4), dtype=np.int64), np.zeros(0)
    num_s, num_l = problem.num_servers, problem.num_layers
    fq, f_of, fs, fm = (key[on] for key in form.blocks["f"].keys)
    q, i, c = served.T
    place = copies[c, 1]
    unit = problem.layer_of[i] if form.by_layer else i
    size = num_l if form.by_layer else problem.num_experts
    key = (q * size + unit) * num_s + problem.server_of[place]
    order = np.argsort(key, kind="stable")
    rows, found = _joined((fq * size + f_of) * num_s + fs, key[order])
    found = order[found]
    q, i, m = q[found], i[found], fm[rows]
    app = problem.application_of[q]
    most = problem.fuse_width[app, problem.layer_of[i], m] * share[found]
    calls = problem.calls[app, i] if form.by_layer else np.ones(len(i))
    # What is left of the fused calls of a layer after the experts before this one.
    before = np.cumsum(most * calls) - most * calls
    first = np.searchsorted(rows, rows, side="left")
    left = f[on][rows] - (before - before[first])
    part = np.clip(left / np.where(calls > 0, calls, 1.0), 0.0, most)
    keep = part > SHARE
    table = np.stack([q, i, place[found], m], axis=1)
    return table[keep], part[keep]


def candidate_copies(problem: Problem) -> NDArray[np.int64]:
    """Return every copy that may exist, sorted; (C, 3)."""
    return np.argwhere(problem.copy_allowed()).astype(np.int64)


def build_milp(
    problem: Problem,
    *,
    copies: NDArray[np.int64] | None = None,
    candidates: NDArray[np.int64] | None = None,
    tighten: frozenset[str] | None = None,
    elastic: frozenset[str] = frozenset(),
    by_layer: bool = False,
    used: Mapping[str, NDArray[np.float64]] | None = None,
) -> Formulation:
    """Formulate a problem as a MILP, or as an LP over shares for fixed copies.

    Parameters
    ----------
    problem
        Of either dataflow.
    copies
        Fix the copies to these, (C, 3) sorted: what remains is the LP over shares.
    candidates
        Let only these copies exist, (C, 3) sorted: a restriction, whose plans are
        plans and whose bound proves nothing.
    tighten
        Names of `TIGHTENINGS` to put in; all by default.
    elastic
        Families of rows that may be exceeded, at a cost of one per relative excess
        instead of the objective: ``memory``, ``compute``, ``link``, ``budget``,
        ``quality``, ``latency``, ``coverage``, ``count``. `meldopt.check` uses it.
    by_layer
        One ``f`` for all experts of a layer. What fusing saves and loses is the same
        for all of them, so this is as strong and much smaller; with sampled tokens
        it is not possible, and ignored.
    used
        `home`: what rows carry already, of experts that are not part of this problem:
        by family of rows, ``count`` by row and ``bottleneck`` by (layer, server).

    Raises
    ------
    UnsupportedFeatureError
        In `roam`, if an expert may have several copies: only one is modelled.
    """
    tighten = frozenset(TIGHTENINGS) if tighten is None else tighten
    if problem.dataflow == "roam":
        if problem.max_copies != 1:
            raise UnsupportedFeatureError(
                f"limits.copies: got {problem.max_copies} in roam, expected 1: exact "
                "models place one copy of an expert there"
            )
        return _Roam(problem, copies, candidates, tighten, elastic).formulate()
    sampled = problem.weight_of("fluid") + problem.weight_of("parallel") > 0
    home = _Home(problem, copies, candidates, tighten, elastic)
    home.by_layer = by_layer and not sampled
    home.used = used or {}
    return home.formulate()


class _Base:
    """Rows over copies, which both dataflows share."""

    def __init__(
        self,
        problem: Problem,
        copies: NDArray[np.int64] | None,
        candidates: NDArray[np.int64] | None,
        tighten: frozenset[str],
        elastic: frozenset[str],
    ) -> None:
        self.problem = problem
        self.builder = LinearBuilder()
        self.tighten = tighten
        self.elastic = elastic
        self.fixed = copies is not None
        if copies is not None:
            self.candidates = copies
        elif candidates is not None:
            self.candidates = candidates
        else:
            fits = "memory" not in elastic
            allowed = problem.copy_allowed(fits=fits)
            self.candidates = np.argwhere(allowed).astype(np.int64)
        self.expert, self.place, self.format = self.candidates.T
        self.server = problem.server_of[self.place]
        self.layer = problem.layer_of[self.expert]
        self.work = problem.work_s(self.expert, self.place, self.format)
        self.app = problem.application_of
        self.z: Block | None = None
        self.scale = 0.0 if elastic else 1.0  # the objective is off in elastic models
        self.used: Mapping[str, NDArray[np.float64]] = {}
        self.excess: list[tuple[str, Block]] = []

    # -- elastic rows ----------------------------------------------------------------
    def limit_rows(
        self,
        name: str,
        keys: list[NDArray[np.int64]],
        entries: Entries,
        limit: NDArray[np.float64],
    ) -> None:
        """Add scaled rows ``<= limit`` for each finite limit, elastic if asked for."""
        if not len(limit):
            return
        if name in self.elastic:
            # A limit of 0 has no relative excess: the largest entry stands for it.
            largest = np.zeros(len(limit))
            for row, _, value in entries:
                np.maximum.at(largest, row, np.abs(value))
            unit = np.where(np.abs(limit) > 0, np.abs(limit), largest)
            unit = np.where(unit > 0, unit, 1.0)
            slack = self.builder.add_columns(f"excess_{name}", keys, cost=1.0)
            self.excess.append((name, slack))
            entries = [*entries, (np.arange(len(limit)), slack.range, -unit)]
        self.builder.add_rows(
            name,
            keys,
            entries,
            upper=limit,
            scale=True,
            used=self.used.get(name, 0.0),
        )

    def copy_columns(self) -> None:
        lower = np.zeros(len(self.candidates))
        pinned = {tuple(row) for row in self.problem.pinned.tolist()}
        missing = set(pinned)
        if pinned:
            for c, row in enumerate(self.candidates.tolist()):
                if tuple(row) in pinned:
                    lower[c] = 1.0
                    missing.discard(tuple(row))
        self.z = self.builder.add_columns(
            "z",
            [self.expert, self.place, self.format],
            lower=lower,
            upper=1.0,
            integer=True,
        )
        if missing:  # a pinned copy that may not exist: no plan at all
            self.builder.add_rows("pin", [np.zeros(1)], [], lower=1.0)

    def copy_rows(self, *, one: bool) -> None:
        """Rows over copies alone; ``one`` places exactly one copy of an expert."""
        problem, builder, z = self.problem, self.builder, self.z
        assert z is not None
        num = problem.num_experts
        every = np.arange(num)
        lower = np.full(num, 0.0 if problem.allow_missing else 1.0)
        if one:  # nothing else answers a call in roam
            lower[problem.needed] = 1.0
        upper = np.inf if problem.max_copies is None else float(problem.max_copies)
        if lower.any() or upper < np.inf:
            builder.add_rows(
                "expert",
                [every],
                [(self.expert, z.range, 1.0)],
                lower=lower,
                upper=upper,
            )
        pair = self.expert * problem.num_servers + self.server
        pairs, inverse, counts = np.unique(
            pair, return_inverse=True, return_counts=True
        )
        several = np.flatnonzero(counts > 1)
        if len(several) and not (one and upper == 1):
            position = np.full(len(pairs), -1)
            position[several] = np.arange(len(several))
            mine = position[inverse] >= 0
            builder.add_rows(
                "one_per_server",
                [
                    pairs[several] // problem.num_servers,
                    pairs[several] % problem.num_servers,
                ],
                [(position[inverse][mine], z.range[mine], 1.0)],
                upper=1.0,
            )
        self.memory_rows()
        self.coverage_rows()
        for n in range(len(problem.count_rows)):
            self.count_row(n)
        self.uniform_rows()

    def memory_rows(self) -> None:
        problem = self.problem
        assert self.z is not None
        size = problem.size_bytes[self.expert, self.format]
        self.limit_rows(
            "memory",
            [np.arange(problem.num_places)],
            [(self.place, self.z.range, size)],
            problem.room_bytes,
        )

    def coverage_rows(self) -> None:
        problem, builder, z = self.problem, self.builder, self.z
        assert z is not None
        every = np.arange(problem.num_experts)
        sets = problem.failure_sets
        for n, servers in enumerate(sets):
            inside = np.isin(self.server, servers)
            outside = np.flatnonzero(~inside)
            if problem.allow_missing:
                held = np.flatnonzero(inside)
                by_expert = np.flatnonzero(~inside)
                # z of a copy inside needs some copy of the same expert outside.
                rows, columns = _joined(self.expert[held], self.expert[by_expert])
                builder.add_rows(
                    "coverage",
                    [np.full(len(held), n), held],
                    [
                        (np.arange(len(held)), z.range[held], -1.0),
                        (rows, z.range[by_expert[columns]], 1.0),
                    ],
                    lower=0.0,
                )
            else:
                entries: Entries = [
                    (self.expert[outside], z.range[outside], np.ones(len(outside)))
                ]
                if "coverage" in self.elastic:
                    slack = builder.add_columns(
                        "excess_coverage", [np.full(len(every), n), every], cost=1.0
                    )
                    self.excess.append(("coverage", slack))
                    entries.append((every, slack.range, np.ones(len(every))))
                builder.add_rows(
                    "coverage", [np.full(len(every), n), every], entries, lower=1.0
                )
        singles = {int(servers[0]) for servers in sets if len(servers) == 1}
        if (
            "coverage" in self.tighten
            and "coverage" not in self.elastic
            and not problem.allow_missing
            and len(singles) == problem.num_servers > 1
        ):
            builder.add_rows(
                "two_copies", [every], [(self.expert, z.range, 1.0)], lower=2.0
            )

    def count_row(self, n: int) -> None:
        problem, builder, z = self.problem, self.builder, self.z
        assert z is not None
        row = problem.count_rows[n]
        inside = np.flatnonzero(
            np.isin(self.expert, row.experts)
            & np.isin(self.place, row.places)
            & np.isin(self.format, row.formats)
        )
        entries: Entries = [
            (np.zeros(len(inside), np.int64), z.range[inside], np.ones(len(inside)))
        ]
        lower = -np.inf if row.lower is None else float(row.lower)
        upper = np.inf if row.upper is None else float(row.upper)
        if "count" in self.elastic:
            limits = np.array([row.lower or 0.0, row.upper or 0.0])
            cost = 1.0 / np.maximum(limits, 1.0)
            slack = builder.add_columns("excess_count", [[n, n], [0, 1]], cost=cost)
            self.excess.append(("count", slack))
            entries.append((np.zeros(2, np.int64), slack.range, np.array([1.0, -1.0])))
        used = self.used["count"][n] if "count" in self.used else 0.0
        builder.add_rows("count", [[n]], entries, lower=lower, upper=upper, used=used)

    def uniform_rows(self) -> None:
        problem, builder, z = self.problem, self.builder, self.z
        assert z is not None
        for n, group in enumerate(problem.uniform_groups):
            num_b = problem.num_formats
            y = builder.add_columns(
                "y", [np.full(num_b, n), np.arange(num_b)], upper=1.0
            )
            inside = np.flatnonzero(np.isin(self.expert, group.experts))
            rows = np.arange(len(inside))
            builder.add_rows(
                "uniform",
                [np.full(len(inside), n), inside],
                [
                    (rows, z.range[inside], 1.0),
                    (rows, y.start + self.format[inside], -1.0),
                ],
                upper=0.0,
            )
            builder.add_rows(
                "one_format",
                [[n]],
                [(np.zeros(num_b, np.int64), y.range, 1.0)],
                lower=1.0,
                upper=1.0,
            )

    def epigraph(
        self,
        name: str,
        keys: list[NDArray[np.int64]],
        entries: Entries,
        group: NDArray[np.int64],
        cost: NDArray[np.float64],
    ) -> Block:
        """Add columns that are at least each of the rows of their group."""
        top = self.builder.add_columns(
            f"max_{name}", [np.arange(len(cost))], cost=cost * self.scale, lower=-np.inf
        )
        rows = np.arange(len(group))
        self.builder.add_rows(
            name,
            keys,
            [*entries, (rows, top.range[group], -np.ones(len(group)))],
            upper=0.0,
            scale=True,
            used=self.used.get(name, 0.0),
        )
        return top


def _joined(
    left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of positions with equal values; ``right`` must be sorted."""
    low = np.searchsorted(right, left, side="left")
    high = np.searchsorted(right, left, side="right")
    count = high - low
    rows = np.repeat(np.arange(len(left)), count)
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return rows, np.repeat(low, count) + offset


class _Home(_Base):
    """The dataflow in which the hidden state returns to its home after each layer."""

    by_layer = False

    def formulate(self) -> Formulation:
        if not self.fixed:
            self.copy_columns()
        self.share_columns()
        self.share_rows()
        if not self.fixed:
            self.copy_rows(one=False)
        self.capacity_rows()
        self.application_rows()
        self.bottleneck()
        self.fluid()
        return Formulation(
            problem=self.problem,
            model=self.builder.build(objective_scale=1.0 if self.elastic else None),
            candidates=self.candidates,
            z=self.z,
            blocks={"r": self.r, "u": self.u, "d": self.d, "f": self.f},
            by_layer=self.by_layer,
        )

    # -- columns ---------------------------------------------------------------------
    def share_columns(self) -> None:
        problem, builder = self.problem, self.builder
        app, costs = self.app, linear_costs(problem)
        weight = problem.demand_weight[:, None] * problem.calls[app]  # (Q, N)
        called = problem.calls[app] > 0
        reach = problem.reachable
        q, c = np.nonzero(called[:, self.expert] & reach[:, self.layer, self.server])
        i, g = self.expert[c], app[q]
        price = costs.net[q, self.layer[c], self.server[c]]
        price = price + self.work[c] * costs.work_price[self.place[c]]
        price = price + costs.nat * problem.format_loss[g, i, self.format[c]]
        self.r = builder.add_columns(
            "r", [q, c], upper=1.0, cost=weight[q, i] * price * self.scale
        )
        self.rate_of = problem.rate[:, None] * problem.calls[app]  # calls/s (Q, N)
        # Substituted: a copy of the similar expert at the home of the layer.
        n, c = _joined(problem.similar[:, 1], self.expert)
        q, m = np.nonzero(
            called[:, problem.similar[n, 0]]
            & (problem.source[:, self.layer[c]] == self.server[c])
        )
        n, c = n[m], c[m]
        i, g = problem.similar[n, 0], app[q]
        self.u_loss = (
            problem.similar_loss[g, n]
            + problem.format_loss[g, self.expert[c], self.format[c]]
        )
        price = self.work[c] * costs.work_price[self.place[c]] + costs.nat * self.u_loss
        self.u = builder.add_columns(
            "u", [q, i, c], upper=1.0, cost=weight[q, i] * price * self.scale
        )
        # Pruned.
        width = problem.prune_width[app][:, problem.layer_of]  # (Q, N, M)
        q, i, n = np.nonzero((width > 0) & called[..., None])
        self.d_loss = problem.prune_loss[app[q], problem.layer_of[i], n]
        self.d = builder.add_columns(
            "d",
            [q, i, n],
            upper=width[q, i, n],
            cost=weight[q, i] * costs.nat * self.d_loss * self.scale,
        )
        # Fused: by server, since a server has one copy of an expert at most.
        rq, rc = self.r.keys
        # Is there anything to save at all? Budgets count calls even without bytes.
        moved = problem.transfer_s + problem.crossed_bytes + len(problem.budget_caps)
        server = self.server[rc]
        far = (
            problem.remote[rq, self.layer[rc], server]
            & (moved[rq, self.layer[rc], server] > 0)
            & (problem.fuse_factor < 1)
        )
        unit, size = self.fuse_unit()
        num_s, num_m = problem.num_servers, problem.fuse_width.shape[2]
        key = np.unique(((rq * size + unit[rc]) * num_s + server)[far])
        q, of, s = key // (num_s * size), key // num_s % size, key % num_s
        q, of, s = (np.repeat(array, num_m) for array in (q, of, s))
        m = np.tile(np.arange(num_m), len(key))
        layer = of if self.by_layer else problem.layer_of[of]
        keep = problem.fuse_width[app[q], layer, m] > 0
        q, of, s, m, layer = (array[keep] for array in (q, of, s, m, layer))
        # Calls per token that one unit of f stands for.
        self.f_calls = np.ones(len(q)) if self.by_layer else problem.calls[app[q], of]
        self.f_layer = layer
        self.f_loss = problem.fuse_loss[app[q], layer, m]
        price = costs.nat * self.f_loss - costs.saved[q, layer, s]
        self.f = builder.add_columns(
            "f",
            [q, of, s, m],
            upper=np.inf if self.by_layer else 1.0,
            cost=problem.demand_weight[q] * self.f_calls * price * self.scale,
        )

    def pruned_rows(self, z: Block) -> None:
        """Send what is not pruned away from home, unless a copy is at home.

        ``away + u + later segments of d >= w (1 - copies at home)``, with w what is
        left when the segments before are full. Without it 0.85 of a copy at home
        and 0.15 pruned would pass for a copy: memory would be saved by pruning.
        """
        if not self.d.size:
            return
        problem, app = self.problem, self.app
        num_n = problem.num_experts
        dq, di, dn = self.d.keys
        pairs, of_d = np.unique(dq * num_n + di, return_inverse=True)
        q, i = pairs // num_n, pairs % num_n
        layer = problem.layer_of[i]
        width = problem.prune_width[app[q], layer]  # (pairs, M)
        left = 1.0 - np.cumsum(width, axis=1)
        home = problem.source[q, layer]
        position = np.full(problem.num_demands * num_n, -1, dtype=np.int64)
        position[pairs] = np.arange(len(pairs))
        rq, rc = self.r.keys
        uq, ui, _ = self.u.keys
        of_r, of_u = position[rq * num_n + self.expert[rc]], position[uq * num_n + ui]
        away = np.flatnonzero((of_r >= 0) & (self.server[rc] != home[of_r]))
        other = np.flatnonzero(of_u >= 0)
        held = self.expert * problem.num_servers + self.server
        order = np.argsort(held, kind="stable")
        rows, found = _joined(i * problem.num_servers + home, held[order])
        for m in range(width.shape[1]):
            new = np.full(len(pairs), -1, dtype=np.int64)
            mine = np.flatnonzero((width[:, m] > 0) & (left[:, m] > SHARE))
            new[mine] = np.arange(len(mine))
            entries: Entries = []
            for row, column, value in (
                (of_r[away], self.r.range[away], np.ones(len(away))),
                (of_u[other], self.u.range[other], np.ones(len(other))),
                (of_d[dn > m], self.d.range[dn > m], np.ones(int((dn > m).sum()))),
                (rows, z.range[order[found]], left[rows, m]),
            ):
                keep = new[row] >= 0
                entries.append((new[row][keep], column[keep], value[keep]))
            self.builder.add_rows(
                "pruned",
                [q[mine], i[mine], np.full(len(mine), m)],
                entries,
                lower=left[mine, m],
            )

    def fuse_unit(self) -> tuple[NDArray[np.int64], int]:
        """Return what ``f`` is counted by for each candidate, and how many of it."""
        if self.by_layer:
            return self.layer, self.problem.num_layers
        return self.expert, self.problem.num_experts

    # -- rows of shares ----------------------------------------------------------------
    def share_rows(self) -> None:
        problem, builder = self.problem, self.builder
        num_n = problem.num_experts
        rq, rc = self.r.keys
        uq, ui, uc = self.u.keys
        dq, di, _ = self.d.keys
        key = np.full(problem.num_demands * num_n, -1, dtype=np.int64)
        called = np.flatnonzero((problem.calls[self.app] > 0).ravel())
        key[called] = np.arange(len(called))
        builder.add_rows(
            "share",
            [called // num_n, called % num_n],
            [
                (key[rq * num_n + self.expert[rc]], self.r.range, 1.0),
                (key[uq * num_n + ui], self.u.range, 1.0),
                (key[dq * num_n + di], self.d.range, 1.0),
            ],
            lower=1.0,
            upper=1.0,
        )
        self.fuse_rows()
        if self.z is None:
            return
        if "pruned" in self.tighten:
            self.pruned_rows(self.z)
        z = self.z
        if "disaggregated" in self.tighten:
            rows = np.arange(self.r.size)
            builder.add_rows(
                "open",
                [rq, rc],
                [(rows, self.r.range, 1.0), (rows, z.range[rc], -1.0)],
                upper=0.0,
            )
        else:
            demands = np.bincount(rc, minlength=len(self.candidates))
            builder.add_rows(
                "open",
                [np.arange(len(self.candidates))],
                [
                    (rc, self.r.range, 1.0),
                    (np.arange(len(self.candidates)), z.range, -demands),
                ],
                upper=0.0,
            )
        rows = np.arange(self.u.size)
        builder.add_rows(
            "open_similar",
            [uq, ui, uc],
            [(rows, self.u.range, 1.0), (rows, z.range[uc], -1.0)],
            upper=0.0,
        )

    def fuse_rows(self) -> None:
        """``f <= width sum_b r``: the fused share is part of the served one."""
        problem = self.problem
        rq, rc = self.r.keys
        q, of, s, m = self.f.keys
        if not self.f.size:
            return
        unit, size = self.fuse_unit()
        num_s = problem.num_servers
        key_r = (rq * size + unit[rc]) * num_s + self.server[rc]
        order = np.argsort(key_r, kind="stable")
        rows, found = _joined((q * size + of) * num_s + s, key_r[order])
        found = order[found]
        width = problem.fuse_width[self.app[q], self.f_layer, m][rows]
        if self.by_layer:
            width = width * problem.calls[self.app[q[rows]], self.expert[rc[found]]]
        self.builder.add_rows(
            "fuse",
            [q, of, s, m],
            [
                (np.arange(self.f.size), self.f.range, 1.0),
                (rows, self.r.range[found], -width),
            ],
            upper=0.0,
        )

    # -- rows of capacity ----------------------------------------------------------
    def capacity_rows(self) -> None:
        self.compute_rows()
        self.link_rows()
        self.budget_rows()

    def compute_rows(self) -> None:
        problem = self.problem
        rq, rc = self.r.keys
        uq, ui, uc = self.u.keys
        processor = problem.processor_of[self.place]
        self.limit_rows(
            "compute",
            [np.arange(len(problem.processor_server))],
            [
                (
                    processor[rc],
                    self.r.range,
                    self.rate_of[rq, self.expert[rc]] * self.work[rc],
                ),
                (processor[uc], self.u.range, self.rate_of[uq, ui] * self.work[uc]),
            ],
            np.full(len(problem.processor_server), problem.busy),
        )

    def link_rows(self) -> None:
        """Bytes on each directed link, way out and way back on their own routes."""
        problem = self.problem
        num_k = len(problem.link_from)
        if not num_k:
            return
        rq, rc = self.r.keys
        fq, _, fs, _ = self.f.keys
        entries: Entries = []
        crosses = link_crossings(problem)
        phi = problem.fuse_factor
        for q, layer, s, columns, amount in (
            (
                rq,
                self.layer[rc],
                self.server[rc],
                self.r.range,
                self.rate_of[rq, self.expert[rc]],
            ),
            (
                fq,
                self.f_layer,
                fs,
                self.f.range,
                -(1 - phi) * problem.rate[fq] * self.f_calls,
            ),
        ):
            source, sink = problem.source[q, layer], problem.sink[q, layer]
            for one, other, size in (
                (source, s, problem.bytes_out),
                (s, sink, problem.bytes_back),
            ):
                if not size:
                    continue
                for k in range(num_k):
                    hit = np.flatnonzero(crosses[k][one, other])
                    entries.append(
                        (np.full(len(hit), k), columns[hit], amount[hit] * size)
                    )
        self.limit_rows(
            "link",
            [np.arange(num_k)],
            entries,
            problem.link_busy * problem.link_bandwidth,
        )

    def budget_rows(self) -> None:
        problem = self.problem
        caps = problem.budget_caps
        if not caps:
            return
        rq, rc = self.r.keys
        fq, _, fs, _ = self.f.keys
        entries: Entries = []
        num_s = problem.num_servers
        for n, cap in enumerate(caps):
            counted = np.zeros((num_s, num_s), dtype=bool)
            for pair in budget_pairs(problem, cap):
                counted[pair] = True
            for q, layer, s, columns, amount in (
                (
                    rq,
                    self.layer[rc],
                    self.server[rc],
                    self.r.range,
                    self.rate_of[rq, self.expert[rc]],
                ),
                (
                    fq,
                    self.f_layer,
                    fs,
                    self.f.range,
                    -(1 - problem.fuse_factor) * problem.rate[fq] * self.f_calls,
                ),
            ):
                hit = counted[problem.source[q, layer], s]
                if cap.layer is not None:
                    hit = hit & (layer == cap.layer)
                hit_ = np.flatnonzero(hit)
                entries.append((np.full(len(hit_), n), columns[hit_], amount[hit_]))
        self.limit_rows(
            "budget",
            [np.arange(len(caps))],
            entries,
            np.array([cap.max_tokens_per_s for cap in caps]),
        )

    def application_rows(self) -> None:
        problem, app = self.problem, self.app
        weight = problem.application_weight[:, None] * problem.calls[app]
        rq, rc = self.r.keys
        uq, ui, uc = self.u.keys
        dq, di, _ = self.d.keys
        fq, _, fs, _ = self.f.keys
        ri = self.expert[rc]
        fused = problem.application_weight[fq] * self.f_calls
        time = problem.round_trip_s + problem.transfer_s
        saved = (1 - problem.fuse_factor) * problem.transfer_s
        loss_r = problem.format_loss[app[rq], ri, self.format[rc]]
        time_r = time[rq, self.layer[rc], self.server[rc]] + self.work[rc]
        for name, limit, parts in (
            (
                "quality",
                problem.quality_budget,
                (
                    (self.r, rq, weight[rq, ri] * loss_r),
                    (self.u, uq, weight[uq, ui] * self.u_loss),
                    (self.d, dq, weight[dq, di] * self.d_loss),
                    (self.f, fq, fused * self.f_loss),
                ),
            ),
            (
                "latency",
                problem.latency_target,
                (
                    (self.r, rq, weight[rq, ri] * time_r),
                    (self.u, uq, weight[uq, ui] * self.work[uc]),
                    (self.f, fq, -fused * saved[fq, self.f_layer, fs]),
                ),
            ),
        ):
            limited = np.flatnonzero(np.isfinite(limit))
            position = np.full(problem.num_applications, -1)
            position[limited] = np.arange(len(limited))
            entries: Entries = []
            for block, q, value in parts:
                row = position[app[q]]
                mine = np.flatnonzero(row >= 0)
                entries.append((row[mine], block.range[mine], value[mine]))
            self.limit_rows(name, [limited], entries, limit[limited])

    # -- terms that are maxima -----------------------------------------------------
    def bottleneck(self) -> None:
        problem = self.problem
        price = problem.weight_of("bottleneck")
        if not price or self.elastic:
            return
        num_l, num_s = problem.num_layers, problem.num_servers
        weight = problem.demand_weight[:, None] * problem.calls[self.app]
        rq, rc = self.r.keys
        uq, ui, uc = self.u.keys
        layer, server = (array.ravel() for array in np.indices((num_l, num_s)))
        entries: Entries = [
            (
                self.layer[rc] * num_s + self.server[rc],
                self.r.range,
                weight[rq, self.expert[rc]] * self.work[rc],
            ),
            (
                problem.layer_of[ui] * num_s + self.server[uc],
                self.u.range,
                weight[uq, ui] * self.work[uc],
            ),
        ]
        self.epigraph(
            "bottleneck", [layer, server], entries, layer, np.full(num_l, price)
        )

    def fluid(self) -> None:
        """Add sampled tokens: the slowest server of each layer, shares as they are.

        For `parallel` it is what guides the search; it proves nothing about it.
        """
        problem, builder = self.problem, self.builder
        price = problem.weight_of("fluid") + problem.weight_of("parallel")
        if not price or self.elastic or not len(problem.sample_demand):
            return
        num_s = problem.num_servers
        chosen = np.sort(problem.sample_experts, axis=2)
        token, _ = (array.ravel() for array in np.indices(chosen.shape[:2]))
        table = np.column_stack(
            [problem.sample_demand[token], chosen.reshape(-1, chosen.shape[2])]
        )
        table = table[(table[:, 1:] >= 0).any(axis=1)]
        groups, count = np.unique(table, axis=0, return_counts=True)
        num_t = len(groups)
        t, slot = np.nonzero(groups[:, 1:] >= 0)
        expert, demand = groups[t, slot + 1], groups[t, 0]
        cost = count * price / len(problem.sample_demand)
        rq, rc = self.r.keys
        num_n = problem.num_experts
        # Which r belong to each (group, expert): r is sorted by (q, expert).
        key_r = rq * num_n + self.expert[rc]
        member, found = _joined(demand * num_n + expert, key_r)
        server = self.server[rc[found]]
        layer_t = problem.layer_of[expert]
        first = np.zeros(num_t, dtype=np.int64)
        first[t] = layer_t
        q_t = groups[:, 0]
        trip = np.where(
            problem.reachable[q_t, first], problem.round_trip_s[q_t, first], 0.0
        )
        transfer = problem.transfer_s[q_t, first]
        tt, ss = (array.ravel() for array in np.indices((num_t, num_s)))
        used = builder.add_columns("used", [tt, ss], upper=1.0)
        sent = builder.add_columns("sent", [tt, ss], upper=1.0)
        cell = np.arange(len(t))[:, None] * num_s + np.arange(num_s)  # (calls, S)
        rows = cell.ravel()
        column = (t[:, None] * num_s + np.arange(num_s)).ravel()
        keys = [
            np.repeat(t, num_s),
            np.repeat(expert, num_s),
            np.tile(np.arange(num_s), len(t)),
        ]
        share: Entries = [
            (member * num_s + server, self.r.range[found], np.ones(len(found)))
        ]
        builder.add_rows(
            "used", keys, [*share, (rows, used.start + column, -1.0)], upper=0.0
        )
        fq, fi, fs, _ = self.f.keys
        key_f = fq * num_n + fi
        order = np.argsort(key_f, kind="stable")
        call, hit = _joined(demand * num_n + expert, key_f[order])
        hit = order[hit]
        fused: Entries = [
            (
                call * num_s + fs[hit],
                self.f.range[hit],
                np.full(len(hit), -(1 - problem.fuse_factor)),
            )
        ]
        builder.add_rows(
            "sent", keys, [*share, *fused, (rows, sent.start + column, -1.0)], upper=0.0
        )
        work: Entries = [
            (t[member] * num_s + server, self.r.range[found], self.work[rc[found]])
        ]
        uq, ui, uc = self.u.keys
        key_u = uq * num_n + ui
        order = np.argsort(key_u, kind="stable")
        call, hit = _joined(demand * num_n + expert, key_u[order])
        hit = order[hit]
        work.append(
            (
                t[call] * num_s + self.server[uc[hit]],
                self.u.range[hit],
                self.work[uc[hit]],
            )
        )
        every = np.arange(num_t * num_s)
        self.epigraph(
            "slowest",
            [tt, ss],
            [
                *work,
                (every, used.range, trip.ravel()),
                (every, sent.range, transfer.ravel()),
            ],
            tt,
            cost,
        )


def link_crossings(problem: Problem) -> list[NDArray[np.bool_]]:
    """Say for each link which routes cross it; (K, S, S)."""
    num = problem.num_servers
    crossings = [np.zeros((num, num), dtype=np.bool_) for _ in problem.link_from]
    for s, row in enumerate(problem.route_links):
        for t, links in enumerate(row):
            for k in links:
                crossings[k][s, t] = True
    return crossings


class _Roam(_Base):
    """The dataflow in which the token stays where its primary expert is.

    Products of the locations of two paired experts are columns ``p`` whose sums over
    one end are the location of the other (Frieze and Yadegar 1983; Adams and Johnson
    1994): exact at integral copies, and much stronger than ``p >= x + x' - 1``.
    """

    def formulate(self) -> Formulation:
        self.copy_columns()
        if self.fixed:
            raise UnsupportedFeatureError("roam has no shares to optimise")
        self.pair_columns()
        self.pair_rows()
        self.trust_rows()
        self.copy_rows(one=True)
        self.compute_and_quality_rows()
        self.move_rows()
        self.latency_rows()
        self.bottleneck()
        return Formulation(
            problem=self.problem,
            model=self.builder.build(objective_scale=1.0 if self.elastic else None),
            candidates=self.candidates,
            z=self.z,
        )

    def move_price(self) -> NDArray[np.float64]:
        """Cost of one traversal between servers, by the weights; (S, S)."""
        problem = self.problem
        hops = np.array(
            [[len(links) for links in row] for row in problem.route_links], dtype=float
        )
        price: NDArray[np.float64] = (
            (problem.weight_of("serial") + problem.weight_of("pair")) * problem.distance
            + problem.weight_of("traffic") * problem.bytes_out * hops
            + problem.weight_of("energy")
            * problem.bytes_out
            * problem.route_joule_per_byte
        )
        return price

    def trust_rows(self) -> None:
        """Keep experts that an application calls off servers it does not trust."""
        problem, z = self.problem, self.z
        assert z is not None
        apps = np.unique(self.app)  # an application may have no demand
        called = problem.calls[apps] > 0
        seen = called[:, self.expert] & ~problem.trusted[apps][:, self.server]
        bad = seen.any(axis=0)
        bad_ = np.flatnonzero(bad)
        if len(bad_):
            self.builder.add_rows(
                "trust", [bad_], [(np.arange(len(bad_)), z.range[bad_], 1.0)], upper=0.0
            )

    def pair_columns(self) -> None:
        problem, builder, z = self.problem, self.builder, self.z
        assert z is not None
        num_s = problem.num_servers
        share = problem.application_rate / problem.total_rate  # (G,)
        price = self.move_price()
        # Both directions of a pair share their products.
        low = problem.pairs.min(axis=1)
        high = problem.pairs.max(axis=1)
        key = low * problem.num_experts + high
        used = (problem.pair_weight > 0).any(axis=0) & (low != high)
        self.links_of, inverse = np.unique(key[used], return_inverse=True)
        self.pair_index = np.full(len(key), -1)
        self.pair_index[used] = inverse
        self.pair_ends = np.stack(
            [self.links_of // problem.num_experts, self.links_of % problem.num_experts],
            axis=1,
        )
        num_p = len(self.links_of)
        n, s, t = (a.ravel() for a in np.indices((num_p, num_s, num_s)))
        cost = np.zeros((num_p, num_s, num_s))
        weight = share @ problem.pair_weight if len(problem.pairs) else np.zeros(0)
        for r in np.flatnonzero(used):
            forward = problem.pairs[r, 0] == low[r]
            cost[self.pair_index[r]] += weight[r] * (price if forward else price.T)
        self.p = builder.add_columns(
            "p", [n, s, t], upper=1.0, cost=cost.ravel() * self.scale
        )
        # Linear parts on z: entry, exit, pairs of an expert with itself, work, loss.
        linear = np.zeros(len(self.candidates))
        for q in range(problem.num_demands):
            home, g = problem.home_of[q], self.app[q]
            linear += problem.demand_weight[q] * (
                problem.entry[g, self.expert] * price[home, self.server]
                + problem.exit[g, self.expert] * price[self.server, home]
            )
        for r in np.flatnonzero(low == high):
            mine = self.expert == low[r]
            linear[mine] += weight[r] * price[self.server[mine], self.server[mine]]
        calls = share @ problem.calls  # calls per token, all applications
        seconds = (
            problem.weight_of("serial") + problem.weight_of("energy") * problem.power_w
        )
        linear += calls[self.expert] * self.work * seconds[self.place]
        nats = np.einsum("g,gn,gnb->nb", share, problem.calls, problem.format_loss)
        linear += problem.weight_of("quality") * nats[self.expert, self.format]
        builder.set_cost(z, linear * self.scale)

    def pair_rows(self) -> None:
        problem, z = self.problem, self.z
        assert z is not None
        num_s, num_p = problem.num_servers, len(self.links_of)
        n, s, t = self.p.keys
        if "products" not in self.tighten:
            product = np.arange(self.p.size)
            entries: Entries = [(product, self.p.range, np.ones(self.p.size))]
            for end, kept in ((0, s), (1, t)):
                key = self.pair_ends[n, end] * num_s + kept
                held = self.expert * num_s + self.server
                order = np.argsort(held, kind="stable")
                rows, found = _joined(key, held[order])
                entries.append((rows, z.range[order[found]], -np.ones(len(rows))))
            self.builder.add_rows("product", [n, s, t], entries, lower=-1.0)
            return
        for name, end, kept in (("from", 0, s), ("to", 1, t)):
            rows, found = _joined(self.pair_ends[:, end], self.expert)
            self.builder.add_rows(
                f"pair_{name}",
                [np.repeat(np.arange(num_p), num_s), np.tile(np.arange(num_s), num_p)],
                [
                    (n * num_s + kept, self.p.range, 1.0),
                    (rows * num_s + self.server[found], z.range[found], -1.0),
                ],
                lower=0.0,
                upper=0.0,
            )

    def move_entries(
        self,
        weight: NDArray[np.float64],
        cost: NDArray[np.float64],
        layer: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Columns and values of traversals per second or token priced by ``cost``."""
        problem = self.problem
        num_s = problem.num_servers
        table = np.zeros((len(self.links_of), num_s, num_s))
        for r in np.flatnonzero(self.pair_index >= 0):
            if layer is not None and problem.layer_of[problem.pairs[r, 1]] != layer:
                continue
            forward = problem.pairs[r, 0] == self.pair_ends[self.pair_index[r], 0]
            table[self.pair_index[r]] += weight[r] * (cost if forward else cost.T)
        flat = table.ravel()
        used = np.flatnonzero(flat)
        return self.p.range[used], flat[used]

    def end_values(
        self,
        weight: NDArray[np.float64],
        cost: NDArray[np.float64],
        *,
        exits: bool = True,
    ) -> NDArray[np.float64]:
        """Values on ``z`` of entries and exits priced by ``cost``; ``weight`` (Q,)."""
        problem = self.problem
        value = np.zeros(len(self.candidates))
        for q in np.flatnonzero(weight):
            home, g = problem.home_of[q], self.app[q]
            value += weight[q] * problem.entry[g, self.expert] * cost[home, self.server]
            if exits:
                value += (
                    weight[q] * problem.exit[g, self.expert] * cost[self.server, home]
                )
        return value

    def self_values(
        self,
        weight: NDArray[np.float64],
        cost: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Values on ``z`` of pairs of an expert with itself."""
        problem = self.problem
        value = np.zeros(len(self.candidates))
        for r in np.flatnonzero(problem.pairs[:, 0] == problem.pairs[:, 1]):
            mine = self.expert == problem.pairs[r, 0]
            value[mine] += weight[r] * cost[self.server[mine], self.server[mine]]
        return value

    def row_of(
        self,
        columns: NDArray[np.int64],
        values: NDArray[np.float64],
        on_z: NDArray[np.float64],
        row: int,
    ) -> Entries:
        assert self.z is not None
        used = np.flatnonzero(on_z)
        return [
            (np.full(len(columns), row), columns, values),
            (np.full(len(used), row), self.z.range[used], on_z[used]),
        ]

    def compute_and_quality_rows(self) -> None:
        problem, z = self.problem, self.z
        assert z is not None
        calls = problem.application_rate @ problem.calls  # (N,) calls per second
        self.limit_rows(
            "compute",
            [np.arange(len(problem.processor_server))],
            [
                (
                    problem.processor_of[self.place],
                    z.range,
                    calls[self.expert] * self.work,
                )
            ],
            np.full(len(problem.processor_server), problem.busy),
        )
        limited = np.flatnonzero(np.isfinite(problem.quality_budget))
        entries: Entries = []
        for n, g in enumerate(limited):
            rate = 1.0 if problem.application_rate[g] > 0 else 0.0
            loss = (
                problem.calls[g, self.expert]
                * problem.format_loss[g, self.expert, self.format]
            )
            entries += self.row_of(np.zeros(0, np.int64), np.zeros(0), rate * loss, n)
        self.limit_rows("quality", [limited], entries, problem.quality_budget[limited])

    def move_rows(self) -> None:
        problem = self.problem
        rate = problem.application_rate
        weight = rate @ problem.pair_weight if len(problem.pairs) else np.zeros(0)
        entries: Entries = []
        for k, crossing in enumerate(link_crossings(problem)):
            cost = crossing.astype(np.float64) * problem.bytes_out
            columns, values = self.move_entries(weight, cost)
            on_z = self.end_values(problem.rate, cost) + self.self_values(weight, cost)
            entries += self.row_of(columns, values, on_z, k)
        self.limit_rows(
            "link",
            [np.arange(len(problem.link_from))],
            entries,
            problem.link_busy * problem.link_bandwidth,
        )
        entries = []
        num_s = problem.num_servers
        for n, cap in enumerate(problem.budget_caps):
            cost = np.zeros((num_s, num_s))
            for s, t in budget_pairs(problem, cap):
                cost[s, t] = 1.0
            columns, values = self.move_entries(weight, cost, cap.layer)
            on_z = self.end_values(problem.rate, cost, exits=False)
            if cap.layer is not None:
                on_z = np.where(self.layer == cap.layer, on_z, 0.0)
            entries += self.row_of(columns, values, on_z, n)
        self.limit_rows(
            "budget",
            [np.arange(len(problem.budget_caps))],
            entries,
            np.array([cap.max_tokens_per_s for cap in problem.budget_caps]),
        )

    def latency_rows(self) -> None:
        problem = self.problem
        limited = np.flatnonzero(np.isfinite(problem.latency_target))
        entries: Entries = []
        for n, g in enumerate(limited):
            if problem.application_rate[g] == 0:
                continue
            weight = problem.pair_weight[g]
            columns, values = self.move_entries(weight, problem.distance)
            mine = np.where(self.app == g, problem.application_weight, 0.0)
            on_z = self.end_values(mine, problem.distance)
            on_z += self.self_values(weight, problem.distance)
            on_z += problem.calls[g, self.expert] * self.work
            entries += self.row_of(columns, values, on_z, n)
        self.limit_rows("latency", [limited], entries, problem.latency_target[limited])

    def bottleneck(self) -> None:
        problem, z = self.problem, self.z
        price = problem.weight_of("bottleneck")
        if not price or self.elastic:
            return
        assert z is not None
        num_l, num_s = problem.num_layers, problem.num_servers
        calls = problem.application_rate @ problem.calls / problem.total_rate
        layer, server = (array.ravel() for array in np.indices((num_l, num_s)))
        self.epigraph(
            "bottleneck",
            [layer, server],
            [
                (
                    self.layer * num_s + self.server,
                    z.range,
                    calls[self.expert] * self.work,
                )
            ],
            layer,
            np.full(num_l, price),
        )
