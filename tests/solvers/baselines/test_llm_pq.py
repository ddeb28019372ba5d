"""`llm_pq`: stages against enumeration, bit transfer, orders, and the whole method."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from bits_cases import free_budget, problem_with_rooms

from meldopt import build_problem, read_instance
from meldopt.solver import AnyOf, MaxIterations, MaxRuntime, solve
from meldopt.testing import SolverContract
from meldopt_solvers.baselines.llm_pq import (
    LlmPqParams,
    LlmPqSolver,
    loss_scale,
    orders,
    pipeline,
)
from meldopt_solvers.baselines.stages import Pipeline, stage_milp, transfer_bits
from meldopt_solvers.baselines.view import View

CHECK = free_budget(problem_with_rooms(40.0, 40.0, 40.0))


class TestLlmPqContract(SolverContract):
    """`llm_pq` keeps the contract of solvers, with its MILP and its heuristic."""

    @pytest.fixture(params=["milp", "heuristic"])
    def solver(self, request):
        return LlmPqSolver(LlmPqParams(method=request.param))


def random_pipe(rng, *, groups=4, devices=3, formats=2):
    """Return a pipeline with random times, losses and rooms, two bits a byte apart."""
    bits = np.array([8.0, 4.0, 2.0])[:formats]
    size = np.tile(bits, (groups, 1))
    loss = rng.random((groups, 1)) / bits
    return Pipeline(
        size=size,
        time=rng.uniform(0.5, 2.0, (groups, devices, 1)) * bits,
        loss=loss,
        room=rng.integers(4, 25, devices).astype(float),
        way=np.zeros((devices, devices)),
        bits=bits,
        losses=loss[None],
        budget=np.array([np.inf]),
        micro_batches=int(rng.integers(1, 5)),
        theta=float(rng.uniform(0.0, 60.0)),
    )


def stagings(pipe, order):
    """Yield every staging that keeps memory and the order of the devices."""
    groups, formats = pipe.size.shape
    for at in itertools.combinations_with_replacement(range(len(order)), groups):
        for pick in itertools.product(range(formats), repeat=groups):
            staging = np.array(order)[list(at)], np.array(pick)
            if pipe.fits(staging):
                yield staging


def test_milp_is_the_optimum_of_an_order():
    """Over random pipelines the MILP finds what enumeration finds, to its tolerance."""
    rng, solved = np.random.default_rng(2), 0
    for _ in range(25):
        pipe, order = random_pipe(rng), rng.permutation(3)
        values = [pipe.objective(one) for one in stagings(pipe, order)]
        found = stage_milp(pipe, order, CHECK, nodes=1000)
        assert (found is None) == (not values)
        if found is None:
            continue
        solved += 1
        assert pipe.fits(found)
        rank = np.argsort(order)[found[0]]
        assert (np.diff(rank) >= 0).all()
        assert pipe.objective(found) <= min(values) * (1 + 2e-3)
    assert solved > 10


def test_adabits_is_the_least_loss():
    """Without time the staging loses no more than any other of the order."""
    rng = np.random.default_rng(4)
    for _ in range(10):
        pipe, order = random_pipe(rng), np.arange(3)
        pipe = dataclasses.replace(pipe, theta=max(pipe.theta, 1.0))
        rows = np.arange(4)
        losses = [pipe.loss[rows, f].sum() for _, f in stagings(pipe, order)]
        found = stage_milp(pipe, order, CHECK, nodes=1000, timed=False)
        assert (found is None) == (not losses)
        if found is not None:
            loss = pipe.loss[rows, found[1]].sum()
            assert loss <= min(losses) * (1 + 2e-3)


def test_objective_by_hand():
    """Stages of 3 and 4 s, the slower counted twice more, 5 s per nat of 0.3 nats.

    Device 0 works 1 + 2 s; device 1 works 2 s, but its way back takes 4 s.
    """
    pipe = Pipeline(
        size=np.ones((3, 1)),
        time=np.array([1.0, 2.0, 2.0])[:, None, None] * np.ones((3, 2, 1)),
        loss=np.full((3, 1), 0.1),
        room=np.array([2.0, 1.0]),
        way=np.array([[0.0, 1.0], [4.0, 0.0]]),
        bits=np.array([8.0]),
        losses=np.full((1, 3, 1), 0.1),
        budget=np.array([0.25]),
        micro_batches=3,
        theta=5.0,
    )
    staging = np.array([0, 0, 1]), np.zeros(3, dtype=int)
    assert pipe.stage_times(staging).tolist() == [3.0, 4.0]
    assert pipe.objective(staging) == pytest.approx(3 + 4 + 2 * 4 + 5 * 0.3)
    assert pipe.fits(staging)
    assert not pipe.keeps_quality(staging)
    alone = np.zeros(3, dtype=int), np.zeros(3, dtype=int)
    assert pipe.stage_times(alone).tolist() == [5.0]  # no way to go
    assert not pipe.fits(alone)


def test_transfer_relieves_the_slowest_stage():
    """A device three times as fast takes layers over until that gains nothing.

    Six layers of 3 s on the slow device and 1 s on the fast one, one lies there: times
    are 15 and 1. With 4 micro-batches n layers left cost 3n + (6 - n) + 3 max, and
    that is least for one: 3 + 5 + 3 * 5 = 23 (for two 6 + 4 + 18 = 28).
    """
    pipe = Pipeline(
        size=np.ones((6, 1)),
        time=np.tile(np.array([[3.0], [1.0]]), (6, 1, 1)),
        loss=np.zeros((6, 1)),
        room=np.array([9.0, 9.0]),
        way=np.zeros((2, 2)),
        bits=np.array([8.0]),
        losses=np.zeros((1, 6, 1)),
        budget=np.array([np.inf]),
        micro_batches=4,
        theta=1.0,
    )
    start = np.array([0, 0, 0, 0, 0, 1]), np.zeros(6, dtype=int)
    device, _ = transfer_bits(pipe, start, CHECK)
    assert device.tolist() == [0, 1, 1, 1, 1, 1]
    assert pipe.objective((device, start[1])) == pytest.approx(23.0)


def test_transfer_moves_bits_within_memory():
    """Bits change hands, none are lost, memory holds, and the objective only falls."""
    rng, moved = np.random.default_rng(8), 0
    for _ in range(60):
        pipe = random_pipe(rng, groups=8, devices=2, formats=3)
        cut = int(rng.integers(1, 8))
        start = np.repeat([0, 1], [cut, 8 - cut]), rng.integers(0, 3, 8)
        held = np.bincount(start[0], pipe.size[np.arange(8), start[1]])
        pipe = dataclasses.replace(pipe, room=held + rng.integers(0, 9, 2), theta=5.0)
        end = transfer_bits(pipe, start, CHECK)
        assert pipe.fits(end)
        assert (np.diff(end[0]) >= 0).all()
        assert sorted(end[1].tolist()) == sorted(start[1].tolist())
        assert pipe.objective(end) <= pipe.objective(start)
        moved += bool((end[0] != start[0]).any())
    assert moved > 10


def test_orders_are_distinct():
    """All orders of three devices; of six as many as asked for, the fastest first."""
    rng = np.random.default_rng(0)
    pipe = random_pipe(rng, devices=3)
    three = [tuple(order) for order in orders(pipe, 24, np.random.default_rng(1))]
    assert sorted(three) == sorted(itertools.permutations(range(3)))
    pipe = random_pipe(rng, devices=6)
    six = [tuple(order) for order in orders(pipe, 40, np.random.default_rng(1))]
    assert len(set(six)) == len(six) == 40
    assert list(six[0]) == np.argsort(pipe.time.sum(axis=(0, 2))).tolist()


def test_pipeline_by_hand():
    """Sizes, times, losses and ways of the contract problem, and the unit of theta."""
    problem = problem_with_rooms(10.0, 20.0, 30.0)
    view = View(problem, -1)
    pipe = pipeline(problem, view, np.arange(3), 1)
    assert pipe.size.tolist() == [[32.0, 16.0], [32.0, 16.0]]
    # One call per token and layer: 8 bytes at 1000, 400 and 700 bytes/s.
    np.testing.assert_allclose(pipe.time[0, :, 1], [0.008, 0.02, 8 / 700], rtol=1e-6)
    # From a to b 10 ms and 2 bytes at 100 bytes/s.
    assert pipe.way[0, 1] == pytest.approx(0.03)
    # Layer 0, narrow, both domains lose 0.02 and 0.03 per call:
    # (3 (0.7 * 0.02 + 0.3 * 0.03) + 2 (0.1 * 0.02 + 0.9 * 0.03)) / 5.
    assert pipe.loss[0, 1] == pytest.approx(0.0254, rel=1e-6)
    assert loss_scale(pipe) * pipe.loss.max(axis=1).sum() == pytest.approx(0.016)
    assert pipeline(problem, view, np.arange(3), 2).size.tolist() == [[64.0, 32.0]]


@pytest.mark.parametrize("method", ["milp", "heuristic"])
def test_layers_stay_whole_and_contiguous(method):
    """On the tiny model each layer is on one server in one format; servers in turn."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    solver = LlmPqSolver(LlmPqParams(method=method, orders=2))
    result = solve(problem, solver, work=1e6)
    expert, place, format_ = result.plan.copies.T
    layer, server = problem.layer_of[expert], problem.server_of[place]
    on = []
    for one in range(problem.num_layers):
        assert len(np.unique(server[layer == one])) == 1
        assert len(np.unique(format_[layer == one])) == 1
        on.append(int(server[layer == one][0]))
    runs = [key for key, _ in itertools.groupby(on)]
    assert len(runs) == len(set(runs))


