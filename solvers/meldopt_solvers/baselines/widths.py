"""What the methods that choose bit-widths share: losses, sizes, and the memory to fill.

These papers know one budget of memory and no servers. Here the budget is the room of
all servers together; that the rooms are separate is what they cannot see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .complete import Decision, place_by_time
from .knapsack import choose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .method import Budget
    from .view import View

HALVINGS = 5
"""Budgets that are tried between what surely fits and what does not."""


def usable(problem: Problem) -> NDArray[np.int64]:
    """Return the formats that some place runs, the one of most bits first."""
    runs = np.flatnonzero(problem.allowed.any(axis=0))
    bits = problem.bits_per_weight[runs]
    return runs[np.argsort(-bits, kind="stable")].astype(np.int64)


def loss_per_token(problem: Problem) -> NDArray[np.float64]:
    """Return nats per token of each expert in each format; (N, B).

    Mean over applications by rate: calls per token times loss per call.
    """
    weight = problem.application_rate / problem.total_rate
    loss: NDArray[np.float64] = np.einsum(
        "g,gn,gnb->nb", weight, problem.calls, problem.format_loss, optimize=True
    )
    return loss


def loss_per_call(problem: Problem) -> NDArray[np.float64]:
    """Return nats per call of each expert in each format; (N, B).

    Mean over applications by their calls per second; by rate where nobody calls.
    """
    rate = problem.application_rate[:, None]
    mass = np.where((rate * problem.calls).sum(axis=0) > 0, rate * problem.calls, rate)
    share = mass / np.maximum(mass.sum(axis=0), 1e-300)
    loss: NDArray[np.float64] = np.einsum(
        "gn,gnb->nb", share, problem.format_loss, optimize=True
    )
    return loss


def smallest(
    size: NDArray[np.float64], formats: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the smallest of some formats for each expert; (N,)."""
    chosen: NDArray[np.int64] = formats[size[:, formats].argmin(axis=1)]
    return chosen


def total(size: NDArray[np.float64], choice: NDArray[np.int64]) -> float:
    """Return the bytes of all experts, each in its format."""
    return float(size[np.arange(len(choice)), choice].sum())


def allocate(
    cost: NDArray[np.float64],
    size: NDArray[np.float64],
    budget: float,
    formats: NDArray[np.int64],
    *,
    required: Sequence[int] = (),
    group: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Give each expert a format within a budget, as much as can be of what is required.

    Parameters
    ----------
    cost, size
        Of each expert in each format of the problem; (E, B).
    budget
        Bytes, or bits.
    formats
        Those that may be chosen.
    required
        Formats of which each group holds one expert, the most wanted first; the last
        one is given up first if they cannot all be had.
    group
        Of each expert; (E,). One group if None.

    Returns
    -------
    ndarray of int64, shape (E,)
        Formats; the smallest ones if nothing is within the budget.
    """
    may = np.zeros(cost.shape[1], dtype=bool)
    may[formats] = True
    size = np.where(may, size, np.inf)
    for kept in range(len(required), -1, -1):
        found = choose(cost, size, budget, group=group, required=required[:kept])
        if found is not None:
            return found.choice
    return smallest(size, formats)


def fitted(
    problem: Problem,
    view: View,
    check: Budget,
    method: Callable[[float], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Choose formats for all memory there is, or for as much of it as can be filled.

    Rooms are separate, so the last experts may fit nowhere although all rooms together
    would hold them. If the common placement breaks the memory of a place, less memory
    is budgeted for: no less than what every placement can fill, the rooms less one
    largest expert each; in between by halving.

    Parameters
    ----------
    problem, view, check
        What is solved, the attempt, and what is left of the run.
    method
        From bytes to the format of each expert, (N,); may exceed the
        budget where nothing is within it.

    Returns
    -------
    ndarray of int64, shape (N,)
        If not even the least fits, what was chosen for it.
    """
    most = float(view.room.sum())
    chosen = method(most)
    if packs(problem, view, chosen):
        return chosen
    largest = problem.size_bytes[:, usable(problem)].max(initial=0.0)
    rooms = np.where(view.places, problem.room_bytes - largest, 0.0)
    low, high = float(np.maximum(rooms, 0.0).sum()), most
    best = method(low)
    check.keep(Decision(format=best))
    if check.step() or not packs(problem, view, best):
        return best
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        chosen = method(middle)
        if packs(problem, view, chosen):
            low, best = middle, chosen
            check.keep(Decision(format=best))
        else:
            high = middle
        if check.step():
            break
    return best


def packs(problem: Problem, view: View, formats: NDArray[np.int64]) -> bool:
    """Say whether the common placement of these formats keeps the memory of places."""
    experts = np.arange(problem.num_experts)
    place = place_by_time(problem, view, experts, formats)
    stored = view.stored[problem.server_of[place], formats]
    asked = problem.allowed[place, formats] | (stored < 0)
    stored = np.where(asked, formats, stored)
    size = problem.size_bytes[experts, stored]
    held = np.bincount(place, size, problem.num_places)
    return bool((held <= problem.largest_bytes).all())
