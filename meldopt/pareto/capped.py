"""The MILP of one term with a cap on another."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from meldopt.errors import UnsupportedFeatureError
from meldopt.problem import TERMS
from meldopt.solver import DEFAULT_TIME_S
from meldopt.tolerance import OPTIMALITY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from meldopt.formulations.linear import Block, LinearModel
    from meldopt.formulations.milp import Formulation
    from meldopt.plan import Plan
    from meldopt.problem import Problem

SLIGHT = 1e-4
"""Weight of the capped term, per range of either: low where that costs nothing."""

NO_MODEL = (
    "exact: got the term 'parallel', of which there is no linear model; 'fluid' has one"
)


class Capped:
    """The MILP of the first term with one more row: a cap on the second.

    The objective of a formulation is linear in the weights, so that the costs of
    either term are had from two formulations with different weights.

    Parameters
    ----------
    problem, terms
        What is traded off.
    exchange
        Units of the first term that one of the second is about worth.
    most
        Largest number of columns.
    """

    def __init__(
        self,
        problem: Problem,
        terms: tuple[str, str],
        exchange: float,
        *,
        most: int | None,
    ) -> None:
        from meldopt.formulations.milp import build_milp

        if "parallel" in terms:
            raise UnsupportedFeatureError(NO_MODEL)
        if problem.dataflow == "home":
            bound = problem.num_demands * problem.num_experts * problem.num_places
            if most is not None and bound > 20 * most:  # not worth building
                raise UnsupportedFeatureError("exact: the model is too large")

        def formulated(second: float) -> Formulation:
            weights = np.zeros(len(TERMS))
            weights[TERMS.index(terms[0])] = 1.0
            weights[TERMS.index(terms[1])] = second * exchange
            return build_milp(problem.replace(weights=weights), by_layer=True)

        self.problem = problem
        self.form, twice = formulated(1.0), formulated(2.0)
        if most is not None and self.form.model.num_columns > most:
            raise UnsupportedFeatureError("exact: the model is too large")
        one = self.form.model.objective / self.form.model.objective_scale
        two = twice.model.objective / twice.model.objective_scale
        self.first = np.where(
            np.abs(2 * one - two) > 1e-13 * np.abs(one), 2 * one - two, 0.0
        )
        self.second = np.where(np.abs(two - one) > 1e-13 * np.abs(one), two - one, 0.0)
        self.exchange = exchange

    def model(self, limit: float) -> tuple[LinearModel, float]:
        """Return the model with a cap, and the weight of the second term in it."""
        base = self.form.model
        costs = self.first + SLIGHT * self.second
        scale = 1.0 / max(float(np.abs(costs).mean()), 1e-300)
        most = limit * self.exchange
        unit = abs(most) or max(float(np.abs(self.second).max()), 1e-300)
        row = sp.csr_matrix(self.second / unit)
        key: Block = type(base.rows[0])(
            name="cap", start=base.num_rows, keys=(np.zeros(1, dtype=np.int64),)
        )
        capped = dataclasses.replace(
            base,
            objective=costs * scale,
            objective_scale=scale,
            matrix=sp.csr_matrix(sp.vstack([base.matrix, row])),
            row_lower=np.append(base.row_lower, -np.inf),
            row_upper=np.append(base.row_upper, most / unit),
            rows=(*base.rows, key),
        )
        return capped, SLIGHT * self.exchange

    def solve(
        self, limit: float, start: Plan | None, call: Mapping[str, Any]
    ) -> tuple[Plan | None, float | None, bool]:
        """Minimise; returns a plan, a bound of the first term, whether interrupted."""
        from meldopt.engines.highs import solve_highs

        model, slight = self.model(limit)
        work = call["work"]
        seconds = call["time_limit"]
        if seconds is None and work is None:
            seconds = DEFAULT_TIME_S
        outcome = solve_highs(
            model,
            time_limit=None if seconds is None or math.isinf(seconds) else seconds,
            nodes=None if work is None else max(int(work), 1),
            gap=OPTIMALITY / 2,
            seed=call["seed"],
            threads=call["threads"],
            start=None if start is None else self.complete(model, start),
        )
        bound = None
        if outcome.status == "infeasible":
            bound = math.inf
        elif outcome.bound is not None and math.isfinite(outcome.bound):
            both = model.true_objective(outcome.bound)
            # What the slight weight adds is at most that of the cap.
            bound = both - slight * limit
            bound -= 1e-9 * (abs(both) + slight * abs(limit))
        plan = None if outcome.x is None else self.form.decode(outcome.x)
        return plan, bound, outcome.interrupted

    def complete(self, model: LinearModel, start: Plan) -> NDArray[np.float64] | None:
        """Turn a plan into values of all columns: the LP with its copies fixed."""
        from meldopt.engines.highs import solve_highs

        z = self.form.z
        assert z is not None
        values = self.form.encode(start)[z.range]
        lower, upper = model.col_lower.copy(), model.col_upper.copy()
        if (values < lower[z.range] - 1e-9).any():
            return None
        lower[z.range] = upper[z.range] = values
        fixed = dataclasses.replace(model, col_lower=lower, col_upper=upper)
        return solve_highs(fixed, relax=True).x
