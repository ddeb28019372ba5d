"""Problem -> `RoamTables`: the arrays of a problem in `roam` as searches read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .roam_kernels import NOWHERE, RoamTables
from .tables import cap_rows, count_tables, csr, uniform_group_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem


def exposed_servers(problem: Problem) -> NDArray[np.bool_]:
    """Servers whose failure a set of `coverage` names; (S,)."""
    exposed = np.zeros(problem.num_servers, dtype=np.bool_)
    for servers in problem.failure_sets:
        exposed[servers] = True
    return exposed


def usable_options(
    problem: Problem, place: NDArray[np.int64], format_: NDArray[np.int64]
) -> list[list[int]]:
    """List the options of each expert that no row of its own forbids."""
    usable = problem.copy_allowed()[:, place, format_]
    server = problem.server_of[place]
    exposed = exposed_servers(problem)
    if not exposed.all():
        usable &= ~exposed[server]
    called = problem.calls > 0
    for g in np.unique(problem.application_of).tolist():
        usable[called[g]] &= problem.trusted[g, server]
    lists = [np.flatnonzero(row).tolist() for row in usable]
    at = {
        (int(v), int(b)): o for o, (v, b) in enumerate(zip(place, format_, strict=True))
    }
    pinned: set[int] = set()
    for i, v, b in problem.pinned.tolist():
        if (v, b) in at and i not in pinned:
            lists[i] = [at[v, b]]
            pinned.add(i)
    if problem.allow_missing:
        for i in np.flatnonzero(~problem.needed).tolist():
            if i not in pinned:
                lists[i].append(int(NOWHERE))
    return lists


def roam_tables(problem: Problem) -> RoamTables:
    """Return the arrays of a problem in `roam` as searches and bounds read them."""
    place, format_ = (axis.astype(np.int64) for axis in np.nonzero(problem.allowed))
    server = problem.server_of[place]
    num, num_s = problem.num_experts, problem.num_servers
    usable_start, usable = csr(usable_options(problem, place, format_))
    total = problem.total_rate
    share = problem.application_rate[:, None] * problem.calls  # (G, N) calls/s
    flop = np.where(problem.allowed, problem.s_per_flop, 0.0)[place, format_]
    per_call = (
        problem.flop[:, None] * flop
        + problem.size_bytes[:, format_] * problem.s_per_byte[place]
    )
    work = share.sum(axis=0)[:, None] * per_call
    nats = share[:, :, None] * problem.format_loss
    energy = problem.weight_of("energy")
    worth = (
        work * (problem.weight_of("serial") + energy * problem.power_w[place])
        + problem.weight_of("quality") * nats.sum(axis=0)[:, format_]
    ) / total
    distance = np.where(np.isfinite(problem.distance), problem.distance, 1e15)
    links = np.array(
        [
            [
                (
                    problem.weight_of("traffic")
                    + energy * problem.link_joule_per_byte[links]
                ).sum()
                for links in row
            ]
            for row in problem.route_links
        ]
    ).reshape(num_s, num_s)
    cost = (
        (problem.weight_of("serial") + problem.weight_of("pair")) * distance
        + problem.bytes_out * links
    ) / total
    rate = problem.application_rate[:, None] * problem.pair_weight  # (G, R)
    alone = problem.pairs[:, 0] == problem.pairs[:, 1]
    diagonal = np.diag(cost)[server]
    for i, w in zip(
        problem.pairs[alone, 0].tolist(), rate[:, alone].sum(axis=0), strict=True
    ):
        worth[i] += w * diagonal
    pairs, rate = problem.pairs[~alone], rate[:, ~alone]
    own = np.concatenate([pairs[:, 0], pairs[:, 1]])
    order = np.argsort(own, kind="stable")
    other = np.concatenate([pairs[:, 1], pairs[:, 0]])[order]
    back = np.repeat([False, True], len(pairs))[order]
    rates = np.concatenate([rate, rate], axis=1)[:, order]
    app = problem.application_of
    entry = problem.rate[:, None] * problem.entry[app]
    leave = problem.rate[:, None] * problem.exit[app]
    sizes = [
        len(problem.processor_server),
        len(problem.link_from),
        len(problem.budget_caps),
        problem.num_applications,
        problem.num_applications,
    ]
    at = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    limit = np.full(int(at[-1]), np.inf)
    limit[at[0] : at[1]] = problem.busy
    limit[at[1] : at[2]] = problem.link_busy * problem.link_bandwidth
    limit[at[2] : at[3]] = [cap.max_tokens_per_s for cap in problem.budget_caps]
    per_second = np.maximum(problem.application_rate, 0.0)
    with np.errstate(invalid="ignore"):
        for first, row in ((3, problem.quality_budget), (4, problem.latency_target)):
            limit[at[first] : at[first + 1]] = np.where(
                per_second > 0, row * per_second, np.inf
            )
    usual = np.ones(len(limit))
    usual[at[3] : at[4]] = np.abs(nats).mean(axis=2).sum(axis=1)
    norm = np.where(np.isfinite(limit), np.abs(limit), 1.0)
    norm = np.maximum(np.maximum(norm, 1e-2 * usual), 1e-300)
    route_start, route_link = csr(
        [links.tolist() for row in problem.route_links for links in row]
    )
    cap_start, cap_row = cap_rows(problem, int(at[2]))
    counts = count_tables(problem, place, format_)
    room = problem.room_bytes
    return RoamTables(
        layer_of=problem.layer_of.copy(),
        place=place,
        format=format_,
        server=server,
        processor=problem.processor_of[place],
        usable_start=usable_start,
        usable=usable,
        size=problem.size_bytes.copy(),
        work=np.ascontiguousarray(work),
        worth=np.ascontiguousarray(worth),
        nats=np.ascontiguousarray(nats),
        share=np.ascontiguousarray(share),
        pair_start=np.searchsorted(own[order], np.arange(num + 1)).astype(np.int64),
        pair_other=np.ascontiguousarray(other),
        pair_back=np.ascontiguousarray(back),
        pair_weight=np.ascontiguousarray(rates.sum(axis=0)),
        pair_rate=np.ascontiguousarray(rates),
        home=problem.home_of.copy(),
        app_of=app.copy(),
        entry=np.ascontiguousarray(entry),
        exit=np.ascontiguousarray(leave),
        ends=np.asarray((entry > 0).any(axis=0) | (leave > 0).any(axis=0)),
        cost=np.ascontiguousarray(cost),
        distance=np.ascontiguousarray(distance),
        route_start=route_start,
        route_link=route_link,
        cap_start=cap_start,
        cap_row=cap_row,
        bytes_out=float(problem.bytes_out),
        limit=limit,
        norm=norm,
        room=room.copy(),
        room_norm=np.maximum(room, max(float(problem.size_bytes.mean()), 1e-300)),
        count_start=counts.start,
        count_row=counts.row,
        count_option=counts.option,
        count_lower=counts.lower,
        count_upper=counts.upper,
        group_of=uniform_group_of(problem),
        at=at,
        bottleneck=float(problem.weight_of("bottleneck") / total),
        latency=bool(np.isfinite(problem.latency_target).any()),
    )
