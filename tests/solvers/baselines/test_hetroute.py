"""`hetroute`: the contract, the simulated router by hand, and each offline step."""

from __future__ import annotations

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.builder import build_problem
from meldopt.instance import read_instance
from meldopt.score import score
from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.hetroute import (
    HetRouteParams,
    HetRouteSolver,
    Replicas,
    Router,
    covering,
    fits,
)
from meldopt_solvers.baselines.view import View

TWO_HOMES = ((0, 1.0), (1, 1.0))
WORK = 0.02 + 1e-5  # 20 FLOP at 1000 FLOP/s, 10 bytes at 1e6 bytes/s
WAY = 2e-3 + 2e-6  # 1 ms there and back, one byte each way at 1e6 bytes/s


class TestHetRouteContract(SolverContract):
    """`hetroute` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return HetRouteSolver(HetRouteParams(repair=True))


def planned(problem, **params):
    """Return the result of a run."""
    solver = HetRouteSolver(HetRouteParams(**params))
    return solver.solve(problem, stop=MaxIterations(99), seed=0)


def test_the_router_takes_the_cheapest_copy():
    """The first home has a copy; the second one pays the way to it."""
    problem = slotted_problem([[1.0]], [1, 1], rates=TWO_HOMES)
    routing = Router(problem, 0.0).route(np.array([[0, 0, 0]]))
    assert routing.cost.ravel() == pytest.approx([WORK, WORK + WAY])
    both = Router(problem, 0.0).route(np.array([[0, 0, 0], [0, 1, 0]]))
    assert both.chosen.ravel().tolist() == [0, 1]
    assert both.cost.ravel() == pytest.approx([WORK, WORK])


def test_waiting_follows_the_load_half_of_the_way():
    """Ten calls a second of 0.02 s: busy 0.2. First 0.1, then 0.15 are believed."""
    problem = slotted_problem([[1.0]], [1], rates=[(0, 10.0)])
    router, copies = Router(problem, 0.0), np.array([[0, 0, 0]])
    busy = 10 * WORK
    router.settle(copies, router.route(copies))
    assert router.slower == pytest.approx([1 / (1 - busy / 2)])
    router.settle(copies, router.route(copies))
    assert router.slower == pytest.approx([1 / (1 - 0.75 * busy)])
    assert router.route(copies).cost.ravel() == pytest.approx(
        [WORK / (1 - 0.75 * busy)]
    )


def test_a_nat_has_a_price_in_the_router():
    """A copy in the lossy format is nearer, but 0.1 nats cost more than the way."""
    problem = slotted_problem(
        [[1.0]],
        [2, 2],
        formats=(("full", 8.0), ("half", 4.0)),
        profile={"loss": [[[0.0, 0.1]]]},
    )
    copies = np.array([[0, 0, 1], [0, 1, 0]])
    assert Router(problem, 0.0).route(copies).chosen.tolist() == [[0]]
    assert Router(problem, 1.0).route(copies).chosen.tolist() == [[1]]


def test_the_replica_that_saves_most_is_added_first():
    """Experts 0 and 1 start on the first server, 2 on the second.

    At four copies for three experts only the one that is called most is doubled; at
    six all that gain are: nobody gains by a second copy of 2 where no slot is left.
    """
    problem = slotted_problem([[0.5, 0.3, 0.2]], [2, 3], rates=TWO_HOMES)
    start = [[0, 0, 0], [1, 0, 0], [2, 1, 0]]
    assert covering(problem, View(problem, -1), 0).tolist() == start
    four = planned(problem, redundancy=4 / 3).plan.copies
    assert four.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [2, 1, 0]]
    six = planned(problem, redundancy=2.0).plan.copies
    assert six.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [2, 1, 0]]


def test_savings_are_those_of_the_router():
    """A copy of expert 0 on the second server saves its home half a way a second."""
    problem = slotted_problem([[0.5, 0.3, 0.2]], [2, 3], rates=TWO_HOMES)
    router = Router(problem, 0.0)
    copies = covering(problem, View(problem, -1), 0)
    replicas = Replicas(router, copies, problem.quality_budget, 2)
    router.slower[:] = 1.0
    replicas.now = router.route(replicas.copies).cost
    table = replicas.savings(0.0)
    assert table[1] == pytest.approx([0.5 * WAY, 0.3 * WAY, 0.0])
    assert table[0].tolist() == [0.0, 0.0, 0.0]  # full
    assert replicas.saving(0, 1, 0.0) == pytest.approx(0.5 * WAY)
    price = 0.4 * WAY / 10.0  # a replica must save what 0.4 calls do
    assert replicas.savings(price)[1] == pytest.approx(
        [0.1 * WAY, -0.1 * WAY, 0.0], abs=1e-12
    )


def test_memory_may_cost_more_than_replicas_save():
    """At a price nobody pays there is one copy of each expert."""
    problem = slotted_problem([[0.5, 0.3, 0.2]], [2, 3], rates=TWO_HOMES)
    assert planned(problem, memory_price=1.0).plan.num_copies == 3


def quality_case():
    """Room for one more full replica or two in a format that loses a nat a call."""
    return slotted_problem(
        [[0.5, 0.3, 0.2]],
        [2, 2],
        rates=TWO_HOMES,
        formats=(("full", 8.0), ("half", 4.0)),
        profile={"loss": [[[0.0, 1.0]] * 3]},
    )


def test_replicas_that_would_break_the_quality_budget_are_refused():
    """Half-size replicas read faster; with a budget of 0 only a full one is added."""
    free = planned(quality_case()).plan.copies
    assert sorted(free[:, 2].tolist()) != [0] * len(free)
    kept = planned(quality_case(), quality_budget=0.0).plan.copies
    assert kept.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [2, 1, 0]]


def test_the_largest_format_that_fits_stands_for_full_precision():
    """Three experts in two slots: half of the bytes it must be."""
    problem = slotted_problem(
        [[0.5, 0.3, 0.2]], [1, 1], formats=(("full", 8.0), ("half", 4.0))
    )
    view = View(problem, -1)
    assert [fits(problem, view, b) for b in (0, 1)] == [False, True]
    result = planned(problem)
    assert result.status is Status.FEASIBLE
    assert result.plan.copies[:, 2].tolist() == [1] * result.plan.num_copies


def test_a_base_format_within_the_quality_budget_is_preferred():
    """The lossy base is faster; it is taken only where its loss is allowed."""

    def case(budget):
        return slotted_problem(
            [[0.5, 0.5]],
            [2],
            formats=(("full", 8.0), ("half", 4.0)),
            profile={"loss": [[[0.0, 1.0]] * 2]},
            extra={
                "workload": {
                    "applications": [{"name": "chat", "quality_budget": budget}],
                    "demands": [{"application": "chat", "home": "s0", "rate": 1.0}],
                }
            },
        )

    assert planned(case(2.0)).plan.copies[:, 2].tolist() == [1, 1]
    assert planned(case(0.5)).plan.copies[:, 2].tolist() == [0, 0]


def test_the_fast_tier_keeps_what_saves_most_time_there():
    """Expert 1 is called most, but lies in the slow tier: it takes the fast slot."""
    problem = slotted_problem([[0.2, 0.5, 0.3]], [[2, 1]], compute=[[100.0, 1000.0]])
    copies = np.array([[0, 1, 0], [1, 0, 0], [2, 0, 0]])
    replicas = Replicas(Router(problem, 0.0), copies, problem.quality_budget, 1)
    replicas.choose_tiers()
    assert replicas.copies[:, 1].tolist() == [0, 1, 0]


def test_the_fast_tier_counts_time_not_calls():
    """Expert 0 is called least, but takes ten times the work: it saves most."""
    problem = slotted_problem([[0.2, 0.5, 0.3]], [[2, 1]], compute=[[100.0, 1000.0]])
    problem = problem.replace(flop=np.array([200.0, 20.0, 20.0]))
    copies = np.array([[0, 0, 0], [1, 1, 0], [2, 0, 0]])
    replicas = Replicas(Router(problem, 0.0), copies, problem.quality_budget, 1)
    replicas.choose_tiers()
    assert replicas.copies[:, 1].tolist() == [1, 0, 0]


def test_similar_experts_answer_within_the_budget():
    """On the instance made for it substitution gains, and no row breaks."""
    problem = build_problem(read_instance("tiny/substitution"))
    with_, without = planned(problem), planned(problem, substitution=False)
    assert len(with_.plan.substituted)
    assert not len(without.plan.substituted)
    assert score(problem, with_.plan).feasible
    assert with_.objective < without.objective


def test_copies_are_limited():
    """Where the instance allows one copy there is no replica."""
    problem = slotted_problem([[0.5, 0.5]], [2, 2], rates=TWO_HOMES, copies=1)
    assert planned(problem).plan.num_copies == 2
