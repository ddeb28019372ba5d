"""`hypergraph`: nets, weights, blocks; Mt-KaHyPar where it is installed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from meldopt import build_problem, read_instance
from meldopt.affinity import devices_per_token, plan_affinity
from meldopt.errors import UnsupportedFeatureError
from meldopt.solver import MaxIterations, params_of
from meldopt.testing import SolverContract
from meldopt_solvers.baselines import hypergraph
from meldopt_solvers.baselines.hypergraph import (
    HypergraphParams,
    HypergraphSolver,
    clique,
    connectivity,
    mt_kahypar,
    pair_nets,
    partition,
    spectral_blocks,
    token_nets,
    whole_weights,
)


@pytest.fixture
def engine():
    """Return Mt-KaHyPar; skip the test where it is not installed."""
    pytest.importorskip("mtkahypar")
    return mt_kahypar()


def planted(count, group, size, rng):
    """Draw nets inside planted groups."""
    num = int(group.max()) + 1
    return [
        sorted(rng.permutation(np.flatnonzero(group == n % num))[:size].tolist())
        for n in range(count)
    ]


class TestHypergraphContract(SolverContract):
    """`hypergraph` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return HypergraphSolver()


class TestSpectralContract(SolverContract):
    """So does its fallback."""

    @pytest.fixture
    def solver(self):
        return HypergraphSolver(HypergraphParams(partitioner="spectral"))


def test_tokens_of_one_set_are_one_net():
    """Four tokens in layer 0: {0, 1} twice (in either order), {1, 2}, and one expert.

    Demand 0 has three tokens at 3 tokens/s, demand 1 one at 2: the nets weigh 1 + 2
    and 1; an expert alone is no net.
    """
    problem = build_problem(read_instance("tinymoe/edge-4"))
    problem = problem.replace(
        sample_experts=np.array(
            [[[0, 1]] * 6, [[1, 2]] * 6, [[5, -1]] * 6, [[1, 0]] * 6]
        ),
        sample_demand=np.array([0, 0, 0, 1]),
        rate=np.array([3.0, 2.0, 0.0, 0.0]),
    )
    nets, weight = token_nets(problem, 0)
    assert nets == [[0, 1], [1, 2]]
    assert weight.tolist() == [3.0, 1.0]


def test_without_tokens_the_heaviest_pairs_are_nets():
    """With one pair each: 0-1 (both want it), 2-0 (2 wants it); 1-2 nobody."""
    together = np.array([[0.0, 9, 5], [9, 0, 1], [5, 1, 0]])
    nets, weight = pair_nets(together, 1)
    assert nets == [[0, 1], [0, 2]]
    assert weight.tolist() == [9.0, 5.0]


def test_weights_are_whole_and_summable():
    """The largest is 100,000, the smallest 1; many large ones are scaled down."""
    weight = whole_weights(np.array([1e-9, 0.5, 1.0]), 2)
    assert weight.tolist() == [1, 50_000, 100_000]
    many = whole_weights(np.ones(100_000), 8)
    assert 8 * int(many.sum()) <= 1_000_000_000


def test_connectivity_counts_blocks():
    """Nets of weight 2 in two blocks and of weight 3 in one: 2."""
    label = np.array([0, 1, 1])
    weight = np.array([2.0, 3.0])
    assert connectivity([[0, 1], [1, 2]], weight, label) == 2.0


def test_nets_share_their_weight_between_pairs():
    """{0, 1, 2} of weight 2 and {0, 1} of weight 1."""
    shared = clique([[0, 1, 2], [0, 1]], np.array([2.0, 1.0]), 3)
    assert shared.tolist() == [[0, 3, 2], [3, 0, 2], [2, 2, 0]]


@pytest.mark.parametrize("slots", [[6, 6], [8, 4], [4, 0, 8]])
def test_spectral_blocks_have_their_sizes(slots):
    """Planted groups of those sizes are found, whatever their order."""
    slots = np.array(slots)
    rng = np.random.default_rng(len(slots))
    group = rng.permutation(np.repeat(np.arange(len(slots)), slots))
    together = np.where(group[:, None] == group[None, :], 10.0, 1.0)
    np.fill_diagonal(together, 0.0)
    label = spectral_blocks(together, slots)
    assert np.bincount(label, minlength=len(slots)).tolist() == slots.tolist()
    assert np.array_equal(
        label[:, None] == label[None, :], group[:, None] == group[None, :]
    )


