"""The frame of published methods: attempts, completion, the judge, and a common repair.

A method is one class with `info` and `decide`. It says what it decides, what it looks
at, and decides that; the rest is completed by the rules of
`meldopt_solvers.baselines.complete`, the same for all, so that methods are comparable.
What a method does not look at is listed in ``Result.ignored``; a plan that breaks a row
because of it is ``violating``, and with ``repair=True`` it is mended by the same
procedure for all (`meldopt_solvers.baselines.mending`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from meldopt.solver import SolverInfo, StopReason, finish, runtime_limit

from .complete import Decision, complete
from .view import View

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion
    from meldopt_solvers.search.incumbent import Incumbent

DECISIONS = (
    "placement",
    "copies",
    "formats",
    "tiers",
    "shares",
    "pruning",
    "substitution",
)
"""What a method may decide."""

FACTS = (
    "calls",
    "homes",
    "coactivation",
    "transitions",
    "network",
    "work",
    "losses",
)
"""What a method may look at: how often experts are called, from which homes, which ones
together and which after which; latency and bandwidth of routes; seconds of a call by
place; losses of formats."""

ROWS = (
    "memory",
    "compute",
    "link",
    "budgets",
    "quality",
    "latency",
    "trust",
    "coverage",
    "count",
    "uniform",
    "pin",
    "forbid",
)
"""Rows that a method may keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineInfo(SolverInfo):
    """What a published method says of itself.

    Attributes
    ----------
    decides
        What it decides, of `DECISIONS`; the rest is completed.
    sees
        What it looks at, of `FACTS` and `ROWS`; the rest is ignored.
    """

    decides: tuple[str, ...] = ()
    sees: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineParams:
    """Parameters that every published method has.

    Attributes
    ----------
    repair
        Whether the common repair mends the plans of a method if all break a row.
    """

    repair: bool = False


def baseline_info(
    *,
    name: str,
    summary: str,
    citation: str,
    decides: tuple[str, ...],
    sees: tuple[str, ...] = (),
    terms: tuple[str, ...] = (),
    dataflows: tuple[str, ...] = ("home", "roam"),
    params: type[BaselineParams] = BaselineParams,
    packages: tuple[str, ...] = (),
) -> BaselineInfo:
    """Describe a published method; its capabilities follow from what it decides.

    Parameters
    ----------
    name, summary, citation
        As registered; one line for people; paper and section.
    decides, sees
        Of `DECISIONS`; of `FACTS` and `ROWS`.
    terms
        Terms of the objective that are just what it optimises; most have a measure of
        their own, and none.
    dataflows
        Those that it knows.
    params
        Dataclass of its parameters, a `BaselineParams`.
    packages
        Distributions whose versions belong to its results.

    Raises
    ------
    ValueError
        If something is said to be decided or seen that has no such name.
    """
    for said, known in ((decides, DECISIONS), (sees, (*FACTS, *ROWS))):
        unknown = sorted(set(said) - set(known))
        if unknown:
            raise ValueError(
                f"baseline {name!r}: got {unknown[0]!r}, "
                f"expected one of {', '.join(known)}"
            )
    own = {"copies", "formats", "tiers", "pruning", "substitution"} & set(decides)
    return BaselineInfo(
        name=name,
        kind="baseline",
        summary=summary,
        capabilities=frozenset({*dataflows, *own, *({"budgets"} & set(sees))}),
        terms=terms,
        params=params,
        packages=packages,
        citation=citation,
        decides=decides,
        sees=sees,
    )


class Budget:
    """What is left of a run, for methods that iterate.

    Parameters
    ----------
    best
        Where the plans of the run go; it asks the stop criterion.
    stop
        The criterion.
    started
        `time.perf_counter` at the start.
    """

    def __init__(self, best: Incumbent, stop: StopCriterion, started: float) -> None:
        self._best = best
        limit = runtime_limit(stop)
        self._end = math.inf if limit is None else started + limit
        self.over = False
        self.kept: Decision | None = None

    def keep(self, decision: Decision | None) -> None:
        """Store the best decision so far; Ctrl-C in the middle of an attempt takes it.

        Parameters
        ----------
        decision
            Replaces what was stored before; None: nothing is whole yet.
        """
        self.kept = decision

    def step(self, work: float = 0.0) -> bool:
        """Count an iteration and its work, report, and say whether the run ends here.

        Parameters
        ----------
        work
            Deterministic work done since the last call, about seconds of one core.
        """
        self._best.work += work
        self.over = self._best.step() or self.over
        return self.over

    def spent(self) -> bool:
        """Say whether the run ends here, without counting an iteration."""
        self.over = self._best.spent() or self.over
        return self.over

    @property
    def time_left_s(self) -> float:
        """Seconds that an engine may still take; inf without a limit on time."""
        return max(self._end - perf_counter(), 0.0)


