"""`milp`: the whole problem as one mixed-integer linear programme."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.engines.highs import solve_highs
from meldopt.engines.pulp import solve_pulp
from meldopt.errors import UnsupportedFeatureError
from meldopt.formulations.milp import build_milp
from meldopt.formulations.shares import best_shares
from meldopt.score import score
from meldopt.solver import (
    DeterministicTime,
    MaxRuntime,
    ProgressLog,
    SolverInfo,
    StopReason,
    TargetGap,
    TargetObjective,
    finish,
    gap_target,
    objective_target,
    require_supported,
    runtime_limit,
    work_limit,
)
from meldopt.tolerance import OPTIMALITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.engines.outcome import Outcome
    from meldopt.formulations.milp import Formulation
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion

POLISH_S = 60.0
"""Seconds at most for the last LP over shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MilpParams:
    """Parameters of `milp`.

    Attributes
    ----------
    engine
        ``highs``, ``cbc``, or any other engine of PuLP by its name there.
    threads
        Of the engine; its own choice when None.
    max_columns
        Refuse larger models: they would take memory and time and give nothing.
    """

    engine: str = "highs"
    threads: int | None = None
    max_columns: int = 4_000_000


class MilpSolver:
    """HiGHS, CBC or another engine on the formulation of `meldopt.formulations`."""

    info: ClassVar[SolverInfo] = SolverInfo(
        name="milp",
        kind="exact",
        summary="one mixed-integer linear programme, HiGHS or CBC; proves its bound",
        capabilities=frozenset(
            {
                "home",
                "roam",
                "copies",
                "formats",
                "tiers",
                "budgets",
                "pruning",
                "fusion",
                "substitution",
                "bound",
                "start",
            }
        ),
        terms=(
            "serial",
            "fluid",
            "bottleneck",
            "traffic",
            "energy",
            "quality",
            "pair",
        ),
        deterministic=True,
        stops=(MaxRuntime, DeterministicTime, TargetGap, TargetObjective),
        params=MilpParams,
        packages=("highspy", "pulp"),
        citation="Huangfu and Hall (2018), https://doi.org/10.1007/s12532-017-0130-5",
    )

    def __init__(self, params: MilpParams | None = None) -> None:
        self.params = params or MilpParams()

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
        """Solve a problem; the work of `DeterministicTime` is counted in nodes."""
        started = perf_counter()
        assert self.info.stops is not None
        require_supported(stop, self.info.stops, solver=self.info.name)
        log = ProgressLog(on_progress, started)
        several = problem.dataflow == "roam" and problem.max_copies != 1
        modelled = problem.replace(max_copies=1) if several else problem
        form = build_milp(modelled, by_layer=True)
        if form.model.num_columns > self.params.max_columns:
            raise UnsupportedFeatureError(
                f"milp: got a model of {form.model.num_columns} columns, expected at "
                f"most {self.params.max_columns} (max_columns); use 'local'"
            )
        run = _Run(self.params, form, log, stop, seed)
        outcome, best = run.go(start)
        plan, bound = best, None
        if outcome.x is not None:
            plan = _better(problem, best, run.plan_of(outcome.x))
        # Neither a plan of one copy each nor a fluid stand-in bounds the problem.
        proves = not several and not problem.weight_of("parallel")
        if outcome.bound is not None and proves:
            bound = form.model.true_objective(outcome.bound)
            bound -= 1e-10 * abs(bound)
        reason = (
            StopReason.INTERRUPTED
            if outcome.interrupted
            else StopReason.PROVED
            if outcome.status in ("optimal", "infeasible")
            else StopReason.CRITERION
        )
        return finish(
            problem,
            self.info,
            plan=plan,
            bound=bound,
            stop_reason=reason,
            seed=seed,
            started=started,
            params=self.params,
            history=log.history,
            proved_infeasible=outcome.status == "infeasible"
            and proves
            and plan is None,
            ignored=("copies",) if several else (),
            packages=("highspy",) if self.params.engine == "highs" else ("pulp",),
        )


def _better(problem: Problem, one: Plan | None, other: Plan) -> Plan:
    """Return the feasible plan of lower objective; the second when neither is."""
    if one is None:
        return other
    first, second = score(problem, one), score(problem, other)
    if not second.feasible or (first.feasible and first.objective <= second.objective):
        return one
    return other


class _Run:
    """One run of an engine, told to a progress log."""

    def __init__(
        self,
        params: MilpParams,
        form: Formulation,
        log: ProgressLog,
        stop: StopCriterion,
        seed: int,
    ) -> None:
        self.params, self.form, self.log, self.stop = params, form, log, stop
        self.seed = seed
        self.calls = 0
        self.best: tuple[float, Plan | None] = (np.inf, None)
        self.begun = perf_counter()

    def go(self, start: Plan | None) -> tuple[Outcome, Plan | None]:
        """Run, from a plan if there is one; returns the outcome and the best plan."""
        form, params = self.form, self.params
        warm = None
        if start is not None:
            judged = score(form.problem, start)
            if judged.feasible:
                self.best = (judged.objective, start)
                self.log.report(0, judged.objective, None, start)
            warm = self.complete(start)
        nodes = work_limit(self.stop)
        limit = runtime_limit(self.stop)
        if limit is not None and np.isinf(limit):
            limit = None
        if limit is not None:
            # Building the model took its part of the time.
            limit = max(limit - (perf_counter() - self.begun), 0.01)
        gap = max(gap_target(self.stop) or 0.0, OPTIMALITY / 2)
        common = {
            "time_limit": limit,
            "gap": gap,
            "nodes": None if nodes is None or np.isinf(nodes) else int(nodes),
            "seed": self.seed,
            "threads": params.threads,
            "start": warm,
            "on_incumbent": self.watch,
        }
        if params.engine == "highs":
            outcome = solve_highs(form.model, **common)  # type: ignore[arg-type]
        else:
            outcome = solve_pulp(form.model, engine=params.engine, **common)  # type: ignore[arg-type]
        return outcome, self.best[1]

    def complete(self, start: Plan) -> NDArray[np.float64] | None:
        """Turn a plan into values of all columns: the LP with its copies fixed."""
        import dataclasses

        model, z = self.form.model, self.form.z
        assert z is not None
        values = self.form.encode(start)[z.range]
        lower, upper = model.col_lower.copy(), model.col_upper.copy()
        if (values < lower[z.range] - 1e-9).any():
            return None
        lower[z.range] = upper[z.range] = values
        fixed = dataclasses.replace(model, col_lower=lower, col_upper=upper)
        return solve_highs(fixed, relax=True, time_limit=30.0).x

    def watch(
        self,
        objective: float | None,
        bound: float | None,
        x: NDArray[np.float64] | None,
    ) -> bool:
        """Report what the engine has; ends the run at a target objective."""
        self.calls += 1
        form = self.form
        proves = not form.problem.weight_of("parallel")
        low = form.model.true_objective(bound) if bound is not None and proves else None
        if x is not None:
            plan = form.decode(x)
            judged = score(form.problem, plan)
            if judged.feasible and judged.objective < self.best[0]:
                self.best = (judged.objective, plan)
        value, plan_ = self.best
        if plan_ is None and objective is not None:
            value = form.model.true_objective(objective)
        self.log.report(self.calls, value, low, plan_)
        target = objective_target(self.stop)
        return target is not None and self.best[0] <= target

    def plan_of(self, x: NDArray[np.float64]) -> Plan:
        """Read a plan off a solution, with the best shares for its copies."""
        plan = best_shares(self.form.problem, self.form.copies(x), time_limit=POLISH_S)
        return self.form.decode(x) if plan is None else plan
