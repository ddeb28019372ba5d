"""`prism`: the contract, both stages by hand, and the exact optimum of its proxy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.method import BaselineParams
from meldopt_solvers.baselines.prism import (
    PrismSolver,
    calls_seen,
    choose_experts,
    cover_layers,
    flow_optimum,
    layer_entropies,
    remote_calls,
    share_slots,
    two_stages,
)
from meldopt_solvers.baselines.view import View


class TestPrismContract(SolverContract):
    """`prism` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return PrismSolver(BaselineParams(repair=True))


def synthetic(seed):
    """Return loads drawn from a Dirichlet law, slots, and first experts of layers."""
    rng = np.random.default_rng(seed)
    servers, layers = int(rng.integers(3, 7)), int(rng.integers(3, 7))
    experts = int(rng.choice([4, 8, 16]))
    seen = np.concatenate(
        [rng.dirichlet(np.full(experts, 0.5), size=servers) for _ in range(layers)],
        axis=1,
    )
    total = layers * experts
    capacity = rng.integers(-(-total // servers), total, size=servers)
    return seen, capacity, np.arange(layers + 1) * experts


def test_entropy_is_that_of_the_activations_of_a_layer():
    """Two alike: ln 2. One alone: 0. Rates do not matter, only their parts."""
    seen = np.array([[3.0, 3.0, 5.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    entropy = layer_entropies(seen, np.array([0, 2, 4]))
    assert entropy == pytest.approx(np.array([[np.log(2), 0.0], [0.0, np.log(2)]]))


def test_slots_follow_the_entropy():
    """Ten slots at 3 : 1 : 1 are 6, 2, 2; seven are 4.2, 1.4, 1.4: 4, 2, 1."""
    width = np.array([9, 9, 9])
    assert share_slots(np.array([3.0, 1.0, 1.0]), 10, width).tolist() == [6, 2, 2]
    assert share_slots(np.array([3.0, 1.0, 1.0]), 7, width).tolist() == [4, 2, 1]


def test_a_full_layer_passes_on_its_slots():
    """Nine slots at 8 : 1 for layers of 4 experts: 4, and the other 4 to the other."""
    width = np.array([4, 4])
    assert share_slots(np.array([8.0, 1.0]), 7, width).tolist() == [4, 3]
    assert share_slots(np.array([8.0, 1.0]), 9, width).tolist() == [4, 4]
    assert share_slots(np.zeros(2), 4, width).tolist() == [2, 2]


def test_layers_that_lack_slots_get_them_from_large_servers_first():
    """The second layer lacks two of 4; the larger server gives both.

    It has them to give: the first layer has 7 slots for 4 experts.
    """
    slots = np.array([[3, 1], [4, 1]])
    covered = cover_layers(slots, np.array([4, 5]), np.array([4, 4]))
    assert covered.tolist() == [[3, 1], [2, 3]]


def test_a_server_takes_what_it_calls_most():
    """Two slots each, four experts: 0 and 1 here, 3 and 2 there, all have a home."""
    seen = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    held = choose_experts(seen, np.array([2, 2]), 2)
    assert held.astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_an_expert_without_home_replaces_the_least_used_duplicate():
    """Both servers take 0 and 1; 2 and 3 have no home.

    Both hold two duplicates, the first one comes first: it gives up expert 1, which it
    uses less than 0, for expert 3, of which it uses more than of 2. Now expert 0 is the
    only duplicate, on each server one: the first server gives it up for expert 2.
    """
    seen = np.array([[9.0, 8.0, 1.0, 2.0], [9.0, 8.0, 3.0, 1.0]])
    held = choose_experts(seen, np.array([2, 2]), 2)
    assert held.astype(int).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_with_one_copy_an_expert_stays_where_it_is_called_most():
    """Expert 0 is wanted by both; the freed slot of the first goes to expert 2."""
    seen = np.array([[5.0, 1.0, 2.0], [9.0, 3.0, 0.0]])
    held = choose_experts(seen, np.array([1, 2]), 1)
    assert held.astype(int).tolist() == [[0, 0, 1], [1, 1, 0]]


def test_both_stages_end_in_the_plan():
    """Two homes with room for three of four experts each, all calls alike in type.

    Each server takes the three most called ones; expert 3 replaces the least used
    duplicate, expert 2, on the first server.
    """
    problem = slotted_problem(
        [[0.4, 0.3, 0.2, 0.1]], [3, 3], rates=[(0, 1.0), (1, 1.0)]
    )
    result = PrismSolver().solve(problem, stop=MaxIterations(9), seed=0)
    assert result.status is Status.FEASIBLE
    assert result.plan.copies[:, :2].tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
        [2, 1],
        [3, 0],
    ]
    assert {"network", "work"} <= set(result.ignored)
    assert "memory" not in result.ignored


def test_a_server_without_requests_uses_those_of_all():
    """One home, two servers: the other one sees half of all calls."""
    problem = slotted_problem([[0.75, 0.25]], [2, 2], rates=[(0, 4.0)])
    seen = calls_seen(View(problem, 0))
    assert seen.tolist() == [[3.0, 1.0], [1.5, 0.5]]


def best_remote(seen, capacity):
    """Return the least remote calls of all placements that cover every expert."""
    best = np.inf
    num_s, num_e = seen.shape
    subsets = list(itertools.product([False, True], repeat=num_e))
    for rows in itertools.product(subsets, repeat=num_s):
        held = np.array(rows)
        if held.any(axis=0).all() and (held.sum(axis=1) <= capacity).all():
            best = min(best, remote_calls(seen, held))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_flow_is_the_optimum_of_the_proxy(seed):
    """It equals what trying every placement finds."""
    rng = np.random.default_rng(seed)
    seen = rng.dirichlet(np.full(4, 0.4), size=3)
    capacity = rng.integers(1, 4, size=3)
    capacity[0] += max(4 - capacity.sum(), 0)
    found = flow_optimum(seen, capacity)
    assert found.held.any(axis=0).all()
    assert (found.held.sum(axis=1) <= capacity).all()
    assert found.remote == pytest.approx(best_remote(seen, capacity), abs=1e-9)
    assert found.bound <= found.remote


@pytest.mark.parametrize("seed", range(12))
def test_two_stages_cover_and_never_beat_the_flow(seed):
    """Every expert has a home, slots are kept, and the gap is not negative."""
    seen, capacity, start = synthetic(seed)
    held = two_stages(seen, capacity, start)
    assert held.any(axis=0).all()
    assert (held.sum(axis=1) <= capacity).all()
    best = flow_optimum(seen, capacity)
    remote = remote_calls(seen, held)
    assert remote >= best.bound
    assert best.gap(remote) >= 0.0


def test_the_gap_of_the_two_stages_is_a_few_percent():
    """On synthetic loads they lose something: the proxy is not solved by them."""
    gaps = []
    for seed in range(12):
        seen, capacity, start = synthetic(seed)
        best = flow_optimum(seen, capacity)
        gaps.append(best.gap(remote_calls(seen, two_stages(seen, capacity, start))))
    assert 0.005 < np.mean(gaps) < 0.5


def test_without_slots_for_all_there_is_no_optimum():
    """Two slots hold no three experts."""
    assert flow_optimum(np.ones((2, 3)), np.array([1, 1])) is None
