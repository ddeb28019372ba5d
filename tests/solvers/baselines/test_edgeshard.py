"""`edgeshard`: the contract, and its dynamic programme against every partition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.solver import MaxIterations, Status
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.edgeshard import (
    Chain,
    EdgeShardParams,
    EdgeShardSolver,
    chain_of,
    partition,
    whole_room,
)
from meldopt_solvers.baselines.view import View


class TestEdgeShardContract(SolverContract):
    """`edgeshard` keeps the contract of solvers, with the repair."""

    @pytest.fixture
    def solver(self):
        return EdgeShardSolver(EdgeShardParams(repair=True))


def seconds_of(chain, device, *, throughput=False):
    """Return the seconds of a token, inf if memory or runs do not hold."""
    used = np.zeros(len(chain.room))
    for layer, d in enumerate(device):
        used[d] += chain.size[layer, d]
    runs = [d for d, _ in itertools.groupby(device)]
    if (used > chain.room + 1e-9).any() or len(set(runs)) < len(runs):
        return np.inf
    work = np.zeros(len(chain.room))
    for layer, d in enumerate(device):
        work[d] += chain.compute[layer, d]
    stages = [chain.entry[device[0]], chain.exit[device[-1]], *work]
    stages += [chain.hop[a, b] for a, b in itertools.pairwise(runs)]
    return max(stages) if throughput else sum(stages)


def random_chain(seed, *, alike):
    """Return a chain of five layers on three devices, tight in memory."""
    rng = np.random.default_rng(seed)
    size = np.ones((5, 3)) if alike else rng.uniform(0.5, 1.5, (5, 3))
    hop = rng.random((3, 3))
    np.fill_diagonal(hop, 0.0)
    return Chain(
        compute=rng.random((5, 3)),
        size=size,
        room=rng.uniform(1.5, 4.0, 3),
        hop=hop,
        entry=rng.random(3),
        exit=rng.random(3),
    )


@pytest.mark.parametrize("throughput", [False, True])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_the_programme_finds_the_best_partition(seed, alike, throughput):
    """Of all runs of layers on devices within memory; or there is none."""
    chain = random_chain(seed, alike=alike)
    best = min(
        seconds_of(chain, device, throughput=throughput)
        for device in itertools.product(range(3), repeat=5)
    )
    found = partition(chain, 64, throughput=throughput)
    if np.isinf(best):
        assert found is None
        return
    assert found.exact
    assert found.seconds == pytest.approx(best)
    device = found.device.tolist()
    assert seconds_of(chain, device, throughput=throughput) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(20))
def test_one_label_is_never_better_and_says_if_it_cut(seed):
    """The programme as published finds a partition that is at best as good."""
    chain = random_chain(seed, alike=True)
    full, one = partition(chain, 64), partition(chain, 1)
    if full is None or one is None:
        return
    assert one.seconds >= full.seconds - 1e-12
    assert seconds_of(chain, one.device.tolist()) == pytest.approx(one.seconds)
    if one.exact:
        assert one.seconds == pytest.approx(full.seconds)


def test_a_fast_device_is_worth_two_hops():
    """Three layers of 5 s here, of 1 s there, a hop takes 2 s: all go there.

    5 + 5 + 5 at home, against 2 + 1 + 1 + 1 + 2. With room for two layers there, two
    go: 2 + 1 + 1 + 2 + 5, first or last alike.
    """
    chain = Chain(
        compute=np.array([[5.0, 1.0]] * 3),
        size=np.ones((3, 2)),
        room=np.array([3.0, 3.0]),
        hop=np.array([[0.0, 2.0], [2.0, 0.0]]),
        entry=np.array([0.0, 2.0]),
        exit=np.array([0.0, 2.0]),
    )
    found = partition(chain, 8)
    assert (found.device.tolist(), found.seconds) == ([1, 1, 1], 7.0)
    tight = Chain(
        compute=chain.compute,
        size=chain.size,
        room=np.array([3.0, 2.0]),
        hop=chain.hop,
        entry=chain.entry,
        exit=chain.exit,
    )
    assert partition(tight, 8).seconds == 11.0
    # The slowest stage: two layers there take 2 s, as the ways do, one here takes 5 s.
    assert partition(tight, 8, throughput=True).seconds == 5.0


def test_a_chain_is_read_from_the_problem():
    """Two experts, 1 call a token at 0.02 s and 10 bytes of reading; 3 of 4 tokens
    enter at the first home; 1 ms a hop and 1 us for the byte."""
    problem = slotted_problem(
        [[0.5, 0.5], [0.5, 0.5]], [4, 4], rates=[(0, 3.0), (1, 1.0)]
    )
    chain = chain_of(problem, View(problem, 0))
    assert chain.compute == pytest.approx(np.full((2, 2), 0.02 + 1e-5))
    assert chain.size.tolist() == [[20.0, 20.0]] * 2
    assert chain.room.tolist() == [40.0, 40.0]
    hop = 1e-3 + 1e-6
    assert chain.hop == pytest.approx(np.array([[0.0, hop], [hop, 0.0]]))
    assert chain.entry == pytest.approx([0.25 * hop, 0.75 * hop])
    assert chain.exit == pytest.approx([0.25 * hop, 0.75 * hop])


def test_room_is_what_whole_experts_fill():
    """A tier of one and a half slots and one of two and a half hold three experts."""
    problem = slotted_problem([[0.25] * 4], [[1.5, 2.5]])
    assert whole_room(View(problem, 0)).tolist() == [30.0]


def planned(problem):
    """Return the result of a run."""
    return EdgeShardSolver().solve(problem, stop=MaxIterations(99), seed=0)


def test_layers_stay_whole():
    """The home holds one and a half layers: one stays, the other goes as a whole."""
    problem = slotted_problem([[0.5, 0.5], [0.5, 0.5]], [3, 3])
    result = planned(problem)
    assert result.status is Status.FEASIBLE
    assert result.plan.copies[:, 1].tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])


def test_where_no_partition_fits_memory_breaks_honestly():
    """Three layers of two experts, two servers of three slots: one holds two."""
    problem = slotted_problem([[0.5, 0.5]] * 3, [3, 3])
    result = planned(problem)
    assert result.status is Status.VIOLATING
    assert sorted(np.bincount(result.plan.copies[:, 1]).tolist()) == [2, 4]
