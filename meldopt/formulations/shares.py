"""The best shares for fixed copies: a linear programme (or nothing, in `roam`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.plan import Plan
from meldopt.score import score

from .milp import build_milp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem


def best_shares(
    problem: Problem,
    copies: NDArray[np.int64],
    *,
    time_limit: float | None = None,
) -> Plan | None:
    """Return the best plan with given copies, or None if no shares hold all rows.

    Parameters
    ----------
    problem
        Of either dataflow; in `roam` there is nothing to choose.
    copies
        Expert, place and format, sorted; (C, 3).
    time_limit
        Seconds for the LP; None when it runs out.

    Returns
    -------
    Plan or None
        Judged feasible by `score`.
    """
    from meldopt.engines.highs import solve_highs

    copies = np.asarray(copies, dtype=np.int64).reshape(-1, 3)
    copies = copies[np.lexsort(copies.T[::-1])]
    if problem.dataflow == "roam":
        plan = Plan.of(problem, copies)
        return plan if score(problem, plan).feasible else None
    form = build_milp(problem, copies=copies, by_layer=True)
    outcome = solve_highs(form.model, time_limit=time_limit)
    if outcome.x is None:
        return None
    plan = form.decode(outcome.x)
    return plan if score(problem, plan).feasible else None
