"""`lplb`: the contract, its programme by hand and against the bound of all work."""

from __future__ import annotations

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, MaxRuntime, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.eplb import EplbParams, EplbSolver
from meldopt_solvers.baselines.lplb import LplbParams, LplbSolver, least_makespan

STOP = MaxIterations(99)


class TestLplbContract(SolverContract):
    """`lplb` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return LplbSolver(LplbParams(repair=True))


def test_work_moves_along_a_chain_of_replicas():
    """Loads 9, 0 and 0 in a chain: expert 0 on servers 0 and 1, expert 1 on 1 and 2.

    Expert 0 has 6 calls and expert 1 has 3; 3 a server is possible: half of expert 0
    stays, half moves on, and pushes expert 1 to the end of the chain.
    """
    share, most = least_makespan(
        np.array([6.0, 6.0, 3.0, 3.0]), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    )
    assert share == pytest.approx([0.5, 0.5, 0.0, 1.0])
    assert most == pytest.approx(3.0)


def test_a_replica_takes_no_more_than_its_expert_has():
    """The other expert of the busy server has no replica: 5 stays, 1 can leave."""
    share, most = least_makespan(
        np.array([5.0, 1.0, 1.0]), np.array([0, 1, 1]), np.array([0, 0, 1])
    )
    assert share == pytest.approx([1.0, 0.0, 1.0])
    assert most == pytest.approx(5.0)


def test_a_slow_replica_gets_less():
    """4 s here or 12 s there: 3/4 stays, 3 s each."""
    share, most = least_makespan(
        np.array([4.0, 12.0]), np.array([0, 0]), np.array([0, 1])
    )
    assert share == pytest.approx([0.75, 0.25])
    assert most == pytest.approx(3.0)


def test_no_shares_are_better_on_random_layers():
    """Against a grid of shares of two shared experts, and never under the mean."""
    rng = np.random.default_rng(3)
    expert, server = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 1, 2, 2, 0])
    grid = np.linspace(0.0, 1.0, 101)
    for _ in range(20):
        work = rng.random(6)
        share, most = least_makespan(work, expert, server)
        assert np.bincount(expert, share) == pytest.approx(np.ones(4))
        x, y = np.meshgrid(grid, grid)
        one = x * work[0] + work[5]
        two = (1 - x) * work[1] + y * work[2]
        three = (1 - y) * work[3] + work[4]
        least = np.maximum(np.maximum(one, two), three).min()
        assert most <= least + 1e-9
        assert most >= least - 0.02  # the width of the grid


def bottleneck(result):
    """Return the seconds per token of the busiest servers."""
    return result.score.terms["bottleneck"]


def test_shares_balance_what_eplb_leaves_uneven():
    """Same copies, and a busiest server that has less to do than by even shares."""
    calls = [[0.5, 0.2, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.6]]
    problem = slotted_problem(calls, [4, 6, 6], rates=((0, 5.0), (2, 2.0)))
    ours = LplbSolver().solve(problem, stop=STOP, seed=0)
    even = EplbSolver(EplbParams(even=True)).solve(problem, stop=STOP, seed=0)
    near = EplbSolver().solve(problem, stop=STOP, seed=0)
    assert ours.plan.copies.tolist() == even.plan.copies.tolist()
    assert ours.status is Status.FEASIBLE
    assert bottleneck(ours) < bottleneck(even) - 1e-4
    assert bottleneck(ours) < bottleneck(near) - 1e-4
    # 2 layers x 0.02001 s of one call, on three servers: no less is possible.
    assert bottleneck(ours) >= 2 * 0.02001 / 3 - 1e-9


def test_out_of_time_the_default_rule_stands():
    """A criterion that stops at once leaves no plan; nothing breaks."""
    problem = slotted_problem([[0.5, 0.5]], [2, 2])
    assert LplbSolver().solve(problem, stop=MaxRuntime(0.0), seed=0).plan is None
