"""The LP over shares while copies move: one HiGHS model, warm from solve to solve."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np
import scipy.sparse as sp

from .aside import run_aside
from .highs import LARGE_MODEL, make_highs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.formulations.linear import LinearModel
    from meldopt.formulations.milp import Formulation

LIMITS = ("compute", "link", "budget", "quality", "latency")
"""Families of rows whose limits shares may break, whatever the copies."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Duals:
    """What the LP says of given copies.

    Attributes
    ----------
    value
        Objective of the best shares in the scale of the model; inf if there are none.
    excess
        Least largest relative excess of a limit if there are no such shares, else 0.
    prices
        Of the rows, non-negative, (m,): of the objective, or of the excess.
    """

    value: float
    excess: float
    prices: NDArray[np.float64]


class _Lp:
    """A HiGHS model that Ctrl-C can stop; it is raised once HiGHS has ended."""

    def __init__(self, highs: Any, *, large: bool) -> None:
        self.highs = highs
        self._stop = threading.Event()
        if large:  # else it has ended before anybody could ask twice
            kinds = highspy.cb.HighsCallbackType
            highs.setCallback(self._ask, None)
            highs.startCallback(kinds.kCallbackSimplexInterrupt)
            highs.startCallback(kinds.kCallbackIpmInterrupt)

    def _ask(self, kind: Any, message: str, out: Any, give: Any, data: Any) -> None:
        if self._stop.is_set():
            give.user_interrupt = True

    def run(self) -> None:
        """Run in a thread, so that Ctrl-C reaches us and not the engine."""
        _, interrupted = run_aside("HiGHS", self.highs.run, self._tick, period_s=0.1)
        self._stop.clear()
        if interrupted:
            raise KeyboardInterrupt

    def _tick(self, interrupted: bool) -> None:
        if interrupted:
            self._stop.set()


class SharesLp:
    """Values and prices of copies, by the linear relaxation with ``z`` fixed."""

    def __init__(self, form: Formulation) -> None:
        assert form.z is not None
        self.form = form
        self._z = form.z.range.astype(np.int32)
        self._large = form.model.num_columns > LARGE_MODEL // 4
        self._cost = self._make(form.model)
        self._phase: _Lp | None = None
        self._soft: _Lp | None = None
        self.soft_prices = np.zeros(form.model.num_rows)
        self.work = 0.0  # deterministic, about seconds

    def _make(self, model: LinearModel) -> _Lp:
        return _Lp(make_highs(model, relax=True), large=self._large)

    @property
    def softened(self) -> bool:
        """Whether `price` may be asked."""
        return self._soft is not None

    def relax(self, *, time_limit: float | None = None) -> Duals | None:
        """Solve the linear relaxation; None if time runs out."""
        model, z = self.form.model, self._z
        if model.num_columns > LARGE_MODEL:  # nothing to start the simplex from
            self._cost.highs.setOptionValue("solver", "ipm")
        found = self._ask(model.col_lower[z], model.col_upper[z], time_limit)
        self._cost.highs.setOptionValue("solver", "simplex")
        return found

    def fix(
        self, z: NDArray[np.int64], *, time_limit: float | None = None
    ) -> Duals | None:
        """Solve for given copies, 0 or 1 for each candidate; None if time runs out."""
        value = z.astype(np.float64)
        return self._ask(value, value, time_limit)

    def _ask(
        self,
        lower: NDArray[np.float64],
        upper: NDArray[np.float64],
        time_limit: float | None,
    ) -> Duals | None:
        self._move(self._cost, lower, upper)
        found = self._solve(self._cost, time_limit)
        if found is None or np.isfinite(found.value):
            return found
        if self._phase is None:
            self._phase = self._make(self._elastic())
        self._move(self._phase, lower, upper)
        least = self._solve(self._phase, time_limit)
        if least is None:
            return None
        if not np.isfinite(least.value):  # it is not the limits
            return replace(found, excess=np.inf)
        return Duals(value=np.inf, excess=max(least.value, 0.0), prices=least.prices)

    def soften(self, prices: NDArray[np.float64], is_limit: NDArray[np.bool_]) -> None:
        """Let `price` pay for limits instead of keeping them."""
        model = self.form.model
        paid = np.where(is_limit, prices, 0.0)
        soft = replace(
            model,
            objective=model.objective + model.matrix.T @ paid,
            row_upper=np.where(is_limit, np.inf, model.row_upper),
        )
        self._soft = self._make(soft)
        self.soft_prices = paid

    def price(
        self, z: NDArray[np.int64], *, time_limit: float | None = None
    ) -> Duals | None:
        """Solve for given copies with limits paid for as `soften` was told."""
        value = z.astype(np.float64)
        assert self._soft is not None, "call `soften` first"
        self._move(self._soft, value, value)
        return self._solve(self._soft, time_limit)

    def _elastic(self) -> LinearModel:
        """Return the model with one more column: the excess, which is minimised."""
        model = self.form.model
        unit = np.zeros(model.num_rows)
        for block in model.rows:
            if block.name in LIMITS:
                limit = np.abs(model.row_upper[block.range])
                unit[block.range] = np.where(limit > 0, limit, 100.0)
        return replace(
            model,
            objective=np.append(np.zeros(model.num_columns), 1.0),
            matrix=sp.hstack(
                [model.matrix, sp.csr_matrix(-unit[:, None])], format="csr"
            ),
            col_lower=np.append(model.col_lower, 0.0),
            col_upper=np.append(model.col_upper, np.inf),
            integer=np.append(model.integer, False),
        )

    def _move(
        self, lp: _Lp, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> None:
        lp.highs.changeColsBounds(len(self._z), self._z, lower, upper)

    def _solve(self, lp: _Lp, time_limit: float | None) -> Duals | None:
        highs, found = lp.highs, highspy.HighsModelStatus
        limit = np.inf if time_limit is None else max(time_limit, 0.0)
        # The clock of HiGHS goes on from solve to solve.
        highs.setOptionValue("time_limit", highs.getRunTime() + limit)
        lp.run()
        known = (found.kOptimal, found.kInfeasible, found.kUnboundedOrInfeasible)
        if highs.getModelStatus() not in (*known, found.kTimeLimit):
            highs.clearSolver()  # the last basis led astray
            lp.run()
        model = self.form.model
        info = highs.getInfo()
        steps = max(int(info.simplex_iteration_count), 0)
        self.work += 1e-9 * (steps + 20) * (model.matrix.nnz + model.num_columns)
        status = highs.getModelStatus()
        if status == found.kOptimal:
            prices = -np.array(highs.getSolution().row_dual)
            return Duals(
                value=float(info.objective_function_value), excess=0.0, prices=prices
            )
        if status in (found.kInfeasible, found.kUnboundedOrInfeasible):
            return Duals(value=np.inf, excess=0.0, prices=np.zeros(model.num_rows))
        return None
