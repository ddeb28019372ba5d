"""`cpsat`: copies by CP-SAT, shares by prices and an LP; proves its bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.engines.cpsat import solve_cpsat
from meldopt.engines.duals import SharesLp
from meldopt.errors import UnsupportedFeatureError
from meldopt.formulations.cpsat import TIGHTEN, PricedModel, WholeModel, formulate
from meldopt.formulations.milp import build_milp
from meldopt.formulations.shares import best_shares
from meldopt.score import score
from meldopt.solver import (
    CAPABILITIES,
    ProgressLog,
    SolverInfo,
    StopReason,
    finish,
    gap_target,
    runtime_limit,
    work_limit,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.engines.cpsat import CpsatOutcome
    from meldopt.formulations.milp import Formulation
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion

PROOF = 4e-7
"""Gap that is closed when CP-SAT finds no copies below it; under `OPTIMALITY`."""

INFEASIBLE = 1e-8
"""Relative excess of a limit, at least, for copies that have no shares."""

FIRST_SLICE = 2.0
"""Work of the first run of CP-SAT; later ones may do ever more."""

RELAXED = 1e-6
"""What a bound from the LP of the engine gives away to its tolerances, relative."""

POLISH_S = 60.0
"""Seconds at most for an LP over shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpsatParams:
    """Parameters of `cpsat`.

    Attributes
    ----------
    threads
        Of CP-SAT; all cores when None. With a deterministic budget its sub-solvers take
        turns instead, the same on every machine.
    solutions
        Solutions of each run, the best ones, whose shares are optimised.
    max_candidates
        Refuse problems with more possible copies: they would take memory and time and
        give nothing.
    """

    threads: int | None = None
    solutions: int = 4
    max_candidates: int = 200_000


class CpsatSolver:
    """CP-SAT of OR-Tools on the formulations of `meldopt.formulations.cpsat`."""

    info: ClassVar[SolverInfo] = SolverInfo(
        name="cpsat",
        kind="exact",
        summary="copies by CP-SAT, shares by prices and an LP; proves its bound",
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
        deterministic=False,  # among equal optima the plan may differ between runs
        params=CpsatParams,
        packages=("highspy", "ortools"),
        citation="Perron and Furnon, OR-Tools, https://developers.google.com/optimization",
    )

    def __init__(self, params: CpsatParams | None = None) -> None:
        self.params = params or CpsatParams()

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
        """Solve a problem.

        A unit of `DeterministicTime` is one of CP-SAT's deterministic time, about a
        second of a core, and of the LP's; an iteration is one run of CP-SAT.
        """
        started = perf_counter()
        log = ProgressLog(on_progress, started)
        several = problem.dataflow == "roam" and problem.max_copies != 1
        modelled = problem.replace(max_copies=1) if several else problem
        run = _Run(self.params, modelled, log, stop, seed, bounds=not several)
        try:
            run.go(start)
        except KeyboardInterrupt:
            run.reason = StopReason.INTERRUPTED
        return finish(
            problem,
            self.info,
            plan=run.plan,
            bound=run.true_bound,
            stop_reason=run.reason,
            seed=seed,
            started=started,
            params=self.params,
            history=log.history,
            proved_infeasible=run.infeasible and not several and run.plan is None,
            ignored=("copies",) if several else (),
        )


