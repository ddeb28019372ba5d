"""What the process of a run is told, and what it says."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .records import MachineRecord, ReplayRecord

PLAN = "made.plan.json"
"""Name of the plan in the folder of a process."""


class SolveJob(msgspec.Struct, frozen=True, kw_only=True, tag="solve"):
    """Plan an instance.

    Attributes
    ----------
    instance
        Path of its file.
    solver, options, seed, time_limit_s, work, threads
        For `meldopt.solver.solve`; without any limit the time is unlimited.
    plan_name
        What the plan will be called: its arrays are named after it.
    """

    instance: str
    solver: str
    options: dict[str, Any]
    seed: int
    time_limit_s: float | None
    work: float | None
    threads: int | None
    plan_name: str = PLAN


class JudgeJob(msgspec.Struct, frozen=True, kw_only=True, tag="judge"):
    """Find the best shares of a plan's copies, or replay it, or both.

    Attributes
    ----------
    instance, plan
        Paths of their files.
    reroute
        Whether the shares are replaced by the best ones for these copies.
    traces
        Paths by name.
    mode
        Of the replay.
    plan_name
        What the plan with other shares will be called.
    """

    instance: str
    plan: str
    reroute: bool
    traces: dict[str, str]
    mode: Literal["analytic", "events"]
    plan_name: str = PLAN


Job = SolveJob | JudgeJob


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A job and what its process may use.

    Attributes
    ----------
    job
        What is to be done.
    folder
        Where files go.
    memory_bytes
        Limit of its data; None is no limit.
    """

    job: Job
    folder: str
    memory_bytes: int | None


class Solved(msgspec.Struct, frozen=True, kw_only=True, tag="solved"):
    """What a solver returned; the plan is a file. Nothing of it is believed."""

    status: str
    stop_reason: str
    bound: float | None
    history: list[tuple[float, float | None, float | None]]
    runtime_s: float
    ignored: list[str]
    versions: dict[str, str]
    machine: MachineRecord
    memory_bytes: int


class Judged(msgspec.Struct, frozen=True, kw_only=True, tag="judged"):
    """What replays found; a plan with other shares is a file."""

    replay: dict[str, ReplayRecord]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Why a solver does not do this: one line."""

    reason: str
    machine: MachineRecord


Answer = Solved | Judged | Refused
