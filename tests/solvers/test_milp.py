"""`milp` as a solver: proofs, warm starts, engines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import optimum
from random_problems import random_instance

from meldopt.builder import build_problem
from meldopt.errors import UnsupportedFeatureError
from meldopt.solver import MaxIterations, Status, make_solver, solve

ENGINES = ("highs", "cbc")


@settings(max_examples=40)
@given(seed=st.integers(0, 100_000), engine=st.sampled_from(ENGINES))
def test_proves_what_the_oracle_finds(seed, engine):
    """Either engine proves the optimum, or that there is no plan at all."""
    problem = build_problem(random_instance(seed))
    if problem.weight_of("parallel") or (
        problem.dataflow == "roam" and problem.max_copies != 1
    ):
        return
    truth = optimum(problem)
    result = solve(problem, "milp", time_limit=60, options={"engine": engine})
    if not truth.feasible:
        assert result.status is Status.INFEASIBLE
        return
    assert result.status is Status.OPTIMAL
    assert result.objective == pytest.approx(truth.objective, rel=1e-6, abs=1e-12)
    assert result.bound <= result.objective


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000))
def test_parallel_is_guided_and_honestly_bounded(seed):
    """With sampled tokens in the objective the plan is feasible, the bound below."""
    instance = random_instance(seed, dataflow="home", terms=("serial", "parallel"))
    problem = build_problem(instance)
    result = solve(problem, "milp", time_limit=30)
    if result.feasible:
        assert result.bound is None or result.bound <= result.objective


def test_start_is_kept_without_time():
    """A start is never lost, whatever the engine has time for."""
    problem = build_problem(
        random_instance(21, dataflow="home", terms=("serial", "quality"))
    )
    first = solve(problem, "milp", time_limit=60)
    assert first.status is Status.OPTIMAL
    again = solve(problem, "milp", time_limit=0, start=first.plan)
    assert again.objective <= first.objective * (1 + 1e-9)


def test_large_models_are_refused():
    """A model beyond max_columns is refused in one line, not built for an hour."""
    problem = build_problem(random_instance(21, dataflow="home"))
    with pytest.raises(UnsupportedFeatureError, match="max_columns"):
        solve(problem, "milp", options={"max_columns": 1})


def test_untranslatable_criteria_are_refused():
    """A criterion that no engine understands is an error, never ignored."""
    problem = build_problem(random_instance(21, dataflow="home"))
    with pytest.raises(UnsupportedFeatureError, match="MaxIterations"):
        make_solver("milp").solve(problem, stop=MaxIterations(3), seed=0)


def test_several_copies_in_roam_prove_nothing():
    """In roam with several copies the plan counts, its bound does not."""
    problem = build_problem(random_instance(3, dataflow="roam")).replace(max_copies=2)
    result = solve(problem, "milp", time_limit=30)
    assert "copies" in result.ignored
    if result.feasible:
        assert result.bound is None or result.bound <= result.objective
