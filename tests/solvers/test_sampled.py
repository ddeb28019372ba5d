"""The search on sampled tokens: exact, feasible, deterministic, and the last step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_case

from meldopt.builder import build_problem
from meldopt.generate import generate
from meldopt.problem import TERMS
from meldopt.score import score
from meldopt.solver import DeterministicTime, MaxIterations
from meldopt.testing import contract_instance, same_plan
from meldopt_solvers.search.incumbent import Incumbent
from meldopt_solvers.search.lns import LnsSolver
from meldopt_solvers.search.sampled import (
    Annealing,
    SampledSearch,
    improve_sampled,
    is_sampled,
)

MIXES = (
    ("parallel",),
    ("parallel", "serial", "bottleneck"),
    ("parallel", "fluid", "energy", "quality", "traffic"),
)


def sampled_case(seed, **switches):
    """Return a random problem with sampled tokens and a plan that keeps every row."""
    case = random_case(
        seed,
        dataflow="home",
        infeasible=False,
        samples=True,
        terms=MIXES[seed % len(MIXES)],
        **switches,
    )
    return case.problem, case.witness


def close(value):
    """Equal up to rounding."""
    return pytest.approx(value, rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_thousands_of_moves_stay_exact(seed):
    """After hundreds of moves the value is what `score` says, and every row holds.

    Forty problems of 300 moves each, hot enough that many are carried out and many
    are taken back; the terms by themselves too, since errors might cancel.
    """
    problem, plan = sampled_case(seed)
    search = SampledSearch(problem, plan, compile_=False)
    hot = 0.3 * abs(search.objective) + 1e-9
    search.walk(np.random.default_rng(seed), 300, hot, 0.1 * hot)
    judged = score(problem, search.plan())
    assert search.objective == close(judged.objective)
    sampled = sum(
        problem.weight_of(term) * judged.terms[term] for term in ("parallel", "fluid")
    )
    assert search.sampled == close(sampled)
    assert judged.feasible, judged.violations


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_a_plan_is_taken_as_it_is(seed):
    """A plan that is taken in and given back is as good, or better where shares of
    segments were out of order; sampled terms do not change."""
    problem, plan = sampled_case(seed)
    before = score(problem, plan)
    search = SampledSearch(problem, plan, compile_=False)
    after = score(problem, search.plan())
    assert search.objective == close(after.objective)
    assert after.objective <= before.objective + 1e-9 * abs(before.objective) + 1e-12
    assert after.terms["parallel"] == close(before.terms["parallel"])
    assert np.array_equal(search.plan().copies, plan.copies)


def test_sums_do_not_drift():
    """What moves added up is what a fresh count gives."""
    problem, plan = sampled_case(2)
    search = SampledSearch(problem, plan, compile_=False)
    count, search.recount = search.recount, lambda: None
    search.walk(np.random.default_rng(0), 400, 1.0, 0.1)
    before = search.objective, search.s.load.copy(), search.s.used.copy()
    count()
    assert search.objective == close(before[0])
    assert search.s.load == pytest.approx(before[1], rel=1e-9, abs=1e-9)
    assert search.s.used == pytest.approx(before[2])


def test_every_kind_of_move_is_carried_out():
    """Copies change in number, place and format, and shares split, fuse and prune."""
    seen = set()
    for seed in range(30):
        problem, plan = sampled_case(seed, fuse=True, prune=True, similar=True)
        search = SampledSearch(problem, plan, compile_=False)
        s, old = search.s, search.keep()
        search.walk(np.random.default_rng(seed), 300, 1e3, 1e2)
        seen |= {"more"} if s.copies.sum() > (old["option"] >= 0).sum() else set()
        seen |= {"fewer"} if s.copies.sum() < (old["option"] >= 0).sum() else set()
        for name in ("fused", "pruned", "sub"):
            seen |= {name} if not np.allclose(getattr(s, name), old[name]) else set()
        seen |= {"split"} if ((s.share > 0.01).sum(axis=2) > 1).any() else set()
    assert seen == {"more", "fewer", "fused", "pruned", "sub", "split"}


def parallel_only(problem):
    """Return a problem with `parallel` as its objective."""
    weights = np.zeros(len(TERMS))
    weights[TERMS.index("parallel")] = 1.0
    return problem.replace(weights=weights)


def small_star():
    """Return a problem of 16 experts on three servers with sampled tokens."""
    parameters = {"layers": 2, "servers": 3, "samples": 40}
    made = generate("star", name="small", seed=1, parameters=parameters)
    return parallel_only(build_problem(made))


def holding(problem, plan, stop):
    """Return an incumbent that holds a plan."""
    return Incumbent(problem, stop=stop, started=0.0, on_progress=None, start=plan)


def test_calls_of_a_token_are_brought_together():
    """Two experts that tokens call side by side come to share a server.

    From a plan with the best single copies the search finds a better one, since
    `serial` is blind to what a second call at the same server saves.
    """
    problem = small_star()
    assert is_sampled(problem)
    first = LnsSolver().solve(problem, stop=MaxIterations(1), seed=0).plan
    best = holding(problem, first, MaxIterations(6))
    before = best.objective
    assert improve_sampled(problem, best, rng=np.random.default_rng(0), spent=best.step)
    assert best.objective < 0.999 * before
    assert score(problem, best.plan).feasible


def test_compiled_walk_agrees():
    """Compiled and plain moves make the same plan."""
    problem, plan = sampled_case(4)
    one, other = (SampledSearch(problem, plan, compile_=c) for c in (False, True))
    for search in (one, other):
        search.walk(np.random.default_rng(3), 300, 0.1, 0.01)
    assert one.objective == close(other.objective)
    assert same_plan(one.plan(), other.plan())


def test_work_decides_the_result():
    """With a deterministic budget the same seed gives the same plan."""
    problem, plan = sampled_case(7)

    def once():
        best = holding(problem, plan, DeterministicTime(0.002))
        improve_sampled(problem, best, rng=np.random.default_rng(5), spent=best.step)
        return best

    one, other = once(), once()
    assert same_plan(one.plan, other.plan)
    assert one.work == other.work > 0
    assert one.objective <= score(problem, plan).objective


def test_annealing_returns_to_the_best():
    """Whatever the heat, the plan that is kept only gets better."""
    problem, plan = sampled_case(8)
    search = SampledSearch(problem, plan, compile_=False)
    walk = Annealing(search, np.random.default_rng(0), 40)
    values = [walk.value]
    for _ in range(30):
        walk.step()
        values.append(walk.value)
    assert values == sorted(values, reverse=True)
    search.put_back(walk.kept)
    assert search.objective == close(walk.value)


def test_pins_and_coverage_stay():
    """Pinned copies stay where they are, and every failure set is survived."""
    checked = 0
    for seed in range(12):
        problem, plan = sampled_case(seed, pin=True, coverage=True)
        search = SampledSearch(problem, plan, compile_=False)
        search.walk(np.random.default_rng(seed), 200, 1e3, 1e3)
        assert score(problem, search.plan()).feasible
        checked += len(problem.pinned) > 0 and len(problem.failure_sets) > 0
    assert checked


def test_lns_ends_on_the_sampled_tokens():
    """`lns` says that its last step found the plan; without samples there is none."""
    stop = MaxIterations(12)
    result = LnsSolver().solve(small_star(), stop=stop, seed=0)
    assert result.params["found_by"] == "sampled"
    plain = build_problem(contract_instance("loose"))
    assert not is_sampled(plain)
    assert LnsSolver().solve(plain, stop=stop, seed=0).params.get("found_by") in (
        None,
        "lns",
    )
