"""`cpsat` as a solver: proofs for continuous shares, budgets, interruption."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import optimum
from random_problems import random_instance

from meldopt.builder import build_problem
from meldopt.errors import UnsupportedFeatureError
from meldopt.score import score
from meldopt.solver import (
    DeterministicTime,
    MaxIterations,
    MaxRuntime,
    Status,
    StopReason,
    solve,
)
from meldopt.testing import SolverContract, contract_instance
from meldopt_solvers.exact import cpsat as module
from meldopt_solvers.exact.cpsat import CpsatParams, CpsatSolver

SEEDS = st.integers(0, 100_000)
ONE_THREAD = {"threads": 1}


class TestContract(SolverContract):
    """The contract of solvers."""

    @pytest.fixture
    def solver(self):
        return CpsatSolver()


def agrees(problem, result):
    """Assert that a result is what exhaustive search finds, and proved."""
    truth = optimum(problem)
    if not truth.feasible:
        assert result.status is Status.INFEASIBLE
        return
    assert result.status is Status.OPTIMAL
    assert result.objective == pytest.approx(truth.objective, rel=1e-6, abs=1e-12)
    assert result.bound <= truth.objective + 1e-9 * abs(truth.objective) + 1e-12


@settings(max_examples=100)
@given(seed=SEEDS)
def test_proves_what_the_oracle_finds_at_home(seed):
    """Any row and feature on or off: the optimum is found and proved."""
    problem = build_problem(random_instance(seed, dataflow="home"))
    agrees(problem, solve(problem, "cpsat", time_limit=60, options=ONE_THREAD))


@settings(max_examples=60)
@given(seed=SEEDS)
def test_proves_what_the_oracle_finds_in_roam(seed):
    """One copy of each expert, pairs of any kind: the optimum is found and proved."""
    problem = build_problem(random_instance(seed, dataflow="roam"))
    if problem.max_copies == 1:
        agrees(problem, solve(problem, "cpsat", time_limit=60, options=ONE_THREAD))


@settings(max_examples=30)
@given(seed=SEEDS, term=st.sampled_from(["bottleneck", "fluid"]))
def test_maxima_are_proved(seed, term):
    """Maxima alone in the objective, which prices know least about, are proved too."""
    problem = build_problem(random_instance(seed, dataflow="home", terms=(term,)))
    agrees(problem, solve(problem, "cpsat", time_limit=60, options=ONE_THREAD))


@settings(max_examples=40)
@given(seed=SEEDS)
def test_agrees_with_milp_beyond_enumeration(seed):
    """On larger problems neither exact solver bounds away what the other finds."""
    problem = build_problem(
        random_instance(seed, dataflow="home", max_copies=False, placements=1e12)
    )
    ours = solve(problem, "cpsat", time_limit=20, options=ONE_THREAD)
    theirs = solve(problem, "milp", time_limit=20, options=ONE_THREAD)
    if ours.feasible or theirs.feasible:
        assert not {ours.status, theirs.status} & {Status.INFEASIBLE}
    for one, other in ((ours, theirs), (theirs, ours)):
        if one.feasible and other.bound is not None:
            assert other.bound <= one.objective + 2e-6 * abs(one.objective) + 1e-12


@settings(max_examples=30)
@given(seed=SEEDS)
def test_parallel_is_guided_and_honestly_bounded(seed):
    """With sampled tokens in the objective the plan is feasible, the bound below."""
    problem = build_problem(
        random_instance(seed, dataflow="home", terms=("serial", "parallel"))
    )
    result = solve(problem, "cpsat", time_limit=20, options=ONE_THREAD)
    if result.feasible and result.bound is not None:
        assert result.bound <= result.objective
    assert result.status is not Status.VIOLATING


@settings(max_examples=25)
@given(seed=SEEDS, work=st.sampled_from([0.0, 0.001, 0.02, 0.3]))
def test_a_deterministic_budget_is_honest_however_short(seed, work):
    """Two runs contradict neither themselves nor each other, however short they are.

    Which of several equal optima comes first may differ between runs.
    """
    problem = build_problem(random_instance(seed))
    runs = [
        CpsatSolver().solve(problem, stop=DeterministicTime(work), seed=seed)
        for _ in range(2)
    ]
    bounds = [run.bound for run in runs if run.bound is not None]
    for run in runs:
        assert run.status is not Status.VIOLATING
        if run.feasible:
            for bound in bounds:
                assert bound <= run.objective + 1e-6 * abs(run.objective) + 1e-9
            assert all(other.status is not Status.INFEASIBLE for other in runs)


@settings(max_examples=25)
@given(seed=SEEDS)
def test_a_start_is_never_lost(seed):
    """Whatever there is time for, the result is no worse than the start."""
    problem = build_problem(random_instance(seed, infeasible=False))
    first = solve(problem, "cpsat", time_limit=60, options=ONE_THREAD)
    if not first.feasible:
        return
    for criterion in (MaxRuntime(0.0), MaxIterations(1), DeterministicTime(0.001)):
        again = CpsatSolver(CpsatParams(threads=1)).solve(
            problem, stop=criterion, seed=1, start=first.plan
        )
        assert again.feasible
        assert again.objective <= first.objective + 1e-9 * abs(first.objective)


@settings(max_examples=20)
@given(seed=SEEDS, gap=st.sampled_from([0.01, 0.2]))
def test_a_gap_is_good_enough(seed, gap):
    """With a target gap the run may end early, with a bound that is that near."""
    problem = build_problem(
        random_instance(seed, dataflow="home", infeasible=False, signed_loss=False)
    )
    result = solve(problem, "cpsat", time_limit=60, gap=gap, options=ONE_THREAD)
    if result.feasible:
        assert result.bound >= result.objective - gap * abs(result.objective) - 1e-12


def test_ctrl_c_keeps_the_best_plan(monkeypatch):
    """A KeyboardInterrupt in the loop ends the solve with the plan and bound so far."""
    problem = build_problem(contract_instance("loose"))
    calls = []
    ask = module.solve_cpsat

    def interrupt(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ask(*args, **options)

    monkeypatch.setattr(module, "solve_cpsat", interrupt)
    result = CpsatSolver().solve(problem, stop=DeterministicTime(30.0), seed=0)
    assert len(calls) == 2
    assert result.stop_reason is StopReason.INTERRUPTED
    assert result.feasible
    assert result.bound is not None
    assert result.objective == score(problem, result.plan).objective


def test_large_problems_are_refused():
    """Beyond max_candidates the problem is refused in one line."""
    problem = build_problem(random_instance(21, dataflow="home"))
    with pytest.raises(UnsupportedFeatureError, match="max_candidates"):
        solve(problem, "cpsat", options={"max_candidates": 1})


def test_several_copies_in_roam_prove_nothing():
    """In roam with several copies the plan counts, its bound does not."""
    problem = build_problem(random_instance(3, dataflow="roam")).replace(max_copies=2)
    result = solve(problem, "cpsat", time_limit=30)
    assert "copies" in result.ignored
    assert result.status is not Status.INFEASIBLE
    if result.feasible and result.bound is not None:
        assert result.bound <= result.objective


def test_progress_is_live():
    """Objectives and bounds arrive while it works, and end at the result."""
    problem = build_problem(contract_instance("tight"))
    seen = []
    result = solve(
        problem, "cpsat", work=30.0, on_progress=seen.append, options=ONE_THREAD
    )
    assert any(math.isfinite(one.objective) for one in seen)
    assert any(one.bound is not None for one in seen)
    assert seen[-1].objective == pytest.approx(result.objective, rel=1e-9)
    assert max(one.bound for one in seen if one.bound is not None) <= result.objective
