"""`director`: the contract, its relaxation, the roundings, and the split of calls."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.director import (
    DirectorParams,
    DirectorSolver,
    Relaxation,
    enough_slots,
    even_replicas,
    layer_times,
    more_replicas,
    place_layer,
    round_replicas,
)
from meldopt_solvers.baselines.slimcaching import fastest_work
from meldopt_solvers.baselines.view import View


class TestDirectorContract(SolverContract):
    """`director` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return DirectorSolver(DirectorParams(repair=True))


NO_WAY = np.zeros((2, 2))
ALL = np.ones((2, 2), dtype=bool)


def test_the_relaxation_splits_the_calls():
    """Loads 3 and 1 on two servers alike: 2 on each, so 2 seconds."""
    compute = np.array([[3.0, 3.0], [1.0, 1.0]])
    relaxed = Relaxation(compute, NO_WAY, ALL, np.array([2, 2])).least()
    assert relaxed.seconds == pytest.approx(2.0)
    assert (relaxed.part * compute).sum(axis=0) == pytest.approx([2.0, 2.0])
    assert relaxed.part.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_ways_count_in_the_relaxation():
    """Half of a layer there takes 1 s of work and 1 s of the way; all here takes 2 s.

    Nothing is gained by splitting, and 2 s it is.
    """
    compute = np.ones((2, 2))
    transfer = np.array([[0.0, 1.0], [0.0, 1.0]])
    relaxed = Relaxation(compute, transfer, ALL, np.array([2, 1])).least()
    assert relaxed.seconds == pytest.approx(2.0)


def test_a_fraction_takes_its_part_of_a_slot():
    """One slot here at 1 s an expert, two there at 4 s: one of two must go there."""
    compute = np.array([[1.0, 4.0], [1.0, 4.0]])
    relaxed = Relaxation(compute, NO_WAY, ALL, np.array([1, 2])).least()
    assert relaxed.seconds == pytest.approx(4.0)
    assert relaxed.part.sum(axis=0) == pytest.approx([1.0, 1.0])


def test_a_target_is_reached_or_not():
    """Loads 3 and 1: 2 seconds can be reached, 1.9 cannot, and 2.1 again."""
    compute = np.array([[3.0, 3.0], [1.0, 1.0]])
    relaxation = Relaxation(compute, NO_WAY, ALL, np.array([2, 2]))
    assert relaxation.reach(2.0 + 1e-9) is not None
    assert relaxation.reach(1.9) is None
    assert relaxation.reach(2.1).seconds <= 2.1 + 1e-9


def test_replicas_that_exist_need_no_slot():
    """With no slot left the split uses what is held, and nothing else."""
    compute = np.array([[3.0, 3.0], [1.0, 1.0]])
    held = np.array([[True, False], [True, True]])
    split = Relaxation(compute, NO_WAY, held, np.array([0, 0]), held).least()
    assert split.seconds == pytest.approx(3.0)
    assert split.part == pytest.approx(np.array([[1.0, 0.0], [0.0, 1.0]]))


def test_whole_fractions_stay_and_torn_ones_draw_their_support():
    """Expert 0 is whole; expert 1 is torn over two servers with a slot each: both."""
    part = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        held = round_replicas(part, np.array([1, 1, 1]), rng, 3)
        assert held.tolist() == [[True, False, False], [False, True, True]]


def test_odds_of_a_draw_are_the_fractions():
    """One copy each, 4 : 1: four of five draws go to the first server."""
    part = np.array([[0.8, 0.2]])
    rng = np.random.default_rng(0)
    first = sum(
        int(round_replicas(part, np.array([1, 1]), rng, 1)[0, 0]) for _ in range(1000)
    )
    assert first == pytest.approx(800, abs=40)


@pytest.mark.parametrize("seed", range(10))
def test_roundings_keep_slots_and_cover(seed):
    """Whatever is drawn: a replica of every expert, no server beyond its slots."""
    rng = np.random.default_rng(seed)
    compute = rng.random((8, 3))
    slots = np.array([3, 3, 4])
    relaxed = Relaxation(
        compute, rng.random((8, 3)), np.ones((8, 3), dtype=bool), slots
    ).least()
    held = round_replicas(relaxed.part, slots, rng, 2)
    assert held.any(axis=1).all()
    assert (held.sum(axis=0) <= slots).all()
    assert held.sum(axis=1).max() <= 2


