"""What rows charge in the search: shared counts, answers for others, idle room."""

from __future__ import annotations

import numpy as np
import pytest
from random_problems import random_case

from meldopt.builder import build_problem
from meldopt.formulations.shares import best_shares
from meldopt.instance import read_instance
from meldopt.problem import CountRow
from meldopt.score import score
from meldopt.testing import contract_instance
from meldopt_solvers.relaxation.pricing import Lagrangian
from meldopt_solvers.relaxation.primal import set_prices, state_prices
from meldopt_solvers.search.descent import descend, mend
from meldopt_solvers.search.kernels import STEEP
from meldopt_solvers.search.state import HomeState
from meldopt_solvers.search.submodel import restrict


def counted(problem, lower, upper):
    """The problem with one row that counts all copies."""
    row = CountRow(
        name="all",
        experts=np.arange(problem.num_experts, dtype=np.int64),
        places=np.arange(problem.num_places, dtype=np.int64),
        formats=np.arange(problem.num_formats, dtype=np.int64),
        lower=lower,
        upper=upper,
    )
    return problem.replace(count_rows=(row,))


def forget_prices(state):
    """Let no row charge anything, so that the potential is the objective."""
    s = state.s
    for price in (s.scale, s.memory_scale, s.memory_over, s.count_price):
        price[:] = 0.0
    s.count_most[:] = s.count_least[:] = 0.0


def test_a_response_never_costs_more():
    """An expert also counts what its copies answer for similar experts.

    A copy that saves itself little may save the others much: with prices that stand
    still what all cost together must not rise.
    """
    answered = 0
    for seed in range(40):
        problem = random_case(
            seed, dataflow="home", similar=True, terms=("serial", "quality")
        ).problem
        state = HomeState(problem, compile_=False)
        rng = np.random.default_rng(seed)
        state.sweep(state.order(rng), every=1)
        forget_prices(state)
        for i in np.tile(state.order(rng), 3).tolist():
            before = state.potential()
            state.sweep(np.array([i]), every=1)
            slack = 1e-9 * abs(before) + 1e-12
            assert state.potential() <= before + slack
        answered += int((state.s.answer >= 0).sum())
    assert answered >= 20


def test_shared_copies_go_where_they_gain_most():
    """Where all copies share a row, its price beats first come, first served."""
    whole = build_problem(read_instance("hetroute/mixtral-r2-q20"))
    part = restrict(whole, np.arange(whole.layer_start[6], dtype=np.int64))
    problem = counted(part, None, 2 * part.num_experts)
    values = []
    for priced in (True, False):
        state = HomeState(problem)
        state.shared &= priced
        state.reset_prices()
        rng = np.random.default_rng(0)
        descend(state, rng, passes=12, spent=lambda: False)
        assert mend(state, rng, rounds=12, spent=lambda: False)
        assert score(problem, state.plan()).feasible
        values.append(state.objective())
    assert values[0] < 0.9 * values[1]


@pytest.mark.parametrize("limits", [(None, 9), (11, None), (9, 12)])
def test_prices_of_counts_go_to_the_state_and_back(limits):
    """The search takes over what the relaxation charges for copies, and gives it."""
    problem = counted(build_problem(contract_instance("loose")), *limits)
    state, lagrangian = HomeState(problem), Lagrangian(problem, threads=1)
    first = problem.num_places + len(lagrangian.load_rows)
    prices = lagrangian.zero()
    prices[first:] = state.value * np.arange(1.0, lagrangian.num_rows - first + 1)
    set_prices(state, lagrangian, prices)
    state.s.tally[:] = [limit for limit in limits if limit is not None][-1:]
    got = state_prices(state, lagrangian)[first:]
    if None in limits:
        assert got == pytest.approx(prices[first:])
    else:  # 12 copies are more than the 9 of the lower limit: worth less there
        assert got[1] == pytest.approx(prices[first + 1])
        assert 0.0 < got[0] < prices[first]


def test_other_shares_gain_no_more_than_idle_room():
    """At prices that stand still an LP of the shares gains at most `idle`."""
    gained = 0
    for seed in range(80):
        problem = random_case(
            seed, dataflow="home", prune=False, fuse=False, terms=("serial",)
        ).problem
        state = HomeState(problem, compile_=False)
        rng = np.random.default_rng(seed)
        state.sweep(state.order(rng), every=1)
        state.s.knob[STEEP] = 0.0  # a price is the same at any load
        state.s.scale[:] *= rng.exponential(300.0, len(state.s.scale))
        state.settle(state.order(rng))
        plan = best_shares(problem, state.copies())
        lost = float(state.s.load[state.tables.at[7]])
        if plan is None or state.excess()[0] > 0.0 or lost > 0.0:
            continue
        value, low = state.objective(), score(problem, plan).objective
        gained += low < value * (1 - 1e-3)
        assert value - state.idle() <= low + 1e-9 * abs(low)
    assert gained >= 5


def test_a_place_that_stays_too_full_is_pressed():
    """Mending finds room even where a byte too many costs next to nothing at first."""
    whole = build_problem(contract_instance("loose"))
    room = whole.room_bytes
    wanted = 1.5 * whole.size_bytes.min(axis=1).sum()
    share = room / room.sum()
    tight = whole.replace(capacity_bytes=wanted * share, reserve_bytes=0 * room)
    state = HomeState(tight, compile_=False)
    rng = np.random.default_rng(0)
    descend(state, rng, passes=4, spent=lambda: False)
    state.s.memory_over[:] *= 1e-6
    state.s.memory_scale[:] *= 1e-6
    state.sweep(state.order(rng))
    assert state.crowded().any()
    mend(state, rng, rounds=16, spent=lambda: False)
    assert not state.crowded().any()
