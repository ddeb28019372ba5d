"""Inner loops of the price-directed search, for Python and for numba alike.

Every function works on a `Tables` (what never changes) and a `State` (what does), both
named tuples of arrays. The same source runs in two ways: small problems call the plain
functions, so that nothing is compiled; large ones call what `compiled` returns.

The idea. Every row that couples experts has a price that grows exponentially with its
load (`row_price`); at given prices the best copies of one expert are a tiny
facility-location problem (`choose`): ``cost[o, q]`` is what the calls of demand q cost
at option o, with the best pruning and fusion at these prices folded in, and a set of
copies costs its memory plus, for each demand, the least of its options.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

NONE: Any = np.int64(-1)  # numba compiles once for each literal, but not for these
"""No option, no expert, no copy."""

IN: Any = np.int64(1)
OUT: Any = np.int64(-1)
"""Signs of what is added and taken away."""

STEEPEST = 4.0
"""Exponent beyond which a price grows linearly: it must not overflow."""


LEAST_GAIN = 0.003
"""Gain of an upgrade, as a part of what the expert costs, that is worth it."""


FAR_BELOW = 0.2
"""Part of a level of gain below which an expert is not looked at again."""


class Tables(NamedTuple):
    """What the search reads: the arrays of a problem, laid out for the kernels.

    An option ``o`` is a (place, format) that some expert may use; O of them. The vector
    of loads holds, one after the other: busy share of places, of processors, bytes/s
    of links, tokens/s of budget caps, nats/s and seconds/s of applications, and (if the
    objective has ``bottleneck``) seconds of work by (layer, server), and last
    the calls/s that nothing answers; X in all.
    """

    layer_of: Ints  # (N,)
    app_of: Ints  # (Q,)
    rate: Floats  # (Q,)
    calls: Floats  # (G, N)
    source: Ints  # (L, Q)
    sink: Ints  # (L, Q)
    place: Ints  # (O,)
    format: Ints  # (O,)
    server: Ints  # (O,)
    usable: Bools  # (N, O)
    size: Floats  # (N, B)
    flop: Floats  # (N,)
    s_per_byte: Floats  # (V,)
    s_per_flop: Floats  # (V, B)
    loss: Floats  # (G, N, B)
    trip: Floats  # (L, S, Q) round trip; 0 where unreachable
    transfer: Floats  # (L, S, Q)
    reach: Bools  # (L, S, Q)
    processor: Ints  # (V,)
    prune_width: Floats  # (L, M, Q)
    prune_loss: Floats  # (L, M, Q)
    fuse_width: Floats  # (L, M, Q)
    fuse_loss: Floats  # (L, M, Q)
    route_start: Ints  # (S*S+1,)
    route_link: Ints
    cap_start: Ints  # (L*S*S+1,)
    cap_row: Ints
    similar_start: Ints  # (N+1,)
    similar_to: Ints
    similar_loss: Floats  # (G, J)
    asked_start: Ints  # (N+1,) experts that an expert may answer for
    asked_by: Ints
    room: Floats  # (V,)
    memory_norm: Floats  # (V,)
    pin_start: Ints  # (N+1,)
    pin_option: Ints
    fails: Bools  # (F, S)
    count_start: Ints  # (N+1,)
    count_row: Ints
    count_option: Bools  # (R, O)
    count_lower: Ints  # (R,)
    count_upper: Ints  # (R,)
    group_of: Ints  # (N,) uniform group; -1: none
    objective: Floats  # (X,) weight of each load
    at: Ints  # first place, processor, link, cap, quality, serial, cell, lost; end
    may_miss: bool
    fuse_factor: float
    bytes_out: float
    bytes_back: float
    bottleneck: float  # weight of the busiest server of a layer, per s/s
    never: float  # cost of a call that nothing answers


class State(NamedTuple):
    """What the search changes: copies, answers, loads, prices, and scratch space."""

    option: Ints  # (N, C) options in use; -1: none
    copies: Ints  # (N,)
    live: Bools  # (N,) whether the expert is part of the loads
    choice: Ints  # (N, Q) option that serves; -1: none
    answer: Ints  # (N, Q) expert that answers in its place; -1: none
    pruned: Ints  # (N, Q) bit set of segments
    fused: Ints  # (N, Q) bit set of segments
    used: Floats  # (V,) bytes
    tally: Ints  # (R,) copies in each count row
    load: Floats  # (X,)
    limit: Floats  # (X,) inf: no row
    norm: Floats  # (X,) what an excess is measured by
    scale: Floats  # (X,) price of a row at its limit
    price: Floats  # (X,)
    memory_scale: Floats  # (V,) price of a byte at the capacity
    memory_over: Floats  # (V,) price of a byte beyond it
    count_price: Floats  # (R,) price of one copy too many or too few
    count_most: Floats  # (R,) price of a copy at the upper limit; 0: none
    count_least: Floats  # (R,) what a copy at the lower limit is paid; 0: nothing
    count_norm: Floats  # (R,) copies that an excess is measured by
    group_format: Ints  # (U,) format of each uniform group; -1: any
    knob: Floats  # steepness, worth of shares, copies beyond need, work done
    # scratch
    route: Floats  # (S, S)
    net: Floats  # (S, Q)
    serial: Floats  # (Q,)
    nat: Floats  # (Q,)
    omega: Floats  # (V,)
    drop: Floats  # (M, Q)
    rest: Floats  # (Q,)
    cost: Floats  # (O, Q+) demands for the expert, then for those that ask it
    held: Floats  # (O,)
    least: Floats  # (Q+,)
    bare: Floats  # (Q+,)
    mass: Floats  # (Q,)
    pick: Ints  # (C+1,)
    fit: Bools  # (S,)


STEEP, WORTH, EXTRA, WORK = 0, 1, 2, 3  # of State.knob


def growth(x: float) -> float:
    """Grow exponentially up to `STEEPEST`, then linearly."""
    if x <= STEEPEST:
        return math.exp(x)
    return math.exp(STEEPEST) * (1.0 + x - STEEPEST)


def row_price(s: State, r: int) -> float:
    """Price of one more unit of load of a row; 0 if it has no limit."""
    if s.limit[r] == np.inf:
        return 0.0
    over = (s.load[r] - s.limit[r]) / s.norm[r]
    return float(s.scale[r] * growth(s.knob[STEEP] * over))


def refresh(t: Tables, s: State, layer: int) -> None:
    """Price all loads that one call in a layer can add to (caps: of that layer)."""
    for r in range(t.at[0], t.at[3]):
        s.price[r] = t.objective[r] + row_price(s, r)
    for r in range(t.at[4], t.at[6]):
        s.price[r] = t.objective[r] + row_price(s, r)
    if t.bottleneck > 0.0:
        num = s.fit.shape[0]
        first = t.at[6] + layer * num
        top = 0.0
        for k in range(num):
            top = max(top, s.load[first + k])
        total = 0.0
        for k in range(num):
            x = 20.0 * (s.load[first + k] / top - 1.0) if top > 0.0 else 0.0
            s.price[first + k] = math.exp(x)
            total += s.price[first + k]
        for k in range(num):
            s.price[first + k] *= t.bottleneck / total


def layer_prices(t: Tables, s: State, layer: int) -> None:
    """Price what a call of each demand costs before the expert is known."""
    refresh(t, s, layer)
    num = s.fit.shape[0]
    num_q = t.rate.shape[0]
    for a in range(num):
        for c in range(num):
            p = 0.0
            for k in range(t.route_start[a * num + c], t.route_start[a * num + c + 1]):
                p += s.price[t.at[2] + t.route_link[k]]
            s.route[a, c] = p
    for q in range(num_q):
        g = t.app_of[q]
        s.serial[q] = s.price[t.at[5] + g]
        s.nat[q] = s.price[t.at[4] + g]
        left = 1.0
        for m in range(t.prune_width.shape[1]):
            s.drop[m, q] = s.nat[q] * t.prune_loss[layer, m, q]
            left -= t.prune_width[layer, m, q]
        s.rest[q] = max(left, 0.0)
        a = t.source[layer, q]
        z = t.sink[layer, q]
        for c in range(num):
            if not t.reach[layer, c, q]:
                s.net[c, q] = t.never
                continue
            sent = t.bytes_out * s.route[a, c] + t.bytes_back * s.route[c, z]
            k = (layer * num + a) * num + c
            for n in range(t.cap_start[k], t.cap_start[k + 1]):
                sent += row_price(s, t.cap_row[n])
            sent += s.serial[q] * t.transfer[layer, c, q]
            price = sent + s.serial[q] * t.trip[layer, c, q]
            if c != a:
                saved = (1.0 - t.fuse_factor) * sent
                for m in range(t.fuse_width.shape[1]):
                    gain = saved - s.nat[q] * t.fuse_loss[layer, m, q]
                    if gain > 0.0:
                        price -= t.fuse_width[layer, m, q] * gain
            s.net[c, q] = price
    for v in range(t.room.shape[0]):
        s.omega[v] = s.price[t.at[0] + v] + s.price[t.at[1] + t.processor[v]]
    if t.bottleneck > 0.0:
        for o in range(t.place.shape[0]):
            v = t.place[o]
            s.omega[v] = (
                s.price[t.at[0] + v]
                + s.price[t.at[1] + t.processor[v]]
                + s.price[t.at[6] + layer * num + t.server[o]]
            )


def work_of(t: Tables, i: int, v: int, b: int) -> float:
    """Seconds of one call of an expert at a place in a format."""
    return float(t.flop[i] * t.s_per_flop[v, b] + t.size[i, b] * t.s_per_byte[v])


def num_clients(t: Tables, i: int) -> int:
    """Count the demands that copies of an expert may answer: its own, then others'."""
    asking = t.asked_start[i + 1] - t.asked_start[i]
    return int(t.rate.shape[0] * (1 + asking))


