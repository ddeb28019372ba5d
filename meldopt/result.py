"""What a solve returns, and the one way to build it: `finish`.

No solver is believed. `finish` scores the plan again, sets the status, combines the
bound with the trivial one, computes the gap and writes the record of the plan.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import math
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .errors import SolverError
from .gap import clip_bound, is_closed, relative_gap
from .problem import TERMS
from .score import score, transfer_budgets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .plan import Plan
    from .problem import Problem
    from .score import Score
    from .solver import SolverInfo


class Status(enum.StrEnum):
    """What is known about the problem and the plan at the end of a solve."""

    OPTIMAL = "optimal"
    """A feasible plan, and a bound that reaches it (gap at most 1e-6)."""

    FEASIBLE = "feasible"
    """A plan that keeps every row."""

    VIOLATING = "violating"
    """A plan that breaks a row: listed, never ranked."""

    INFEASIBLE = "infeasible"
    """Proved: no plan keeps every row."""

    UNKNOWN = "unknown"
    """No plan, and no proof that there is none."""


class StopReason(enum.StrEnum):
    """Why a solve ended."""

    PROVED = "proved"
    """Optimal or infeasible, and known to be."""

    CRITERION = "criterion"
    """A stop criterion was met."""

    FINISHED = "finished"
    """The method did all it does, without a proof: a constructive heuristic, say."""

    INTERRUPTED = "interrupted"
    """Ctrl-C or a signal; the best plan so far is kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What a solve returns. Solvers make it with `finish` only.

    Attributes
    ----------
    status, stop_reason
        What is known, and why the solve ended.
    plan
        The best plan; with its record filled. None if nothing was found.
    objective
        Of the plan, as `meldopt.score` says; ``inf`` without a plan.
    bound
        Proven lower bound of the objective over all feasible plans; none if nothing
        is proved.
    gap
        ``(objective - bound) / |objective|``, a fraction; none if it says nothing.
    score
        Terms, rows and violations of the plan; none without a plan.
    history
        (elapsed seconds, objective, bound) at every improvement.
    runtime_s
        Wall-clock seconds of the solve.
    seed, solver, params, versions
        What made the result: seed, name and parameters of the solver, and versions of
        the packages it used.
    instance_name, instance_digest
        Which instance it belongs to.
    ignored
        What the instance asks for and the solver cannot honour.
    """

    status: Status
    stop_reason: StopReason
    plan: Plan | None
    objective: float
    bound: float | None
    gap: float | None
    score: Score | None
    history: tuple[tuple[float, float, float | None], ...]
    runtime_s: float
    seed: int
    solver: str
    params: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    instance_name: str
    instance_digest: str
    ignored: tuple[str, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether there is a plan that keeps every row."""
        return self.status in (Status.OPTIMAL, Status.FEASIBLE)

    def gap_of_greedy(self, greedy_objective: float) -> float | None:
        """Return ``(objective - bound) / (greedy objective - bound)``.

        Constants in the objective cannot flatter this one. None if there is no gap to
        speak of, or if greedy itself reaches the bound.
        """
        if (
            self.gap is None
            or self.bound is None
            or not math.isfinite(greedy_objective)
        ):
            return None
        room = greedy_objective - self.bound
        return (self.objective - self.bound) / room if room > 0 else None


