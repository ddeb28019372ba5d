"""The models for CP-SAT: bounds by prices hold, and are tight where they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import optimum
from random_problems import random_case, random_instance

from meldopt.builder import build_problem
from meldopt.engines.cpsat import solve_cpsat
from meldopt.engines.duals import SharesLp
from meldopt.formulations.cpsat import (
    OBJECTIVE_ROUNDING,
    PricedModel,
    WholeModel,
    build_cpsat,
    is_whole,
)
from meldopt.formulations.shares import best_shares
from meldopt.plan import Plan
from meldopt.score import score

SEEDS = st.integers(0, 100_000)


def at(model, z, **options):
    """Solve a model with its copies fixed."""
    fixed = model.model.clone()
    watch = []
    for variable, value in zip(model.z, z.tolist(), strict=True):
        mine = fixed.get_int_var_from_proto_index(variable.index)
        fixed.add(mine == value)
        watch.append(mine)
    return solve_cpsat(fixed, watch, threads=1, **options)


def priced(seed, **switches):
    """Return a case whose shares are continuous, and its model without prices."""
    case = random_case(seed, dataflow="home", **switches)
    assume(not is_whole(case.problem) and not case.problem.weight_of("parallel"))
    form = build_cpsat(case.problem).form
    lp = SharesLp(form)
    root = lp.relax()
    assert root is not None
    magnitude = root.value if np.isfinite(root.value) else None
    model = build_cpsat(case.problem, magnitude=magnitude)
    assert isinstance(model, PricedModel)
    return case, model, lp


@given(seed=SEEDS, draw=st.integers(0, 1000), size=st.floats(-3, 3))
def test_any_prices_bound_any_copies(seed, draw, size):
    """Random prices never promise more than the best shares of the witness cost."""
    case, model, _ = priced(seed)
    plan = best_shares(case.problem, case.witness.copies)
    assume(plan is not None)
    objective = score(case.problem, plan).objective * model.form.model.objective_scale
    rng = np.random.default_rng(draw)
    prices = rng.exponential(10.0**size, model.form.model.num_rows)
    prices *= rng.random(len(prices)) < 0.5
    z = model.encode(plan)
    room = 1e-8 * max(abs(objective), float(prices.sum()) * 100)
    assert model.value(model.cut(prices), z) <= objective + room
    assert model.value(model.cut(prices, objective=False), z) <= room


@given(seed=SEEDS)
def test_prices_of_the_lp_are_tight_at_its_copies(seed):
    """At the prices that the LP says for some copies, theta is their objective there.

    The error of rounding is within the documented one, and on the safe side.
    """
    case, model, lp = priced(seed)
    z = model.encode(case.witness)
    assume(len(model.copies(z)) == len(case.witness.copies))
    found = lp.fix(z)
    assert found is not None
    assume(np.isfinite(found.value))
    model.add_prices(found.prices)
    outcome = at(model, z)
    assert outcome.status == "optimal"
    bound = model.bound(outcome.bound)
    magnitude = max(abs(found.value), model.magnitude)
    assert bound <= found.value + 1e-9 * magnitude
    assert bound >= found.value - (OBJECTIVE_ROUNDING + 1e-6) * magnitude


@given(seed=SEEDS)
def test_excess_forbids_copies_without_shares(seed):
    """Copies whose shares cannot keep the limits are cut off; the witness never is."""
    case, model, lp = priced(seed, compute=True, link=True, infeasible=False)
    witness = model.encode(case.witness)
    if np.isfinite(lp.fix(witness).value):
        for c in range(len(model.z)):
            # One copy of each expert at random places, from the witness on.
            z = witness.copy()
            z[c] = 1 - z[c]
            found = lp.fix(z)
            if np.isfinite(found.value) or np.isinf(found.excess):
                continue
            if found.excess > 1e-6:
                model.forbid(found.prices)
                assert at(model, z).status == "infeasible"
        assert at(model, witness).status == "optimal"


@given(seed=SEEDS)
def test_whole_problems_are_solved_in_one_run(seed):
    """Where shares equal copies, and in roam, CP-SAT alone finds the optimum."""
    problem = build_problem(
        random_instance(seed, prune=False, fuse=False, similar=False, max_copies=True)
    )
    assume(is_whole(problem) and not problem.weight_of("parallel"))
    assume(problem.max_copies == 1)
    truth = optimum(problem)
    size = truth.objective if truth.feasible else 1.0
    form = build_cpsat(problem).form
    scale = form.model.objective_scale
    model = build_cpsat(problem, magnitude=size * scale)
    assert isinstance(model, WholeModel)
    outcome = solve_cpsat(model.model, model.z, threads=1)
    if not truth.feasible:
        assert outcome.status == "infeasible"
        return
    assert outcome.status == "optimal"
    bound = model.bound(outcome.bound) / scale
    assert bound <= truth.objective + 1e-9 * abs(truth.objective) + 1e-12
    assert bound == pytest.approx(truth.objective, rel=1e-6, abs=1e-12)
    plan = best_shares(problem, model.copies(outcome.solutions[-1]))
    assert plan is not None
    assert score(problem, plan).objective == pytest.approx(
        truth.objective, rel=1e-6, abs=1e-12
    )


@given(seed=SEEDS)
def test_rows_over_copies_are_those_of_score(seed):
    """Copies that CP-SAT accepts break no row over copies: score agrees."""
    case, model, _ = priced(seed)
    rows = {"memory", "expert", "one-per-server", "format", "copies", "coverage"}
    rows |= {"count", "uniform", "pin", "forbid"}
    model.add_prices(np.zeros(model.form.model.num_rows))
    outcome = solve_cpsat(model.model, model.z, threads=1)
    assume(len(outcome.solutions) > 0)
    for z in outcome.solutions:
        judged = score(case.problem, Plan.of(case.problem, model.copies(z)))
        assert not {one.row for one in judged.violations} & rows


@given(seed=SEEDS)
def test_exclude_takes_out_exactly_one(seed):
    """Excluded copies are infeasible; copies that differ by one are as before."""
    case, model, _ = priced(seed, infeasible=False)
    model.add_prices(np.zeros(model.form.model.num_rows))
    z = model.encode(case.witness)
    others = [np.where(np.arange(len(z)) == c, 1 - z, z) for c in range(0, len(z), 4)]
    before = [at(model, one).status for one in others]
    assert at(model, z).status == "optimal"
    model.exclude(z)
    assert at(model, z).status == "infeasible"
    assert [at(model, one).status for one in others] == before
