"""`slimcaching`: the contract, the greedy caches, and the knapsack of a server."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.slimcaching import (
    SlimCachingParams,
    SlimCachingSolver,
    best_numbers,
    cover_missing,
    draw_tokens,
    greedy_caches,
    joint_values,
)


class TestSlimCachingContract(SolverContract):
    """`slimcaching` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return SlimCachingSolver(SlimCachingParams(repair=True))


def planned(problem, **params):
    """Return the result of a run."""
    solver = SlimCachingSolver(SlimCachingParams(**params))
    return solver.solve(problem, stop=MaxIterations(99), seed=0)


# -- K > 1: the knapsack of one server --------------------------------------------


def test_two_far_experts_of_a_token_save_nothing_alone():
    """Both take 10; cached they take 1. The first saves nothing, both save 9."""
    order, values = joint_values(
        np.array([[0, 1]]),
        np.array([1.0]),
        np.array([[10.0, 10.0]]),
        np.array([[1.0, 1.0]]),
        2,
    )
    assert order.tolist() == [0, 1]
    assert values.tolist() == [0.0, 0.0, 9.0]


def test_an_expert_that_completes_tokens_comes_first():
    """Token A lacks 0 and 1, token B (twice as heavy) lacks only 1.

    Expert 1 is worth half of A and all of B, 4.5 + 18; cached, it saves the 18 of B.
    Expert 0 then saves the 9 of A. Expert 2 is near already: it never enters.
    """
    order, values = joint_values(
        np.array([[0, 1], [1, 2]]),
        np.array([1.0, 2.0]),
        np.array([[10.0, 10.0], [10.0, 1.0]]),
        np.ones((2, 2)),
        3,
    )
    assert order.tolist() == [1, 0]
    assert values.tolist() == [0.0, 18.0, 27.0]


def test_a_token_waits_for_the_slowest_that_stays():
    """Expert 1 stays at 4 whatever this cache does: 0 saves 10 - 4, not 10 - 1."""
    order, values = joint_values(
        np.array([[0, 1, -1]]),
        np.array([1.0]),
        np.array([[10.0, 4.0, 0.0]]),
        np.array([[1.0, 20.0, 0.0]]),
        2,
    )
    assert order.tolist() == [0]
    assert values.tolist() == [0.0, 6.0]


def test_what_a_token_still_lacks_is_worth_more():
    """Token A (6 s) lacks 0 and 1, B (10 s) only 0, C (4 s) only 2.

    Expert 0 is worth 3 + 10. Once it is cached, A lacks only 1, now worth all 6: more
    than 2, though before it was worth 3.
    """
    near = np.ones((3, 2))
    order, values = joint_values(
        np.array([[0, 1], [0, -1], [2, -1]]),
        np.array([6.0, 10.0, 4.0]),
        2 * near,
        near,
        3,
    )
    assert order.tolist() == [0, 1, 2]
    assert values.tolist() == [0.0, 10.0, 16.0, 20.0]


def test_experts_are_worth_what_they_save_not_what_they_take():
    """From 10 to 9 s is less than from 5 to 1 s."""
    order, _ = joint_values(
        np.array([[0], [1]]),
        np.ones(2),
        np.array([[10.0], [5.0]]),
        np.array([[9.0], [1.0]]),
        2,
    )
    assert order.tolist() == [1, 0]


def saved(experts, weight, now, new, cached):
    """Return the time that a set of cached experts saves."""
    then = np.where(np.isin(experts, cached), np.minimum(now, new), now)
    return float(weight @ (now.max(axis=1) - then.max(axis=1)))


@pytest.mark.parametrize("seed", range(6))
def test_values_are_what_the_first_experts_save(seed):
    """Each value is the saving of the cached set, computed from the tokens anew."""
    rng = np.random.default_rng(seed)
    experts = np.array([rng.permutation(6)[:3] for _ in range(20)])
    weight = rng.random(20)
    now, new = rng.random((20, 3)) + 0.5, rng.random((20, 3))
    order, values = joint_values(experts, weight, now, new, 6)
    assert len(set(order.tolist())) == len(order)
    for m, value in enumerate(values.tolist()):
        assert value == pytest.approx(saved(experts, weight, now, new, order[:m]))
    everything = saved(experts, weight, now, new, np.arange(6))
    assert values[-1] == pytest.approx(everything)


@pytest.mark.parametrize("seed", range(10))
def test_the_knapsack_is_solved(seed):
    """No choice of numbers is worth more; the values are not concave."""
    rng = np.random.default_rng(seed)
    values = [
        np.append(0.0, np.cumsum(rng.random(int(rng.integers(1, 5))))) for _ in range(4)
    ]
    for capacity in (0, 1, 4, 7, 40):
        numbers = best_numbers(values, capacity)
        assert numbers.sum() <= capacity
        worth = sum(value[m] for value, m in zip(values, numbers, strict=True))
        best = max(
            sum(value[m] for value, m in zip(values, choice, strict=True))
            for choice in itertools.product(*(range(len(value)) for value in values))
            if sum(choice) <= capacity
        )
        assert worth == pytest.approx(best)


