"""Records of runs that never ran, for the tests of reports."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.compare.records import RESULTS, MachineRecord, ReplayRecord, RunRecord
from meldopt.gap import relative_gap

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = MachineRecord(
    cpu="A CPU & more",
    cores=2,
    memory_bytes=24 * 2**30,
    python="3.11.7",
    system="Linux",
)


def fingerprint(*parts: object) -> str:
    """Return a digest of anything."""
    return "sha256:" + hashlib.sha256(repr(parts).encode()).hexdigest()


def record(
    instance: str, label: str, objective: float | None, **changes: Any
) -> RunRecord:
    """Return a feasible run with that objective; without one it found nothing."""
    seed = changes.get("seed", 0)
    solve = fingerprint(instance, label, seed, changes.get("time_limit_s", 10.0))
    values: dict[str, Any] = {
        "key": fingerprint(solve, changes.get("train"), changes.get("shares")),
        "solve": solve,
        "instance": instance,
        "instance_digest": fingerprint(instance),
        "family": instance.rpartition("/")[0],
        "dataflow": "home",
        "layers": 2,
        "experts": 8,
        "servers": 2,
        "demands": 1,
        "formats": 2,
        "solver": label.partition(" ")[0],
        "kind": "search",
        "label": label,
        "options": {},
        "seed": 0,
        "threads": None,
        "time_limit_s": 10.0,
        "work": None,
        "train": None,
        "train_digest": None,
        "shares": "own",
        "status": "unknown" if objective is None else "feasible",
        "stop_reason": "criterion",
        "error": None,
        "objective": objective,
        "bound": None,
        "gap": None,
        "terms": {} if objective is None else {"serial": objective, "quality": 0.01},
        "violations": [],
        "ignored": [],
        "trained": None,
        "history": [] if objective is None else [(1.0, objective, None)],
        "runtime_s": 2.0,
        "cpu_s": 2.0,
        "memory_bytes": 2**28,
        "replay": {},
        "plan": None,
        "plan_digest": None,
        "versions": {"meldopt": "0.1.0"},
        "machine": MACHINE,
        "finished": "2026-11-27T12:00:00Z",
    } | changes
    if values["gap"] is None and objective is not None:
        values["gap"] = relative_gap(objective, values["bound"])
    return RunRecord(**values)


def replayed(mean_s: float) -> ReplayRecord:
    """Return a replay whose 99th percentile is twice its mean."""
    return ReplayRecord(
        mode="analytic",
        digest=fingerprint("trace"),
        mean_s=mean_s,
        p50_s=mean_s,
        p95_s=1.5 * mean_s,
        p99_s=2 * mean_s,
    )


def write_records(folder: Path, records: list[RunRecord]) -> Path:
    """Write a folder of results."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = b"".join(msgspec.json.encode(one) + b"\n" for one in records)
    (folder / RESULTS).write_bytes(lines)
    return folder


def many(solvers: int = 30, instances: int = 12, seeds: int = 2) -> list[RunRecord]:
    """Return runs of many solvers: good and bad ones, some of which fail."""
    rng = np.random.default_rng(7)
    records = []
    for n in range(instances):
        name = f"family_{n % 3}/instance_{n}"
        base = float(rng.uniform(0.01, 10.0))
        for k in range(solvers):
            label = f"method-{k:02d}" + (" + repair" if k % 7 == 3 else "")
            skill = 1 + 0.02 * k
            for seed in range(seeds):
                luck = float(rng.lognormal(0.0, 0.03))
                fate = rng.uniform()
                changes: dict[str, Any] = {"seed": seed, "runtime_s": 0.2 + 0.3 * k}
                objective: float | None = base * max(1.0, skill * luck)
                assert objective is not None
                start = float(rng.uniform(0.01, 0.5))
                changes["history"] = [
                    (start, 2 * objective, 0.5 * base),
                    (4 * start, 1.2 * objective, 0.9 * base),
                    (8 * start, objective, 0.95 * base),
                ]
                if k % 3 == 0:
                    changes["bound"] = 0.95 * base
                if k >= 25 and fate < 0.4:
                    changes |= {"status": "violating", "gap": None}
                elif fate < 0.02:
                    changes |= {"status": "crashed", "error": "died of signal 9"}
                    objective = None
                records.append(record(name, label, objective, **changes))
    return records
