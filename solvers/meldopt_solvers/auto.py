"""`auto`: chooses by size, and says what it chose.

Small problems go to `milp` at once. Others go to `dual`: a bound and a plan from
prices, and large-neighbourhood search from there. In the middle `milp` follows, which
may prove more than prices can. With `parallel` in the objective, which `milp` cannot
see, `dual` comes last in any case: it bounds the term, and its last step improves the
plan on the sampled tokens.
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
    Progress,
    SolverInfo,
    StopReason,
    TargetGap,
    TargetObjective,
    finish,
    gap_target,
    make_solver,
    runtime_limit,
    work_limit,
)
from meldopt.stop import leaves
from meldopt.tolerance import OPTIMALITY

from .search.sampled import is_sampled

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion


UNLIMITED_S = 30.0
"""Seconds that a solver gets before another where there is no limit."""

PRICES = 0.1
"""Part of the gap asked for to which prices are raised before plans are sought."""


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
        Part of the time that the first of two solvers gets, at most: where `milp`
        comes second it gets less below a quarter of `middle`, in proportion.
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
        unseen = is_sampled(problem) and problem.weight_of("parallel") > 0
        if problem.dataflow == "roam" and problem.max_copies == 1:
            return ("dual", "milp") if shares <= self.params.middle else ("dual",)
        if shares <= self.params.small:
            return ("milp", "dual") if unseen else ("milp",)
        if shares <= self.params.middle and not unseen:
            return ("dual", "milp")
        return ("dual",)

    def options(self, name: str, stop: StopCriterion) -> dict[str, Any]:
        """Return the parameters of a solver."""
        options: dict[str, Any] = {"threads": self.params.threads}
        if name == "dual":
            from .relaxation.dual import DualParams

            usual = DualParams().tolerance
            asked = PRICES * (gap_target(stop) or 0.0)
            options["improve"] = True
            options["cluster"] = self.params.cluster
            options["tolerance"] = max(usual, asked)
        return options

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
        share = self.params.share_of_dual
        if chosen[-1] == "milp":  # it proves the more, the smaller the problem is
            part = 4.0 * possible_shares(problem) / max(self.params.middle, 1)
            share *= min(part, 1.0)
        relay = _Relay(on_progress)
        enough = AnyOf(
            *(leaf for leaf in leaves(stop) if isinstance(leaf, _TARGETS))
        ).start()
        best: Result | None = None
        plan, bound, bound_by = start, None, None
        reason = StopReason.CRITERION
        for name in chosen:
            relay.begun = perf_counter() - started
            last = name == chosen[-1]
            if best is not None and _is_over(stop, relay.begun):
                break
            result = make_solver(name, self.options(name, stop)).solve(
                problem,
                stop=self.part(stop, relay.begun, last=last, bound=bound, share=share),
                seed=seed,
                start=plan,
                on_progress=relay,
            )
            relay.note(result)
            reason = result.stop_reason
            if best is None or _rank(result) < _rank(best):
                best = result
            if result.feasible:
                plan = result.plan
            if result.bound is not None and (bound is None or result.bound > bound):
                bound, bound_by = result.bound, name
            if result.stop_reason in (StopReason.PROVED, StopReason.INTERRUPTED):
                break
            if enough.stop(0, best.objective if best.feasible else math.inf, bound):
                break
        assert best is not None
        found_by = best.params.get("found_by", best.solver)
        return finish(
            problem,
            self.info,
            plan=best.plan,
            bound=bound,
            stop_reason=reason,
            seed=seed,
            started=started,
            params=dataclasses.asdict(self.params)
            | {"found_by": found_by, "bound_by": bound_by},
            history=relay.history,
            proved_infeasible=best.status == "infeasible",
            ignored=best.ignored,
        )

    def part(
        self,
        stop: StopCriterion,
        begun: float,
        *,
        last: bool,
        bound: float | None = None,
        share: float = 0.5,
    ) -> StopCriterion:
        """Return what is left of a criterion for the next solver.

        Parameters
        ----------
        stop
            Of the whole run.
        begun
            Seconds that are over.
        last
            Whether no solver follows.
        bound
            What is proved: with it the gap asked for is an objective to reach.
        share
            Part of the time if another solver follows.
        """
        rest = [
            leaf
            for leaf in leaves(stop)
            if not isinstance(leaf, MaxRuntime | DeterministicTime)
        ]
        if bound is not None:
            gap = max(gap_target(stop) or 0.0, OPTIMALITY)
            rest.append(TargetObjective(bound / (1.0 - math.copysign(gap, bound))))
        limit, work = runtime_limit(stop), work_limit(stop)
        share = 1.0 if last else share
        if not last and work is None and (limit is None or math.isinf(limit)):
            limit = UNLIMITED_S / share
        if limit is not None:
            rest.append(MaxRuntime(max(limit - begun, 0.0) * share))
        if work is not None:
            rest.append(DeterministicTime(work))
        return AnyOf(*rest)


_TARGETS = (TargetGap, TargetObjective)


def _is_over(stop: StopCriterion, elapsed: float) -> bool:
    """Say whether a limit of time is reached."""
    limit = runtime_limit(stop)
    return limit is not None and elapsed >= limit


class _Relay:
    """Tells what several solvers report as one story that only gets better."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.on_progress = on_progress
        self.begun = 0.0
        self.objective, self.bound = math.inf, -math.inf
        self.history: list[tuple[float, float, float | None]] = []

    def _better(
        self, objective: float, bound: float | None
    ) -> tuple[float, float | None]:
        self.objective = min(self.objective, objective)
        if bound is not None:
            self.bound = max(self.bound, bound)
        return self.objective, self.bound if math.isfinite(self.bound) else None

    def note(self, result: Result) -> None:
        """Take over the history of a solver that has ended."""
        seen = self.history[-1] if self.history else (0.0, math.inf, None)
        best, low = seen[1], seen[2]
        for elapsed, objective, bound in result.history:
            best = min(best, objective)
            if bound is not None:
                low = bound if low is None else max(low, bound)
            self.history.append((self.begun + elapsed, best, low))
        if result.feasible:
            self._better(result.objective, None)

    def __call__(self, progress: Progress) -> None:
        """Pass a report on."""
        if self.on_progress is None:
            return
        better = progress.objective <= self.objective
        objective, bound = self._better(progress.objective, progress.bound)
        self.on_progress(
            Progress(
                progress.iteration,
                self.begun + progress.elapsed_s,
                objective,
                bound,
                progress.incumbent if better else None,
            )
        )


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
