"""What is left between an objective and a proven bound."""

from __future__ import annotations

import math

from .errors import SolverError
from .tolerance import OPTIMALITY, allowed

ROUNDING = 1e-9
"""Absolute error of a bound that is taken for rounding, in the unit of the objective.

Lowering a bound is always sound; this only decides when it is called wrong."""


def relative_gap(objective: float, bound: float | None) -> float | None:
    """Return ``(objective - bound) / |objective|``, or none where it says nothing.

    Parameters
    ----------
    objective
        Of a feasible plan; ``inf`` if there is none.
    bound
        Proven lower bound of the same objective; none if nothing is proved.

    Returns
    -------
    float or None
        A fraction; 0 if the bound reaches the objective within tolerance. None without
        a plan, without a bound or at objective 0.
    """
    if bound is None or not math.isfinite(objective) or not math.isfinite(bound):
        return None
    if objective == 0:
        return None
    if is_closed(objective, bound):
        return 0.0
    return (objective - bound) / abs(objective)


def is_closed(objective: float, bound: float | None) -> bool:
    """Say whether a bound reaches an objective within tolerance: proved optimal."""
    if bound is None or not math.isfinite(objective):
        return False
    return objective - bound <= allowed(objective)


def clip_bound(objective: float, bound: float, *, who: str) -> float:
    """Bring a bound that exceeds a feasible objective by rounding down to it.

    Raises
    ------
    SolverError
        If it exceeds the objective by more than rounding explains: it is no bound.
    """
    if bound <= objective:
        return bound
    if bound - objective > max(ROUNDING, OPTIMALITY * abs(objective)):
        raise SolverError(
            f"{who}: got bound {bound!r} above the objective {objective!r} of a "
            "feasible plan, expected at most the objective"
        )
    return objective
