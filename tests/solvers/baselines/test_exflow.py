"""`exflow`: its integer programme, its descent, and the hops that it counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from meldopt import build_problem, read_instance
from meldopt.affinity import hops_per_token, uniform_hops_per_token
from meldopt.solver import MaxIterations
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.exflow import (
    ExflowSolver,
    assigned,
    chain,
    descend,
    hops,
    placement_model,
    prove,
    search,
)


def never(work):
    """Return that the budget is not spent."""
    return False


def placements(slots):
    """Return all labels of a layer that fill its slots."""
    of_slot = np.repeat(np.arange(len(slots)), slots)
    return [np.array(one) for one in sorted(set(itertools.permutations(of_slot)))]


def least_hops(moves, slots):
    """Return the fewest hops of any placement, by enumeration."""
    layers = [placements(row) for row in slots]
    return min(hops(moves, list(labels)) for labels in itertools.product(*layers))


def drawn(rng, shape):
    """Draw transitions between layers of given sizes."""
    return [
        rng.integers(0, 10, (a, b)).astype(float) for a, b in itertools.pairwise(shape)
    ]


class TestExflowContract(SolverContract):
    """`exflow` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return ExflowSolver()


def test_hops_are_transitions_between_servers():
    """Of 7 + 2 + 1 + 5 transitions those from 0 to 1 and back hop: 2 + 1."""
    moves = [np.array([[7.0, 2.0], [1.0, 5.0]])]
    same = np.array([0, 1])
    assert hops(moves, [same, same]) == 3.0
    assert hops(moves, [same, same[::-1]]) == 12.0


def test_hops_of_a_trace_are_hops_of_its_transitions():
    """The model's objective is the evaluator's count: aggregation loses nothing."""
    rng = np.random.default_rng(0)
    paths = np.stack([rng.integers(0, 4, 50) + 4 * layer for layer in range(3)], axis=1)
    moves = [np.zeros((4, 4)) for _ in range(2)]
    for path in paths:
        for layer in range(2):
            moves[layer][path[layer] - 4 * layer, path[layer + 1] - 4 * layer - 4] += 1
    labels = [rng.permutation(np.array([0, 0, 1, 1])) for _ in range(3)]
    counted = hops_per_token(paths, np.concatenate(labels))
    assert hops(moves, labels) == pytest.approx(50 * counted)


def test_slots_are_assigned_at_the_largest_gain():
    """Both want server 0 with one slot; the one that loses less goes to server 1."""
    gain = np.array([[5.0, 4.0], [5.0, 1.0]])
    assert assigned(gain, np.array([1, 1])).tolist() == [1, 0]
    assert assigned(gain, np.array([2, 0])).tolist() == [0, 0]


def test_a_chain_follows_its_heaviest_transitions():
    """0 goes to 3 and 1 to 2 nine times in ten: the next layer is crossed."""
    moves = [np.array([[1.0, 9.0], [9.0, 1.0]])]
    slots = np.ones((2, 2), dtype=np.int64)
    labels = chain(moves, slots, np.array([0, 1]))
    assert labels[1].tolist() == [1, 0]


def test_descent_never_loses_and_ends_where_no_layer_gains():
    """No layer alone can be placed better, against all its placements."""
    rng = np.random.default_rng(3)
    for _ in range(10):
        moves = drawn(rng, (4, 4, 4))
        slots = np.full((3, 2), 2)
        start = [rng.permutation(np.array([0, 0, 1, 1])) for _ in range(3)]
        labels = descend(moves, slots, start, never)
        assert hops(moves, labels) <= hops(moves, start)
        for layer in range(3):
            for other in placements(slots[layer]):
                tried = [*labels[:layer], other, *labels[layer + 1 :]]
                assert hops(moves, tried) >= hops(moves, labels) - 1e-9


def test_descent_stops_when_it_is_told_to():
    """A spent budget leaves the placement as it is."""
    moves = [np.array([[1.0, 9.0], [9.0, 1.0]])]
    start = [np.array([0, 1]), np.array([0, 1])]
    slots = np.ones((2, 2), dtype=np.int64)
    found = descend(moves, slots, start, lambda work: True)
    assert hops(moves, found) == hops(moves, start) == 18.0