def expert_costs(t: Tables, s: State, i: int, layer: int) -> int:
    """Fill ``cost`` (of all calls, by option and demand), ``bare`` and ``held``.

    The least price of a call becomes a cost by pruning what is dearer to serve than
    to drop, segment by segment; that is increasing, so the least option stays least.
    Return how many options the expert has. It must not be live.
    """
    num_open = 0
    num_q = t.rate.shape[0]
    num_m = t.prune_width.shape[1]
    worth = s.knob[WORTH]
    floor = 0.0
    for q in range(num_q):
        floor = max(floor, t.rate[q])
    floor *= 1e-9  # a demand without traffic must still be answered
    for q in range(num_q):
        s.mass[q] = worth * max(t.rate[q], floor) * t.calls[t.app_of[q], i]
    group = t.group_of[i]
    only = s.group_format[group] if group >= 0 else NONE
    for o in range(t.place.shape[0]):
        v = t.place[o]
        b = t.format[o]
        if not t.usable[i, o] or (only >= 0 and b != only):
            s.held[o] = np.inf
            continue
        num_open += 1
        size = t.size[i, b]
        s.held[o] = memory_cost(t, s, v, size)
        work = work_of(t, i, v, b)
        c = t.server[o]
        for q in range(num_q):
            x = (
                s.net[c, q]
                + (s.serial[q] + s.omega[v]) * work
                + s.nat[q] * t.loss[t.app_of[q], i, b]
            )
            y = s.rest[q] * x
            for m in range(num_m):
                y += t.prune_width[layer, m, q] * min(x, s.drop[m, q])
            s.cost[o, q] = y * s.mass[q]
    for q in range(num_q):
        x = t.never
        if t.similar_start[i + 1] > t.similar_start[i]:
            x = min(x, substitute(t, s, i, layer, q)[0])
        y = s.rest[q] * x
        for m in range(num_m):
            y += t.prune_width[layer, m, q] * min(x, s.drop[m, q])
        s.bare[q] = y * s.mass[q]
    asker_costs(t, s, i, layer, worth)
    return num_open


