"""The interface of solvers, and `solve`, the way to call them.

A solver is one class with ``info`` and ``solve``; its constructor takes a frozen
dataclass of parameters and stores it, ``solve`` does the work and keeps no state.
Everything that a solver needs from the core is importable from here.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec

from .errors import PlanError, SolverError, UnsupportedFeatureError
from .registry import load_solver as load_solver
from .registry import solver_infos as solver_infos
from .registry import solver_names as solver_names
from .result import Result as Result
from .result import Status as Status
from .result import StopReason as StopReason
from .result import confirm, weighted_terms
from .result import finish as finish
from .stop import AnyOf as AnyOf
from .stop import Check as Check
from .stop import DeterministicTime as DeterministicTime
from .stop import MaxIterations as MaxIterations
from .stop import MaxRuntime as MaxRuntime
from .stop import NoImprovement as NoImprovement
from .stop import StopCriterion as StopCriterion
from .stop import TargetGap as TargetGap
from .stop import TargetObjective as TargetObjective
from .stop import gap_target as gap_target
from .stop import iteration_limit as iteration_limit
from .stop import objective_target as objective_target
from .stop import require_supported as require_supported
from .stop import runtime_limit as runtime_limit
from .stop import work_limit as work_limit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .instance import Instance
    from .plan import Plan
    from .problem import Problem

Kind = Literal["exact", "relaxation", "search", "baseline", "portfolio"]
"""How a solver works."""

CAPABILITIES = (
    "home",
    "roam",
    "copies",
    "formats",
    "tiers",
    "budgets",
    "pruning",
    "fusion",
    "substitution",
    "bound",
    "start",
)
"""What a solver may honour: dataflows, decisions, a bound of its own, a warm start."""

DEFAULT_TIME_S = 60.0
"""Seconds of `solve` when neither a time nor a deterministic budget is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverInfo:
    """What a solver says of itself.

    Attributes
    ----------
    name
        As registered.
    kind
        How it works.
    summary
        One line for people.
    capabilities
        What it can honour, of `CAPABILITIES`.
    terms
        Terms of the objective that it can optimise.
    deterministic
        Whether a seed and a deterministic budget decide its result.
    stops
        Stop criteria it can translate; none if it asks the check itself, so that every
        criterion works.
    params
        Dataclass of its parameters, with defaults; none if it has no parameters.
    packages
        Distributions whose versions belong to its results.
    citation
        What it implements, if it was published.
    """

    name: str
    kind: Kind
    summary: str = ""
    capabilities: frozenset[str] = frozenset()
    terms: tuple[str, ...] = ("serial",)
    deterministic: bool = True
    stops: tuple[type, ...] | None = None
    params: type[Any] | None = None
    packages: tuple[str, ...] = ()
    citation: str = ""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.capabilities) - set(CAPABILITIES))
        if unknown:
            raise ValueError(
                f"solver {self.name!r}: got capability {unknown[0]!r}, "
                f"expected one of {', '.join(CAPABILITIES)}"
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """What a solver reports while it works.

    Attributes
    ----------
    iteration
        Iterations done.
    elapsed_s
        Seconds since the start.
    objective
        Of the incumbent; ``inf`` if there is none.
    bound
        Best proven bound; none if nothing is proved.
    incumbent
        The best plan so far, feasible as far as the solver knows; none if there is
        none, or if it does not hold the plan at this moment.
    """

    iteration: int
    elapsed_s: float
    objective: float
    bound: float | None
    incumbent: Plan | None = None


OnProgress = Callable[[Progress], None]
"""Called on every improvement and at most every second otherwise; only watches."""


class Solver(Protocol):
    """One way of solving."""

    info: ClassVar[SolverInfo]

    def solve(
        self,
        problem: Problem,
        /,
        *,
        stop: StopCriterion,
        seed: int,
        start: Plan | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Solve a problem.

        Anytime: it can be stopped by the criterion, or by a `KeyboardInterrupt`, and
        returns its best plan; deterministic for a seed and a deterministic budget.
        Builds its result with `finish`.
        """
        ...


class ProgressLog:
    """Keeps the history of a run and reports progress no more often than needed.

    Parameters
    ----------
    on_progress
        Who watches, if anybody.
    started
        `time.perf_counter` at the start of the run.
    """

    def __init__(self, on_progress: OnProgress | None, started: float) -> None:
        self.history: list[tuple[float, float, float | None]] = []
        self._watch = on_progress
        self._started = started
        self._told = -math.inf
        self._best = (math.inf, -math.inf)

    def report(
        self,
        iteration: int,
        objective: float,
        bound: float | None = None,
        incumbent: Plan | None = None,
    ) -> None:
        """Note where the run is; improvements enter the history.

        Parameters
        ----------
        iteration
            Iterations done.
        objective
            Of the best feasible plan; ``inf`` if there is none.
        bound
            Best proven bound, if any.
        incumbent
            The plan of that objective.
        """
        elapsed = perf_counter() - self._started
        better, higher = self._best
        low = -math.inf if bound is None else bound
        improved = objective < better or low > higher
        if improved:
            self._best = (min(objective, better), max(low, higher))
            self.history.append((elapsed, objective, bound))
        if self._watch is not None and (improved or elapsed - self._told >= 1.0):
            self._told = elapsed
            self._watch(Progress(iteration, elapsed, objective, bound, incumbent))


def needed(problem: Problem) -> tuple[str, ...]:
    """Return what a solver must be capable of to use all that a problem offers.

    The dataflow; and each kind of decision that is open in the problem.
    """
    home = problem.dataflow == "home"
    multiple = problem.max_copies is None or problem.max_copies > 1
    wanted = {
        "home": home,
        "roam": not home,
        "copies": multiple and problem.num_servers > 1,
        "formats": problem.num_formats > 1,
        "tiers": problem.num_places > problem.num_servers,
        "budgets": bool(problem.budget_caps),
        "pruning": home and bool((problem.prune_width > 0).any()),
        "fusion": home and bool((problem.fuse_width > 0).any()),
        "substitution": home and len(problem.similar) > 0,
    }
    return tuple(name for name in CAPABILITIES if wanted.get(name))


def unsupported(problem: Problem, info: SolverInfo) -> tuple[str, ...]:
    """Return what a problem offers or asks for and a solver does not use or honour."""
    lacking = [name for name in needed(problem) if name not in info.capabilities]
    lacking += [
        f"term {term}" for term in weighted_terms(problem) if term not in info.terms
    ]
    return tuple(lacking)


def make_solver(name: str, options: Mapping[str, Any] | None = None) -> Solver:
    """Load a solver and set its parameters.

    Parameters
    ----------
    name
        As registered.
    options
        Parameters by name; text is turned into numbers and truth values as needed.

    Raises
    ------
    SolverNotFoundError, SolverUnavailableError
        If there is no such solver, or it cannot be imported.
    UnsupportedFeatureError
        If it has no such parameter, or not with such a value.
    """
    kind: Callable[..., Solver] = load_solver(name)
    params = params_of(kind.info, options or {})  # type: ignore[attr-defined]
    return kind() if params is None else kind(params)


def params_of(info: SolverInfo, options: Mapping[str, Any]) -> Any:
    """Turn options into the parameters of a solver; none if it takes none."""
    known = (
        []
        if info.params is None
        else [field.name for field in dataclasses.fields(info.params) if field.init]
    )
    for key in options:
        if key not in known:
            has = f"it has: {', '.join(known)}" if known else "it has no options"
            raise UnsupportedFeatureError(
                f"solver {info.name!r}: got option {key!r}; {has}"
            )
    if info.params is None:
        return None
    try:
        return msgspec.convert(dict(options), info.params, strict=False)
    except msgspec.ValidationError as exc:
        text, _, place = str(exc).partition(" - at `$.")
        where = f"option {place.rstrip('`')!r}" if place else "options"
        raise UnsupportedFeatureError(f"solver {info.name!r}: {where}: {text}") from exc


def stop_criterion(
    *,
    time_limit: float | None = None,
    work: float | None = None,
    gap: float | None = None,
    others: Iterable[StopCriterion] = (),
) -> StopCriterion:
    """Combine the usual limits into one criterion.

    Parameters
    ----------
    time_limit
        Seconds; ``inf`` is no limit. If none: 60 s, or no limit when ``work`` is given,
        so that a deterministic budget gives the same plan on a slow machine.
    work
        Deterministic budget in units of the solver.
    gap
        A gap, as a fraction, that is good enough.
    others
        More criteria.
    """
    if time_limit is None:
        time_limit = DEFAULT_TIME_S if work is None else math.inf
    criteria: list[StopCriterion] = []
    if time_limit < math.inf or math.isnan(time_limit):
        criteria.append(MaxRuntime(time_limit))
    if work is not None:
        criteria.append(DeterministicTime(work))
    if gap is not None:
        criteria.append(TargetGap(gap))
    return AnyOf(*criteria, *others)


def solve(
    instance: Instance | Problem | str | os.PathLike[str],
    solver: str | Solver = "auto",
    *,
    time_limit: float | None = None,
    work: float | None = None,
    gap: float | None = None,
    seed: int = 0,
    start: Plan | str | os.PathLike[str] | None = None,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    options: Mapping[str, Any] | None = None,
) -> Result:
    """Plan an instance.

    Parameters
    ----------
    instance
        An instance, a problem, the path of an instance file or the name of a bundled
        one.
    solver
        Name of a registered solver, or a solver object; "auto" chooses by size.
    time_limit
        Seconds; ``inf`` is no limit. If none: 60, or no limit when ``work`` is given.
    work
        Deterministic budget in units of the solver: the same plan on every machine.
    gap
        Stop once the gap, a fraction, is at most this.
    seed
        Of everything random.
    start
        A plan, or its file, to start from.
    threads
        Threads that the solver may use, if it has such a parameter.
    on_progress
        Called with `Progress` while the solver works.
    options
        Parameters of the solver by name.

    Returns
    -------
    Result
        Its plan was scored by the core. A `KeyboardInterrupt` during the solve ends it
        with the best plan so far and ``stop_reason`` "interrupted".

    Raises
    ------
    MeldoptError
        On bad input, an unknown solver or option, a criterion that the solver cannot
        translate, a missing engine, or an engine that failed. That no plan was found
        is a status of the result.
    """
    problem = _as_problem(instance)
    chosen, ignored = _as_solver(solver, options, threads)
    info = chosen.info
    stop = stop_criterion(time_limit=time_limit, work=work, gap=gap)
    if info.stops is not None:
        require_supported(stop, info.stops, solver=info.name)
    if problem.dataflow not in info.capabilities:
        can = sorted({"home", "roam"} & info.capabilities)
        raise UnsupportedFeatureError(
            f"solver {info.name!r}: got dataflow {problem.dataflow!r}, "
            f"expected {' or '.join(can) or 'none at all'}"
        )
    warm = _as_plan(start, problem)
    last: Progress | None = None
    best_bound: float | None = None
    incumbent: Plan | None = None
    history: list[tuple[float, float, float | None]] = []

    def watch(progress: Progress) -> None:
        nonlocal last, best_bound, incumbent
        last = progress
        history.append((progress.elapsed_s, progress.objective, progress.bound))
        if progress.incumbent is not None:
            incumbent = progress.incumbent
        if progress.bound is not None:
            low = -math.inf if best_bound is None else best_bound
            best_bound = max(low, progress.bound)
        if on_progress is not None:
            on_progress(progress)

    started = perf_counter()
    try:
        result = chosen.solve(
            problem, stop=stop, seed=seed, start=warm, on_progress=watch
        )
    except KeyboardInterrupt:
        # It hit where the solver could not catch it: keep what was last reported.
        return finish(
            problem,
            info,
            plan=incumbent if incumbent is not None else warm,
            bound=best_bound,
            stop_reason=StopReason.INTERRUPTED,
            seed=seed,
            started=started,
            params=getattr(chosen, "params", None),
            history=history,
            ignored=ignored,
        )
    if not isinstance(result, Result):
        raise SolverError(
            f"solver {info.name!r}: got {type(result).__name__}, expected a Result; "
            "build it with meldopt.solver.finish"
        )
    confirm(problem, result)
    if ignored:
        result = dataclasses.replace(result, ignored=(*result.ignored, *ignored))
    return result


def _as_problem(instance: Instance | Problem | str | os.PathLike[str]) -> Problem:
    from .builder import build_problem
    from .instance import Instance, read_instance
    from .problem import Problem

    if isinstance(instance, Problem):
        return instance
    if isinstance(instance, Instance):
        return build_problem(instance)
    return build_problem(read_instance(os.fspath(instance)))


def _as_solver(
    solver: str | Solver, options: Mapping[str, Any] | None, threads: int | None
) -> tuple[Solver, tuple[str, ...]]:
    """Return the solver, and what of the arguments it cannot use."""
    if not isinstance(solver, str):
        if options or threads is not None:
            raise UnsupportedFeatureError(
                f"solver {solver.info.name!r}: got options for a solver object, "
                "expected them in its constructor"
            )
        return solver, ()
    chosen = dict(options or {})
    ignored: tuple[str, ...] = ()
    if threads is not None:
        params = load_solver(solver).info.params
        if params is not None and "threads" in {
            field.name for field in dataclasses.fields(params)
        }:
            chosen.setdefault("threads", threads)
        elif threads != 1:
            ignored = ("threads",)
    return make_solver(solver, chosen), ignored


def _as_plan(
    start: Plan | str | os.PathLike[str] | None, problem: Problem
) -> Plan | None:
    from .plan import Plan, read_plan

    if start is None:
        return None
    if not isinstance(start, Plan):
        return read_plan(os.fspath(start), problem)
    if start.instance_digest != problem.instance_digest:
        raise PlanError(
            f"start: got a plan for {start.instance_name!r} "
            f"({start.instance_digest[:18]}…), expected {problem.name!r} "
            f"({problem.instance_digest[:18]}…)"
        )
    return start
