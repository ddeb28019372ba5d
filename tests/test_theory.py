"""What docs/theory.md claims, measured: each test notices if a claim is wrong."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_case
from scipy.optimize import linear_sum_assignment, linprog
from special.builders import bit_allocation, generalised_assignment, nearest_experts

from meldopt.builder import build_problem
from meldopt.plan import Plan
from meldopt.problem import TERMS
from meldopt.score import score
from meldopt.solver import Status, solve
from meldopt.testing import best_single_copy, contract_instance
from meldopt.tolerance import allowed
from meldopt_solvers.relaxation import kernels
from meldopt_solvers.relaxation.bundle import maximise
from meldopt_solvers.relaxation.pricing import Lagrangian

TESTS = Path(__file__).resolve().parent
PAGES = [TESTS.parent / "docs" / name for name in ("theory.md", "relaxation.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_tests_exist(page):
    """Every test that a page names for a claim is there."""
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    assert named
    code = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py"))
    assert {name for name in named if f"def {name}(" not in code} == set()


def best_prices(problem, rounds=300):
    """The Lagrangian, and the best point of a bundle from no prices at all."""
    lagrangian = Lagrangian(problem, compile_=False, threads=1)
    point = maximise(
        lagrangian,
        lagrangian.zero(),
        tolerance=1e-7,
        spent=lambda _: False,
        rounds=rounds,
    )
    return lagrangian, point


def dual_bound(problem):
    """The best bound that prices prove."""
    return best_prices(problem)[1].value


def exact(problem):
    """The objective of the exact model, proved."""
    result = solve(problem, "milp", time_limit=60.0, threads=1)
    assert result.status is Status.OPTIMAL
    return result.objective


def assignment(cost, weight, capacity):
    """Jobs of given cost on each server, (S, J), as a problem."""
    return build_problem(generalised_assignment("jobs", cost, weight, capacity))


# -- hardness --------------------------------------------------------------------------


def has_partition(sizes, bins, room):
    """Whether items fit into bins that they fill completely, by search."""
    if not sizes:
        return True
    first, rest = sizes[0], sizes[1:]
    tried = set()
    for b in range(len(bins)):
        if bins[b] + first <= room and bins[b] not in tried:
            tried.add(bins[b])
            bins[b] += first
            if has_partition(rest, bins, room):
                bins[b] -= first
                return True
            bins[b] -= first
    return False


def triples(rng, groups, room):
    """Items between a quarter and a half of a bin that fill the bins in sum."""
    while True:
        sizes = rng.integers(room // 4 + 1, (room + 1) // 2, 3 * groups)
        if sizes.sum() == groups * room:
            return sorted(sizes.tolist(), reverse=True)


def test_three_partition_is_a_placement():
    """A plan exists exactly if the items of a 3-partition fill the bins."""
    rng = np.random.default_rng(3)
    answers = []
    for _ in range(10):
        sizes = triples(rng, 2, 60)
        truth = has_partition(sizes, [0, 0], 60)
        problem = assignment(
            np.ones((2, len(sizes))), np.tile(sizes, (2, 1)), np.full(2, 60.0)
        )
        result = solve(problem, "milp", time_limit=30.0, threads=1)
        assert result.feasible == truth
        assert truth or result.status is Status.INFEASIBLE
        answers.append(truth)
    assert len(set(answers)) == 2


def one_place(loss, size, room):
    """Experts on one place whose formats have given losses and sizes, (N, B)."""
    num_n, num_b = loss.shape
    ones = np.ones(num_n)
    base = build_problem(
        bit_allocation("bits", ones, ones, np.ones_like(loss), range(1, num_b + 1), 99)
    )
    calls = base.calls[0]
    return base.replace(
        size_bytes=size.astype(np.float64),
        format_loss=(loss / calls[:, None])[None],
        capacity_bytes=np.array([float(room)]),
        count_rows=(),
    )


def best_choice(loss, size, room):
    """The least sum of losses within a room, by dynamic programming over sizes."""
    least = np.zeros(room + 1)
    for one, bytes_ in zip(loss, size.astype(int), strict=True):
        new = np.full(room + 1, np.inf)
        for x, b in zip(one, bytes_, strict=True):
            if b <= room:
                new[b:] = np.minimum(new[b:], least[: room + 1 - b] + x)
        least = new
    return float(least[room])


def test_knapsack_is_a_choice_of_formats():
    """Two formats on one place are a knapsack: values are the losses saved."""
    rng = np.random.default_rng(4)
    for _ in range(5):
        value, weight = rng.integers(1, 30, 9), rng.integers(1, 20, 9)
        loss = np.stack([value, np.zeros(9)], axis=1)
        size = np.stack([np.ones(9), 1 + weight], axis=1)
        room = 9 + int(weight.sum()) // 2
        best = np.zeros(room - 9 + 1)
        for x, w in zip(value, weight, strict=True):
            best[w:] = np.maximum(best[w:], best[:-w] + x)
        truth = float(value.sum() - best[-1])
        assert exact(one_place(loss, size, room)) == pytest.approx(truth)


def test_copies_of_one_expert_are_medians():
    """One expert with p copies is a p-median problem; its bound needs no price."""
    rng = np.random.default_rng(5)
    num = 7
    base = build_problem(
        nearest_experts("p", np.ones((num, 1, 1), np.int64), np.ones(num, np.int64))
    )
    for copies in (1, 2, 3):
        where = rng.random((num, 2))
        far = np.linalg.norm(where[:, None] - where, axis=2)
        rate = rng.integers(1, 5, num).astype(np.float64)
        weights = np.zeros(len(TERMS))
        weights[TERMS.index("serial")] = 1.0
        problem = base.replace(
            route_latency=far, rate=rate, weights=weights, max_copies=copies
        )
        truth = min(
            float(rate @ (2 * far[:, list(chosen)]).min(axis=1)) / rate.sum()
            for chosen in itertools.combinations(range(num), copies)
        )
        lagrangian = Lagrangian(problem, compile_=False, threads=1)
        assert exact(problem) == pytest.approx(truth, rel=1e-6)
        assert lagrangian.at(lagrangian.zero()).value == pytest.approx(truth, rel=1e-6)


# -- the duality gap -------------------------------------------------------------------

SERVERS = 3


def family(rng, num):
    """Jobs with two popular servers whose memory binds."""
    weight = np.tile(rng.integers(5, 16, num), (SERVERS, 1)).astype(np.float64)
    cost = rng.integers(10, 50, (SERVERS, num)) + np.array([[0.0], [5.0], [40.0]])
    capacity = np.full(SERVERS, 1.3 * weight[0].sum() / SERVERS)
    return cost, weight, capacity


def relaxed_assignment(cost, weight, capacity):
    """The linear relaxation at a vertex: value, jobs that are split, full servers."""
    num_s, num = cost.shape
    use = np.zeros((num_s, num_s * num))
    once = np.zeros((num, num_s * num))
    for s, j in itertools.product(range(num_s), range(num)):
        use[s, s * num + j] = weight[s, j]
        once[j, s * num + j] = 1.0
    found = linprog(cost.ravel(), use, capacity, once, np.ones(num), method="highs-ds")
    x = found.x.reshape(num_s, num)
    split = int((np.minimum(x, 1 - x) > 1e-7).any(axis=0).sum())
    full = int((capacity - use @ found.x < 1e-7 * capacity).sum())
    return found.fun, split, full


def largest_excess(weight):
    """What as many of the largest jobs as there are rows use of each; (S,)."""
    return np.sort(weight, axis=1)[:, -SERVERS:].sum(axis=1)


def test_vertex_splits_no_more_blocks_than_full_rows():
    """The dual is the value of the mixtures, and few blocks are mixed at a vertex."""
    for seed, num in itertools.product(range(3), (8, 24, 48)):
        cost, weight, capacity = family(np.random.default_rng(seed), num)
        value, split, full = relaxed_assignment(cost, weight, capacity)
        assert split <= full <= SERVERS
        bound = dual_bound(assignment(cost, weight, capacity))
        assert bound == pytest.approx(value, rel=2e-5)
        assert bound <= value * (1 + 2e-6)


def test_limits_moved_by_a_few_experts_close_the_gap():
    """With room for as many more experts as rows, a plan costs no more than the dual.

    So the bound cannot be too low by more than those are worth, and it is never too
    high.
    """
    for seed, num in itertools.product(range(3), (12, 40)):
        cost, weight, capacity = family(np.random.default_rng(seed), num)
        bound = dual_bound(assignment(cost, weight, capacity))
        roomy = assignment(cost, weight, capacity + largest_excess(weight))
        assert exact(roomy) <= bound * (1 + 2e-5)
        best = exact(assignment(cost, weight, capacity))
        assert bound <= best + allowed(best)


def test_gap_is_below_the_constant_and_falls():
    """The gap is at most what the moved limits are worth, and falls with experts."""
    gaps = {8: [], 32: [], 96: []}
    for seed, num in itertools.product(range(4), gaps):
        cost, weight, capacity = family(np.random.default_rng(seed), num)
        bound = dual_bound(assignment(cost, weight, capacity))
        best = exact(assignment(cost, weight, capacity))
        gaps[num].append((best - bound) / best)
        if num < 96:
            continue
        extra = largest_excess(weight)
        lagrangian, point = best_prices(assignment(cost, weight, capacity - extra))
        price = point.prices[:SERVERS] / lagrangian.scale[:SERVERS]
        constant = float(price @ extra)
        assert constant < 0.2 * best
        assert best - bound <= constant
    mean = [np.mean(gaps[num]) for num in sorted(gaps)]
    assert mean[0] > 0.002
    assert mean[2] < 0.25 * mean[0]


# -- what is easy ----------------------------------------------------------------------


def test_equal_sizes_are_a_flow():
    """With equal sizes and linear costs the dual bound is the optimum of a flow."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        num_s, num = 3, 14
        cost = rng.integers(1, 40, (num_s, num)).astype(np.float64)
        slots = np.array([4, 5, 6])
        rows, columns = linear_sum_assignment(np.repeat(cost, slots, axis=0).T)
        truth = float(np.repeat(cost, slots, axis=0).T[rows, columns].sum())
        graph = nx.DiGraph()
        for j in range(num):
            graph.add_node(("job", j), demand=-1)
            for s in range(num_s):
                graph.add_edge(
                    ("job", j), ("server", s), weight=int(cost[s, j]), capacity=1
                )
        for s in range(num_s):
            graph.add_edge(("server", s), "all", capacity=int(slots[s]))
        graph.add_node("all", demand=num)
        assert nx.min_cost_flow_cost(graph) == truth
        problem = assignment(cost, np.ones((num_s, num)), slots.astype(np.float64))
        bound = dual_bound(problem)
        assert bound == pytest.approx(truth, rel=2e-5)
        assert bound <= truth * (1 + 2e-6)
        assert exact(problem) == pytest.approx(truth)


