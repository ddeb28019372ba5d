"""`hobbit`: popularity decides who has many bits."""

from __future__ import annotations

import numpy as np
import pytest
from bits_cases import formats_of, problem_with_rooms

from meldopt.solver import solve
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.hobbit import (
    HobbitParams,
    HobbitSolver,
    hottest_bits_first,
    hottest_first,
)


class TestHobbitContract(SolverContract):
    """`hobbit` keeps the contract of solvers, with two widths and with all."""

    @pytest.fixture(params=[False, True], ids=["hobbit", "d2moe"])
    def solver(self, request):
        return HobbitSolver(HobbitParams(nested=request.param))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (12.0, [0, 0, 0]),  # all wide
        (10.0, [0, 1, 0]),  # few bits: 2 each, and room for two of 4
        (6.0, [1, 1, 1]),
        (5.0, [2, 2, 2]),  # few bits are 1 byte now; 3 more would be needed
        (6.5, [1, 1, 1]),
        (2.0, [2, 2, 2]),  # nothing fits
    ],
)
def test_two_widths_by_hand(budget, expected):
    """The most called experts have the most bits, the rest the most that all can have.

    Formats of 4, 2 and 1 bytes; calls 5, 1 and 3.
    """
    size = np.tile([4.0, 2.0, 1.0], (3, 1))
    chosen = hottest_first(np.array([5.0, 1.0, 3.0]), size, budget, np.arange(3))
    assert chosen.tolist() == expected


def test_no_cold_expert_overtakes():
    """A smaller cold expert does not take the room that a hot one could not use."""
    size = np.array([[9.0, 1.0], [2.0, 1.0]])
    chosen = hottest_first(np.array([5.0, 1.0]), size, 4.0, np.arange(2))
    assert chosen.tolist() == [1, 1]


def test_nested_widths_by_hand():
    """Steps up are taken in the order of the calls that use them.

    Of three widths the first step is used by 2/3 of the calls, the second by 1/3: the
    heat of steps is 4, 2 (calls 6), 2, 1 (calls 3), 0.67, 0.33 (calls 1). Base 3 bytes;
    5 more: 1 for the first step of the first expert, 2 for its second, 1 for the second
    expert; its next step (2) does not fit, and the last byte goes to the third.
    """
    size = np.tile([4.0, 2.0, 1.0], (3, 1))
    chosen = hottest_bits_first(np.array([6.0, 3.0, 1.0]), size, 8.0, np.arange(3))
    assert chosen.tolist() == [0, 1, 1]
    chosen = hottest_bits_first(np.array([6.0, 3.0, 1.0]), size, 1.0, np.arange(3))
    assert chosen.tolist() == [2, 2, 2]


def test_no_step_is_skipped():
    """A cheap second step is not taken where the first one (3 bytes) did not fit."""
    size = np.array([[5.0, 4.0, 1.0]])
    assert hottest_bits_first(np.ones(1), size, 3.0, np.arange(3)).tolist() == [2]
    assert hottest_bits_first(np.ones(1), size, 5.0, np.arange(3)).tolist() == [0]


@pytest.mark.parametrize("nested", [False, True])
def test_hot_experts_are_wide(nested):
    """With room for two of four wide experts the two most called ones are wide.

    Rates 3 and 2: calls/s are 2.3, 2.7, 1.8 and 3.2.
    """
    problem = problem_with_rooms(24.0, 24.0, 0.0)
    result = solve(problem, HobbitSolver(HobbitParams(nested=nested)), work=10.0)
    assert formats_of(problem, result).tolist() == [1, 0, 1, 0]
    assert result.feasible
    assert "losses" in result.ignored
