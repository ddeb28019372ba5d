"""Small cases of classic problems against other ways to their optimum; always run."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import pytest
from ortools.graph.python import min_cost_flow
from special.builders import (
    bit_allocation,
    generalised_assignment,
    hop_placement,
    nearest_experts,
    quadratic_assignment,
    task_allocation,
)

from meldopt.solver import Status, solve

if TYPE_CHECKING:
    from meldopt.instance import Instance
    from meldopt.result import Result

EXACT = ["milp", "cpsat"]


def proved(instance: Instance, solver: str) -> Result:
    """Solve an instance and insist on a proof."""
    result = solve(instance, solver, time_limit=60.0, threads=1)
    assert result.status is Status.OPTIMAL
    assert result.plan is not None
    return result


def assignments(num_items: int, num_places: int) -> itertools.product[tuple[int, ...]]:
    return itertools.product(range(num_places), repeat=num_items)


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("seed", range(3))
def test_generalised_assignment(seed: int, solver: str) -> None:
    """A GAP with costs of both signs is solved to what trying 3^6 assignments finds."""
    rng = np.random.default_rng(seed)
    cost = rng.integers(-15, 16, (3, 6)).astype(float)
    weight = rng.integers(5, 16, (3, 6)).astype(float)
    capacity = np.floor(weight.mean(axis=0).sum() / 3 * np.array([1.2, 1.0, 0.9]))
    best = min(
        sum(cost[s, j] for j, s in enumerate(choice))
        for choice in assignments(6, 3)
        if all(
            sum(weight[s, j] for j, s in enumerate(choice) if s == place)
            <= capacity[place]
            for place in range(3)
        )
    )
    result = proved(generalised_assignment("gap", cost, weight, capacity), solver)
    assert result.objective == pytest.approx(best, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("solver", EXACT)
def test_generalised_assignment_without_room(solver: str) -> None:
    """A GAP whose jobs do not fit is proved infeasible, not solved."""
    weight = np.full((2, 3), 4.0)
    instance = generalised_assignment(
        "full", np.ones((2, 3)), weight, np.array([7.0, 4.0])
    )
    result = solve(instance, solver, time_limit=30.0)
    assert result.status is Status.INFEASIBLE


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("budget", [10, 12, 15])
def test_bit_allocation(budget: int, solver: str) -> None:
    """Bits of six experts match what trying all 3^6 choices finds, counts included."""
    rng = np.random.default_rng(budget)
    frequency = rng.integers(1, 50, 6).astype(float)
    gates = rng.integers(1, 50, 6).astype(float)
    # Two experts lose least in the fewest bits: real data does that, too.
    loss = rng.integers(1, 100, (6, 3)).astype(float)
    loss[:4] = -np.sort(-loss[:4], axis=1)
    value = (frequency / frequency.sum()) * (gates / gates.sum()) ** 1.5
    best = min(
        sum(value[i] * loss[i, b] for i, b in enumerate(choice))
        for choice in assignments(6, 3)
        if sum(b + 1 for b in choice) <= budget and {1, 2} <= set(choice)
    )
    instance = bit_allocation("bits", frequency, gates, loss, (1, 2, 3), budget)
    result = proved(instance, solver)
    assert result.objective == pytest.approx(best, rel=1e-6)
    assert result.plan is not None
    used = result.plan.copies[:, 2]
    assert {1, 2} <= set(used.tolist())
    assert (used + 1).sum() <= budget


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("seed", range(2))
def test_task_allocation(seed: int, solver: str) -> None:
    """A CTAP of six tasks is solved to what trying 3^6 allocations finds."""
    rng = np.random.default_rng(seed + 10)
    execution = rng.integers(0, 30, (6, 3)).astype(float)
    talk = np.triu(rng.integers(0, 20, (6, 6)), 1).astype(float)
    memory = rng.integers(1, 6, 6).astype(float)
    capacity = np.ceil(memory.sum() / 3 * np.array([1.3, 1.1, 0.9]))
    best = min(
        sum(execution[i, s] for i, s in enumerate(choice))
        + sum(
            talk[i, j]
            for i, j in itertools.combinations(range(6), 2)
            if choice[i] != choice[j]
        )
        for choice in assignments(6, 3)
        if all(
            sum(memory[i] for i, s in enumerate(choice) if s == place)
            <= capacity[place]
            for place in range(3)
        )
    )
    instance = task_allocation("ctap", execution, talk, memory, capacity)
    assert proved(instance, solver).objective == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("solver", EXACT)
def test_quadratic_assignment(solver: str) -> None:
    """A QAP with unequal flows to and fro is solved to what 120 permutations give."""
    rng = np.random.default_rng(5)
    flow = rng.integers(0, 9, (5, 5)).astype(float)
    distance = rng.integers(1, 9, (5, 5)).astype(float)
    np.fill_diagonal(flow, 0)
    np.fill_diagonal(distance, 0)
    cost = rng.integers(0, 20, (5, 5)).astype(float)
    best = min(
        (flow * distance[np.ix_(p, p)]).sum() + cost[range(5), p].sum()
        for p in map(list, itertools.permutations(range(5)))
    )
    each = np.ones(5)
    instance = quadratic_assignment("qap", flow, distance, cost, each, each)
    assert proved(instance, solver).objective == pytest.approx(best, rel=1e-6)


def _flow() -> min_cost_flow.SimpleMinCostFlow:
    return min_cost_flow.SimpleMinCostFlow()


def _solve_flow(flow: min_cost_flow.SimpleMinCostFlow) -> int:
    assert flow.solve() == flow.OPTIMAL
    return int(flow.optimal_cost())


def prism_by_flow(counts: np.ndarray, slots: np.ndarray) -> int:
    """Fewest remote calls: every expert sends 1 to S units to distinct servers."""
    num_s, num_l, num_e = counts.shape
    num_n = num_l * num_e
    table = counts.reshape(num_s, num_n)
    flow = _flow()
    spare, sink = num_n + num_s, num_n + num_s + 1
    for i in range(num_n):
        flow.set_node_supply(i, num_s)
        for s in range(num_s):
            flow.add_arc_with_capacity_and_unit_cost(i, num_n + s, 1, -int(table[s, i]))
        flow.add_arc_with_capacity_and_unit_cost(i, spare, num_s - 1, 0)
    for s in range(num_s):
        flow.add_arc_with_capacity_and_unit_cost(num_n + s, sink, int(slots[s]), 0)
    flow.add_arc_with_capacity_and_unit_cost(spare, sink, num_n * num_s, 0)
    flow.set_node_supply(sink, -num_n * num_s)
    return int(table.sum()) + _solve_flow(flow)


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("seed", range(3))
def test_nearest_experts(seed: int, solver: str) -> None:
    """Prism's proxy reaches the optimum of a min-cost flow."""
    rng = np.random.default_rng(seed + 20)
    counts = rng.multinomial(1000, rng.dirichlet(np.full(6, 0.5)), (3, 2))
    slots = np.array([3, 5, 7])  # of 12 experts: three may stand twice
    instance = nearest_experts("prism", counts, slots)
    best = prism_by_flow(counts, slots)
    assert proved(instance, solver).objective == pytest.approx(best, rel=1e-6)


