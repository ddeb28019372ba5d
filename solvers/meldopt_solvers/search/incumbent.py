"""The best plan of a run: judged, kept and reported."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from meldopt.formulations.shares import best_shares
from meldopt.score import score
from meldopt.solver import ProgressLog
from meldopt.stop import iteration_limit, runtime_limit, work_limit
from meldopt.tolerance import FEASIBILITY

from .terms import lp_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.score import Score
    from meldopt.solver import OnProgress, StopCriterion

    from .state import HomeState

MOST_KEPT = 50_000
"""Sets of copies whose value is remembered."""

LP_WORK = 1e-4
"""Deterministic work of an LP for each copy and demand."""

WORTH_AN_LP = 0.5
"""Relative excess of a row up to which the LP of the shares may still mend it."""

LP_GAIN = 1e-5
"""Part of the objective that the LP must promise to gain where the shares of a state
keep all rows already."""


class Incumbent:
    """Keeps the best plan, and asks the stop criterion.

    Parameters
    ----------
    problem
        What is solved.
    stop
        When to end.
    started
        `time.perf_counter` at the start.
    on_progress
        Who watches.
    start
        A plan that is offered first.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        stop: StopCriterion,
        started: float,
        on_progress: OnProgress | None,
        start: Plan | None = None,
    ) -> None:
        self.problem = problem
        self.plan: Plan | None = None
        self.objective = math.inf
        self.bound: float | None = None  # proven by who has one
        self.least_excess = math.inf
        self.iteration = 0
        self.work = 0.0  # of LPs; a state counts its own
        self.log = ProgressLog(on_progress, started)
        self._check = stop.start()
        self._limits = work_limit(stop), iteration_limit(stop), runtime_limit(stop)
        self._started = started
        self._values: dict[bytes, float] = {}
        if start is not None:
            self.offer(start)

    def offer(self, plan: Plan) -> Score:
        """Judge a plan; keep it if it is better, or breaks less while all break."""
        judged = score(self.problem, plan)
        if judged.feasible:
            if judged.objective < self.objective:
                self.plan, self.objective = plan, judged.objective
                self.least_excess = 0.0
                self.tell()
        elif math.isinf(self.objective):
            excess = sum(
                -row.slack / max(abs(row.limit), 1.0 if not row.limit else 1e-300)
                for row in judged.rows
                if row.violated
            )
            if excess < self.least_excess:
                self.plan, self.least_excess = plan, excess
        return judged

    def offer_shares(self, copies: NDArray[np.int64]) -> float:
        """Find the best shares of some copies by an LP and offer that plan.

        Returns
        -------
        float
            Objective of that plan; ``inf`` if no shares keep all rows.
        """
        key = copies.astype(np.int32).tobytes()
        if key in self._values:
            return self._values[key]
        plan = best_shares(self.problem, copies)
        value = math.inf if plan is None else self.offer(plan).objective
        if len(self._values) < MOST_KEPT:
            self._values[key] = value
        self.work += copies.size * self.problem.num_demands * LP_WORK
        return value

    def offer_state(self, state: HomeState, *, lp_shares: int) -> None:
        """Offer the plan of a state, and the one with the best shares.

        Parameters
        ----------
        state
            Copies that break a row are not offered.
        lp_shares
            Columns up to which an LP looks for the best shares.
        """
        load, memory, wrong = state.excess()
        if memory > FEASIBILITY or wrong:
            return
        # Sampled terms are searched by another measure: only `score` can compare.
        sampled = self.problem.weight_of("parallel") + self.problem.weight_of("fluid")
        if load <= FEASIBILITY and (sampled or state.objective() < self.objective):
            self.offer(state.plan())
        if load < WORTH_AN_LP and lp_size(state) <= lp_shares:
            known = sampled or load > FEASIBILITY or state.tables.bottleneck
            if known or self._promises(state):
                self.offer_shares(state.copies())

    def _promises(self, state: HomeState) -> bool:
        """Say whether other shares of the same copies may be worth an LP.

        Shares that cost least at prices of the rows cannot gain more than what these
        charge for the room that is left (weak duality); twice that, as prices moved a
        little since the shares were decided.
        """
        value, gain = state.objective(), 2.0 * state.idle()
        return gain > LP_GAIN * abs(value) and value - gain < self.objective

    def tell(self) -> None:
        """Report progress."""
        feasible = math.isfinite(self.objective)
        self.log.report(
            self.iteration,
            self.objective,
            self.bound,
            self.plan if feasible else None,
        )

    def spent(self, work: float = 0.0) -> bool:
        """Say whether the run ends here; ``work`` is what was done beside LPs."""
        done = self.work + work
        return self._check.stop(self.iteration, self.objective, self.bound, done)

    def part(self, work: float = 0.0) -> float | None:
        """Return the part of the budget that is over; None if nothing limits the run.

        Where work or iterations end a run the clock decides nothing.
        """
        units, iterations, seconds = self._limits
        parts = []
        if units is not None and math.isfinite(units):
            parts.append((self.work + work) / units if units > 0 else 1.0)
        if iterations is not None:
            parts.append(self.iteration / iterations if iterations > 0 else 1.0)
        if not parts and seconds is not None and math.isfinite(seconds):
            gone = perf_counter() - self._started
            parts.append(gone / seconds if seconds > 0 else 1.0)
        return max(parts, default=None)

    def step(self, work: float = 0.0) -> bool:
        """Count an iteration, report, and say whether the run ends here."""
        self.iteration += 1
        self.tell()
        return self.spent(work)
