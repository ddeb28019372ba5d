"""`make bench`: one line per target, with what was measured; JSON beside it.

Each benchmark runs in a process of its own, so that times include imports and memory
is that of the run alone. Figures are those of the machine they ran on; the summary
names it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import certified, replay

if TYPE_CHECKING:
    from collections.abc import Callable

OUTPUT = Path("build/bench.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One figure against its target; both in ``unit``."""

    name: str
    what: str
    value: float | None
    target: float
    unit: str
    at_least: bool = False

    @property
    def ok(self) -> bool:
        """Whether something was measured and meets the target."""
        if self.value is None:
            return False
        if self.at_least:
            return self.value >= self.target
        return self.value <= self.target

    def line(self) -> str:
        """Return the line for people."""
        value = "none" if self.value is None else f"{self.value:.4g}"
        verdict = "ok" if self.ok else "miss"
        return (
            f"{self.name:<16} {self.what:<42} {value:>9} {self.unit:<4} "
            f"target {self.target:>6g} {self.unit:<4} {verdict}"
        )


def _python(code: str, **environment: str) -> dict[str, float]:
    """Run code in a new interpreter; its last line of output is a JSON object."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _solve(
    instance: str, solver: str, seconds: float, **environment: str
) -> dict[str, Any]:
    """Run the CLI; returns its JSON object with the wall-clock of the process."""
    begun = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "meldopt",
            "solve",
            instance,
            *("-s", solver, "-t", str(seconds), "--seed", "0", "--json", "-q"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    wall = time.perf_counter() - begun
    if not done.stdout.strip():
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout) | {"wall_s": wall}


def mixtral() -> list[Measured]:
    """Solve `mixtral-8x7b/metro-4` exactly."""
    found = _solve("mixtral-8x7b/metro-4", "milp", 60)
    gap = found["gap"]
    return [
        Measured(
            name="mixtral",
            what="metro-4, milp, 60 s: gap",
            value=None if gap is None else 100 * gap,
            target=0.5,
            unit="%",
        )
    ]


def deepseek_build() -> list[Measured]:
    """Read DeepSeek-V3 on 16 servers and index it."""
    found = _python(
        "import json, resource, time\n"
        "begun = time.perf_counter()\n"
        "from meldopt.builder import build_problem\n"
        "from meldopt.instance import read_instance\n"
        "build_problem(read_instance('deepseek-v3/metro-16'))\n"
        "wall = time.perf_counter() - begun\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "print(json.dumps({'wall': wall, 'peak': peak}))\n"
    )
    return [
        Measured(
            name="deepseek-build",
            what="metro-16, instance to Problem: time",
            value=found["wall"],
            target=3,
            unit="s",
        ),
        Measured(
            name="deepseek-build",
            what="metro-16, instance to Problem: peak memory",
            value=found["peak"],
            target=1,
            unit="GiB",
        ),
    ]


def deepseek_local() -> list[Measured]:
    """Plan DeepSeek-V3 on 16 servers with greedy and local search."""
    found = _solve("deepseek-v3/metro-16", "local", 25)
    feasible = found["status"] in ("feasible", "optimal")
    return [
        Measured(
            name="deepseek-local",
            what="metro-16, greedy + local, feasible: time",
            value=found["wall_s"] if feasible else None,
            target=30,
            unit="s",
        )
    ]


def cli_help() -> list[Measured]:
    """Answer `meldopt --help`: the median of seven runs."""
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "meldopt", "--help"], capture_output=True, check=True
        )
        times.append(time.perf_counter() - begun)
    return [
        Measured(
            name="help",
            what="meldopt --help, median of 7",
            value=sorted(times)[3],
            target=0.3,
            unit="s",
        )
    ]


def first_solve() -> list[Measured]:
    """Compile nothing for small instances, and little for large ones.

    An empty cache of compiled kernels is what a fresh machine has. What compilation
    costs is the first run less the second, both to the same deterministic end.
    """
    measured = []
    for instance, target in (("tiny/memory", 0.5), ("mixtral-8x7b/metro-4", 5.0)):
        with tempfile.TemporaryDirectory() as cache:
            first, second = (
                _solve(instance, "greedy", 30, NUMBA_CACHE_DIR=cache)["wall_s"]
                for _ in range(2)
            )
        measured.append(
            Measured(
                name="first-solve",
                what=f"{instance}, greedy: compilation",
                value=max(first - second, 0.0),
                target=target,
                unit="s",
            )
        )
    return measured


def certified_plans() -> list[Measured]:
    """Reach the gaps on the hard instances, with `auto`."""
    return [
        Measured(name="certified", what=what, value=value, target=target, unit=unit)
        for what, value, target, unit in certified.targets()
    ]


def replay_speed() -> list[Measured]:
    """Replay a trace in both modes: speed and memory."""
    rows = []
    for what, value, target, _ in replay.targets():
        memory = "GiB" in what
        rows.append(
            Measured(
                name="replay",
                what=what,
                value=value,
                target=target,
                unit="GiB" if memory else "/s",
                at_least=not memory,
            )
        )
    return rows


BENCHMARKS: dict[str, Callable[[], list[Measured]]] = {
    "help": cli_help,
    "first-solve": first_solve,
    "mixtral": mixtral,
    "deepseek-build": deepseek_build,
    "deepseek-local": deepseek_local,
    "certified": certified_plans,
    "replay": replay_speed,
}


def machine() -> dict[str, str]:
    """Say where and with what the figures were measured."""
    from importlib.metadata import version

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = ("meldopt", "numpy", "highspy", "ortools", "PuLP", "numba")
    return {
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    } | {name: version(name) for name in packages}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; returns 1 if a target is missed."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"error: got {unknown[0]!r}, expected one of {', '.join(BENCHMARKS)}")
        return 2
    rows: list[Measured] = []
    for name in names or BENCHMARKS:
        for row in BENCHMARKS[name]():
            rows.append(row)
            print(row.line(), flush=True)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine(),
        "targets": [asdict(row) | {"ok": row.ok} for row in rows],
    }
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written to {OUTPUT}; machine: {document['machine']}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
