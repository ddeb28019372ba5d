"""The loop of the event mode: dispatch of a layer, and what each event does.

A step of an engine goes through the layers. In each the backbone runs at its host, then
the calls of the batch are dispatched: one message there and back for each server, one
job for each place.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from .compiled import fingerprint, kernel, part
from .compute import S_PER_FLOP
from .event_fates import choose, fuse, nearest, prune
from .event_kernels import (
    ARRIVE,
    DISPATCH,
    FAIL,
    HOP_BACK,
    HOP_OUT,
    JOB,
    LAYER_END,
    RETURN,
    SEND_BACK,
    arrive,
    hop,
    note,
    pop,
    push,
    works,
)
from .event_roam import forward, go_home, land, send, start
from .event_state import (
    ANSWERED,
    BACK,
    DROPPED,
    FAILED,
    FUSED,
    KEPT,
    LOST,
    OUT,
)
from .event_steps import close, enqueue, form

DONE, ROWS = 0, 1
"""Why the loop stopped: all is done, or it needs more of the trace."""


def _assign(x: Any, y: Any, z: Any, g: Any) -> None:
    """Decide who answers each call of a step in a layer."""
    engine, sim = y.engines[g], y.sim[0]
    layer = engine.layer
    num_s, num_n = len(y.down), x.layer_start[-1]
    source = x.source[engine.home, layer]
    first, at = x.layer_start[layer], x.layer[layer]
    call, loss, token = y.call[g], y.call_loss[g], y.token[g]
    keys, options, copies = x.keys, y.options, y.copies
    requests, down, order = y.requests, y.down, y.order
    experts, gates = z.experts, z.gates
    count, prunes, fuses = 0, 0, 0
    for j in range(engine.tokens):
        r, row = token[j, 0], token[j, 1]
        q = requests[r].demand
        for k in range(x.top_k):
            i = first + np.int64(experts[row - sim.base, at, k])
            key = q * num_n + i
            answers = keys[key]
            m = count
            count += 1
            call[m, 0], call[m, 4] = j, key
            o = answers.start
            if o == answers.stop:  # nobody can answer
                fate = DROPPED if answers.prune > 0 else LOST
                call[m, 1], call[m, 2], call[m, 3] = num_s, -1, fate
                loss[m] = answers.prune_loss
                continue
            if answers.stop - o > 1:
                o = choose(x, y, key, row)
            c = options[o].copy
            s = copies[c].server
            fate = ANSWERED if options[o].similar else KEPT
            loss[m] = options[o].loss
            if down[s]:
                call[m, 1] = s
                o, fate = -1, LOST
                c = nearest(x, y, q, layer, i)
                loss[m] = 0.0
                if c >= 0:
                    s, fate = copies[c].server, KEPT
                    loss[m] = x.format_loss[x.application[q], copies[c].loss_row]
            call[m, 1], call[m, 2], call[m, 3], call[m, 5] = s, o, fate, c
            if fate == LOST:
                continue
            if answers.prune > 0:
                order[prunes] = (
                    (np.uint64(q * num_s + s) << np.uint64(40))
                    | (np.uint64(gates[row - sim.base, at, k]) << np.uint64(24))
                    | np.uint64(m)
                )
                prunes += 1
            if o >= 0 and s != source and options[o].fused > 0:
                fuses += 1
    engine.calls = count
    sim.calls += count
    if prunes:
        prune(x, y, g, prunes)
    if fuses:
        fuses = 0
        for m in range(count):
            o, s = call[m, 2], call[m, 1]
            if o < 0 or call[m, 3] != KEPT or s == source or options[o].fused <= 0:
                continue
            q = call[m, 4] // num_n
            order[fuses] = (
                (np.uint64(q * num_s + s) << np.uint64(40))
                | (np.uint64(call[m, 0]) << np.uint64(24))
                | np.uint64(m)
            )
            fuses += 1
        if fuses:
            fuse(x, y, z, g, fuses)


assign: Any = part(_assign)


def _gather(x: Any, y: Any, g: Any) -> int:
    """Sum up the calls of a layer by place and server; returns how many servers."""
    engine, sim = y.engines[g], y.sim[0]
    layer = engine.layer
    source, sink = x.source[engine.home, layer], x.sink[engine.home, layer]
    sim.stamp += 1
    stamp = sim.stamp
    servers = 0
    call, loss, token = y.call[g], y.call_loss[g], y.token[g]
    requests, copies, batch = y.requests, y.copies, y.batch
    counts, losses, used = y.counts, y.loss, y.used
    visit, visits, by_call = y.visit, y.visits, y.by_call
    for m in range(engine.calls):
        j, s, fate, c = call[m, 0], call[m, 1], call[m, 3], call[m, 5]
        r = token[j, 0]
        q = requests[r].demand
        counts[fate, layer, q, s] += 1
        losses[q] += loss[m]
        if fate > ANSWERED:
            if fate == LOST:
                requests[r].lost += 1
            continue
        copy = copies[c]
        v, b = copy.place, copy.format
        if copy.stamp != stamp:
            copy.stamp = stamp
            batch[v, b, 1] += 1
            batch[v, b, 3] += copy.bytes
        batch[v, b, 0] += 1
        batch[v, b, 2] += copy.flop
        if used[s] != stamp:
            used[s] = stamp
            visits[s, :, :] = 0
            servers += 1
        if fate == ANSWERED:
            continue
        fused = 1 if fate == FUSED else 0
        if fused:
            y.places[v].saved += copy.flop * x.speed[v, b, S_PER_FLOP]
        if s != source:
            by_call[OUT, fused, source, s] += 1
        if s != sink:
            by_call[BACK, fused, s, sink] += 1
        phase = token[j, 2]
        mine = (stamp << 16) | j
        if visit[s, 0] != mine:
            visit[s, 0], visit[s, 1] = mine, fused
            visits[s, phase, fused] += 1
        elif fused == 0 and visit[s, 1] == 1:
            visit[s, 1] = 0
            visits[s, phase, 1] -= 1
            visits[s, phase, 0] += 1
    return servers


gather: Any = part(_gather)


def _dispatch(x: Any, y: Any, z: Any, g: Any, now: Any) -> None:
    """Send the calls of a layer to their servers."""
    if x.roam:
        send(x, y, z, g, now)
        return
    assign(x, y, z, g)
    engine, sim = y.engines[g], y.sim[0]
    engine.pending = gather(x, y, g)
    engine.end = now
    if engine.pending == 0:
        push(y, now, LAYER_END, g, engine.epoch)
        return
    layer = engine.layer
    source, sink = x.source[engine.home, layer], x.sink[engine.home, layer]
    for s in range(len(y.down)):
        if y.used[s] != sim.stamp:
            continue
        sim.free -= 1
        slot = y.slots[sim.free]
        message = y.messages[slot]
        message.engine, message.epoch, message.layer = g, engine.epoch, layer
        message.server, message.source, message.sink = s, source, sink
        works(x, y, s, y.message_work[slot])
        plain, fused = 0, 0
        for phase in range(2):
            for f in range(2):
                n = y.visits[s, phase, f]
                if s != source:
                    y.sent[OUT, phase, f, source, s] += n
                if s != sink:
                    y.sent[BACK, phase, f, s, sink] += n
            plain += y.visits[s, phase, 0]
            fused += y.visits[s, phase, 1]
        message.visits = plain + fused
        message.out = x.bytes_out * (plain + x.phi * fused)
        message.back = x.bytes_back * (plain + x.phi * fused)
        message.hop, message.tail, message.stamp = 0, now, sim.stamp
        if message.visits == 0 or s == source:
            arrive(x, y, slot, now)
        else:
            hop(x, y, slot, now, False)


dispatch: Any = part(_dispatch)


def _begin(x: Any, y: Any, z: Any, g: Any, now: Any) -> None:
    """Run the backbone of a layer at its host, or wherever tokens have roamed to."""
    engine = y.engines[g]
    if x.roam:
        push(y, start(x, y, g, now), DISPATCH, g, engine.epoch)
        return
    host = x.source[engine.home, engine.layer]
    time = x.backbone[host, 0] + engine.tokens * x.backbone[host, 1]
    if time <= 0:
        dispatch(x, y, z, g, now)
        return
    v = x.first_place[host]
    p = y.places[v].processor
    begun = max(now, y.free[p])
    y.free[p] = begun + time
    y.places[v].backbone += time
    note(y, y.processor_bins[p], begun, begun + time)
    push(y, begun + time, DISPATCH, g, engine.epoch)


begin: Any = part(_begin)


def _fail(x: Any, y: Any, failure: Any) -> None:
    """Take a server down: its processors stop, requests that run there are gone."""
    s = failure.server
    y.down[s] = 1
    for v in range(x.first_place[s], x.first_place[s + 1]):
        y.free[y.places[v].processor] = failure.until
    for g in range(len(y.engines)):
        engine = y.engines[g]
        if engine.home != s:
            continue
        for j in range(engine.running):
            y.requests[y.running[g, j, 0]].state = FAILED
        engine.running, engine.tokens, engine.busy, engine.pending = 0, 0, 0, 0
        engine.epoch += 1


fail: Any = part(_fail)


def _wake(x: Any, y: Any, z: Any, home: Any, now: Any) -> None:
    """Let idle engines of a home start a step, if there is anything to do."""
    first = x.first_engine[home]
    for g in range(first, first + x.lanes if first >= 0 else first):
        if y.queue[home, 0] < 0:
            return
        if y.engines[g].busy == 0 and form(x, y, g, now):
            begin(x, y, z, g, now)


wake: Any = part(_wake)


def _schedule(x: Any, y: Any) -> None:
    """Put the failures and returns in the heap."""
    for n in range(len(x.failures)):
        push(y, x.failures[n].at, FAIL, n, 0)
        if x.failures[n].until < inf:
            push(y, x.failures[n].until, RETURN, n, 0)


schedule: Any = kernel(_schedule)


def _loop(made_of: int) -> Any:
    """Return the loop; what it is made of is part of its name in numba's cache."""

    def loop(x: Any, y: Any, z: Any) -> int:
        """Process events until all is done, or tokens are needed that are not here."""
        if made_of < 0:
            return DONE
        sim = y.sim[0]
        while True:
            arrival = inf
            if sim.next < len(y.requests):
                arrival = y.requests[sim.next].arrival
            time = y.heap_time[0] if sim.heap > 0 else inf
            if arrival == inf and time == inf:
                return DONE
            sim.events += 1
            if arrival <= time:
                r = sim.next
                if r >= sim.complete:
                    sim.events -= 1
                    return ROWS
                sim.next += 1
                sim.now = arrival
                home = x.home[y.requests[r].demand]
                enqueue(y, home, r)
                if y.down[home] == 0:
                    wake(x, y, z, home, arrival)
                continue
            sim.now = time
            code = pop(y)
            kind, index, epoch = code & 15, (code >> 4) & 0xFFFFFFFF, code >> 36
            if kind == DISPATCH:
                if y.engines[index].epoch == epoch:
                    dispatch(x, y, z, index, time)
            elif kind == HOP_OUT:
                hop(x, y, index, time, False)
            elif kind == ARRIVE:
                if x.roam:
                    land(x, y, index, time)
                else:
                    arrive(x, y, index, time)
            elif kind == JOB:
                forward(x, y, index, time)
            elif kind == SEND_BACK:
                y.messages[index].tail = time
                hop(x, y, index, time, True)
            elif kind == HOP_BACK:
                hop(x, y, index, time, True)
            elif kind == LAYER_END:
                engine = y.engines[index]
                if engine.epoch != epoch:
                    continue
                engine.layer += 1
                if engine.layer < len(x.layer):
                    begin(x, y, z, index, time)
                    continue
                if x.roam and engine.layer == len(x.layer):
                    go_home(x, y, index, time)
                    continue
                close(x, y, index, time)
                if form(x, y, index, time):
                    begin(x, y, z, index, time)
            elif kind == FAIL:
                fail(x, y, x.failures[index])
            elif kind == RETURN:
                y.down[x.failures[index].server] = 0
                wake(x, y, z, x.failures[index].server, time)

    return loop


run: Any = kernel(
    _loop(
        fingerprint(
            "analytic",
            "compute",
            "event_fates",
            "event_kernels",
            "event_loop",
            "event_roam",
            "event_state",
            "event_steps",
        )
    )
)
