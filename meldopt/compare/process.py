"""The process of a run: ``python -m meldopt.compare.process``.

It reads its task from standard input, which stays open: when whoever started it is
gone, the input ends, and so does this process with all its children. It says ``ready``
once the instance is built, then its answer, on standard output; whatever solvers print
goes to standard error.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .jobs import Answer, Judged, JudgeJob, Refused, Solved, SolveJob, Task
from .machine import peak_bytes, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable

READY = b"ready\n"


def main() -> None:
    """Do the task that standard input tells."""
    lifeline, report = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    task = msgspec.json.decode(_line(lifeline), type=Task)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    faulthandler.enable()
    if task.memory_bytes is not None:
        _limit_memory(task.memory_bytes)

    def ready() -> None:
        os.write(report, READY)

    answer = do(task, ready)
    whole = memoryview(msgspec.json.encode(answer))
    while whole:
        whole = whole[os.write(report, whole) :]
    os.close(report)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that a solver left behind must not keep a process that has answered.
    os._exit(0)


def _line(file: int) -> bytes:
    """Read up to the first line break."""
    parts = []
    while True:
        part = os.read(file, 1 << 16)
        parts.append(part)
        if not part or part.endswith(b"\n"):
            return b"".join(parts)


def _watch(lifeline: int) -> None:
    """End this process and its children when the other end is gone."""
    while os.read(lifeline, 1 << 10):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _limit_memory(limit: int) -> None:
    """Let allocations above a limit fail, in this process and its children."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def do(task: Task, ready: Callable[[], None]) -> Answer:
    """Do a task; calls ``ready`` when what takes time begins."""
    if isinstance(task.job, JudgeJob):
        return _judge(task.job, Path(task.folder), ready)
    return _solve(task.job, Path(task.folder), ready)


def _solve(job: SolveJob, folder: Path, ready: Callable[[], None]) -> Answer:
    from meldopt.builder import build_problem
    from meldopt.errors import (
        SolverNotFoundError,
        SolverUnavailableError,
        UnsupportedFeatureError,
    )
    from meldopt.instance import read_instance
    from meldopt.plan import write_plan
    from meldopt.solver import solve

    problem = build_problem(read_instance(job.instance))
    ready()
    limit = job.time_limit_s
    if limit is None and job.work is None:
        limit = math.inf
    try:
        result = solve(
            problem,
            job.solver,
            time_limit=limit,
            work=job.work,
            seed=job.seed,
            threads=job.threads,
            options=job.options,
        )
    except (
        SolverNotFoundError,
        SolverUnavailableError,
        UnsupportedFeatureError,
    ) as exc:
        return Refused(reason=" ".join(str(exc).split()), machine=this_machine())
    if result.plan is not None:
        write_plan(result.plan, folder / job.plan_name)
    return Solved(
        status=result.status.value,
        stop_reason=result.stop_reason.value,
        bound=result.bound,
        history=[
            (seconds, _finite(objective), _finite(bound))
            for seconds, objective, bound in result.history
        ],
        runtime_s=result.runtime_s,
        ignored=list(result.ignored),
        versions=dict(result.versions),
        machine=this_machine(),
        memory_bytes=peak_bytes(),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _judge(job: JudgeJob, folder: Path, ready: Callable[[], None]) -> Judged:
    from meldopt.builder import build_problem
    from meldopt.instance import read_instance
    from meldopt.plan import read_plan, write_plan

    from .replaying import replay_plan

    instance = read_instance(job.instance)
    problem = build_problem(instance)
    plan = read_plan(job.plan, problem)
    ready()
    if job.reroute:
        from meldopt.formulations.shares import best_shares

        better = best_shares(problem, plan.copies)
        if better is not None:  # else no shares keep every row: the plan stays
            plan = better
            write_plan(plan, folder / job.plan_name, problem=problem)
    return Judged(
        replay={
            name: replay_plan(instance, problem, plan, path, job.mode)
            for name, path in job.traces.items()
        }
    )


if __name__ == "__main__":
    main()
