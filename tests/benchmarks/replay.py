"""Benchmarks of replay: speed of both modes, and memory of a long trace.

Each runs in a process of its own. Times are wall-clock after one warm-up, the best of
several runs. Beside the speed of the analytic mode stands what the memory would allow:
the rate at which the same cores read an array, divided by the bytes of a call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SETUP = """
import json, resource, sys, time
import numba
import numpy as np
from meldopt.builder import build_problem
from meldopt.generate.arrivals import RequestTable
from meldopt.generate.traces import synthetic_trace
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import read_plan
from meldopt.replay.match import match
from meldopt.trace import Chunk, Requests, Trace

def case(name, requests, prompt, output, share):
    instance = read_instance(name)
    problem = build_problem(instance)
    plan = read_plan(best_plan(name), problem)
    rng = np.random.default_rng(0)
    rate = share * problem.rate.sum() / (prompt + output - 1)
    table = RequestTable(
        arrival_s=np.cumsum(rng.exponential(1 / rate, requests)),
        prompt_tokens=np.full(requests, prompt),
        output_tokens=np.full(requests, output),
    )
    trace = synthetic_trace(instance, table, seed=0)
    trace = Trace.of(trace.header, trace.requests, trace.load())
    return instance, problem, plan, trace, match(problem, trace, instance=instance)

def best(function, times):
    function()
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        spent.append(time.perf_counter() - begun)
    return min(spent)
"""

ANALYTIC = """
from meldopt.replay.analytic import AnalyticTables
from meldopt.replay.match import token_chunks
_, problem, plan, trace, found = case("deepseek-v3/metro-16", 128, 96, 32, 1.0)
tables = AnalyticTables(problem, plan)
chunks = [(experts, demand) for _, experts, demand in token_chunks(trace, found)]
out = np.empty((2, trace.num_tokens))

def run():
    for experts, demand in chunks:
        size = len(demand)
        tables.chunk(experts, demand, found.layer, 0, out[0, :size], out[1, :size])

calls = sum(experts.size for experts, _ in chunks)

@numba.njit(parallel=True)
def read(array):
    total = 0
    for n in numba.prange(len(array)):
        total += array[n]
    return total

array = np.ones(1 << 25, dtype=np.int64)
print(json.dumps({
    "calls": calls / best(run, 7),
    "limit": array.nbytes / best(lambda: read(array), 7) / chunks[0][0].itemsize,
}))
"""

EVENTS = """
from meldopt.replay.backbone import backbone_of
from meldopt.replay.events import replay_events
instance, problem, plan, trace, found = case("deepseek-v3/metro-16", 256, 96, 32, 0.5)
backbone = backbone_of(instance, problem)
done = []

def run():
    done.append(replay_events(problem, plan, trace, found, backbone=backbone))

seconds = best(run, 3)
print(json.dumps({
    "calls": done[-1].calls / seconds, "events": done[-1].events / seconds,
}))
"""

LONG = """
from meldopt.replay.analytic import replay_analytic
from meldopt.replay.events import replay_events
TOKENS = 10_000_000
_, problem, plan, short, _ = case("tinymoe/edge-4", 400, 128, 128, 1.0)
rows = short.load()
requests = TOKENS // 256
each = np.full(requests, 128)
table = short.requests

def source():
    for n in range(0, requests, 200):
        of = np.repeat(np.arange(n, min(n + 200, requests)), 256)
        yield Chunk(
            experts=rows.experts[: len(of)],
            gates=rows.gates[: len(of)],
            token_request=of,
        )

import msgspec
header = msgspec.structs.replace(
    short.header, tokens=requests * 256, requests=requests, digest=""
)
trace = Trace(
    header=header,
    requests=Requests(
        arrival_s=np.arange(requests) * 256 / problem.rate.sum(),
        application=np.resize(table.application, requests),
        home=np.resize(table.home, requests),
        prompt_tokens=each,
        output_tokens=each,
    ),
    source=source,
)
found = match(problem, trace)
if MODE == "analytic":
    begun = time.perf_counter()
    done = replay_analytic(problem, plan, trace, found).num_tokens
else:
    begun = time.perf_counter()
    done = int(replay_events(problem, plan, trace, found).tokens.sum()) + requests
seconds = time.perf_counter() - begun
assert done == requests * 256
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"peak": peak, "seconds": seconds}))
"""


def _python(code: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code],
        capture_output=True,
        text=True,
        env={"NUMBA_NUM_THREADS": "2"} | os.environ,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def targets() -> Iterator[tuple[str, float, float, bool]]:
    """Measure; yields name with unit, what was measured, target, whether it is met.

    Speeds must reach their targets, memory must stay below its own; the limit of the
    memory has no target, and stands there as 0.
    """
    found = _python(ANALYTIC)
    millions = found["calls"] / 1e6
    yield "analytic, deepseek-v3/metro-16, M calls/s", millions, 100, millions >= 100
    yield "memory would allow, M calls/s", found["limit"] / 1e6, 0, True
    found = _python(EVENTS)
    millions = found["calls"] / 1e6
    yield "events, deepseek-v3/metro-16, M calls/s", millions, 5, millions >= 5
    for mode in ("analytic", "events"):
        found = _python(f"MODE = {mode!r}\n{LONG}")
        peak = found["peak"]
        yield f"10 M tokens, {mode}: peak memory, GiB", peak, 1, peak < 1


if __name__ == "__main__":
    for row in targets():
        print(*row, flush=True)
