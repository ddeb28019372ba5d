"""Plans from prices: the copies that the relaxation chose, mended by price descent.

At the best prices the chosen copies break few rows, and those by little. They are put
into the state of the search, whose prices start at those of the relaxation and follow
the loads from there: experts respond, first to prices that hardly move, then to steeper
ones, until every row holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt_solvers.search.descent import FLAT, descend, mend, prepare_formats
from meldopt_solvers.search.kernels import NONE, STEEP, growth

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from meldopt_solvers.search.state import HomeState

    from .pricing import Lagrangian, Point

SWEEPS = 10
"""Responses of all experts before rows are mended."""


def state_prices(state: HomeState, lagrangian: Lagrangian) -> NDArray[np.float64]:
    """Return what the rows of a state charge now, as prices of the relaxation."""
    s, t = state.s, state.tables
    steep = float(s.knob[STEEP])
    prices = lagrangian.zero()
    unit = np.zeros(lagrangian.num_rows)
    num_v = len(t.room)
    for v in range(num_v):
        over = (s.used[v] - t.room[v]) / t.memory_norm[v]
        unit[v] = s.memory_scale[v] * growth(steep * over)
    for k, r in enumerate(lagrangian.load_rows):
        over = (s.load[r] - s.limit[r]) / s.norm[r]
        unit[num_v + k] = s.scale[r] * growth(steep * over)
    first = num_v + len(lagrangian.load_rows)
    for k, r in enumerate(lagrangian.least_rows):
        short = (t.count_lower[r] - s.tally[r]) / s.count_norm[r]
        unit[first + k] = s.count_least[r] * growth(steep * short)
    first += len(lagrangian.least_rows)
    for k, r in enumerate(lagrangian.most_rows):
        over = (s.tally[r] - t.count_upper[r]) / s.count_norm[r]
        unit[first + k] = s.count_most[r] * growth(steep * over)
    prices[: lagrangian.num_rows] = unit * lagrangian.scale
    return prices


def set_prices(
    state: HomeState, lagrangian: Lagrangian, prices: NDArray[np.float64]
) -> None:
    """Let the rows of a state charge the prices of the relaxation at their limits."""
    s = state.s
    num_v = len(s.memory_scale)
    unit = prices[: lagrangian.num_rows] / lagrangian.scale
    s.memory_scale[:] = np.maximum(unit[:num_v], state.memory_floor)
    rows = lagrangian.load_rows
    s.scale[rows] = np.maximum(unit[num_v : num_v + len(rows)], state.floor[rows])
    counted = unit[num_v + len(rows) :]
    num = len(lagrangian.least_rows)
    for price, which, value in (
        (s.count_least, lagrangian.least_rows, counted[:num]),
        (s.count_most, lagrangian.most_rows, counted[num:]),
    ):
        price[which] = np.where(
            price[which] > 0.0, np.maximum(value, state.count_floor[which]), 0.0
        )


def copies_of(lagrangian: Lagrangian, point: Point) -> NDArray[np.int64]:
    """Return the copies that a point chose, (C, 3)."""
    i, k = np.nonzero(point.option != NONE)
    o = point.option[i, k]
    t = lagrangian.tables
    return np.stack([i, t.place[o], t.format[o]], axis=1).astype(np.int64)


def settle_point(
    state: HomeState,
    lagrangian: Lagrangian,
    point: Point,
    rng: np.random.Generator,
    *,
    steep: float,
    spent: Callable[[], bool],
) -> bool:
    """Turn the choice of a point into copies and shares that keep every row.

    Parameters
    ----------
    state
        Of the search; what it held is forgotten.
    lagrangian, point
        Where prices and copies come from.
    rng
        For the order of experts.
    steep
        Part of its usual steepness with which prices follow the loads at first.
    spent
        Asked now and then whether to end.

    Returns
    -------
    bool
        Whether every row holds.
    """
    top = state.steepest
    state.reset_prices()
    set_prices(state, lagrangian, point.prices)
    prepare_formats(state)
    flat = max(steep * top, min(FLAT, top))
    state.s.knob[STEEP] = flat
    try:
        state.set_copies(copies_of(lagrangian, point))
        state.settle(state.order(rng))
    finally:
        state.s.knob[STEEP] = top
    descend(state, rng, passes=SWEEPS, spent=spent, flat=flat)
    return mend(state, rng, rounds=8, spent=spent)