class Baseline:
    """A published method. A subclass gives ``info`` and `decide`.

    A method that does not decide formats is tried in each uniform format, the largest
    first; one that does has one attempt. The best plan that keeps every row is
    returned; if there is none, the one that breaks rows by the least, each relative to
    its limit. With ``repair``, if no attempt keeps every row, all are mended and the
    best is kept: a method that needs no repair is not changed by it. A start is not
    used: a published method begins from nothing.
    """

    info: ClassVar[BaselineInfo]
    params: BaselineParams

    def __init__(self, params: BaselineParams | None = None) -> None:
        kind: Any = self.info.params
        self.params = kind() if params is None else params

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Decide what the method decides.

        Parameters
        ----------
        problem
            What is solved; read-only.
        view
            The attempt: uniform format, sizes, room, calls, statistics of pairs.
        rng
            Of this attempt.
        check
            Asked by methods that iterate; when it says so, return what there is. They
            give it their best decision so far (`Budget.keep`): Ctrl-C ends them at any
            place.

        Returns
        -------
        Decision or None
            None if the method finds nothing, or not within the budget.
        """
        raise NotImplementedError

    def solve(
        self,
        problem: Problem,
        /,
        *,
        stop: StopCriterion,
        seed: int,
        start: Plan | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Solve a problem; see `meldopt.solver.Solver`."""
        from meldopt_solvers.search.incumbent import Incumbent

        started = perf_counter()
        best = Incumbent(problem, stop=stop, started=started, on_progress=on_progress)
        check = Budget(best, stop, started)
        reason = StopReason.FINISHED
        estimated: set[str] = set()
        views = [View(problem, format_) for format_ in self.attempts(problem)]
        try:
            streams = np.random.default_rng(seed).spawn(len(views))
            broken: list[tuple[Plan, np.random.Generator]] = []
            for view, rng in zip(views, streams, strict=True):
                if check.spent():
                    break
                decision = self._decided(problem, view, rng, best, check)
                if decision is not None:
                    plan = complete(problem, view, decision)
                    if not best.offer(plan).feasible:
                        broken.append((plan, rng))
                    check.step()
            if self.params.repair and math.isinf(best.objective):
                from .mending import mend_plan

                for plan, rng in broken:
                    if check.spent():
                        break
                    mend_plan(problem, plan, rng, best, check)
            if check.over:
                reason = StopReason.CRITERION
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        for view in views:
            estimated |= view.estimated
        return finish(
            problem,
            self.info,
            plan=best.plan,
            bound=None,
            stop_reason=reason,
            seed=seed,
            started=started,
            params=self.params,
            history=best.log.history,
            ignored=ignored(problem, self.info, estimated),
        )

    def _decided(
        self,
        problem: Problem,
        view: View,
        rng: np.random.Generator,
        best: Incumbent,
        check: Budget,
    ) -> Decision | None:
        """Decide; on Ctrl-C offer what the method kept, and go on with Ctrl-C."""
        check.keep(None)
        try:
            return self.decide(problem, view, rng, check)
        except KeyboardInterrupt:
            if check.kept is not None:
                best.offer(complete(problem, view, check.kept))
            raise

    def attempts(self, problem: Problem) -> list[int]:
        """Return the uniform formats to try, largest first; -1: the method chooses."""
        if "formats" in self.info.decides:
            return [-1]
        size = problem.size_bytes.sum(axis=0)
        runs: NDArray[np.bool_] = problem.allowed.sum(axis=0) > 0
        order = np.argsort(-size, kind="stable")
        return [int(b) for b in order if runs[b]]


def ignored(
    problem: Problem, info: BaselineInfo, estimated: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return which facts and rows of a problem a method does not look at.

    Parameters
    ----------
    problem
        What is solved; only what it has is listed.
    info
        What the method says of itself.
    estimated
        Statistics that the method looks at but that the problem does not hold.
    """
    there = {*facts_of(problem), *rows_of(problem)}
    names = [
        name for name in (*FACTS, *ROWS) if name in there and name not in info.sees
    ]
    return tuple(dict.fromkeys([*names, *sorted(estimated)]))


def facts_of(problem: Problem) -> tuple[str, ...]:
    """Return the facts that a problem offers, of `FACTS`."""
    view = View(problem, -1)
    several = problem.num_servers > 1
    offered = {
        "calls": True,
        "homes": several and len(np.unique(problem.home_of)) > 1,
        "coactivation": view.coactivation_source != "independent",
        "transitions": view.transitions_source != "independent",
        "network": several,
        "work": True,
        "losses": problem.num_formats > 1 and bool((problem.format_loss != 0).any()),
    }
    return tuple(name for name in FACTS if offered[name])


def rows_of(problem: Problem) -> tuple[str, ...]:
    """Return the rows that a problem has, of `ROWS`."""
    has = {
        "memory": True,
        "compute": math.isfinite(problem.busy),
        "link": math.isfinite(problem.link_busy) and len(problem.link_from) > 0,
        "budgets": bool(problem.budget_caps),
        "quality": bool(np.isfinite(problem.quality_budget).any()),
        "latency": bool(np.isfinite(problem.latency_target).any()),
        "trust": not problem.trusted.all(),
        "coverage": bool(problem.failure_sets),
        "count": bool(problem.count_rows),
        "uniform": bool(problem.uniform_groups),
        "pin": len(problem.pinned) > 0,
        "forbid": len(problem.forbidden) > 0,
    }
    return tuple(name for name in ROWS if has[name])
