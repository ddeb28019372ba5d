"""Makes the arrays of a run of the event mode."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import PlanError, UnsupportedFeatureError

from .event_state import (
    BINS,
    COPY,
    ENGINE,
    FATES,
    KEY,
    LINK,
    MESSAGE,
    OPTION,
    PLACE,
    REQUEST,
    SIM,
    State,
    Tables,
    zeros,
)
from .options import PRUNED, SUBSTITUTED
from .roam import nearest_copies

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.trace import Trace

    from .backbone import Backbone
    from .compute import ComputeModel
    from .events import Settings
    from .match import Match
    from .options import Options
    from .scenario import Course


def check_times(problem: Problem, plan: Plan, options: Options) -> None:
    """Refuse shares that would take for ever."""
    key = np.repeat(np.arange(len(options.start) - 1), np.diff(options.start))
    q, i = np.divmod(key, problem.num_experts)
    used = (options.copy >= 0) & (options.share > 0)
    if not used.any():
        return
    server = problem.server_of[plan.copies[np.maximum(options.copy, 0), 1]]
    trip = problem.round_trip_s[q, problem.layer_of[i], server]
    trip = np.where(options.kind == SUBSTITUTED, 0.0, trip)
    for what, bad in (
        ("has no route there and back", ~np.isfinite(trip)),
        ("cannot run there", ~np.isfinite(options.work)),
    ):
        wrong = np.flatnonzero(used & bad)
        if len(wrong):
            o = int(wrong[0])
            layer = int(problem.layer_of[i[o]])
            raise PlanError(
                f"shares: got {' at '.join(problem.labels.demands[q[o]])}, layer "
                f"{layer}, expert {i[o] - problem.layer_start[layer]} on "
                f"{problem.labels.servers[server[o]]!r}, but it {what}"
            )


def check_roam(problem: Problem, plan: Plan, course: Course) -> None:
    """Refuse what roaming tokens cannot do."""
    if len(course.failures):
        raise UnsupportedFeatureError(
            f"{problem.name}: got failures in dataflow 'roam', expected 'home': what "
            "becomes of tokens on a server that fails is not simulated"
        )
    work = problem.work_s(*plan.copies.T)
    if not np.isfinite(work).all():
        i, v, _ = plan.copies[int(np.argmin(np.isfinite(work)))]
        raise PlanError(
            f"copies: got layer {problem.layer_of[i]}, expert "
            f"{i - problem.layer_start[problem.layer_of[i]]} at "
            f"{'/'.join(problem.labels.places[v])}, but it cannot run there"
        )
    servers = np.union1d(problem.server_of[plan.copies[:, 1]], problem.home_of)
    for s, t in itertools.product(servers.tolist(), repeat=2):
        if not np.isfinite(problem.route_latency[s, t]):
            names = problem.labels.servers
            raise PlanError(
                f"copies: got some at {names[s]!r} and {names[t]!r}, expected a route "
                "from the one to the other"
            )


def tables_of(
    problem: Problem,
    plan: Plan,
    options: Options,
    course: Course,
    found: Match,
    trace: Trace,
    settings: Settings,
    backbone: Backbone,
    compute: ComputeModel,
) -> Tables:
    """Return what the kernels read."""
    num_s, num_n = problem.num_servers, problem.num_experts
    homes = np.unique(problem.home_of)
    first_engine = np.full(num_s, -1, dtype=np.int64)
    first_engine[homes] = settings.lanes * np.arange(len(homes))
    source = np.repeat(np.arange(num_s)[:, None], problem.num_layers, axis=1)
    sink = source.copy()
    source[problem.home_of] = problem.source
    sink[problem.home_of] = problem.sink
    routes = [links for row in problem.route_links for links in row]
    route_start = np.zeros(num_s * num_s + 1, dtype=np.int64)
    np.cumsum([len(links) for links in routes], out=route_start[1:])
    net = problem.round_trip_s + problem.transfer_s
    return Tables(
        layer=found.layer,
        layer_start=problem.layer_start.copy(),
        keys=_keys(options),
        copy_start=np.searchsorted(plan.copies[:, 0], np.arange(num_n + 1)),
        net=np.where(problem.reachable, net, np.inf),
        format_loss=np.ascontiguousarray(
            problem.format_loss.reshape(problem.num_applications, -1)
        ),
        application=problem.application_of.copy(),
        home=problem.home_of.copy(),
        nearest=nearest_copies(problem, plan)
        if problem.dataflow == "roam"
        else np.zeros((1, 1, 1), dtype=np.int64),
        source=source,
        sink=sink,
        first_engine=first_engine,
        first_place=np.searchsorted(problem.server_of, np.arange(num_s + 1)),
        route_start=route_start,
        route_links=np.concatenate([*routes, np.zeros(0, dtype=np.int64)]),
        latency=problem.route_latency.copy(),
        speed=compute.table,
        backbone=np.stack([backbone.step_s, backbone.token_s], axis=1),
        table_time=course.table_time,
        table_rate=course.table_rate,
        failures=course.failures,
        bytes_out=float(problem.bytes_out),
        bytes_back=float(problem.bytes_back),
        phi=float(problem.fuse_factor),
        roam=problem.dataflow == "roam",
        top_k=trace.header.top_k,
        step_tokens=settings.step_tokens,
        max_batch=settings.max_batch,
        lanes=settings.lanes,
        hashed=settings.split == "hash",
        partners=settings.fusion == "partner",
        siblings=settings.siblings == "queue",
        prompt_recorded=trace.header.prompt_recorded,
    )


def _keys(options: Options) -> NDArray[np.void]:
    """Return the options of each key that are not pruned, and its pruned share."""
    size = len(options.start) - 1
    key = np.repeat(np.arange(size), np.diff(options.start))
    pruned = options.kind == PRUNED
    keys = zeros(size, KEY)
    share = np.bincount(key[pruned], weights=options.share[pruned], minlength=size)
    lost = np.bincount(
        key[pruned], weights=(options.share * options.loss)[pruned], minlength=size
    )
    keys["start"][:size] = options.start[:-1]
    keys["stop"][:size] = options.start[1:] - np.bincount(key[pruned], minlength=size)
    keys["prune"][:size] = np.clip(share, 0.0, 1.0)
    keys["prune_loss"][:size] = np.divide(
        lost, share, out=np.zeros(size), where=share > 0
    )
    # What is all pruned is pruned call by call; what has shares of 0 is not answered.
    answered = np.bincount(key[~pruned], weights=options.share[~pruned], minlength=size)
    keys["stop"][:size][answered <= 0] = keys["start"][:size][answered <= 0]
    return keys


def state_of(
    problem: Problem,
    plan: Plan,
    options: Options,
    course: Course,
    trace: Trace,
    tables: Tables,
) -> State:
    """Return what the kernels change, before the first event."""
    num_s, num_k = problem.num_servers, len(problem.link_from)
    num_l, num_q = problem.num_layers, problem.num_demands
    requests = _requests(course, trace)
    homes = np.flatnonzero(tables.first_engine >= 0)
    engines = zeros(len(homes) * tables.lanes, ENGINE)
    engines["home"] = np.repeat(homes, tables.lanes)
    tokens = max(tables.step_tokens, tables.max_batch)
    calls = tokens * tables.top_k
    failures = course.failures
    slots = len(engines) * num_s * (len(failures) + 1)
    wide = 1
    if tables.roam:
        wide = num_s
        slots *= num_s
    width = int(np.diff(tables.first_place).max())
    heap = (len(engines) + slots) * 2 + 2 * len(failures) + 8
    state = State(
        sim=zeros(1, SIM),
        options=_option_rows(options),
        copies=_copy_rows(problem, plan),
        links=_link_rows(problem, course),
        places=zeros(problem.num_places, PLACE),
        free=np.zeros(len(problem.processor_server)),
        down=np.zeros(num_s, dtype=np.int64),
        requests=requests,
        queue=np.full((num_s, 2), -1, dtype=np.int64),
        engines=engines,
        running=np.zeros((len(engines), tables.max_batch, 2), dtype=np.int64),
        token=np.zeros((len(engines), tokens, 4), dtype=np.int64),
        call=np.zeros((len(engines), calls, 6), dtype=np.int32),
        call_loss=np.zeros((len(engines), calls)),
        messages=zeros(slots, MESSAGE),
        message_work=np.zeros((slots, width)),
        slots=np.arange(slots),
        flow=np.zeros((len(engines), 2, wide, wide), dtype=np.int64),
        expected=np.zeros((len(engines), wide), dtype=np.int64),
        server_work=np.zeros((len(engines), wide, width)),
        heap_time=np.zeros(heap),
        heap_code=np.zeros((heap, 2), dtype=np.int64),
        prune_carry=np.zeros((num_l, num_q, num_s)),
        fuse_carry=np.zeros((num_l, num_q, num_s)),
        batch=np.zeros((problem.num_places, problem.num_formats, 4)),
        used=np.zeros(num_s, dtype=np.int64),
        visit=np.zeros((num_s, 2), dtype=np.int64),
        visits=np.zeros((num_s, 2, 2), dtype=np.int64),
        order=np.zeros(calls, dtype=np.uint64),
        ranked=np.zeros(tokens, dtype=np.uint64),
        counts=np.zeros((len(FATES), num_l, num_q, num_s + 1), dtype=np.int64),
        sent=np.zeros((2, 2, 2, num_s, num_s), dtype=np.int64),
        by_call=np.zeros((2, 2, num_s, num_s), dtype=np.int64),
        tokens=np.zeros((2, num_q), dtype=np.int64),
        loss=np.zeros(num_q),
        processor_bins=np.zeros((len(problem.processor_server), BINS)),
        link_bins=np.zeros((max(num_k, 1), BINS)),
        token_bins=np.zeros((2, BINS)),
    )
    state.places["processor"] = problem.processor_of
    sim = state.sim[0]
    last = float(requests["arrival"][-1]) if trace.num_requests else 0.0
    sim["width"] = max(last / (BINS // 2), 1e-9)
    sim["free"] = slots
    return state


def _requests(course: Course, trace: Trace) -> NDArray[np.void]:
    table, body = trace.requests, course.body
    requests = np.zeros(len(table), dtype=REQUEST)
    requests["arrival"] = table.arrival_s
    requests["demand"] = course.demand
    requests["prompt"] = table.prompt_tokens[body]
    requests["output"] = table.output_tokens[body]
    for name in ("begun", "first", "finish"):
        requests[name] = np.nan
    requests["next"] = -1
    return requests


def _option_rows(options: Options) -> NDArray[np.void]:
    rows = zeros(len(options.share), OPTION)
    size = len(options.share)
    kept = options.kind != PRUNED
    key = np.repeat(np.arange(len(options.start) - 1), np.diff(options.start))
    total = np.bincount(
        key, weights=np.where(kept, options.share, 0.0), minlength=len(options.start)
    )[key]
    rows["share"][:size] = np.divide(
        options.share, total, out=np.zeros(size), where=kept & (total > 0)
    )
    rows["edge"][:size] = options.edge
    rows["fused"][:size] = options.fused
    rows["loss"][:size] = options.loss
    rows["fuse_loss"][:size] = options.fuse_loss
    rows["copy"][:size] = options.copy
    rows["similar"][:size] = options.kind == SUBSTITUTED
    return rows


def _copy_rows(problem: Problem, plan: Plan) -> NDArray[np.void]:
    expert, place, format_ = plan.copies.T
    rows = zeros(len(expert), COPY)
    if not len(expert):
        return rows
    rows["place"], rows["format"] = place, format_
    rows["server"] = problem.server_of[place]
    rows["flop"] = problem.flop[expert]
    rows["bytes"] = problem.size_bytes[expert, format_]
    rows["work"] = problem.work_s(expert, place, format_)
    rows["loss_row"] = expert * problem.num_formats + format_
    return rows


def _link_rows(problem: Problem, course: Course) -> NDArray[np.void]:
    size = len(problem.link_from)
    rows = zeros(size, LINK)
    rows["s_per_byte"][:size] = 1.0 / problem.link_bandwidth
    # A link that a route crosses is itself the route between its ends, or no slower.
    rows["latency"][:size] = problem.route_latency[problem.link_from, problem.link_to]
    rows["table"][:size] = course.table_of[:, 0]
    rows["entries"][:size] = course.table_of[:, 1]
    rows["period"][:size] = course.table_of[:, 2]
    return rows
