"""Experts where they are called most, in the widest format that leaves room for all."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.plan import Plan
from meldopt.problem import TERMS
from meldopt.score import score
from meldopt.solver import ProgressLog, SolverInfo, StopReason, finish

if TYPE_CHECKING:
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion


class CallsFirstSolver:
    """One copy of each expert, those called most first, on the server that asks most.

    Tries every format for all experts, and keeps the best plan that breaks no row.
    """

    info: ClassVar[SolverInfo] = SolverInfo(
        name="calls-first",
        kind="baseline",
        summary="experts where they are called most, in one format",
        capabilities=frozenset({"home", "roam", "formats", "tiers"}),
        terms=TERMS,
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
        """Solve a problem; see `meldopt.solver.Solver`."""
        begun, check = perf_counter(), stop.start()
        log = ProgressLog(on_progress, begun)
        best, value, reason = None, np.inf, StopReason.FINISHED
        calls = problem.rate[:, None] * problem.calls[problem.application_of]  # (Q, N)
        asked = np.zeros((problem.num_servers, problem.num_experts))
        np.add.at(asked, problem.home_of, calls)
        try:
            for b in range(problem.num_formats):
                if check.stop(b, value, None, work=1e-6 * b * problem.num_experts):
                    reason = StopReason.CRITERION
                    break
                room = np.where(problem.allowed[:, b], problem.room_bytes, -np.inf)
                copies = []
                for i in np.argsort(-asked.sum(axis=0), kind="stable").tolist():
                    fits = problem.size_bytes[i, b] <= room
                    wish = np.where(fits, asked[problem.server_of, i], -np.inf)
                    if not fits.any():
                        break  # this format is too large for the servers
                    v = int(np.lexsort((-room, -wish))[0])
                    room[v] -= problem.size_bytes[i, b]
                    copies.append((i, v, b))
                if len(copies) < problem.num_experts:
                    continue
                plan = Plan.of(
                    problem, np.array(sorted(copies), dtype=np.int64).reshape(-1, 3)
                )
                judged = score(problem, plan)
                worth = judged.objective if judged.feasible else np.inf
                if best is None or worth < value:
                    best, value = plan, min(worth, value)
                log.report(b, value, None, best if np.isfinite(value) else None)
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        return finish(
            problem,
            self.info,
            plan=best,
            bound=None,
            stop_reason=reason,
            seed=seed,
            started=begun,
            history=log.history,
        )
