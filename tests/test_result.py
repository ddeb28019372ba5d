"""`finish`: the one way to build a result, and what it refuses to believe."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from meldopt import bounds
from meldopt.builder import build_problem
from meldopt.errors import SolverError
from meldopt.gap import clip_bound, is_closed, relative_gap
from meldopt.result import Result, Status, StopReason, finish
from meldopt.score import score
from meldopt.solver import SolverInfo
from meldopt.testing import best_single_copy, contract_instance, single_copy_plans

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem

INFO = SolverInfo(
    name="hand",
    kind="exact",
    capabilities=frozenset({"home", "copies", "formats", "bound"}),
)


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Return a small problem."""
    return build_problem(contract_instance("tight"))


@pytest.fixture(scope="module")
def good(problem: Problem) -> Plan:
    """Return its best plan with one copy of each expert."""
    plan = best_single_copy(problem)
    assert plan is not None
    return plan


@pytest.fixture(scope="module")
def bad(problem: Problem) -> Plan:
    """Return a plan that breaks rows."""
    return next(
        plan for plan in single_copy_plans(problem) if not score(problem, plan).feasible
    )


def build(
    problem: Problem, plan: Plan | None, bound: float | None, **more: Any
) -> Result:
    """Call `finish` with what a test does not care about filled in."""
    settings = {"stop_reason": StopReason.CRITERION, "seed": 7} | more
    return finish(
        problem, INFO, plan=plan, bound=bound, started=perf_counter(), **settings
    )


def test_a_feasible_plan(problem: Problem, good: Plan) -> None:
    """Objective, status and gap come from the judge and the bound."""
    objective = score(problem, good).objective
    result = build(problem, good, 0.9 * objective)
    assert result.status is Status.FEASIBLE
    assert result.objective == objective
    assert result.bound == 0.9 * objective
    assert result.gap == pytest.approx(0.1)
    assert result.stop_reason is StopReason.CRITERION
    assert result.ignored == ()


def test_the_trivial_bound_is_always_there(problem: Problem, good: Plan) -> None:
    """Without a bound of the solver, or with a poor one, the trivial bound counts."""
    trivial = bounds.trivial_bound(problem)
    assert trivial > 0
    for poor in (None, -math.inf, math.nan, trivial / 2):
        assert build(problem, good, poor).bound == trivial
    assert build(problem, None, None).bound == trivial


def test_a_bound_that_reaches_the_objective_is_a_proof(
    problem: Problem, good: Plan
) -> None:
    """Within tolerance, on either side, the gap is 0 and the plan is optimal."""
    objective = score(problem, good).objective
    for factor in (1.0, 1 - 5e-7, 1 + 5e-7):
        result = build(problem, good, factor * objective)
        assert (result.status, result.gap) == (Status.OPTIMAL, 0.0)
        assert result.stop_reason is StopReason.PROVED
        assert result.bound is not None
        assert result.bound <= result.objective
    assert build(problem, good, (1 - 2e-6) * objective).status is Status.FEASIBLE


def test_a_bound_above_a_feasible_plan_is_refused(problem: Problem, good: Plan) -> None:
    """A bound that a feasible plan disproves is an error, not a result."""
    objective = score(problem, good).objective
    for bound in ((1 + 1e-5) * objective, math.inf):
        with pytest.raises(SolverError, match="above the objective"):
            build(problem, good, bound)


def test_a_violating_plan(problem: Problem, bad: Plan) -> None:
    """A plan that breaks a row is never feasible, has no gap, and no proof."""
    objective = score(problem, bad).objective
    result = build(problem, bad, objective, stop_reason=StopReason.PROVED)
    assert result.status is Status.VIOLATING
    assert not result.feasible
    assert result.gap is None
    assert result.objective == objective
    assert result.stop_reason is StopReason.FINISHED
    assert result.plan is not None
    assert result.plan.record["status"] == "violating"
    assert result.score is not None
    assert result.score.violations


