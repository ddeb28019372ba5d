"""Slots: how many experts of each layer a server takes, before it is decided which.

The literature of clusters gives every device equally many experts of every layer. Edge
servers differ in memory: a server that cannot hold its equal part takes what it can
hold, and the others share the rest equally.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .view import View

NEVER = 1e12
"""Cost of what must not be, in units of the largest finite cost."""


def layer_slots(view: View) -> NDArray[np.int64]:
    """Return the experts of each layer that a server takes.

    Parameters
    ----------
    view
        Room and sizes.

    Returns
    -------
    ndarray of int64, shape (L, S)
        Rows sum to the experts of the layer; columns to `equal_parts` of all experts.
    """
    sizes = np.bincount(view.layer_of, minlength=view.problem.num_layers)
    return spread_slots(sizes, equal_parts(int(sizes.sum()), view.slots))


def equal_parts(total: int, caps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split a number into equal parts, none above its cap.

    Parameters
    ----------
    total
        What is split.
    caps
        The most of each part, (S,). If they are too small together, parts are in
        proportion to the caps (equal if all are 0) and exceed them.

    Returns
    -------
    ndarray of int64, shape (S,)
        Parts that sum to ``total``; the first ones are one larger where it does not
        divide.
    """
    caps = np.asarray(caps, dtype=np.int64)
    if caps.sum() < total:
        weight = caps if caps.any() else np.ones_like(caps)
        exact = total * weight / weight.sum()
        parts: NDArray[np.int64] = np.floor(exact).astype(np.int64)
        most = np.argsort(parts - exact, kind="stable")
        parts[most[: total - int(parts.sum())]] += 1
        return parts
    parts = np.zeros_like(caps)
    left = total
    for position, s in enumerate(np.argsort(caps, kind="stable").tolist()):
        each = -(-left // (len(caps) - position))  # rounded up
        parts[s] = min(int(caps[s]), each)
        left -= int(parts[s])
    return parts


def spread_slots(
    sizes: NDArray[np.int64], parts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Spread the slots of servers evenly over layers.

    Slot by slot, through the layers in order: each goes to the server that is furthest
    behind its part. No server can so exceed its part.

    Parameters
    ----------
    sizes
        Experts of each layer, (L,).
    parts
        Slots of each server over all layers, (S,); they sum to all experts.

    Returns
    -------
    ndarray of int64, shape (L, S)
        Slots.
    """
    total = int(np.sum(sizes))
    slots = np.zeros((len(sizes), len(parts)), dtype=np.int64)
    taken = np.zeros(len(parts), dtype=np.int64)
    filled = 0
    for layer, size in enumerate(np.asarray(sizes).tolist()):
        for _ in range(size):
            filled += 1
            s = int(np.argmax(filled * parts - taken * total))
            slots[layer, s] += 1
            taken[s] += 1
    return slots


def time_of_groups(
    view: View, layer: int, group_of: NDArray[np.int64], num_groups: int
) -> NDArray[np.float64]:
    """Return what the calls of each group of experts take on each server.

    Parameters
    ----------
    view
        Mean times of calls, by the common rule of placement.
    layer
        Of the experts.
    group_of
        Group of each expert of the layer, (E,).
    num_groups
        Number of groups.

    Returns
    -------
    ndarray of float64, shape (num_groups, S)
        Seconds per second; inf where a member cannot run or be reached.
    """
    problem = view.problem
    time = view.mean_time(layer)  # (E, V)
    load = view.load[view.experts(layer)]
    cost = np.zeros((num_groups, problem.num_servers))
    for s, places in enumerate(problem.places_of):
        best = time[:, places].min(axis=1)
        cost[:, s] = np.bincount(group_of, load * np.where(best < np.inf, best, 0.0),
                                 minlength=num_groups)  # fmt: skip
        lost = np.bincount(group_of, best == np.inf, minlength=num_groups) > 0
        cost[lost, s] = np.inf
    return cost


def match_groups(
    cost: NDArray[np.float64], fits: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Give each group a server of its own, at least cost in total.

    Parameters
    ----------
    cost
        Of each group on each server, (S, S); inf is avoided if it can be.
    fits
        Where a group may be, (S, S); ``fits[g, g]`` holds for all, so that there is a
        way.

    Returns
    -------
    ndarray of int64, shape (S,)
        Server of each group.
    """
    finite = cost[np.isfinite(cost)]
    scale = float(np.abs(finite).max(initial=0.0)) or 1.0
    priced = np.where(np.isfinite(cost), cost / scale, 1e3)
    priced = np.where(fits, priced, NEVER)
    rows, columns = linear_sum_assignment(priced)
    server = np.empty(len(rows), dtype=np.int64)
    server[rows] = columns
    return server
