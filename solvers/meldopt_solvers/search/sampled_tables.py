"""Problem -> `SampledTables`, `SampledState`: what the search on samples works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import token_hash

from .kernels import NONE
from .sampled_kernels import SampledState, SampledTables
from .tables import objective_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .kernels import Tables


def sampled_tables(problem: Problem, t: Tables, most: int) -> SampledTables:
    """Index the sampled calls by expert and demand."""
    num_t, num_l, width = problem.sample_experts.shape
    expert = problem.sample_experts.ravel().astype(np.int64)
    num_q = problem.num_demands
    call = np.flatnonzero(expert >= 0)
    token = call // (num_l * width)
    key = expert[call] * num_q + problem.sample_demand[token]
    order = np.argsort(key, kind="stable")
    start = np.searchsorted(key[order], np.arange(problem.num_experts * num_q + 1))
    first, second = np.zeros(len(expert)), np.zeros(len(expert))
    first[call] = token_hash(token, expert[call], 1)
    second[call] = token_hash(token, expert[call], 2)
    work = (
        problem.flop[:, None] * t.s_per_flop[t.place, t.format]
        + problem.size_bytes[:, t.format] * problem.s_per_byte[t.place]
    )
    option_at = np.full((problem.num_places, problem.num_formats), NONE, np.int64)
    option_at[t.place, t.format] = np.arange(len(t.place))
    limit, _ = limits_of(problem, t)
    tokens = max(num_t, 1)
    return SampledTables(
        expert=expert,
        demand=problem.sample_demand.copy(),
        start=start.astype(np.int64),
        call=call[order].astype(np.int64),
        first=first,
        second=second,
        work=np.ascontiguousarray(work),
        option_from=np.searchsorted(
            t.server, np.arange(problem.num_servers + 1)
        ).astype(np.int64),
        option_at=option_at,
        weight=objective_weights(problem, t.at, problem.weight_of("serial")),
        rows=np.flatnonzero(np.isfinite(limit)).astype(np.int64),
        width=int(width),
        layers=int(num_l),
        most=int(most),
        parallel=problem.weight_of("parallel") / tokens,
        fluid=problem.weight_of("fluid") / tokens,
    )


def limits_of(
    problem: Problem, t: Tables
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the limits of loads, inf where there is none, and of places."""
    at = t.at
    limit = np.full(int(at[-1]), np.inf)
    limit[at[1] : at[2]] = problem.busy
    limit[at[2] : at[3]] = problem.link_busy * problem.link_bandwidth
    limit[at[3] : at[4]] = [cap.max_tokens_per_s for cap in problem.budget_caps]
    rate = problem.application_rate
    for first, per_token in ((4, problem.quality_budget), (5, problem.latency_target)):
        with np.errstate(invalid="ignore"):
            row = np.where(rate > 0, per_token * rate, np.inf)
        limit[at[first] : at[first + 1]] = row
    return limit, problem.room_bytes.copy()


def sampled_state(
    problem: Problem, t: Tables, c: SampledTables, slots: int
) -> SampledState:
    """Return a state without copies, with room for some of each expert."""
    num, num_q, loads = problem.num_experts, problem.num_demands, int(t.at[-1])
    limit, room = limits_of(problem, t)
    calls = len(c.expert)
    pairs = len(t.similar_to)
    most_similar = int(np.diff(t.similar_start).max(initial=0))
    table = (num, num_q, slots)
    old = (2, num_q, slots)
    return SampledState(
        option=np.full((num, slots), NONE, dtype=np.int64),
        copies=np.zeros(num, dtype=np.int64),
        share=np.zeros(table),
        fused=np.zeros(table),
        pruned=np.zeros((num, num_q)),
        sub=np.zeros((pairs, num_q)),
        lent=np.zeros(num, dtype=np.int64),
        used=np.zeros(problem.num_places),
        tally=np.zeros(len(t.count_lower), dtype=np.int64),
        load=np.zeros(loads),
        limit=limit,
        room=room,
        lower=t.count_lower.copy(),
        upper=t.count_upper.copy(),
        server=np.full(calls, NONE, dtype=np.int64),
        busy=np.zeros(calls),
        factor=np.zeros(calls),
        value=np.zeros(len(c.demand) * c.layers),
        knob=np.zeros(6),
        who=np.full(2, NONE, dtype=np.int64),
        old_option=np.full((2, slots), NONE, dtype=np.int64),
        old_copies=np.zeros(2, dtype=np.int64),
        old_share=np.zeros(old),
        old_fused=np.zeros(old),
        old_pruned=np.zeros((2, num_q)),
        old_sub=np.zeros((2, most_similar, num_q)),
        old_used=np.zeros(problem.num_places),
        old_tally=np.zeros(len(t.count_lower), dtype=np.int64),
        old_load=np.zeros(loads),
        old_knob=np.zeros(2),
        given=np.zeros((2, slots)),
        best=np.zeros((2, slots)),
        seen=np.zeros((problem.num_servers, 3)),
    )