def asker_costs(t: Tables, s: State, i: int, layer: int, worth: float) -> None:
    """Fill ``cost`` and ``bare`` of the calls of others that an expert may answer.

    They stay with what answers them now unless a copy at their home is cheaper.
    """
    num_q = t.rate.shape[0]
    for k in range(t.asked_start[i], t.asked_start[i + 1]):
        j = t.asked_by[k]
        first = (k - t.asked_start[i] + 1) * num_q
        pair = t.similar_start[j]
        while t.similar_to[pair] != i:
            pair += 1
        for q in range(num_q):
            s.bare[first + q] = 0.0
            mass = worth * t.rate[q] * t.calls[t.app_of[q], j]
            if not s.live[j]:
                mass = 0.0
            home = NONE  # where a copy would have to be
            now = t.never
            if mass > 0.0:
                home = t.source[layer, q]
                now = min(now, answer(t, s, j, layer, q)[0])
                s.bare[first + q] = mass * kept_cost(t, s, layer, q, now)
            for o in range(t.place.shape[0]):
                s.cost[o, first + q] = np.inf
                if t.server[o] != home or s.held[o] == np.inf:
                    continue
                v = t.place[o]
                b = t.format[o]
                x = (s.serial[q] + s.omega[v]) * work_of(t, i, v, b) + s.nat[q] * (
                    t.similar_loss[t.app_of[q], pair] + t.loss[t.app_of[q], i, b]
                )
                if x < now:
                    s.cost[o, first + q] = mass * kept_cost(t, s, layer, q, x)


def kept_cost(t: Tables, s: State, layer: int, q: int, x: float) -> float:
    """Cost of a call at a price, with what is dearer to answer than to drop pruned."""
    y = s.rest[q] * x
    for m in range(t.prune_width.shape[1]):
        y += t.prune_width[layer, m, q] * min(x, s.drop[m, q])
    return float(y)


def memory_cost(t: Tables, s: State, v: int, size: float) -> float:
    """Price of so many bytes more at a place."""
    after = s.used[v] + size - t.room[v]
    middle = (after - 0.5 * size) / t.memory_norm[v]
    price = size * s.memory_scale[v] * growth(s.knob[STEEP] * middle)
    if after > 1e-9 * t.memory_norm[v]:
        price += s.memory_over[v] * min(after, size)
    return float(price)


