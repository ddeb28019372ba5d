"""`moetuner`: both integer programmes against enumeration, and their fallbacks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from meldopt import build_problem, read_instance
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.moetuner import (
    MoetunerParams,
    MoetunerSolver,
    chained,
    place_clusters,
    servers_model,
    slowest,
    swapped,
)
from meldopt_solvers.baselines.view import View


class Unlimited:
    """A budget without end."""

    over = False

    def step(self, work=0.0):
        return False

    time_left_s = np.inf

    def spent(self):
        return False

    def keep(self, decision):
        pass


def never():
    """Return that the budget is not spent."""
    return False


def fastest_by_enumeration(passed, cost, sizes):
    """Return the least objective of the second programme."""
    num_s = sizes.shape[1]
    total, best = sizes.sum(axis=0), np.inf
    orders = [np.array(one) for one in itertools.permutations(range(num_s))]
    for chosen in itertools.product(orders, repeat=len(sizes)):
        held = np.zeros(num_s, dtype=np.int64)
        for size, server in zip(sizes, chosen, strict=True):
            np.add.at(held, server, size)
        if (held == total).all():
            best = min(best, slowest(passed, cost, np.array(chosen)))
    return best


def holds(model, x):
    """Say whether a solution keeps every row and bound."""
    rows = model.matrix @ x
    return bool(
        (rows >= model.row_lower - 1e-9).all()
        and (rows <= model.row_upper + 1e-9).all()
        and (x >= model.col_lower - 1e-9).all()
        and (x <= model.col_upper + 1e-9).all()
    )


class TestMoetunerContract(SolverContract):
    """`moetuner` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return MoetunerSolver()


# -- clusters to servers ---------------------------------------------------------------


def test_the_slowest_pair_counts():
    """4 tokens at 1 s and 1 at 10 s pass on: the latter pair takes 10 s."""
    passed = [np.array([[5.0, 4.0], [1.0, 5.0]])]
    cost = np.array([[0.0, 1.0], [10.0, 0.0]])
    server = np.array([[0, 1], [0, 1]])
    assert slowest(passed, cost, server) == 10.0
    # Crossed, 5 tokens go each way, 5 s and 50 s.
    assert slowest(passed, cost, np.array([[0, 1], [1, 0]])) == 50.0


@pytest.mark.parametrize("equal", [True, False])
def test_servers_of_clusters_are_optimal(equal):
    """The second programme against enumeration: 3 layers, 3 servers."""
    rng = np.random.default_rng(4)
    for _ in range(5):
        passed = [rng.random((3, 3)) for _ in range(2)]
        cost = rng.random((3, 3)) + 0.1
        np.fill_diagonal(cost, 0.0)
        sizes = np.full((3, 3), 2)
        if not equal:
            sizes = np.array([[2, 1, 3], [1, 2, 3], [3, 2, 1]])
        server, exact = place_clusters(
            passed,
            cost,
            np.ones((3, 3), dtype=bool),
            sizes,
            gap=1e-6,
            nodes=None,
            most_rows=10_000,
        )
        assert exact
        best = fastest_by_enumeration(passed, cost, sizes)
        assert slowest(passed, cost, server) == pytest.approx(best, rel=1e-4)
        held = np.zeros(3, dtype=np.int64)
        np.add.at(held, server.ravel(), sizes.ravel())
        assert (held == sizes.sum(axis=0)).all()


def test_servers_are_a_solution_of_the_second_programme():
    """The start keeps every row, and its objective is one in units of itself."""
    rng = np.random.default_rng(5)
    passed = [rng.random((3, 3)) for _ in range(3)]
    cost = rng.random((3, 3))
    np.fill_diagonal(cost, 0.0)
    sizes = np.full((4, 3), 2)
    server = np.stack([rng.permutation(3) for _ in range(4)])
    model, start = servers_model(passed, cost, sizes, server)
    assert holds(model, start)
    assert model.true_objective(float(model.objective @ start)) == pytest.approx(1.0)


def test_too_large_a_programme_falls_back():
    """Without rows to spend the chain with exchanges is returned, and not as exact."""
    rng = np.random.default_rng(6)
    passed = [rng.random((4, 4)) for _ in range(5)]
    cost = 1.0 - np.eye(4)
    sizes = np.full((6, 4), 2)
    server, exact = place_clusters(
        passed, cost, cost >= 0, sizes, gap=0.025, nodes=10, most_rows=0
    )
    assert not exact
    start = chained(passed, cost, sizes)
    assert slowest(passed, cost, server) <= slowest(passed, cost, start)
    again = swapped(passed, cost, sizes, server, never)
    assert np.array_equal(again, server)  # no exchange gains
    assert (np.sort(server, axis=1) == np.arange(4)).all()


def test_a_chain_follows_the_tokens():
    """All tokens of cluster 0 go to cluster 1 and back: they swap servers."""
    passed = [np.array([[0.0, 1.0], [1.0, 0.0]])]
    cost = 1.0 - np.eye(2)
    equal = np.full((2, 2), 1)
    assert chained(passed, cost, equal).tolist() == [[0, 1], [1, 0]]
    # Clusters of other sizes would not fit there.
    assert chained(passed, cost, np.array([[1, 2], [1, 2]])).tolist() == [[0, 1]] * 2


def test_unreachable_servers_are_avoided():
    """No route from 0 to 1 costs ten times the slowest one, not infinity."""
    passed = [np.array([[0.0, 1.0], [1.0, 0.0]])]
    s_per_token = np.array([[0.0, np.inf], [1.0, 0.0]])
    server, exact = place_clusters(
        passed,
        s_per_token,
        np.isfinite(s_per_token),
        np.ones((2, 2), dtype=np.int64),
        gap=0.025,
        nodes=10,
        most_rows=100,
    )
    assert exact
    assert server.tolist() == [[0, 1], [1, 0]]


# -- the solver ------------------------------------------------------------------------


def test_loads_are_balanced_on_an_instance():
    """On `tinymoe/roam-3` calls of layers are even, and so are experts of servers.

    The last layer has to even out the sizes of clusters, and is less even itself.
    """
    problem = build_problem(read_instance("tinymoe/roam-3"))
    view = View(problem, 2)
    solver = MoetunerSolver(MoetunerParams(most_rows=0))
    server = solver.decide(problem, view, None, Unlimited()).server
    calls = np.zeros((6, 3))
    np.add.at(calls, (problem.layer_of, server), view.load)
    uneven = calls.max(axis=1) / calls.mean(axis=1)
    assert (uneven[:-1] <= 1.01).all()
    assert uneven[-1] <= 1.05
    assert np.bincount(server).tolist() == [32, 32, 32]
    assert "exact cluster placement" in view.estimated
