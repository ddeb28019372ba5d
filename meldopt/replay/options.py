"""The shares of a plan as tables that kernels look up by (demand, expert).

A (demand, expert) has options: copies that serve a share, copies of similar experts
that answer one, and segments that prune one. They stand in the order that `score`
draws from, so that the same draw picks the same option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import Flows, served_at
from meldopt.sums import sum_by
from meldopt.tolerance import SHARE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem

SERVED, SUBSTITUTED, PRUNED = 0, 1, 2
"""Kinds of options, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Options:
    """Options by key = demand x N + expert; O of them.

    Attributes
    ----------
    start
        First option of each key, (Q N + 1,).
    kind, copy
        `SERVED`, `SUBSTITUTED` or `PRUNED`; index of the plan's copies, -1 if pruned.
    share, edge
        Share, and sum of all shares up to and with this one, as `score` adds them.
    fused
        Part of a served share that travels fused.
    loss
        Quality loss of one call answered so, nats; without what fusion adds.
    fuse_loss
        What fusion adds for a call that is fused, nats.
    work
        Seconds of the call; 0 if pruned.
    """

    start: NDArray[np.int64]
    kind: NDArray[np.int64]
    copy: NDArray[np.int64]
    share: NDArray[np.float64]
    edge: NDArray[np.float64]
    fused: NDArray[np.float64]
    loss: NDArray[np.float64]
    fuse_loss: NDArray[np.float64]
    work: NDArray[np.float64]


def options_of(problem: Problem, plan: Plan) -> Options:
    """Put the shares of a plan, default rule and all, in a table of options.

    In `roam` a plan has no shares: the table is empty.
    """
    if problem.dataflow == "roam":
        return _no_options(problem)
    flows = Flows(problem, plan)
    num_n = problem.num_experts
    q = np.concatenate([flows.q, flows.uq, flows.pq])
    i = np.concatenate([flows.i, flows.ui, flows.pi])
    share = np.concatenate([flows.share, flows.ushare, flows.pshare])
    copy = np.concatenate([flows.c, flows.uc, np.full(len(flows.pq), -1)])
    kind = np.repeat(
        [SERVED, SUBSTITUTED, PRUNED], [len(flows.q), len(flows.uq), len(flows.pq)]
    )
    fused, fuse_loss = _fused(problem, flows)
    nothing = np.zeros(len(share) - len(fused))
    loss = _losses(problem, flows)
    key = q * num_n + i
    order = np.lexsort((copy, kind, key))
    copy, kind, share = copy[order], kind[order], share[order]
    row = flows.copies[np.maximum(copy, 0)] if len(flows.copies) else None
    work = np.zeros(len(copy))
    if row is not None:
        work = np.where((copy >= 0) & (share > 0), problem.work_s(*row.T), 0.0)
    start = np.zeros(problem.num_demands * num_n + 1, dtype=np.int64)
    np.cumsum(np.bincount(key, minlength=len(start) - 1), out=start[1:])
    return Options(
        start=start,
        kind=kind,
        copy=copy,
        share=share,
        edge=np.cumsum(share),
        fused=np.concatenate([fused, nothing])[order],
        loss=loss[order],
        fuse_loss=np.concatenate([fuse_loss, nothing])[order],
        work=work,
    )


def _no_options(problem: Problem) -> Options:
    index, number = np.zeros(0, dtype=np.int64), np.zeros(0)
    return Options(
        start=np.zeros(problem.num_demands * problem.num_experts + 1, dtype=np.int64),
        kind=index,
        copy=index,
        share=number,
        edge=number,
        fused=number,
        loss=number,
        fuse_loss=number,
        work=number,
    )


def _fused(
    problem: Problem, flows: Flows
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the fused part of each served share, and its mean loss; (A,), (A,)."""
    part, loss = np.zeros(len(flows.share)), np.zeros(len(flows.share))
    if not len(flows.fshare):
        return part, loss
    pairs, index = np.unique(flows.plan.fused[:, :3], axis=0, return_inverse=True)
    index = index.ravel()
    shares = sum_by(index, flows.fshare, len(pairs))
    each = problem.fuse_loss[
        problem.application_of[flows.fq], problem.layer_of[flows.fi], flows.fm
    ]
    lost = sum_by(index, flows.fshare * each, len(pairs))
    fraction = shares / np.maximum(served_at(problem, flows, *pairs.T), SHARE)
    size = problem.num_places
    keys = (pairs[:, 0] * problem.num_experts + pairs[:, 1]) * size + pairs[:, 2]
    mine = (flows.q * problem.num_experts + flows.i) * size + flows.place
    at = np.minimum(np.searchsorted(keys, mine), len(keys) - 1)
    hit = keys[at] == mine
    part[hit] = fraction[at[hit]]
    loss[hit] = (lost / np.maximum(shares, SHARE))[at[hit]]
    return part, loss


def _losses(problem: Problem, flows: Flows) -> NDArray[np.float64]:
    """Return the loss of a call of each option, nats; served, substituted, pruned."""
    app = problem.application_of
    served = problem.format_loss[app[flows.q], flows.i, flows.format]
    g = app[flows.uq]
    row = flows.copies[flows.uc]
    pair = {(i, j): n for n, (i, j) in enumerate(problem.similar.tolist())}
    which = np.array(
        [
            pair[i, j]
            for i, j in zip(flows.ui.tolist(), row[:, 0].tolist(), strict=True)
        ],
        dtype=np.int64,
    )
    answered = (
        problem.similar_loss[g, which] + problem.format_loss[g, row[:, 0], row[:, 2]]
    )
    pruned = problem.prune_loss[app[flows.pq], problem.layer_of[flows.pi], flows.pn]
    return np.concatenate([served, answered, pruned])


def serial_costs(problem: Problem, plan: Plan) -> NDArray[np.float64]:
    """Return the seconds of one call of each (demand, expert) by `serial`; (Q N,).

    Shares weigh the copies; what is not answered costs nothing.
    """
    flows = Flows(problem, plan)
    num_n = problem.num_experts
    net = problem.round_trip_s + problem.transfer_s
    work = problem.work_s(*flows.copies[flows.c].T)
    with np.errstate(invalid="ignore"):
        each = flows.share * (net[flows.q, flows.layer, flows.server] + work)
    each = np.where(flows.share > 0, each, 0.0)
    size = problem.num_demands * num_n
    cost = sum_by(flows.q * num_n + flows.i, each, size)
    cost += sum_by(
        flows.uq * num_n + flows.ui,
        flows.ushare * problem.work_s(*flows.copies[flows.uc].T),
        size,
    )
    moved = problem.transfer_s[
        flows.fq, problem.layer_of[flows.fi], problem.server_of[flows.fv]
    ]
    cost -= sum_by(
        flows.fq * num_n + flows.fi,
        (1 - problem.fuse_factor) * flows.fshare * moved,
        size,
    )
    return cost
