"""`grace`: controlled sizes, the knee, and dynamic replication."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt import build_problem, read_instance
from meldopt.solver import MaxIterations
from meldopt.testing import SolverContract, contract_instance
from meldopt_solvers.baselines.grace import (
    GraceParams,
    GraceSolver,
    groups,
    hot_experts,
    knee,
    knee_of,
    limits,
    number_of_copies,
    replicas,
)
from meldopt_solvers.baselines.grouping import inside
from meldopt_solvers.baselines.view import View


def planted(sizes, within=10.0, across=1.0):
    """Weights of a graph with planted groups of given sizes."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    weight = np.where(label[:, None] == label[None, :], within, across)
    np.fill_diagonal(weight, 0.0)
    return weight


class TestGraceContract(SolverContract):
    """`grace` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return GraceSolver()


def test_sizes_are_within_a_part_of_the_slots():
    """Slots 8 and 4, a quarter: 6 to 10 and 3 to 5; memory holds the first at 9."""
    least, most = limits(np.array([8, 4]), np.array([9, 9]), 0.25)
    assert (least.tolist(), most.tolist()) == ([6, 3], [9, 5])


def test_without_deviation_groups_have_their_slots():
    """Planted groups of 3, 6 and 3: with r = 0 all have 4, with r = 1/2 they fit."""
    weight, slots = planted([3, 6, 3]), np.full(3, 4)
    free = np.full(3, 12)
    even = groups(weight, slots, free, 0.0)
    assert np.bincount(even).tolist() == [4, 4, 4]
    loose = groups(weight, slots, free, 0.5)
    assert sorted(np.bincount(loose).tolist()) == [3, 3, 6]
    assert inside(weight, loose) > inside(weight, even)


def test_memory_bounds_groups_whatever_the_ratio():
    """Six would belong together, but memory holds five anywhere."""
    sizes = np.bincount(groups(planted([3, 6, 3]), np.full(3, 4), np.full(3, 5), 1.0))
    assert sizes.max() == 5


def test_the_knee_is_farthest_from_the_chord():
    """Gain 0, 8, 9, 10 at cost 0, 1, 2, 4: heights 0, 0.55, 0.4, 0."""
    cost, gain = np.array([0.0, 1, 2, 4]), np.array([0.0, 8, 9, 10])
    assert knee_of(cost, gain) == 1


def test_of_a_straight_line_it_is_the_end():
    """Every bit of unevenness brings as much: as uneven as may be."""
    assert knee_of(np.array([0.0, 1, 2]), np.array([3.0, 5, 7])) == 2


def test_without_gain_there_is_no_knee():
    """Where unevenness brings nothing, and where there is none, the first point."""
    assert knee_of(np.array([0.0, 1, 2]), np.array([5.0, 5, 5])) == 0
    assert knee_of(np.zeros(3), np.array([1.0, 1, 1])) == 0


def test_the_knee_stops_at_what_planted_groups_need():
    """Groups of 3, 6 and 3 need r = 1/2; more freedom changes nothing.

    Gain grows as unevenness does until then, so there is no bend before.
    """
    label = knee(planted([3, 6, 3]), np.full(3, 4), np.full(3, 12))
    assert sorted(np.bincount(label).tolist()) == [3, 3, 6]


def test_copies_by_unevenness():
    """1.9 times the mean is one copy, 2.1 two; at most servers and limits less one."""
    assert number_of_copies(1.0, 4, 4) == 1
    assert number_of_copies(1.9, 4, 4) == 1
    assert number_of_copies(2.1, 4, 4) == 2
    assert number_of_copies(9.0, 4, 4) == 3
    assert number_of_copies(9.0, 4, 2) == 1
    assert number_of_copies(9.0, 4, 1) == 0


def test_hot_experts_have_most_of_the_calls():
    """Of 10 calls, with one copy more than 5: 4 + 3; with two more than 20/3: 7."""
    load = np.array([1.0, 4, 2, 3])
    assert hot_experts(load, 1).tolist() == [1, 3]
    assert hot_experts(load, 2).tolist() == [1, 3]
    assert hot_experts(load, 3).tolist() == [1, 3, 2]  # more than 7.5
    assert hot_experts(load, 0).tolist() == []
    assert hot_experts(np.zeros(2), 1).tolist() == []


def test_the_busiest_group_is_copied_to_the_idlest_servers():
    """By hand on the contract's instance, narrow: 8 bytes an expert, slots 5, 5, 5.

    Calls per second: 3 chat and 2 code tokens: experts 0 to 3 get 2.3, 2.7, 1.8, 3.2.
    Layer 0 on servers 0 and 0: 5 against a mean of 5/3, three times: two copies, more
    than 10/3 calls: both experts. Layer 1 on 1 and 2: 3.2 at 2 is 1.92 times the mean,
    one copy of expert 3, to server 0, which has no calls of the layer.
    """
    problem = build_problem(contract_instance("loose"))
    view = View(problem, 1)
    assert view.load == pytest.approx([2.3, 2.7, 1.8, 3.2])
    copies = replicas(view, np.array([0, 0, 1, 2]))
    assert sorted(map(tuple, copies.tolist())) == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
        (3, 0),
    ]


def test_copies_end_with_memory():
    """In 21 to 25 bytes lie two experts of 8 each, three on the second server.

    Both of layer 0 on server 0 fill it. Of the copies to servers 1 and 2, which hold
    one expert already, room is for two and one.
    """
    problem = build_problem(contract_instance("tight"))
    view = View(problem, 1)
    assert view.slots.tolist() == [2, 3, 2]
    copies = replicas(view, np.array([0, 0, 1, 2]))
    held = np.bincount(copies[:, 1], minlength=3)
    assert held.tolist() == [0, 2, 1]


@pytest.mark.parametrize("copies", [True, False])
def test_copies_only_on_request(copies):
    """On `tinymoe/edge-4` hot experts have copies, unless the parameter says no."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    solver = GraceSolver(GraceParams(copies=copies))
    result = solver.solve(problem, stop=MaxIterations(500), seed=0)
    count = np.bincount(result.plan.copies[:, 0], minlength=problem.num_experts)
    assert (count >= 1).all()
    assert (count > 1).any() == copies
    assert "memory" not in {one.row for one in result.score.violations}


def test_a_limit_of_one_copy_is_kept():
    """`tinymoe/roam-3` allows one copy of an expert."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    result = GraceSolver().solve(problem, stop=MaxIterations(500), seed=0)
    assert len(result.plan.copies) == problem.num_experts


def test_a_fixed_ratio_is_used():
    """With r = 0 every server has exactly its slots of every layer."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    solver = GraceSolver(GraceParams(ratio=0.0))
    result = solver.solve(problem, stop=MaxIterations(500), seed=0)
    expert, place, _ = result.plan.copies.T
    counts = np.zeros((6, 3), dtype=np.int64)
    np.add.at(counts, (problem.layer_of[expert], problem.server_of[place]), 1)
    assert set(counts.ravel().tolist()) == {5, 6}