def paired_problem():
    """Two tokens that call 0 with 1, three that call 2 with 3; two slots at home."""
    problem = slotted_problem([[0.4, 0.4, 0.6, 0.6, 0.0]], [2, 3])
    sample = np.array([[[0, 1]]] * 2 + [[[2, 3]]] * 3)
    return problem.replace(sample_experts=sample, sample_demand=np.zeros(5, dtype=int))


def test_experts_that_are_called_together_are_cached_together():
    """The home takes the pair called more often; what is called never is kept away."""
    result = planned(paired_problem())
    assert result.status is Status.FEASIBLE
    home = result.plan.copies[result.plan.copies[:, 1] == 0, 0]
    assert home.tolist() == [2, 3]
    assert "coactivation" not in result.ignored


def test_without_sampled_tokens_they_are_drawn():
    """Drawn as if independent, and the result says so."""
    problem = slotted_problem([[0.9, 0.9, 0.1, 0.1]], [2, 2])
    result = planned(problem)
    assert "coactivation" in result.ignored
    home = result.plan.copies[result.plan.copies[:, 1] == 0, 0]
    assert home.tolist() == [0, 1]


def test_drawn_tokens_call_k_different_experts_that_are_called():
    """K is 2; expert 3 is never called; a demand that calls one expert has one."""
    rng = np.random.default_rng(0)
    calls = np.array([[1.0, 0.5, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]])
    demand = np.array([0] * 50 + [1] * 5)
    tokens = draw_tokens(calls, demand, rng)
    assert tokens.shape == (55, 2)
    assert (tokens[:50, 0] != tokens[:50, 1]).all()
    assert set(tokens[:50].ravel().tolist()) == {0, 1, 2}
    assert np.sort(tokens[50:], axis=1).tolist() == [[-1, 1]] * 5


# -- K = 1: the greedy rule --------------------------------------------------------


def test_greedy_takes_the_largest_saving():
    """One slot each. Expert 0 at server 0 saves 4 x 9; then 1 at server 1, 3 x 8."""
    delay = np.array([[[1.0, 2.0], [1.0, 2.0]]])
    held = greedy_caches(
        delay, np.array([[4.0, 3.0]]), 10.0, np.array([1, 1]), max_copies=2
    )
    assert held.astype(int).tolist() == [[1, 0], [0, 1]]


def total_saving(delay, mass, cloud, held):
    """Return the time that caches save."""
    now = np.where(held.T, delay, cloud).min(axis=2)
    return float((mass * (cloud - np.minimum(now, cloud))).sum())


@pytest.mark.parametrize("seed", range(6))
def test_greedy_keeps_its_promise(seed):
    """At least 1 - 1/e of the best of all caches; here 1/2 is proved, more is met."""
    rng = np.random.default_rng(seed)
    delay, mass = rng.random((3, 4, 2)), rng.random((3, 4))
    slots = np.array([2, 1])
    held = greedy_caches(delay, mass, 1.0, slots, max_copies=2)
    assert (held.sum(axis=1) <= slots).all()
    best = 0.0
    for one in itertools.combinations(range(4), 2):
        for other in range(4):
            caches = np.zeros((2, 4), dtype=bool)
            caches[0, list(one)], caches[1, other] = True, True
            best = max(best, total_saving(delay, mass, 1.0, caches))
    assert total_saving(delay, mass, 1.0, held) >= (1 - 1 / np.e) * best


def test_top_one_is_planned_by_greed():
    """Each home takes what is worth most to it; every expert has a copy."""
    problem = slotted_problem([[0.6, 0.3, 0.1]], [2, 2], rates=[(0, 1.0), (1, 1.0)])
    result = planned(problem)
    assert result.status is Status.FEASIBLE
    assert np.unique(result.plan.copies[:, 0]).tolist() == [0, 1, 2]
    assert result.plan.num_copies == 4


# -- what no cache holds -----------------------------------------------------------


def test_missing_experts_take_free_slots_then_places_of_duplicates():
    """Experts 2 and 3 are nowhere; 2 is called more and takes the free slot.

    For 3 the duplicate goes that is called least where it lies: expert 1 on the
    second server (2), not on the first (3), nor expert 0 (9 and 8).
    """
    held = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)
    seen = np.array([[9.0, 3.0, 1.0, 0.0], [8.0, 2.0, 1.0, 0.0]])
    covered = cover_missing(held, seen, np.array([17.0, 5, 2, 0]), np.array([1, 0]))
    assert covered.astype(int).tolist() == [[1, 1, 1, 0], [1, 0, 0, 1]]
