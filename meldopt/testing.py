"""The contract of solvers, as a test class for pytest.

A solver of another distribution proves that it keeps the contract like this::

    from meldopt.testing import SolverContract


    class TestMySolver(SolverContract):
        @pytest.fixture
        def solver(self):
            return MySolver()

The problems are so small that every placement with one copy of each expert can be
enumerated: `best_single_copy` does, and no bound may exceed what it finds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import pickle
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from .builder import build_problem
from .files import FORMAT_VERSION
from .instance import Instance, InstanceSpec
from .plan import Plan
from .score import score
from .solver import (
    AnyOf,
    DeterministicTime,
    MaxIterations,
    MaxRuntime,
    Progress,
    Status,
    require_supported,
)
from .tolerance import allowed

if TYPE_CHECKING:
    from .problem import Problem
    from .solver import Result, Solver, StopCriterion

TIME_LIMIT_S = 30.0
"""Far more than any solver needs for problems of this size."""


def contract_instance(kind: str) -> Instance:
    """Return one of the small instances of the contract.

    Two layers of two experts, two of them called per token at rates that differ, three
    servers in a line, two formats.

    Parameters
    ----------
    kind
        ``"loose"``, ``"tight"`` (memory holds little more than one small copy of each
        expert, and quality is limited), ``"roam"`` or ``"infeasible"`` (memory holds
        no plan).
    """
    capacity = {"loose": 40.0, "tight": 21.0, "roam": 21.0, "infeasible": 7.0}[kind]
    roam = kind == "roam"
    calls = [[0.7, 0.3, 0.2, 0.8], [0.1, 0.9, 0.6, 0.4]]
    profile: dict[str, Any] = {
        "calls": calls,
        "loss": [[[0.001, 0.02], [0.001, 0.03], [0.002, 0.01], [0.001, 0.05]]],
    }
    if roam:
        profile["pairs"] = [[0, 2], [0, 3], [1, 2], [1, 3]]
        profile["pair_weight"] = [[0.2, 0.5, 0.0, 0.3], [0.1, 0.0, 0.5, 0.4]]
        profile["entry"] = [[0.7, 0.3, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0]]
        profile["exit"] = [[0.0, 0.0, 0.2, 0.8], [0.0, 0.0, 0.6, 0.4]]
    document = {
        "format_version": FORMAT_VERSION,
        "name": f"contract-{kind}",
        "dataflow": "roam" if roam else "home",
        "model": {
            "layers": 2,
            "experts": 2,
            "top_k": 1,
            "parameters_per_expert": 8,
            "bytes_out": 2,
            "bytes_back": 2,
            "domains": ["prose", "code"],
            "profile": {},
        },
        "formats": [
            {"name": "wide", "bits_per_weight": 16, "precision": "bf16"},
            {"name": "narrow", "bits_per_weight": 8, "precision": "bf16"},
        ],
        "cluster": {
            "servers": [
                {
                    "name": name,
                    "tiers": {"gpu": {"capacity": capacity + extra, "read": read}},
                }
                for name, extra, read in (
                    ("a", 0.0, 1000.0),
                    ("b", 4.0, 400.0),
                    ("c", 1.0, 700.0),
                )
            ],
            "links": [
                {"between": ["a", "b"], "bandwidth": 100, "latency": "10 ms"},
                {"between": ["b", "c"], "bandwidth": 300, "latency": "3 ms"},
            ],
        },
        "workload": {
            "applications": [
                {"name": "chat", "domain": "prose", "quality_budget": 0.04},
                {"name": "code", "domain": "code", "quality_budget": 0.03},
            ],
            "demands": [
                {"application": "chat", "home": "a", "rate": 3.0},
                {"application": "code", "home": "c", "rate": 2.0},
            ],
        },
        "limits": {"copies": 1} if roam else {},
        "objective": {"serial": 1.0},
    }
    if kind == "infeasible":
        for server in document["cluster"]["servers"]:  # type: ignore[index]
            server["tiers"]["gpu"]["capacity"] = 7.0
    arrays = {name: np.array(value) for name, value in profile.items()}
    return Instance(spec=msgspec.convert(document, InstanceSpec), arrays=arrays)


def single_copy_plans(problem: Problem) -> list[Plan]:
    """Return every plan with one copy of each expert and shares by the default rule."""
    places = [
        (v, b)
        for v in range(problem.num_places)
        for b in range(problem.num_formats)
        if problem.allowed[v, b]
    ]
    return [
        Plan.of(
            problem,
            np.array(
                [(i, *place) for i, place in enumerate(chosen)], dtype=np.int64
            ).reshape(-1, 3),
        )
        for chosen in itertools.product(places, repeat=problem.num_experts)
    ]


_best: dict[str, Plan | None] = {}  # by digest of the instance; a second to find


def best_single_copy(problem: Problem) -> Plan | None:
    """Return the best feasible plan among `single_copy_plans`; none if none is."""
    if problem.instance_digest not in _best:
        _best[problem.instance_digest] = _enumerate(problem)
    return _best[problem.instance_digest]


def _enumerate(problem: Problem) -> Plan | None:
    best: tuple[float, Plan | None] = (math.inf, None)
    for plan in single_copy_plans(problem):
        judged = score(problem, plan)
        if judged.feasible and judged.objective < best[0]:
            best = judged.objective, plan
    return best[1]


def fingerprint(problem: Problem) -> str:
    """Return a digest over every field of a problem, to see whether it was changed."""
    state = hashlib.sha256()
    for field in dataclasses.fields(problem):
        value = getattr(problem, field.name)
        state.update(field.name.encode())
        if isinstance(value, np.ndarray):
            state.update(str(value.shape).encode() + value.tobytes())
        else:
            state.update(repr(value).encode())
    return state.hexdigest()


def same_plan(one: Plan | None, other: Plan | None) -> bool:
    """Say whether two plans have the same copies and shares, bit by bit."""
    if one is None or other is None:
        return one is other
    return np.array_equal(one.copies, other.copies) and all(
        np.array_equal(array, other.arrays()[name])
        for name, array in one.arrays().items()
    )


class SolverContract:
    """What every solver must keep; subclass it with a fixture ``solver``."""

    KINDS = ("loose", "tight", "roam", "infeasible")

    @pytest.fixture
    def solver(self) -> Solver:
        """Return the solver under test."""
        raise NotImplementedError("override the fixture 'solver' in the subclass")

    @pytest.fixture
    def stop(self, solver: Solver) -> StopCriterion:
        """Return a repeatable criterion that the solver knows, with a safety net."""
        known = solver.info.stops
        if known is None:  # it asks the check itself, after each iteration
            return AnyOf(MaxIterations(200), MaxRuntime(TIME_LIMIT_S))
        for one in (DeterministicTime(5.0), MaxIterations(200)):
            if isinstance(one, known):
                return AnyOf(one, MaxRuntime(TIME_LIMIT_S))
        return MaxRuntime(TIME_LIMIT_S)

    @pytest.fixture(params=KINDS)
    def problem(self, request: pytest.FixtureRequest, solver: Solver) -> Problem:
        """Return a problem whose dataflow the solver knows."""
        problem = build_problem(contract_instance(request.param))
        if problem.dataflow not in solver.info.capabilities:
            pytest.skip(f"{solver.info.name} does not know {problem.dataflow}")
        return problem

    @pytest.fixture
    def result(self, solver: Solver, problem: Problem, stop: StopCriterion) -> Result:
        """Return the result of one solve."""
        return solver.solve(problem, stop=stop, seed=0)

    def test_status_is_honest(self, problem: Problem, result: Result) -> None:
        """The status says what the judge says of the plan, and no more."""
        if result.plan is None:
            assert result.status in (Status.INFEASIBLE, Status.UNKNOWN)
            assert result.objective == math.inf
        else:
            judged = score(problem, result.plan)
            assert judged.feasible == result.feasible
            assert result.feasible or result.status in (
                Status.VIOLATING,
                Status.INFEASIBLE,
            )
        if result.status is Status.INFEASIBLE:
            assert best_single_copy(problem) is None
        if result.status is Status.OPTIMAL:
            assert result.bound is not None

    def test_objective_is_the_score(self, problem: Problem, result: Result) -> None:
        """The objective is the one that the judge computes, not the solver's own."""
        if result.plan is not None:
            judged = score(problem, result.plan)
            assert result.objective == pytest.approx(judged.objective, rel=1e-12)
            assert result.plan.record["objective"] == result.objective
        assert result.instance_digest == problem.instance_digest

    def test_bound_holds(self, problem: Problem, result: Result) -> None:
        """The bound exceeds neither the own objective nor that of any known plan."""
        if result.bound is None:
            assert result.gap is None
            return
        known = best_single_copy(problem)
        objectives = [] if known is None else [score(problem, known).objective]
        objectives += [result.objective] if result.feasible else []
        for objective in objectives:
            assert result.bound <= objective + allowed(objective)

    def test_same_seed_same_result(
        self, solver: Solver, problem: Problem, stop: StopCriterion, result: Result
    ) -> None:
        """A second run gives the same plan, and a criterion may serve two runs."""
        if not solver.info.deterministic:
            pytest.skip(f"{solver.info.name} does not promise it")
        again = solver.solve(problem, stop=stop, seed=0)
        assert same_plan(again.plan, result.plan)
        assert (again.status, again.objective, again.bound) == (
            result.status,
            result.objective,
            result.bound,
        )

    def test_spent_criterion(self, solver: Solver, problem: Problem) -> None:
        """A criterion that stops at once gives an honest result, twice."""
        stop = MaxRuntime(0.0)
        if solver.info.stops is not None:
            require_supported(stop, solver.info.stops, solver=solver.info.name)
        for _ in range(2):
            result = solver.solve(problem, stop=stop, seed=0)
            self.test_status_is_honest(problem, result)

    def test_warm_start_is_never_worse(
        self, solver: Solver, problem: Problem, stop: StopCriterion
    ) -> None:
        """From a feasible plan the solver returns one that is at least as good."""
        if "start" not in solver.info.capabilities:
            pytest.skip(f"{solver.info.name} does not take a start")
        plan = best_single_copy(problem)
        if plan is None:
            pytest.skip("the problem has no plan to start from")
        before = score(problem, plan).objective
        for criterion in (stop, MaxRuntime(0.0)):
            result = solver.solve(problem, stop=criterion, seed=0, start=plan)
            assert result.feasible
            assert result.objective <= before + allowed(before)

    def test_problem_is_unchanged(
        self, solver: Solver, problem: Problem, stop: StopCriterion
    ) -> None:
        """Solving leaves the problem as it was, bit by bit."""
        before = fingerprint(problem)
        solver.solve(problem, stop=stop, seed=0)
        assert fingerprint(problem) == before

    def test_pickles(self, solver: Solver, problem: Problem, result: Result) -> None:
        """Solver and result survive pickling: runs can be sent to other processes."""
        assert pickle.loads(pickle.dumps(solver)).info.name == solver.info.name
        again = pickle.loads(pickle.dumps(result))
        assert same_plan(again.plan, result.plan)
        assert again.status is result.status

    def test_progress(
        self, solver: Solver, problem: Problem, stop: StopCriterion
    ) -> None:
        """Reports only ever get better, and none promises more than the result."""
        seen: list[Progress] = []
        result = solver.solve(problem, stop=stop, seed=0, on_progress=seen.append)
        objectives = [one.objective for one in seen]
        bounds = [one.bound for one in seen if one.bound is not None]
        assert objectives == sorted(objectives, reverse=True)
        assert bounds == sorted(bounds)
        if result.feasible and bounds:
            assert bounds[-1] <= result.objective + allowed(result.objective)
        if objectives and math.isfinite(objectives[-1]):
            best = min(objectives)
            assert result.objective <= best + 10 * allowed(best)
