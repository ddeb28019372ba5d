"""`sequential`: the contract, the knapsack of formats, and what its stages keep."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from random_problems import random_case
from searched import feasible_share

from meldopt.solver import MaxIterations
from meldopt.testing import SolverContract
from meldopt_solvers.search.bits import choose_formats, loss_of_copies
from meldopt_solvers.search.sequential import SequentialSolver, placement_problem


class TestSequentialContract(SolverContract):
    """`sequential` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return SequentialSolver()


@pytest.mark.parametrize("dataflow", ["home", "roam"])
def test_finds_feasible_plans(dataflow):
    """One decision after the other still leads to plans on most random problems."""
    share, _ = feasible_share(SequentialSolver(), dataflow, MaxIterations(300))
    assert share >= 0.8


def test_knapsack_is_exact_where_small():
    """For fixed places the formats lose least among all that fit in memory."""
    checked = 0
    for seed in range(60):
        case = random_case(
            seed, dataflow="home", uniform=False, count=False, pin=False, memory=True
        )
        problem, copies = case.problem, case.witness.copies
        if problem.num_formats < 2 or len(copies) > 8:
            continue
        chosen = choose_formats(problem, copies)
        may = problem.copy_allowed()[copies[:, 0], copies[:, 1]]
        loss = loss_of_copies(problem, copies)
        best = np.inf
        for pick in itertools.product(*(np.flatnonzero(row) for row in may)):
            formats = np.array(pick)
            used = np.bincount(
                copies[:, 1],
                weights=problem.size_bytes[copies[:, 0], formats],
                minlength=problem.num_places,
            )
            if (used <= problem.room_bytes * (1 + 1e-9)).all():
                best = min(best, loss[np.arange(len(copies)), formats].sum())
        if np.isinf(best):
            assert chosen is None
            continue
        assert chosen is not None
        ours = loss[np.arange(len(copies)), chosen[:, 2]].sum()
        assert ours == pytest.approx(best, rel=1e-9, abs=1e-15)
        checked += 1
    assert checked >= 10


def test_knapsack_keeps_counts_and_groups():
    """Count rows and uniform groups that the witness keeps are kept by its formats."""
    kept = 0
    for seed in range(60):
        case = random_case(seed, dataflow="home", uniform=True, infeasible=False)
        problem = case.problem
        chosen = choose_formats(problem, case.witness.copies)
        if chosen is None:
            continue
        for group in problem.uniform_groups:
            mine = np.isin(chosen[:, 0], group.experts)
            assert len(np.unique(chosen[mine, 2])) <= 1
        kept += 1
    assert kept >= 30


def test_placement_knows_one_format():
    """The first stage sees one format, no pruning, no fusion and no quality."""
    problem = random_case(4, dataflow="home", pin=False).problem
    first = placement_problem(problem, 0)
    assert (first.allowed.sum(axis=1) <= 1).all()
    assert not first.prune_width.any()
    assert not first.fuse_width.any()
    assert np.isinf(first.quality_budget).all()
