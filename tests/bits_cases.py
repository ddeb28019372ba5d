"""What tests of the methods that choose bit-widths share."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from meldopt import build_problem
from meldopt.solver import AnyOf
from meldopt.testing import contract_instance
from meldopt_solvers.baselines.method import Budget
from meldopt_solvers.search.incumbent import Incumbent


def free_budget(problem):
    """Return a budget that never ends."""
    stop, now = AnyOf(), perf_counter()
    return Budget(
        Incumbent(problem, stop=stop, started=now, on_progress=None), stop, now
    )


def problem_with_rooms(*rooms):
    """Return a contract problem (experts of 16 or 8 bytes) with other capacities."""
    problem = build_problem(contract_instance("loose"))
    return problem.replace(
        capacity_bytes=np.array(rooms, dtype=float) + problem.reserve_bytes,
        quality_budget=np.full_like(problem.quality_budget, np.inf),
    )


def formats_of(problem, result):
    """Return the format of each expert of a plan with one copy of each."""
    copies = result.plan.copies
    assert copies[:, 0].tolist() == list(range(problem.num_experts))
    return copies[:, 2]
