"""Price descent: experts move to their best copies while prices of rows settle.

A block-coordinate descent on the objective plus an exponential charge for each row. It
begins with a charge so flat that everything fits somewhere, and becomes steeper from
pass to pass, while the price of each row at its limit follows its excess (an
exponential method of multipliers). With thousands of experts each of them is small
beside the rows, and the end is near the optimum; memory, which is whole copies, is
mended at the end.

References
----------
.. [1] Grigoriadis, M. D., & Khachiyan, L. G. (1994). Fast approximation schemes for
   convex programs with many blocks and coupling constraints. *SIAM J. Optim.* 4(1).
.. [2] Tseng, P., & Bertsekas, D. P. (1993). On the convergence of the exponential
   multiplier method for convex programming. *Math. Program.* 60.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.tolerance import FEASIBILITY

from .kernels import NONE, STEEP

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .state import HomeState

FLAT = 4.0
"""Steepness of the first pass."""

FAR = 0.02
"""Relative excess of a load from which copies move, and not only shares."""

PRESS = 4.0
"""Factor of the price of a byte beyond the room of a place that stays too full."""

MOVES = 4
"""Times that they may, before shares are decided again."""

FORMAT_EVERY = 3
"""Passes between two decisions on the formats of uniform groups."""


def prepare_formats(state: HomeState) -> None:
    """Give each uniform group that has none yet a format."""
    formats = state.s.group_format
    for group in np.flatnonzero(formats == NONE).tolist():
        members = np.flatnonzero(state.tables.group_of == group)
        pins = pinned_formats(state, members)
        formats[group] = pins[0] if pins else state.usual_format(members)


def settle_formats(state: HomeState, rng: np.random.Generator) -> None:
    """Choose the format of each uniform group again, all its members moving."""
    groups = len(state.s.group_format)
    for group in rng.permutation(groups).tolist():
        choose_format(state, group, rng)


def choose_format(state: HomeState, group: int, rng: np.random.Generator) -> None:
    """Try every format for one uniform group and keep the one of least potential."""
    members = np.flatnonzero(state.tables.group_of == group).astype(np.int64)
    rng.shuffle(members)
    pins = pinned_formats(state, members)
    formats = pins or range(state.problem.num_formats)
    best = np.inf
    kept = None
    for b in formats:
        if not state.tables.usable[np.ix_(members, state.tables.format == b)].any():
            continue
        state.s.group_format[group] = b
        state.clear(members)
        state.sweep(members)
        value = state.potential()
        if value < best:
            best = value
            kept = state.keep(members)
    if kept is not None:
        state.put_back(kept)


def pinned_formats(state: HomeState, members: NDArray[np.int64]) -> list[int]:
    """Return the formats that pinned copies of some experts have."""
    t = state.tables
    found = {
        int(t.format[o])
        for i in members.tolist()
        for o in t.pin_option[t.pin_start[i] : t.pin_start[i + 1]]
    }
    return sorted(found)


def descend(
    state: HomeState,
    rng: np.random.Generator,
    *,
    passes: int,
    spent: Callable[[], bool],
    flat: float = FLAT,
    experts: NDArray[np.bool_] | None = None,
) -> None:
    """Run the soft passes, from flat to steep.

    Parameters
    ----------
    state
        Empty, or anything: the first passes forget it.
    rng
        For the order of experts.
    passes
        How many.
    spent
        Asked after each pass whether to end.
    flat
        Steepness of the first pass.
    experts
        Those that take part, (N,); all when None.
    """
    s = state.s
    top = state.steepest
    flat = min(flat, top)
    over, count = s.memory_over.copy(), s.count_price[state.shared]
    s.memory_over[:] = 0.0
    s.count_price[state.shared] = 0.0
    prepare_formats(state)
    try:
        for number in range(passes):
            part = number / max(passes - 1, 1)
            s.knob[STEEP] = flat * (top / flat) ** part
            order = state.order(rng)
            state.sweep(order if experts is None else order[experts[order]])
            state.update_prices()
            if len(s.group_format) and number % FORMAT_EVERY == 1:
                settle_formats(state, rng)
            if spent():
                break
    finally:
        s.memory_over[:] = over
        s.count_price[state.shared] = count
        s.knob[STEEP] = top


def mend(
    state: HomeState,
    rng: np.random.Generator,
    *,
    rounds: int,
    spent: Callable[[], bool],
) -> bool:
    """Move experts and shares until every row holds.

    Returns
    -------
    bool
        Whether every row of the state holds.
    """
    for number in range(rounds):
        load, memory, wrong = state.excess()
        if memory > 0.5 * FEASIBILITY or wrong or number % 4 == 3:
            if number:  # a place may be over by a small part of a copy of great worth
                state.s.memory_over[state.crowded()] *= PRESS
            state.sweep(state.order(rng))
            state.update_prices()
        for _ in range(MOVES):
            if state.excess()[0] <= FAR:
                break
            state.sweep(state.order(rng))
            state.update_prices()
        for _ in range(4):
            state.settle(state.order(rng))
            load, memory, wrong = state.excess()
            if load <= 0.5 * FEASIBILITY:
                break
            state.raise_margins()
            state.update_prices()
        if load <= 0.5 * FEASIBILITY and memory <= 0.5 * FEASIBILITY and not wrong:
            return True
        if spent():
            break
    return False
