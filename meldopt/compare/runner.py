"""Runs what is missing of a comparison and records every end, whatever it is.

The main thread judges and writes. Each slot is a thread that waits for a process of its
own, here or on the worker of a cluster.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore
from time import monotonic
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from .isolation import Processes
from .jobs import Judged, JudgeJob, SolveJob
from .judge import Judge
from .machine import usable_cores
from .outcome import Made
from .pace import Pace
from .records import (
    FAILED,
    RecordWriter,
    ReplayRecord,
    RunRecord,
    SharesRule,
    read_records,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .folder import Folder
    from .grid import Run, Subject
    from .isolation import Ended

GRACE_S = 30.0
"""Seconds that a run may take beyond its time limit, at least."""

GRACE_SHARE = 0.5
"""The same as a share of the time limit, on top."""

WORK_S = 20.0
"""Seconds that a unit of deterministic work may take before a run counts as hung."""

COMPILE_S = 600.0
"""Seconds on top of them: a run without a time limit may compile first, and what comes
of it must not depend on the machine."""

LOOK_S = 0.25
"""Seconds between two looks at the progress."""


class Executor(Protocol):
    """Where jobs run, each in a process of its own."""

    def run(self, job: SolveJob, seconds: float | None) -> Ended:
        """Run a job and wait for its end; see `meldopt.compare.isolation.Processes`."""
        ...

    def stop(self) -> None:
        """Kill what runs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFile:
    """A trace to replay: its name in records, its path, and its digest."""

    name: str
    path: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a comparison is.

    Attributes
    ----------
    total, done, kept
        Runs in all; those that are complete; of these, those that were so before.
    running
        Runs in progress.
    failed
        Records of runs that crashed, hung or were refused.
    left_s
        Seconds that the rest is expected to take.
    last
        The latest record.
    """

    total: int
    done: int
    kept: int
    running: int
    failed: int
    left_s: float
    last: RunRecord | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """How runs are run.

    Attributes
    ----------
    slots
        How many at a time.
    threads
        Of each run; None leaves it to the solver.
    grace_s
        Seconds that a run may take beyond its time limit before it counts as hung; if
        None, `GRACE_S` and `GRACE_SHARE` of the limit, and `COMPILE_S` beyond
        `WORK_S` a unit without a time limit.
    memory_bytes
        Limit of the data of each process; None is no limit.
    traces, mode
        What each plan is replayed on, and how.
    reroute
        Whether frozen plans are also judged with the best shares on their test.
    again
        Whether runs that failed before are done again.
    """

    slots: int = 1
    threads: int | None = None
    grace_s: float | None = None
    memory_bytes: int | None = None
    traces: Sequence[TraceFile] = ()
    mode: Literal["analytic", "events"] = "analytic"
    reroute: bool = False
    again: bool = False

    def seconds(self, run: Run) -> float | None:
        """Return after how many seconds a run counts as hung; None: never."""
        limit, work = run.limit.time_limit_s, run.limit.work
        if limit is not None:
            more = GRACE_S + GRACE_SHARE * limit
            return limit + (more if self.grace_s is None else self.grace_s)
        if work is not None:
            return WORK_S * work + (COMPILE_S if self.grace_s is None else self.grace_s)
        return None


@dataclass(kw_only=True, eq=False)
class _Step:
    """A job of a run: its solve; or, with a record, the replay of its plan.

    ``best`` is the key of the record to be made of the plan with the best shares.
    """

    run: Run
    record: RunRecord | None = None
    best: str | None = None
    begun: float | None = None


class Comparison:
    """A comparison in a folder.

    Parameters
    ----------
    folder
        Holds all instances of the runs (`Folder.keep_instance`).
    runs
        From `meldopt.compare.grid.grid`.
    setup
        How they are run.
    executor
        Where solves run; on this machine if None. Replays always run here.
    on_progress
        Told after every end, and every `LOOK_S` seconds.
    """

    def __init__(
        self,
        folder: Folder,
        runs: Sequence[Run],
        setup: Setup,
        *,
        executor: Executor | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.folder, self.runs, self.setup = folder, runs, setup
        self.on_progress = on_progress
        self._here = Processes(threads=setup.threads, memory_bytes=setup.memory_bytes)
        self._executor: Executor = executor or self._here
        self._writer = RecordWriter(folder.path)
        self._judge = Judge(folder)
        self._pace = Pace()
        self._records: dict[str, RunRecord] = {}
        self._last: RunRecord | None = None
        self._steps_left: dict[str, int] = {}  # by `Run.solve`
        self._kept_runs = 0
        # Replays of the plans of a large cluster are few at a time here.
        self._replaying = Semaphore(max(1, usable_cores() // (setup.threads or 1)))

    def complete(self) -> list[RunRecord]:
        """Do what is missing; return the records of all runs, in their order.

        Raises
        ------
        FileFormatError
            If the folder cannot be written, or another comparison writes there.
        SolverError
            If the executor is lost, a cluster without workers.
        KeyboardInterrupt
            After the processes were killed. Whatever ends this, every finished run has
            its record.
        """
        with self._writer:
            self._records = {one.key: one for one in read_records(self.folder.path)}
            self._pace.learn(self._records.values())
            self._loop(self._plan_steps())
        keys = [key for run in self.runs for key, _, _ in self._wanted(run)]
        return [self._records[key] for key in keys]

    # -- what is missing ---------------------------------------------------------------
    def _wanted(self, run: Run) -> Iterable[tuple[str, Subject, SharesRule]]:
        """Yield key, instance and rule of every record that a run has."""
        for judged in run.trial.judged:
            for shares in run.rules(judged, reroute=self.setup.reroute):
                yield run.key(judged, shares), judged, shares

    def _kept(self, key: str) -> RunRecord | None:
        """Return a record that stays."""
        record = self._records.get(key)
        failed = record is not None and record.status in FAILED
        return None if failed and self.setup.again else record

    def _plan_steps(self) -> deque[_Step]:
        """Return the first steps of all runs that are not complete."""
        queue: deque[_Step] = deque()
        made = self._made_before()
        for run in self.runs:
            steps: list[_Step] = []
            if any(
                self._kept(key) is None
                for key, _, shares in self._wanted(run)
                if shares != "best"
            ):
                if run.solve in made:
                    self._record(run, made[run.solve])
                else:
                    steps = [_Step(run=run)]
            steps = steps or list(self._follow_up(run))
            queue.extend(steps)
            self._steps_left[run.solve] = len(steps)
        self._kept_runs = sum(not left for left in self._steps_left.values())
        return queue

    def _made_before(self) -> dict[str, Made]:
        """Return what solves came to that have some record, by `Run.solve`."""
        found = {}
        for record in self._records.values():
            if self._kept(record.key) is None:
                continue
            made = Made.of(record)
            file = self.folder.path / self.folder.plan_name(record.solve)
            if not made.has_plan or file.is_file():
                found[record.solve] = made
        return found

    def _follow_up(self, run: Run) -> Iterable[_Step]:
        """Yield what is to be done once the plan of a run is judged."""
        for key, judged, shares in self._wanted(run):
            record = self._kept(key)
            if record is not None and self._unreplayed(record):
                yield _Step(run=run, record=record)
            elif record is None and shares == "best":
                frozen = self._records[run.key(judged, "default")]
                if frozen.plan is None:  # no plan, no shares
                    self._append(self._judge.rerouted(frozen, key, None, None))
                else:
                    yield _Step(run=run, record=frozen, best=key)

    def _unreplayed(self, record: RunRecord) -> list[TraceFile]:
        """Return the traces that the plan of a record was not replayed on."""
        if record.plan is None:
            return []
        return [
            trace
            for trace in self.setup.traces
            if (done := record.replay.get(trace.name)) is None
            or (done.digest, done.mode) != (trace.digest, self.setup.mode)
        ]

    # -- the loop ----------------------------------------------------------------------
    def _loop(self, queue: deque[_Step]) -> None:
        pending: dict[Future[Ended], _Step] = {}
        pool = ThreadPoolExecutor(max_workers=self.setup.slots)
        try:
            self._tell(queue, pending)
            while queue or pending:
                while queue and len(pending) < self.setup.slots:
                    step = queue.popleft()
                    pending[pool.submit(self._do, step)] = step
                done, _ = wait(pending, timeout=LOOK_S, return_when=FIRST_COMPLETED)
                for future in done:
                    step = pending.pop(future)
                    more = self._finish(step, future.result())
                    queue.extendleft(reversed(more))
                    self._steps_left[step.run.solve] += len(more) - 1
                self._tell(queue, pending)
        finally:
            self._executor.stop()
            self._here.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _do(self, step: _Step) -> Ended:
        """Do a step; in a thread of its own."""
        if step.record is None:
            step.begun = monotonic()
            return self._executor.run(
                self._solve_job(step.run), self.setup.seconds(step.run)
            )
        with self._replaying:
            step.begun = monotonic()
            return self._here.run(self._judge_job(step, step.record), None)

    def _finish(self, step: _Step, ended: Ended) -> list[_Step]:
        """Record the end of a step; return what follows from it."""
        if step.record is not None:
            self._pace.judged(ended.wall_s)
            self._replayed(step, step.record, ended)
            return []
        run = step.run
        self._pace.ran(run, ended.wall_s)
        made = Made.by(run, ended, threads=self.setup.threads)
        if made.failure is not None:
            self.folder.keep_log(run.solve, ended.said)
        elif ended.plan is not None:
            self.folder.keep_plan(run.solve, ended.plan, ended.arrays)
        self._record(run, made)
        return list(self._follow_up(run))

    def _tell(
        self, queue: Iterable[_Step], pending: dict[Future[Ended], _Step]
    ) -> None:
        if self.on_progress is None:
            return
        now = monotonic()
        left = []
        for step in (*queue, *pending.values()):
            judging = step.record is not None
            whole = self._pace.of_judging() if judging else self._pace.of(step.run)
            gone = 0.0 if step.begun is None else now - step.begun
            left.append(max(whole - gone, 0.0))
        self.on_progress(
            Progress(
                total=len(self.runs),
                done=sum(not steps for steps in self._steps_left.values()),
                kept=self._kept_runs,
                running=len(pending),
                failed=sum(one.status in FAILED for one in self._records.values()),
                left_s=max(sum(left) / self.setup.slots, max(left, default=0.0)),
                last=self._last,
            )
        )

    # -- jobs --------------------------------------------------------------------------
    def _solve_job(self, run: Run) -> SolveJob:
        return SolveJob(
            instance=str(self.folder.instance(run.trial.planned.digest)),
            solver=run.method.solver,
            options=dict(run.method.options),
            seed=run.seed,
            time_limit_s=run.limit.time_limit_s,
            work=run.limit.work,
            threads=self.setup.threads,
            plan_name=Path(self.folder.plan_name(run.solve)).name,
        )

    def _judge_job(self, step: _Step, record: RunRecord) -> JudgeJob:
        traces = self.setup.traces if step.best else self._unreplayed(record)
        return JudgeJob(
            instance=str(self.folder.instance(record.instance_digest)),
            plan=str(self.folder.plan(record)),
            reroute=step.best is not None,
            traces={one.name: one.path for one in traces},
            mode=self.setup.mode,
            plan_name=Path(self.folder.plan_name(step.best or record.key)).name,
        )

    # -- records -----------------------------------------------------------------------
    def _record(self, run: Run, made: Made) -> None:
        """Judge a plan on all its instances and append the records."""
        for key, judged, shares in self._wanted(run):
            if shares != "best" and self._kept(key) is None:
                self._append(self._judge.record(run, made, key, judged))

    def _replayed(self, step: _Step, record: RunRecord, ended: Ended) -> None:
        """Append the record of a plan that was replayed, or has the best shares."""
        answer = ended.read_answer()
        traces = self.setup.traces if step.best else self._unreplayed(record)
        if step.best is not None:
            record = self._judge.rerouted(record, step.best, ended.plan, ended.arrays)
        error, replay = record.error, dict(record.replay)
        if not isinstance(answer, Judged):
            self.folder.keep_log(record.key, ended.said)
            error = f"replay: {ended.last_words}"
        for trace in traces:
            done = answer.replay.get(trace.name) if isinstance(answer, Judged) else None
            replay[trace.name] = done or ReplayRecord(
                mode=self.setup.mode,
                digest=trace.digest,
                mean_s=None,
                p50_s=None,
                p95_s=None,
                p99_s=None,
            )
        self._append(msgspec.structs.replace(record, replay=replay, error=error))

    def _append(self, record: RunRecord) -> None:
        self._writer.append(record)
        self._records[record.key] = self._last = record
