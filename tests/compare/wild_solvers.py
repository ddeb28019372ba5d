"""Solvers for tests of comparisons: registered as another distribution's, and wild."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from meldopt.errors import SolverError, UnsupportedFeatureError
from meldopt.plan import Plan
from meldopt.score import score
from meldopt.solver import SolverInfo, StopReason, finish
from meldopt.testing import single_copy_plans

if TYPE_CHECKING:
    from meldopt.problem import Problem
    from meldopt.solver import OnProgress, Result, StopCriterion


@dataclass(frozen=True)
class SteadyParams:
    """``log``: a file to which every solve appends a line; ``wait``: a file that has to
    appear before the solve ends; ``repair``: as baselines have it.
    """

    log: str = ""
    wait: str = ""
    repair: bool = False


def note(log: str, text: object) -> None:
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def forever() -> None:
    threading.Event().wait()


class SteadySolver:
    """Takes some placement with one copy of each expert, feasible if it can."""

    info: ClassVar[SolverInfo] = SolverInfo(
        name="steady",
        kind="baseline",
        capabilities=frozenset({"home", "formats"}),
        params=SteadyParams,
    )

    def __init__(self, params: SteadyParams = SteadyParams()) -> None:
        self.params = params

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
        started = perf_counter()
        print("a solver that prints")
        note(self.params.log, f"{problem.name} {seed}")
        if self.params.wait:
            while not Path(self.params.wait).exists():
                threading.Event().wait(0.02)
        plans = single_copy_plans(problem)
        order = np.random.default_rng(seed).permutation(len(plans))
        chosen = plans[int(order[0])]
        for n in order:
            if score(problem, plans[int(n)]).feasible:
                chosen = plans[int(n)]
                break
        return finish(
            problem,
            self.info,
            plan=chosen,
            bound=None,
            stop_reason=StopReason.FINISHED,
            seed=seed,
            started=started,
            params=self.params,
            history=[(0.001, score(problem, chosen).objective, None)],
        )


@dataclass(frozen=True)
class WildParams:
    """``mode``: how it goes wrong; ``log``: as for `SteadyParams`."""

    mode: str = "raise"
    log: str = ""


class WildSolver:
    """Goes wrong in every way that a comparison must survive."""

    info: ClassVar[SolverInfo] = SolverInfo(
        name="wild",
        kind="search",
        capabilities=frozenset({"home", "roam", "formats"}),
        params=WildParams,
    )

    def __init__(self, params: WildParams = WildParams()) -> None:
        self.params = params

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
        started = perf_counter()
        mode = self.params.mode
        note(self.params.log, f"{problem.name} {seed}")
        if mode == "raise":
            raise ZeroDivisionError("all is lost")
        if mode == "engine":
            raise SolverError("the engine broke")
        if mode == "refuse":
            raise UnsupportedFeatureError("wild: got a problem, expected none")
        if mode == "exit":
            print("leaving", file=sys.stderr, flush=True)
            os._exit(3)
        if mode == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if mode == "hang":
            child = subprocess.Popen(
                [sys.executable, "-c", "import threading; threading.Event().wait()"]
            )
            note(self.params.log, child.pid)
            forever()
        if mode == "hungry":
            hoard = np.ones(1 << 30)  # 8 GiB
            print(hoard.sum())
        if mode == "empty":
            plan = None
        elif mode == "violating":
            plan = Plan.of(problem, np.zeros((0, 3), dtype=np.int64))
        else:
            raise AssertionError(mode)
        return finish(
            problem,
            self.info,
            plan=plan,
            bound=None,
            stop_reason=StopReason.FINISHED,
            seed=seed,
            started=started,
            params=self.params,
        )
