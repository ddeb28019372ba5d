"""No published method has a better plan than the joint one, nor one below a bound."""

from __future__ import annotations

import math
from functools import cache

import pytest
from random_problems import random_case

from meldopt import build_problem, read_instance
from meldopt.errors import UnsupportedFeatureError
from meldopt.library import instance_names, read_index
from meldopt.solver import Status, solve, solver_infos
from meldopt.tolerance import allowed

BASELINES = tuple(
    name for name, info in solver_infos().items() if info.kind == "baseline"
)
TINY = tuple(name for name in instance_names() if name.startswith("tiny/"))
DRAWN = tuple(f"drawn {seed}" for seed in range(2))
LARGER = "tinymoe/edge-4"
QUICK = ("eplb", "hetroute", "prism", "round_robin")
"""Some whose repair is quick on the recorded model."""


@cache
def problem_of(name):
    """Return the problem of a bundled instance, or of a drawn one."""
    kind, _, seed = name.partition(" ")
    if kind == "drawn":
        return random_case(int(seed), dataflow="home", terms=("serial",)).problem
    return build_problem(read_instance(name))


def feasible_objectives(name, solvers):
    """Return the objectives of mended plans that keep every row, by solver.

    A plan that keeps every row by itself is not changed by the repair.
    """
    found = {}
    for solver in solvers:
        try:
            result = solve(
                problem_of(name), solver, work=1.0, seed=0, options={"repair": True}
            )
        except UnsupportedFeatureError:
            continue  # a method of one dataflow, asked for the other
        if result.feasible:
            found[solver] = result.objective
    return found


@pytest.mark.parametrize("name", [*TINY, *DRAWN])
def test_no_baseline_beats_the_joint_plan(name):
    """On small instances, against the plan and the bound of `milp`."""
    joint = solve(problem_of(name), "milp", time_limit=math.inf, seed=0)
    assert joint.status is Status.OPTIMAL
    found = feasible_objectives(name, BASELINES)
    assert len(found) > len(BASELINES) / 2  # else there is nothing to beat
    for solver, objective in found.items():
        assert objective >= joint.objective - allowed(joint.objective), solver
        assert objective >= joint.bound - allowed(joint.bound), solver


def test_no_baseline_beats_what_the_library_knows():
    """On the recorded model: worse than the best plan known, and above its bound."""
    best = read_index()[LARGER].best
    found = feasible_objectives(LARGER, QUICK)
    assert found
    assert min(found.values()) > best.objective > best.bound
