"""Replay without contention: `serial` and `parallel` of every token of a trace.

Each token is looked up in tables that are made once from the plan: what `score` says of
a sample, for a whole trace, streaming. The tables are small enough for the cache; the
tokens are read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from .compiled import kernel, part
from .match import token_chunks
from .options import SERVED, options_of, serial_costs
from .roam import RoamTables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.trace import Trace

    from .match import Match
    from .options import Options

prange: Any = numba.prange

_ROW = np.dtype([("cost", "f8"), ("work", "f8"), ("code", "i8")])
"""Of a (demand, expert): seconds in `serial`, seconds of work, and who answers.

``code`` is 2 s for server s, 2 s + 1 if a similar expert answers there, -1 if nobody
does, and -2 if the token's hash decides among several options.
"""


_OPTION = np.dtype([("edge", "f8"), ("work", "f8"), ("fused", "f8"), ("code", "i8")])
"""One of several options: shares summed up, seconds, part fused, and ``code``."""

_NETWORK = np.dtype([("full", "f8"), ("fused", "f8")])
"""Latency and bytes both ways to a server and back, of a call and of a fused one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Analytic:
    """What `replay_analytic` found; one entry for each of T recorded tokens.

    Attributes
    ----------
    serial_s
        Seconds of the token if the calls of a layer ran one after the other, each the
        mean over its shares; (T,).
    parallel_s
        Seconds with the calls of a layer side by side, copies drawn by the hash; (T,).
    demand
        Of the token; (T,).
    application_of
        Application of each demand; (Q,).
    top_k, num_layers
        Calls of a token in a layer, and layers.
    """

    serial_s: NDArray[np.float64]  # (T,)
    parallel_s: NDArray[np.float64]  # (T,)
    demand: NDArray[np.int32]  # (T,)
    application_of: NDArray[np.int64]  # (Q,)
    top_k: int
    num_layers: int

    @property
    def num_tokens(self) -> int:
        """Recorded tokens."""
        return len(self.serial_s)

    @property
    def num_calls(self) -> int:
        """Expert calls of all tokens."""
        return self.num_tokens * self.num_layers * self.top_k

    def mean(self, term: str) -> float:
        """Mean seconds per token of ``"serial"`` or ``"parallel"``."""
        return float(self._values(term).mean())

    def quantiles(self, term: str, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Quantiles over tokens of ``"serial"`` or ``"parallel"``, at levels 0 to 1."""
        found: NDArray[np.float64] = np.quantile(self._values(term), levels)
        return found

    def by_application(self, term: str) -> NDArray[np.float64]:
        """Mean seconds per token of each application, (G,); nan without tokens."""
        of = self.application_of[self.demand]
        size = int(self.application_of.max(initial=-1)) + 1
        count = np.bincount(of, minlength=size).astype(np.float64)
        total = np.bincount(of, weights=self._values(term), minlength=size)
        with np.errstate(invalid="ignore"):
            means: NDArray[np.float64] = total / count
        return means

    def _values(self, term: str) -> NDArray[np.float64]:
        return {"serial": self.serial_s, "parallel": self.parallel_s}[term]


def replay_analytic(
    problem: Problem, plan: Plan, trace: Trace, found: Match
) -> Analytic:
    """Time every recorded token of a trace under a plan, without contention.

    Parameters
    ----------
    problem, plan
        Of one instance. In `roam` a token walks from primary to primary; `score` knows
        no `parallel` there.
    trace
        Is streamed once; tokens are numbered in its order for the hash.
    found
        From `match`.

    Raises
    ------
    PlanError
        In `roam`, if an expert has no copy.
    TraceError
        At the first fault of the trace.
    """
    tables: AnalyticTables | RoamTables
    if problem.dataflow == "roam":
        tables = RoamTables(problem, plan)
    else:
        tables = AnalyticTables(problem, plan)
    serial, parallel = np.empty((2, trace.num_tokens))
    demands = np.empty(trace.num_tokens, dtype=np.int32)
    done = 0
    for _, experts, demand in token_chunks(trace, found):
        mine = slice(done, done + len(demand))
        demands[mine] = demand
        tables.chunk(experts, demand, found.layer, done, serial[mine], parallel[mine])
        done += len(demand)
    return Analytic(
        serial_s=serial,
        parallel_s=parallel,
        demand=demands,
        application_of=problem.application_of,
        top_k=trace.header.top_k,
        num_layers=problem.num_layers,
    )


class AnalyticTables:
    """What the kernel looks up: made once, used for every chunk."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        options = options_of(problem, plan)
        server = _servers(problem, plan, options)
        self.problem = problem
        self.start = options.start
        self.rows = _rows(problem, plan, options, server)
        self.options = np.zeros(len(server), dtype=_OPTION)
        self.options["edge"] = options.edge
        self.options["work"] = options.work
        self.options["fused"] = options.fused
        self.options["code"] = np.where(
            server < 0, -1, 2 * server + (options.kind != SERVED)
        )
        # A fused call of zero bytes still takes the latency.
        trip = np.where(problem.reachable, problem.round_trip_s, np.inf)
        self.network = np.zeros(trip.shape, dtype=_NETWORK)
        self.network["full"] = trip + problem.transfer_s
        self.network["fused"] = trip + problem.fuse_factor * problem.transfer_s

    def chunk(
        self,
        experts: NDArray[np.uint16],
        demand: NDArray[np.int64],
        layer: NDArray[np.int64],
        first_token: int,
        serial: NDArray[np.float64],
        parallel: NDArray[np.float64],
    ) -> None:
        """Fill in `serial` and `parallel` of consecutive tokens; (T,), (T,)."""
        _chunk(
            experts,
            demand,
            layer,
            self.problem.layer_start,
            first_token,
            self.rows,
            self.start,
            self.options,
            self.network,
            serial,
            parallel,
        )


def _servers(problem: Problem, plan: Plan, options: Options) -> NDArray[np.int64]:
    """Return the server of each option; -1 if pruned."""
    if not len(plan.copies):
        return np.full(len(options.copy), -1, dtype=np.int64)
    server = problem.server_of[plan.copies[np.maximum(options.copy, 0), 1]]
    return np.where(options.copy >= 0, server, -1)


def _rows(
    problem: Problem, plan: Plan, options: Options, server: NDArray[np.int64]
) -> NDArray[np.void]:
    rows = np.zeros(problem.num_demands * problem.num_experts, dtype=_ROW)
    rows["cost"] = serial_costs(problem, plan)
    count = np.diff(options.start)
    rows["code"] = np.where(count == 0, -1, -2)
    only = options.start[:-1][count == 1]
    plain = (options.copy[only] >= 0) & (options.fused[only] == 0)
    code = 2 * server[only] + (options.kind[only] != SERVED)
    code = np.where(plain, code, np.where(options.copy[only] < 0, -1, -2))
    rows["code"][count == 1] = code
    rows["work"][count == 1] = options.work[only]
    return rows


def _mix(token: int, expert: int, salt: int) -> float:
    """`score.token_hash` of one call."""
    x = (
        np.uint64(token) * np.uint64(0x9E3779B97F4A7C15)
        + np.uint64(expert) * np.uint64(0xBF58476D1CE4E5B9)
        + np.uint64(salt) * np.uint64(0x94D049BB133111EB)
    )
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return np.float64(x >> np.uint64(11)) / 9007199254740992.0


mix: Any = part(_mix)


def _chunk_times(
    experts: Any,
    demand: Any,
    layer: Any,
    layer_start: Any,
    first_token: Any,
    rows: Any,
    start: Any,
    options: Any,
    network: Any,
    serial: Any,
    parallel: Any,
) -> None:
    num_t, num_k = len(demand), experts.shape[2]
    num_l, num_n = len(layer), layer_start[-1]
    blocks = max(1, min(64, num_t // 256))
    for block in prange(blocks):
        work = np.zeros(network.shape[2])  # of the calls that a server got
        net = np.zeros(network.shape[2])  # latency and bytes of them
        seen = np.full(network.shape[2], -1)
        for t in range(num_t * block // blocks, num_t * (block + 1) // blocks):
            q = demand[t]
            total, slowest_sum = 0.0, 0.0
            for l in range(num_l):  # noqa: E741
                at = layer[l]
                base = q * num_n + layer_start[l]
                stamp = t * num_l + l
                slowest = 0.0
                for k in range(num_k):
                    key = base + experts[t, at, k]
                    row = rows[key]
                    total += row.cost
                    code = row.code
                    busy = row.work
                    fused = False
                    if code == -2:
                        low, high = start[key], start[key + 1]
                        before = options[low - 1].edge if low > 0 else 0.0
                        draw = mix(first_token + t, key - q * num_n, 1)
                        target = before + draw * (options[high - 1].edge - before)
                        while low < high - 1 and options[low].edge <= target:
                            low += 1
                        option = options[low]
                        code = option.code
                        busy = option.work
                        if option.fused > 0:
                            draw = mix(first_token + t, key - q * num_n, 2)
                            fused = draw < option.fused
                    if code < 0:
                        continue
                    s = code >> 1
                    way = 0.0
                    if code & 1 == 0:
                        way = network[q, l, s].fused if fused else network[q, l, s].full
                    if seen[s] == stamp:
                        work[s] += busy
                        net[s] = max(net[s], way)
                    else:
                        seen[s] = stamp
                        work[s] = busy
                        net[s] = way
                    slowest = max(slowest, net[s] + work[s])
                slowest_sum += slowest
            serial[t] = total
            parallel[t] = slowest_sum


_chunk: Any = kernel(_chunk_times, parallel=True)
