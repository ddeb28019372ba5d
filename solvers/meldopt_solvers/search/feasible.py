"""A first feasible plan where prices of rows found none.

Prices settle where many experts share a row. With a handful, each is large beside the
limits, and prices swing from one choice to another without ever keeping all rows. Such
problems are small: HiGHS finds a plan of the whole model. Where they are not, local
search goes on until it has one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meldopt.engines.highs import solve_highs
from meldopt.formulations.milp import build_milp

from .local import HomeSearch, LocalParams
from .submodel import surrogate
from .tables import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from meldopt.problem import Problem

    from .incumbent import Incumbent

MOST_SHARES = 20_000
"""Possible shares up to which HiGHS looks for a plan of the whole model."""

NODES = 2_000
"""Of that model, at most."""

STEPS = 400
"""Of local search, at most."""

WORK = 4e-5
"""Deterministic work of a column of the whole model."""


class UntilFeasible(HomeSearch):
    """Local search that ends with the first feasible plan, or after some steps."""

    steps = 0
    most = NO_LIMIT

    def spent(self) -> bool:
        """Count one iteration, report, and say whether to end."""
        self.steps += 1
        return super().spent() or self._ends()

    def over(self) -> bool:
        """Say whether to end, without counting."""
        return super().over() or self._ends()

    def _ends(self) -> bool:
        return math.isfinite(self.best.objective) or self.steps >= self.most


def find_plan(
    problem: Problem,
    best: Incumbent,
    rng: np.random.Generator,
    *,
    left: Callable[[], float] | None = None,
) -> bool:
    """Look for a feasible plan of a problem with the `home` dataflow.

    Parameters
    ----------
    problem, best, rng
        Of the run.
    left
        Seconds that are left, or None: then no clock decides anything.

    Returns
    -------
    bool
        Whether ``best`` has one now.
    """
    if math.isfinite(best.objective) or best.spent():
        return math.isfinite(best.objective)
    possible = problem.num_experts * int(problem.allowed.sum()) * problem.num_demands
    if possible <= MOST_SHARES:
        form = build_milp(surrogate(problem), by_layer=True)
        outcome = solve_highs(
            form.model,
            time_limit=None if left is None else max(left(), 0.01),
            gap=1.0,
            nodes=NODES,
            threads=1,
        )
        best.work += WORK * form.model.num_columns
        if outcome.interrupted:
            raise KeyboardInterrupt
        if outcome.x is not None:
            best.offer(form.decode(outcome.x))
        if math.isfinite(best.objective) or outcome.status == "infeasible":
            return math.isfinite(best.objective)
    search = UntilFeasible(problem, LocalParams(), best, rng)
    search.most = STEPS
    if search.start(None):
        search.improve()
    best.work += search.state.work
    return math.isfinite(best.objective)