class _Run:
    """One run: what is known so far, and the loop."""

    def __init__(
        self,
        params: CpsatParams,
        problem: Problem,
        log: ProgressLog,
        stop: StopCriterion,
        seed: int,
        *,
        bounds: bool,
    ) -> None:
        self.params, self.problem, self.log, self.seed = params, problem, log, seed
        self.check = stop.start()
        self.begun = perf_counter()
        limit = runtime_limit(stop)
        self.end = math.inf if limit is None else self.begun + limit
        budget = work_limit(stop)
        self.budget = math.inf if budget is None else budget
        self.deterministic = budget is not None
        self.gap = max(PROOF, 0.999 * (gap_target(stop) or 0.0))
        # The fluid stand-in of `parallel` proves nothing about it, nor one copy each
        # about several.
        self.proves = bounds and not problem.weight_of("parallel")
        self.plan: Plan | None = None
        self.objective = math.inf  # of the plan
        self.upper = math.inf  # of the model, at known copies that have shares
        self.bound = -math.inf  # of the model
        self.infeasible = False
        self.reason = StopReason.FINISHED
        self.iteration = 0
        self.work = 0.0
        self.scale = 1.0

    # -- what is known -----------------------------------------------------------------
    @property
    def true_bound(self) -> float | None:
        """The bound in the scale of the problem, if it proves anything."""
        return self._true(self.bound)

    def _true(self, bound: float) -> float | None:
        if not self.proves or not math.isfinite(bound):
            return None
        value = bound / self.scale
        return value - 1e-11 * abs(value)

    def report(self, live: float | None = None) -> None:
        """Tell the log; ``live`` is a bound that the engine has at this moment."""
        bound = self.bound if live is None else max(self.bound, live)
        bound = min(bound, self.upper)
        self.log.report(self.iteration, self.objective, self._true(bound), self.plan)

    def offer(self, plan: Plan | None) -> None:
        """Keep a plan if it is feasible and the best so far."""
        if plan is None:
            return
        judged = score(self.problem, plan)
        if judged.feasible and judged.objective < self.objective:
            self.plan, self.objective = plan, judged.objective
            if not self.problem.weight_of("parallel"):
                self.upper = min(self.upper, judged.objective * self.scale)
            self.report()

    def raise_bound(self, bound: float) -> None:
        """Keep a bound if it is better."""
        if bound > self.bound:
            self.bound = bound
            self.report()

    def stopped(self) -> bool:
        """Ask the stop criterion."""
        if self.check.stop(self.iteration, self.objective, self.true_bound, self.work):
            self.reason = StopReason.CRITERION
            return True
        return False

    def left(self) -> float | None:
        """Seconds left, or None without a limit."""
        return None if math.isinf(self.end) else max(self.end - perf_counter(), 0.0)

    def shares_of(self, copies: NDArray[np.int64]) -> Plan | None:
        """Optimise the shares of copies, within what is left."""
        left = self.left()
        limit = POLISH_S if left is None else min(POLISH_S, max(left, 1.0))
        return best_shares(self.problem, copies, time_limit=limit)

    # -- the run -----------------------------------------------------------------------
    def go(self, start: Plan | None) -> None:
        """Run to a proof or until the criterion says so."""
        if start is not None:
            self.offer(start)
        if self.stopped():
            return
        form = build_milp(self.problem, tighten=TIGHTEN)
        if len(form.candidates) > self.params.max_candidates:
            raise UnsupportedFeatureError(
                f"cpsat: got {len(form.candidates)} possible copies, expected at most "
                f"{self.params.max_candidates} (max_candidates); use 'local'"
            )
        self.scale = form.model.objective_scale
        if math.isfinite(self.objective) and not self.problem.weight_of("parallel"):
            self.upper = self.objective * self.scale
        shares = SharesLp(form)
        root = shares.relax(time_limit=self.left())
        self.work += shares.work
        shares.work = 0.0
        magnitude = None  # if the relaxation is infeasible the rows will say why
        if root is not None and math.isfinite(root.value):
            magnitude = root.value
            self.raise_bound(root.value - RELAXED * abs(root.value))
        model = formulate(form, magnitude=magnitude)
        if isinstance(model, WholeModel):
            _Whole(self, form, model).go(start)
        else:
            if root is None or math.isinf(root.value):
                model.add_prices(np.zeros(form.model.num_rows))
                if root is not None and math.isfinite(root.excess):
                    model.forbid(root.prices)
            else:
                model.add_prices(root.prices)
                if len(model.priced_parts):
                    shares.soften(model.limit_prices(root.prices), model.is_limit)
            _Priced(self, form, model, shares).go(start)

    def cpsat(
        self,
        model: WholeModel | PricedModel,
        *,
        share: float | None = None,
        gap: float = 0.0,
        base: float | None = None,
    ) -> CpsatOutcome:
        """Run CP-SAT within what is left; ``share`` limits this run."""
        left = self.left()
        work = self.budget - self.work
        if share is not None:
            work = min(work, share)
        ask = not self.deterministic

        def tick(
            latest: NDArray[np.int64] | None,
            objective: float | None,
            bound: float | None,
        ) -> bool:
            if latest is not None and ask:
                # A repeatable run looks at solutions at its end, in their order.
                self.offer(self.shares_of(model.copies(latest)))
            if bound is not None and abs(bound) < 2.0**61:
                live = model.bound(math.floor(bound))
                self.report(live if base is None else min(live, base))
            else:
                self.report()
            return ask and self.check.stop(
                self.iteration, self.objective, self.true_bound, self.work
            )

        outcome = solve_cpsat(
            model.model,
            model.z,
            time_limit=left,
            work=None if math.isinf(work) else work,
            gap=gap,
            seed=self.seed,
            threads=self.params.threads,
            deterministic=self.deterministic,
            on_tick=tick,
        )
        self.work += outcome.work
        self.iteration += 1
        if outcome.by_key:
            self.reason = StopReason.INTERRUPTED
        return outcome


