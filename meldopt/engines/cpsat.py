"""CP-SAT in process: live solutions and bounds, deterministic time, Ctrl-C."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ortools.sat.python import cp_model

from meldopt.errors import SolverError

from .aside import run_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .outcome import EngineStatus

    OnTick = Callable[[NDArray[np.int64] | None, float | None, float | None], bool]
    """Called several times a second with the watched values of the latest solution
    (None if there is no new one), objective and bound; True stops."""

_TICK_S = 0.05
_STATUS: dict[Any, EngineStatus] = {
    cp_model.OPTIMAL: "optimal",
    cp_model.FEASIBLE: "feasible",
    cp_model.INFEASIBLE: "infeasible",
    cp_model.UNKNOWN: "unknown",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CpsatOutcome:
    """Result of one run of CP-SAT, in the integers of its model.

    Attributes
    ----------
    status
        ``optimal``: proved; ``feasible``: a solution, no proof.
    solutions
        Values of the watched variables in each solution, the best last; (K, n).
    bound
        Proved lower bound of the objective; None if infeasible or nothing is proved.
    work
        Deterministic time used, about seconds of one core.
    interrupted
        Whether Ctrl-C or ``on_tick`` ended the run; ``by_key`` if it was Ctrl-C.
    """

    status: EngineStatus
    solutions: NDArray[np.int64]
    bound: int | None
    work: float
    interrupted: bool = False
    by_key: bool = False


class _Recorder(cp_model.CpSolverSolutionCallback):
    """Keeps the watched values of every solution."""

    def __init__(self, watch: Sequence[Any]) -> None:
        super().__init__()
        self.watch = watch
        self.solutions: list[list[int]] = []
        self.objective: float | None = None

    def on_solution_callback(self) -> None:
        """Note a solution; the engine calls it from a thread of its own."""
        self.solutions.append([self.value(variable) for variable in self.watch])
        self.objective = float(self.objective_value)

    def latest(self, told: int) -> tuple[NDArray[np.int64] | None, int]:
        """Return the last solution if there are more than ``told``, and the number."""
        count = len(self.solutions)
        if count <= told:
            return None, told
        return np.array(self.solutions[count - 1], dtype=np.int64), count


def solve_cpsat(
    model: Any,
    watch: Sequence[Any],
    *,
    time_limit: float | None = None,
    work: float | None = None,
    gap: float = 0.0,
    seed: int = 0,
    threads: int | None = None,
    deterministic: bool = False,
    on_tick: OnTick | None = None,
) -> CpsatOutcome:
    """Minimise a CP-SAT model.

    Parameters
    ----------
    model
        A ``CpModel`` with an objective; hints in it are where the search starts.
    watch
        Variables whose values are kept.
    time_limit, work
        Seconds, and deterministic time, at most.
    gap
        Relative gap at which to stop.
    seed, threads
        Random seed; number of threads (all cores when None).
    deterministic
        Make the run repeatable if ``work`` or a proof ends it; ``threads`` is then
        ignored.
    on_tick
        Called from this thread while the engine works.
    """
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.random_seed = seed % 2**31
    parameters.relative_gap_limit = gap
    # Presolve by inclusion of linear rows loses optima in OR-Tools 9.15
    # (google/or-tools issue 5293; ``tests/engines/test_cpsat.py`` has a case of ours).
    parameters.presolve_inclusion_work_limit = 0
    # Its own handler of Ctrl-C would take the signal from Python for good.
    parameters.catch_sigint_signal = False
    if time_limit is not None and not math.isinf(time_limit):
        parameters.max_time_in_seconds = max(time_limit, 0.0)
    if work is not None and not math.isinf(work):
        parameters.max_deterministic_time = max(work, 0.0)
    if deterministic:
        # All strategies take turns in one thread: the same on every machine. With more
        # workers the result would be the same, but not the solutions on the way.
        parameters.num_workers = 1
        parameters.interleave_search = True
    elif threads is not None:
        parameters.num_workers = threads
    recorder = _Recorder(watch)
    bounds: list[float] = []
    solver.best_bound_callback = bounds.append
    stopped = False
    told = 0

    def tick(interrupted: bool) -> None:
        nonlocal stopped, told
        if stopped or interrupted:
            # A stop that came before the search had begun was not heard: say it again.
            solver.stop_search()
        elif on_tick is not None:
            latest, told = recorder.latest(told)
            stopped = on_tick(latest, recorder.objective, max(bounds, default=None))

    status, by_key = run_aside(
        "CP-SAT", lambda: solver.solve(model, recorder), tick, period_s=_TICK_S
    )
    if status == cp_model.MODEL_INVALID:
        raise SolverError(f"CP-SAT refused the model: {model.validate()}")
    kind = _STATUS[status]
    bound: int | None = None
    if kind != "infeasible" and model.has_objective():
        proved = solver.best_objective_bound
        if math.isfinite(proved) and abs(proved) < 2.0**62:
            bound = math.floor(proved - 1e-6 * max(1.0, abs(proved) * 1e-9))
            if abs(proved - round(proved)) < 1e-6:
                bound = round(proved)
    solutions = np.array(recorder.solutions, dtype=np.int64)
    return CpsatOutcome(
        status=kind,
        solutions=solutions.reshape(len(recorder.solutions), len(watch)),
        bound=bound,
        work=float(solver.deterministic_time),
        interrupted=stopped,
        by_key=by_key,
    )
