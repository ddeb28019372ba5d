"""`mxmoe`: the product of loss and time is least, by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bits_cases import formats_of, problem_with_rooms

from meldopt import build_problem, read_instance
from meldopt.solver import solve
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.mxmoe import (
    MxmoeParams,
    MxmoeSolver,
    allocate_pair,
    time_per_token,
)
from meldopt_solvers.baselines.view import View


class TestMxmoeContract(SolverContract):
    """`mxmoe` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return MxmoeSolver()


@pytest.mark.parametrize("r", [0.0, 0.3, 0.75, 1.0])
def test_is_the_least_product(r):
    """Over random layers it finds the least ``L^r T^(1-r)`` within the budget."""
    rng, rows = np.random.default_rng(11), np.arange(5)
    for _ in range(60):
        loss = np.sort(rng.random((5, 3)), axis=1) ** 3 + 1e-3
        time = np.sort(rng.random((5, 3)), axis=1)[:, ::-1] + 1e-3
        size = np.tile([4.0, 2.0, 1.0], (5, 1))
        budget = float(rng.integers(5, 21))
        chosen = allocate_pair(loss, time, size, budget, r)
        assert chosen is not None
        assert size[rows, chosen].sum() <= budget
        values = [
            loss[rows, pick].sum() ** r * time[rows, pick].sum() ** (1 - r)
            for pick in itertools.product(range(3), repeat=5)
            if size[rows, pick].sum() <= budget
        ]
        value = loss[rows, chosen].sum() ** r * time[rows, chosen].sum() ** (1 - r)
        assert value == pytest.approx(min(values), rel=1e-6)


def test_nothing_fits():
    """None where not even the smallest formats are within the budget."""
    ones = np.ones((2, 2))
    assert allocate_pair(ones, ones, ones, 1.0, 0.75) is None


def test_time_by_hand():
    """Calls per token times the mean work, weighted by room, in the fastest tier.

    In the contract problem work is reading: 16 or 8 bytes at 1000, 400 and 700 bytes/s
    in rooms of 10, 20 and 30 bytes.
    """
    problem = problem_with_rooms(10.0, 20.0, 30.0)
    view = View(problem, -1)
    time = time_per_token(problem, view)
    mean = (10.0 / 1000.0 + 20.0 / 400.0 + 30.0 / 700.0) / 60.0
    # Rates 3 and 2: (3 * 0.7 + 2 * 0.1) / 5 calls per token of the first expert.
    assert time[0, 1] == pytest.approx(0.46 * 8.0 * mean, rel=1e-6)
    assert time[0, 0] == pytest.approx(0.46 * 16.0 * mean, rel=1e-6)


def test_loss_against_time():
    """Weight on the loss takes the widest formats, weight on time the narrowest."""
    problem = problem_with_rooms(200.0, 200.0, 200.0)
    for r, format_ in ((1.0, 0), (0.0, 1)):
        result = solve(problem, MxmoeSolver(MxmoeParams(r=r)), work=10.0)
        assert formats_of(problem, result).tolist() == [format_] * 4


def test_exponent_is_checked():
    """An exponent beyond one is refused in one line."""
    with pytest.raises(ValueError, match=r"^r: got 1.5, expected 0 to 1$"):
        MxmoeParams(r=1.5)


def test_uses_the_memory_of_a_real_profile():
    """On the measured tiny model the plan fills memory to 90 % and more, not beyond."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    result = solve(problem, MxmoeSolver(), work=100.0)
    held = np.bincount(
        result.plan.copies[:, 1],
        problem.size_bytes[result.plan.copies[:, 0], result.plan.copies[:, 2]],
        problem.num_places,
    )
    assert (held <= problem.largest_bytes).all()
    assert held.sum() > 0.9 * problem.room_bytes.sum()