def test_theta_rises_until_quality_holds():
    """Unless theta is given, it is what quality budgets need; one is no bits for time.

    Room for everything: at theta 0 time alone decides and all layers are narrow.
    """
    problem = build_problem(read_instance("tinymoe/edge-4"))
    problem = problem.replace(
        capacity_bytes=problem.capacity_bytes + 2e7,
        quality_budget=np.full_like(problem.quality_budget, 1e-3),
    )
    budgets = AnyOf(MaxIterations(10_000), MaxRuntime(60.0))
    kept = LlmPqSolver(LlmPqParams(orders=1)).solve(problem, stop=budgets, seed=0)
    fast = LlmPqSolver(LlmPqParams(orders=1, theta=0.0)).solve(
        problem, stop=budgets, seed=0
    )
    assert set(fast.plan.copies[:, 2].tolist()) == {3}
    assert kept.plan.record["terms"]["quality"] <= 1e-3
    assert fast.plan.record["terms"]["quality"] > 1e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"orders": 0}, "orders: got 0, expected 1 or more"),
        ({"theta": -1.0}, r"theta: got -1.0, expected 0 or more"),
        ({"micro_batches": 0}, "micro_batches: got 0, expected 1 or more"),
    ],
)
def test_parameters_are_checked(wrong, message):
    """Parameters without sense are refused in one line."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        LlmPqParams(**wrong)
