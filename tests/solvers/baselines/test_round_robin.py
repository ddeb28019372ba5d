"""`round_robin`: the contract, and turns by hand."""

from __future__ import annotations

import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.contiguous import EngineParams
from meldopt_solvers.baselines.round_robin import RoundRobinSolver


class TestRoundRobinContract(SolverContract):
    """`round_robin` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return RoundRobinSolver(EngineParams(repair=True))


def places(problem, **params):
    """Return status and place of each expert."""
    solver = RoundRobinSolver(EngineParams(**params))
    result = solver.solve(problem, stop=MaxIterations(99), seed=0)
    return result.status, result.plan.copies[:, 1].tolist()


def test_every_layer_is_dealt_from_the_first_server():
    """Expert e of a layer lies on server e mod 3."""
    problem = slotted_problem([[0.2] * 5, [0.2] * 5], [9, 9, 9])
    assert places(problem)[1] == [0, 1, 2, 0, 1] * 2


def test_by_memory_a_full_server_is_passed_over():
    """One slot on the first of three servers: after its turn the others go on."""
    problem = slotted_problem([[1 / 6] * 6], [1, 9, 9])
    assert places(problem, by_memory=True) == (Status.FEASIBLE, [0, 1, 2, 1, 2, 1])
