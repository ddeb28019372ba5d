"""A layer of roaming tokens: out to the experts, and on to the primary's server.

The tokens of a step go through the layers side by side. In each the backbone runs
wherever tokens are; then every token is sent to the servers of its experts, which run
once all tokens that come to them are there, and send what they found to the server of
the token's primary expert. After the last layer the tokens go home.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiled import part
from .event_kernels import JOB, LAYER_END, done, hop, note, push, works
from .event_state import BACK, KEPT, OUT

TO_EXPERTS, ON = 1, 2
"""What messages are for; kept in their ``visits``."""


def _post(x: Any, y: Any, g: Any, source: Any, target: Any, n: Any, now: Any) -> int:
    """Make a message of ``n`` tokens; returns its slot."""
    sim, engine = y.sim[0], y.engines[g]
    sim.free -= 1
    slot = y.slots[sim.free]
    message = y.messages[slot]
    message.engine, message.epoch, message.layer = g, engine.epoch, engine.layer
    message.server, message.source, message.sink = target, source, target
    message.out = x.bytes_out * n
    message.hop, message.tail, message.stamp = 0, now, sim.stamp
    return slot  # type: ignore[no-any-return]


post: Any = part(_post)


def _walk(x: Any, y: Any, z: Any, g: Any) -> None:
    """Take every token of a step to its primary, and count what goes where."""
    engine, sim = y.engines[g], y.sim[0]
    layer = engine.layer
    first, at = x.layer_start[layer], x.layer[layer]
    sim.stamp += 1
    stamp = sim.stamp
    y.flow[g] = 0
    y.expected[g] = 0
    for j in range(engine.tokens):
        r, row, phase = y.token[g, j, 0], y.token[g, j, 1], y.token[g, j, 2]
        here = y.token[g, j, 3]
        q = y.requests[r].demand
        app = x.application[q]
        mine = (stamp << 16) | j
        primary = -1
        for k in range(x.top_k):
            i = first + np.int64(z.experts[row - sim.base, at, k])
            c = x.nearest[app, here, i]
            copy = y.copies[c]
            s, v, b = copy.server, copy.place, copy.format
            if k == 0:
                primary = s
            y.counts[KEPT, layer, q, s] += 1
            y.loss[q] += x.format_loss[app, copy.loss_row]
            if copy.stamp != stamp:
                copy.stamp = stamp
                y.batch[v, b, 1] += 1
                y.batch[v, b, 3] += copy.bytes
            y.batch[v, b, 0] += 1
            y.batch[v, b, 2] += copy.flop
            y.used[s] = stamp
            if s != here:
                y.by_call[OUT, 0, here, s] += 1
            if k > 0 and s != primary:
                y.by_call[BACK, 0, s, primary] += 1
            if y.visit[s, 0] != mine:  # a token goes once to a server
                y.visit[s, 0] = mine
                if s != here:
                    y.flow[g, OUT, here, s] += 1
                    y.sent[OUT, phase, 0, here, s] += 1
                if s != primary:
                    y.flow[g, BACK, s, primary] += 1
                    y.sent[BACK, phase, 0, s, primary] += 1
        y.token[g, j, 3] = primary
    sim.calls += engine.tokens * x.top_k


walk: Any = part(_walk)


def _run_jobs(x: Any, y: Any, g: Any, s: Any, now: Any) -> None:
    """Run the experts of a server for a step; all its tokens are there."""
    first = x.first_place[s]
    end = now
    for v in range(first, x.first_place[s + 1]):
        work = y.server_work[g, s, v - first]
        if work <= 0:
            continue
        p = y.places[v].processor
        start = max(now, y.free[p])
        y.free[p] = start + work
        end = max(end, y.free[p])
        y.places[v].busy += work
        note(y, y.processor_bins[p], start, y.free[p])
    push(y, end, JOB, g * len(y.down) + s, 0)


run_jobs: Any = part(_run_jobs)


def _forward(x: Any, y: Any, index: Any, now: Any) -> None:
    """Send what a server found on to the primaries."""
    g, s = index // len(y.down), index % len(y.down)
    for u in range(len(y.down)):
        if y.flow[g, BACK, s, u] > 0:
            slot = post(x, y, g, s, u, y.flow[g, BACK, s, u], now)
            y.messages[slot].visits = ON
            hop(x, y, slot, now, False)
    done(y, g, now)


def _send(x: Any, y: Any, z: Any, g: Any, now: Any) -> None:
    """Send the tokens of a layer to their experts."""
    walk(x, y, z, g)
    engine, sim = y.engines[g], y.sim[0]
    num_s = len(y.down)
    engine.end, engine.pending = now, 0
    for s in range(num_s):
        if y.used[s] != sim.stamp:
            continue
        engine.pending += 1
        works(x, y, s, y.server_work[g, s])
        for u in range(num_s):
            if y.flow[g, BACK, s, u] > 0:
                engine.pending += 1
            if y.flow[g, OUT, u, s] > 0:
                y.expected[g, s] += 1
    for s in range(num_s):
        if y.used[s] == sim.stamp and y.expected[g, s] == 0:
            run_jobs(x, y, g, s, now)
    for here in range(num_s):
        for s in range(num_s):
            if y.flow[g, OUT, here, s] > 0:
                slot = post(x, y, g, here, s, y.flow[g, OUT, here, s], now)
                y.messages[slot].visits = TO_EXPERTS
                hop(x, y, slot, now, False)


def _go_home(x: Any, y: Any, g: Any, now: Any) -> None:
    """Send the tokens of a step home."""
    engine, sim = y.engines[g], y.sim[0]
    sim.stamp += 1
    home = engine.home
    y.flow[g] = 0
    engine.end, engine.pending = now, 0
    for j in range(engine.tokens):
        here = y.token[g, j, 3]
        if here != home:
            if y.flow[g, BACK, here, home] == 0:
                engine.pending += 1
            y.flow[g, BACK, here, home] += 1
            y.sent[BACK, y.token[g, j, 2], 0, here, home] += 1
            y.by_call[BACK, 0, here, home] += 1
    if engine.pending == 0:
        push(y, now, LAYER_END, g, engine.epoch)
        return
    for s in range(len(y.down)):
        if y.flow[g, BACK, s, home] > 0:
            slot = post(x, y, g, s, home, y.flow[g, BACK, s, home], now)
            y.messages[slot].visits = ON
            hop(x, y, slot, now, False)


def _land(x: Any, y: Any, m: Any, now: Any) -> None:
    """Take in a message: the last one for a server starts its jobs."""
    message, sim = y.messages[m], y.sim[0]
    g, s = message.engine, message.server
    y.slots[sim.free] = m
    sim.free += 1
    if message.visits == ON:
        done(y, g, now)
        return
    y.expected[g, s] -= 1
    if y.expected[g, s] == 0:
        run_jobs(x, y, g, s, now)


def _start(x: Any, y: Any, g: Any, now: Any) -> float:
    """Run the backbone wherever tokens are; returns when the last is through."""
    engine, sim = y.engines[g], y.sim[0]
    if engine.layer == 0:
        for j in range(engine.tokens):
            y.token[g, j, 3] = engine.home
    sim.stamp += 1
    end = now
    for n in range(engine.tokens):
        s = y.token[g, n, 3]
        if y.used[s] == sim.stamp:
            continue
        y.used[s] = sim.stamp
        count = 0
        for j in range(n, engine.tokens):
            if y.token[g, j, 3] == s:
                count += 1
        time = x.backbone[s, 0] + count * x.backbone[s, 1]
        if time <= 0:
            continue
        v = x.first_place[s]
        p = y.places[v].processor
        start = max(now, y.free[p])
        y.free[p] = start + time
        y.places[v].backbone += time
        note(y, y.processor_bins[p], start, start + time)
        end = max(end, start + time)
    return end  # type: ignore[no-any-return]


forward: Any = part(_forward)
send: Any = part(_send)
go_home: Any = part(_go_home)
land: Any = part(_land)
start: Any = part(_start)
