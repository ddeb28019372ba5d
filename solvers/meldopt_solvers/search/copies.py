"""Moves of single copies, valued by the LP of the shares: for small problems.

Relocate, swap, change the format, add and drop. The walk accepts what is a little worse
at first (threshold accepting), and begins again from the best plan.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .incumbent import Incumbent

    Copy = tuple[int, int, int]

THRESHOLD = 0.1
"""Part by which a neighbour may be worse at the start of a walk."""


RESTART = 6
"""Moves of a walk without a feasible plan before it starts afresh."""


class Neighbours:
    """Draws neighbours of a set of copies."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem, self.rng = problem, rng
        self.server = problem.server_of.tolist()
        allowed = problem.copy_allowed()
        self.options: list[list[Copy]] = [
            [(i, int(v), int(b)) for v, b in np.argwhere(allowed[i])]
            for i in range(problem.num_experts)
        ]
        self.pinned = {tuple(copy) for copy in problem.pinned.tolist()}
        self.limit = problem.room_bytes * (1 + 1e-9)

    def draw(self, copies: list[Copy]) -> list[Copy] | None:
        """Return a changed set of copies that fits in memory; None: a bad draw."""
        new = list(copies)
        for _ in range(1 if self.rng.random() < 0.6 else 2):
            self.change(new)
        if new == copies:
            return None
        table = np.array(new, dtype=np.int64).reshape(-1, 3)
        used = np.bincount(
            table[:, 1],
            weights=self.problem.size_bytes[table[:, 0], table[:, 2]],
            minlength=self.problem.num_places,
        )
        if (used > self.limit).any():
            return None
        return sorted(new)

    def change(self, copies: list[Copy]) -> None:
        """Carry out one random move, if it can be."""
        rng = self.rng
        kind = int(rng.integers(0, 6))
        movable = [n for n, copy in enumerate(copies) if copy not in self.pinned]
        if kind == 0 or not movable:
            self.add(copies)
            return
        n = movable[int(rng.integers(len(movable)))]
        i, v, b = copies[n]
        if kind == 1:
            del copies[n]
        elif kind == 2:
            self.swap(copies, movable, n)
        else:
            others = [
                option
                for option in self.options[i]
                if option != (i, v, b)
                and (kind != 3 or option[1] == v)
                and self.free(copies, option, n)
            ]
            if others:
                copies[n] = others[int(rng.integers(len(others)))]

    def add(self, copies: list[Copy]) -> None:
        """Add a copy of some expert."""
        i = int(self.rng.integers(self.problem.num_experts))
        others = [option for option in self.options[i] if self.free(copies, option)]
        if others:
            copies.append(others[int(self.rng.integers(len(others)))])

    def swap(self, copies: list[Copy], movable: list[int], n: int) -> None:
        """Let two copies change places, each in a format that runs there."""
        m = movable[int(self.rng.integers(len(movable)))]
        (i, v, b), (j, w, c) = copies[n], copies[m]
        if i == j:
            return
        one, other = (i, w, c), (j, v, b)
        if self.rng.random() < 0.5:
            one, other = (i, w, b), (j, v, c)
        if (
            one in self.options[i]
            and other in self.options[j]
            and self.free(copies, one, n)
            and self.free(copies, other, m)
        ):
            copies[n], copies[m] = one, other

    def free(self, copies: list[Copy], option: Copy, without: int = -1) -> bool:
        """Say whether an expert has no other copy on the server of an option."""
        return not any(
            i == option[0] and self.server[v] == self.server[option[1]]
            for n, (i, v, _) in enumerate(copies)
            if n != without
        )


def walk(
    problem: Problem,
    best: Incumbent,
    rng: np.random.Generator,
    *,
    moves: int,
    spent: Callable[[], bool],
    start: NDArray[np.int64],
) -> bool:
    """Walk from the best plan, or at random while no copies are known to do.

    Parameters
    ----------
    problem, best, rng
        Of the run.
    moves
        How many.
    spent
        Asked after each move whether to end.
    start
        Copies to walk from if there is no feasible plan yet.

    Returns
    -------
    bool
        Whether the run ends.
    """
    draws = Neighbours(problem, rng)
    if best.plan is not None and math.isfinite(best.objective):
        start = best.plan.copies
    here: list[Copy] = [(i, v, b) for i, v, b in start.tolist()]
    value = best.objective
    for number in range(moves):
        new = draws.draw(here)
        if new is not None:
            worth = best.offer_shares(_table(new))
            part = THRESHOLD * (1 - number / moves)
            if math.isinf(value) or worth <= value + part * abs(value):
                here, value = new, worth
            if math.isinf(value) and number % RESTART == RESTART - 1:
                here = [(i, v, b) for i, v, b in start.tolist()]
        if spent():
            return True
    return False


def _table(copies: list[Copy]) -> NDArray[np.int64]:
    return np.array(copies, dtype=np.int64).reshape(-1, 3)
