"""The adapters: what engines say is read with care."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.engines.highs import solve_highs
from meldopt.engines.pulp import parse_cbc_log, solve_pulp
from meldopt.errors import SolverUnavailableError
from meldopt.formulations.linear import LinearBuilder


def knapsack(num: int, seed: int, *, cost: float = 1.0):
    """Cover a demand by items: a small MILP with an integrality gap."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(5, 40, num).astype(float)
    price = weight + rng.integers(1, 6, num)
    builder = LinearBuilder()
    x = builder.add_columns(
        "x", [np.arange(num)], upper=1.0, cost=cost * price, integer=True
    )
    builder.add_rows(
        "cover",
        [[0]],
        [(np.zeros(num, np.int64), x.range, weight)],
        lower=np.floor(weight.sum() / 2) + 0.5,
    )
    return builder.build(objective_scale=1.0)


def solve_by_enumeration(model):
    """Try every 0/1 vector."""
    num = model.num_columns
    points = (np.arange(2**num)[:, None] >> np.arange(num)) & 1
    feasible = (points @ model.matrix.toarray().T >= model.row_lower).all(axis=1)
    return float((points[feasible] @ model.objective).min())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cost", [1.0, 1e-7, 1e7])
def test_engines_agree_with_enumeration(seed, cost):
    """HiGHS and CBC prove the optimum at any magnitude of the costs."""
    model = knapsack(10, seed, cost=cost)
    truth = solve_by_enumeration(model)
    for outcome in (solve_highs(model), solve_pulp(model)):
        assert outcome.status == "optimal"
        assert outcome.objective == pytest.approx(truth, rel=1e-6)
        assert outcome.bound <= truth * (1 + 1e-9)
        assert outcome.bound >= truth * (1 - 1e-5) - 2e-9


@pytest.mark.parametrize("solve", [solve_highs, solve_pulp])
def test_infeasible_is_a_status(solve):
    """A row that cannot hold gives a status, not an exception."""
    builder = LinearBuilder()
    x = builder.add_columns("x", [np.arange(2)], upper=1.0, cost=1.0, integer=True)
    builder.add_rows("no", [[0]], [(np.zeros(2, int), x.range, 1.0)], lower=3.0)
    outcome = solve(builder.build())
    assert outcome.status == "infeasible"
    assert outcome.x is None
    assert outcome.bound is None


def test_no_columns_leave_the_rows_to_be_read():
    """Without columns a row asks for what nothing can give, or for nothing."""
    for lower, status in ((0.0, "optimal"), (1.0, "infeasible")):
        builder = LinearBuilder()
        builder.add_rows("row", [[0]], [], lower=lower)
        assert solve_highs(builder.build()).status == status


def test_a_callback_ends_the_run():
    """Returning True from the callback stops HiGHS; what it has is kept."""
    told = []

    def watch(objective, bound, x):
        told.append((objective, bound))
        return True

    outcome = solve_highs(knapsack(40, 7), on_incumbent=watch, threads=1)
    assert told
    assert outcome.status in ("optimal", "feasible", "unknown")


def test_a_start_is_never_lost():
    """With no time at all HiGHS still returns the solution it was given."""
    model = knapsack(12, 3)
    everything = np.ones(model.num_columns)
    outcome = solve_highs(model, start=everything, nodes=0)
    assert outcome.objective <= model.objective.sum() + 1e-9


@pytest.mark.parametrize(
    ("name", "message"),
    [("nonsense", "knows no such engine"), ("MOSEK", "is not installed")],
)
def test_missing_engines_are_named(name, message):
    """An engine that PuLP does not know or have is one clear line."""
    with pytest.raises(SolverUnavailableError, match=message):
        solve_pulp(knapsack(4, 0), engine=name)


def test_cbc_log():
    """The last objective and the best bound are read; 1e50 is no objective."""
    text = (
        "Cbc0010I After 0 nodes, 1 on tree, 1e+50 best solution, best possible 6110.8 "
        "(0.44 seconds)\n"
        "Cbc0010I After 100 nodes, 53 on tree, 6326 best solution, best possible 6131 "
        "(1.02 seconds)\n"
        "Result - Stopped on time limit\n"
        "Objective value:                6255.00000000\n"
        "Lower bound:                    6131.500\n"
    )
    assert parse_cbc_log(text) == (6326.0, 6131.5)
    assert parse_cbc_log("nothing here") == (None, None)
