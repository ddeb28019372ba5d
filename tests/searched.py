"""What the tests of the heuristics share: problems with known optima, state checks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from oracle import optimum
from random_problems import random_case

from meldopt.score import score

if TYPE_CHECKING:
    from meldopt.problem import Problem
    from meldopt.solver import Solver, StopCriterion
    from meldopt_solvers.search.roam import RoamSearch
    from meldopt_solvers.search.state import HomeState

SEEDS = range(40)


@functools.cache
def solved_problems(dataflow: str) -> tuple[tuple[Problem, float], ...]:
    """Random problems that the oracle proves feasible, with their optima."""
    found = []
    for seed in SEEDS:
        problem = random_case(seed, dataflow=dataflow, infeasible=False).problem
        truth = optimum(problem)
        if truth.feasible:
            found.append((problem, truth.objective))
    return tuple(found)


def feasible_share(
    solver: Solver, dataflow: str, stop: StopCriterion
) -> tuple[float, list[float]]:
    """Return how often a solver finds a plan, and its gaps to the optimum."""
    gaps = []
    problems = solved_problems(dataflow)
    for problem, best in problems:
        result = solver.solve(problem, stop=stop, seed=0)
        if result.feasible:
            assert result.objective >= best - 1e-6 * abs(best) - 1e-12
            gaps.append((result.objective - best) / max(abs(best), 1e-9))
    return len(gaps) / len(problems), gaps


def assert_home_state_is_scored(state: HomeState) -> None:
    """Objective and rows of a state are those that `score` gives its plan."""
    problem, t, s = state.problem, state.tables, state.s
    judged = score(problem, state.plan())
    sampled = problem.weight_of("parallel") + problem.weight_of("fluid")
    lost = float(s.load[t.at[7]])
    if not sampled and lost == 0.0:
        assert state.objective() == pytest.approx(judged.objective, rel=1e-9, abs=1e-12)
    rows = {name: [] for name in ("memory", "compute", "link", "budget")}
    for row in judged.rows:
        if row.row in rows:
            rows[row.row].append(row.value)
    # Rounding is measured by the limits: sums of many changes leave a little behind.
    for name, value, norm in (
        ("memory", s.used, t.memory_norm),
        *(
            (name, s.load[t.at[k] : t.at[k + 1]], s.norm[t.at[k] : t.at[k + 1]])
            for k, name in ((1, "compute"), (2, "link"), (3, "budget"))
        ),
    ):
        assert np.allclose(rows[name] / norm, value / norm, rtol=1e-9, atol=1e-9), name
    rate = np.where(problem.application_rate > 0, problem.application_rate, 1.0)
    quality = [row.value for row in judged.rows if row.row == "quality"]
    limited = np.isfinite(problem.quality_budget)
    ours = (s.load[t.at[4] : t.at[5]] / rate)[limited]
    assert np.allclose(quality, ours, rtol=1e-9, atol=1e-12)
    latency = [row.value for row in judged.rows if row.row == "latency"]
    limited = np.isfinite(problem.latency_target)
    ours = (s.load[t.at[5] : t.at[6]] / rate)[limited]
    assert np.allclose(latency, ours, rtol=1e-9, atol=1e-12)
    for row, number in zip(problem.count_rows, s.tally, strict=True):
        values = {
            one.value
            for one in judged.rows
            if one.row == "count" and one.where == row.name
        }
        assert values == {float(number)}


def assert_roam_state_is_scored(search: RoamSearch) -> None:
    """Objective and rows of a state are those that `score` gives its plan."""
    problem, t, s = search.problem, search.tables, search.s
    judged = score(problem, search.plan())
    most = 1.0 + t.cost.max() * float(t.pair_weight.sum())
    assert search.objective() == pytest.approx(
        judged.objective, rel=1e-9, abs=1e-12 * most
    )
    rate = np.where(problem.application_rate > 0, problem.application_rate, 1.0)
    loads = [s.load[t.at[k] : t.at[k + 1]] for k in range(5)]
    norms = [t.norm[t.at[k] : t.at[k + 1]] for k in range(5)]
    for k, limit in ((3, problem.quality_budget), (4, problem.latency_target)):
        limited = np.isfinite(limit)
        loads[k], norms[k] = (loads[k] / rate)[limited], norms[k][limited]
    loads.append(s.used)
    norms.append(t.room_norm)
    names = ("compute", "link", "budget", "quality", "latency", "memory")
    for name, value, norm in zip(names, loads, norms, strict=True):
        scored = [row.value for row in judged.rows if row.row == name]
        assert np.allclose(scored / norm, value / norm, rtol=1e-9, atol=1e-9), name
