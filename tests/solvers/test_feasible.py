"""First plans where prices find none."""

from __future__ import annotations

import numpy as np
import pytest
from random_problems import random_case

from meldopt.builder import build_problem
from meldopt.score import score
from meldopt.solver import MaxIterations
from meldopt.testing import contract_instance
from meldopt_solvers.search import feasible
from meldopt_solvers.search.feasible import find_plan
from meldopt_solvers.search.incumbent import Incumbent

HARD = (
    *(28, 70, 74, 94, 120, 124, 139, 180, 233, 236, 269, 298),
    *(312, 317, 329, 337, 361, 387, 390, 432, 439, 494, 532, 548),
)
"""Seeds of problems where prices alone found no plan and `milp` has one.

All that a loop over ``range(600)`` found among
``random_case(seed, dataflow="home", infeasible=False)``, with 400 iterations of `dual`.
"""


def nothing(problem, iterations=100):
    """Return an incumbent without a plan."""
    stop = MaxIterations(iterations)
    return Incumbent(problem, stop=stop, started=0.0, on_progress=None)


@pytest.mark.parametrize("seed", HARD)
def test_plans_that_prices_do_not_find(seed):
    """A problem of a few experts, each large beside the limits, gets its plan."""
    problem = random_case(seed, dataflow="home", infeasible=False).problem
    best = nothing(problem)
    assert find_plan(problem, best, np.random.default_rng(0))
    assert score(problem, best.plan).feasible


def test_local_search_where_the_model_is_too_large(monkeypatch):
    """Above the size for the whole model local search finds a plan, and then ends."""
    monkeypatch.setattr(feasible, "MOST_SHARES", 0)
    problem = build_problem(contract_instance("loose"))
    best = nothing(problem)
    assert find_plan(problem, best, np.random.default_rng(0))
    assert score(problem, best.plan).feasible
    assert not best.spent()


def test_it_gives_up():
    """Where there is no plan it says so and ends, with and without the whole model."""
    problem = build_problem(contract_instance("infeasible"))
    assert not find_plan(problem, nothing(problem), np.random.default_rng(0))


def test_local_search_gives_up(monkeypatch):
    """Local search ends after its steps, though the criterion would let it go on."""
    monkeypatch.setattr(feasible, "MOST_SHARES", 0)
    monkeypatch.setattr(feasible, "STEPS", 30)
    problem = build_problem(contract_instance("infeasible"))
    best = nothing(problem, iterations=10_000)
    assert not find_plan(problem, best, np.random.default_rng(0))
    assert best.iteration < 1_000
