"""The interface of solvers: the contract, `solve`, and what reaches a solver."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import meldopt
from meldopt.builder import build_problem
from meldopt.errors import (
    PlanError,
    SolverError,
    SolverUnavailableError,
    UnsupportedFeatureError,
)
from meldopt.instance import write_instance
from meldopt.plan import Plan, write_plan
from meldopt.score import score
from meldopt.solver import (
    AnyOf,
    DeterministicTime,
    MaxIterations,
    MaxRuntime,
    NoImprovement,
    Progress,
    ProgressLog,
    SolverInfo,
    Status,
    StopReason,
    TargetGap,
    finish,
    needed,
    params_of,
    solve,
    stop_criterion,
    unsupported,
)
from meldopt.testing import (
    SolverContract,
    best_single_copy,
    contract_instance,
    same_plan,
    single_copy_plans,
)

if TYPE_CHECKING:
    from meldopt.problem import Problem
    from meldopt.result import Result
    from meldopt.solver import Solver

sys.path.append(str(Path(__file__).parent / "toy_plugin"))
toy: Any = importlib.import_module("toy_plugin")


@pytest.fixture
def problem() -> Problem:
    """Return a small problem whose rows bind."""
    return build_problem(contract_instance("tight"))


class TestToyKeepsTheContract(SolverContract):
    """The contract can be kept."""

    @pytest.fixture
    def solver(self) -> Solver:
        solver: Solver = toy.ToySolver()
        return solver


class TestEmptyKeepsTheContract(SolverContract):
    """A solver that finds nothing and says so keeps the contract, too."""

    @pytest.fixture
    def solver(self) -> Solver:
        solver: Solver = toy.HonestlyEmpty()
        return solver


class Forgetful(toy.ToySolver):  # type: ignore[misc]
    """Takes a start and ignores it, forgets its seed, and scribbles on the problem."""

    runs = 0

    def solve(self, problem: Problem, /, **settings: Any) -> Result:
        Forgetful.runs += 1
        settings |= {"start": None, "seed": Forgetful.runs}
        settings["stop"] = MaxIterations(1)
        problem.rate.flags.writeable = True
        problem.rate[0] += 1e-9
        problem.rate.flags.writeable = False
        result: Result = super().solve(problem, **settings)
        return result


@pytest.mark.parametrize(
    "broken",
    [
        "test_same_seed_same_result",
        "test_warm_start_is_never_worse",
        "test_problem_is_unchanged",
    ],
)
def test_the_contract_catches_who_breaks_it(broken: str, problem: Problem) -> None:
    """Each promise that a solver breaks fails the test of that promise."""
    contract, solver, stop = SolverContract(), Forgetful(), MaxIterations(50)
    arguments: dict[str, Any] = {"solver": solver, "problem": problem, "stop": stop}
    if broken == "test_same_seed_same_result":
        arguments["result"] = solver.solve(problem, stop=stop, seed=0)
    with pytest.raises(AssertionError):
        getattr(contract, broken)(**arguments)


# -- solve -----------------------------------------------------------------------------


def test_solve_takes_instance_problem_and_path(tmp_path: Path) -> None:
    """An instance, its problem and its file give the same plan."""
    instance = contract_instance("tight")
    write_instance(instance, tmp_path / "x.json")
    results = [
        solve(given, toy.ToySolver(), seed=3)
        for given in (instance, build_problem(instance), tmp_path / "x.json")
    ]
    assert all(result.feasible for result in results)
    assert all(same_plan(results[0].plan, result.plan) for result in results)


def test_solve_starts_from_a_plan_or_its_file(problem: Problem, tmp_path: Path) -> None:
    """A start given as a plan or as a file reaches the solver."""
    best = best_single_copy(problem)
    assert best is not None
    write_plan(best, tmp_path / "p.plan.json", problem=problem)
    for start in (best, tmp_path / "p.plan.json"):
        result = solve(problem, toy.ToySolver(), work=1, start=start)
        assert result.objective == score(problem, best).objective
        assert result.stop_reason is StopReason.CRITERION


def test_a_start_for_another_instance_is_refused(problem: Problem) -> None:
    """A plan of another instance is an error before the solver sees it."""
    other = build_problem(contract_instance("loose"))
    with pytest.raises(PlanError, match="contract-loose"):
        solve(problem, toy.ToySolver(), start=single_copy_plans(other)[0])


def test_limits_become_criteria() -> None:
    """The default is 60 s; a deterministic budget stands alone unless time is given."""
    assert stop_criterion() == AnyOf(MaxRuntime(60.0))
    assert stop_criterion(work=5) == AnyOf(DeterministicTime(5))
    assert stop_criterion(time_limit=math.inf, gap=0.1) == AnyOf(TargetGap(0.1))
    assert stop_criterion(time_limit=2.0, work=5) == AnyOf(
        MaxRuntime(2.0), DeterministicTime(5)
    )
    with pytest.raises(ValueError, match="MaxRuntime"):
        stop_criterion(time_limit=math.nan)


def test_an_unknown_dataflow_is_refused() -> None:
    """A solver is not asked for a dataflow that it does not know."""
    problem = build_problem(contract_instance("roam"))
    with pytest.raises(UnsupportedFeatureError, match="'roam', expected home"):
        solve(problem, toy.HonestlyEmpty())


class Engine(toy.HonestlyEmpty):  # type: ignore[misc]
    """Translates time and nothing else."""

    info = SolverInfo(
        name="engine",
        kind="exact",
        capabilities=frozenset({"home", "bound"}),
        stops=(MaxRuntime,),
    )


def test_an_untranslatable_criterion_is_refused(problem: Problem) -> None:
    """A limit that an engine cannot honour is an error, never ignored."""
    with pytest.raises(UnsupportedFeatureError, match="DeterministicTime"):
        solve(problem, Engine(), work=3)
    assert solve(problem, Engine(), time_limit=1).status is Status.UNKNOWN


class Interrupted(toy.ToySolver):  # type: ignore[misc]
    """Is hit by Ctrl-C where it does not catch it."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.params = None

    def solve(self, problem: Problem, /, **settings: Any) -> Result:
        best = best_single_copy(problem)
        assert best is not None
        objective = score(problem, best).objective
        for n in range(self.after):
            settings["on_progress"](Progress(n, 0.0, objective, 0.01, best))
        raise KeyboardInterrupt


