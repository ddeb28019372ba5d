"""What a solve came to: from how its process ended, or from a record of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from .jobs import Refused, Solved
from .machine import this_machine
from .records import FAILED, MachineRecord, RunRecord, RunStatus

if TYPE_CHECKING:
    from .grid import Run
    from .isolation import Ended


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a solve came to, wherever its plan is judged.

    Attributes
    ----------
    failure
        One of `FAILED`; None if the solver returned a result.
    error
        One line on what went wrong.
    status
        Of a result without a plan; empty if there is a plan.
    bound
        As the solver says, for the instance that was planned on.
    stop_reason, history, runtime_s, ignored, versions, cpu_s, memory_bytes
        As in `RunRecord`.
    machine, threads, finished
        As in `RunRecord`.
    """

    failure: RunStatus | None
    error: str | None
    status: str
    stop_reason: str | None
    bound: float | None
    history: list[tuple[float, float | None, float | None]]
    runtime_s: float
    ignored: list[str]
    versions: dict[str, str]
    cpu_s: float
    memory_bytes: int
    machine: MachineRecord
    threads: int | None
    finished: str

    @classmethod
    def by(cls, run: Run, ended: Ended, *, threads: int | None) -> Made:
        """Say what the process of a run came to."""
        answer = ended.read_answer()
        failure, error = _failure(run, ended)
        solved = answer if isinstance(answer, Solved) and failure is None else None
        machine = answer.machine if isinstance(answer, Solved | Refused) else None
        return cls(
            failure=failure,
            error=error,
            status="" if solved is None or ended.plan is not None else solved.status,
            stop_reason=None if solved is None else solved.stop_reason,
            bound=None if solved is None else solved.bound,
            history=[] if solved is None else solved.history,
            runtime_s=ended.wall_s if solved is None else solved.runtime_s,
            ignored=[] if solved is None else solved.ignored,
            versions={} if solved is None else solved.versions,
            cpu_s=ended.cpu_s,
            memory_bytes=max(
                ended.memory_bytes, 0 if solved is None else solved.memory_bytes
            ),
            machine=machine or this_machine(),
            threads=threads,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def of(cls, record: RunRecord) -> Made:
        """Recover it from a record, to judge the plan on one more instance."""
        bound = record.bound
        if record.train is not None:
            bound = None if record.trained is None else record.trained.bound
        failed = record.status in FAILED
        return cls(
            failure=record.status if failed else None,
            error=record.error if failed else None,
            status="" if failed or record.plan is not None else record.status,
            stop_reason=record.stop_reason,
            bound=bound,
            history=record.history,
            runtime_s=record.runtime_s,
            ignored=record.ignored,
            versions=record.versions,
            cpu_s=record.cpu_s,
            memory_bytes=record.memory_bytes,
            machine=record.machine,
            threads=record.threads,
            finished=record.finished,
        )

    @property
    def has_plan(self) -> bool:
        """Whether there is a plan to judge."""
        return self.failure is None and not self.status

    def crashed(self, error: str) -> Made:
        """Return the same of a solver that claims what the judge denies."""
        return msgspec.structs.replace(self, failure="crashed", error=error)


def _failure(run: Run, ended: Ended) -> tuple[RunStatus | None, str | None]:
    """Return the status of a run that failed, and why; None twice for a result."""
    answer = ended.read_answer()
    if ended.hung:
        return "hung", f"killed after {ended.wall_s:.0f} s: {run.limit}"
    if isinstance(answer, Refused):
        return "refused", answer.reason
    if isinstance(answer, Solved):
        return None, None
    return "crashed", ended.last_words
