"""`local`: the contract, incremental sums, feasibility, warm starts, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_case
from searched import (
    assert_home_state_is_scored,
    assert_roam_state_is_scored,
    feasible_share,
    solved_problems,
)

from meldopt.score import score
from meldopt.solver import (
    DeterministicTime,
    MaxIterations,
    MaxRuntime,
    Status,
    StopReason,
    solve,
)
from meldopt.testing import SolverContract, same_plan
from meldopt_solvers.search.local import LocalParams, LocalSolver
from meldopt_solvers.search.roam import RoamSearch
from meldopt_solvers.search.state import HomeState


class TestLocalContract(SolverContract):
    """`local` keeps the contract of solvers."""

    @pytest.fixture
    def solver(self):
        return LocalSolver()

    @pytest.fixture
    def stop(self):
        return MaxIterations(40)


def shaken(seed, state, rng):
    """Move a state about: sweeps, settling, prices, single experts out and in."""
    num = state.problem.num_experts
    for _ in range(3):
        state.sweep(state.order(rng), every=1)
        state.update_prices()
        state.settle(state.order(rng))
        some = state.closure(rng.permutation(num)[: 1 + seed % 3].astype(np.int64))
        kept = state.keep(some)
        state.clear(some)
        state.sweep(rng.permutation(some))
        if rng.random() < 0.5:
            state.put_back(kept)


@settings(max_examples=150)
@given(seed=st.integers(0, 100_000))
def test_sums_of_home_state_equal_score(seed):
    """After any moves the incremental objective and rows are those of `score`."""
    state = HomeState(random_case(seed, dataflow="home").problem, compile_=False)
    shaken(seed, state, np.random.default_rng(seed))
    assert_home_state_is_scored(state)


@settings(max_examples=150)
@given(seed=st.integers(0, 100_000))
def test_deltas_of_roam_state_equal_score(seed):
    """After any relocations objective and rows in `roam` are those of `score`."""
    search = RoamSearch(random_case(seed, dataflow="roam").problem, compile_=False)
    rng = np.random.default_rng(seed)
    search.set_prices(1.0)
    search.build(rng)
    t, s = search.tables, search.s
    for _ in range(30):
        i = int(rng.integers(len(s.option)))
        mine = t.usable[t.usable_start[i] : t.usable_start[i + 1]]
        if len(mine):
            search.run.move(search.packed, search.live, i, int(rng.choice(mine)))
    search.anneal(50, 1.0, 0.01, rng)
    assert_roam_state_is_scored(search)


def test_compiled_home_kernels_agree():
    """The compiled kernels come to the sums of the plain ones, and to those of score.

    From the same copies: in a longer run ties may go another way by rounding.
    """
    for seed in range(6):
        case = random_case(seed, dataflow="home")
        plain, fast = (HomeState(case.problem, compile_=on) for on in (False, True))
        for state in (plain, fast):
            state.set_copies(case.witness.copies)
            state.update_prices()
            state.settle(np.arange(case.problem.num_experts))
        assert fast.potential() == pytest.approx(plain.potential(), rel=1e-9)
        assert np.allclose(fast.s.load, plain.s.load, rtol=1e-9, atol=1e-12)
        shaken(seed, fast, np.random.default_rng(seed))
        assert_home_state_is_scored(fast)


def test_compiled_roam_kernels_agree():
    """The compiled walk in `roam` ends where the plain one does."""
    for seed in range(6):
        problem = random_case(seed, dataflow="roam").problem
        merits = []
        for on in (False, True):
            search = RoamSearch(problem, compile_=on)
            rng = np.random.default_rng(seed)
            search.set_prices(1.0)
            search.build(rng)
            search.anneal(300, 1.0, 0.001, rng)
            assert_roam_state_is_scored(search)
            merits.append(search.merit())
        assert merits[0] == pytest.approx(merits[1], rel=1e-9)


@pytest.mark.parametrize(("dataflow", "iterations"), [("home", 200), ("roam", 12)])
def test_finds_feasible_plans(dataflow, iterations):
    """On 95 % of the feasible random problems it finds a plan, most of them optimal."""
    share, gaps = feasible_share(LocalSolver(), dataflow, MaxIterations(iterations))
    assert share >= 0.95
    assert np.mean(np.array(gaps) <= 1e-5) >= 0.75


@pytest.mark.parametrize("dataflow", ["home", "roam"])
def test_start_is_never_lost(dataflow):
    """From the optimum of the oracle it returns nothing worse, even without time."""
    problem, best = solved_problems(dataflow)[0]
    first = solve(problem, "milp", time_limit=60)
    for stop in (MaxRuntime(0.0), MaxIterations(30)):
        result = LocalSolver().solve(problem, stop=stop, seed=3, start=first.plan)
        assert result.feasible
        assert result.objective <= best + 1e-6 * abs(best)


@pytest.mark.parametrize("dataflow", ["home", "roam"])
def test_work_decides_the_result(dataflow):
    """With a deterministic budget the same seed gives the same plan."""
    problem = random_case(5, dataflow=dataflow, infeasible=False).problem
    one, other = (
        LocalSolver().solve(problem, stop=DeterministicTime(0.02), seed=7)
        for _ in range(2)
    )
    assert same_plan(one.plan, other.plan)
    assert one.history
    assert [h[1] for h in one.history] == [h[1] for h in other.history]


def test_interruption_keeps_the_plan():
    """Ctrl-C in the middle returns the best plan so far."""
    problem, _ = solved_problems("home")[0]

    def interrupt(progress):
        if np.isfinite(progress.objective):
            raise KeyboardInterrupt

    result = LocalSolver().solve(
        problem, stop=MaxIterations(500), seed=0, on_progress=interrupt
    )
    assert result.stop_reason is StopReason.INTERRUPTED
    assert result.feasible
    assert score(problem, result.plan).feasible


def test_roam_says_what_it_cannot():
    """In `roam` it places one copy each, and says so."""
    case = random_case(1, dataflow="roam", max_copies=False, infeasible=False)
    result = LocalSolver().solve(case.problem, stop=MaxIterations(2), seed=0)
    if case.problem.max_copies != 1 and case.problem.num_servers > 1:
        assert "copies" in result.ignored


def test_params_reach_the_search():
    """Without LPs the plan still comes out feasible where shares need no LP."""
    problem, _ = solved_problems("home")[0]
    solver = LocalSolver(LocalParams(lp_shares=0, lp_moves=0))
    result = solver.solve(problem, stop=MaxIterations(100), seed=0)
    assert result.status in (Status.FEASIBLE, Status.OPTIMAL, Status.VIOLATING)
    assert result.params["lp_shares"] == 0