def substitute(
    t: Tables, s: State, i: int, layer: int, q: int
) -> tuple[float, int, int]:
    """Find the cheapest similar expert at the home: price, expert and option."""
    best = np.inf
    expert = NONE
    option = NONE
    g = t.app_of[q]
    for n in range(t.similar_start[i], t.similar_start[i + 1]):
        j = t.similar_to[n]
        if not s.live[j]:
            continue
        for k in range(s.copies[j]):
            o = s.option[j, k]
            if t.server[o] != t.source[layer, q]:
                continue
            v = t.place[o]
            b = t.format[o]
            x = (s.serial[q] + s.omega[v]) * work_of(t, j, v, b) + s.nat[q] * (
                t.similar_loss[g, n] + t.loss[g, j, b]
            )
            if x < best:
                best = x
                expert = j
                option = o
    return best, expert, option


def count_cost(t: Tables, s: State, i: int, o: int) -> float:
    """Price of one more copy in the count rows: too many cost, too few pay."""
    steep = s.knob[STEEP]
    price = 0.0
    for n in range(t.count_start[i], t.count_start[i + 1]):
        r = t.count_row[n]
        if t.count_option[r, o]:
            if s.count_most[r] > 0.0:
                x = (s.tally[r] + 0.5 - t.count_upper[r]) / s.count_norm[r]
                price += s.count_most[r] * growth(steep * x)
            if s.count_least[r] > 0.0:
                x = (t.count_lower[r] - 0.5 - s.tally[r]) / s.count_norm[r]
                price -= s.count_least[r] * growth(steep * x)
            if s.tally[r] >= t.count_upper[r]:
                price += s.count_price[r]
            elif s.tally[r] < t.count_lower[r]:
                price -= s.count_price[r]
    return float(price)


def count_short(t: Tables, s: State, i: int, o: int) -> bool:
    """Say whether a count row asks for a copy like this."""
    for n in range(t.count_start[i], t.count_start[i + 1]):
        r = t.count_row[n]
        if t.count_option[r, o] and s.tally[r] < t.count_lower[r]:
            return True
    return False


def count_full(t: Tables, s: State, i: int, o: int) -> bool:
    """Say whether one more copy would exceed a count row."""
    for n in range(t.count_start[i], t.count_start[i + 1]):
        r = t.count_row[n]
        if t.count_option[r, o] and s.tally[r] >= t.count_upper[r]:
            return True
    return False


def count_add(t: Tables, s: State, i: int, o: int, sign: int) -> None:
    """Count a copy in or out."""
    for n in range(t.count_start[i], t.count_start[i + 1]):
        r = t.count_row[n]
        if t.count_option[r, o]:
            s.tally[r] += sign


def servers_fit(t: Tables, s: State, n: int, without: int) -> bool:
    """Mark servers that complete a set of copies; say whether it is complete.

    Complete: outside every failure set there is a copy. ``fit`` leaves out servers
    that hold a copy already.
    """
    num = s.fit.shape[0]
    for c in range(num):
        s.fit[c] = True
    complete = True
    for f in range(t.fails.shape[0]):
        safe = False
        for k in range(n):
            if k != without and not t.fails[f, t.server[s.pick[k]]]:
                safe = True
        if not safe:
            complete = False
            for c in range(num):
                if t.fails[f, c]:
                    s.fit[c] = False
    for k in range(n):
        if k != without:
            s.fit[t.server[s.pick[k]]] = False
    return complete


def set_least(t: Tables, s: State, i: int, n: int, without: int) -> float:
    """Fill ``least``, what each demand costs with the picked copies; return the sum."""
    total = 0.0
    for q in range(num_clients(t, i)):
        x = s.bare[q]
        for k in range(n):
            if k != without:
                x = min(x, s.cost[s.pick[k], q])
        s.least[q] = x
        total += x
    return total


def best_addition(t: Tables, s: State, i: int, counted: bool) -> tuple[int, float]:
    """Return the option on a fitting server with the largest gain, and the gain."""
    best = NONE
    most = -np.inf
    num_q = num_clients(t, i)
    for o in range(t.place.shape[0]):
        if s.held[o] == np.inf or not s.fit[t.server[o]]:
            continue
        gain = -s.held[o]
        if counted:
            gain -= count_cost(t, s, i, o)
        for q in range(num_q):
            gain += max(0.0, s.least[q] - s.cost[o, q])
        if gain > most:
            most = gain
            best = o
    return best, most


