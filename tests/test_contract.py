"""Every registered solver keeps the contract of solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meldopt.registry import solver_names
from meldopt.solver import make_solver
from meldopt.testing import SolverContract

if TYPE_CHECKING:
    from meldopt.solver import Solver


class TestRegisteredSolver(SolverContract):
    """The contract, for each name in the registry."""

    @pytest.fixture(params=solver_names())
    def solver(self, request: pytest.FixtureRequest) -> Solver:
        """Return a solver as the command line makes it."""
        return make_solver(request.param)
