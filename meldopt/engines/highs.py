"""HiGHS in process: linear models as arrays, live incumbents and bounds."""

from __future__ import annotations

import dataclasses
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from meldopt.errors import SolverError

from .aside import run_aside
from .outcome import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.formulations.linear import LinearModel

    from .outcome import EngineStatus, OnIncumbent


SMALL, LARGE = 1.0, 1000.0
"""An optimum below the first is scaled to the second and solved again."""

LARGE_MODEL = 20_000
"""Columns from which the interior point method solves the root relaxation."""

ZERO = 1e-9
"""What is below this is nothing, in the scale of a model (mean cost about one)."""


def _quiet_class() -> Any:
    """Return the class behind `highspy.Highs`, whose constructor prints a banner."""
    return highspy.Highs.__mro__[1]


def empty_highs() -> Any:
    """Return a silent HiGHS without a model, for one that grows; it solves LPs."""
    highs = _quiet_class()()
    highs.setOptionValue("output_flag", False)
    # Which of two methods wins a race must not decide between equal optima.
    highs.setOptionValue("solver", "simplex")
    return highs


def make_highs(model: LinearModel, *, relax: bool = False, factor: float = 1.0) -> Any:
    """Hand a model to a silent HiGHS.

    ``relax`` makes its columns continuous; costs are multiplied by ``factor``.
    """
    highs = empty_highs()
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = model.num_columns, model.num_rows
    lp.col_cost_ = model.objective * factor
    lp.col_lower_, lp.col_upper_ = model.col_lower, model.col_upper
    lp.row_lower_, lp.row_upper_ = model.row_lower, model.row_upper
    matrix = model.matrix
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = matrix.indptr.astype(np.int32)
    lp.a_matrix_.index_ = matrix.indices.astype(np.int32)
    lp.a_matrix_.value_ = matrix.data
    if not relax and model.integer.any():
        kinds = highspy.HighsVarType
        lp.integrality_ = [
            kinds.kInteger if whole else kinds.kContinuous
            for whole in model.integer.tolist()
        ]
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        raise SolverError("HiGHS refused the model")
    return highs


def solve_highs(
    model: LinearModel,
    *,
    time_limit: float | None = None,
    gap: float = 5e-7,
    nodes: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    start: NDArray[np.float64] | None = None,
    relax: bool = False,
    method: str = "simplex",
    on_incumbent: OnIncumbent | None = None,
) -> Outcome:
    """Minimise a linear model with HiGHS.

    Parameters
    ----------
    model
        What to minimise.
    time_limit
        Seconds of wall-clock, or None.
    gap
        Relative gap at which to stop.
    nodes
        Largest number of branch-and-bound nodes: a deterministic budget.
    seed, threads
        Random seed; number of threads (HiGHS decides when None).
    start
        A solution to start from; values that are nan are left to HiGHS.
    relax
        Solve the linear relaxation.
    method
        How the relaxation is solved: ``simplex`` or ``ipm``, the interior
        point method with crossover, faster on large ones.
    on_incumbent
        Called from the solver's thread; returning True stops it.

    Returns
    -------
    Outcome
        With ``interrupted`` set if Ctrl-C arrived while it ran.

    Notes
    -----
    Tolerances of HiGHS are absolute. An optimum that turns out small against them is
    solved again with larger costs: nothing would be proved about it otherwise.
    """
    begun = perf_counter()

    def left() -> float | None:
        return None if time_limit is None else time_limit - (perf_counter() - begun)

    factor = 1.0
    best: Outcome | None = None
    for _ in range(3):
        outcome = _solve_once(
            model,
            factor=factor,
            time_limit=left(),
            gap=gap,
            nodes=nodes,
            seed=seed,
            threads=threads,
            start=start,
            relax=relax,
            method=method,
            on_incumbent=on_incumbent,
        )
        if best is not None and outcome.x is None:
            break
        best = outcome
        if outcome.x is None or outcome.bound is None:
            return outcome
        size = abs(outcome.objective or 0.0) * factor
        if size >= SMALL:
            return outcome
        if size <= ZERO:
            return dataclasses.replace(outcome, bound=_near_zero(model, outcome.bound))
        rest = left()
        if outcome.interrupted or (rest is not None and rest <= 0):
            break
        factor *= LARGE / size
        start = outcome.x
    assert best is not None
    # What was proved about so small an objective is within the tolerances.
    return dataclasses.replace(best, bound=None)


def _near_zero(model: LinearModel, bound: float) -> float:
    """Return what a bound near zero is worth: the tolerance less, but not negative."""
    positive = (model.objective >= 0).all() and (
        model.col_lower[model.objective > 0] >= 0
    ).all()
    return max(bound - ZERO, 0.0) if positive else bound - ZERO


