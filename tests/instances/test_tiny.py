"""The tiny instances: proven by enumeration, found and proved by every engine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oracle import optimum

from meldopt.bounds import trivial_bound
from meldopt.builder import build_problem
from meldopt.instance import read_instance
from meldopt.plan import read_plan
from meldopt.score import score
from meldopt.solver import Status, solve

if TYPE_CHECKING:
    from collections.abc import Callable

    from meldopt.problem import Problem

LIBRARY = Path(__file__).resolve().parents[2] / "instances"
NAMES = sorted(path.stem for path in (LIBRARY / "tiny").glob("*.json"))

NO_COPIES = np.zeros((0, 3), dtype=np.int64)

WITHOUT: dict[str, Callable[[Problem], dict[str, Any]]] = {
    "memory": lambda p: {"capacity_bytes": np.full(p.num_places, 1e18)},
    "compute": lambda p: {"busy": 1e9},
    "link": lambda p: {"link_busy": 1e9},
    "budget": lambda p: {"budget_caps": ()},
    "quality": lambda p: {"quality_budget": np.full(p.num_applications, np.inf)},
    "latency": lambda p: {"latency_target": np.full(p.num_applications, np.inf)},
    "trust": lambda p: {"trusted": np.ones_like(p.trusted)},
    "coverage": lambda p: {"failure_sets": ()},
    "count": lambda p: {"count_rows": ()},
    "uniform": lambda p: {"uniform_groups": ()},
    "pin": lambda p: {"pinned": NO_COPIES},
    "forbid": lambda p: {"forbidden": NO_COPIES},
    "copies": lambda p: {"max_copies": None},
}
"""How to take a row out of a problem."""

NEVER: dict[str, Callable[[Problem], dict[str, Any]]] = {
    "allow_missing": lambda p: {"allow_missing": False},
    "substitution": lambda p: {
        "similar": p.similar[:0],
        "similar_loss": p.similar_loss[:, :0],
    },
    "pruning": lambda p: {"prune_width": p.prune_width * 0},
    "fusion": lambda p: {"fuse_width": p.fuse_width * 0},
}
"""How to take a freedom out of a problem."""


@functools.cache
def problem_of(name: str) -> Problem:
    return build_problem(read_instance(LIBRARY / "tiny" / f"{name}.json"))


@functools.cache
def optimum_of(name: str) -> float:
    """Objective of the stored plan, as the judge says."""
    problem = problem_of(name)
    plan = read_plan(LIBRARY / "best" / "tiny" / f"{name}.plan.json", problem)
    judged = score(problem, plan)
    assert judged.feasible
    return judged.objective


def binds(name: str) -> list[str]:
    """Rows and freedoms that matter in an instance, as it says itself."""
    return list(
        read_instance(LIBRARY / "tiny" / f"{name}.json").spec.about.get("binds", [])
    )


def test_every_row_has_an_instance() -> None:
    """Each row and each freedom binds somewhere; several instances roam."""
    assert len(NAMES) >= 12
    named = {row for name in NAMES for row in binds(name)}
    assert named == set(WITHOUT) | set(NEVER)
    roaming = [n for n in NAMES if problem_of(n).dataflow == "roam"]
    assert len(roaming) >= 3
    assert all(problem_of(name).num_experts <= 12 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_stored_optimum_is_that_of_enumeration(name: str) -> None:
    """Trying every placement finds nothing better than the stored plan, nor worse."""
    assert optimum(problem_of(name)).objective == pytest.approx(
        optimum_of(name), rel=1e-9
    )


@pytest.mark.parametrize(
    ("name", "row"), [(name, row) for name in NAMES for row in binds(name)]
)
def test_named_row_binds(name: str, row: str) -> None:
    """Without the row the optimum is lower; without the freedom it is higher."""
    problem = problem_of(name)
    changes = (WITHOUT | NEVER)[row](problem)
    result = solve(problem.replace(**changes), "milp", time_limit=60.0, threads=1)
    if row in NEVER and result.status is Status.INFEASIBLE:
        return
    assert result.status is Status.OPTIMAL
    if row in WITHOUT:
        assert result.objective < optimum_of(name) * (1 - 1e-4)
    else:
        assert result.objective > optimum_of(name) * (1 + 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_trivial_bound_can_be_written(name: str) -> None:
    """The trivial bound is a plain number, as files need, and below the optimum."""
    bound = trivial_bound(problem_of(name))
    assert type(bound) is float
    assert bound <= optimum_of(name)


@pytest.mark.parametrize("engine", ["highs", "cbc", "cpsat"])
@pytest.mark.parametrize("name", NAMES)
def test_every_engine_finds_and_proves_the_optimum(name: str, engine: str) -> None:
    """HiGHS, CBC and CP-SAT reach the optimum that enumeration proved, gap <= 1e-6."""
    solver = "cpsat" if engine == "cpsat" else "milp"
    options = {} if engine == "cpsat" else {"engine": engine}
    result = solve(
        problem_of(name), solver, time_limit=60.0, threads=1, options=options
    )
    assert result.status is Status.OPTIMAL
    assert result.objective == pytest.approx(optimum_of(name), rel=1e-6)
    assert result.gap is not None
    assert result.gap <= 1e-6