def test_an_interrupt_keeps_the_last_incumbent(problem: Problem) -> None:
    """Ctrl-C in an unlucky moment costs no plan that was reported before."""
    result = solve(problem, Interrupted(2))
    assert result.stop_reason is StopReason.INTERRUPTED
    assert result.feasible
    assert result.bound is not None
    assert result.bound >= 0.01
    assert len(result.history) == 2


def test_an_interrupt_before_any_plan(problem: Problem) -> None:
    """Without an incumbent the start is kept; without a start nothing is claimed."""
    result = solve(problem, Interrupted(0))
    assert (result.status, result.plan) == (Status.UNKNOWN, None)
    best = best_single_copy(problem)
    assert solve(problem, Interrupted(0), start=best).feasible


class Liar(toy.HonestlyEmpty):  # type: ignore[misc]
    """Builds a result by hand."""

    def __init__(self, **lies: Any) -> None:
        self.lies = lies

    def solve(self, problem: Problem, /, **settings: Any) -> Result:
        from dataclasses import replace

        honest = finish(
            problem,
            self.info,
            plan=self.lies.pop("plan"),
            bound=None,
            stop_reason=StopReason.FINISHED,
            seed=0,
            started=perf_counter(),
        )
        return replace(honest, **self.lies)


def test_a_solver_cannot_claim_what_score_denies(problem: Problem) -> None:
    """Results that were not made by `finish` are checked against the judge."""
    plans = single_copy_plans(problem)
    good = best_single_copy(problem)
    bad = next(plan for plan in plans if not score(problem, plan).feasible)
    for lies, message in (
        ({"plan": good, "objective": 0.01}, "claims objective"),
        ({"plan": bad, "status": Status.FEASIBLE}, "claims a feasible plan"),
        ({"plan": good, "bound": 1e3}, "above the objective"),
        ({"plan": good, "status": Status.OPTIMAL}, "claims an optimum"),
        ({"plan": None, "objective": 1.0}, "returned no plan"),
    ):
        with pytest.raises(SolverError, match=message):
            solve(problem, Liar(**lies))


# -- parameters ------------------------------------------------------------------------


