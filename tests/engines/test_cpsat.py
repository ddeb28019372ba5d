"""The adapter of CP-SAT: bounds, stops, Ctrl-C, and a bug it goes around."""

from __future__ import annotations

import itertools
import signal

import pytest
from ortools.sat.python import cp_model

from meldopt.engines.cpsat import solve_cpsat
from meldopt.errors import SolverError


def knapsack(num: int = 40):
    """Return a model that takes CP-SAT a while, and its variables."""
    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in range(num)]
    for row in range(8):
        weights = [(7 * n * n + 13 * row * n + 5 * row) % 97 + 3 for n in range(num)]
        total = cp_model.LinearExpr.weighted_sum(x, weights)
        model.add(total >= sum(weights) // 2 + row)
    model.minimize(
        cp_model.LinearExpr.weighted_sum(x, [(11 * n) % 83 + 20 for n in range(num)])
    )
    return model, x


LEVELS = (
    (
        {26: 198464743, 42: 134682606},
        {
            24: 843037628,
            25: 1171362019,
            26: 1369826762,
            40: 779255491,
            41: 1107579882,
            42: 1306044625,
        },
        {
            22: 75955642,
            23: 232210432,
            24: 1479909940,
            25: 1808234331,
            26: 2006699074,
            27: 561908410,
            28: 636872312,
            40: 1416127803,
            41: 1744452194,
            42: 1942916937,
        },
    ),
    ({39: 156254789, 43: 1524829944, 44: 1599793846},),
)
"""Savings of copies under each level, for two calls of a random problem."""

LEVEL = ((338125118, 1509487137, 2146359449), (1786182692,))
LEAST = (139660375, 186388846)
ONE_OF = ((21, 22, 23), (24, 25, 26), (29, 30, 31), (32, 33, 34))
ONE_OF += ((37, 38, 39), (40, 41, 42), (43, 44))
SOME_OF = (21, 22, 24, 25, 27, 29, 30, 32, 33, 35, 37, 38, 40, 41, 43)


def two_calls():
    """Return a priced model of two calls, as CP-SAT 9.15 got it wrong."""
    model = cp_model.CpModel()
    z = {n: model.new_bool_var("") for n in range(21, 45)}
    for group in ONE_OF:
        model.add(sum(z[n] for n in group) <= 1)
    model.add(sum(z[n] for n in SOME_OF) >= 5)
    calls = []
    for low, levels, saved in zip(LEAST, LEVEL, LEVELS, strict=True):
        call = model.new_int_var(low, levels[-1], "")
        for level, savings in zip(levels, saved, strict=True):
            model.add(call + sum(value * z[n] for n, value in savings.items()) >= level)
        calls.append(call)
    theta = model.new_int_var(-(2**50), 2**50, "")
    model.add(sum(calls) <= theta)
    model.minimize(theta)
    return model, theta


def least_of_two_calls() -> int:
    """Try all copies that matter to the two calls."""
    matter = sorted({n for call in LEVELS for level in call for n in level})
    best = None
    for chosen in itertools.product((0, 1), repeat=len(matter)):
        z = dict(zip(matter, chosen, strict=True))
        if any(sum(z.get(n, 0) for n in group) > 1 for group in ONE_OF):
            continue
        # Copies that do not matter can make up what SOME_OF asks for.
        spare = sum(
            any(n in SOME_OF and n not in matter for n in group)
            and not any(z.get(n, 0) for n in group)
            for group in ONE_OF
        )
        spare += sum(n not in matter and n in SOME_OF for n in (27, 35))
        if sum(z.get(n, 0) for n in SOME_OF) + spare < 5:
            continue
        total = sum(
            max(
                low,
                *(
                    level - sum(value * z[n] for n, value in savings.items())
                    for level, savings in zip(levels, saved, strict=True)
                ),
            )
            for low, levels, saved in zip(LEAST, LEVEL, LEVELS, strict=True)
        )
        best = total if best is None else min(best, total)
    assert best is not None
    return best


def test_presolve_keeps_the_optimum():
    """A priced model that presolve by inclusion gets wrong is solved to its optimum."""
    model, theta = two_calls()
    outcome = solve_cpsat(model, [theta], threads=1)
    assert outcome.status == "optimal"
    assert outcome.bound == outcome.solutions[-1][0] == least_of_two_calls()


def test_bound_and_objective_meet_at_a_proof():
    """A proved run has its bound at the objective of its last, best solution."""
    model, x = knapsack(12)
    outcome = solve_cpsat(model, x, threads=1)
    costs = [(11 * n) % 83 + 20 for n in range(12)]
    values = [
        sum(c * v for c, v in zip(costs, z, strict=True)) for z in outcome.solutions
    ]
    assert outcome.status == "optimal"
    assert values[-1] == outcome.bound == min(values)
    assert not outcome.interrupted


def test_infeasible_has_no_bound():
    """A model without a solution says so, and claims neither bound nor solution."""
    model, x = knapsack(12)
    model.add(sum(x) <= 1)
    outcome = solve_cpsat(model, x, threads=1)
    assert outcome.status == "infeasible"
    assert outcome.bound is None
    assert outcome.solutions.shape == (0, 12)


def test_no_variable_is_no_problem():
    """A model of which nothing is watched is solved all the same."""
    model = cp_model.CpModel()
    model.minimize(0)
    assert solve_cpsat(model, [], threads=1).status == "optimal"


def test_a_tick_stops():
    """What returns True from a tick ends the run; solutions so far are kept."""
    model, x = knapsack()
    seen = []

    def tick(latest, objective, bound):
        seen.append((latest, objective, bound))
        return latest is not None

    outcome = solve_cpsat(model, x, threads=1, on_tick=tick)
    if outcome.status != "optimal":  # it may be done before the first tick
        assert outcome.interrupted
        assert not outcome.by_key
        assert len(outcome.solutions) > 0


def test_ctrl_c_keeps_what_was_found():
    """A KeyboardInterrupt ends the run in order and is told."""
    model, x = knapsack()
    model.add_hint(x[0], 1)

    def tick(latest, objective, bound):
        raise KeyboardInterrupt

    outcome = solve_cpsat(model, x, threads=1, on_tick=tick)
    assert outcome.by_key or outcome.status == "optimal"
    assert outcome.bound is None or outcome.bound >= 0


def test_ctrl_c_stays_with_python():
    """A signal during a run reaches Python, and the next one does so as well."""
    before = signal.getsignal(signal.SIGINT)
    for _ in range(2):
        model, x = knapsack()
        sent = []

        def tick(latest, objective, bound, sent=sent):
            if not sent:
                sent.append(1)
                signal.raise_signal(signal.SIGINT)
            return False

        outcome = solve_cpsat(model, x, threads=1, on_tick=tick)
        assert outcome.by_key == bool(sent)
    assert signal.getsignal(signal.SIGINT) is before


def test_deterministic_runs_agree():
    """Two runs of the same deterministic time find the same solutions and bound."""
    runs = []
    for _ in range(2):
        model, x = knapsack()
        runs.append(solve_cpsat(model, x, work=0.2, deterministic=True, seed=3))
    assert (runs[0].solutions == runs[1].solutions).all()
    assert runs[0].bound == runs[1].bound
    assert runs[0].work == runs[1].work


def test_a_broken_model_is_an_error():
    """A model that CP-SAT refuses is an error of the engine, not a status."""
    model = cp_model.CpModel()
    x = model.new_int_var(0, 2**62, "")
    model.add(4 * x <= 3)
    model.minimize(x)
    with pytest.raises(SolverError, match="refused"):
        solve_cpsat(model, [x], threads=1)
