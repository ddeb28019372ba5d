"""A small twin of the big comparison: killed twice in its midst, it ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from meldopt.builder import build_problem
from meldopt.compare.records import RESULTS, read_records
from meldopt.instance import write_instance
from meldopt.solver import solve
from meldopt.testing import contract_instance

if TYPE_CHECKING:
    from collections.abc import Callable

INSTANCES = ("tight", "roam")
SEEDS = 2
PATIENCE_S = 120.0


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for a condition; fail if the process ends before, or much time passes."""
    end = monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert monotonic() < end
        threading.Event().wait(0.02)


@pytest.fixture
def start(wild: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Return a function that starts ``meldopt compare`` as a process of its own."""
    for kind in INSTANCES:
        write_instance(contract_instance(kind), tmp_path / f"{kind}.json")

    def begin(*arguments: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "meldopt", "compare", "-q", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(wild)},
            stdout=subprocess.DEVNULL,
        )

    return begin


def test_killed_and_started_again(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """After kill -9 and a torn line the table is whole, and no finished run is redone.

    Every solve appends a line to the log of its method, so that solves are counted.
    """
    logs = {
        name: tmp_path / f"{name}.log"
        for name in ("steady", "exit", "raise", "violating", "empty")
    }
    labels = {
        name: f"steady[log={log}]"
        if name == "steady"
        else f"wild[log={log},mode={name}]"
        for name, log in logs.items()
    }
    command = [
        *(f"{kind}.json" for kind in INSTANCES),
        *("-s", ",".join(labels.values())),
        *("--seeds", SEEDS, "-t", 60, "--jobs", 2, "-o", "out"),
    ]
    total = len(INSTANCES) * len(labels) * SEEDS
    results = tmp_path / "out" / RESULTS

    def lines() -> int:
        return results.read_bytes().count(b"\n") if results.exists() else 0

    def solves() -> Counter[tuple[str, str]]:
        return Counter(
            (labels[name], line)
            for name, log in logs.items()
            if log.exists()
            for line in log.read_text().splitlines()
        )

    settled = {}
    for wanted in (4, 9):
        process = start(*command)
        until(lambda wanted=wanted: lines() >= wanted, process)  # type: ignore[misc]
        process.kill()
        process.wait()
        with results.open("ab") as file:
            file.write(b'{"format_version":1,"key":"sha25')
        counts = solves()
        for one in read_records(results):
            case = one.label, f"{one.instance} {one.seed}"
            settled[case] = counts[case]
    assert start(*command).wait() == 0

    records = read_records(tmp_path / "out")
    assert len(records) == total
    assert {one.status for one in records if one.label == labels["exit"]} == {"crashed"}
    assert {one.error for one in records if one.label == labels["raise"]} == {
        "ZeroDivisionError: all is lost"
    }
    for one in records:
        if one.label != labels["steady"]:
            continue
        if one.dataflow == "roam":
            assert one.status == "refused"
            continue
        problem = build_problem(contract_instance(one.instance.split("-")[1]))
        expected = solve(problem, "steady", time_limit=60, seed=one.seed)
        assert (one.status, one.objective) == ("feasible", expected.objective)

    counts = solves()
    assert {case: counts[case] for case in settled} == settled
    # The toy that does not roam is refused unasked; each kill hits two runs at most.
    assert sum(counts.values()) <= total - SEEDS + 2 * 2


def test_processes_of_a_killed_comparison_end(
    start: Callable[..., subprocess.Popen[bytes]],
    has_ended: Callable[[int], bool],
    tmp_path: Path,
) -> None:
    """kill -9 of a comparison ends the runs in progress and their children too."""
    log = tmp_path / "log"
    process = start("tight.json", "-s", f"wild[mode=hang,log={log}]", "-t", "inf")
    until(lambda: log.exists() and log.read_text().count("\n") == 2, process)
    process.kill()
    process.wait()
    child = Path(f"/proc/{log.read_text().splitlines()[-1]}/stat")
    end = monotonic() + PATIENCE_S
    while (
        child.exists() and child.read_text().rpartition(")")[2].split()[0] not in "ZX"
    ):
        assert monotonic() < end
        threading.Event().wait(0.02)


def test_an_interrupted_comparison_keeps_what_is_finished(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """Ctrl-C ends it with 130 after the first record; a second start ends it with 0."""
    go = tmp_path / "go"
    command = ["tight.json", "-s", "steady", "-s", f"steady[wait={go}]", "-t", "inf"]
    command += ["--jobs", "1", "-o", "out"]
    process = start(*command)
    results = tmp_path / "out" / RESULTS
    until(lambda: results.exists() and results.stat().st_size > 0, process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert [one.label for one in read_records(results)] == ["steady"]
    go.touch()
    assert start(*command).wait() == 0
    assert len(read_records(results)) == 2
