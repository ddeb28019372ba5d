"""Integer programmes of published methods: HiGHS in place of Gurobi, within a budget.

A budget of branch-and-bound nodes makes a run repeatable. Where there is a limit on
time, a programme may take a part of what is left, so that something is left for the
other formats.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING

from meldopt.engines.highs import solve_highs

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from meldopt.engines.outcome import Outcome
    from meldopt.formulations.linear import LinearModel

    from .method import Budget

    Spent = Callable[[], bool]
    """Says whether a part of a run ends here."""

PART = 1 / 8
"""Of the time left, for the programmes of one kind in one attempt."""


def part_of_time(check: Budget, part: float = PART) -> Spent:
    """Return a question that a budget answers, and a part of its time left.

    Parameters
    ----------
    check
        The budget of the run.
    part
        Of the time that is left now; without a limit on time it does not matter.
    """
    left = check.time_left_s
    end = perf_counter() + part * left if math.isfinite(left) else math.inf

    def spent() -> bool:
        return perf_counter() >= end or check.spent()

    return spent


def solve_programme(
    model: LinearModel,
    start: NDArray[np.float64],
    *,
    gap: float,
    nodes: int | None,
    spent: Spent,
) -> Outcome:
    """Minimise a model with HiGHS on one thread, from a solution.

    Parameters
    ----------
    model, start
        The programme and a solution of it.
    gap
        Relative gap at which to stop.
    nodes
        Branch-and-bound nodes at most; no limit if None.
    spent
        Asked while HiGHS runs; ends it.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C.
    """
    outcome = solve_highs(
        model,
        gap=gap,
        nodes=nodes,
        start=start,
        threads=1,
        on_incumbent=lambda objective, bound, x: spent(),
    )
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome
