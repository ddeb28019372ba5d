"""Runs on the workers of a Dask cluster (extra ``cluster``).

A worker runs the same isolated process that would run here; it is sent the files of the
instance and sends back how the process ended. When a worker is lost, its processes end
with it, and Dask gives its runs to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import meldopt
from meldopt.engines.cluster import connect
from meldopt.errors import SolverError

from .isolation import Ended, Processes

if TYPE_CHECKING:
    from .jobs import SolveJob

LOOK_S = 0.5
"""Seconds between two looks whether anybody still wants a result."""

PATIENCE_S = 60.0
"""Seconds without any worker after which the cluster is given up."""

TRIES = 3
"""How often a run is given to Dask again after Dask gave it up."""

Package = dict[str, bytes]
"""Files of an instance by name."""


class ClusterProcesses:
    """Runs jobs on workers; as many at once as it has callers.

    Parameters
    ----------
    address
        Of the scheduler, as ``tcp://host:8786``.
    threads, memory_bytes
        As for `Processes`.

    Raises
    ------
    SolverUnavailableError, SolverError
        As `connect`.
    """

    def __init__(
        self,
        address: str,
        *,
        threads: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self.client = connect(address)
        self.address = address
        self.options = {"threads": threads, "memory_bytes": memory_bytes}
        self.session = uuid.uuid4().hex
        self.retried = 0
        """Runs that were given to Dask again."""
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._packages: dict[str, Package] = {}

    @property
    def slots(self) -> int:
        """Threads of all workers."""
        return sum(self.client.nthreads().values())

    def run(self, job: SolveJob, seconds: float | None) -> Ended:
        """Run a job on some worker; see `Processes.run`.

        Raises
        ------
        SolverError
            If a worker has another version of meldopt or fails, or none is left.
        """
        for attempt in range(TRIES):
            self.retried += attempt > 0
            future = self.client.submit(
                run_there,
                job,
                self._package(job.instance),
                seconds,
                session=self.session,
                version=meldopt.__version__,
                options=self.options,
                pure=False,
            )
            ended = self._result(future)
            if ended is not None:
                return ended
        return _lost(stopped=self._stopped.is_set())

    def _package(self, instance: str) -> Package:
        """Return the files of an instance.

        They travel with every run: what Dask was given once to keep is lost with the
        workers that keep it.
        """
        with self._lock:
            if instance not in self._packages:
                path = Path(instance)
                self._packages[instance] = {
                    one.name: one.read_bytes()
                    for one in (path, path.with_suffix(".npz"))
                    if one.is_file()
                }
            return self._packages[instance]

    def _result(self, future: Any) -> Ended | None:
        """Wait for a result; None if Dask gave the run up."""
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker, NoWorkerError

        alone = 0.0
        while not self._stopped.is_set():
            try:
                ended: Ended = future.result(timeout=LOOK_S)
            except TimeoutError:
                alone = 0.0 if self._workers() else alone + LOOK_S
                if alone > PATIENCE_S:
                    raise SolverError(
                        f"cluster: no worker is left at {self.address}"
                    ) from None
                continue
            except (
                OSError,
                asyncio.CancelledError,
                FutureCancelledError,
                KilledWorker,
                NoWorkerError,
            ):
                return None
            except SolverError:
                raise
            except Exception as exc:
                raise SolverError(f"cluster: a worker failed: {exc!r}") from exc
            # A worker that is told to close stops its processes: nobody's fault.
            return None if ended.stopped else ended
        future.cancel()
        return _lost(stopped=True)

    def _workers(self) -> int:
        try:
            return len(self.client.nthreads())
        except (OSError, TimeoutError, asyncio.CancelledError):
            return 0

    def stop(self) -> None:
        """Kill what runs on the workers, and leave."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        gone = (OSError, TimeoutError, asyncio.CancelledError, SolverError)
        with contextlib.suppress(*gone):  # whoever is gone runs nothing
            self.client.run(stop_there, self.session, on_error="ignore")
        self.client.close()


def _lost(*, stopped: bool) -> Ended:
    return Ended(
        answer=b"",
        plan=None,
        arrays=None,
        exit_code=1,
        hung=False,
        stopped=stopped,
        said=b"cluster: every worker that ran it was lost\n",
        wall_s=0.0,
        cpu_s=0.0,
        memory_bytes=0,
    )


# -- on a worker -----------------------------------------------------------------------

_PROCESSES: dict[str, Processes] = {}
_LOCK = threading.Lock()


def run_there(
    job: SolveJob,
    package: Package,
    seconds: float | None,
    *,
    session: str,
    version: str,
    options: dict[str, Any],
) -> Ended:
    """Run a job in a process of this worker."""
    if version != meldopt.__version__:
        raise SolverError(
            f"cluster: got a worker with meldopt {meldopt.__version__}, expected "
            f"{version} as here"
        )
    with _LOCK:
        processes = _PROCESSES.setdefault(session, Processes(**options))
    with tempfile.TemporaryDirectory(prefix="meldopt-") as folder:
        for name, data in package.items():
            (Path(folder) / name).write_bytes(data)
        instance = str(Path(folder) / Path(job.instance).name)
        return processes.run(msgspec.structs.replace(job, instance=instance), seconds)


def stop_there(session: str) -> None:
    """Kill what runs on this worker for a comparison."""
    with _LOCK:
        processes = _PROCESSES.pop(session, None)
    if processes is not None:
        processes.stop()
