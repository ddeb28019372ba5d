"""`auto`: what it chooses, how it shares time, when it ends, what it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from meldopt.builder import build_problem
from meldopt.generate import generate
from meldopt.problem import TERMS
from meldopt.score import score
from meldopt.solver import (
    AnyOf,
    MaxRuntime,
    Progress,
    SolverInfo,
    StopReason,
    TargetGap,
    finish,
    gap_target,
    objective_target,
    runtime_limit,
)
from meldopt.testing import best_single_copy, contract_instance, single_copy_plans
from meldopt_solvers import auto
from meldopt_solvers.auto import AutoParams, AutoSolver, possible_shares
from meldopt_solvers.exact import milp


@pytest.fixture
def problem():
    """Return a small problem."""
    return build_problem(contract_instance("loose"))


@dataclass
class Clock:
    """A clock that moves only when somebody works."""

    now: float = 100.0

    def __call__(self):
        return self.now


@dataclass
class Stub:
    """A solver that takes some seconds and comes to what it is told."""

    name: str
    clock: Clock
    seconds: float
    plan: object
    bound: float
    told: tuple = ()
    found_by: str | None = None
    asked: list = field(default_factory=list)

    def solve(self, problem, /, *, stop, seed, start=None, on_progress=None):
        self.asked.append((stop, start))
        started = self.clock.now
        for objective, bound in self.told:
            on_progress(Progress(0, 1.0, objective, bound))
        self.clock.now += self.seconds
        return finish(
            problem,
            SolverInfo(name=self.name, kind="search"),
            plan=self.plan,
            bound=self.bound,
            stop_reason=StopReason.CRITERION,
            seed=seed,
            started=started,
            params={"found_by": self.found_by} if self.found_by else {},
            history=[(1.0, objective, bound) for objective, bound in self.told],
        )


@pytest.fixture
def staged(problem, monkeypatch):
    """Return a function that runs `auto` with two stubs in place of its solvers."""

    def run(stop, first, second):
        clock = first.clock
        monkeypatch.setattr(auto, "perf_counter", clock)
        stubs = {"dual": first, "milp": second}
        options = {}

        def make(name, given):
            options[name] = given
            return stubs[name]

        monkeypatch.setattr(auto, "make_solver", make)
        seen = []
        solver = AutoSolver(AutoParams(small=0, middle=possible_shares(problem)))
        result = solver.solve(problem, stop=stop, seed=0, on_progress=seen.append)
        return result, seen, options

    return run


def plans(problem):
    """Return the best plan of single copies and a worse one that is feasible."""
    best = best_single_copy(problem)
    value = score(problem, best).objective
    worse = next(
        plan
        for plan in single_copy_plans(problem)
        if score(problem, plan).feasible
        and score(problem, plan).objective > 1.1 * value
    )
    return best, worse


def test_the_second_gets_what_is_left(problem, staged):
    """The first may use half of the time; the second gets all that it left."""
    clock = Clock()
    best, worse = plans(problem)
    first = Stub("dual", clock, 20.0, worse, 0.0)
    second = Stub("milp", clock, 5.0, best, 0.0)
    result, _, _ = staged(MaxRuntime(60.0), first, second)
    assert runtime_limit(first.asked[0][0]) == pytest.approx(30.0)
    assert runtime_limit(second.asked[0][0]) == pytest.approx(40.0)
    assert second.asked[0][1] is not None
    assert result.params["found_by"] == "milp"


def test_no_time_no_second(problem, staged):
    """A first that used up all time, and more, is the only one."""
    clock = Clock()
    best, _ = plans(problem)
    first = Stub("dual", clock, 61.0, best, 0.0)
    second = Stub("milp", clock, 5.0, best, 0.0)
    result, _, _ = staged(MaxRuntime(60.0), first, second)
    assert not second.asked
    assert result.feasible


def test_it_ends_at_the_gap(problem, staged):
    """A first that reaches the gap asked for is the only one."""
    clock = Clock()
    best, _ = plans(problem)
    bound = 0.97 * score(problem, best).objective
    first = Stub("dual", clock, 1.0, best, bound)
    second = Stub("milp", clock, 1.0, best, bound)
    staged(AnyOf(MaxRuntime(60.0), TargetGap(0.05)), first, second)
    assert not second.asked
    staged(AnyOf(MaxRuntime(60.0), TargetGap(0.02)), first, second)
    assert second.asked


def test_a_bound_becomes_a_target(problem, staged):
    """The second knows which objective the bound of the first makes good enough."""
    clock = Clock()
    best, worse = plans(problem)
    bound = 0.9 * score(problem, best).objective
    first = Stub("dual", clock, 1.0, worse, bound)
    second = Stub("milp", clock, 1.0, best, 0.0)
    staged(AnyOf(MaxRuntime(60.0), TargetGap(0.1)), first, second)
    target = objective_target(second.asked[0][0])
    assert (target - bound) / target == pytest.approx(0.1)
    assert gap_target(second.asked[0][0]) == 0.1


@pytest.mark.parametrize("bound", [-2.0, 0.0, 3.0])
def test_targets_of_any_sign(bound):
    """At the target the gap is the one asked for, whatever the sign of the bound."""
    stop = AutoSolver().part(TargetGap(0.1), 0.0, last=True, bound=bound)
    target = objective_target(stop)
    assert target >= bound
    assert target - bound == pytest.approx(0.1 * abs(target))


def test_prices_are_as_good_as_the_gap_asks_for(problem, staged):
    """Bounds are raised to a tenth of the gap asked for, and not beyond."""
    clock = Clock()
    best, _ = plans(problem)
    stubs = [Stub(name, clock, 1.0, best, 0.0) for name in ("dual", "milp")]
    _, _, options = staged(AnyOf(MaxRuntime(60.0), TargetGap(0.01)), *stubs)
    assert options["dual"]["tolerance"] == pytest.approx(0.001)
    _, _, options = staged(MaxRuntime(60.0), *stubs)
    assert options["dual"]["tolerance"] == pytest.approx(2e-5)


def test_one_story(problem, staged):
    """Reports and history get better only, count from the start, and say who."""
    clock = Clock()
    best, worse = plans(problem)
    value = score(problem, best).objective
    first = Stub(
        "dual",
        clock,
        20.0,
        best,
        0.9 * value,
        told=((3 * value, 0.5 * value), (value, 0.9 * value)),
        found_by="lns",
    )
    second = Stub(
        "milp", clock, 5.0, worse, 0.1 * value, told=((2 * value, 0.1 * value),)
    )
    result, seen, _ = staged(MaxRuntime(60.0), first, second)
    assert [one.elapsed_s for one in seen] == [1.0, 1.0, 21.0]
    assert [one.objective / value for one in seen] == pytest.approx([3, 1, 1])
    assert [one.bound / value for one in seen] == pytest.approx([0.5, 0.9, 0.9])
    assert [(h[0], h[1] / value, h[2] / value) for h in result.history] == [
        pytest.approx(row) for row in ((1, 3, 0.5), (1, 1, 0.9), (21, 1, 0.9))
    ]
    assert result.params["found_by"] == "lns"
    assert result.params["bound_by"] == "dual"
    assert result.bound == pytest.approx(0.9 * value)


def test_parallel_ends_with_the_sampled_tokens(problem):
    """With `parallel`, which `milp` cannot see, `dual` comes last at any size."""
    assert AutoSolver().choose(problem) == ("milp",)
    made = generate("star", name="s", seed=1, parameters={"layers": 1, "samples": 5})
    sampled = build_problem(made)
    weights = np.zeros(len(TERMS))
    weights[TERMS.index("parallel")] = 1.0
    timed = sampled.replace(weights=weights)
    for small, middle in ((0, 0), (0, 10**9), (10**9, 10**9)):
        solver = AutoSolver(AutoParams(small=small, middle=middle))
        assert solver.choose(timed)[-1] == "dual"
    assert AutoSolver(AutoParams(small=10**9)).choose(sampled) == ("milp",)


def test_milp_gives_no_engine_time_that_is_over(problem, monkeypatch):
    """Once the time is over no LP follows: neither for a start nor for shares."""
    clock = Clock()
    limits = []
    run_engine, find_shares = milp.solve_highs, milp.best_shares

    def slow(model, **options):
        limits.append(options.get("time_limit"))
        outcome = run_engine(model, **options | {"time_limit": None})
        clock.now += 50.0  # far beyond the limit, as engines are now and then
        return outcome

    def shares(*arguments, **options):
        limits.append(options["time_limit"])
        return find_shares(*arguments, **options)

    monkeypatch.setattr(milp, "perf_counter", clock)
    monkeypatch.setattr(milp, "solve_highs", slow)
    monkeypatch.setattr(milp, "best_shares", shares)
    best, _ = plans(problem)
    for dive in (0, 10**9):
        limits.clear()
        solver = milp.MilpSolver(milp.MilpParams(dive_columns=dive))
        result = solver.solve(problem, stop=MaxRuntime(30.0), seed=0, start=best)
        assert result.feasible
        assert len(limits) == 1
        assert 0 < limits[0] <= 30.0
    assert math.isfinite(result.objective)
