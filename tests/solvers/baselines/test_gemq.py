"""`gemq`: one knapsack over all layers, and what it requires of each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bits_cases import formats_of, free_budget, problem_with_rooms

from meldopt import build_problem, read_instance
from meldopt.score import score
from meldopt.solver import solve
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.gemq import GemqParams, GemqSolver
from meldopt_solvers.baselines.view import View
from meldopt_solvers.baselines.widths import fitted, loss_per_token, packs


class TestGemqContract(SolverContract):
    """`gemq` keeps the contract of solvers, with requirements or not."""

    @pytest.fixture(params=[False, True], ids=["free", "required"])
    def solver(self, request):
        return GemqSolver(GemqParams(required=request.param))


@pytest.mark.parametrize("required", [False, True])
def test_is_the_least_loss_within_memory(required):
    """No other formats within all rooms together lose less (enumerated)."""
    problem = problem_with_rooms(16.0, 16.0, 24.0)
    result = solve(problem, GemqSolver(GemqParams(required=required)), work=10.0)
    loss, rows = loss_per_token(problem), np.arange(4)
    best = np.inf
    for pick in itertools.product(range(2), repeat=4):
        if problem.size_bytes[rows, pick].sum() > 56.0:
            continue
        if required and not {0, 1} <= set(pick[:2]) & set(pick[2:]):
            continue
        best = min(best, loss[rows, pick].sum())
    chosen = formats_of(problem, result)
    assert loss[rows, chosen].sum() == pytest.approx(best)
    assert result.feasible


def test_loss_is_the_term_quality():
    """What it minimises is the quality term of a plan without pruning."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    result = solve(problem, GemqSolver(), work=10.0)
    chosen = formats_of(problem, result)
    loss = loss_per_token(problem)[np.arange(problem.num_experts), chosen].sum()
    assert score(problem, result.plan).terms["quality"] == pytest.approx(loss)


def test_budgets_for_what_can_be_filled():
    """Rooms of 24 hold one expert of 16 bytes each: three are wide, though 64 < 72."""
    problem = problem_with_rooms(24.0, 24.0, 24.0)
    result = solve(problem, GemqSolver(), work=10.0)
    assert result.feasible
    assert sorted(formats_of(problem, result).tolist()) == [0, 0, 0, 1]


def test_fitted_asks_for_all_memory_first():
    """Budgets go from all rooms to what surely fits, then halve between."""
    problem = problem_with_rooms(24.0, 24.0, 24.0)
    view, asked = View(problem, -1), []

    def bits(memory):
        asked.append(memory)
        return np.full(4, 0 if memory >= 64.0 else 1)

    chosen = fitted(problem, view, free_budget(problem), bits)
    assert packs(problem, view, chosen)
    # 3 x (24 - 16) = 24 surely fits; then 48, 60, 66 (too much), 63, 64.5 (too much).
    assert asked == [72.0, 24.0, 48.0, 60.0, 66.0, 63.0, 64.5]
