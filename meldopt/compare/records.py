"""What a comparison keeps: one JSON line for each run, appended and never changed.

The last line of a key wins: a run that is replayed on one more trace has a second line.
A line that was torn by a power cut or ``kill -9`` can only be the last one; it is left
out on reading and cut off before the next is appended.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, dataclass_transform

import msgspec

from meldopt.errors import FileFormatError

if TYPE_CHECKING:
    from types import TracebackType

RESULTS = "RESULTS.jsonl"
"""Name of the file in the folder of a comparison."""

RECORD_VERSION = 1
"""Version of the lines that this release writes."""

RANKED = ("optimal", "feasible")
"""Statuses of records that may be ranked; all others are only listed."""

FAILED = ("crashed", "hung", "refused")
"""Statuses of runs that ended without a result."""

RunStatus = Literal[
    "optimal",
    "feasible",
    "violating",
    "infeasible",
    "unknown",
    "crashed",
    "hung",
    "refused",
]
"""Those of `meldopt.result.Status`, and ``crashed``: the process died or the solver
raised; ``hung``: it was killed long after its time limit; ``refused``: the solver says
that it cannot do this (a dataflow, a kind of limit), or its engine is not installed."""

SharesRule = Literal["own", "default", "best"]
"""Where the shares of the judged plan come from: the solver's ``own``; or, for a plan
that is judged on another workload than its own, the ``default`` rule (each demand uses
its copy of least time) or the ``best`` shares of these copies by a linear programme."""


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,)
)
class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in a line."""


class ViolationRecord(_Line, kw_only=True):
    """One row that the plan breaks, as `meldopt.score.Violation` says it."""

    row: str
    where: str
    amount: float


class TrainedRecord(_Line, kw_only=True):
    """What the plan is worth on the workload that it was made for."""

    objective: float | None
    bound: float | None
    gap: float | None


class ReplayRecord(_Line, kw_only=True):
    """What the replay of a plan on one trace says.

    Attributes
    ----------
    mode
        ``"analytic"``: each token alone; ``"events"``: requests, batches and queues.
    digest
        Of the trace.
    mean_s, p50_s, p95_s, p99_s
        Analytic: seconds per token with the calls of a layer side by side, without the
        backbone. Events: seconds from arrival to the last token of a request.
    facts
        More numbers by name, as ``serial_mean_s``, ``backbone_s``,
        ``quality_loss_nats``; for events ``ttft_p99_s``, ``tpot_mean_s``,
        ``goodput_share`` and so on. What the report does not know is left out.
    """

    mode: Literal["analytic", "events"]
    digest: str
    mean_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    facts: dict[str, float] = {}


class MachineRecord(_Line, kw_only=True):
    """Where a run ran."""

    cpu: str
    cores: int
    memory_bytes: int
    python: str
    system: str


class RunRecord(_Line, kw_only=True):
    """One run and what came of it: a line of ``RESULTS.jsonl``.

    Attributes
    ----------
    format_version
        `RECORD_VERSION` of the release that wrote it.
    key
        ``sha256:`` over the canonical JSON of what identifies the run: ``solve``, the
        digest of the instance judged on, and the rule of the shares. Not the date, the
        machine, the versions or the replays.
    solve
        The same over what decides the plan: the digest of the instance planned on,
        solver, options, seed and limits. Records of one plan that is judged on several
        instances have it in common.
    instance, instance_digest
        What the plan was judged on: name as given, and fingerprint. A copy of it is in
        the folder: `meldopt.compare.folder.Folder.instance`.
    family
        The name of the instance before the last ``/``; empty without one.
    dataflow, layers, experts, servers, demands, formats
        Of the instance; experts of all layers together.
    solver, kind
        Registered name, and how it works, as `meldopt.solver.SolverInfo.kind` says
        (empty if the solver could not be loaded).
    label
        What rows of tables are called: ``"prism"``, ``"prism + repair"``,
        ``"auto[share_of_dual=0.3]"``.
    options
        Parameters that were set; those of the result are in the plan.
    seed, threads, time_limit_s, work
        As the solver was given them. No limit is None. ``threads`` is not in the key.
    train, train_digest
        The instance that was planned on, when it is not the one judged on.
    shares
        Where the shares of the judged plan come from.
    status, stop_reason
        What is known of the plan on ``instance``, and why the solve ended; None if
        it did not end by itself.
    error
        One line on what went wrong.
    objective, bound, gap
        Of the plan on ``instance``, as `score` says; a violating plan has an objective
        and no gap. With ``train`` the bound is the trivial one of ``instance``: the
        solver's own bound is in ``trained``.
    terms, violations
        Of the plan on ``instance``.
    ignored
        What the instance offers or asks for and the solver does not use or honour.
    trained
        What the plan is worth where it was made, if that was another instance.
    history
        (seconds, objective, bound) at every improvement, where the plan was made.
    runtime_s
        Wall-clock seconds of the solve.
    cpu_s, memory_bytes
        Of the process of the solve: seconds of all cores, with its children; and the
        most memory that it held at one time, without them. With start-up.
    replay
        By name of the trace, as given.
    plan, plan_digest
        File of the plan that was judged, relative to the folder of ``RESULTS.jsonl``,
        and the digest of its bytes. It is a plan of ``instance``, also with ``train``.
    versions
        Of meldopt, numpy and the packages of the solver.
    machine
        Where it ran.
    finished
        When, ISO 8601 UTC.
    """

    format_version: int = RECORD_VERSION
    key: str
    solve: str
    instance: str
    instance_digest: str
    family: str
    dataflow: Literal["home", "roam"]
    layers: int
    experts: int
    servers: int
    demands: int
    formats: int
    solver: str
    kind: str
    label: str
    options: dict[str, Any]
    seed: int
    threads: int | None
    time_limit_s: float | None
    work: float | None
    train: str | None
    train_digest: str | None
    shares: SharesRule
    status: RunStatus
    stop_reason: str | None
    error: str | None
    objective: float | None
    bound: float | None
    gap: float | None
    terms: dict[str, float]
    violations: list[ViolationRecord]
    ignored: list[str]
    trained: TrainedRecord | None
    history: list[tuple[float, float | None, float | None]]
    runtime_s: float
    cpu_s: float
    memory_bytes: int
    replay: dict[str, ReplayRecord]
    plan: str | None
    plan_digest: str | None
    versions: dict[str, str]
    machine: MachineRecord
    finished: str

    @property
    def ranked(self) -> bool:
        """Whether it may be ranked: a plan that keeps every row."""
        return self.status in RANKED


