"""What a method is shown: formats of servers, slots, calls, statistics of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt_solvers.baselines.view import View, format_on

FORMATS = (("wide", 16.0), ("mid", 8.0), ("low", 4.0))


def test_servers_store_the_next_smaller_format_that_they_run():
    """Asked for wide, mid, low: what runs; else the next smaller; else the smallest."""
    problem = slotted_problem(
        [[1.0]],
        [9, 9, 9],
        formats=FORMATS,
        runs=[["wide", "mid", "low"], ["mid"], ["wide", "low"]],
    )
    assert format_on(problem).tolist() == [[0, 1, 2], [1, 1, 1], [0, 2, 2]]


def test_view_of_a_format_has_the_sizes_and_room_of_it():
    """Experts of 10 weights: 20 bytes where wide runs, 10 where mid stands for it."""
    problem = slotted_problem(
        [[1.0, 1.0]],
        [2, 1],
        formats=FORMATS,
        runs=[["wide", "mid"], ["mid", "low"]],
    )
    view = View(problem, 0)
    assert view.size.tolist() == [[20.0, 10.0]] * 2
    assert view.room.tolist() == [40.0, 20.0]
    assert view.slots.tolist() == [2, 2]
    # A method that chooses formats sees the smallest: mid here, low there.
    free = View(problem, -1)
    assert free.size.tolist() == [[10.0, 5.0]] * 2


def test_slots_are_counted_tier_by_tier():
    """Two tiers of 15 bytes hold one expert of 10 bytes each, not three together."""
    problem = slotted_problem([[1.0, 1.0, 1.0, 1.0]], [[1.5, 1.5], 9])
    view = View(problem, 0)
    assert view.room.tolist() == [30.0, 90.0]
    assert view.slots.tolist() == [2, 4]  # no more than there are experts


def test_calls_are_summed_over_demands_and_by_home():
    """2 tokens/s enter at s0 and 1 at s2; an expert is called 0.6 times a token."""
    problem = slotted_problem([[0.6, 0.4]], [2, 2, 2], rates=((0, 2.0), (2, 1.0)))
    view = View(problem, 0)
    assert view.load == pytest.approx([1.8, 1.2])
    assert view.load_at == pytest.approx(np.array([[1.2, 0.8], [0, 0], [0.6, 0.4]]))


def test_copies_are_limited_by_the_instance_and_by_servers():
    """No limit means one copy a server."""
    assert View(slotted_problem([[1.0]], [1, 1, 1]), 0).max_copies == 3
    assert View(slotted_problem([[1.0]], [1, 1, 1], copies=2), 0).max_copies == 2


def test_mean_time_is_the_mean_over_demands():
    """Home s0: nothing to cross; to s1 1 ms each way and 2 bytes at 1e6 bytes/s.

    The work of 20 FLOP at 1000 FLOP/s and 10 bytes read at 1e6 bytes/s is 0.02001 s on
    each. Two thirds of the tokens enter at s0 and one third at s1.
    """
    problem = slotted_problem([[1.0]], [1, 1], rates=((0, 2.0), (1, 1.0)))
    trip, work = 2e-3 + 2e-6, 0.02001
    assert View(problem, 0).mean_time(0) == pytest.approx(
        np.array([[trip / 3 + work, 2 * trip / 3 + work]])
    )


def test_mean_time_is_infinite_where_a_demand_may_not_go():
    """One demand does not trust s1: nobody's copy belongs there."""
    problem = slotted_problem(
        [[1.0]],
        [1, 1],
        rates=((0, 1.0),),
        extra={
            "workload": {
                "applications": [{"name": "chat", "trusted": ["s0"]}],
                "demands": [{"application": "chat", "home": "s0", "rate": 1.0}],
            }
        },
    )
    assert np.isfinite(View(problem, 0).mean_time(0)).tolist() == [[True, False]]


def test_work_is_that_of_the_fastest_tier():
    """Tiers of 1000 and 100 FLOP/s: 20 FLOP take 0.02 s on the faster one."""
    problem = slotted_problem([[1.0]], [[1, 1]], compute=[[100.0, 1000.0]])
    assert View(problem, 0).work == pytest.approx(np.array([[0.02 + 1e-5]]))


SAMPLES = {"sample_experts": [[[0, 1], [1, 2]], [[0, 2], [1, 0]]]}


def test_coactivation_comes_from_samples_weighted_by_rate():
    """Two tokens stand for 6 tokens/s: 3 call experts 0 and 1, 3 call 0 and 2."""
    problem = slotted_problem(
        [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5]], [9], rates=((0, 6.0),), profile=SAMPLES
    )
    view = View(problem, 0)
    assert view.coactivation_source == "samples"
    assert view.coactivation(0).tolist() == [[0, 3, 3], [3, 0, 0], [3, 0, 0]]
    assert view.coactivation(1).tolist() == [[0, 3, 0], [3, 0, 3], [0, 3, 0]]
    assert not view.estimated


def test_transitions_of_samples_go_from_primary_to_primary():
    """Both tokens go from expert 0 to expert 1 of the next layer: 6 tokens/s."""
    problem = slotted_problem(
        [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5]], [9], rates=((0, 6.0),), profile=SAMPLES
    )
    view = View(problem, 0)
    assert view.transitions_source == "samples"
    assert view.transitions(0).tolist() == [[0, 6, 0], [0, 0, 0], [0, 0, 0]]


def test_pairs_of_roam_come_before_anything_else():
    """Pairs inside a layer say what is called together, pairs between what follows."""
    problem = slotted_problem(
        [[0.5, 0.5], [0.5, 0.5]],
        [9, 9],
        rates=((0, 2.0),),
        dataflow="roam",
        copies=1,
        profile={
            "pairs": [[0, 1], [0, 2], [1, 3]],
            "pair_weight": [[0.25, 0.5, 0.1]],
            "entry": [[0.5, 0.5, 0, 0]],
            "exit": [[0, 0, 0.5, 0.5]],
        },
    )
    view = View(problem, 0)
    assert (view.coactivation_source, view.transitions_source) == ("pairs", "pairs")
    assert view.coactivation(0).tolist() == [[0, 0.5], [0.5, 0]]
    assert view.transitions(0) == pytest.approx(np.array([[1.0, 0.0], [0.0, 0.2]]))


def test_without_statistics_calls_count_as_independent_and_it_is_noted():
    """Experts called 0.6 and 0.4 times meet 0.24 times a token at 10 tokens/s."""
    problem = slotted_problem([[0.6, 0.4], [0.9, 0.1]], [9], rates=((0, 10.0),))
    view = View(problem, 0)
    assert view.coactivation(0) == pytest.approx(np.array([[0, 2.4], [2.4, 0]]))
    assert view.estimated == {"coactivation"}
    assert view.transitions(0) == pytest.approx(np.array([[5.4, 0.6], [3.6, 0.4]]))
    assert view.estimated == {"coactivation", "transitions"}
