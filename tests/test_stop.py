"""Stop criteria: recipes, boundaries and translation."""

from __future__ import annotations

import math
import pickle

import pytest

from meldopt import stop as stops
from meldopt.errors import UnsupportedFeatureError
from meldopt.stop import (
    AnyOf,
    DeterministicTime,
    MaxIterations,
    MaxRuntime,
    NoImprovement,
    StopCriterion,
    TargetGap,
    TargetObjective,
    require_supported,
)

INF = math.inf


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_iterations_are_inclusive(limit: int) -> None:
    """A run may do exactly as many iterations as the limit says."""
    check = MaxIterations(limit).start()
    said = [check.stop(iteration, INF) for iteration in range(limit + 2)]
    assert said == [iteration >= limit for iteration in range(limit + 2)]


@pytest.mark.parametrize("units", [0.0, 1.0, 2.5])
def test_work_is_inclusive(units: float) -> None:
    """A run ends when its work reaches the budget, and not before."""
    check = DeterministicTime(units).start()
    assert check.stop(0, INF, None, units)
    assert check.stop(0, INF, None, units + 1)
    if units:
        assert not check.stop(0, INF, None, math.nextafter(units, 0))


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_no_improvement_counts_from_the_last_improvement(patience: int) -> None:
    """It stops `patience` iterations after the last better objective, not earlier."""
    check = NoImprovement(patience).start()
    if patience == 0:
        assert check.stop(0, 5.0)
        return
    assert not check.stop(0, 5.0)
    assert not check.stop(patience - 1, 5.0)
    assert not check.stop(patience, 4.0)  # better: the count starts again
    assert not check.stop(2 * patience - 1, 4.0)
    assert check.stop(2 * patience, 4.0)


def test_no_improvement_counts_while_there_is_no_plan() -> None:
    """Iterations without any plan count as iterations without improvement."""
    check = NoImprovement(2).start()
    assert [check.stop(n, INF) for n in range(3)] == [False, False, True]


@pytest.mark.parametrize("target", [-1.0, 0.0, 2.0])
def test_target_objective_is_inclusive(target: float) -> None:
    """The target itself is good enough, anything above is not."""
    check = TargetObjective(target).start()
    assert check.stop(0, target)
    assert not check.stop(0, math.nextafter(target, INF))
    assert not check.stop(0, INF)


def test_target_gap_is_inclusive() -> None:
    """A gap of exactly the target stops, without a plan or a bound nothing does."""
    check = TargetGap(0.5).start()
    assert check.stop(0, 2.0, 1.0)  # (2 - 1) / 2
    assert not check.stop(0, 2.0, 0.99)
    assert not check.stop(0, 2.0, None)
    assert not check.stop(0, INF, 1.0)
    assert TargetGap(0.0).start().stop(0, 2.0, 2.0)
    assert not TargetGap(0.0).start().stop(0, 2.0, 1.99)


def test_target_gap_at_objective_zero() -> None:
    """At objective 0 there is no gap, but a bound of 0 proves the optimum."""
    check = TargetGap(0.0).start()
    assert check.stop(0, 0.0, 0.0)
    assert not check.stop(0, 0.0, -0.1)


def test_runtime_uses_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock starts with the check, and the limit itself is over."""
    now = [100.0]
    monkeypatch.setattr(stops, "perf_counter", lambda: now[0])
    criterion = MaxRuntime(5.0)
    now[0] = 200.0
    check = criterion.start()
    now[0] = 204.9
    assert not check.stop(0, INF)
    now[0] = 205.0
    assert check.stop(0, INF)
    assert MaxRuntime(0.0).start().stop(0, INF)


@pytest.mark.parametrize(
    "criterion",
    [
        MaxRuntime(1e6),
        MaxIterations(2),
        NoImprovement(2),
        TargetObjective(1.0),
        TargetGap(0.1),
        DeterministicTime(2.0),
        AnyOf(NoImprovement(2), MaxIterations(9)),
    ],
)
def test_a_criterion_serves_many_runs(criterion: StopCriterion) -> None:
    """A second run behaves like the first: checks keep state, criteria do not."""

    def run() -> list[bool]:
        check = criterion.start()
        return [check.stop(n, 3.0, 1.0, float(n)) for n in range(4)]

    assert run() == run()
    assert pickle.loads(pickle.dumps(criterion)) == criterion


def test_any_of_asks_every_check() -> None:
    """A check that is not the first to say stop still sees every iteration."""
    check = AnyOf(MaxIterations(1), NoImprovement(3)).start()
    assert not check.stop(0, 5.0)
    assert check.stop(1, 4.0)
    assert not AnyOf().start().stop(10**9, -INF)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaxRuntime(-1.0),
        lambda: MaxRuntime(math.nan),
        lambda: MaxIterations(-1),
        lambda: NoImprovement(-1),
        lambda: TargetGap(-0.1),
        lambda: DeterministicTime(-1.0),
        lambda: TargetObjective(math.nan),
    ],
)
def test_senseless_limits_are_refused(make: object) -> None:
    """Negative limits and NaN are errors, not runs that never end."""
    assert callable(make)
    with pytest.raises(ValueError, match="expected"):
        make()


def test_translation_takes_the_strictest_limit() -> None:
    """Engines get the least time and work, and the loosest target, of any criterion."""
    stop = AnyOf(
        MaxRuntime(9.0),
        AnyOf(MaxRuntime(5.0), DeterministicTime(2.0), TargetGap(0.1)),
        TargetGap(0.3),
        MaxIterations(7),
        TargetObjective(1.5),
    )
    assert stops.runtime_limit(stop) == 5.0
    assert stops.work_limit(stop) == 2.0
    assert stops.gap_target(stop) == 0.3
    assert stops.iteration_limit(stop) == 7
    assert stops.objective_target(stop) == 1.5
    nothing = AnyOf()
    assert stops.runtime_limit(nothing) is None
    assert stops.work_limit(nothing) is None
    assert stops.gap_target(nothing) is None
    assert stops.iteration_limit(nothing) is None
    assert stops.objective_target(nothing) is None


def test_an_untranslatable_criterion_is_refused() -> None:
    """A criterion that a solver does not know is an error however deep it sits."""
    stop = AnyOf(MaxRuntime(1.0), AnyOf(NoImprovement(3)))
    with pytest.raises(
        UnsupportedFeatureError, match=r"'x'.*NoImprovement.*MaxRuntime"
    ):
        require_supported(stop, (MaxRuntime,), solver="x")
    require_supported(stop, (MaxRuntime, NoImprovement), solver="x")


def test_the_protocol_is_checkable() -> None:
    """Everything with `start` is a criterion, a number is none."""
    assert isinstance(MaxRuntime(1.0), StopCriterion)
    assert not isinstance(1.0, StopCriterion)