def choose(t: Tables, s: State, i: int) -> int:
    """Pick the copies of an expert at the prices of now; return how many.

    Greedy additions, then replacing and dropping one copy at a time. Pinned copies
    stay; the expert itself must not be part of memory and counts.
    """
    most = s.pick.shape[0] - 1
    counted = t.count_start[i + 1] > t.count_start[i]
    n: Any = np.int64(0)
    for k in range(t.pin_start[i], t.pin_start[i + 1]):
        if n < most:
            s.pick[n] = t.pin_option[k]
            count_add(t, s, i, s.pick[n], IN)
            n += 1
    pins = n
    set_least(t, s, i, n, NONE)
    while n < most:
        complete = servers_fit(t, s, n, NONE)
        needed = not t.may_miss and n == 0
        if n == 0:
            for c in range(s.fit.shape[0]):
                s.fit[c] = True
        elif not complete:
            needed = True
            some = False
            for o in range(t.place.shape[0]):
                if s.fit[t.server[o]] and s.held[o] < np.inf:
                    some = True
            if not some:  # no server completes it alone: any new one will do
                for c in range(s.fit.shape[0]):
                    s.fit[c] = True
                for k in range(n):
                    s.fit[t.server[s.pick[k]]] = False
        o, gain = best_addition(t, s, i, counted)
        if o < 0:
            break
        if not needed:
            unanswered = gain > 0.0 and s.knob[EXTRA] > 0.0
            if s.knob[EXTRA] <= 0.0:
                # Only what is needed: by a demand without an answer, or by a count.
                unanswered = n == 0 and gain > 0.0
                if counted and gain > 0.0 and count_short(t, s, i, o):
                    unanswered = True
                for q in range(t.rate.shape[0]):
                    lost = 0.4 * t.never * s.rest[q] * s.mass[q]
                    if lost > 0.0 and s.least[q] > lost > s.cost[o, q]:
                        unanswered = True
            if not unanswered:
                break
        s.pick[n] = o
        count_add(t, s, i, o, IN)
        n += 1
        for q in range(num_clients(t, i)):
            s.least[q] = min(s.least[q], s.cost[o, q])
    rounds = 0
    changed = True
    while changed and rounds < 2 and (n > 1 or t.may_miss):
        changed = False
        rounds += 1
        k = pins
        while k < n:
            with_it = set_least(t, s, i, n, NONE)
            without = set_least(t, s, i, n, k)
            o = s.pick[k]
            count_add(t, s, i, o, OUT)
            extra = count_cost(t, s, i, o) if counted else 0.0
            kept = without - with_it - s.held[o] - extra
            complete = servers_fit(t, s, n, k)
            new, gain = best_addition(t, s, i, counted)
            droppable = complete and (n > 1 or t.may_miss)
            slack = 1e-12 * (abs(with_it) + abs(s.held[o]))
            if droppable and kept < -slack and (new < 0 or gain <= 0.0):
                for j in range(k, n - 1):
                    s.pick[j] = s.pick[j + 1]
                n -= 1
                changed = True
                continue
            if new >= 0 and new != o and gain > kept + slack:
                s.pick[k] = new
                changed = True
            count_add(t, s, i, s.pick[k], IN)
            k += 1
    for k in range(n):
        count_add(t, s, i, s.pick[k], OUT)
    return int(n)


def set_value(t: Tables, s: State, i: int, n: int) -> float:
    """Cost of the picked copies at the prices of now; inf if one is not usable."""
    total = set_least(t, s, i, n, NONE)
    counted = t.count_start[i + 1] > t.count_start[i]
    for k in range(n):
        total += s.held[s.pick[k]]
        if counted:
            total += count_cost(t, s, i, s.pick[k])
            count_add(t, s, i, s.pick[k], IN)
    if counted:
        for k in range(n):
            count_add(t, s, i, s.pick[k], OUT)
    return total


def answer(t: Tables, s: State, i: int, layer: int, q: int) -> tuple[float, int, int]:
    """Find the cheapest answer of a demand: price, option and who answers instead."""
    best = np.inf
    option = NONE
    expert = NONE
    for k in range(s.copies[i]):
        o = s.option[i, k]
        if not t.reach[layer, t.server[o], q]:
            continue
        v = t.place[o]
        b = t.format[o]
        x = (
            s.net[t.server[o], q]
            + (s.serial[q] + s.omega[v]) * work_of(t, i, v, b)
            + s.nat[q] * t.loss[t.app_of[q], i, b]
        )
        if x < best:
            best = x
            option = o
    if t.similar_start[i + 1] > t.similar_start[i]:
        x, j, o = substitute(t, s, i, layer, q)
        if j >= 0 and x < best:
            best = x
            option = o
            expert = j
    return best, option, expert


def assign(t: Tables, s: State, i: int, layer: int) -> None:
    """Give every demand its cheapest answer at the prices of ``layer_prices``."""
    num = s.fit.shape[0]
    for q in range(t.rate.shape[0]):
        best, option, expert = answer(t, s, i, layer, q)
        s.choice[i, q] = option
        s.answer[i, q] = expert
        bits = 0
        for m in range(t.prune_width.shape[1]):
            if s.drop[m, q] < best and t.prune_width[layer, m, q] > 0.0:
                bits |= 1 << m
        s.pruned[i, q] = bits
        bits = 0
        a = t.source[layer, q]
        if option >= 0 and expert < 0 and t.server[option] != a:
            c = t.server[option]
            sent = s.serial[q] * t.transfer[layer, c, q]
            sent += t.bytes_out * s.route[a, c]
            sent += t.bytes_back * s.route[c, t.sink[layer, q]]
            k = (layer * num + a) * num + c
            for n in range(t.cap_start[k], t.cap_start[k + 1]):
                sent += row_price(s, t.cap_row[n])
            saved = (1.0 - t.fuse_factor) * sent
            for m in range(t.fuse_width.shape[1]):
                if s.nat[q] * t.fuse_loss[layer, m, q] < saved:
                    bits |= 1 << m
        s.fused[i, q] = bits