def hops_by_flow(
    graph: nx.Graph, hosts: list[int], load: np.ndarray, slots: int, per_layer: int
) -> int:
    """Fewest hops: expert, then (layer, server), then server."""
    hop = dict(nx.all_pairs_shortest_path_length(graph))
    num_l, num_e = load.shape
    num_n, num_s = load.size, len(graph)
    flow = _flow()
    sink = num_n + num_l * num_s + num_s
    for layer in range(num_l):
        for s in range(num_s):
            middle = num_n + layer * num_s + s
            there, back = hop[hosts[layer]][s], hop[s][hosts[layer + 1]]
            for e in range(num_e):
                flow.add_arc_with_capacity_and_unit_cost(
                    layer * num_e + e, middle, 1, int(load[layer, e]) * (there + back)
                )
            flow.add_arc_with_capacity_and_unit_cost(
                middle, num_n + num_l * num_s + s, per_layer, 0
            )
    for s in range(num_s):
        flow.add_arc_with_capacity_and_unit_cost(
            num_n + num_l * num_s + s, sink, slots, 0
        )
    for i in range(num_n):
        flow.set_node_supply(i, 1)
    flow.set_node_supply(sink, -num_n)
    return _solve_flow(flow)


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("seed", range(2))
def test_hop_placement(seed: int, solver: str) -> None:
    """The topology ILP on a ring with a chord matches a min-cost flow."""
    rng = np.random.default_rng(seed + 30)
    graph = nx.cycle_graph(6)
    graph.add_edge(0, 3)
    hosts = rng.integers(0, 6, 4).tolist()
    load = rng.multinomial(500, rng.dirichlet(np.ones(8)), 3)
    instance = hop_placement("hops", graph, hosts, load, slots=5, slots_per_layer=2)
    best = hops_by_flow(graph, hosts, load, 5, 2)
    assert proved(instance, solver).objective == pytest.approx(best, rel=1e-6)


def test_slots_of_a_layer_bind() -> None:
    """Without its ``count`` rows the topology ILP is cheaper: solvers see them."""
    load = np.full((2, 4), 10)
    tight = hop_placement("hops", nx.path_graph(3), [0, 0, 0], load, 8, 2)
    loose = hop_placement("hops", nx.path_graph(3), [0, 0, 0], load, 8, 4)
    assert proved(loose, "milp").objective == 0.0  # all at the host
    # Two experts of each layer must leave, 10 calls a hop away and back.
    assert proved(tight, "milp").objective == pytest.approx(2 * 2 * 10 * 2)
