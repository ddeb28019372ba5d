"""The bound in `roam`, and the search that goes with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import optimum
from random_problems import random_case, random_instance

from meldopt import build_problem, read_instance, solve
from meldopt.bounds import trivial_bound
from meldopt.library import instance_names
from meldopt.score import score
from meldopt.solver import MaxIterations
from meldopt_solvers.relaxation import roam_kernels
from meldopt_solvers.relaxation.roam import StarAscent, roam_bound
from meldopt_solvers.relaxation.roam_model import build_stars
from meldopt_solvers.search.compiled import compiled, plain
from meldopt_solvers.search.roam_lns import RoamWalk, roam_search

TINY = [name for name in instance_names() if name.startswith("tiny/roam")]


class Blocks:
    """Ends after some questions."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, bound: float, work: float, /) -> bool:
        self.left -= 1
        return self.left < 0


def below(bound: float, objective: float) -> bool:
    """Say whether a bound holds, but for rounding in the sum of the objective."""
    return bound <= objective + 1e-9 * abs(objective) + 1e-15


@settings(max_examples=150)
@given(seed=st.integers(0, 100_000), known=st.sampled_from([None, 0.0, 0.01, 0.3]))
@example(seed=1493, known=None)  # a softened minimum of nothing once struck out a plan
@example(seed=575, known=0.02)
def test_bounds_every_optimum(seed, known):
    """With any rows, with and without a known plan, the bound is below the optimum."""
    problem = build_problem(random_instance(seed, dataflow="roam"))
    truth = optimum(problem)
    if not truth.feasible:
        return
    upper = None
    if known is not None:
        upper = truth.objective + known * abs(truth.objective)
    found = roam_bound(problem, over=Blocks(40), upper=upper, compile_=True)
    assert below(found.bound, truth.objective)
    assert found.bound >= trivial_bound(problem)
    if found.plan is not None:
        judged = score(problem, found.plan)
        assert judged.feasible
        assert judged.objective < upper


@settings(max_examples=60)
@given(
    seed=st.integers(0, 100_000),
    cells=st.integers(0, 200),
    trios=st.sampled_from([0, 10**6]),
)
def test_bounds_when_little_fits_in_memory(seed, cells, trios):
    """Pairs and trios that no table can hold weaken the bound, never break it."""
    problem = build_problem(random_instance(seed, dataflow="roam"))
    truth = optimum(problem)
    found = roam_bound(
        problem, over=Blocks(10), max_cells=cells, max_trio_cells=trios, compile_=True
    )
    if truth.feasible:
        assert below(found.bound, truth.objective)


@pytest.mark.parametrize("name", TINY)
def test_proves_the_tiny_instances(name):
    """With the optimum known the tree closes the gap of every tiny roam instance."""
    problem = build_problem(read_instance(name))
    truth = solve(problem, "milp", time_limit=60)
    found = roam_bound(problem, upper=truth.objective, compile_=True)
    assert below(found.bound, truth.objective)
    assert found.bound >= truth.objective * (1 - 1e-6)


def test_a_worse_known_plan_is_improved_or_proved():
    """The tree ends with a proof of the optimum though it only knew a worse plan."""
    closed = 0
    for seed in range(12):
        case = random_case(seed, dataflow="roam", infeasible=False)
        truth = optimum(case.problem)
        upper = truth.objective + 0.2 * abs(truth.objective)
        found = roam_bound(case.problem, upper=upper, over=Blocks(400), compile_=True)
        best = truth.objective
        if found.plan is not None:
            best = score(case.problem, found.plan).objective
            assert best >= truth.objective - 1e-9 * abs(truth.objective)
        closed += bool(found.bound >= best - 1e-6 * abs(best))
    assert closed >= 8


def test_several_copies_have_the_trivial_bound_only():
    """Where an expert may have several copies the relaxation claims nothing."""
    problem = build_problem(random_instance(3, dataflow="roam"))
    for most in (2, None):
        several = problem.replace(max_copies=most)
        assert roam_bound(several).bound == trivial_bound(several)


def test_any_split_is_a_bound():
    """A bound does not depend on how the split was found: a random one is valid too."""
    rng = np.random.default_rng(7)
    for seed in range(10):
        problem = random_case(seed, dataflow="roam", infeasible=False).problem
        truth = optimum(problem).objective
        model = build_stars(problem)
        ascent = StarAscent(model, compile_=False)
        kept = [array.copy() for array in ascent.keep()]
        spread = model.spread / problem.num_experts
        for array in kept[:2]:  # tables of first experts, shares of trios
            array += spread * rng.standard_normal(array.shape)
        for array in kept[2:4]:  # prices
            array += rng.random(array.shape) * 0.1 * spread
        ascent.restore(tuple(kept))
        assert below(ascent.certified(), truth)


def test_compiled_kernels_agree():
    """Compiled kernels reach the bound of the plain ones."""
    problem = random_case(5, dataflow="roam").problem
    values = []
    for on in (False, True):
        ascent = StarAscent(build_stars(problem), compile_=on)
        values.append([ascent.block(0.1 * ascent.unit) for _ in range(3)])
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert set(roam_kernels.ENTRIES) <= set(vars(compiled(roam_kernels)))
    assert set(roam_kernels.ENTRIES) <= set(vars(plain(roam_kernels)))


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_walk_counts_as_score_does(seed):
    """After a walk the objective and the broken rows are those of `score`."""
    problem = random_case(seed, dataflow="roam", infeasible=False).problem
    walk = RoamWalk(problem, compile_=True)
    rng = np.random.default_rng(seed)
    walk.random(rng)
    who = np.arange(problem.num_experts)
    for _ in range(3):
        draws = rng.random((200, 5))
        walk.run.walk(walk.packed, walk.live, who, draws, walk.scale, walk.scale)
        walk.adapt()
    value = float(walk.run.value(walk.packed, walk.live))
    judged = score(problem, walk.plan(walk.s.chosen))
    assert value == pytest.approx(judged.objective, rel=1e-8, abs=1e-12)
    if math.isfinite(walk.s.best_value[0]):
        judged = score(problem, walk.plan(walk.s.best))
        assert judged.feasible
        assert judged.objective == pytest.approx(walk.s.best_value[0], rel=1e-8)


def test_search_keeps_its_start_and_repeats():
    """The search is never worse than its start, and the same seed gives the same."""
    for seed in range(8):
        case = random_case(seed, dataflow="roam", infeasible=False)
        truth = optimum(case.problem).objective
        start = score(case.problem, case.witness).objective
        runs = [
            roam_search(case.problem, case.witness, MaxIterations(30), 3)
            for _ in range(2)
        ]
        assert runs[0].objective == runs[1].objective
        assert truth - 1e-9 * abs(truth) <= runs[0].objective <= start
        assert score(case.problem, runs[0].plan).feasible
        none = roam_search(case.problem, case.witness, MaxIterations(0), 3)
        assert none.objective == start


def test_search_finds_optima():
    """From nothing, the search finds most optima of small problems."""
    found = 0
    for seed in range(20):
        problem = random_case(seed, dataflow="roam", infeasible=False).problem
        best = optimum(problem).objective
        run = roam_search(problem, None, MaxIterations(60), 0)
        found += bool(run.objective <= best + 1e-6 * abs(best))
    assert found >= 18