class _Whole:
    """The problem is a 0/1 programme: CP-SAT solves it."""

    def __init__(self, run: _Run, form: Formulation, model: WholeModel) -> None:
        self.run, self.form, self.model = run, form, model

    def go(self, start: Plan | None) -> None:
        """One run to the end; the better solutions become plans."""
        run, model = self.run, self.model
        if start is not None:
            model.hint(model.encode(start))
        outcome = run.cpsat(model, gap=run.gap / 2)
        for z in outcome.solutions[::-1][: run.params.solutions]:
            run.offer(run.shares_of(model.copies(z)))
        if outcome.bound is not None:
            run.raise_bound(model.bound(outcome.bound))
        if outcome.status == "infeasible":
            run.infeasible = True
        if run.reason is StopReason.INTERRUPTED:
            return
        proved = outcome.status in ("optimal", "infeasible")
        run.reason = StopReason.PROVED if proved else StopReason.CRITERION


class _Priced:
    """CP-SAT proposes copies, the LP over shares prices them, until they meet."""

    def __init__(
        self, run: _Run, form: Formulation, model: PricedModel, shares: SharesLp
    ) -> None:
        self.run, self.form, self.model, self.shares = run, form, model, shares
        self.seen: set[bytes] = set()
        self.excluded = math.inf  # least bound of copies that were taken out
        self.least = math.inf  # cut-off in force, in the scale of the model

    def go(self, start: Plan | None) -> None:
        """Loop until the bound meets the best plan or the criterion says so."""
        run, model = self.run, self.model
        if start is not None:
            z = model.encode(start)
            if len(model.copies(z)) == len(start.copies):
                self.consider(z)
            model.hint(z)
        share = FIRST_SLICE
        while not run.stopped():
            self.cut_off()
            outcome = run.cpsat(
                model, share=share, gap=PROOF / 4, base=min(self.excluded, self.least)
            )
            self.learn(outcome)
            if run.reason is StopReason.INTERRUPTED:
                return
            done = outcome.status == "infeasible"
            if done or run.bound >= run.upper - PROOF * abs(run.upper):
                run.reason = StopReason.PROVED
                return
            if outcome.status != "optimal":
                share *= 2

    def cut_off(self) -> None:
        """Look only for copies that may be better than the best known."""
        run, model = self.run, self.model
        if math.isinf(run.upper):
            return
        target = run.upper - run.gap * abs(run.upper)
        if target < self.least:
            top = model.cut_off(target)
            # Copies that this takes away have a theta of at least top + 1.
            self.least = min(self.least, model.bound(top + 1))

    def learn(self, outcome: CpsatOutcome) -> None:
        """Take bounds and copies from a run of CP-SAT."""
        run, model = self.run, self.model
        floor = min(self.excluded, self.least)
        if outcome.status == "infeasible":
            if math.isinf(floor):
                run.infeasible = True
            else:
                run.raise_bound(floor)
        elif outcome.bound is not None:
            run.raise_bound(min(model.bound(outcome.bound), floor))
        if outcome.by_key:
            return  # who pressed Ctrl-C does not wait for more LPs
        for z in outcome.solutions[::-1][: run.params.solutions]:
            self.consider(z)
        if len(outcome.solutions):
            model.hint(outcome.solutions[-1])

    def consider(self, z: NDArray[np.int64]) -> None:
        """Optimise the shares of copies, and learn their prices."""
        run, model = self.run, self.model
        key = z.astype(np.int8).tobytes()
        if key in self.seen:
            self.exclude(z)
            return
        self.seen.add(key)
        left = run.left()
        limit = POLISH_S if left is None else min(POLISH_S, max(left, 1.0))
        found = self.shares.fix(z, time_limit=limit)
        run.work += self.shares.work
        self.shares.work = 0.0
        if found is None or math.isinf(found.excess):
            return
        if math.isfinite(found.value):
            if found.value < run.upper or run.problem.weight_of("parallel"):
                plan = run.shares_of(model.copies(z))
                run.offer(plan)
                if plan is not None:
                    run.upper = min(run.upper, found.value)
            model.add_prices(found.prices)
        else:
            model.forbid(found.prices)
        if self.shares.softened:
            # Maxima at the root's prices of limits: these add up layer by layer.
            soft = self.shares.price(z, time_limit=limit)
            run.work += self.shares.work
            self.shares.work = 0.0
            if soft is not None and math.isfinite(soft.value):
                limits = self.shares.soft_prices
                model.add_prices(np.where(model.is_limit, limits, soft.prices))

    def exclude(self, z: NDArray[np.int64]) -> None:
        """Take copies out that no prices move any more; their bound is remembered."""
        model = self.model
        if not any(model.value(cut, z) > INFEASIBLE for cut in model.limits):
            values = [model.value(cut, z) for cut in model.cuts]
            self.excluded = min(self.excluded, max(values, default=-math.inf))
        model.exclude(z)
