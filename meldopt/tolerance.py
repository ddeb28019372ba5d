"""The one place that says when two numbers count as equal.

A row is violated when it exceeds its limit by more than ``FEASIBILITY`` times the
larger of the limit's magnitude and a tiny absolute floor. A plan is optimal when its
gap is at most ``OPTIMALITY``. Engines are told to be tighter than both.
"""

from __future__ import annotations

FEASIBILITY = 1e-6
"""Relative excess of a row that is still forgiven."""

FLOOR = 1e-12
"""Absolute excess that is always forgiven, in the unit of the row."""

OPTIMALITY = 1e-6
"""Largest gap of a plan that is called optimal."""

SHARE = 1e-9
"""Shares below this are zero; sums of shares are one within 1e-6."""

SHARE_SUM = 1e-6
"""Largest deviation of a sum of shares from one."""


def allowed(limit: float) -> float:
    """Return the excess over ``limit`` that is still forgiven."""
    return max(FLOOR, FEASIBILITY * abs(limit))
