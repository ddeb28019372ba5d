"""Events, messages on links and jobs on processors.

An event is a number in a heap, ordered by time and then by the order of its making.
Links and processors serve in order of arrival: all that is known of one is when it will
be through with what came so far.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from .compiled import part
from .compute import batch_time as _batch_time
from .event_state import ANSWERED, BINS, LOST

batch_time: Any = _batch_time

DISPATCH, HOP_OUT, ARRIVE, SEND_BACK, HOP_BACK, LAYER_END, JOB, FAIL, RETURN = range(9)
"""Kinds of events."""
# -- heap ------------------------------------------------------------------------------


def _push(y: Any, time: Any, kind: Any, index: Any, epoch: Any) -> None:
    sim = y.sim[0]
    times, codes = y.heap_time, y.heap_code
    n = sim.heap
    sim.heap = n + 1
    sequence = sim.sequence
    sim.sequence = sequence + 1
    # The newest of equal times stays behind the others: a parent moves down only if
    # its time is later.
    while n > 0:
        up = (n - 1) >> 1
        if times[up] <= time:
            break
        times[n] = times[up]
        codes[n, 0] = codes[up, 0]
        codes[n, 1] = codes[up, 1]
        n = up
    times[n] = time
    codes[n, 0] = sequence
    codes[n, 1] = (epoch << 36) | (index << 4) | kind


push: Any = part(_push)


def _pop(y: Any) -> int:
    """Remove the first event, whose time is known; returns its code."""
    sim = y.sim[0]
    times, codes = y.heap_time, y.heap_code
    code = codes[0, 1]
    n = sim.heap - 1
    sim.heap = n
    time, sequence, last = times[n], codes[n, 0], codes[n, 1]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= n:
            break
        other = down + 1
        if other < n and (
            times[other] < times[down]
            or (times[other] == times[down] and codes[other, 0] < codes[down, 0])
        ):
            down = other
        if time < times[down] or (time == times[down] and sequence < codes[down, 0]):
            break
        times[at] = times[down]
        codes[at, 0] = codes[down, 0]
        codes[at, 1] = codes[down, 1]
        at = down
    times[at] = time
    codes[at, 0] = sequence
    codes[at, 1] = last
    return code  # type: ignore[no-any-return]


pop: Any = part(_pop)


# -- time ------------------------------------------------------------------------------


def _note(y: Any, bins: Any, start: Any, end: Any) -> None:
    """Add busy seconds to bins; a span of no length counts nothing."""
    sim = y.sim[0]
    while end >= BINS * sim.width:
        for table in (y.processor_bins, y.link_bins, y.token_bins):
            for row in range(table.shape[0]):
                for n in range(BINS // 2):
                    table[row, n] = table[row, 2 * n] + table[row, 2 * n + 1]
                table[row, BINS // 2 :] = 0.0
        sim.width *= 2
    width = sim.width
    n = int(start / width)
    while start < end:
        stop = min(end, (n + 1) * width)
        bins[n] += max(stop - start, 0.0)
        start = stop
        n += 1


note: Any = part(_note)


def _transmit(x: Any, link: Any, start: Any, size: Any) -> float:
    """Return when ``size`` bytes that start at ``start`` are through a link."""
    if link.entries == 0 or size <= 0:
        return start + size * link.s_per_byte  # type: ignore[no-any-return]
    first, count, period = link.table, link.entries, link.period
    cycle = np.floor(start / period) if period > 0 else 0.0
    at = -1  # before the first entry
    while at + 1 < count and cycle * period + x.table_time[first + at + 1] <= start:
        at += 1
    time = start
    while True:
        rate = 1.0 / link.s_per_byte if at < 0 else x.table_rate[first + at]
        if at + 1 < count:
            end = cycle * period + x.table_time[first + at + 1]
        elif period > 0:
            end = (cycle + 1) * period
        else:
            end = inf
        if rate > 0 and size <= rate * (end - time):
            return time + size / rate  # type: ignore[no-any-return]
        size -= rate * (end - time)
        time = end
        at += 1
        if at >= count:
            at, cycle = 0 if x.table_time[first] == 0 else -1, cycle + 1


transmit: Any = part(_transmit)


# -- messages --------------------------------------------------------------------------


def _done(y: Any, g: Any, time: Any) -> None:
    """Count a part of a layer as done at ``time``; the last one ends the layer."""
    engine = y.engines[g]
    engine.end = max(engine.end, time)
    engine.pending -= 1
    if engine.pending == 0:
        push(y, engine.end, LAYER_END, g, engine.epoch)


done: Any = part(_done)


def _finish(y: Any, m: Any, time: Any) -> None:
    """Take a message as returned at ``time``."""
    message = y.messages[m]
    if message.epoch == y.engines[message.engine].epoch:
        done(y, message.engine, time)
    sim = y.sim[0]
    y.slots[sim.free] = m
    sim.free += 1


finish: Any = part(_finish)


def _hop(x: Any, y: Any, m: Any, now: Any, back: Any) -> None:
    """Let the head of a message enter the next link of its route."""
    message = y.messages[m]
    num_s = len(y.down)
    if back:
        route = message.server * num_s + message.sink
    else:
        route = message.source * num_s + message.server
    first, last = x.route_start[route], x.route_start[route + 1]
    k = x.route_links[first + message.hop]
    link = y.links[k]
    size = message.back if back else message.out
    if x.siblings or link.stamp != message.stamp:
        link.stamp, link.before = message.stamp, link.free
        start = max(now, link.free)
        end = transmit(x, link, start, size)
        link.free = end
    else:  # on its way beside its siblings; others wait for all of them
        start = max(now, link.before)
        end = transmit(x, link, start, size)
        link.free = max(link.free, start) + (end - start)
    link.busy += end - start
    note(y, y.link_bins[k], start, end)
    message.tail = max(end, message.tail) + link.latency
    message.hop += 1
    if first + message.hop < last:
        push(y, start + link.latency, HOP_BACK if back else HOP_OUT, m, 0)
    elif back:
        finish(y, m, message.tail)
    else:
        push(y, message.tail, ARRIVE, m, 0)


def _lose(x: Any, y: Any, m: Any) -> None:
    """Count the calls of a message as lost."""
    message = y.messages[m]
    g, s = message.engine, message.server
    engine = y.engines[g]
    if message.epoch != engine.epoch:
        return
    for n in range(engine.calls):
        fate = y.call[g, n, 3]
        if y.call[g, n, 1] != s or fate > ANSWERED:
            continue
        r = y.token[g, y.call[g, n, 0], 0]
        q = y.requests[r].demand
        y.counts[fate, message.layer, q, s] -= 1
        y.counts[LOST, message.layer, q, s] += 1
        y.call[g, n, 3] = LOST
        y.loss[q] -= y.call_loss[g, n]
        y.requests[r].lost += 1


lose: Any = part(_lose)


def _works(x: Any, y: Any, s: Any, work: Any) -> None:
    """Time the batches of the places of a server, and empty them."""
    first = x.first_place[s]
    for v in range(first, x.first_place[s + 1]):
        time = 0.0
        for b in range(y.batch.shape[1]):
            calls, touched = y.batch[v, b, 0], y.batch[v, b, 1]
            if calls > 0:
                time += batch_time(
                    x.speed[v, b],
                    calls,
                    touched,
                    y.batch[v, b, 2] / calls,
                    y.batch[v, b, 3] / touched,
                )
                y.batch[v, b, :] = 0.0
        work[v - first] = time


works: Any = part(_works)


def _arrive(x: Any, y: Any, m: Any, now: Any) -> None:
    """Run the jobs of a message that is at its server, and send it back."""
    message = y.messages[m]
    s, to = message.server, message.sink
    first = x.first_place[s]
    end = now
    failed = inf
    for n in range(len(x.failures)):
        failure = x.failures[n]
        if failure.server == s and failure.until > now:
            failed = min(failed, max(failure.at, now))
    for v in range(first, x.first_place[s + 1]):
        work = y.message_work[m, v - first]
        if work <= 0 or failed <= now:  # a server that is down starts nothing
            continue
        p = y.places[v].processor
        start = max(now, y.free[p])
        y.free[p] = start + work
        end = max(end, y.free[p])
        stop = min(y.free[p], max(failed, start))
        y.places[v].busy += stop - start
        note(y, y.processor_bins[p], start, stop)
    if failed <= end and failed < inf:
        lose(x, y, m)
        finish(y, m, failed + x.latency[s, to])
    elif message.visits == 0 or s == to:
        finish(y, m, end)
    else:
        message.hop = 0
        push(y, end, SEND_BACK, m, 0)


hop: Any = part(_hop)
arrive: Any = part(_arrive)