def carry(t: Tables, s: State, i: int, sign: float) -> None:
    """Add what the calls of an expert load, or take it away."""
    layer = t.layer_of[i]
    num = s.fit.shape[0]
    for q in range(t.rate.shape[0]):
        g = t.app_of[q]
        mass = sign * t.rate[q] * t.calls[g, i]
        if mass == 0.0:
            continue
        kept = 1.0
        for m in range(t.prune_width.shape[1]):
            if (s.pruned[i, q] >> m) & 1:
                share = min(t.prune_width[layer, m, q], kept)
                kept -= share
                s.load[t.at[4] + g] += mass * share * t.prune_loss[layer, m, q]
        o = s.choice[i, q]
        if o < 0:
            s.load[t.at[7]] += mass * kept
            continue
        v = t.place[o]
        b = t.format[o]
        j = s.answer[i, q]
        if j >= 0:
            work = work_of(t, j, v, b)
            loss = t.loss[g, j, b]
            for n in range(t.similar_start[i], t.similar_start[i + 1]):
                if t.similar_to[n] == j:
                    loss += t.similar_loss[g, n]
                    break
            time = work
        else:
            work = work_of(t, i, v, b)
            loss = t.loss[g, i, b]
            c = t.server[o]
            a = t.source[layer, q]
            moved = 1.0
            for m in range(t.fuse_width.shape[1]):
                if (s.fused[i, q] >> m) & 1:
                    share = t.fuse_width[layer, m, q]
                    moved -= (1.0 - t.fuse_factor) * share
                    loss += share * t.fuse_loss[layer, m, q]
            time = work + t.trip[layer, c, q] + moved * t.transfer[layer, c, q]
            flow = mass * kept * moved
            k = a * num + c
            for n in range(t.route_start[k], t.route_start[k + 1]):
                s.load[t.at[2] + t.route_link[n]] += flow * t.bytes_out
            k = c * num + t.sink[layer, q]
            for n in range(t.route_start[k], t.route_start[k + 1]):
                s.load[t.at[2] + t.route_link[n]] += flow * t.bytes_back
            k = (layer * num + a) * num + c
            for n in range(t.cap_start[k], t.cap_start[k + 1]):
                s.load[t.cap_row[n]] += flow
        s.load[t.at[0] + v] += mass * kept * work
        s.load[t.at[1] + t.processor[v]] += mass * kept * work
        s.load[t.at[4] + g] += mass * kept * loss
        s.load[t.at[5] + g] += mass * kept * time
        if t.bottleneck > 0.0:
            s.load[t.at[6] + layer * num + t.server[o]] += mass * kept * work


def hold(t: Tables, s: State, i: int, sign: int) -> None:
    """Add the memory and counts of the copies of an expert, or take them away."""
    for k in range(s.copies[i]):
        o = s.option[i, k]
        s.used[t.place[o]] += sign * t.size[i, t.format[o]]
        count_add(t, s, i, o, sign)


def remove(t: Tables, s: State, i: int) -> None:
    """Take an expert out of all loads; its copies stay listed."""
    if s.live[i]:
        hold(t, s, i, OUT)
        carry(t, s, i, -1.0)
        s.live[i] = False


def insert(t: Tables, s: State, i: int, n: int) -> None:
    """Give an expert the picked copies and every demand its answer; load both."""
    layer = t.layer_of[i]
    s.copies[i] = n
    for k in range(s.option.shape[1]):
        s.option[i, k] = s.pick[k] if k < n else NONE
    assign(t, s, i, layer)
    s.live[i] = True
    hold(t, s, i, IN)
    carry(t, s, i, 1.0)
    # Who was answered by it, or could now be, decides again.
    for k in range(t.asked_start[i], t.asked_start[i + 1]):
        j = t.asked_by[k]
        if s.live[j] and j != i:
            carry(t, s, j, -1.0)
            assign(t, s, j, layer)
            carry(t, s, j, 1.0)


