"""The frame of the solvers of this folder: an incumbent, one search, Ctrl-C, a result.

A solver says in `SearchSolver.search` how it searches; all else is the same for all.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from meldopt.solver import SolverInfo, StopReason, finish

from .incumbent import Incumbent

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion

P = TypeVar("P")


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of a solver: what it works with, and what it leaves to report.

    Attributes
    ----------
    problem, stop, start, started
        As given, and when it began.
    best
        Takes plans, and asks the criterion.
    rng
        Of everything random.
    ignored
        What was not honoured, beside what the capabilities say.
    found_by
        Which part of the solver found the plan, if it has several.
    """

    problem: Problem
    stop: StopCriterion
    start: Plan | None
    started: float
    best: Incumbent
    rng: np.random.Generator
    ignored: tuple[str, ...] = ()
    found_by: str | None = None


class SearchSolver(ABC, Generic[P]):
    """A solver that searches and proves nothing.

    Parameters
    ----------
    params
        The usual ones, those of `info`, when None.
    """

    info: ClassVar[SolverInfo]

    def __init__(self, params: P | None = None) -> None:
        assert self.info.params is not None
        self.params: P = self.info.params() if params is None else params

    @abstractmethod
    def search(self, run: Run) -> bool:
        """Offer plans to ``run.best`` until it is spent.

        Returns
        -------
        bool
            Whether the search came to an end of its own.
        """

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
        started = perf_counter()
        best = Incumbent(
            problem, stop=stop, started=started, on_progress=on_progress, start=start
        )
        run = Run(
            problem=problem,
            stop=stop,
            start=start,
            started=started,
            best=best,
            rng=np.random.default_rng(seed),
        )
        reason = StopReason.CRITERION
        try:
            if not best.spent() and self.search(run):
                reason = StopReason.FINISHED
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        params: dict[str, Any] = dataclasses.asdict(self.params)  # type: ignore[call-overload]
        if run.found_by is not None:
            params["found_by"] = run.found_by
        return finish(
            problem,
            self.info,
            plan=best.plan,
            bound=None,
            stop_reason=reason,
            seed=seed,
            started=started,
            params=params,
            history=best.log.history,
            ignored=run.ignored,
        )
