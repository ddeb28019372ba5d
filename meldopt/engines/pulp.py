"""CBC, and any other engine that PuLP knows, by name.

What PuLP says is read with care (measured with PuLP 3.3): its status is "Optimal" when
CBC merely ran out of time, its objective is that of a relaxation when there is no
incumbent, and it has no bound at all. So ``sol_status`` is read, the objective is
recomputed, and CBC's bound is parsed from its log.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.errors import SolverError, SolverUnavailableError

from .aside import run_aside
from .outcome import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.formulations.linear import LinearModel

    from .outcome import OnIncumbent

_NUMBER = r"([-+]?[\d.]+(?:e[-+]?\d+)?)"
_SEARCH = re.compile(
    rf"After \d+ nodes, \d+ on tree, {_NUMBER} best solution, best possible {_NUMBER}"
)
_FINAL = re.compile(rf"^Lower bound:\s+{_NUMBER}", re.MULTILINE)
_INFEASIBLE = re.compile(
    # Shares and copies are bounded, so "or unbounded" cannot be what is meant.
    r"Result - Problem proven infeasible|Problem is infeasible"
    r"|Pre-processing says infeasible or unbounded",
    re.IGNORECASE,
)
_RESULT = re.compile(r"^Result - (.*)$", re.MULTILINE)
_PARTIAL = re.compile(
    rf"Partial search - best objective {_NUMBER} \(best possible {_NUMBER}\)"
)


def parse_cbc_log(text: str) -> tuple[float | None, float | None]:
    """Return the last objective and the best bound that a CBC log speaks of.

    A value of 1e50 is how CBC says that there is none.
    """
    objective: float | None = None
    bounds: list[float] = []
    for pattern in (_SEARCH, _PARTIAL):
        for match in pattern.finditer(text):
            if abs(float(match[1])) < 1e49:
                objective = float(match[1])
            bounds.append(float(match[2]))
    bounds += [float(match[1]) for match in _FINAL.finditer(text)]
    bounds = [bound for bound in bounds if abs(bound) < 1e49]
    return objective, max(bounds, default=None)


def solve_pulp(
    model: LinearModel,
    *,
    engine: str = "PULP_CBC_CMD",
    time_limit: float | None = None,
    gap: float = 0.0,
    nodes: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    start: NDArray[np.float64] | None = None,
    on_incumbent: OnIncumbent | None = None,
) -> Outcome:
    """Minimise a linear model with an engine of PuLP.

    Parameters
    ----------
    model
        What to minimise.
    engine
        A name that ``pulp.listSolvers()`` gives; ``cbc`` is short for CBC.
    time_limit, gap, nodes, threads, seed
        As far as the engine takes them; CBC takes all.
    start
        Complete values of all columns.
    on_incumbent
        Called about twice a second with what CBC's log says.

    Raises
    ------
    SolverUnavailableError
        If PuLP does not know the engine, or it is not installed.
    SolverError
        If the engine fails.
    """
    import pulp

    name = {"cbc": "PULP_CBC_CMD", "CBC": "PULP_CBC_CMD"}.get(engine, engine)
    if name not in pulp.listSolvers():
        raise SolverUnavailableError(
            f"engine {engine!r}: PuLP knows no such engine, expected highs, cbc or one "
            f"of {', '.join(pulp.listSolvers())}"
        )
    if name not in pulp.listSolvers(onlyAvailable=True):
        raise SolverUnavailableError(f"engine {engine!r}: is not installed")
    problem, variables = model.to_pulp()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "engine.log"
        solver = _solver(
            name,
            log=log,
            time_limit=time_limit,
            gap=gap,
            nodes=nodes,
            threads=threads,
            seed=seed,
            warm=start is not None,
        )
        if start is not None:
            for variable, value in zip(variables, start.tolist(), strict=True):
                variable.setInitialValue(value, check=False)
        interrupted = _run(problem, solver, log, on_incumbent)
        text = log.read_text(errors="replace") if log.is_file() else ""
    return _outcome(model, problem, variables, text, gap, interrupted)


def _solver(name: str, *, log: Path, warm: bool, **limits: Any) -> Any:
    import pulp

    common = {"msg": False, "timeLimit": limits["time_limit"], "gapRel": limits["gap"]}
    if name != "PULP_CBC_CMD":
        return pulp.getSolver(name, **common)
    seed = limits["seed"] % (2**31 - 1) + 1  # 0 is the time of day
    # The cutoff increment of CBC is absolute; 1e-5 of it would be claimed as proved.
    options = [
        "increment 1e-9",
        "primalTolerance 1e-8",
        f"randomSeed {seed}",
        f"randomCbcSeed {seed}",
    ]
    with warnings.catch_warnings():
        # PuLP 4 will want CBC from a package of its own; 3.3 still brings it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return pulp.PULP_CBC_CMD(
            **common,
            gapAbs=0.0,
            logPath=str(log),
            maxNodes=limits["nodes"],
            threads=limits["threads"],
            warmStart=warm,
            options=options,
        )


class _Processes:
    """Remember the processes that PuLP starts for CBC, which it hands to nobody.

    Without this CBC would go on after an interruption, up to its time limit.
    """

    def __enter__(self) -> list[subprocess.Popen[Any]]:
        from pulp.apis import coin_api

        started: list[subprocess.Popen[Any]] = []

        def start(*args: Any, **kwargs: Any) -> subprocess.Popen[Any]:
            started.append(subprocess.Popen(*args, **kwargs))
            return started[-1]

        self._module: Any = coin_api
        self._before = coin_api.subprocess
        names = vars(subprocess) | {"Popen": start}
        self._module.subprocess = types.SimpleNamespace(**names)
        return started

    def __exit__(self, *_: object) -> None:
        self._module.subprocess = self._before


def _run(
    problem: Any, solver: Any, log: Path, on_incumbent: OnIncumbent | None
) -> bool:
    """Run in a thread and watch the log; returns whether it was interrupted."""
    with _Processes() as started:

        def tick(interrupted: bool) -> None:
            if interrupted:
                for process in started:
                    process.kill()
            elif on_incumbent is not None and log.is_file():
                objective, bound = parse_cbc_log(log.read_text(errors="replace"))
                on_incumbent(objective, bound, None)

        try:
            _, interrupted = run_aside(
                "engine",
                lambda: problem.solve(solver),
                tick,
                period_s=0.5,
                patience_s=10.0,
            )
        except SolverError:
            if any(process.returncode == -signal.SIGKILL for process in started):
                return True  # we ended it, and PuLP complains
            raise
    return interrupted


def _outcome(
    model: LinearModel,
    problem: Any,
    variables: list[Any],
    log: str,
    gap: float,
    interrupted: bool,
) -> Outcome:
    import pulp

    logged = parse_cbc_log(log)[1]
    ended = _RESULT.findall(log)  # parts of the search may be infeasible
    infeasible = "infeasible" in ended[-1] if ended else _INFEASIBLE.search(log)
    if not interrupted and infeasible:
        return Outcome(status="infeasible", x=None, objective=None, bound=None)
    if interrupted:
        return Outcome(
            status="unknown", x=None, objective=None, bound=logged, interrupted=True
        )
    if problem.sol_status in (pulp.LpSolutionInfeasible, pulp.LpSolutionUnbounded):
        if problem.status == pulp.LpStatusInfeasible:
            return Outcome(status="infeasible", x=None, objective=None, bound=None)
        return Outcome(status="unknown", x=None, objective=None, bound=logged)
    if problem.sol_status not in (
        pulp.LpSolutionOptimal,
        pulp.LpSolutionIntegerFeasible,
    ):
        return Outcome(status="unknown", x=None, objective=None, bound=logged)
    x = np.array([0.0 if v.varValue is None else float(v.varValue) for v in variables])
    objective = float(model.objective @ x)
    if problem.sol_status == pulp.LpSolutionOptimal:
        proved = logged if logged is not None else objective - gap * abs(objective)
        bound = min(objective, max(proved, objective - gap * abs(objective)))
        return Outcome(status="optimal", x=x, objective=objective, bound=bound)
    return Outcome(status="feasible", x=x, objective=objective, bound=logged)