def finish(
    problem: Problem,
    info: SolverInfo,
    *,
    plan: Plan | None,
    bound: float | None,
    stop_reason: StopReason,
    seed: int,
    started: float,
    params: object = None,
    history: Iterable[tuple[float, float, float | None]] = (),
    proved_infeasible: bool = False,
    ignored: Iterable[str] = (),
    packages: Iterable[str] | None = None,
) -> Result:
    """Judge what a solver found and build its result.

    Parameters
    ----------
    problem
        What was solved.
    info
        Of the solver.
    plan
        Its best plan, or none.
    bound
        A lower bound it proved for the objective over all feasible plans; None, NaN or
        minus infinity if it proved nothing.
    stop_reason
        Why it ended; a proof found here overrides it.
    seed
        The seed it was given.
    started
        `time.perf_counter` at its start.
    params
        Its parameters: a dataclass, a mapping or none.
    history
        (elapsed seconds, objective, bound) at every improvement.
    proved_infeasible
        Whether it proved that no plan keeps every row.
    ignored
        What it could not honour, beside what `unsupported` finds by itself.
    packages
        Distributions whose versions belong to the result; those of ``info`` if none.

    Returns
    -------
    Result
        With the plan scored again and its record filled.

    Raises
    ------
    SolverError
        If the bound is above the objective of a feasible plan by more than rounding,
        or a plan is feasible where the solver proved that there is none.
    """
    from .bounds import trivial_bound
    from .solver import unsupported

    judged = None if plan is None else score(problem, plan)
    feasible = judged is not None and judged.feasible
    objective = math.inf if judged is None else judged.objective
    who = f"solver {info.name!r} on {problem.name!r}"
    if feasible and proved_infeasible:
        raise SolverError(
            f"{who}: claims that the problem is infeasible, but its plan keeps all rows"
        )
    proven = [
        value
        for value in (bound, None if proved_infeasible else trivial_bound(problem))
        if value is not None and value > -math.inf
    ]
    best = max(proven, default=None)
    if best is not None and feasible:
        best = clip_bound(objective, best, who=who)
    if best is not None and math.isinf(best):
        # Without a feasible plan an infinite bound says what proved_infeasible says.
        best, proved_infeasible = None, True
    if proved_infeasible:
        best = None
    closed = feasible and is_closed(objective, best)
    status = (
        Status.INFEASIBLE
        if proved_infeasible
        else Status.OPTIMAL
        if closed
        else Status.FEASIBLE
        if feasible
        else Status.VIOLATING
        if judged is not None
        else Status.UNKNOWN
    )
    if status in (Status.OPTIMAL, Status.INFEASIBLE):
        stop_reason = StopReason.PROVED
    elif stop_reason is StopReason.PROVED:
        stop_reason = StopReason.FINISHED  # the solver says so, the judge does not
    gap = relative_gap(objective, best) if feasible else None
    options = _plain(params)
    versions = versions_of(info.packages if packages is None else packages)
    if plan is not None and judged is not None:
        record: dict[str, Any] = {
            "terms": {
                name: value
                for name, value in judged.terms.items()
                if math.isfinite(value)
            },
            "objective": objective if math.isfinite(objective) else None,
            "bound": best,
            "gap": gap,
            "status": status.value,
            "solver": info.name,
            "options": options,
            "seed": seed,
            "versions": versions,
            "budgets": transfer_budgets(problem, plan),
        }
        plan = plan.with_record(
            {key: value for key, value in record.items() if value is not None}
        )
    missing = unsupported(problem, info)
    return Result(
        status=status,
        stop_reason=stop_reason,
        plan=plan,
        objective=objective,
        bound=best,
        gap=gap,
        score=judged,
        history=tuple(history),
        runtime_s=perf_counter() - started,
        seed=seed,
        solver=info.name,
        params=options,
        versions=versions,
        instance_name=problem.name,
        instance_digest=problem.instance_digest,
        ignored=tuple(dict.fromkeys([*ignored, *missing])),
    )


def confirm(problem: Problem, result: Result) -> Result:
    """Refuse a result that says other than `score` does: it was not made by `finish`.

    Raises
    ------
    SolverError
        If objective, feasibility or bound of the result are not those of its plan.
    """
    who = f"solver {result.solver!r} on {problem.name!r}"
    if result.plan is None:
        if result.feasible or math.isfinite(result.objective):
            raise SolverError(f"{who}: claims an objective but returned no plan")
        return result
    judged = score(problem, result.plan)
    if not math.isclose(
        judged.objective, result.objective, rel_tol=1e-9, abs_tol=1e-12
    ):
        raise SolverError(
            f"{who}: claims objective {result.objective!r}, but its plan has "
            f"{judged.objective!r}"
        )
    if result.feasible and not judged.feasible:
        first = judged.violations[0]
        raise SolverError(
            f"{who}: claims a feasible plan, but it breaks {first.row} "
            f"({first.where}) by {first.amount:g}"
        )
    if result.feasible and result.bound is not None:
        clip_bound(judged.objective, result.bound, who=who)
    if result.status is Status.OPTIMAL and not is_closed(
        judged.objective, result.bound
    ):
        raise SolverError(
            f"{who}: claims an optimum, but its bound {result.bound!r} does not reach "
            f"the objective {judged.objective!r}"
        )
    return result


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of meldopt, numpy and some distributions."""
    from . import __version__

    found = {"meldopt": __version__}
    for name in sorted({"numpy", *packages}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _plain(params: object) -> dict[str, Any]:
    """Turn parameters into what JSON holds."""
    if params is None:
        return {}
    if dataclasses.is_dataclass(params) and not isinstance(params, type):
        params = dataclasses.asdict(params)
    assert isinstance(params, dict), "parameters are a dataclass or a mapping"
    return {str(key): _json(value) for key, value in params.items()}


def _json(value: object) -> Any:
    if isinstance(value, enum.Enum):
        return _json(value.value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(item) for item in value]
    return str(value)


def weighted_terms(problem: Problem) -> tuple[str, ...]:
    """Return the terms that the objective of a problem weighs."""
    return tuple(term for term in TERMS if problem.weight_of(term))
