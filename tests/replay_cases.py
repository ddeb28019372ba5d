"""Traces that tests of replay run: samples of an instance, and drawn ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from meldopt.builder import build_problem
from meldopt.instance import Instance, InstanceSpec
from meldopt.plan import Plan
from meldopt.trace import Chunk, Requests, Trace, TraceHeader

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from meldopt.problem import Problem


def header_of(problem: Problem, top_k: int, **changes: Any) -> TraceHeader:
    """Return a header with all names of a problem."""
    fields: dict[str, Any] = {
        "name": "drawn",
        "applications": problem.labels.applications,
        "homes": problem.labels.servers,
        "experts": tuple(np.diff(problem.layer_start).tolist()),
        "top_k": top_k,
        "layer_ids": tuple(problem.layer_ids.tolist()),
        "prompt_recorded": True,
    }
    return TraceHeader(**fields | changes)


def sample_trace(problem: Problem) -> Trace:
    """Return the problem's sampled tokens as requests of one decoded token each."""
    experts = problem.sample_experts - problem.layer_start[None, :-1, None]
    count = len(experts)
    return Trace.of(
        header_of(problem, experts.shape[2]),
        Requests(
            arrival_s=np.arange(count, dtype=np.float64),
            application=problem.application_of[problem.sample_demand],
            home=problem.home_of[problem.sample_demand],
            prompt_tokens=np.zeros(count, dtype=np.int64),
            output_tokens=np.ones(count, dtype=np.int64),
        ),
        Chunk(
            experts=experts.astype(np.uint16),
            gates=np.ones(experts.shape, dtype=np.float16),
            token_request=np.arange(count),
        ),
    )


def drawn_trace(
    problem: Problem,
    seed: int,
    *,
    requests: int = 20,
    prompt: int = 3,
    output: ArrayLike = 4,
    rate: float | None = None,
    arrivals: ArrayLike | None = None,
    signatures: bool = False,
    recorded: bool = True,
    demand: int | None = None,
    top_k: int | None = None,
) -> Trace:
    """Draw a trace by the calls of a problem.

    Without ``rate`` (requests/s) or ``arrivals`` a request comes only when all before
    it are long gone.
    """
    rng = np.random.default_rng(seed)
    k = top_k or round(float(problem.calls[0][: problem.layer_start[1]].sum()))
    weight = problem.rate / problem.rate.sum()
    q = rng.choice(problem.num_demands, requests, p=weight)
    if demand is not None:
        q[:] = demand
    outputs = np.broadcast_to(np.asarray(output, dtype=np.int64), requests)
    rows = outputs + (prompt if recorded else 0)
    of = np.repeat(np.arange(requests), rows)
    experts = np.empty((len(of), problem.num_layers, k), dtype=np.uint16)
    for layer in range(problem.num_layers):
        inside = slice(*problem.layer_start[layer : layer + 2])
        with np.errstate(divide="ignore"):
            score = np.log(problem.calls[problem.application_of[q[of]], inside])
        score = score + rng.gumbel(size=score.shape)
        experts[:, layer] = np.argsort(-score, axis=1)[:, :k]
    gates = np.sort(rng.random(experts.shape), axis=2)[:, :, ::-1].astype(np.float16)
    if arrivals is None:
        gaps = (
            np.full(requests, 1e6)
            if rate is None
            else rng.exponential(1 / rate, requests)
        )
        arrivals = np.cumsum(gaps)
    signature = None
    if signatures:
        bits = rng.integers(0, 2**63, (len(of), problem.num_layers), dtype=np.int64)
        signature = bits.astype(np.uint64)
    return Trace.of(
        header_of(
            problem,
            k,
            prompt_recorded=recorded,
            signature_bits=64 if signatures else 0,
        ),
        Requests(
            arrival_s=np.asarray(arrivals, dtype=np.float64),
            application=problem.application_of[q],
            home=problem.home_of[q],
            prompt_tokens=np.full(requests, prompt),
            output_tokens=outputs,
        ),
        Chunk(experts=experts, gates=gates, token_request=of, signature=signature),
    )


def plain_plan(problem: Problem, copies: ArrayLike) -> Plan:
    """Return a plan with the default rule of shares."""
    rows = sorted(map(tuple, np.asarray(copies).tolist()))
    return Plan.of(problem, np.array(rows, dtype=np.int64).reshape(-1, 3))


STAR: dict[str, Any] = {
    "format_version": 1,
    "name": "star",
    "model": {
        "layers": 1,
        "experts": 1,
        "top_k": 1.0,
        "parameters_per_expert": 10.0,
        "bytes_out": 1000.0,
        "bytes_back": 0.0,
    },
    "formats": [{"name": "full", "bits_per_weight": 8.0}],
    "cluster": {
        "servers": [
            {"name": name, "tiers": {"gpu": {"capacity": 1e9, "read": read}}}
            for name, read in (("a", 1e9), ("b", 1e9), ("hub", 1e9), ("far", 1e9))
        ],
        "links": [
            {"between": ["a", "hub"], "bandwidth": 1e12},
            {"between": ["b", "hub"], "bandwidth": 1e12},
            {"between": ["hub", "far"], "bandwidth": 1e4},
        ],
    },
    "workload": {
        "applications": [{"name": "chat"}],
        "demands": [
            {"application": "chat", "home": "a", "rate": 1.0},
            {"application": "chat", "home": "b", "rate": 1.0},
        ],
    },
    "limits": {"busy": 100.0, "link_busy": 100.0},
}
"""Two homes that share one slow link: 1000 bytes take 0.1 s on it, all else is fast."""


def star(**changes: Any) -> Problem:
    """Return the star as a problem, with keys of its parts changed."""
    written = msgspec.json.decode(msgspec.json.encode(STAR))
    for part, values in changes.items():
        written[part].update(values)
    return build_problem(Instance(spec=msgspec.convert(written, InstanceSpec)))