# -- the file --------------------------------------------------------------------------


def read_records(folder: str | Path) -> list[RunRecord]:
    """Read the records of a comparison; of a key that stands twice, the last.

    Parameters
    ----------
    folder
        Of the comparison, or the path of its ``RESULTS.jsonl``.

    Returns
    -------
    list of RunRecord
        In the order in which runs were first finished. Empty if none was.

    Raises
    ------
    FileFormatError
        If there is no such file, or a line other than a torn last one is no record.
    """
    path = Path(folder)
    path = path / RESULTS if path.is_dir() else path
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise FileFormatError(
            f"{folder}: expected the folder of a comparison, with {RESULTS} in it"
        ) from exc
    except OSError as exc:
        raise FileFormatError(f"{path}: cannot be read: {exc.strerror}") from exc
    decoder = msgspec.json.Decoder(RunRecord)
    found: dict[str, RunRecord] = {}
    *lines, torn = data.split(b"\n")  # a whole line ends with a line break
    for number, line in enumerate(lines, 1):
        try:
            record = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise FileFormatError(f"{path}: line {number}: {exc}") from exc
        if record.format_version > RECORD_VERSION:
            raise FileFormatError(
                f"{path}: line {number}: $.format_version: got "
                f"{record.format_version}, expected at most {RECORD_VERSION}: the file "
                "is newer than this meldopt"
            )
        found[record.key] = record
    del torn
    return list(found.values())


class RecordWriter:
    """Appends records to ``RESULTS.jsonl``; one writer at a time.

    As a context manager it holds the lock of the file. On entering, a torn last line is
    cut off.

    Parameters
    ----------
    folder
        Of the comparison; it must exist.

    Raises
    ------
    FileFormatError
        On entering, if another process writes there, or the file cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / RESULTS
        self._file: int | None = None
        self.cut_bytes = 0
        """Bytes of a torn line that were cut off."""

    def __enter__(self) -> RecordWriter:
        import fcntl

        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as exc:
            raise FileFormatError(
                f"{self.path}: cannot be written: {exc.strerror}"
            ) from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(file)
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise FileFormatError(
                    f"{self.path}: another comparison is writing to it"
                ) from exc
            raise FileFormatError(
                f"{self.path}: cannot be locked: {exc.strerror}"
            ) from exc
        self._file = file
        self._mend(file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            os.close(self._file)  # lets the lock go
            self._file = None

    def _mend(self, file: int) -> None:
        """Cut off what stands behind the last line break."""
        size = os.fstat(file).st_size
        end, step = size, 1 << 16
        whole = 0
        while end > 0:
            begin = max(0, end - step)
            at = os.pread(file, end - begin, begin).rfind(b"\n")
            if at >= 0:
                whole = begin + at + 1
                break
            end = begin
        if whole < size:
            os.ftruncate(file, whole)
            os.fsync(file)
        self.cut_bytes = size - whole

    def append(self, record: RunRecord) -> None:
        """Append one record; it is on the disk when this returns.

        Raises
        ------
        FileFormatError
            If it cannot be written, as when the disk is full. What was written of the
            line is cut off at the next start.
        """
        if self._file is None:
            raise ValueError("RecordWriter: append outside of its with block")
        line = memoryview(msgspec.json.encode(record) + b"\n")
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as exc:
            raise FileFormatError(
                f"{self.path}: cannot be written: {exc.strerror}"
            ) from exc
