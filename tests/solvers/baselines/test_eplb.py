"""`eplb`: the contract, the published example, its rules by hand, unequal servers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.eplb import (
    EplbParams,
    EplbSolver,
    balance_layer,
    pack,
    rebalance_experts,
    replica_slots,
    replicate,
)
from meldopt_solvers.baselines.view import View

STOP = MaxIterations(99)

# https://github.com/deepseek-ai/EPLB, README, "Interface and Example" (MIT licence):
# two layers of 12 experts in 4 groups, 16 replicas on 2 nodes of 4 GPUs each.
WEIGHT = np.array(
    [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
)
PUBLISHED = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


class TestEplbContract(SolverContract):
    """`eplb` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return EplbSolver(EplbParams(repair=True))


def test_published_example():
    """The worked example of the authors, number by number."""
    assert rebalance_experts(WEIGHT, 16, 4, 2, 8).tolist() == PUBLISHED


def test_the_solver_plans_the_published_example():
    """The same numbers come out of a problem of eight servers with four slots each."""
    calls = WEIGHT / WEIGHT.sum(axis=1, keepdims=True)
    problem = slotted_problem(calls.tolist(), [4] * 8)
    params = EplbParams(groups=4, nodes=2)
    result = EplbSolver(params).solve(problem, stop=STOP, seed=0)
    assert result.status is Status.FEASIBLE
    expected = {
        (12 * layer + e, n // 2)
        for layer, experts in enumerate(PUBLISHED)
        for n, e in enumerate(experts)
    }
    assert {(i, v) for i, v, _ in result.plan.copies.tolist()} == expected


def test_global_is_used_where_groups_do_not_divide():
    """Three groups on two nodes, as in the published code: one group and one node."""
    by_three = rebalance_experts(WEIGHT, 16, 3, 2, 8)
    assert by_three.tolist() == rebalance_experts(WEIGHT, 16, 1, 1, 8).tolist()
    assert by_three.tolist() != PUBLISHED


def test_replication_makes_the_largest_load_as_small_as_can_be():
    """Against every way of giving five further replicas to four experts."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        weight = rng.random(4)
        count = np.bincount(replicate(weight, 9))
        best = min(
            (weight / (1 + np.bincount(more, minlength=4))).max()
            for more in itertools.combinations_with_replacement(range(4), 5)
        )
        assert (weight / count).max() == pytest.approx(best, rel=1e-12)


def test_replicas_of_an_expert_are_limited():
    """The second expert may have three at most; the rest goes to others, then stops."""
    assert np.bincount(replicate(np.array([1.0, 100.0]), 5, most=3)).tolist() == [2, 3]
    assert len(replicate(np.array([1.0, 100.0]), 9, most=3)) == 6
    assert replicate(np.array([1.0, 100.0]), 9, most=1).tolist() == [0, 1]


def test_packing_takes_the_lightest_pack_with_a_free_slot():
    """9 -> a, 7 -> b, 6 -> b (7 < 9), b is full: 5 and 1 -> a."""
    packs, number = pack(np.array([5.0, 9.0, 7.0, 6.0, 1.0]), np.array([3, 2]))
    assert packs.tolist() == [0, 0, 1, 1, 0]
    assert number.tolist() == [1, 0, 0, 1, 2]


def test_as_many_packs_as_items_are_filled_in_order():
    """The published code does not sort them then."""
    assert pack(np.array([1.0, 3.0, 2.0]), np.ones(3, dtype=int))[0].tolist() == [
        0,
        1,
        2,
    ]


def test_a_node_with_too_few_slots_makes_it_global():
    """Two experts must lie in each node, but the second has one slot."""
    weight = np.array([4.0, 3.0, 2.0, 1.0])
    slots = np.array([2, 2, 1, 0])
    held = balance_layer(weight, slots, groups=2, nodes=2)
    assert [len(one) for one in held] == [2, 2, 1, 0]
    assert set(np.concatenate(held).tolist()) == {0, 1, 2, 3}


def test_unequal_servers_take_equal_numbers_up_to_their_slots():
    """Slots 2, 6 and 8 in two layers of 4: 1, 3 and 4 a layer; 2 redundant: 1, 3, 2."""
    problem = slotted_problem([[0.25] * 4, [0.25] * 4], [2, 6, 20])
    view = View(problem, 0)
    assert replica_slots(view).tolist() == [[1, 3, 4], [1, 3, 4]]
    assert replica_slots(view, 2).tolist() == [[1, 3, 2], [1, 3, 2]]
    assert replica_slots(view, 0).sum(axis=1).tolist() == [4, 4]


def test_with_one_copy_allowed_there_are_no_replicas():
    """``limits.copies`` = 1 is a row that a method that replicates must obey."""
    problem = slotted_problem([[0.7, 0.3]], [2, 2], copies=1)
    result = EplbSolver().solve(problem, stop=STOP, seed=0)
    assert result.status is Status.FEASIBLE
    assert result.plan.num_copies == 2


def test_copies_are_limited_to_those_allowed():
    """Five slots for three experts: the busy one may have two copies, not three."""
    problem = slotted_problem([[0.9, 0.06, 0.04]], [2, 2, 1], copies=2)
    result = EplbSolver().solve(problem, stop=STOP, seed=0)
    assert result.feasible
    assert np.bincount(result.plan.copies[:, 0]).tolist() == [2, 2, 1]
    # Slots for three copies of both, of which two are allowed.
    roomy = View(slotted_problem([[0.9, 0.1]], [2, 2, 2], copies=2), 0)
    assert replica_slots(roomy).tolist() == [[2, 1, 1]]


def test_too_few_slots_break_memory_honestly():
    """Five experts in three slots: one copy of each, and the plan is violating."""
    problem = slotted_problem([[0.2] * 5], [2, 1])
    result = EplbSolver().solve(problem, stop=STOP, seed=0)
    assert result.status is Status.VIOLATING
    assert result.plan.num_copies == 5
    assert {one.row for one in result.score.violations} == {"memory"}


def test_even_shares_count_replicas():
    """The busy expert has one copy on each of two servers: half of every demand's."""
    problem = slotted_problem([[0.8, 0.2]], [1, 2], rates=((0, 1.0), (1, 1.0)))
    result = EplbSolver(EplbParams(even=True)).solve(problem, stop=STOP, seed=0)
    assert result.plan.copies[:, :2].tolist() == [[0, 0], [0, 1], [1, 1]]
    assert result.plan.served.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
    assert result.plan.served_share.tolist() == [0.5] * 4
