"""Copies one by one, by what they save: the lazy greedy of facility location.

The calls of a demand go to the cheapest copy of their expert. What a further copy saves
can only shrink while copies are added, so an old saving is an upper bound and only the
top of a heap has to be computed anew (Minoux, "Accelerated greedy algorithms for
maximizing submodular set functions", 1978). HetRoute and SlimCaching build on it.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

STALE = 1e-12
"""Relative difference up to which a saving counts as unchanged."""


def take_by_saving(
    expert: NDArray[np.int64],
    option: NDArray[np.int64],
    saving: NDArray[np.float64],
    again: Callable[[int, int], float],
) -> Iterator[tuple[int, int, float]]:
    """Yield candidates by what they save now, the largest first, until none saves.

    The caller acts on a candidate before it asks for the next one, or passes over it;
    either way it does not come back.

    Parameters
    ----------
    expert, option
        Of each candidate.
    saving
        What it saves at the start, or more.
    again
        Returns what a candidate saves now: never more than before.

    Yields
    ------
    tuple
        Expert, option, and what it saves.
    """
    worth = np.flatnonzero(saving > 0)
    heap = list(
        zip(
            (-saving[worth]).tolist(),
            expert[worth].tolist(),
            option[worth].tolist(),
            strict=True,
        )
    )
    heapq.heapify(heap)
    while heap:
        bound, i, o = heapq.heappop(heap)
        now = again(i, o)
        if now <= 0:
            continue
        if now >= -bound * (1 - STALE) or not heap or now >= -heap[0][0]:
            yield i, o, now
        else:
            heapq.heappush(heap, (-now, i, o))
