"""Certified plans: gap and time on the hard instances, and beside peers.

    python -m tests.benchmarks.certified table      the hard instances, with `auto`
    python -m tests.benchmarks.certified peers [S]  beside others, S seconds each

Each run is a process of its own. All print Markdown; progress goes to stderr.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGETS: dict[str, tuple[float, float, float]] = {
    "mixtral-8x7b/metro-4": (0.5, 60, 4),
    "mixtral-8x7b/metro-10": (0.5, 60, 4),
    "olmoe-1b-7b/metro-6": (0.5, 60, 4),
    "gpt-oss-20b/metro-8": (0.5, 60, 4),
    "qwen3-30b-a3b/metro-10": (0.5, 60, 4),
    "deepseek-v3/metro-16": (1.0, 120, 4),
    "kimi-k2/metro-32": (2.0, 300, 6),
}
"""Gap in percent, seconds and GiB of each hard instance, at most."""

SOLVE = """
import json, resource, sys, time
from meldopt.solver import solve
name, solver, seconds, options = json.loads(sys.argv[1])
history = []
def watch(progress):
    history.append((progress.elapsed_s, progress.objective, progress.bound))
begun = time.perf_counter()
result = solve(name, solver, time_limit=seconds, options=options, on_progress=watch)
wall = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
finite = result.plan is not None and result.feasible
print(json.dumps({
    "objective": result.objective if finite else None,
    "bound": result.bound,
    "gap": result.gap,
    "wall": wall,
    "peak": peak,
    "history": [row for row in history if row[2] is not None and row[1] < 1e300],
}))
"""


def run(
    name: str, solver: str, seconds: float, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Solve in a new process; returns objective, bound, gap, time, memory, history."""
    argument = json.dumps([name, solver, seconds, options or {}])
    done = subprocess.run(
        [sys.executable, "-c", SOLVE, argument],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{name} {solver}: {last}", file=sys.stderr)
        return {"objective": None, "bound": None, "gap": None}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def first_within(history: list[tuple[float, float, float]], gap: float) -> float | None:
    """Return when a history first had a gap in percent, or None."""
    for elapsed, objective, bound in history:
        if objective and (objective - bound) / abs(objective) <= gap / 100:
            return elapsed
    return None


def targets() -> Iterator[tuple[str, float | None, float, str]]:
    """Yield what was measured on each hard instance, its target, and the unit."""
    for name, (gap, seconds, memory) in TARGETS.items():
        found = run(name, "auto", seconds)
        value = None if found["gap"] is None else 100 * found["gap"]
        yield f"{name}, auto, {seconds:g} s: gap", value, gap, "%"
        if memory and found["gap"] is not None:
            yield f"{name}, auto: peak memory", found["peak"], memory, "GiB"


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def table() -> None:
    """Print what `auto` reaches, and when it first was within 1, 0.5 and 0.2 %."""
    print(
        "| instance | limit | objective | bound | gap | within 1 % | 0.5 % | 0.2 % "
        "| memory |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for name, (_, seconds, _) in TARGETS.items():
        found = run(name, "auto", seconds)
        when = [first_within(found.get("history", []), gap) for gap in (1, 0.5, 0.2)]
        cells = [
            name,
            f"{seconds:g} s",
            number(found["objective"], 6),
            number(found["bound"], 6),
            "–" if found["gap"] is None else f"{100 * found['gap']:.3f} %",
            *("–" if t is None else f"{t:.0f} s" for t in when),
            f"{number(found.get('peak'), 2)} GiB",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


PEERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("auto", "auto", {}),
    ("HiGHS", "milp", {}),
    ("CBC", "milp", {"engine": "cbc"}),
    ("CP-SAT", "cpsat", {}),
)


def peers(seconds: float = 60.0) -> None:
    """Print objective and bound of all, on the whole model at equal time."""
    names = list(TARGETS)[:2]
    print("| instance | " + " | ".join(label for label, _, _ in PEERS) + " |")
    print("|---|" + "---|" * len(PEERS))
    for name in names:
        cells = [name]
        for _, solver, options in PEERS:
            found = run(name, solver, seconds, options)
            gap = "–" if found["gap"] is None else f"{100 * found['gap']:.3f} %"
            cells.append(
                f"{number(found['objective'], 6)} / {number(found['bound'], 6)}, {gap}"
            )
        print("| " + " | ".join(cells) + " |", flush=True)


def main(arguments: list[str]) -> int:
    """Run one of the tables."""
    match arguments:
        case ["table"]:
            table()
        case ["peers", *seconds] if len(seconds) <= 1:
            peers(*map(float, seconds))
        case _:
            print("error: expected table or peers [SECONDS]", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