def test_one_block_needs_no_partitioner():
    """All slots on one server, or no nets: no call of the engine."""
    assert (
        partition(None, [[0, 1]], np.ones(1), np.array([0, 3]), 0).tolist() == [1] * 3
    )
    assert partition(None, [], np.zeros(0), np.array([1, 2]), 0).tolist() == [0, 1, 1]


def test_the_partition_has_least_connectivity(engine):
    """Against enumeration: 6 experts, 12 nets of 3, blocks of 3 and 3 or 4 and 2."""
    rng = np.random.default_rng(0)
    for slots in (np.array([3, 3]), np.array([4, 2])):
        nets = [sorted(rng.permutation(6)[:3].tolist()) for _ in range(12)]
        weight = rng.integers(1, 9, 12).astype(float)
        best = min(
            connectivity(nets, weight, np.array(label))
            for label in itertools.product(range(2), repeat=6)
            if np.bincount(label, minlength=2).tolist() == slots.tolist()
        )
        label = partition(engine, nets, weight, slots, 0)
        assert np.bincount(label, minlength=2).tolist() == slots.tolist()
        assert connectivity(nets, weight, label) == best


def test_planted_nets_are_not_cut(engine):
    """Nets inside four groups of 16: no block boundary cuts any; same labels again."""
    rng = np.random.default_rng(1)
    group = rng.permutation(np.arange(64) % 4)
    nets = planted(200, group, 8, rng)
    slots = np.full(4, 16)
    label = partition(engine, nets, np.ones(200), slots, 3)
    assert connectivity(nets, np.ones(200), label) == 0.0
    assert np.array_equal(label, partition(engine, nets, np.ones(200), slots, 3))


def test_whole_tokens_beat_pairs(engine):
    """On drawn tokens Mt-KaHyPar needs no more servers than the spectral fallback."""
    rng = np.random.default_rng(2)
    group = np.arange(64) % 4
    near = np.where(group[:, None] == np.arange(4), 1.5, 0.0)
    tokens = np.array(
        [(rng.gumbel(size=64) + near[:, t % 4]).argsort()[:8] for t in range(500)]
    )
    nets = [sorted(row.tolist()) for row in tokens]
    slots = np.full(4, 16)
    label = partition(engine, nets, np.ones(500), slots, 0)
    other = spectral_blocks(clique(nets, np.ones(500), 64), slots)
    tokens = tokens[:, None]
    mine, theirs = devices_per_token(tokens, label), devices_per_token(tokens, other)
    assert mine[0] <= theirs[0]


def test_without_mt_kahypar_the_fallback_is_listed(monkeypatch):
    """Not installed: spectral groups, and "mtkahypar" among what was ignored."""
    monkeypatch.setattr(hypergraph, "mt_kahypar", lambda: None)
    problem = build_problem(read_instance("tinymoe/edge-4"))
    result = HypergraphSolver().solve(problem, stop=MaxIterations(500), seed=0)
    assert "mtkahypar" in result.ignored
    found = plan_affinity(problem, result.plan)
    assert found.devices_per_token < 0.95 * found.uniform_devices.mean()


def test_with_mt_kahypar_nothing_of_it_is_ignored(engine):
    """Installed: its version is in the result, and tokens need fewer servers."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    result = HypergraphSolver().solve(problem, stop=MaxIterations(500), seed=0)
    assert "mtkahypar" not in result.ignored
    assert "mtkahypar" in result.versions
    found = plan_affinity(problem, result.plan)
    assert found.devices_per_token < 0.95 * found.uniform_devices.mean()


def test_an_unknown_partitioner_is_refused():
    """One line says what there is."""
    with pytest.raises(ValueError, match="got 'metis', expected 'auto' or 'spectral'"):
        HypergraphParams(partitioner="metis")
    with pytest.raises(UnsupportedFeatureError):
        params_of(HypergraphSolver.info, {"partitioner": "metis"})
