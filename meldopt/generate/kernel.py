"""The search of `meldopt.generate.priced`, compiled; for models too large for arrays.

Imported only when it pays: numba takes seconds to load and compile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit()(function)


@_compiled
def _answered(
    least: NDArray[np.float64], prune: NDArray[np.float64], width: NDArray[np.float64]
) -> float:
    total = 0.0
    for q in range(len(least)):
        cost = least[q]
        total += cost
        for m in range(width.shape[1]):
            if cost > prune[q, m]:
                total -= width[q, m] * (cost - prune[q, m])
    return total


@_compiled
def _least(
    unit: NDArray[np.float64], chosen: NDArray[np.int64], without: int
) -> NDArray[np.float64]:
    least = np.full(unit.shape[1], np.inf)
    for s in range(len(chosen)):
        if chosen[s] >= 0 and s != without:
            least = np.minimum(least, unit[chosen[s]])
    return least


@_compiled
def search(
    unit: NDArray[np.float64],
    opened: NDArray[np.float64],
    prune: NDArray[np.float64],
    width: NDArray[np.float64],
    server: NDArray[np.int64],
    num_servers: int,
) -> NDArray[np.int64]:
    """Choose the copies of experts by adding, changing, dropping and moving them.

    Parameters
    ----------
    unit
        Cost of serving all calls, (E, O, Q).
    opened
        Cost of an option's copy, (E, O).
    prune, width
        Cost of pruning all calls, (E, Q, M), and share that may go, (Q, M).
    server
        Server of each option, (O,).
    num_servers
        Number of servers.

    Returns
    -------
    ndarray of int64, shape (E, S)
        Option on each server; -1 for none.
    """
    count, num_options = opened.shape
    result = np.full((count, num_servers), -1, dtype=np.int64)
    for e in range(count):
        chosen = result[e]
        value = np.inf
        first = 0
        for o in range(num_options):
            cost = _answered(unit[e, o], prune[e], width) + opened[e, o]
            if cost < value:
                value, first = cost, o
        chosen[server[first]] = first
        fixed = opened[e, first]
        moving = False
        while True:
            # The best move of this kind: leave server `gone` (or none), add `new`.
            best, gone, new = value, -1, -1
            for s in range(num_servers):
                if moving and chosen[s] < 0:
                    continue
                least = _least(unit[e], chosen, s)
                rest = fixed - (opened[e, chosen[s]] if chosen[s] >= 0 else 0.0)
                if not moving and chosen[s] >= 0 and np.isfinite(least[0]):
                    cost = _answered(least, prune[e], width) + rest
                    if cost < best:
                        best, gone, new = cost, s, -1
                for o in range(num_options):
                    target = server[o]
                    if moving:
                        if chosen[target] >= 0:
                            continue
                    elif target != s:
                        continue
                    cost = rest + opened[e, o]
                    if cost >= best:
                        continue
                    cost += _answered(np.minimum(least, unit[e, o]), prune[e], width)
                    if cost < best:
                        best, gone, new = cost, s, o
            if best < value - 1e-12 * abs(value):
                if chosen[gone] >= 0:
                    fixed -= opened[e, chosen[gone]]
                chosen[gone] = -1
                if new >= 0:
                    chosen[server[new]] = new
                    fixed += opened[e, new]
                value = best
                moving = False
            elif moving:
                break
            else:
                moving = True
    return result
