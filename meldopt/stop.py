"""Stop criteria: recipes for when a solver ends.

A criterion holds numbers only. `start` makes a fresh check, so that one criterion may
serve many runs. Search asks the check after each iteration; an exact engine translates
the criterion into limits of its own with `runtime_limit`, `work_limit` and the like,
after `require_supported` has refused what it cannot translate. Boundaries are
inclusive: a limit of 0 stops at the first question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from .errors import UnsupportedFeatureError
from .gap import is_closed, relative_gap

if TYPE_CHECKING:
    from collections.abc import Iterable


class Check(Protocol):
    """What a criterion is during one run."""

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        """Say whether the run ends here.

        Parameters
        ----------
        iteration
            Iterations done so far.
        objective
            Of the best feasible plan so far; ``inf`` if there is none.
        bound
            Best proven bound so far; none if nothing is proved.
        work
            Deterministic work done so far, in the units of the solver.
        """
        ...


@runtime_checkable
class StopCriterion(Protocol):
    """A recipe for checks."""

    def start(self) -> Check:
        """Begin a run: return a check that remembers nothing of earlier ones."""
        ...


def _require(name: str, value: float, low: float = 0.0) -> None:
    if math.isnan(value) or value < low:
        raise ValueError(f"{name}: got {value!r}, expected {low:g} or more")


@dataclass(frozen=True, slots=True)
class MaxRuntime:
    """Stop ``seconds`` after the start, on the monotonic clock.

    The result then depends on the machine; for repeatable runs use `DeterministicTime`
    or `MaxIterations`.
    """

    seconds: float

    def __post_init__(self) -> None:
        _require("MaxRuntime", self.seconds)

    def start(self) -> Check:
        """Begin a run; the clock starts now."""
        return _RuntimeCheck(self.seconds)


class _RuntimeCheck:
    def __init__(self, seconds: float) -> None:
        self._end = perf_counter() + seconds

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        return perf_counter() >= self._end


@dataclass(frozen=True, slots=True)
class MaxIterations:
    """Stop after ``iterations`` iterations of the solver."""

    iterations: int

    def __post_init__(self) -> None:
        _require("MaxIterations", self.iterations)

    def start(self) -> Check:
        """Begin a run."""
        return self

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        """Stop once that many iterations are done."""
        return iteration >= self.iterations


@dataclass(frozen=True, slots=True)
class DeterministicTime:
    """Stop after ``units`` of deterministic work: the same plan on every machine.

    What a unit is, each solver documents; it is about a second of one modern core.
    """

    units: float

    def __post_init__(self) -> None:
        _require("DeterministicTime", self.units)

    def start(self) -> Check:
        """Begin a run."""
        return self

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        """Stop once that much work is done."""
        return work >= self.units


@dataclass(frozen=True, slots=True)
class NoImprovement:
    """Stop after ``iterations`` iterations in a row without a better objective."""

    iterations: int

    def __post_init__(self) -> None:
        _require("NoImprovement", self.iterations)

    def start(self) -> Check:
        """Begin a run."""
        return _ImprovementCheck(self.iterations)


class _ImprovementCheck:
    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best = math.inf
        self._since: int | None = None

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        if self._since is None or objective < self._best:
            self._best = objective
            self._since = iteration
        return iteration - self._since >= self._patience


@dataclass(frozen=True, slots=True)
class TargetObjective:
    """Stop at a feasible plan whose objective is at most ``objective``."""

    objective: float

    def __post_init__(self) -> None:
        _require("TargetObjective", self.objective, -math.inf)

    def start(self) -> Check:
        """Begin a run."""
        return _ObjectiveCheck(self.objective)


class _ObjectiveCheck:
    def __init__(self, target: float) -> None:
        self._target = target

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        return objective <= self._target


@dataclass(frozen=True, slots=True)
class TargetGap:
    """Stop once the gap, a fraction, is at most ``gap``."""

    gap: float

    def __post_init__(self) -> None:
        _require("TargetGap", self.gap)

    def start(self) -> Check:
        """Begin a run."""
        return _GapCheck(self.gap)


class _GapCheck:
    def __init__(self, target: float) -> None:
        self._target = target

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        gap = relative_gap(objective, bound)
        if gap is None:  # at objective 0 there is no gap, but there may be a proof
            return is_closed(objective, bound)
        return gap <= self._target


@dataclass(frozen=True, slots=True, init=False)
class AnyOf:
    """Stop as soon as one of several criteria says so; of none, never."""

    criteria: tuple[StopCriterion, ...]

    def __init__(self, *criteria: StopCriterion) -> None:
        object.__setattr__(self, "criteria", criteria)

    def start(self) -> Check:
        """Begin a run of every criterion."""
        return _AnyCheck([criterion.start() for criterion in self.criteria])


class _AnyCheck:
    def __init__(self, checks: list[Check]) -> None:
        self._checks = checks

    def stop(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        work: float = 0.0,
    ) -> bool:
        # A list: every check sees every iteration, also after one has said stop.
        said = [check.stop(iteration, objective, bound, work) for check in self._checks]
        return any(said)


# -- translation -----------------------------------------------------------------------

_C = TypeVar("_C")


def leaves(stop: StopCriterion) -> tuple[StopCriterion, ...]:
    """Return the criteria that `AnyOf` combines, however deep."""
    if isinstance(stop, AnyOf):
        return tuple(leaf for one in stop.criteria for leaf in leaves(one))
    return (stop,)


def _all(stop: StopCriterion, kind: type[_C]) -> list[_C]:
    return [leaf for leaf in leaves(stop) if isinstance(leaf, kind)]


def runtime_limit(stop: StopCriterion) -> float | None:
    """Return the seconds that a run may take; none if the clock does not limit it."""
    return min((one.seconds for one in _all(stop, MaxRuntime)), default=None)


def work_limit(stop: StopCriterion) -> float | None:
    """Return the units of deterministic work that a run may do; none: no limit."""
    return min((one.units for one in _all(stop, DeterministicTime)), default=None)


def iteration_limit(stop: StopCriterion) -> int | None:
    """Return how many iterations a run may do; none: no limit."""
    return min((one.iterations for one in _all(stop, MaxIterations)), default=None)


def gap_target(stop: StopCriterion) -> float | None:
    """Return the gap, a fraction, that is good enough; none: only a proof is."""
    return max((one.gap for one in _all(stop, TargetGap)), default=None)


def objective_target(stop: StopCriterion) -> float | None:
    """Return the objective that is good enough; none if there is no such target."""
    return max((one.objective for one in _all(stop, TargetObjective)), default=None)


def require_supported(
    stop: StopCriterion, kinds: Iterable[type], *, solver: str
) -> None:
    """Refuse a criterion that a solver cannot translate; it is never ignored.

    Raises
    ------
    UnsupportedFeatureError
        Naming the criterion, and those that the solver knows.
    """
    known = tuple(kinds)
    for leaf in leaves(stop):
        if not isinstance(leaf, known):
            names = ", ".join(sorted(kind.__name__ for kind in known))
            raise UnsupportedFeatureError(
                f"solver {solver!r}: got stop criterion {type(leaf).__name__}, "
                f"expected one of: {names}"
            )
