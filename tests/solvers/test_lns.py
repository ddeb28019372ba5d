"""`lns`: the contract, parts of a problem, patterns, warm starts, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_case
from searched import feasible_share, solved_problems

from meldopt.engines.highs import solve_highs
from meldopt.formulations.milp import build_milp
from meldopt.score import score
from meldopt.solver import DeterministicTime, MaxIterations, MaxRuntime, solve
from meldopt.testing import SolverContract, same_plan
from meldopt_solvers.relaxation.pricing import Lagrangian
from meldopt_solvers.search.incumbent import Incumbent
from meldopt_solvers.search.lns import LnsSolver
from meldopt_solvers.search.lns_search import Lns, LnsParams
from meldopt_solvers.search.neighbourhoods import Chooser, Kind
from meldopt_solvers.search.submodel import Part, measure, surrogate


class TestLnsContract(SolverContract):
    """`lns` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return LnsSolver()

    @pytest.fixture
    def stop(self):
        return MaxIterations(25)


def planned(seed):
    """Return a random problem with a plan that keeps every row."""
    case = random_case(seed, dataflow="home", infeasible=False)
    return case.problem, case.witness


def searching(problem, plan, **params):
    """Return a search that holds a plan, at prices of nothing."""
    best = Incumbent(
        problem, stop=MaxIterations(50), started=0.0, on_progress=None, start=plan
    )
    lagrangian = Lagrangian(surrogate(problem), compile_=False)
    return Lns(
        problem,
        LnsParams(**params),
        best,
        np.random.default_rng(0),
        spent=best.step,
        lagrangian=lagrangian,
        prices=lagrangian.zero(),
    )


def some_experts(problem, rng):
    """Return about half of the experts, closed under similarity."""
    chosen = np.flatnonzero(rng.random(problem.num_experts) < 0.5)
    return np.flatnonzero(np.isin(problem.group_of, problem.group_of[chosen]))


@settings(max_examples=100)
@given(seed=st.integers(0, 100_000))
def test_parts_add_up(seed):
    """Loads of a part and of the rest are the plan's; put back it is the same."""
    problem, plan = planned(seed)
    problem = surrogate(problem)
    whole = measure(problem, plan)
    experts = some_experts(problem, np.random.default_rng(seed))
    rest = np.setdiff1d(np.arange(problem.num_experts), experts)
    part = Part(problem, plan, whole, experts)
    both = part.mine.plus(Part(problem, plan, whole, rest).mine)
    for name, values in whole.rows.items():
        assert both.rows[name] == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert both.objective == pytest.approx(whole.objective, rel=1e-9, abs=1e-12)
    again, loads = part.replaced(part.current)
    assert np.array_equal(again.copies, plan.copies)
    judged = score(problem, again)
    assert judged.objective == pytest.approx(
        score(problem, plan).objective, rel=1e-9, abs=1e-12
    )
    assert loads.objective == pytest.approx(judged.objective, rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_parts_improve_plans_and_keep_rows(seed):
    """The best choice for half of the experts breaks no row and is never worse."""
    problem, plan = planned(seed)
    problem = surrogate(problem)
    before = score(problem, plan)
    assert before.feasible
    search = searching(problem, plan, options=100)
    experts = some_experts(problem, np.random.default_rng(seed))
    part = Part(problem, search.plan, search.loads, experts)
    for kind in ("copies", "patterns"):
        if kind == "patterns" and len(problem.similar):
            continue
        found, _, _ = getattr(search, f"by_{kind}")(part)
        if found is None:
            continue
        changed, loads = part.replaced(found)
        after = score(problem, changed)
        assert after.feasible, after.violations
        assert loads.objective == pytest.approx(after.objective, rel=1e-6, abs=1e-9)
        slack = 2e-4 * abs(before.objective) + 1e-9
        assert after.objective <= before.objective + slack


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_patterns_load_what_score_says(seed):
    """What a pattern puts on rows is what its answers come to in a plan."""
    problem, plan = planned(seed)
    problem = surrogate(problem)
    search = searching(problem, plan)
    everyone = np.arange(problem.num_experts)
    part = Part(problem, search.plan, search.loads, everyone)
    if len(problem.similar):
        return
    made = search.patterns
    rows, cost, cells = made.ledger.loads(
        len(everyone), made.of_plan(problem, everyone, part.current)
    )
    rows += made.ledger.holdings(everyone, search.sets(part))
    for name, values in search.loads.rows.items():
        total = rows[:, made.ledger.at[name]].sum(axis=0)
        assert total == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert cost.sum() == pytest.approx(search.loads.cost, rel=1e-9, abs=1e-12)
    assert cells.sum() == pytest.approx(search.loads.cells.sum(), rel=1e-9, abs=1e-12)


def test_whole_problem_free_is_the_exact_model():
    """With every expert and option free the sub-problem is as good as the oracle."""
    for problem, best in solved_problems("home")[:12]:
        if problem.weight_of("parallel") + problem.weight_of("fluid") > 0:
            continue
        first = solve(problem, "greedy", seed=0, time_limit=5)
        if not first.feasible:
            continue
        search = searching(problem, first.plan, options=1000, nodes=10_000, gap=1e-7)
        everyone = np.arange(problem.num_experts)
        part = Part(search.searched, search.plan, search.loads, everyone)
        found, _, solved = search.by_copies(part)
        assert solved
        assert score(problem, found).objective == pytest.approx(
            best, rel=1e-5, abs=1e-9
        )


def test_used_lowers_limits_only():
    """A model with everything used twice over has the same columns and no solution."""
    problem, best = solved_problems("home")[0]
    plain = build_milp(problem)
    full = build_milp(problem, used={"memory": problem.room_bytes})
    assert (plain.model.matrix != full.model.matrix).nnz == 0
    assert solve_highs(plain.model).status == "optimal"
    assert solve_highs(full.model).status == "infeasible"
    assert best < np.inf


def test_finds_feasible_plans():
    """On 95 % of the feasible random problems it finds a plan, most of them optimal."""
    share, gaps = feasible_share(LnsSolver(), "home", MaxIterations(40))
    assert share >= 0.95
    assert np.mean(np.array(gaps) <= 1e-3) >= 0.75


def test_start_is_never_lost():
    """From the optimum of the oracle it returns nothing worse, even without time."""
    problem, best = solved_problems("home")[0]
    first = solve(problem, "milp", time_limit=60)
    for stop in (MaxRuntime(0.0), MaxIterations(30)):
        result = LnsSolver().solve(problem, stop=stop, seed=3, start=first.plan)
        assert result.feasible
        assert result.objective <= best + 1e-6 * abs(best)


def test_work_decides_the_result():
    """With a deterministic budget the same seed gives the same plan."""
    problem = random_case(5, dataflow="home", infeasible=False).problem
    one, other = (
        LnsSolver().solve(problem, stop=DeterministicTime(0.2), seed=7)
        for _ in range(2)
    )
    assert same_plan(one.plan, other.plan)
    assert [h[1] for h in one.history] == [h[1] for h in other.history]


def test_weights_follow_gains():
    """A kind that gains is drawn more often than one that does not."""
    good, bad = Kind("random", "copies", 4.0), Kind("layers", "copies", 4.0)
    chooser = Chooser([good, bad], least=2, most=10)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        kind = chooser.pick(rng)
        drawn.append(kind)
        chooser.learn(kind, 1.0 if kind is good else 0.0, 1.0, solved=kind is good)
    assert sum(kind is good for kind in drawn[50:]) > 120
    assert good.size == 10
    assert bad.size == 2
