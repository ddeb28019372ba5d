"""`pmq`: the published allocations, what it requires, and what it prunes."""

from __future__ import annotations

import numpy as np
import pytest
from bits_cases import formats_of, problem_with_rooms

from meldopt import build_problem, read_instance
from meldopt.score import score
from meldopt.solver import solve
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.pmq import PmqParams, PmqSolver, prune, surrogate
from meldopt_solvers.baselines.widths import allocate


class TestPmqContract(SolverContract):
    """`pmq` keeps the contract of solvers, pruning or not."""

    @pytest.fixture(params=[False, True], ids=["pmq", "pmq with odp"])
    def solver(self, request):
        return PmqSolver(PmqParams(odp=request.param))


def published(data_folder, bits):
    """Return how many of the 32 blocks agree, by exponent of the gate weight."""
    folder = data_folder / "mixtral-8x7b"
    if not (folder / "mcmoe_factors.npz").is_file():
        pytest.skip(f"{folder} has no factors of MC-MoE")
    factors = np.load(folder / "mcmoe_factors.npz")
    known = np.load(folder / "mcmoe_bits.npz")[f"bits_{bits}"]
    width = np.tile(factors["bits"].astype(float), (8, 1))
    agree = {}
    for beta in (1.5, 1.0):
        agree[beta] = 0
        for layer in range(32):
            cost = surrogate(
                factors["frequency"][layer],
                factors["gate_weight"][layer],
                factors["loss"][layer],
                beta=beta,
            )
            chosen = allocate(
                cost, width, float(bits), np.array([2, 1, 0]), required=(2, 1)
            )
            agree[beta] += int((factors["bits"][chosen] == known[layer]).all())
    return agree


@pytest.mark.parametrize("bits", [12, 16, 20])
def test_published_allocations(data_folder, bits):
    """All 32 blocks of Mixtral-8x7B get the widths that the authors released."""
    assert published(data_folder, bits)[1.5] == 32


def test_published_allocations_tell_exponents_apart(data_folder):
    """With the paper's exponent 1 of the gate weight 12 of the 96 blocks differ."""
    assert sum(published(data_folder, bits)[1.0] for bits in (12, 16, 20)) == 84


def test_surrogate_by_hand():
    """Frequencies and gate weights add to one first: 1/4 * (1/2)^2 * 8^1 = 0.5."""
    cost = surrogate(
        np.array([1.0, 3.0]),
        np.array([5.0, 5.0]),
        np.array([[8.0, 2.0], [4.0, 1.0]]),
        alpha=1.0,
        beta=2.0,
        gamma=1.0,
    )
    np.testing.assert_allclose(cost, [[0.5, 0.125], [0.75, 0.1875]])
    assert surrogate(np.zeros(2), np.zeros(2), np.ones((2, 2))).tolist() == [
        [0.0, 0.0],
        [0.0, 0.0],
    ]


def test_required_widths_are_given_up_when_memory_is_short():
    """One expert of each wide format, then of the widest only, then of none.

    Three experts of 4, 2 or 1 bytes, of which the first matters most: 7 bytes are
    enough for 4 + 2 + 1; 6 for 4 + 1 + 1; 5 for no more than 2 + 2 + 1; 2 for nothing.
    """
    size = np.tile([4.0, 2.0, 1.0], (3, 1))
    cost = np.array([[0.0, 3.0, 9.0], [0.0, 2.0, 4.0], [0.0, 1.0, 2.0]])
    formats = np.arange(3)
    for budget, expected in (
        (7.0, [0, 1, 2]),
        (6.0, [0, 2, 2]),
        (5.0, [1, 1, 2]),
        (2.0, [2, 2, 2]),
    ):
        chosen = allocate(cost, size, budget, formats, required=(0, 1))
        assert chosen.tolist() == expected
    # Without the requirement 6 bytes go to three of 2: 3 + 2 + 1 against 4 + 2.
    assert allocate(cost, size, 6.0, formats).tolist() in ([1, 1, 1], [0, 2, 2])


def test_each_block_has_its_part_of_the_memory():
    """Blocks do not lend: with 48 of 64 bytes each of the two gets one wide expert."""
    problem = problem_with_rooms(16.0, 16.0, 16.0)
    result = solve(problem, PmqSolver(), work=10.0)
    formats = formats_of(problem, result)
    assert [sorted(formats[:2].tolist()), sorted(formats[2:].tolist())] == [[0, 1]] * 2
    assert result.feasible


@pytest.mark.parametrize("name", ["mixtral-8x7b/metro-4", "tinymoe/edge-4"])
def test_odp_prunes_half_of_the_last_choices(name):
    """0.49 / k of the calls are dropped, or what the curve has; the rest is served."""
    problem = build_problem(read_instance(name))
    tables = prune(problem)
    dropped = np.zeros((problem.num_demands, problem.num_experts))
    np.add.at(dropped, tuple(tables.pruned[:, :2].T), tables.pruned_share)
    served = np.zeros_like(dropped)
    served[tuple(tables.served.T)] = tables.served_share
    app = problem.application_of
    width = problem.prune_width.sum(axis=2)[app][:, problem.layer_of]
    called = problem.calls[app] > 0
    # Both models call two experts per token.
    np.testing.assert_allclose(
        dropped, np.where(called, np.minimum(0.245, width), 0.0), atol=1e-6
    )
    np.testing.assert_allclose((served + dropped)[dropped > 0], 1.0)
    # The cheapest segments come first: a later one only where those before are full.
    q, i, n = tables.pruned[tables.pruned[:, 2] > 0].T
    for demand, expert, segment in zip(q, i, n, strict=True):
        mine = (tables.pruned == (demand, expert, segment - 1)).all(axis=1)
        g, layer = app[demand], problem.layer_of[expert]
        limit = problem.prune_width[g, layer, segment - 1]
        np.testing.assert_allclose(tables.pruned_share[mine], limit)


def test_odp_lowers_traffic_and_says_so():
    """With ``odp`` fewer bytes travel; without it "pruning" is listed as ignored."""
    problem = build_problem(read_instance("mixtral-8x7b/metro-4"))
    plain = solve(problem, PmqSolver(), work=100.0)
    pruned = solve(problem, PmqSolver(PmqParams(odp=True)), work=100.0)
    np.testing.assert_array_equal(plain.plan.copies, pruned.plan.copies)
    before, after = score(problem, plain.plan), score(problem, pruned.plan)
    assert after.terms["traffic"] < before.terms["traffic"]
    assert not [one for one in after.violations if "share" in one.row]
    assert "pruning" in plain.ignored
    assert "pruning" not in pruned.ignored