def _solve_once(
    model: LinearModel,
    *,
    factor: float,
    time_limit: float | None,
    gap: float,
    nodes: int | None,
    seed: int,
    threads: int | None,
    start: NDArray[np.float64] | None,
    relax: bool,
    method: str,
    on_incumbent: OnIncumbent | None,
) -> Outcome:
    """Run HiGHS once, all costs times a factor that the outcome does not show."""
    highs = make_highs(model, relax=relax, factor=factor)
    integral = bool(model.integer.any()) and not relax
    options: dict[str, Any] = {
        "random_seed": seed % 2**31,
        "solver": method,
        "mip_rel_gap": gap,
        "mip_abs_gap": 1e-9,
        "mip_feasibility_tolerance": 1e-7,
        "primal_feasibility_tolerance": 1e-8,
        "dual_feasibility_tolerance": 1e-8,
    }
    if integral and model.num_columns > LARGE_MODEL:
        options["mip_lp_solver"] = "ipm"  # simplex takes twice as long at the root
    if time_limit is not None:
        options["time_limit"] = max(time_limit, 0.0)
    if nodes is not None:
        options["mip_max_nodes"] = nodes
    if threads is not None:
        _quiet_class().resetGlobalScheduler(True)
        options["threads"] = threads
    for name, value in options.items():
        highs.setOptionValue(name, value)
    if start is not None and integral:
        known = np.flatnonzero(np.isfinite(start)).astype(np.int32)
        highs.setSolution(len(known), known, start[known])
    stop = threading.Event()
    if integral:
        _watch(highs, on_incumbent, stop, factor)
    elif model.num_columns > LARGE_MODEL:
        _hear(highs, stop)

    def tick(interrupted: bool) -> None:
        if interrupted:
            stop.set()

    _, interrupted = run_aside("HiGHS", highs.run, tick, period_s=0.1)
    return _outcome(highs, model, integral, interrupted, gap, factor)


def _watch(
    highs: Any,
    on_incumbent: OnIncumbent | None,
    stop: threading.Event,
    factor: float,
) -> None:
    kinds = highspy.cb.HighsCallbackType
    best: list[Any] = [None]

    def callback(kind: Any, message: str, out: Any, give: Any, data: Any) -> None:
        if kind == kinds.kCallbackMipImprovingSolution:
            best[0] = np.array(out.mip_solution)
        elif kind in (kinds.kCallbackMipInterrupt, kinds.kCallbackMipLogging):
            if on_incumbent is not None and not stop.is_set():
                primal, dual = float(out.mip_primal_bound), float(out.mip_dual_bound)
                solution, best[0] = best[0], None
                if on_incumbent(
                    primal / factor if abs(primal) < 1e300 else None,
                    dual / factor if abs(dual) < 1e300 else None,
                    solution,
                ):
                    stop.set()
            if stop.is_set() and kind == kinds.kCallbackMipInterrupt:
                give.user_interrupt = True

    highs.setCallback(callback, None)
    for kind in (
        kinds.kCallbackMipImprovingSolution,
        kinds.kCallbackMipInterrupt,
        kinds.kCallbackMipLogging,
    ):
        highs.startCallback(kind)


def _hear(highs: Any, stop: threading.Event) -> None:
    """Let ``stop`` end a linear programme; small ones end soon enough."""
    kinds = highspy.cb.HighsCallbackType

    def callback(kind: Any, message: str, out: Any, give: Any, data: Any) -> None:
        if stop.is_set():
            give.user_interrupt = True

    highs.setCallback(callback, None)
    highs.startCallback(kinds.kCallbackSimplexInterrupt)
    highs.startCallback(kinds.kCallbackIpmInterrupt)


def _outcome(
    highs: Any,
    model: LinearModel,
    integral: bool,
    interrupted: bool,
    gap: float,
    factor: float,
) -> Outcome:
    found = highspy.HighsModelStatus
    status = highs.getModelStatus()
    info = highs.getInfo()
    solution = highs.getSolution()
    feasible = (
        info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    )
    x = np.array(solution.col_value) if feasible and solution.value_valid else None
    objective = None if x is None else float(model.objective @ x)
    kind: EngineStatus = "unknown" if x is None else "feasible"
    bound: float | None = None
    if status == found.kOptimal:
        kind = "optimal"
    elif status == found.kInfeasible:
        kind = "infeasible"
    elif status == found.kModelEmpty:
        # No columns: HiGHS does not look at the rows, which are all zero.
        holds = (model.row_lower <= 0).all() and (model.row_upper >= 0).all()
        kind, x, objective = (
            ("optimal", np.zeros(0), 0.0) if holds else ("infeasible", None, None)
        )
    elif status in (found.kUnbounded, found.kUnboundedOrInfeasible):
        # Shares and copies are bounded, so "or infeasible" is what is meant.
        kind = "infeasible" if status == found.kUnboundedOrInfeasible else "unbounded"
    elif status in (found.kSolveError, found.kModelError, found.kLoadError):
        raise SolverError(f"HiGHS ended with {highs.modelStatusToString(status)!r}")
    if integral:
        dual = float(info.mip_dual_bound)
        if np.isfinite(dual) and abs(dual) < 1e300 and kind != "infeasible":
            bound = dual / factor
            if kind == "optimal" and objective is not None:
                # Where it knows the objective to be integral it ends by cut-off, and
                # leaves its dual bound at what the last node had.
                bound = max(bound, objective - max(gap * abs(objective), 1e-9 / factor))
    elif kind == "optimal":
        bound = objective
    duals = None
    if not integral and kind == "optimal" and solution.dual_valid:
        duals = np.array(solution.row_dual) / factor
    return Outcome(
        status=kind,
        x=x,
        objective=objective,
        bound=bound,
        nodes=max(int(info.mip_node_count), 0),
        interrupted=interrupted,
        duals=duals,
    )