def respond(t: Tables, s: State, i: int) -> None:
    """Move an expert to its best copies; prices of its layer must be known."""
    layer = t.layer_of[i]
    was = s.live[i]
    remove(t, s, i)
    num_open = expert_costs(t, s, i, layer)
    n = choose(t, s, i)
    if was and s.copies[i] > 0:
        # Keep what is as good: copies that move for nothing disturb the others.
        new = set_value(t, s, i, n)
        same = n == s.copies[i]
        for k in range(n):
            if same and s.pick[k] != s.option[i, k]:
                same = False
        if not same:
            kept = s.pick.copy()
            for k in range(s.copies[i]):
                s.pick[k] = s.option[i, k]
            old = set_value(t, s, i, s.copies[i])
            if old <= new and servers_fit(t, s, s.copies[i], NONE):
                n = s.copies[i]
            else:
                for k in range(n):
                    s.pick[k] = kept[k]
    insert(t, s, i, n)
    s.knob[WORK] += (n + 4.0) * num_open * num_clients(t, i)


def sweep(t: Tables, s: State, order: Ints, every: int) -> None:
    """Let experts respond one by one; prices follow after ``every`` of them."""
    last = NONE
    since = 0
    for k in range(order.shape[0]):
        i = order[k]
        if t.layer_of[i] != last or since >= every:
            last = t.layer_of[i]
            since = 0
            layer_prices(t, s, last)
        since += 1
        respond(t, s, i)


def settle(t: Tables, s: State, order: Ints, every: int) -> None:
    """Give the demands of experts their cheapest answers; copies stay."""
    last = NONE
    since = 0
    for k in range(order.shape[0]):
        i = order[k]
        layer = t.layer_of[i]
        if layer != last or since >= every:
            last = layer
            since = 0
            layer_prices(t, s, layer)
        since += 1
        carry(t, s, i, -1.0)
        assign(t, s, i, layer)
        carry(t, s, i, 1.0)
        s.knob[WORK] += s.copies[i] * t.rate.shape[0]


def place_all(
    t: Tables, s: State, order: Ints, target: Ints, num: Ints, every: int
) -> None:
    """Set the copies of experts as given, one row of options each."""
    last = NONE
    since = 0
    for k in range(order.shape[0]):
        i = order[k]
        remove(t, s, i)
        if t.layer_of[i] != last or since >= every:
            last = t.layer_of[i]
            since = 0
            layer_prices(t, s, last)
        since += 1
        for n in range(num[k]):
            s.pick[n] = target[k, n]
        insert(t, s, i, num[k])


def upgrade(t: Tables, s: State, i: int) -> tuple[float, int, int]:
    """Find the change of one copy that gains most per byte and fits in memory.

    Prices of the layer must be known.

    Returns
    -------
    tuple of float and int
        Gain per byte (0: none), which copy is replaced (the number of copies: one is
        added), and the option.
    """
    s.live[i] = False  # what its copies answer for others is theirs to lose
    expert_costs(t, s, i, t.layer_of[i])
    s.live[i] = True
    n = s.copies[i]
    most = s.pick.shape[0] - 1
    for k in range(n):
        s.pick[k] = s.option[i, k]
    best = 0.0
    which = NONE
    option = NONE
    num_q = num_clients(t, i)
    total = set_least(t, s, i, n, NONE)
    pins = t.pin_start[i + 1] - t.pin_start[i]
    counted = t.count_start[i + 1] > t.count_start[i]
    s.knob[WORK] += (n + 3.0) * t.place.shape[0] * num_q
    for k in range(pins, n + 1):
        if k == n and (n >= most or s.knob[EXTRA] <= 0.0):
            continue
        freed = 0.0
        paid = 0.0
        here = NONE
        if k < n:
            freed = t.size[i, t.format[s.pick[k]]]
            here = t.place[s.pick[k]]
            if counted:
                count_add(t, s, i, s.pick[k], OUT)
                paid = count_cost(t, s, i, s.pick[k])
        servers_fit(t, s, n, k)
        if k == n:
            for c in range(s.fit.shape[0]):
                s.fit[c] = True
            for j in range(n):
                s.fit[t.server[s.pick[j]]] = False
        set_least(t, s, i, n, k)
        for o in range(t.place.shape[0]):
            if s.held[o] == np.inf or not s.fit[t.server[o]]:
                continue
            v = t.place[o]
            size = t.size[i, t.format[o]]
            if size < freed:
                continue
            if s.used[v] + size - (freed if here == v else 0.0) > t.room[v]:
                continue
            gain = total
            if counted:
                if count_full(t, s, i, o):
                    continue
                gain += paid - count_cost(t, s, i, o)
            for q in range(num_q):
                gain -= min(s.least[q], s.cost[o, q])
            if gain <= LEAST_GAIN * abs(total):
                continue
            ratio = gain / max(size - freed, 0.02 * size + 1e-9)
            if ratio > best:
                best = ratio
                which = k
                option = o
        if k < n and counted:
            count_add(t, s, i, s.pick[k], IN)
    return best, which, option


