"""`topology`: the contract; the flow against brute force and an LP; hops by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from baseline_cases import slotted_problem
from scipy.optimize import linprog

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.topology import (
    TopologyParams,
    TopologySolver,
    mean_distance,
    place_by_flow,
)
from meldopt_solvers.baselines.view import View

STOP = MaxIterations(99)


class TestTopologyContract(SolverContract):
    """`topology` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return TopologySolver(TopologyParams(repair=True))


def within(server, layer_of, slots, cap):
    """Say whether a placement keeps the caps of the paper."""
    held = np.bincount(server, minlength=len(slots))
    cells = np.bincount(layer_of * len(slots) + server)
    return (held <= slots).all() and (not cap or cells.max() <= cap)


@pytest.mark.parametrize("cap", [0, 1, 2])
def test_flow_is_the_best_of_all_placements(cap):
    """Six experts in two layers on three servers, every placement tried."""
    rng = np.random.default_rng(cap)
    layer_of = np.repeat([0, 1], 3)
    for _ in range(10):
        cost = rng.random((6, 3))
        slots = rng.integers(1, 5, 3)
        values = [
            cost[np.arange(6), list(chosen)].sum()
            for chosen in itertools.product(range(3), repeat=6)
            if within(np.array(chosen), layer_of, slots, cap)
        ]
        found = place_by_flow(cost, layer_of, slots, cap)
        if not values:
            assert found is None
            continue
        assert within(found, layer_of, slots, cap)
        assert cost[np.arange(6), found].sum() == pytest.approx(min(values), rel=1e-9)


def test_flow_is_the_linear_programme():
    """60 experts, 5 servers: the LP of the published rows has the same optimum."""
    rng = np.random.default_rng(1)
    num, num_s, cap = 60, 5, 5
    layer_of = np.repeat(np.arange(4), 15)
    cost, slots = rng.random((num, num_s)), np.array([8, 20, 14, 12, 9])
    one = np.kron(np.eye(num), np.ones(num_s))
    per_server = np.kron(np.ones(num), np.eye(num_s))
    per_layer = np.concatenate(
        [np.kron(layer_of == layer, np.eye(num_s)) for layer in range(4)]
    )
    best = linprog(
        cost.ravel(),
        A_eq=one,
        b_eq=np.ones(num),
        A_ub=np.concatenate([per_server, per_layer]),
        b_ub=np.concatenate([slots, np.full(len(per_layer), cap)]),
    )
    found = place_by_flow(cost, layer_of, slots, cap)
    assert within(found, layer_of, slots, cap)
    assert cost[np.arange(num), found].sum() == pytest.approx(best.fun, rel=1e-9)


def test_what_must_not_be_is_not():
    """The cheap server is out of reach."""
    cost = np.array([[np.inf, 1.0], [0.0, 5.0]])
    assert place_by_flow(cost, np.zeros(2, dtype=int), np.array([2, 2])).tolist() == [
        1,
        0,
    ]


def test_hops_are_counted_there_and_back():
    """In a chain s0 - s1 - s2 with 2 tokens/s at s0 and 1 at s2, by hand.

    Expert 0 is called 0.75 times a token: 1.5/s from s0 and 0.75/s from s2.
    To s0: 0.75 x 4; to s1: (1.5 + 0.75) x 2; to s2: 1.5 x 4. Unweighted: the mean over
    tokens, 4/3, 2 and 8/3.
    """
    problem = slotted_problem([[0.75, 0.25]], [2, 2, 2], rates=((0, 2.0), (2, 1.0)))
    view = View(problem, 0)
    weighted = mean_distance(problem, view, weighted=True, distance="hops")
    assert weighted == pytest.approx(np.array([[3.0, 4.5, 6.0], [1.0, 1.5, 2.0]]))
    plain = mean_distance(problem, view, weighted=False, distance="hops")
    assert plain == pytest.approx(np.tile([4 / 3, 2, 8 / 3], (2, 1)))
    seconds = mean_distance(problem, view, weighted=True, distance="latency")
    assert seconds == pytest.approx(1e-3 * weighted)


def test_calls_decide_who_is_near():
    """One slot at home: the busy expert gets it; when all are alike, any."""
    problem = slotted_problem([[0.1, 0.2, 0.7]], [1, 1, 1])
    result = TopologySolver().solve(problem, stop=STOP, seed=0)
    assert result.status is Status.FEASIBLE
    assert result.plan.copies[:, 1].tolist() == [2, 1, 0]
    plain = TopologySolver(TopologyParams(weighted=False))
    result = plain.solve(problem, stop=STOP, seed=0)
    assert sorted(result.plan.copies[:, 1].tolist()) == [0, 1, 2]


def test_hops_are_not_seconds():
    """s2 is one slow hop away, s1 two quick ones: the measure decides."""
    links = [(0, 2, 0.5), (0, 3, 1e-3), (3, 1, 1e-3)]
    problem = slotted_problem([[1.0]], [0, 1, 1, 0], links=links)
    near = [
        TopologySolver(TopologyParams(distance=one)).solve(problem, stop=STOP, seed=0)
        for one in ("hops", "latency")
    ]
    assert [result.plan.copies[0, 1] for result in near] == [2, 1]


def test_layers_are_capped():
    """All fit at home, but a server may hold two of each layer."""
    problem = slotted_problem([[0.4, 0.3, 0.2, 0.1]] * 2, [9, 9])
    result = TopologySolver(TopologyParams(layer_cap=2)).solve(
        problem, stop=STOP, seed=0
    )
    assert result.plan.copies[:, 1].tolist() == [0, 0, 1, 1] * 2


def test_too_few_slots_break_memory_honestly():
    """Five experts in three slots: servers take them in proportion."""
    problem = slotted_problem([[0.2] * 5], [2, 1])
    result = TopologySolver().solve(problem, stop=STOP, seed=0)
    assert result.status is Status.VIOLATING
    assert np.bincount(result.plan.copies[:, 1]).tolist() == [3, 2]
