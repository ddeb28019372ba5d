"""A process of its own for every run: what dies or hangs there is one row.

The process leads a session of its own, so that its children end with it. It is given
its task on a pipe that stays open as long as we live: it ends with us, however we end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from .folder import arrays_name
from .jobs import Answer, Task
from .machine import peak_bytes
from .process import READY

if TYPE_CHECKING:
    from .jobs import Job

START_S = 300.0
"""Seconds in which a process must have read its instance."""

TICK_S = 0.1
"""Seconds between two looks at a process."""

LOG_BYTES = 20_000
"""Of what a process said, the last bytes that are kept."""

THREADS_OF = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
"""Variables that libraries read for how many threads they may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended and what it left; plain data, fit for sending.

    Attributes
    ----------
    answer
        JSON of an `Answer`; empty if there is none.
    plan, arrays
        Bytes of the plan and of the arrays beside it, if it wrote any.
    exit_code
        Negative: the signal that ended it.
    hung
        Whether it was killed for taking too long.
    stopped
        Whether it was killed because nobody wants its answer any more.
    said
        The end of what it said on standard error.
    wall_s, cpu_s, memory_bytes
        Seconds from start to end; seconds of all cores with its children; the most
        memory that it held at one time.
    """

    answer: bytes
    plan: bytes | None
    arrays: bytes | None
    exit_code: int
    hung: bool
    stopped: bool
    said: bytes
    wall_s: float
    cpu_s: float
    memory_bytes: int

    def read_answer(self) -> Answer | None:
        """Return the answer; None if the process died before or while it answered."""
        if not self.answer or self.hung:
            return None
        try:
            answer: Answer = msgspec.json.decode(self.answer, type=Answer)
        except msgspec.DecodeError:
            return None
        return answer

    @property
    def last_words(self) -> str:
        """The last line that it said, and how it ended; one line."""
        lines = self.said.decode("utf-8", "replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if self.exit_code < 0:
            number = -self.exit_code
            try:
                name = signal.Signals(number).name
            except ValueError:
                name = f"signal {number}"
            more = " (out of memory?)" if number == signal.SIGKILL else ""
            return f"killed by {name}{more}"
        if self.exit_code == 1 and last:
            return last  # of a traceback
        return f"exit code {self.exit_code}" + (f": {last}" if last else "")


class Processes:
    """Runs jobs in processes of their own; as many at once as it has callers.

    Parameters
    ----------
    threads
        That a process may use; None leaves it to the libraries.
    memory_bytes
        Limit of the data of a process; None is no limit.
    """

    def __init__(
        self, *, threads: int | None = None, memory_bytes: int | None = None
    ) -> None:
        self.threads, self.memory_bytes = threads, memory_bytes
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Kill what runs; nothing starts any more."""
        self._stopped.set()

    def run(self, job: Job, seconds: float | None) -> Ended:
        """Run a job and wait for its end.

        Parameters
        ----------
        job
            What to do.
        seconds
            After which it is killed, from when it has read its instance; None: never.
        """
        with tempfile.TemporaryDirectory(prefix="meldopt-") as folder:
            task = Task(job=job, folder=folder, memory_bytes=self.memory_bytes)
            return self._run(task, Path(folder), seconds)

    def _run(self, task: Task, folder: Path, seconds: float | None) -> Ended:
        begun = monotonic()
        errors = folder / "said.txt"
        with errors.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "meldopt.compare.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=self._environment(),
                start_new_session=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout, contextlib.closing(process.stdin):
            watch = _Watch(process, process.stdout.fileno(), seconds)
            try:
                with contextlib.suppress(BrokenPipeError):  # it died at once
                    process.stdin.write(msgspec.json.encode(task) + b"\n")
                    process.stdin.flush()
                watch.until_end(self._stopped)
            finally:
                cpu_s = _reap(process)
        plan, name = folder / task.job.plan_name, arrays_name(task.job.plan_name)
        return Ended(
            answer=bytes(watch.answer),
            plan=_bytes(plan),
            arrays=_bytes(folder / name),
            exit_code=process.returncode,
            hung=watch.hung,
            stopped=watch.stopped,
            said=(_bytes(errors) or b"")[-LOG_BYTES:],
            wall_s=monotonic() - begun,
            cpu_s=cpu_s,
            memory_bytes=watch.memory_bytes,
        )

    def _environment(self) -> dict[str, str]:
        # What we can import it can: a solver may be on a path that we were given.
        path = os.pathsep.join(part for part in sys.path if part)
        environment = {**os.environ, "PYTHONPATH": path}
        if self.threads is not None:
            environment |= dict.fromkeys(THREADS_OF, str(self.threads))
        return environment


class _Watch:
    """Reads what a process says, and kills it when its time is over."""

    def __init__(
        self, process: subprocess.Popen[bytes], output: int, seconds: float | None
    ) -> None:
        self.process, self.output, self.seconds = process, output, seconds
        self.answer = bytearray()
        self.hung = self.stopped = False
        self.memory_bytes = 0

    def until_end(self, stopped: threading.Event) -> None:
        deadline: float | None = monotonic() + START_S
        ready, open_, killed = False, True, False
        while True:
            heard = select.select([self.output] if open_ else [], [], [], TICK_S)[0]
            if heard:
                part = os.read(self.output, 1 << 16)
                open_ = bool(part)
                self.answer += part
                if not ready and self.answer.startswith(READY):
                    ready = True
                    del self.answer[: len(READY)]
                    seconds = self.seconds
                    deadline = None if seconds is None else monotonic() + seconds
            if _has_ended(self.process.pid):
                break
            if not open_:
                threading.Event().wait(0.005)  # its end is near
            self.memory_bytes = max(self.memory_bytes, peak_bytes(self.process.pid))
            late = deadline is not None and monotonic() > deadline
            if not killed and (late or stopped.is_set()):
                self.hung, self.stopped = late, not late
                killed = True
                _kill(self.process.pid)
        while open_ and select.select([self.output], [], [], 0)[0]:
            part = os.read(self.output, 1 << 16)
            open_ = bool(part)
            self.answer += part
        if self.answer.startswith(READY):
            del self.answer[: len(READY)]


def _has_ended(pid: int) -> bool:
    """Say whether a process has ended, and leave it to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(pid: int) -> None:
    """End a process and whatever it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _reap(process: subprocess.Popen[bytes]) -> float:
    """Kill what is left of a process and its children; return its CPU seconds."""
    _kill(process.pid)  # before it is reaped, no other process can have its number
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
