"""`auto`: chooses by size, and says what it chose.

Small problems go to `milp` at once. Others go to `dual`: a bound and a plan from
prices, and large-neighbourhood search from there. In the middle `milp` follows, which
may prove more than prices can.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from meldopt.solver import (
    CAPABILITIES,
    AnyOf,
    DeterministicTime,
    MaxRuntime,
    SolverInfo,
    StopReason,
    TargetGap,
    TargetObjective,
    finish,
    make_solver,
    runtime_limit,
    work_limit,
)
from meldopt.stop import leaves

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion


UNLIMITED_S = 30.0
"""Seconds that `dual` gets before `milp` where there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoParams:
    """Parameters of `auto`.

    Attributes
    ----------
    threads
        Passed on to `milp`.
    small, middle
        Largest number of possible shares for `milp` alone, and for `dual` then
        `milp`.
    share_of_dual
        Part of the time that `dual` gets in the middle.
    cluster
        Address of a Dask scheduler, passed on to `dual`.
    """

    threads: int | None = None
    small: int = 20_000
    middle: int = 400_000
    share_of_dual: float = 0.5
    cluster: str | None = None


class AutoSolver:
    """The default: an exact solver where it has a chance, a search where not."""

    info: ClassVar[SolverInfo] = SolverInfo(
        name="auto",
        kind="portfolio",
        summary="chooses by size: milp, dual with lns, or both",
        capabilities=frozenset(CAPABILITIES),
        terms=(
            "serial",
            "parallel",
            "fluid",
            "bottleneck",
            "traffic",
            "energy",
            "quality",
            "pair",
        ),
        deterministic=True,
        stops=(MaxRuntime, DeterministicTime, TargetGap, TargetObjective),
        params=AutoParams,
        packages=("highspy", "numba"),
    )

    def __init__(self, params: AutoParams | None = None) -> None:
        self.params = params or AutoParams()

    def choose(self, problem: Problem) -> tuple[str, ...]:
        """Return the solvers that a problem gets, in their order."""
        shares = possible_shares(problem)
        if shares <= self.params.small:
            return ("milp",)
        if shares <= self.params.middle:
            return ("dual", "milp")
        return ("dual",)

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
        """Solve with each chosen solver in turn, each from the best plan so far."""
        started = perf_counter()
        chosen = self.choose(problem)
        history: list[tuple[float, float, float | None]] = []
        best: Result | None = None
        plan, bound = start, None
        for name in chosen:
            begun = perf_counter() - started
            last = name == chosen[-1]
            options: dict[str, Any] = {"threads": self.params.threads}
            if name == "dual":
                options["improve"] = True
                options["cluster"] = self.params.cluster
            solver = make_solver(name, options)
            result = solver.solve(
                problem,
                stop=self.part(stop, begun, last=last),
                seed=seed,
                start=plan,
                on_progress=on_progress,
            )
            history += [
                (begun + elapsed, objective, low)
                for elapsed, objective, low in result.history
            ]
            if best is None or _rank(result) <= _rank(best):
                best = result
            if result.feasible:
                plan = result.plan
            if result.bound is not None:
                bound = result.bound if bound is None else max(bound, result.bound)
            if result.stop_reason in (StopReason.PROVED, StopReason.INTERRUPTED):
                break
        assert best is not None
        return finish(
            problem,
            self.info,
            plan=best.plan,
            bound=bound,
            stop_reason=best.stop_reason,
            seed=seed,
            started=started,
            params=dataclasses.asdict(self.params) | {"found_by": best.solver},
            history=history,
            proved_infeasible=best.status == "infeasible",
            ignored=best.ignored,
        )

    def part(self, stop: StopCriterion, begun: float, *, last: bool) -> StopCriterion:
        """Return what is left of a criterion for the next solver."""
        rest = [
            leaf
            for leaf in leaves(stop)
            if not isinstance(leaf, MaxRuntime | DeterministicTime)
        ]
        limit, work = runtime_limit(stop), work_limit(stop)
        share = 1.0 if last else self.params.share_of_dual
        if not last and work is None and (limit is None or math.isinf(limit)):
            limit = UNLIMITED_S / share
        if limit is not None:
            rest.append(MaxRuntime(max(limit - begun, 0.0) * share))
        if work is not None:
            rest.append(DeterministicTime(work))
        return AnyOf(*rest)


def possible_shares(problem: Problem) -> int:
    """Return how many (demand, copy) shares a problem could have."""
    copies = problem.num_experts * int(problem.allowed.sum())
    if problem.dataflow == "roam":
        pairs = int((problem.pair_weight > 0).any(axis=0).sum())
        return copies + pairs * problem.num_servers**2
    segments = 1 + problem.fuse_width.shape[2] / max(problem.num_formats, 1)
    return int(np.ceil(copies * problem.num_demands * segments))


def _rank(result: Result) -> tuple[int, float]:
    """Order results: feasible by objective, then broken ones, then none."""
    order = ("optimal", "feasible", "infeasible", "violating", "unknown")
    return max(order.index(result.status) - 1, 0), result.objective
