"""`milp`: the whole problem as one mixed-integer linear programme."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from meldopt.engines.highs import solve_highs
from meldopt.engines.outcome import Outcome
from meldopt.engines.pulp import solve_pulp
from meldopt.errors import UnsupportedFeatureError
from meldopt.formulations.milp import build_milp
from meldopt.formulations.shares import best_shares
from meldopt.score import score
from meldopt.solver import (
    CAPABILITIES,
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

    from meldopt.formulations.milp import Formulation
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion

POLISH_S = 60.0
"""Seconds at most for the last LP over shares."""

DIVE_SHARE = 0.3
"""Part of the time that is left which the search near the relaxation gets."""

DIVE_GAP = 2e-4
"""Gap of the restricted model at which that search ends."""

RESERVE = 0.05
"""Part of the time that no engine gets: engines end late, and plans must be judged."""


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
    dive_columns
        Without a start, models with more columns are relaxed first, and a plan is
        sought among the copies that the relaxation uses and their neighbours
        (relaxation induced neighbourhood, Danna, Rothberg and Le Pape 2005).
    """

    engine: str = "highs"
    threads: int | None = None
    max_columns: int = 4_000_000
    dive_columns: int = 5_000


class MilpSolver:
    """HiGHS, CBC or another engine on the formulation of `meldopt.formulations`."""

    info: ClassVar[SolverInfo] = SolverInfo(
        name="milp",
        kind="exact",
        summary="one mixed-integer linear programme, HiGHS or CBC; proves its bound",
        capabilities=frozenset(CAPABILITIES),
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
        run = _Run(self.params, form, log, stop, seed, started)
        outcome, best = run.go(start)
        plan, bound = best, None
        if run.relaxed is not None:
            bound = run.relaxed
        if outcome.x is not None:
            plan = _better(problem, best, run.plan_of(outcome.x))
        # Neither a plan of one copy each nor a fluid stand-in bounds the problem.
        proves = not several and not problem.weight_of("parallel")
        if outcome.bound is not None and proves:
            low = form.model.true_objective(outcome.bound)
            bound = low if bound is None else max(bound, low)
        if bound is not None:
            bound = bound - 1e-10 * abs(bound) if proves else None
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


def _nothing() -> Outcome:
    """Return the outcome of no run: nothing was found and nothing proved."""
    return Outcome(status="unknown", x=None, objective=None, bound=None)


def _member(rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which rows stand among the wanted ones."""
    known = {tuple(row) for row in wanted.tolist()}
    return np.array([tuple(row) in known for row in rows.tolist()], dtype=np.bool_)


class _Run:
    """One run of an engine, told to a progress log."""

    def __init__(
        self,
        params: MilpParams,
        form: Formulation,
        log: ProgressLog,
        stop: StopCriterion,
        seed: int,
        started: float,
    ) -> None:
        self.params, self.form, self.log, self.stop = params, form, log, stop
        self.seed = seed
        self.calls = 0
        self.best: tuple[float, Plan | None] = (np.inf, None)
        self.started = started
        self.relaxing_s = 0.0
        self.relaxed: float | None = None

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
        known = self.best[1] is not None
        large = form.model.num_columns > params.dive_columns
        if params.engine == "highs" and large and not known:
            ended = self.dive()
            if ended is not None:
                return ended, self.best[1]
            if self.over():
                return _nothing(), self.best[1]
            if self.best[1] is not None:
                warm = self.complete(self.best[1])
        if self.over():
            return _nothing(), self.best[1]
        common = self.limits() | {"start": warm, "on_incumbent": self.watch}
        if params.engine == "highs":
            outcome = solve_highs(form.model, **common)
        else:
            outcome = solve_pulp(form.model, engine=params.engine, **common)
        return outcome, self.best[1]

    def left(self) -> float | None:
        """Return the seconds that are left, or None without a limit."""
        limit = runtime_limit(self.stop)
        if limit is None or np.isinf(limit):
            return None
        gone = perf_counter() - self.started
        return max((1.0 - RESERVE) * limit - gone, 0.01)

    def over(self) -> bool:
        """Return whether there is no time for another run of an engine.

        It takes a while to read a model and to see that the time is over: less time
        than a fifth of what the relaxation took is none.
        """
        left = self.left()
        return left is not None and left <= max(0.01, 0.2 * self.relaxing_s)

    def polish_s(self) -> float:
        """Return the seconds for an LP over shares."""
        left = self.left()
        return POLISH_S if left is None else min(POLISH_S, left)

    def gap(self) -> float:
        """Return the gap to stop at; half of what counts as optimal at least."""
        return max(gap_target(self.stop) or 0.0, OPTIMALITY / 2)

    def closed(self) -> bool:
        """Return whether the best plan is as near to the relaxation as asked for."""
        value = self.best[0]
        if self.relaxed is None or not np.isfinite(value):
            return False
        return bool(value - self.relaxed <= self.gap() * abs(value))

    def limits(self) -> dict[str, Any]:
        """Return what ends a run of the engine."""
        nodes = work_limit(self.stop)
        return {
            "time_limit": self.left(),
            "gap": self.gap(),
            "nodes": None if nodes is None or np.isinf(nodes) else int(nodes),
            "seed": self.seed,
            "threads": self.params.threads,
        }

    def dive(self) -> Outcome | None:
        """Relax, then look for a plan near the relaxation; sets bound and best.

        Returns an outcome if the run is over with it: interrupted, infeasible, or the
        gap closed.
        """
        form = self.form
        if self.over():
            return _nothing()
        begun = perf_counter()
        lp = solve_highs(
            form.model,
            relax=True,
            method="ipm",
            time_limit=self.left(),
            threads=self.params.threads,
        )
        self.relaxing_s = perf_counter() - begun
        if lp.interrupted:
            return dataclasses.replace(lp, status="unknown", x=None, bound=None)
        if lp.status == "infeasible":
            return lp
        if lp.x is None or lp.bound is None or lp.status != "optimal":
            return None
        low = form.model.true_objective(lp.bound)
        proves = not form.problem.weight_of("parallel")
        self.relaxed = low if proves else None
        self.log.report(0, self.best[0], self.relaxed, self.best[1])
        for wide in (False, True):
            if self.over():
                return None
            found = self.restricted(self.near(lp.x, wide=wide))
            if found.interrupted:
                # What it says of a part of the copies says nothing of the whole.
                return dataclasses.replace(found, status="unknown", x=None, bound=None)
            if self.closed():
                return Outcome(
                    status="feasible", x=None, objective=None, bound=lp.bound
                )
        return None

    def restricted(self, candidates: NDArray[np.int64]) -> Outcome:
        """Look for a plan among some of the copies only."""
        near = build_milp(
            self.form.problem, candidates=candidates, by_layer=self.form.by_layer
        )
        limits = self.limits()
        if limits["time_limit"] is not None:
            limits["time_limit"] *= DIVE_SHARE
        limits["gap"] = max(limits["gap"], DIVE_GAP)
        start = None
        if self.best[1] is not None:
            start = self.complete(self.best[1], near)
        watch = _Watch(self, near)
        found = solve_highs(near.model, start=start, on_incumbent=watch, **limits)
        if found.x is not None:
            self.keep(near, found.x, polish=True)
        return found

    def near(self, x: NDArray[np.float64], *, wide: bool) -> NDArray[np.int64]:
        """Return the copies near a relaxed solution and near the best plan.

        Those that either uses; if ``wide``, also every copy of the experts on which
        the two differ.
        """
        form, problem = self.form, self.form.problem
        assert form.z is not None
        value = x[form.z.range]
        best = np.zeros(len(value))
        if self.best[1] is not None:
            best = np.nan_to_num(form.encode(self.best[1])[form.z.range])
        keep = (value > 1e-6) | (best > 0.5)
        every = form.candidates
        keep |= _member(every, problem.pinned)
        if wide:
            differ = np.zeros(problem.num_experts, dtype=bool)
            differ[every[np.abs(value - best) > 1e-6, 0]] = True
            keep |= differ[every[:, 0]]
        found: NDArray[np.int64] = every[keep]
        return found

    def complete(
        self, start: Plan, form: Formulation | None = None
    ) -> NDArray[np.float64] | None:
        """Turn a plan into values of all columns: the LP with its copies fixed."""
        form = form or self.form
        model, z = form.model, form.z
        assert z is not None
        values = form.encode(start)[z.range]
        lower, upper = model.col_lower.copy(), model.col_upper.copy()
        if (values < lower[z.range] - 1e-9).any():
            return None
        lower[z.range] = upper[z.range] = values
        fixed = dataclasses.replace(model, col_lower=lower, col_upper=upper)
        if self.over():
            return None
        left = self.left()
        seconds = 30.0 if left is None else min(30.0, left)
        return solve_highs(fixed, relax=True, time_limit=seconds).x

    def watch(
        self,
        objective: float | None,
        bound: float | None,
        x: NDArray[np.float64] | None,
    ) -> bool:
        """Report what the engine has; ends the run at a target objective."""
        form = self.form
        proves = not form.problem.weight_of("parallel")
        low = self.relaxed
        if bound is not None and proves:
            value = form.model.true_objective(bound)
            low = value if low is None else max(low, value)
        return self.tell(form, objective, low, x)

    def tell(
        self,
        form: Formulation,
        objective: float | None,
        low: float | None,
        x: NDArray[np.float64] | None,
    ) -> bool:
        """Keep a better plan, report, and say whether the target is met."""
        self.calls += 1
        if x is not None:
            self.keep(form, x)
        value, plan = self.best
        if plan is None and objective is not None:
            value = form.model.true_objective(objective)
        self.log.report(self.calls, value, low, plan)
        target = objective_target(self.stop)
        return target is not None and self.best[0] <= target

    def keep(
        self, form: Formulation, x: NDArray[np.float64], *, polish: bool = False
    ) -> None:
        """Keep the plan of a solution if it is feasible and the best so far."""
        plan = form.decode(x)
        if polish and not self.over():
            seconds = self.polish_s()
            plan = best_shares(form.problem, plan.copies, time_limit=seconds) or plan
        judged = score(form.problem, plan)
        if judged.feasible and judged.objective < self.best[0]:
            self.best = (judged.objective, plan)

    def plan_of(self, x: NDArray[np.float64]) -> Plan:
        """Read a plan off a solution, with the best shares for its copies."""
        plan = None
        if not self.over():
            plan = best_shares(
                self.form.problem, self.form.copies(x), time_limit=self.polish_s()
            )
        return self.form.decode(x) if plan is None else plan


class _Watch:
    """Tells what a restricted model finds; its bound proves nothing."""

    def __init__(self, run: _Run, form: Formulation) -> None:
        self.run, self.form = run, form

    def __call__(
        self,
        objective: float | None,
        bound: float | None,
        x: NDArray[np.float64] | None,
    ) -> bool:
        del bound
        run = self.run
        done = run.tell(self.form, objective, run.relaxed, x)
        return done or run.closed()
