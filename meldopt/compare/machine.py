"""Which machine this is, for records."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path

from .records import MachineRecord


def usable_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@cache
def this_machine() -> MachineRecord:
    """Describe the machine and the Python of this process."""
    return MachineRecord(
        cpu=_cpu(),
        cores=usable_cores(),
        memory_bytes=_memory(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def peak_bytes(pid: int | None = None) -> int:
    """Return the most memory that a process held so far; 0 if nobody knows.

    What the kernel reports at its end would not do: a process that was just started
    counts the memory of the one that started it.
    """
    who = "self" if pid is None else str(pid)
    try:
        status = Path(f"/proc/{who}/status").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return 0 if pid is not None else _peak_of_self()
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _peak_of_self() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
