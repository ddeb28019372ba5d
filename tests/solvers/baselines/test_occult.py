"""`occult`: seeds, growth, and the servers per token that it saves."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt import build_problem, read_instance
from meldopt.affinity import devices_per_token, plan_affinity
from meldopt.solver import MaxIterations
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.occult import OccultSolver, grow, seeds
from meldopt_solvers.baselines.slots import layer_slots
from meldopt_solvers.baselines.view import View


class Unlimited:
    """A budget without end."""

    over = False

    def step(self, work=0.0):
        return False


def together(edges, num):
    """Make a symmetric matrix of common calls."""
    weight = np.zeros((num, num))
    for i, j, calls in edges:
        weight[i, j] = weight[j, i] = calls
    return weight


class TestOccultContract(SolverContract):
    """`occult` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return OccultSolver()


def test_the_closest_pair_starts_the_largest_group():
    """0 and 1 (9) on the group of three slots; then 3, which has none with either.

    The third seed has the least with 0, 1 and 3 together: 4 with 2 calls, not 2 with 3.
    """
    weight = together([(0, 1, 9), (1, 2, 2), (2, 3, 1), (1, 4, 2)], 6)
    weight[5, 0] = weight[0, 5] = 5.0
    label = seeds(weight, np.array([1, 3, 2]))
    assert label.tolist() == [1, 1, -1, 2, 0, -1]


def test_a_group_of_one_slot_has_one_of_the_pair():
    """Three groups of one slot: no room for pairs, and every expert is a seed."""
    weight = together([(0, 1, 9), (1, 2, 2)], 3)
    assert sorted(seeds(weight, np.ones(3, dtype=np.int64)).tolist()) == [0, 1, 2]


def test_seeds_do_without_common_calls():
    """Nothing is called together, one group has no slots: seeds all the same."""
    label = seeds(np.zeros((4, 4)), np.array([2, 0, 2]))
    assert np.bincount(label[label >= 0], minlength=3).tolist() == [1, 0, 1]


def test_groups_grow_by_mean_common_calls():
    """{0, 1} and {4}; 2 has 8 with the former in sum, 4 on average, 5 with the latter.

    So 2 joins 4, and 3 goes where a slot is left.
    """
    weight = together([(0, 1, 9), (0, 2, 7), (1, 2, 1), (2, 4, 5), (0, 3, 1)], 5)
    weight[1, 3] = weight[3, 1] = 1.0
    label = grow(weight, np.array([3, 2]))
    assert label.tolist() == [0, 0, 1, 0, 1]


def test_groups_keep_their_slots():
    """Random graphs and slots, some of them 0: sizes are the slots."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        slots = rng.integers(0, 4, 4)
        weight = rng.random((slots.sum(), slots.sum()))
        label = grow(weight + weight.T, slots)
        assert np.bincount(label, minlength=4).tolist() == slots.tolist()


def test_planted_groups_cost_one_server():
    """Tokens that call within one of four planted groups find it on one server.

    Placed at random they would need most of the four.
    """
    rng = np.random.default_rng(1)
    group = rng.permutation(np.arange(64) % 4)
    members = np.argsort(group, kind="stable").reshape(4, 16)
    tokens = np.array(
        [[rng.permutation(members[t % 4])[:8]] for t in range(400)], dtype=np.int64
    )
    weight = np.zeros((64, 64))
    for row in tokens[:, 0]:
        weight[np.ix_(row, row)] += 1.0
    np.fill_diagonal(weight, 0.0)
    label = grow(weight, np.full(4, 16))
    assert devices_per_token(tokens, label).tolist() == [1.0]
    assert devices_per_token(tokens, np.arange(64) % 4)[0] > 3.0


def test_random_calls_leave_the_published_expectation():
    """Any 8 of 64: nothing to gain on tokens that it has not seen, 3.659 servers."""
    rng = np.random.default_rng(2)

    def drawn(count):
        return rng.random((count, 1, 64)).argsort(axis=2)[:, :, :8]

    weight = np.zeros((64, 64))
    for row in drawn(2000)[:, 0]:
        weight[np.ix_(row, row)] += 1.0
    np.fill_diagonal(weight, 0.0)
    label = grow(weight, np.full(4, 16))
    found = devices_per_token(drawn(20_000), label)[0]
    assert found == pytest.approx(3.659, abs=0.02)


def test_it_needs_fewer_servers_than_expected_of_chance():
    """On the measured tokens of `tinymoe/edge-4` below the uniform expectation."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    result = OccultSolver().solve(problem, stop=MaxIterations(500), seed=0)
    found = plan_affinity(problem, result.plan)
    assert found.devices_per_token < 0.95 * found.uniform_devices.mean()


def test_servers_hold_their_slots_of_every_layer():
    """Groups of unequal slots stay where they fit."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    view = View(problem, 1)
    decision = OccultSolver().decide(problem, view, None, Unlimited())
    counts = np.zeros((6, 4), dtype=np.int64)
    np.add.at(counts, (problem.layer_of, decision.server), 1)
    assert np.array_equal(counts, layer_slots(view))
    assert len(np.unique(counts)) > 2  # memory does not allow equal ones
