"""What a method says that it does not look at does not change what it decides."""

from __future__ import annotations

import dataclasses
import functools
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from random_problems import random_case

from meldopt.registry import load_solver
from meldopt.solver import solver_infos, stop_criterion
from meldopt_solvers.baselines.method import Budget
from meldopt_solvers.baselines.view import View
from meldopt_solvers.search.incumbent import Incumbent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meldopt.problem import Problem
    from meldopt_solvers.baselines.complete import Decision

BASELINES = sorted(
    name for name, info in solver_infos().items() if info.kind == "baseline"
)

BY_THE_COMMON_RULE = {"grace", "hypergraph", "occult"}
"""Methods for devices that are alike: which group goes to which server is left to the
common rule of placement, which looks at everything. What they decide is the groups."""

SEEDS = (1, 10, 19, 33, 46, 49)


@functools.cache
def busy_problem(seed: int, dataflow: str) -> Problem:
    """Return a random problem with many facts and rows."""
    return random_case(
        seed, dataflow=dataflow, placements=3000, integers=False, count=True,
        trust=True, quality=True, budgets=True, sizes=True, two_tiers=True,
        zero_rate=False,
    ).problem  # fmt: skip


def decisions(problem: Problem, solver: Any) -> list[Decision | None]:
    """Return what a method decides in all its attempts."""
    started = perf_counter()
    stop = stop_criterion(time_limit=None, work=5.0, gap=None)
    best = Incumbent(problem, stop=stop, started=started, on_progress=None)
    check = Budget(best, stop, started)
    return [
        solver.decide(problem, View(problem, b), np.random.default_rng(0), check)
        for b in solver.attempts(problem)
    ]


def named(problem: Problem, name: str, decision: Decision | None) -> list[Any]:
    """Return the parts of a decision; servers as groups where those are decided."""
    if decision is None:
        return []
    parts = [getattr(decision, one.name) for one in dataclasses.fields(decision)]
    if name in BY_THE_COMMON_RULE:
        assert decision.expert is None or name == "grace"
        groups: dict[tuple[int, int], set[int]] = {}
        servers = decision.server
        assert servers is not None
        experts = (
            np.arange(len(servers)) if decision.expert is None else decision.expert
        )
        for e, s in zip(experts.tolist(), servers.tolist(), strict=True):
            groups.setdefault((int(problem.layer_of[e]), s), set()).add(e)
        return [sorted((layer, sorted(group)) for (layer, _), group in groups.items())]
    return parts


def same(one: list[Any], other: list[Any]) -> bool:
    """Say whether two decisions are the same, sums of floats aside."""
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if isinstance(a, list) or a is None or b is None:
            if a is not b and a != b:
                return False
        elif a.shape != b.shape or not np.allclose(a, b, rtol=1e-9, atol=1e-12):
            return False
    return True


def changes(problem: Problem) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield facts and rows, each with fields in which only it is another."""
    rng = np.random.default_rng(0)

    def scaled(values: Any) -> Any:
        factor = rng.uniform(0.1, 10.0, values.shape)
        return np.where(np.isfinite(values), values, 0.0) * factor + np.where(
            np.isfinite(values), 0.0, values
        )

    calls = problem.calls.copy()
    for begin, end in zip(
        problem.layer_start[:-1], problem.layer_start[1:], strict=True
    ):
        calls[:, begin:end] = calls[:, begin:end][:, ::-1]
    home = problem.home_of[:, None]
    moved = (problem.home_of + 1) % problem.num_servers
    free = np.full(problem.num_applications, np.inf)
    yield (
        "network",
        {
            name: scaled(getattr(problem, name))
            for name in (
                "route_latency",
                "route_s_per_byte",
                "distance",
                "link_bandwidth",
            )
        },
    )
    yield "work", {"s_per_byte": scaled(problem.s_per_byte)}
    yield "losses", {"format_loss": scaled(problem.format_loss)}
    yield "calls", {"calls": calls}
    yield (
        "homes",
        {
            "home_of": moved,
            "source": np.where(problem.source == home, moved[:, None], problem.source),
            "sink": np.where(problem.sink == home, moved[:, None], problem.sink),
        },
    )
    yield "memory", {"capacity_bytes": scaled(problem.capacity_bytes)}
    yield "compute", {"busy": 1e-3}
    yield "link", {"link_busy": 1e-3}
    yield "budgets", {"budget_caps": ()}
    yield "quality", {"quality_budget": free}
    yield "latency", {"latency_target": free}
    yield "trust", {"trusted": np.ones_like(problem.trusted)}
    yield "coverage", {"failure_sets": ()}
    yield "count", {"count_rows": ()}
    yield "uniform", {"uniform_groups": ()}
    yield "pin", {"pinned": problem.pinned[:0]}
    yield "forbid", {"forbidden": problem.forbidden[:0]}


@pytest.mark.parametrize("name", BASELINES)
def test_what_is_ignored_changes_nothing(name: str) -> None:
    """Each fact and row that is not listed as seen is changed, one at a time."""
    solver: Any = load_solver(name)()
    info = solver.info
    for seed in SEEDS:
        dataflow = "roam" if seed % 2 and "roam" in info.capabilities else "home"
        problem = busy_problem(seed, dataflow)
        before = [named(problem, name, one) for one in decisions(problem, solver)]
        for what, fields in changes(problem):
            if what in info.sees:
                continue
            after = decisions(problem.replace(**fields), solver)
            for one, other in zip(before, after, strict=True):
                assert same(one, named(problem, name, other)), (seed, what)
