"""Solvers for tests: registered as another distribution would register its own."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.errors import SolverError
from meldopt.score import score
from meldopt.solver import ProgressLog, SolverInfo, StopReason, finish
from meldopt.testing import single_copy_plans

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion


@dataclass(frozen=True)
class ToyParams:
    """What the toy can be told.

    ``wait``: at the end wait for a signal, so that a test can interrupt it.
    ``fail``: raise this error instead of solving.
    """

    wait: bool = False
    fail: str = ""
    threads: int = 1
    scale: float = 1.0


class ToySolver:
    """Tries placements with one copy of each expert in a random order."""

    info: ClassVar[SolverInfo] = SolverInfo(
        name="toy",
        kind="search",
        summary="tries single-copy placements in a random order",
        capabilities=frozenset({"home", "roam", "formats", "start"}),
        params=ToyParams,
    )

    def __init__(self, params: ToyParams = ToyParams()) -> None:
        self.params = params

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
        started = perf_counter()
        if self.params.fail == "engine":
            raise SolverError("the engine of toy crashed")
        if self.params.fail:
            raise RuntimeError(self.params.fail)
        check = stop.start()
        log = ProgressLog(on_progress, started)
        plans = single_copy_plans(problem)
        order = np.random.default_rng(seed).permutation(len(plans))
        best, objective, bad = None, float("inf"), plans[int(order[0])]
        reason = StopReason.FINISHED
        candidates = ([] if start is None else [start]) + [plans[n] for n in order]
        try:
            for iteration, plan in enumerate(candidates):
                judged = score(problem, plan)
                if judged.feasible and judged.objective < objective:
                    best, objective = plan, judged.objective
                log.report(iteration, objective, None, best)
                if check.stop(iteration + 1, objective, None, float(iteration + 1)):
                    reason = StopReason.CRITERION
                    break
            if self.params.wait:
                signal.pause()
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        return finish(
            problem,
            self.info,
            plan=best or bad,
            bound=None,
            stop_reason=reason,
            seed=seed,
            started=started,
            params=self.params,
            history=log.history,
        )


class HonestlyEmpty:
    """Finds nothing."""

    info: ClassVar[SolverInfo] = SolverInfo(
        name="empty", kind="baseline", capabilities=frozenset({"home"})
    )

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
        return finish(
            problem,
            self.info,
            plan=None,
            bound=None,
            stop_reason=StopReason.FINISHED,
            seed=seed,
            started=perf_counter(),
        )