def upgrade_level(
    t: Tables, s: State, order: Ints, known: Floats, level: float, every: int
) -> int:
    """Carry out the upgrades of experts that gain ``level`` per byte or more.

    Parameters
    ----------
    t, s
        The state.
    order
        Experts, those of a layer together.
    known
        What each gained per byte when it was last seen, (N,); those far below the
        level are not looked at.
    level
        Least gain per byte.
    every
        Experts after which prices follow.

    Returns
    -------
    int
        How many were carried out.
    """
    last = NONE
    since = 0
    done = 0
    value = potential(t, s)
    old = np.empty(s.pick.shape[0], dtype=np.int64)
    was = np.empty((4, t.rate.shape[0]), dtype=np.int64)
    for k in range(order.shape[0]):
        i = order[k]
        if known[i] < FAR_BELOW * level:
            continue
        if t.layer_of[i] != last or since >= every:
            last = t.layer_of[i]
            since = 0
            layer_prices(t, s, last)
        since += 1
        for _ in range(s.pick.shape[0]):
            ratio, which, option = upgrade(t, s, i)
            known[i] = ratio
            if ratio < level or ratio <= 0.0:
                break
            n = s.copies[i]
            for c in range(n):
                old[c] = s.option[i, c]
                s.pick[c] = old[c]
            for q in range(t.rate.shape[0]):
                was[0, q] = s.choice[i, q]
                was[1, q] = s.answer[i, q]
                was[2, q] = s.pruned[i, q]
                was[3, q] = s.fused[i, q]
            remove(t, s, i)
            s.pick[which] = option
            insert(t, s, i, max(n, which + 1))
            new = potential(t, s)
            if new >= value:
                # Prices moved against it: take it back, and leave it for good.
                remove(t, s, i)
                for c in range(n):
                    s.pick[c] = old[c]
                insert(t, s, i, n)
                carry(t, s, i, -1.0)
                for q in range(t.rate.shape[0]):
                    s.choice[i, q] = was[0, q]
                    s.answer[i, q] = was[1, q]
                    s.pruned[i, q] = was[2, q]
                    s.fused[i, q] = was[3, q]
                carry(t, s, i, 1.0)
                value = potential(t, s)
                known[i] = 0.0
                break
            value = new
            done += 1
    return done


def potential(t: Tables, s: State) -> float:
    """Objective plus what the rows charge: what a response never raises by much."""
    steep = s.knob[STEEP]
    total = 0.0
    for r in range(t.at[8]):
        total += t.objective[r] * s.load[r]
        if s.limit[r] < np.inf and s.scale[r] > 0.0:
            x = steep * (s.load[r] - s.limit[r]) / s.norm[r]
            total += s.scale[r] * s.norm[r] / steep * area(x)
    if t.bottleneck > 0.0:
        num = s.fit.shape[0]
        for layer in range((t.at[7] - t.at[6]) // num):
            top = 0.0
            for k in range(num):
                top = max(top, s.load[t.at[6] + layer * num + k])
            total += t.bottleneck * top
    for v in range(t.room.shape[0]):
        over = s.used[v] - t.room[v]
        x = steep * over / t.memory_norm[v]
        total += s.memory_scale[v] * t.memory_norm[v] / steep * area(x)
        if over > 1e-9 * t.memory_norm[v]:
            total += s.memory_over[v] * over
    for r in range(s.tally.shape[0]):
        total += s.count_price[r] * (
            max(0, s.tally[r] - t.count_upper[r])
            + max(0, t.count_lower[r] - s.tally[r])
        )
        per = s.count_norm[r] / steep
        if s.count_most[r] > 0.0:
            x = (s.tally[r] - t.count_upper[r]) / per
            total += s.count_most[r] * per * area(x)
        if s.count_least[r] > 0.0:
            x = (t.count_lower[r] - s.tally[r]) / per
            total += s.count_least[r] * per * area(x)
    return total


def area(x: float) -> float:
    """Integral of `growth`."""
    if x <= STEEPEST:
        return math.exp(x)
    over = x - STEEPEST
    return math.exp(STEEPEST) * (1.0 + over + 0.5 * over * over)


KERNELS = (
    growth,
    row_price,
    refresh,
    layer_prices,
    work_of,
    memory_cost,
    substitute,
    num_clients,
    kept_cost,
    answer,
    asker_costs,
    expert_costs,
    count_cost,
    count_short,
    count_full,
    count_add,
    servers_fit,
    set_least,
    best_addition,
    choose,
    set_value,
    assign,
    carry,
    hold,
    remove,
    insert,
    respond,
    sweep,
    settle,
    place_all,
    area,
    potential,
    upgrade,
    upgrade_level,
)
"""What is compiled, callees first."""

ENTRIES = (
    "sweep",
    "settle",
    "place_all",
    "upgrade_level",
    "potential",
    "remove",
    "hold",
    "carry",
)
"""What is called from Python; the rest is called by these only."""
