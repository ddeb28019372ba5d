"""`greedy`: the contract, feasibility, and what its upgrades gain."""

from __future__ import annotations

import numpy as np
import pytest
from random_problems import random_case
from searched import assert_home_state_is_scored, feasible_share

from meldopt.solver import MaxIterations, StopReason, solve
from meldopt.testing import SolverContract, same_plan
from meldopt_solvers.search.greedy import (
    GreedyParams,
    GreedySolver,
    cover,
    settle_prices,
    upgrade_all,
)
from meldopt_solvers.search.state import HomeState


class TestGreedyContract(SolverContract):
    """`greedy` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return GreedySolver()


@pytest.mark.parametrize("dataflow", ["home", "roam"])
def test_finds_feasible_plans(dataflow):
    """On 95 % and more of the feasible random problems it finds a plan."""
    share, _ = feasible_share(GreedySolver(), dataflow, MaxIterations(200))
    assert share >= 0.95


def test_upgrades_fit_and_gain():
    """Upgrades never overfill a place and lower what the state is charged."""
    gained = 0
    for seed in range(30):
        case = random_case(seed, dataflow="home", similar=False, infeasible=False)
        state = HomeState(case.problem, compile_=False)
        rng = np.random.default_rng(seed)
        cover(state, rng)
        covered = state.excess()[1] <= 1e-9
        settle_prices(state, rng, 3)
        # Prices of memory follow from the upgrades; they are no part of the gain.
        state.s.memory_scale[:] = 0.0
        before, copies = state.potential(), state.copies()
        upgrade_all(state, rng)
        state.s.memory_scale[:] = 0.0
        assert_home_state_is_scored(state)
        assert state.potential() <= before * (1 + 1e-9)
        gained += not np.array_equal(state.copies(), copies)
        if covered:
            assert state.excess()[1] <= 1e-9
    assert gained >= 10


def test_one_copy_only_on_request():
    """Without extra copies every expert has one where nothing asks for more."""
    case = random_case(
        3,
        dataflow="home",
        coverage=False,
        count=False,
        pin=False,
        trust=False,
        memory=False,
        infeasible=False,
    )
    solver = GreedySolver(GreedyParams(copies=False, mend=0))
    result = solver.solve(case.problem, stop=MaxIterations(100), seed=0)
    assert result.plan is not None
    assert result.plan.num_copies == case.problem.num_experts


def test_ends_by_itself():
    """It is constructive: it ends without being stopped, and the seed decides it."""
    problem = random_case(2, dataflow="home", infeasible=False).problem
    one, other = (
        solve(problem, "greedy", work=1e6, seed=1, time_limit=60) for _ in range(2)
    )
    assert one.stop_reason in (StopReason.FINISHED, StopReason.PROVED)
    assert same_plan(one.plan, other.plan)
