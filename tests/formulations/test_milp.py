"""The MILP of the whole problem: exact, however it is written down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import optimum
from random_problems import random_instance

from meldopt.bounds import trivial_bound
from meldopt.builder import build_problem
from meldopt.engines.highs import solve_highs
from meldopt.errors import FileFormatError, UnsupportedFeatureError
from meldopt.formulations.linear import LinearBuilder
from meldopt.formulations.milp import TIGHTENINGS, build_milp
from meldopt.formulations.shares import best_shares
from meldopt.instance import parse_instance
from meldopt.score import score

CLOSE = 1e-6


def solved(problem, **options):
    """Solve a problem to the end; returns the formulation and the outcome."""
    form = build_milp(problem, **options)
    return form, solve_highs(form.model, threads=1)


@given(seed=st.integers(0, 100_000), by_layer=st.booleans())
def test_optimum_is_that_of_the_oracle(seed, by_layer):
    """Any row on or off: same feasibility and optimum as by exhaustive search."""
    problem = build_problem(random_instance(seed))
    if problem.weight_of("parallel") or (
        problem.dataflow == "roam" and problem.max_copies != 1
    ):
        return
    truth = optimum(problem)
    form, outcome = solved(problem, by_layer=by_layer)
    assert (outcome.status == "optimal") == truth.feasible
    if not truth.feasible:
        assert outcome.status == "infeasible"
        return
    near = pytest.approx(truth.objective, rel=CLOSE, abs=1e-12)
    assert form.model.true_objective(outcome.objective) == near
    plan = best_shares(problem, form.copies(outcome.x)) or form.decode(outcome.x)
    judged = score(problem, plan)
    assert judged.feasible
    assert judged.objective == near
    bound = form.model.true_objective(outcome.bound)
    for low, room in ((trivial_bound(problem), 1e-9), (bound, CLOSE)):
        assert low <= truth.objective + room * abs(truth.objective) + 1e-12


SWITCHES = {
    "disaggregated": {"dataflow": "home"},
    "coverage": {"dataflow": "home", "coverage": True, "memory": True},
    "pruned": {"dataflow": "home", "prune": True, "memory": True},
    "products": {"dataflow": "roam"},
}
"""What problems each tightening is about."""


def relaxations(seed, name):
    """Return the relaxed and the true optimum, with a tightening and without it."""
    problem = build_problem(random_instance(seed, **SWITCHES[name]))
    if problem.dataflow == "roam":
        problem = problem.replace(max_copies=1)
    found = []
    for tighten in (frozenset(TIGHTENINGS), frozenset(TIGHTENINGS) - {name}):
        model = build_milp(problem, tighten=tighten).model
        for relax in (True, False):
            value = solve_highs(model, relax=relax, threads=1).objective
            found.append(None if value is None else model.true_objective(value))
    return found


@given(seed=st.integers(0, 100_000), name=st.sampled_from(sorted(TIGHTENINGS)))
def test_tightenings_cut_no_plan_off(seed, name):
    """Leaving a tightening out loosens the relaxation at most, never the optimum."""
    tight, optimum_, loose, without = relaxations(seed, name)
    assert (optimum_ is None) == (without is None)
    if optimum_ is not None:
        assert without == pytest.approx(optimum_, rel=1e-6, abs=1e-12)
        room = 1e-6 * abs(optimum_) + 1e-12
        assert loose <= tight + room
        assert tight <= optimum_ + room


def test_two_copies_show_what_halves_hide():
    """Two experts on three servers of one copy each: halves cover, copies cannot.

    A copy outside each single server is half a copy on each of three (1.5 in all, 3
    for both experts, just what fits); two whole copies of each are 4.
    """
    tier = {"gpu": {"capacity": "100 B", "read": "1 GB/s"}}
    document = {
        "format_version": 1,
        "name": "halves",
        "model": {"layers": 1, "experts": 2, "top_k": 1, "parameters_per_expert": 100},
        "formats": [{"name": "w8", "bits_per_weight": 8}],
        "cluster": {
            "servers": [{"name": f"s{n}", "tiers": tier} for n in range(3)],
            "links": [
                {"between": ["s0", "s1"], "bandwidth": "1 GB/s"},
                {"between": ["s1", "s2"], "bandwidth": "1 GB/s"},
            ],
        },
        "workload": {
            "applications": [{"name": "chat"}],
            "demands": [{"application": "chat", "home": "s0", "rate": 1.0}],
        },
        "limits": {"coverage": "any-server"},
    }
    data = json.dumps(document).encode()
    problem = build_problem(parse_instance(data, "halves", Path()))
    loose = frozenset(TIGHTENINGS) - {"coverage"}
    for tighten, status in ((frozenset(TIGHTENINGS), "infeasible"), (loose, "optimal")):
        model = build_milp(problem, tighten=tighten).model
        assert solve_highs(model, relax=True).status == status
        assert solve_highs(model).status == "infeasible"


@pytest.mark.parametrize("name", ["disaggregated", "pruned", "products"])
def test_tightenings_tighten(name):
    """Each tightening moves the relaxation of some small problem: none is idle."""
    for seed in range(200):
        tight, _, loose, _ = relaxations(seed, name)
        if None not in (tight, loose) and loose < tight - 1e-4 * abs(tight):
            return
    pytest.fail(f"{name} never tightened anything")


def test_several_copies_in_roam_are_refused():
    """The roam model places one copy each and says so instead of guessing."""
    problem = build_problem(random_instance(3, dataflow="roam")).replace(max_copies=2)
    with pytest.raises(UnsupportedFeatureError, match=r"limits\.copies: got 2"):
        build_milp(problem)


@pytest.mark.parametrize("suffix", [".mps", ".lp"])
def test_written_model_has_the_same_optimum(tmp_path, suffix):
    """A written model, read back by HiGHS, gives the optimum of the arrays."""
    import highspy

    problem = build_problem(
        random_instance(11, dataflow="home", terms=("serial", "quality"))
    )
    form, outcome = solved(problem)
    assert outcome.status == "optimal"
    path = tmp_path / f"model{suffix}"
    form.model.write(path)
    reader = highspy.Highs.__mro__[1]()
    reader.setOptionValue("output_flag", False)
    reader.readModel(str(path))
    reader.setOptionValue("mip_rel_gap", 0.0)
    reader.run()
    found = reader.getInfo().objective_function_value
    assert found == pytest.approx(outcome.objective, rel=1e-5, abs=1e-7)


def test_other_endings_are_refused(tmp_path):
    """Only .mps and .lp are written, and nothing is left behind."""
    form = build_milp(build_problem(random_instance(11, dataflow="home")))
    with pytest.raises(FileFormatError, match=r"got '\.txt', expected"):
        form.model.write(tmp_path / "model.txt")
    assert list(tmp_path.iterdir()) == []


def test_encode_reads_copies_back():
    """Encoding a decoded plan sets exactly the columns of its copies."""
    problem = build_problem(
        random_instance(21, dataflow="home", terms=("serial", "quality"))
    )
    form, outcome = solved(problem)
    plan = form.decode(outcome.x)
    values = form.encode(plan)[form.z.range]
    assert np.array_equal(form.candidates[values > 0.5], plan.copies)


class TestLinearBuilder:
    """The arrays themselves."""

    def test_scaled_rows_have_a_limit_of_a_hundred(self):
        """Scaling divides a row by a hundredth of its limit, or largest value."""
        builder = LinearBuilder()
        x = builder.add_columns("x", [np.arange(2)], upper=1.0)
        rows = np.array([0, 0, 1])
        values = np.array([2e9, 4e9, 5.0])
        columns = x.start + np.array([0, 1, 0])
        builder.add_rows(
            "limit",
            [np.arange(2)],
            [(rows, columns, values)],
            upper=np.array([8e9, 0.0]),
            scale=True,
        )
        model = builder.build()
        assert model.matrix.toarray().tolist() == [[25.0, 50.0], [100.0, 0.0]]
        assert model.row_upper.tolist() == [100.0, 0.0]

    def test_objective_scale_is_undone(self):
        """A mean cost of one inside is the true cost outside."""
        builder = LinearBuilder()
        builder.add_columns("x", [np.arange(2)], lower=1.0, cost=np.array([2e-6, 4e-6]))
        model = builder.build()
        assert model.objective.tolist() == pytest.approx([2 / 3, 4 / 3])
        outcome = solve_highs(model)
        assert model.true_objective(outcome.objective) == pytest.approx(6e-6)