def test_nothing_found(problem: Problem) -> None:
    """Without a plan the objective is infinite and the gap unknown."""
    result = build(problem, None, 0.01)
    assert result.status is Status.UNKNOWN
    assert (result.plan, result.score, result.gap) == (None, None, None)
    assert result.objective == math.inf


def test_proved_infeasible(problem: Problem, good: Plan, bad: Plan) -> None:
    """A proof of infeasibility is a status; a feasible plan disproves it."""
    for plan in (None, bad):
        result = build(problem, plan, None, proved_infeasible=True)
        assert result.status is Status.INFEASIBLE
        assert result.stop_reason is StopReason.PROVED
        assert (result.bound, result.gap) == (None, None)
    assert build(problem, None, math.inf).status is Status.INFEASIBLE
    with pytest.raises(SolverError, match="keeps all rows"):
        build(problem, good, None, proved_infeasible=True)


def test_objective_zero(problem: Problem, good: Plan) -> None:
    """At objective 0 there is no gap, but a bound of 0 proves the optimum."""
    free = problem.replace(weights=np.zeros_like(problem.weights))
    result = build(free, good, 0.0)
    assert (result.objective, result.gap) == (0.0, None)
    assert result.status is Status.OPTIMAL


def test_the_record_of_the_plan(problem: Problem, good: Plan) -> None:
    """The plan carries what made it, and nothing that differs between two runs."""
    result = build(
        problem,
        good,
        None,
        params={"engine": "x", "limit": math.inf},
        packages=("ortools", "no-such-distribution"),
        history=[(0.1, 1.0, None)],
        ignored=("something",),
    )
    assert result.plan is not None
    record = dict(result.plan.record)
    assert record["objective"] == result.objective
    assert record["bound"] == result.bound
    assert record["gap"] == result.gap
    assert record["seed"] == 7
    assert record["solver"] == "hand"
    assert record["options"] == {"engine": "x", "limit": None}
    assert set(record["versions"]) == {"meldopt", "numpy", "ortools"}
    assert record["terms"]["serial"] == pytest.approx(result.objective)
    assert record["budgets"]
    assert not {"runtime_s", "date"} & set(record)
    assert result.history == ((0.1, 1.0, None),)
    assert result.ignored == ("something",)


def test_the_gap_of_greedy(problem: Problem, good: Plan) -> None:
    """Relative to greedy, a constant in the objective does not flatter."""
    objective = score(problem, good).objective
    result = build(problem, good, 0.9 * objective)
    assert result.gap_of_greedy(1.1 * objective) == pytest.approx(0.5)
    assert result.gap_of_greedy(math.inf) is None
    assert result.gap_of_greedy(0.9 * objective) is None
    assert build(problem, None, None).gap_of_greedy(1.0) is None


@pytest.mark.parametrize(
    ("objective", "bound", "gap"),
    [
        (2.0, 1.0, 0.5),
        (-1.0, -2.0, 1.0),  # relative to the magnitude of the objective
        (1.0, -1.0, 2.0),
        (2.0, 2.0, 0.0),
        (2.0, None, None),
        (math.inf, 1.0, None),
        (1.0, -math.inf, None),
        (0.0, -1.0, None),
        (0.0, 0.0, None),
    ],
)
def test_relative_gap(objective: float, bound: float | None, gap: float | None) -> None:
    """The gap is a fraction of the magnitude of the objective, or nothing."""
    assert relative_gap(objective, bound) == gap


def test_closed_and_clipped() -> None:
    """A bound is clipped by rounding only, and closes only what it reaches."""
    assert is_closed(1.0, 1.0 - 1e-7)
    assert not is_closed(1.0, 1.0 - 1e-5)
    assert not is_closed(1.0, None)
    assert not is_closed(math.inf, 1.0)
    assert clip_bound(1.0, 0.5, who="x") == 0.5
    assert clip_bound(1.0, 1.0 + 1e-7, who="x") == 1.0
    assert clip_bound(-1.0, -1.0 + 1e-7, who="x") == -1.0
    assert clip_bound(0.0, 1e-10, who="x") == 0.0
    with pytest.raises(SolverError, match=r"^x: got bound 1\.1"):
        clip_bound(1.0, 1.1, who="x")
