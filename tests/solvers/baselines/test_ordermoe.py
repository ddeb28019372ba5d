"""`ordermoe`: the contract; groups, spreading, filling and look-ahead by hand."""

from __future__ import annotations

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.builder import build_problem
from meldopt.instance import read_instance
from meldopt.score import score
from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.ordermoe import (
    OrderMoEParams,
    OrderMoESolver,
    fill,
    grow_groups,
    home_ways,
    look_ahead_cost,
    place_spread,
)
from meldopt_solvers.baselines.view import View

ALONE = np.arange(3)
"""Groups of experts without similar ones."""


class TestOrderMoEContract(SolverContract):
    """`ordermoe` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return OrderMoESolver(OrderMoEParams(repair=True))


def planned(problem, **params):
    """Return the result of a run."""
    solver = OrderMoESolver(OrderMoEParams(**params))
    return solver.solve(problem, stop=MaxIterations(99), seed=0)


def test_groups_grow_around_popular_experts():
    """Expert 1 is called most and may answer 0 and 2; expert 3 comes too late for 2."""
    load = np.array([1.0, 5.0, 3.0, 2.0])
    similar = np.array([[0, 1], [2, 1], [2, 3], [3, 2]])
    assert grow_groups(load, similar).tolist() == [1, 1, 1, 3]


def test_members_of_a_group_are_spread():
    """All would like the first server; the second of a group goes to the other."""
    cost = np.array([[1.0, 2.0]] * 3)
    none = np.zeros((3, 2), dtype=bool)
    spread = place_spread(
        cost, ALONE, np.array([0, 0, 2]), np.array([3, 3]), none.copy()
    )
    assert spread.tolist() == [0, 1, 0]
    assert place_spread(cost, ALONE, ALONE, np.array([3, 3]), none).tolist() == [0] * 3


def test_first_copies_keep_slots():
    """One slot each: the second expert goes to the other server, the third anywhere."""
    left = np.array([1, 1])
    cost = np.array([[1.0, 2.0]] * 3)
    where = place_spread(cost, ALONE, ALONE, left, np.zeros((3, 2), dtype=bool))
    assert where.tolist() == [0, 1, 0]
    assert left.tolist() == [-1, 0]


HELD = np.array([[True, False, False], [False, True, True]])
SEEN = np.array([[5.0, 4.0, 1.0], [3.0, 2.0, 1.0]])


def filled(group, left, seen=SEEN, **limits):
    """Fill the memory of two servers; experts have 1 byte."""
    limits = {"most": np.inf, "max_copies": 2, **limits}
    held = fill(seen, np.ones((3, 2)), group, HELD, np.array(left), **limits)
    return held.astype(int).tolist()


def test_newly_covered_groups_come_before_frequent_experts():
    """Experts 0 and 1 are a group, which both servers hold a member of.

    The first server takes expert 2, called once, not expert 1, called four times. On
    the second one nothing is newly covered: the most frequent missing one fills it.
    """
    assert filled(np.array([0, 0, 2]), [1, 1]) == [[1, 0, 1], [1, 1, 1]]
    assert filled(ALONE, [1, 1]) == [[1, 1, 0], [1, 1, 1]]


def test_filling_goes_by_frequency_and_keeps_limits():
    """Four copies at most: the one most called for is added; one each: none is."""
    assert filled(ALONE, [2, 2], most=4) == [[1, 1, 0], [0, 1, 1]]
    assert filled(ALONE, [2, 2], max_copies=1) == HELD.astype(int).tolist()
    assert filled(ALONE, [0, 0]) == HELD.astype(int).tolist()


def test_look_ahead_adds_the_ways_to_what_follows():
    """One expert, then two that follow alike, then one.

    From the first server: half a way to the first step (one of two is there), a whole
    one to the second. From the other: half a way, and none.
    """
    distance = np.array([[0.0, 1.0], [1.0, 0.0]])
    follow = [np.array([[2.0, 2.0]]), np.array([[1.0], [3.0]])]
    holder = [np.array([0, 1]), np.array([1])]
    cost = look_ahead_cost(follow, distance, holder)
    assert cost == pytest.approx(np.array([[1.5, 0.5]]))
    assert look_ahead_cost(follow[:1], distance, holder[:1]) == pytest.approx(
        np.array([[0.5, 0.5]])
    )


def test_cover_and_fill_end_in_the_plan():
    """One copy each at the home, as far as it goes; the home of the others is filled.

    Expert 2 finds the first server full. The second home fills its two free slots
    with what it calls most.
    """
    problem = slotted_problem([[0.5, 0.3, 0.2]], [2, 3], rates=[(0, 2.0), (1, 1.0)])
    result = planned(problem)
    assert result.status is Status.FEASIBLE
    assert result.plan.copies[:, :2].tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
        [2, 1],
    ]
    assert planned(problem, redundancy=1.0).plan.num_copies == 3


def test_similar_experts_answer_within_the_budget():
    """On the instance made for it calls are substituted, and quality holds."""
    problem = build_problem(read_instance("tiny/substitution"))
    plan = planned(problem).plan
    assert len(plan.substituted)
    assert score(problem, plan).feasible


def test_ways_from_and_to_the_homes_count_by_the_call():
    """Expert 0 is entered by all its calls, expert 2 left by half of its calls.

    To the other server it is 1 ms and 1 us for the byte, each way.
    """
    problem = slotted_problem(
        [[0.5, 0.5], [0.5, 0.5]],
        [2, 2],
        dataflow="roam",
        profile={
            "pairs": [[0, 2], [1, 3]],
            "pair_weight": [[0.5, 0.5]],
            "entry": [[0.5, 0.0, 0.0, 0.0]],
            "exit": [[0.0, 0.0, 0.25, 0.0]],
        },
    )
    way = 1e-3 + 1e-6
    ways = home_ways(problem, View(problem, 0))
    assert ways[:, 0].tolist() == [0.0] * 4
    assert ways[:, 1] == pytest.approx([way, 0.0, way / 2, 0.0])


def test_look_ahead_shortens_the_way_of_roaming_tokens():
    """On a trained model one layer of it places better than none."""
    problem = build_problem(read_instance("tinymoe/roam-3"))
    one, none = (planned(problem, look_ahead=h) for h in (1, 0))
    assert one.objective < none.objective
