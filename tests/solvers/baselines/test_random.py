"""`random`: the contract, seeds, and room."""

from __future__ import annotations

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.method import BaselineParams
from meldopt_solvers.baselines.random import RandomSolver

STOP = MaxIterations(99)


class TestRandomContract(SolverContract):
    """`random` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return RandomSolver(BaselineParams(repair=True))


def test_seeds_differ_and_places_are_about_equal():
    """300 experts on three servers: near 100 each, and another seed draws others."""
    problem = slotted_problem([[1 / 300] * 300], [300, 300, 300])
    one = RandomSolver().solve(problem, stop=STOP, seed=1).plan.copies[:, 1]
    two = RandomSolver().solve(problem, stop=STOP, seed=2).plan.copies[:, 1]
    assert (one != two).any()
    assert np.abs(np.bincount(one) - 100).max() <= 30  # 3.7 standard deviations


def test_a_server_takes_what_it_can_hold():
    """Slots for all experts and none more: every seed fills them exactly."""
    problem = slotted_problem([[1 / 6] * 6], [1, 3, 2])
    for seed in range(20):
        result = RandomSolver().solve(problem, stop=STOP, seed=seed)
        assert result.status is Status.FEASIBLE
        assert np.bincount(result.plan.copies[:, 1]).tolist() == [1, 3, 2]
