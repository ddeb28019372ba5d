"""The common rules that complete what a method leaves open, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.score import score
from meldopt_solvers.baselines.complete import Decision, complete
from meldopt_solvers.baselines.view import View


def completed(problem, decision, format_=0):
    """Complete a decision in one attempt."""
    return complete(problem, View(problem, format_), decision)


def test_copies_take_the_format_that_their_server_runs():
    """The attempt is in the wide format; the second server runs the low one only."""
    problem = slotted_problem(
        [[1.0, 1.0]],
        [2, 2],
        formats=(("wide", 16.0), ("low", 4.0)),
        runs=[["wide", "low"], ["low"]],
    )
    plan = completed(problem, Decision(server=np.array([0, 1])))
    assert plan.copies.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_formats_that_a_method_decides_are_stored_as_servers_can():
    """Of two copies in the wide format one lies where only the low one runs."""
    problem = slotted_problem(
        [[1.0, 1.0]],
        [2, 2],
        formats=(("wide", 16.0), ("low", 4.0)),
        runs=[["wide", "low"], ["low"]],
    )
    decision = Decision(
        expert=np.array([1, 0, 0]),
        server=np.array([1, 1, 0]),
        format=np.array([1, 0, 0]),
    )
    plan = completed(problem, decision, -1)
    assert plan.copies.tolist() == [[0, 0, 0], [0, 1, 1], [1, 1, 1]]


def test_busy_copies_get_the_fast_tier():
    """Room for two in the fast tier, which stands second: the two most called ones."""
    problem = slotted_problem([[0.1, 0.5, 0.4]], [[2, 2]], compute=[[100.0, 1000.0]])
    plan = completed(problem, Decision(server=np.zeros(3, dtype=np.int64)))
    assert plan.copies.tolist() == [[0, 0, 0], [1, 1, 0], [2, 1, 0]]


def test_calls_count_by_the_byte():
    """Called as often, in half the bytes: the small copies come first."""
    problem = slotted_problem(
        [[0.4, 0.3, 0.3]],
        [[1, 9]],
        formats=(("wide", 16.0), ("low", 8.0)),
        compute=[[1000.0, 100.0]],
    )
    decision = Decision(
        server=np.zeros(3, dtype=np.int64), format=np.array([0, 1, 1], dtype=np.int64)
    )
    plan = completed(problem, decision, -1)
    assert plan.copies[:, 1].tolist() == [1, 0, 0]  # 0.4 / 20 < 0.3 / 10


def test_where_nothing_has_room_the_emptiest_tier_overflows():
    """Three experts in tiers of one and a half slots: the third breaks memory."""
    problem = slotted_problem([[0.5, 0.3, 0.2]], [[1.0, 1.5]], compute=[[1000.0, 10.0]])
    plan = completed(problem, Decision(server=np.zeros(3, dtype=np.int64)))
    assert plan.copies[:, 1].tolist() == [0, 1, 1]  # 5 bytes were left in the second
    broken = [row.where for row in score(problem, plan).violations]
    assert broken == ["s0/t1"]


def test_a_method_of_formats_only_is_placed_by_time():
    """Home s0 has one slot: the busiest expert; then the neighbour, then the last."""
    problem = slotted_problem([[0.2, 0.5, 0.3]], [1, 1, 9])
    plan = completed(problem, Decision(format=np.zeros(3, dtype=np.int64)), -1)
    assert plan.copies.tolist() == [[0, 2, 0], [1, 0, 0], [2, 1, 0]]


def test_placement_by_time_weighs_speed_against_distance():
    """A call takes 2 s at home and 2 ms away, plus 2 ms of the way: away wins."""
    problem = slotted_problem([[1.0]], [1, 1], compute=[10.0, 10_000.0])
    plan = completed(problem, Decision(format=np.zeros(1, dtype=np.int64)), -1)
    assert plan.copies.tolist() == [[0, 1, 0]]


def test_replicas_on_one_server_are_one_copy_and_their_shares_add_up():
    """Two of three replicas lie on s0: it serves two thirds of both demands."""
    problem = slotted_problem([[1.0]], [2, 2], rates=((0, 1.0), (1, 1.0)))
    decision = Decision(
        expert=np.zeros(3, dtype=np.int64),
        server=np.array([1, 0, 0]),
        served=np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]),
        served_share=np.full(6, 1 / 3),
    )
    plan = completed(problem, decision)
    assert plan.copies.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert plan.served.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
    assert plan.served_share == pytest.approx([2 / 3, 1 / 3, 2 / 3, 1 / 3])
    assert score(problem, plan).feasible


def test_shares_follow_their_copies_through_sorting():
    """A decision may list copies in any order; expert 1 is served by its own copy."""
    problem = slotted_problem([[0.5, 0.5]], [2, 2])
    decision = Decision(
        expert=np.array([1, 0, 1]),
        server=np.array([1, 0, 0]),
        served=np.array([[0, 0]]),
        served_share=np.ones(1),
    )
    plan = completed(problem, decision)
    assert plan.copies.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert plan.served.tolist() == [[0, 1, 2]]


def test_roam_has_no_shares():
    """What a method says of shares is left out where plans have none."""
    problem = slotted_problem(
        [[1.0]],
        [1, 1],
        dataflow="roam",
        copies=1,
        profile={
            "pairs": np.zeros((0, 2), dtype=np.int64),
            "pair_weight": np.zeros((1, 0)),
            "entry": [[1.0]],
            "exit": [[1.0]],
        },
    )
    decision = Decision(
        server=np.array([1]), served=np.array([[0, 0]]), served_share=np.ones(1)
    )
    plan = completed(problem, decision)
    assert len(plan.served) == 0
    assert score(problem, plan).feasible


def test_tiers_that_a_method_decides_stay():
    """The slow tier was meant."""
    problem = slotted_problem([[1.0]], [[1, 1]], compute=[[1000.0, 10.0]])
    plan = completed(problem, Decision(place=np.array([1])))
    assert plan.copies.tolist() == [[0, 1, 0]]