def test_more_replicas_take_what_is_left():
    """Two ask for the one slot that is free; the likelier one mostly gets it."""
    part = np.array([[0.1, 0.9], [0.9, 0.1]])
    held = np.array([[True, False], [True, False]])
    wins = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        more = more_replicas(part, held, np.array([2, 1]), rng, 2)
        assert more[:, 1].sum() == 1
        wins += int(more[0, 1])
    assert wins > 80


def test_the_start_is_even():
    """Loads 3, 2, 1 on two servers: 3 against 2 + 1."""
    compute = np.array([[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]])
    held = even_replicas(
        compute, np.zeros((3, 2)), np.ones((3, 2), dtype=bool), np.array([2, 2])
    )
    assert held.T.astype(int).tolist() == [[1, 0, 0], [0, 1, 1]]


def best_of_all(compute, transfer, slots):
    """Return the least time over every set of replicas within slots."""
    num_e, num_s = compute.shape
    best = np.inf
    for bits in itertools.product([False, True], repeat=num_e * num_s):
        held = np.array(bits).reshape(num_e, num_s)
        if held.any(axis=1).all() and (held.sum(axis=0) <= slots).all():
            split = Relaxation(compute, transfer, held, slots * 0, held).least()
            best = min(best, split.seconds)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_bisection_bounds_every_placement(seed):
    """No set of replicas beats the target that is missed; the rounding is near it."""
    rng = np.random.default_rng(seed)
    compute, transfer = rng.random((4, 2)), 0.3 * rng.random((4, 2))
    slots = np.array([2, 3])
    split, low = place_layer(
        compute,
        transfer,
        np.ones((4, 2), dtype=bool),
        slots,
        rng,
        tolerance=0.01,
        rounds=8,
        max_copies=2,
    )
    best = best_of_all(compute, transfer, slots)
    assert 0.0 < low <= best + 1e-9
    assert best - 1e-9 <= split.seconds <= 1.5 * best
    assert ((split.part > 0).sum(axis=0) <= slots).all()


def test_times_of_a_layer_are_those_of_all_its_calls():
    """Two tokens a second call expert 0 half of the time: 1 call, 0.02 s of work.

    The way to the other server takes 1 ms and 1 us in each direction.
    """
    problem = slotted_problem([[0.5, 0.5]], [2, 2], rates=[(0, 2.0)])
    view = View(problem, 0)
    work = fastest_work(problem, view)
    compute, transfer, allowed = layer_times(problem, view, work, 0)
    assert compute == pytest.approx(np.full((2, 2), 0.02 + 1e-5))
    assert transfer == pytest.approx(np.array([[0.0, 2.002e-3]] * 2))
    assert allowed.all()


def test_missing_slots_go_to_the_largest_server():
    """Three experts, two slots: the third is the first server's."""
    assert enough_slots(np.array([1, 1]), 3).tolist() == [2, 1]
    assert enough_slots(np.array([3, 1]), 3).tolist() == [3, 1]


def planned(problem):
    """Return the result of a run."""
    return DirectorSolver().solve(problem, stop=MaxIterations(99), seed=0)


def test_calls_of_a_replicated_expert_are_split():
    """One busy expert, two servers alike at no distance: half of its calls each."""
    problem = slotted_problem(
        [[1.0]], [1, 1], rates=[(0, 1.0)], links=[(0, 1, 0.0)], compute=[1.0, 1.0]
    )
    plan = planned(problem).plan
    assert plan.copies[:, 1].tolist() == [0, 1]
    assert plan.served_share == pytest.approx([0.5, 0.5], abs=1e-3)


def test_without_slots_for_all_memory_breaks_honestly():
    """Three experts in two slots."""
    result = planned(slotted_problem([[0.5, 0.3, 0.2]], [1, 1]))
    assert result.status is Status.VIOLATING
    assert result.plan.num_copies == 3
