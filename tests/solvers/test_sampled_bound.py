"""Weights on sampled tokens: what they prove of `parallel` and `fluid`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import copy_sets, work_s
from priced import Priced
from random_problems import random_case, random_plan

from meldopt.bounds import trivial_bound
from meldopt.plan import Plan
from meldopt.score import Flows, sampled_calls, score, token_hash
from meldopt.solver import MaxIterations, solve
from meldopt.tolerance import SHARE_SUM, allowed
from meldopt_solvers.relaxation import kernels
from meldopt_solvers.relaxation.bundle import maximise
from meldopt_solvers.relaxation.dual import DualParams, DualSolver
from meldopt_solvers.relaxation.pricing import Lagrangian
from meldopt_solvers.relaxation.sampled import (
    SampledWeights,
    possibly_fused,
    surely_answered,
)
from meldopt_solvers.search.sampled import Annealing, SampledSearch

SEEDS = st.integers(0, 100_000)
MIXES = (("parallel",), ("fluid",), ("parallel", "fluid"), ("parallel", "serial"))


def sampled_problem(seed, *, width=None, **switches):
    """A random problem with sampled tokens, and a plan that keeps every row.

    Where ``width`` is given, so much of all calls may be pruned in all, and fused.
    """
    case = random_case(
        seed,
        dataflow="home",
        infeasible=False,
        samples=True,
        **{"terms": MIXES[seed % len(MIXES)], **switches},
    )
    problem = case.problem
    if width is None:
        return problem, case.witness
    curves = {}
    for name in ("prune_width", "fuse_width"):
        curve = getattr(problem, name)
        total = curve.sum(axis=2, keepdims=True)
        curves[name] = np.divide(
            width * curve, total, out=np.zeros_like(curve), where=total > 0
        )
    free = np.full(problem.num_applications, np.inf)
    return problem.replace(**curves, quality_budget=free), case.witness


def weighed(problem, rng, rounds=4):
    """Points at random weights and prices, and at better and better ones."""
    lagrangian = Lagrangian(problem, compile_=False, threads=1)
    weights = SampledWeights(problem)
    t = lagrangian.tables
    for number in range(rounds):
        if number == 1:  # nothing about the weights is needed but what `tables` divides
            weights.weight *= rng.random(len(weights.weight))
            weights._normalise()
            weights.server *= rng.random(weights.server.shape)
            weights.server /= weights.server.sum(axis=1, keepdims=True)
        lagrangian.count_sampled(weights)
        size = abs(lagrangian.at(lagrangian.zero()).value)
        size = size if np.isfinite(size) and size > 0 else 1.0
        prices = lagrangian.zero()
        prices += size * rng.random(len(prices)) * rng.choice([0.0, 0.1, 1.0])
        yield lagrangian.at(prices)
        point = maximise(
            lagrangian,
            lagrangian.valid(prices),
            tolerance=1e-6,
            spent=lambda _: False,
            rounds=6,
        )
        yield point
        weights.pull(point, t.place, t.format)


def extremes(problem, copies):
    """Plans that prune and fuse all that may be, and substitute what they can."""
    num_q, num_i = problem.num_demands, problem.num_experts
    similar = {tuple(pair) for pair in problem.similar.tolist()}
    for prune, answer in itertools.product((False, True), (False, True)):
        rows = {"served": [], "fused": [], "substituted": [], "pruned": []}
        shares = {name: [] for name in rows}
        for q, i in itertools.product(range(num_q), range(num_i)):
            g, layer = problem.application_of[q], problem.layer_of[i]
            left = 1.0
            for m, width in enumerate(problem.prune_width[g, layer] if prune else ()):
                rows["pruned"].append((q, i, m))
                shares["pruned"].append(width)
                left -= width
            home = problem.source[q, layer]
            best, least = None, np.inf
            for c, (j, v, b) in enumerate(copies.tolist()):
                s = problem.server_of[v]
                if (i, j) in similar and s == home and answer:
                    rows["substituted"].append((q, i, c))
                    shares["substituted"].append(left)
                    best = None
                    break
                time = (
                    problem.round_trip_s[q, layer, s] + problem.transfer_s[q, layer, s]
                )
                time += problem.work_s(i, v, b) if j == i else np.inf
                if problem.reachable[q, layer, s] and time < least:
                    best, least = (c, v, s), time
            if best is None:
                continue
            rows["served"].append((q, i, best[0]))
            shares["served"].append(left)
            if best[2] != home:
                for m, width in enumerate(problem.fuse_width[g, layer]):
                    rows["fused"].append((q, i, best[1], m))
                    shares["fused"].append(width * left)
        tables = {}
        for name, wide in (
            ("served", 3),
            ("fused", 4),
            ("substituted", 3),
            ("pruned", 3),
        ):
            tables[name] = np.array(rows[name], dtype=np.int64).reshape(-1, wide)
            tables[f"{name}_share"] = np.array(shares[name], dtype=np.float64)
        yield Plan.of(problem, copies, **tables)


def least_known(problem, witness, rng):
    """The best of many plans: drawn, extreme, and improved step by step."""
    plans = [witness]
    sets = [copy_sets(problem, i, single=False) for i in range(problem.num_experts)]
    for number in range(30):
        held = [sets[i][int(rng.integers(len(sets[i])))] for i in range(len(sets))]
        copies = np.array(sorted(sum(held, ())), dtype=np.int64).reshape(-1, 3)
        plans.append(Plan.of(problem, copies))
        plans.append(random_plan(problem, copies, rng))
        if number < 10:
            plans += extremes(problem, copies)
    plans += extremes(problem, witness.copies)
    best, least = None, np.inf
    for plan in plans:
        judged = score(problem, plan)
        if judged.feasible and judged.objective < least:
            best, least = plan, judged.objective
    if best is None:
        return np.inf
    search = SampledSearch(problem, best, compile_=False)
    walk = Annealing(search, rng, 60)
    for _ in range(6):
        walk.step()
    search.put_back(walk.kept)
    judged = score(problem, search.plan())
    return min(least, judged.objective) if judged.feasible else least


# -- the hash --------------------------------------------------------------------------


@settings(max_examples=40)
@given(seed=SEEDS)
def test_only_calls_of_large_draws_are_pruned(seed):
    """Whatever the shares, calls below the sure draws are answered, fused ones below
    the widths; also where a plan takes all that `score` forgives."""
    width = (0.02, 0.3, 0.9, 1.0)[seed % 4]
    problem, witness = sampled_problem(
        seed, width=width, prune=True, fuse=True, similar=seed % 2 == 0
    )
    rng = np.random.default_rng(seed)
    sure, fused = surely_answered(problem), possibly_fused(problem)
    token, layer, slot = np.nonzero(problem.sample_experts >= 0)
    expert = problem.sample_experts[token, layer, slot]
    app = problem.application_of[problem.sample_demand[token]]
    called = problem.calls[app, expert] > 0
    draws = [token_hash(token, expert, salt) for salt in (1, 2)]
    plans = [
        *extremes(problem, witness.copies),
        random_plan(problem, witness.copies, rng),
    ]
    for plan in plans:
        more = plan.pruned_share + 0.99 * SHARE_SUM
        less = plan.served_share - np.where(
            plan.served_share > 0.5, 0.99 * SHARE_SUM, 0.0
        )
        for one in (
            plan,
            Plan.of(
                problem,
                plan.copies,
                **plan.arrays() | {"pruned_share": more, "served_share": less},
            ),
        ):
            judged = score(problem, one)
            if any(row.row == "share" for row in judged.violations):
                continue  # some expert of the witness has no copy there
            calls = sampled_calls(problem, Flows(problem, one))
            gone = (calls.server < 0) & called
            assert (draws[0][gone] >= sure[app, layer][gone]).all()
            home = calls.server == problem.source[calls.demand, layer]
            saved = (calls.factor < 1) & ~home & ~gone & called
            assert (draws[1][saved] < fused[app, layer][saved]).all()


def test_what_is_forgiven_is_taken_off():
    """Three segments of 0.1 leave a little less than 0.7 of the calls that are sure:
    a plan may prune 0.3 and a millionth more in each, of a sum a millionth short."""
    problem, _ = sampled_problem(1, prune=True, fuse=False)
    shape = (problem.num_applications, problem.num_layers, 3)
    problem = problem.replace(
        prune_width=np.full(shape, 0.1), prune_loss=np.full(shape, 1e-3)
    )
    sure = surely_answered(problem)
    assert (sure < 0.7 - 4e-6).all()
    assert (sure > 0.7 - 4e-5).all()
    assert (possibly_fused(problem) == 0).all()


# -- the bound -------------------------------------------------------------------------


@settings(max_examples=20)
@given(seed=SEEDS, width=st.sampled_from([None, 0.05, 0.5, 0.95, 1.0]))
def test_never_above_a_plan(seed, width):
    """With any weights and prices the value is below every feasible plan found."""
    problem, witness = sampled_problem(seed, width=width, placements=300)
    rng = np.random.default_rng(seed)
    best = least_known(problem, witness, rng)
    for point in weighed(problem, rng):
        assert point.value <= best + allowed(best) or np.isinf(best)


@settings(max_examples=25)
@given(seed=SEEDS)
def test_never_above_the_least_fluid(seed):
    """`fluid` is linear in shares: an exact model knows its optimum."""
    problem, _ = sampled_problem(seed, placements=300, terms=("fluid", "serial"))
    exact = solve(problem, "milp", time_limit=60, threads=1)
    for point in weighed(problem, np.random.default_rng(seed)):
        if exact.feasible:
            assert point.value <= exact.objective + allowed(exact.objective)


def one_way(problem, seed):
    """A problem in which every copy but one of each expert is forbidden."""
    rng = np.random.default_rng(seed)
    kept = []
    for i in range(problem.num_experts):
        options = [held for held in copy_sets(problem, i, single=True) if held]
        kept.append(options[int(rng.integers(len(options)))])
    return np.array(sorted(sum(kept, ())), dtype=np.int64)


@pytest.mark.parametrize("seed", range(6))
def test_slowest_calls_are_reached(seed):
    """With the copies given the weights come to the slowest call of each token.

    Nothing is left to decide then, so the least that the bound can be short of is what
    calls that share a server take in turn.
    """
    problem, _ = sampled_problem(
        seed,
        terms=("parallel",),
        prune=False,
        fuse=False,
        similar=False,
        coverage=False,
        trust=False,
        zero_rate=False,
        uncalled=False,
        memory=False,
        placements=300,
    )
    copies = one_way(problem, seed)
    lagrangian = Lagrangian(problem.replace(pinned=copies, max_copies=1))
    weights = SampledWeights(problem)
    weights.server[:, 0], weights.server[:, 1:] = 1.0, 0.0
    for _ in range(300):
        lagrangian.count_sampled(weights)
        point = lagrangian.at(lagrangian.zero())
        weights.pull(point, lagrangian.tables.place, lagrangian.tables.format)
    calls = sampled_calls(problem, Flows(problem, Plan.of(problem, copies)))
    way = problem.round_trip_s + problem.transfer_s
    time = way[calls.demand, calls.layer, calls.server] + calls.work
    slowest = np.zeros((len(problem.sample_demand), problem.num_layers))
    np.maximum.at(slowest, (calls.token, calls.layer), time)
    want = problem.weight_of("parallel") * slowest.sum() / len(slowest)
    assert point.value == pytest.approx(want, rel=0.01)


def test_bound_is_stronger_than_by_calls_alone():
    """Where tokens wait for work at one server, weights of servers prove more."""
    better = 0
    for seed in range(8):
        problem, _ = sampled_problem(
            seed, terms=("parallel",), prune=False, max_copies=True, placements=300
        )
        values = []
        for alone in (True, False):
            lagrangian = Lagrangian(problem, compile_=False, threads=1)
            weights = SampledWeights(problem)
            if alone:
                weights.server[:, 0], weights.server[:, 1:] = 1.0, 0.0
            found = -np.inf
            for _ in range(40):
                lagrangian.count_sampled(weights)
                point = lagrangian.at(lagrangian.zero())
                found = max(found, point.value)
                weights.pull(point, lagrangian.tables.place, lagrangian.tables.format)
            values.append(found)
        better += values[1] > values[0] * (1 + 1e-3)
    assert better >= 2


def test_bound_with_pruning_is_not_zero():
    """Calls that might be pruned still count, by their draws."""
    problem, _ = sampled_problem(3, width=0.3, prune=True, terms=("parallel",))
    assert trivial_bound(problem) == 0
    lagrangian = Lagrangian(problem, compile_=False, threads=1)
    lagrangian.count_sampled(SampledWeights(problem))
    assert lagrangian.at(lagrangian.zero()).value > 0


# -- pricing ---------------------------------------------------------------------------


class Waiting(Priced):
    """Prices of blocks with what sampled calls wait for, in plain loops."""

    def __init__(self, lagrangian, prices, weights):
        super().__init__(lagrangian, prices)
        self.tables = weights.tables()

    def way(self, q, i, copy):
        """Seconds to a copy and back, as it is and per kind; None: it cannot answer."""
        p = self.problem
        g, layer, s = p.application_of[q], p.layer_of[i], p.server_of[copy[1]]
        src, snk = p.source[q, layer], p.sink[q, layer]
        if copy[0] != i:
            return (0.0, 0.0, 0.0) if s == src and self.similar(i, copy[0]) else None
        trip = p.route_latency[src, s] + p.route_latency[s, snk]
        if not np.isfinite(trip) or not p.trusted[g, s]:
            return None
        bytes_s = p.bytes_out * p.route_s_per_byte[src, s]
        bytes_s += p.bytes_back * p.route_s_per_byte[s, snk]
        part = [0.0, 0.0, 0.0]
        width = p.fuse_width[g, layer].sum()
        if width > 0 and s != src:
            part[1], part[2] = 1.0, min(width + self.forgiven, 1.0)
        return tuple(trip + (1 - (1 - p.fuse_factor) * x) * bytes_s for x in part)

    @property
    def forgiven(self):
        """What is added to the widths of fusion."""
        return 2e-6 * (self.problem.fuse_width.shape[2] + 3)

    def similar(self, i, j):
        """Whether j may answer calls of i."""
        return [i, j] in self.problem.similar.tolist()

    def block(self, members, held):
        """Price of a block and of its sampled calls, each at its best copy."""
        p = self.problem
        total = super().block(members, held)
        for i, q, kind in itertools.product(members, range(p.num_demands), range(3)):
            costs = []
            for copy in held:
                way = self.way(q, i, copy)
                if way is not None:
                    lean = self.tables.lean[p.layer_of[i], p.server_of[copy[1]], q]
                    work = work_s(p, copy)
                    taken = self.tables.load[i, q, kind] * work
                    taken += self.tables.visit[i, q, kind] * way[kind]
                    alone = self.tables.timed[i, q, kind] * (way[kind] + work)
                    costs.append((alone, lean * taken))
            for n, weight in enumerate((self.tables.timed, self.tables.load)):
                if weight[i, q, kind] > 0:
                    total += min((cost[n] for cost in costs), default=np.inf)
        return total


@settings(max_examples=40)
@given(seed=SEEDS)
def test_value_is_that_of_enumeration(seed):
    """The value is what all sets of copies of each block, tried one by one, come to;
    also the copies that others stand in for, and answers by similar experts."""
    problem, _ = sampled_problem(
        seed, placements=2_000, terms=(*MIXES[seed % 4], "quality"), coverage=False
    )
    rng = np.random.default_rng(seed)
    lagrangian = Lagrangian(problem, compile_=False, threads=1)
    weights = SampledWeights(problem)
    lagrangian.count_sampled(weights)
    size = abs(lagrangian.at(lagrangian.zero()).value)
    size = size if np.isfinite(size) and size > 0 else 1.0
    prices = lagrangian.valid(
        size * rng.random(len(lagrangian.zero())) * rng.choice([0.01, 0.3])
    )
    point = lagrangian.at(prices)
    waiting = Waiting(lagrangian, point.prices, weights)
    truth = waiting.value()
    if np.isinf(truth):
        assert point.value == np.inf
    else:
        assert point.value == pytest.approx(truth, rel=1e-7, abs=1e-7 * waiting.size)


def test_few_sets_are_looked_at_with_sampled_calls(monkeypatch):
    """Pricing with sampled calls ends after so many sets, and is a bound there too."""
    problem, _ = sampled_problem(1, placements=2_000, terms=("parallel", "serial"))
    lagrangian = Lagrangian(problem, compile_=False, threads=1)
    lagrangian.count_sampled(SampledWeights(problem))
    prices = lagrangian.valid(lagrangian.zero() + 1e-3)
    whole = lagrangian.at(prices)
    monkeypatch.setattr(kernels, "SAMPLED_NODES", 0)
    short = lagrangian.at(prices)
    blocks = len(lagrangian.blocks.only)
    assert short.nodes <= blocks
    assert short.value <= whole.value


def test_solver_proves_more_with_more_time():
    """The bound of a run only grows, and is above that of the first weights."""
    problem, _ = sampled_problem(2, terms=("parallel",), prune=False, placements=2_000)
    few, many = (
        DualSolver(DualParams(threads=1)).solve(
            problem, stop=MaxIterations(number), seed=0
        )
        for number in (15, 300)
    )
    assert trivial_bound(problem) <= few.bound <= many.bound
    assert many.bound <= many.objective + allowed(many.objective)