def test_options_are_typed() -> None:
    """Text from the command line becomes what the parameter is."""
    info = toy.ToySolver.info
    params = params_of(info, {"wait": "true", "threads": "2", "scale": "0.5"})
    assert params == toy.ToyParams(wait=True, threads=2, scale=0.5)
    assert params_of(info, {}) == toy.ToyParams()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 1}, "'toy'.*'speed'.*wait, fail, threads, scale"),
        ({"threads": "many"}, "'threads'"),
        ({"wait": 3}, "'wait'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """An unknown option lists the known ones, a wrong value names its option."""
    with pytest.raises(UnsupportedFeatureError, match=message):
        params_of(toy.ToySolver.info, options)


def test_a_solver_without_parameters_takes_no_options(problem: Problem) -> None:
    """Options for a solver that has none, or for a solver object, are errors."""
    with pytest.raises(UnsupportedFeatureError, match="no options"):
        params_of(toy.HonestlyEmpty.info, {"x": 1})
    with pytest.raises(UnsupportedFeatureError, match="solver object"):
        solve(problem, toy.ToySolver(), options={"scale": 2})


def test_parameters_are_recorded(problem: Problem) -> None:
    """Result and plan say with which parameters they were made."""
    result = solve(problem, toy.ToySolver(toy.ToyParams(scale=3.0)))
    assert result.params["scale"] == 3.0
    assert result.plan is not None
    assert result.plan.record["options"] == result.params


def test_a_missing_engine_is_an_error_of_ours(problem: Problem) -> None:
    """A solver whose engine is not installed raises what the command line knows."""

    @dataclass(frozen=True)
    class Missing(toy.HonestlyEmpty):  # type: ignore[misc]
        def solve(self, problem: Problem, /, **settings: Any) -> Result:
            raise SolverUnavailableError("solver 'empty' needs 'engine'")

    with pytest.raises(SolverUnavailableError, match="engine"):
        solve(problem, Missing())


# -- what a solver says of itself ------------------------------------------------------


def test_unknown_capabilities_are_refused() -> None:
    """A capability that nobody knows is a typing error of who wrote the solver."""
    with pytest.raises(ValueError, match="'copys'"):
        SolverInfo(name="x", kind="search", capabilities=frozenset({"copys"}))


def test_what_is_not_used_is_listed(problem: Problem) -> None:
    """Decisions and terms that a solver does not know end in `ignored`."""
    assert needed(problem) == ("home", "copies", "formats")
    assert unsupported(problem, toy.ToySolver.info) == ("copies",)
    weights = problem.weights.copy()
    weights[list(meldopt.problem.TERMS).index("energy")] = 0.5
    greener = problem.replace(weights=weights, max_copies=1)
    assert unsupported(greener, toy.ToySolver.info) == ("term energy",)
    assert solve(greener, toy.ToySolver()).ignored == ("term energy",)


def test_progress_is_thinned() -> None:
    """Every improvement is reported; what repeats within a second is not."""
    seen: list[Progress] = []
    log = ProgressLog(seen.append, perf_counter())
    log.report(0, math.inf)
    for n in range(1, 50):
        log.report(n, 5.0, 1.0)
    log.report(50, 4.0, 1.0)
    log.report(51, 4.0, 2.0)
    assert [(one.objective, one.bound) for one in seen if one.iteration] == [
        (5.0, 1.0),
        (4.0, 1.0),
        (4.0, 2.0),
    ]
    assert [entry[1:] for entry in log.history] == [(5.0, 1.0), (4.0, 1.0), (4.0, 2.0)]
    assert ProgressLog(None, perf_counter()).report(0, 1.0) is None


# -- the package -----------------------------------------------------------------------


def test_public_names_are_there() -> None:
    """Every name that the package promises exists, and is what its module says."""
    import meldopt.score  # the import must not hide the function of that name

    for name in meldopt._HOME:
        assert name in dir(meldopt)
        value = getattr(meldopt, name)
        module = sys.modules[f"meldopt.{meldopt._HOME[name]}"]
        assert value is getattr(module, name)
    assert callable(meldopt.score)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = meldopt.nothing


def test_a_plan_survives_the_round_trip(problem: Problem, tmp_path: Path) -> None:
    """What `solve` returns can be written without the problem and read again."""
    result = solve(problem, toy.ToySolver())
    assert isinstance(result.plan, Plan)
    write_plan(result.plan, tmp_path / "p.json")
    again = meldopt.read_plan(tmp_path / "p.json", problem)
    assert np.array_equal(again.copies, result.plan.copies)
    assert dict(again.record) == dict(result.plan.record)


def test_a_spent_budget_gives_the_same_plan(problem: Problem) -> None:
    """The same seed and deterministic budget give the same record, byte for byte."""
    one, other = (solve(problem, toy.ToySolver(), work=100, seed=5) for _ in range(2))
    assert one.plan is not None
    assert other.plan is not None
    assert one.plan.record == other.plan.record
    assert NoImprovement(3) == NoImprovement(3)


def test_what_is_no_result_is_named():
    """A solver that returns something else is told what it should have returned."""

    class Forgetful:
        info = SolverInfo(name="forgetful", kind="search", capabilities={"home"})

        def solve(self, problem, /, **_):
            return None

    with pytest.raises(
        SolverError, match=r"forgetful.*got NoneType, expected a Result"
    ):
        solve(build_problem(contract_instance("loose")), Forgetful())