@pytest.mark.parametrize(
    "slots",
    [
        [[2, 2], [2, 2], [2, 2]],  # equal: servers can be renamed
        [[3, 1], [2, 2], [1, 3]],
        [[2, 1, 1], [1, 1, 2], [0, 2, 2]],
    ],
)
def test_the_integer_programme_is_optimal(slots):
    """HiGHS proves what enumeration finds, from any start."""
    rng = np.random.default_rng(len(slots[0]))
    slots = np.array(slots)
    for _ in range(4):
        moves = drawn(rng, slots.sum(axis=1))
        first = [np.repeat(np.arange(len(row)), row) for row in slots]
        labels, exact = prove(moves, slots, first, nodes=None)
        assert exact
        assert hops(moves, labels) == pytest.approx(least_hops(moves, slots))
        for label, row in zip(labels, slots, strict=True):
            assert np.array_equal(np.bincount(label, minlength=len(row)), row)


def test_a_placement_is_a_solution_of_the_programme():
    """The start keeps every row, and its objective is its hops, scaled."""
    rng = np.random.default_rng(5)
    slots = np.full((3, 2), 2)
    moves = drawn(rng, (4, 4, 4))
    labels = [rng.permutation(np.array([0, 0, 1, 1])) for _ in range(3)]
    model, start = placement_model(moves, slots, labels)
    rows = model.matrix @ start
    assert (rows >= model.row_lower - 1e-9).all()
    assert (rows <= model.row_upper + 1e-9).all()
    assert (start >= model.col_lower).all()
    assert (start <= model.col_upper).all()
    found = model.true_objective(float(model.objective @ start))
    assert found == pytest.approx(hops(moves, labels))


def test_search_is_near_the_optimum():
    """On 20 random cases the search is optimal in most, 2 % off at the worst."""
    rng = np.random.default_rng(6)
    slots = np.full((4, 2), 2)
    ratios = []
    for _ in range(20):
        moves = drawn(rng, (4, 4, 4, 4))
        found = search(moves, slots, rng, restarts=200, spent=never)
        ratios.append(hops(moves, found) / least_hops(moves, slots))
    assert min(ratios) >= 1.0 - 1e-9
    assert np.mean(np.array(ratios) < 1 + 1e-9) >= 0.9
    assert max(ratios) <= 1.02


def test_planted_paths_need_no_hop():
    """Paths that never leave a planted group of experts: no hop, found from a chain."""
    rng = np.random.default_rng(7)
    groups = [rng.permutation(np.arange(16) % 4) for _ in range(8)]
    moves = [
        (a[:, None] == b[None, :]) * rng.random((16, 16))
        for a, b in itertools.pairwise(groups)
    ]
    labels = search(moves, np.full((8, 4), 4), rng, restarts=8, spent=never)
    assert hops(moves, labels) == 0.0


def test_uniform_transitions_leave_the_published_expectation():
    """If all transitions are alike nothing can be gained: 23.25 hops on 4 GPUs."""
    moves = [np.full((8, 8), 1 / 64)] * 31
    slots = np.full((32, 4), 2)
    labels = search(moves, slots, np.random.default_rng(0), restarts=1, spent=never)
    assert hops(moves, labels) == pytest.approx(23.25)
    assert hops(moves, labels) == pytest.approx(uniform_hops_per_token(slots))


def test_restarts_end_with_the_effort():
    """Without effort to spend it is the descent from the chain; with it never worse."""
    rng = np.random.default_rng(8)
    moves, slots = drawn(rng, (6,) * 6), np.full((6, 3), 2)
    first = np.array([0, 0, 1, 1, 2, 2])
    start = descend(moves, slots, chain(moves, slots, first), never)
    none = search(moves, slots, rng, restarts=200, effort=0.0, spent=never)
    assert hops(moves, none) == hops(moves, start)
    some = search(moves, slots, rng, restarts=200, spent=never)
    assert hops(moves, some) < hops(moves, none)


def test_it_walks_less_than_its_uniform_expectation():
    """On measured paths of `tinymoe/roam-3` tokens take 25 % fewer hops and more."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    result = ExflowSolver().solve(problem, stop=MaxIterations(500), seed=0)
    server = problem.server_of[result.plan.copies[:, 1]]
    first, second = problem.layer_of[problem.pairs].T
    weight = problem.application_rate @ problem.pair_weight
    weight = np.where(first + 1 == second, weight, 0.0)
    here, there = server[problem.pairs].T
    share = weight[here != there].sum() / weight.sum()
    counts = np.zeros((6, 3), dtype=np.int64)
    np.add.at(counts, (problem.layer_of, server), 1)
    assert share <= 0.75 * uniform_hops_per_token(counts) / 5


def test_what_is_not_proved_is_listed():
    """On an instance above the limit of rows "exact placement" is among the ignored."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    result = ExflowSolver().solve(problem, stop=MaxIterations(3), seed=0)
    assert "exact placement" in result.ignored
