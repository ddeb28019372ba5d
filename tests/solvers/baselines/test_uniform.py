"""`uniform`: the contract, and which format it takes."""

from __future__ import annotations

import pytest
from bits_cases import formats_of, problem_with_rooms

from meldopt.solver import Status, solve
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.uniform import UniformSolver


class TestUniformContract(SolverContract):
    """`uniform` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return UniformSolver()


@pytest.mark.parametrize(
    ("rooms", "format_"),
    [
        ((32.0, 16.0, 16.0), 0),  # four experts of 16 bytes, all rooms full
        ((32.0, 16.0, 15.0), 1),  # 63 bytes in all: too few
        ((24.0, 24.0, 24.0), 1),  # 72 in all, but only one of 16 bytes in each
    ],
)
def test_takes_the_most_bits_that_fit(rooms, format_):
    """A format fits if every expert finds room, not only all rooms together."""
    problem = problem_with_rooms(*rooms)
    result = solve(problem, UniformSolver(), work=10.0)
    assert result.feasible
    assert formats_of(problem, result).tolist() == [format_] * 4


def test_nothing_fits():
    """Where no format fits it returns the smallest, and the judge says what breaks."""
    problem = problem_with_rooms(8.0, 8.0, 8.0)
    result = solve(problem, UniformSolver(), work=10.0)
    assert result.status in (Status.VIOLATING, Status.INFEASIBLE)
    assert formats_of(problem, result).tolist() == [1] * 4
    assert "calls" in result.ignored
