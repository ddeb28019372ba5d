"""A part of a problem: some experts are free, all others stay as they are.

The copies and shares of the others are constants that lower the limits of rows. What is
left is a smaller problem of the same kind, so the exact formulation of the whole serves
for the part too. `score` measures parts as it measures plans: loads are sums over
experts, and those of the others are what the whole has less what the part has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.plan import Plan
from meldopt.problem import TERMS, CountRow, UniformGroup
from meldopt.score import Flows, score

from .tables import serial_weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from meldopt.problem import Problem

ADDITIVE = ("memory", "compute", "link", "budget", "quality", "latency")
"""Rows that are sums over experts; ``count`` is too, with its two limits."""


def surrogate(problem: Problem) -> Problem:
    """Return the problem that is searched: sampled terms are `serial` at their scale.

    It is the problem itself where no sampled term has a weight.
    """
    weights = problem.weights.copy()
    weights[TERMS.index("serial")] = serial_weight(problem)
    for term in ("parallel", "fluid"):
        weights[TERMS.index(term)] = 0.0
    layers, slots = problem.sample_experts.shape[1:]
    return problem.replace(
        weights=weights,
        sample_experts=np.zeros((0, layers, slots), dtype=np.int64),
        sample_demand=np.zeros(0, dtype=np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loads:
    """What copies and shares put on the rows, summed over experts.

    Attributes
    ----------
    rows
        Values of `ADDITIVE` rows by name, as `score` lists them.
    count
        Copies in each count row; (R,).
    cells
        Seconds per token by layer and server; (L, S).
    cost
        Of the terms of the objective that are sums.
    peak
        Weight of `bottleneck`, which is not one.
    """

    rows: Mapping[str, NDArray[np.float64]]
    count: NDArray[np.float64]
    cells: NDArray[np.float64]
    cost: float
    peak: float

    @property
    def objective(self) -> float:
        """The objective of all experts that were summed."""
        if not self.peak:
            return self.cost
        return self.cost + self.peak * float(self.cells.max(axis=1).sum())

    def plus(self, other: Loads, factor: float = 1.0) -> Loads:
        """Return the sum with some multiple of another."""
        return Loads(
            rows={
                name: self.rows[name] + factor * other.rows[name] for name in ADDITIVE
            },
            count=self.count + factor * other.count,
            cells=self.cells + factor * other.cells,
            cost=self.cost + factor * other.cost,
            peak=self.peak,
        )


def measure(problem: Problem, plan: Plan) -> Loads:
    """Return the loads of a plan."""
    judged = score(problem, plan)
    expert, place, format_ = plan.copies.T
    inside = [
        np.isin(expert, row.experts)
        & np.isin(place, row.places)
        & np.isin(format_, row.formats)
        for row in problem.count_rows
    ]
    peak = problem.weight_of("bottleneck")
    cost = sum(
        problem.weight_of(term) * value
        for term, value in judged.terms.items()
        if term != "bottleneck" and problem.weight_of(term)
    )
    return Loads(
        rows={
            name: np.array([row.value for row in judged.rows if row.row == name])
            for name in ADDITIVE
        },
        count=np.array([row.sum() for row in inside], dtype=np.float64),
        cells=_cells(problem, plan) if peak else np.zeros((problem.num_layers, 0)),
        cost=float(cost),
        peak=peak,
    )


def _cells(problem: Problem, plan: Plan) -> NDArray[np.float64]:
    flows = Flows(problem, plan)
    table = np.zeros((problem.num_layers, problem.num_servers))
    np.add.at(table, (flows.layer, flows.server), flows.mass * flows.work)
    copy = flows.copies[flows.uc]
    work = flows.calls_of(flows.uq, flows.ui) * flows.ushare
    work = work * problem.work_s(*copy.T)
    at = (problem.layer_of[flows.ui], problem.server_of[copy[:, 1]])
    np.add.at(table, at, work)
    return table / problem.total_rate


def restrict(problem: Problem, experts: NDArray[np.int64]) -> Problem:
    """Return the problem of some experts only, (n,) sorted; limits stay as they are.

    Experts must be closed under similarity. A uniform group that is not there as a
    whole is left out: its format is for the caller to keep.
    """
    local = np.full(problem.num_experts, -1, dtype=np.int64)
    local[experts] = np.arange(len(experts))

    def mine(table: NDArray[np.int64]) -> NDArray[np.int64]:
        part = table[local[table[:, 0]] >= 0].copy() if len(table) else table.copy()
        part[:, 0] = local[part[:, 0]]
        return part

    both = (local[problem.similar] >= 0).all(axis=1)
    pairs = problem.pairs.shape[1:]
    return problem.replace(
        layer_start=np.searchsorted(experts, problem.layer_start).astype(np.int64),
        layer_of=problem.layer_of[experts],
        flop=problem.flop[experts],
        size_bytes=problem.size_bytes[experts],
        calls=problem.calls[:, experts],
        format_loss=problem.format_loss[:, experts],
        similar=local[problem.similar[both]],
        similar_loss=problem.similar_loss[:, both],
        pairs=np.zeros((0, *pairs), dtype=np.int64),
        pair_weight=np.zeros((problem.num_applications, 0)),
        entry=problem.entry[:, experts],
        exit=problem.exit[:, experts],
        count_rows=tuple(
            CountRow(
                name=row.name,
                experts=_inside(local, row.experts),
                places=row.places,
                formats=row.formats,
                lower=row.lower,
                upper=row.upper,
            )
            for row in problem.count_rows
        ),
        uniform_groups=tuple(
            UniformGroup(name=group.name, experts=local[group.experts])
            for group in problem.uniform_groups
            if (local[group.experts] >= 0).all()
        ),
        forbidden=mine(problem.forbidden),
        pinned=mine(problem.pinned),
    )


def _inside(local: NDArray[np.int64], experts: NDArray[np.int64]) -> NDArray[np.int64]:
    found = local[experts]
    return found[found >= 0]


def plan_of(part: Problem, experts: NDArray[np.int64], plan: Plan) -> Plan:
    """Take what a plan says about some experts, as a plan of their problem."""
    local = np.full(int(plan.layer_start[-1]), -1, dtype=np.int64)
    local[experts] = np.arange(len(experts))
    held = local[plan.copies[:, 0]] >= 0
    index = np.where(held, np.cumsum(held) - 1, -1)
    copies = plan.copies[held].copy()
    copies[:, 0] = local[copies[:, 0]]
    tables: dict[str, NDArray[Any]] = {}
    for name, table, share in _tables(plan):
        keep = local[table[:, 1]] >= 0
        rows = table[keep].copy()
        rows[:, 1] = local[rows[:, 1]]
        if name in ("served", "substituted"):
            rows[:, 2] = index[rows[:, 2]]
        tables[name], tables[f"{name}_share"] = rows, share[keep]
    return Plan.of(part, copies, **tables)


def merged(
    problem: Problem, plan: Plan, experts: NDArray[np.int64], part: Plan
) -> Plan:
    """Return a plan with what it says about some experts replaced."""
    free = np.zeros(problem.num_experts, dtype=np.bool_)
    free[experts] = True
    stays = ~free[plan.copies[:, 0]]
    new = part.copies.copy()
    new[:, 0] = experts[new[:, 0]]
    copies = np.concatenate([plan.copies[stays], new])
    order = np.lexsort(copies.T[::-1])
    place = np.empty(len(copies), dtype=np.int64)
    place[order] = np.arange(len(copies))
    num_old = int(stays.sum())
    old_at = np.full(len(plan.copies), -1, dtype=np.int64)
    old_at[stays] = place[:num_old]
    new_at = place[num_old:]
    tables: dict[str, NDArray[Any]] = {}
    for (name, old, old_share), (_, rows, share) in zip(
        _tables(plan), _tables(part), strict=True
    ):
        keep = ~free[old[:, 1]]
        left, right = old[keep].copy(), rows.copy()
        right[:, 1] = experts[right[:, 1]]
        if name in ("served", "substituted"):
            left[:, 2] = old_at[left[:, 2]]
            right[:, 2] = new_at[right[:, 2]]
        tables[name] = np.concatenate([left, right])
        tables[f"{name}_share"] = np.concatenate([old_share[keep], share])
    return Plan.of(problem, copies[order], **tables)


def _tables(
    plan: Plan,
) -> list[tuple[str, NDArray[np.int64], NDArray[np.float64]]]:
    return [
        ("served", plan.served, plan.served_share),
        ("substituted", plan.substituted, plan.substituted_share),
        ("fused", plan.fused, plan.fused_share),
        ("pruned", plan.pruned, plan.pruned_share),
    ]


def limits_of(problem: Problem) -> dict[str, NDArray[np.float64]]:
    """Return the limits of the `ADDITIVE` rows by name."""
    limited = (
        np.isfinite(problem.quality_budget),
        np.isfinite(problem.latency_target),
    )
    return {
        "memory": problem.room_bytes,
        "compute": np.full(len(problem.processor_server), problem.busy),
        "link": problem.link_busy * problem.link_bandwidth,
        "budget": np.array([cap.max_tokens_per_s for cap in problem.budget_caps]),
        "quality": problem.quality_budget[limited[0]],
        "latency": problem.latency_target[limited[1]],
    }


class Part:
    """Some experts of a plan, free to change while all others stay.

    Parameters
    ----------
    problem
        What is searched, without sampled terms (`surrogate`).
    plan, loads
        The plan that the others keep, and its loads.
    experts
        That are free, (n,) sorted and closed under similarity.
    """

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        loads: Loads,
        experts: NDArray[np.int64],
    ) -> None:
        self.whole, self.plan, self.loads, self.experts = problem, plan, loads, experts
        self.problem = restrict(problem, experts)
        self.current = plan_of(self.problem, experts, plan)
        self.mine = measure(self.problem, self.current)

    @cached_property
    def others(self) -> Loads:
        """Loads of the experts that stay."""
        return self.loads.plus(self.mine, -1.0)

    def used(self) -> dict[str, NDArray[np.float64]]:
        """Return what the others leave used of each row.

        Where a row is exceeded (by what is forgiven) the present part still fits.
        """
        problem, others = self.whole, self.others
        limits = limits_of(problem)
        used = {
            name: np.minimum(others.rows[name], limits[name] - self.mine.rows[name])
            for name in ADDITIVE
        }
        used["count"] = others.count
        if others.peak:
            used["bottleneck"] = others.cells.ravel()
        return used

    def replaced(self, part: Plan) -> tuple[Plan, Loads]:
        """Put another plan of the part in."""
        loads = self.others.plus(measure(self.problem, part))
        return merged(self.whole, self.plan, self.experts, part), loads
