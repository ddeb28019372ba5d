"""`contiguous`: the contract, and runs of experts by hand."""

from __future__ import annotations

import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.contiguous import ContiguousSolver, EngineParams


class TestContiguousContract(SolverContract):
    """`contiguous` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return ContiguousSolver(EngineParams(repair=True))


def places(problem, **params):
    """Return status and place of each expert."""
    solver = ContiguousSolver(EngineParams(**params))
    result = solver.solve(problem, stop=MaxIterations(99), seed=0)
    return result.status, result.plan.copies[:, 1].tolist()


def test_layers_are_cut_into_runs_the_first_ones_longer():
    """Five experts on three servers: 2, 2 and 1, in every layer."""
    problem = slotted_problem([[0.2] * 5, [0.2] * 5], [9, 9, 9])
    assert places(problem)[1] == [0, 0, 1, 1, 2] * 2


def test_memory_is_not_looked_at():
    """A server with one slot gets its three experts, and the plan says so."""
    problem = slotted_problem([[1 / 6] * 6], [1, 9])
    assert places(problem) == (Status.VIOLATING, [0, 0, 0, 1, 1, 1])


def test_by_memory_others_take_what_does_not_fit():
    """Slots for 1, 9 and 9: the small server holds one, the others share five."""
    problem = slotted_problem([[1 / 6] * 6], [1, 9, 9])
    status, placed = places(problem, by_memory=True)
    assert status is Status.FEASIBLE
    assert placed == sorted(placed)
    assert [placed.count(s) for s in range(3)] == [1, 3, 2]