def hull_steps(loss, size):
    """Steps of the lower convex hull of (size, loss): bytes more and loss saved."""
    order = np.argsort(size, kind="stable")
    hull = []
    for b in order:
        if hull and loss[b] >= loss[hull[-1]]:
            continue
        while len(hull) > 1:
            u, w = hull[-2:]
            if (loss[u] - loss[w]) * (size[b] - size[w]) > (loss[w] - loss[b]) * (
                size[w] - size[u]
            ):
                break
            hull.pop()
        hull.append(b)
    steps = [
        (size[w] - size[u], loss[u] - loss[w]) for u, w in itertools.pairwise(hull)
    ]
    return hull[0], steps


def test_one_place_splits_one_expert():
    """On one place the dual bound takes steps of the hulls by gain; one is cut."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        num, num_b = 12, 4
        size = np.cumsum(rng.integers(1, 9, (num, num_b)), axis=1).astype(np.float64)
        loss = rng.integers(1, 60, (num, num_b)).astype(np.float64)
        loss = np.sort(loss, axis=1)[:, ::-1].copy()
        room = int(0.5 * (size[:, 0].sum() + size[:, -1].sum()))
        value, left, steps = 0.0, float(room), []
        for n in range(num):
            first, mine = hull_steps(loss[n], size[n])
            value += loss[n, first]
            left -= size[n, first]
            steps += mine
        steps.sort(key=lambda step: -step[1] / step[0])
        cut = 0
        for more, gain in steps:
            part = min(1.0, max(left, 0.0) / more)
            cut += 0 < part < 1
            value -= part * gain
            left -= part * more
        assert cut <= 1
        problem = one_place(loss, size, room)
        bound, best = dual_bound(problem), best_choice(loss, size, room)
        assert bound == pytest.approx(value, rel=2e-5)
        assert bound <= best * (1 + 1e-6)
        assert best - bound <= max(gain for _, gain in steps) + 1e-6 * best
        assert exact(problem) == pytest.approx(best)


def test_without_rows_prices_are_not_needed():
    """With room for everything the bound at no prices is the optimum."""
    rng = np.random.default_rng(9)
    loss = rng.integers(1, 60, (6, 3)).astype(np.float64)
    problem = one_place(loss, np.ones((6, 3)), 1000)
    lagrangian = Lagrangian(problem, compile_=False, threads=1)
    value = lagrangian.at(lagrangian.zero()).value
    assert value == pytest.approx(loss.min(axis=1).sum(), rel=1e-8)


# -- pricing ---------------------------------------------------------------------------


@settings(max_examples=100)
@given(seed=st.integers(0, 100_000))
def test_pruning_commutes_with_the_choice_of_a_copy(seed):
    """Folding pruning into a price is its linear programme, grows, and commutes."""
    rng = np.random.default_rng(seed)
    num = int(rng.integers(0, 4))
    width = rng.dirichlet(np.ones(num + 1))[:num]
    drop = np.sort(rng.random(num))
    rest = 0.0 if num and rng.random() < 0.3 else float(1 - width.sum())
    if rest == 0.0:
        width = width / width.sum()
    t = SimpleNamespace(prune_width=width.reshape(1, num, 1))
    p = SimpleNamespace(drop=drop.reshape(1, num, 1), rest=np.array([[rest]]))
    costs = np.sort(rng.uniform(-0.2, 1.5, 5))
    prices = [kernels.folded(t, p, 0, 0, float(x)) for x in costs]
    for x, price in zip(costs, prices, strict=True):
        pruned = linprog(
            np.append(drop, x),
            A_eq=np.ones((1, num + 1)),
            b_eq=[1.0],
            bounds=[*((0.0, w) for w in width), (0.0, None)],
        )
        assert price == pytest.approx(pruned.fun, abs=1e-9)
    assert (np.diff(prices) >= -1e-12).all()
    assert kernels.folded(t, p, 0, 0, float(costs.min())) == min(prices)
    if rest > 0.0:
        assert kernels.folded(t, p, 0, 0, np.inf) == np.inf


def test_prices_of_any_size_prove_nothing_wrong():
    """Neither huge nor tiny prices lift the bound over a plan by rounding."""
    problem = build_problem(contract_instance("tight"))
    best = score(problem, best_single_copy(problem)).objective
    lagrangian, point = best_prices(problem)
    rng = np.random.default_rng(0)
    for power in range(-12, 19, 3):
        for _ in range(3):
            prices = point.prices + 10.0**power * rng.random(len(point.prices))
            assert lagrangian.at(prices).value <= best + allowed(best)


# -- parallel --------------------------------------------------------------------------


@settings(max_examples=80)
@given(seed=st.integers(0, 100_000))
def test_parallel_lies_between_serial_over_k_and_serial(seed):
    """On one sample and one plan: serial / k <= weighted calls <= parallel <= serial.

    The slowest call, and so any weights of the calls, is at most the slowest server,
    which is at most k times the slowest call.
    """
    case = random_case(seed, dataflow="home", samples=True, infeasible=False)
    problem = case.problem
    plan = Plan.of(problem, case.witness.copies)
    rng = np.random.default_rng(seed)
    serial = slowest = weighted = 0.0
    num_t, _, k = problem.sample_experts.shape
    for experts, q in zip(problem.sample_experts, problem.sample_demand, strict=True):
        for layer, called in enumerate(experts):
            times = []
            for i in called[called >= 0]:
                options = [
                    problem.round_trip_s[q, layer, problem.server_of[v]]
                    + problem.transfer_s[q, layer, problem.server_of[v]]
                    + float(
                        problem.flop[i] * problem.s_per_flop[v, b]
                        + problem.size_bytes[i, b] * problem.s_per_byte[v]
                    )
                    for j, v, b in plan.copies
                    if j == i and problem.reachable[q, layer, problem.server_of[v]]
                ]
                if not options:
                    return  # answered by pruning or substitution only
                times.append(min(options))
            if times:
                serial += sum(times) / num_t
                slowest += max(times) / num_t
                weight = rng.dirichlet(np.ones(len(times)))
                weighted += float(weight @ times) / num_t
    parallel = score(problem, plan).terms["parallel"]
    near = 1 + 1e-9
    assert serial / k <= slowest * near
    assert weighted <= slowest * near
    assert slowest <= parallel * near
    assert parallel <= min(serial, k * slowest) * near
