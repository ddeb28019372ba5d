"""Inner loops of the search on sampled tokens, in Python or compiled.

`parallel` is a mean over tokens and layers of the time of the slowest server, so a
change of one expert matters to the tokens that call it, and to no others. Each call of
a token knows where it goes (``server``), its work and its factor of bytes; each token
and layer its time (``value``). After a change the calls of that (expert, demand) are
drawn again and the times of their tokens computed anew: exactly what `score` does.

Shares are those of plans: any part of a (demand, expert) at any of its copies. Fused
and pruned shares are totals, in the order of the segments of their curves, which is
that of growing loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .kernels import IN, NONE, OUT, Tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

COST, SAMPLED, WORK, TRIED, DONE, UPHILL = 0, 1, 2, 3, 4, 5
"""Of `SampledState.knob`: the objective without sampled terms, and these; work; moves
tried and carried out; what refused moves would have cost."""

DRAWS = 11
"""Random numbers of a move."""

PARTNERS = 24
"""Experts that are looked at for one with a copy at a place."""

SHARES = 0.35
"""Part of the moves that change shares only."""


class SampledTables(NamedTuple):
    """What the search reads beside `Tables`.

    A call is one of a token in a layer, at ``(token * L + layer) * k + slot``.
    """

    expert: Ints  # (T*L*k,) of each call; -1: none
    demand: Ints  # (T,)
    start: Ints  # (N*Q+1,) calls of each (expert, demand)
    call: Ints  # those calls
    first: Floats  # (T*L*k,) draw of the copy
    second: Floats  # (T*L*k,) draw of fusion
    work: Floats  # (N, O) seconds of one call
    option_from: Ints  # (S+1,) options of each server
    option_at: Ints  # (V, B)
    weight: Floats  # (X,) objective of a unit of load
    rows: Ints  # loads that have a limit
    width: int  # calls of a token in a layer, k
    layers: int
    most: int  # copies of an expert
    parallel: float  # weight of the term, per token
    fluid: float


class SampledState(NamedTuple):
    """What the search changes."""

    option: Ints  # (N, C) ascending; -1: none
    copies: Ints  # (N,)
    share: Floats  # (N, Q, C) served by each copy
    fused: Floats  # (N, Q, C) of it, what travels fused
    pruned: Floats  # (N, Q)
    sub: Floats  # (J, Q) answered by a similar expert
    lent: Ints  # (N,) demands that an expert answers for others
    used: Floats  # (V,) bytes
    tally: Ints  # (R,)
    load: Floats  # (X,)
    limit: Floats  # (X,)
    room: Floats  # (V,)
    lower: Ints  # (R,)
    upper: Ints  # (R,)
    server: Ints  # (T*L*k,) where a call goes; -1: pruned
    busy: Floats  # (T*L*k,) its work
    factor: Floats  # (T*L*k,) its part of the bytes
    value: Floats  # (T*L,) weighted time of each token and layer
    knob: Floats
    # before the move, for each of two experts
    who: Ints  # (2,)
    old_option: Ints  # (2, C)
    old_copies: Ints  # (2,)
    old_share: Floats  # (2, Q, C)
    old_fused: Floats  # (2, Q, C)
    old_pruned: Floats  # (2, Q)
    old_sub: Floats  # (2, most similar, Q)
    old_used: Floats
    old_tally: Ints
    old_load: Floats
    old_knob: Floats  # (2,)
    # scratch
    given: Floats  # (2, C) an answer as it was found
    best: Floats  # (2, C) the best so far
    seen: Floats  # (S, 3) what a token takes of each server; zero between uses


# -- what is loaded --------------------------------------------------------------------


def put(c: SampledTables, s: SampledState, r: int, x: float) -> None:
    """Add to a load, and to the objective."""
    s.load[r] += x
    s.knob[COST] += c.weight[r] * x


def answering(t: Tables, s: SampledState, j: int, server: int) -> int:
    """Return the option of an expert on a server; -1: it has no copy there."""
    for k in range(s.copies[j]):
        if t.server[s.option[j, k]] == server:
            return int(s.option[j, k])
    return -1


def peak(t: Tables, s: SampledState, layer: int) -> float:
    """Return the weighted work of the busiest server of a layer."""
    if t.bottleneck <= 0.0:
        return 0.0
    num = s.seen.shape[0]
    first = t.at[6] + layer * num
    top = 0.0
    for k in range(num):
        top = max(top, s.load[first + k])
    return float(t.bottleneck * top)


def carry(
    t: Tables, c: SampledTables, s: SampledState, i: int, q: int, sign: float
) -> None:
    """Add what the calls of an expert by a demand load, or take it away."""
    g = t.app_of[q]
    mass = sign * t.rate[q] * t.calls[g, i]
    if mass == 0.0:
        return
    layer = t.layer_of[i]
    num = s.seen.shape[0]
    before = peak(t, s, layer)
    a = t.source[layer, q]
    z = t.sink[layer, q]
    nats = 0.0
    time = 0.0
    left = s.pruned[i, q]
    for m in range(t.prune_width.shape[1]):
        x = min(t.prune_width[layer, m, q], left)
        left -= x
        nats += x * t.prune_loss[layer, m, q]
    for k in range(s.copies[i]):
        r = s.share[i, q, k]
        if r <= 0.0:
            continue
        o = s.option[i, k]
        v = t.place[o]
        b = t.server[o]
        work = c.work[i, o]
        nats += r * t.loss[g, i, t.format[o]]
        left = s.fused[i, q, k]
        sent = r - (1.0 - t.fuse_factor) * left
        for m in range(t.fuse_width.shape[1]):
            x = min(t.fuse_width[layer, m, q] * r, left)
            left -= x
            nats += x * t.fuse_loss[layer, m, q]
        time += r * (work + t.trip[layer, b, q]) + sent * t.transfer[layer, b, q]
        put(c, s, t.at[0] + v, mass * r * work)
        put(c, s, t.at[1] + t.processor[v], mass * r * work)
        n = a * num + b
        for e in range(t.route_start[n], t.route_start[n + 1]):
            put(c, s, t.at[2] + t.route_link[e], mass * sent * t.bytes_out)
        n = b * num + z
        for e in range(t.route_start[n], t.route_start[n + 1]):
            put(c, s, t.at[2] + t.route_link[e], mass * sent * t.bytes_back)
        n = (layer * num + a) * num + b
        for e in range(t.cap_start[n], t.cap_start[n + 1]):
            put(c, s, t.cap_row[e], mass * sent)
        if t.bottleneck > 0.0:
            put(c, s, t.at[6] + layer * num + b, mass * r * work)
    for n in range(t.similar_start[i], t.similar_start[i + 1]):
        r = s.sub[n, q]
        if r <= 0.0:
            continue
        j = t.similar_to[n]
        o = answering(t, s, j, a)
        v = t.place[o]
        work = c.work[j, o]
        nats += r * (t.similar_loss[g, n] + t.loss[g, j, t.format[o]])
        time += r * work
        put(c, s, t.at[0] + v, mass * r * work)
        put(c, s, t.at[1] + t.processor[v], mass * r * work)
        if t.bottleneck > 0.0:
            put(c, s, t.at[6] + layer * num + t.server[o], mass * r * work)
    put(c, s, t.at[4] + g, mass * nats)
    put(c, s, t.at[5] + g, mass * time)
    s.knob[COST] += peak(t, s, layer) - before


def hold(t: Tables, s: SampledState, i: int, o: int, sign: int) -> None:
    """Add the memory and counts of a copy, or take them away."""
    v = t.place[o]
    size = sign * t.size[i, t.format[o]]
    s.used[v] += size
    for n in range(t.count_start[i], t.count_start[i + 1]):
        r = t.count_row[n]
        if t.count_option[r, o]:
            s.tally[r] += sign


def held(s: SampledState) -> bool:
    """Say whether memory and counts keep their limits."""
    for v in range(s.used.shape[0]):
        if s.used[v] > s.room[v]:
            return False
    for r in range(s.tally.shape[0]):
        if s.tally[r] < s.lower[r] or s.tally[r] > s.upper[r]:
            return False
    return True


def within(c: SampledTables, s: SampledState) -> bool:
    """Say whether loads keep their limits."""
    for n in range(c.rows.shape[0]):
        r = c.rows[n]
        if s.load[r] > s.limit[r]:
            return False
    return True


# -- sampled tokens --------------------------------------------------------------------


def draw(
    t: Tables, c: SampledTables, s: SampledState, i: int, q: int, call: int
) -> None:
    """Decide what becomes of a call, as `score` does: by its two draws."""
    layer = t.layer_of[i]
    total = s.pruned[i, q]
    for k in range(s.copies[i]):
        total += s.share[i, q, k]
    for n in range(t.similar_start[i], t.similar_start[i + 1]):
        total += s.sub[n, q]
    target = c.first[call] * total
    edge = 0.0
    for k in range(s.copies[i]):
        edge += s.share[i, q, k]
        if target < edge:
            o = s.option[i, k]
            s.server[call] = t.server[o]
            s.busy[call] = c.work[i, o]
            part = s.fused[i, q, k] / s.share[i, q, k]
            s.factor[call] = t.fuse_factor if c.second[call] < part else 1.0
            return
    for n in range(t.similar_start[i], t.similar_start[i + 1]):
        edge += s.sub[n, q]
        if target < edge:
            j = t.similar_to[n]
            o = answering(t, s, j, t.source[layer, q])
            s.server[call] = t.server[o]
            s.busy[call] = c.work[j, o]
            s.factor[call] = 0.0
            return
    s.server[call] = NONE
    s.busy[call] = 0.0
    s.factor[call] = 0.0


def slowest(
    t: Tables, c: SampledTables, s: SampledState, group: int, layer: int, q: int
) -> float:
    """Return the time of the slowest server that a token uses in a layer."""
    top = 0.0
    first = group * c.width
    last = first + c.width
    for a in range(first, last):
        b = s.server[a]
        if b >= 0:
            s.seen[b, 0] = max(s.seen[b, 0], s.factor[a])
            s.seen[b, 1] += s.busy[a]
            s.seen[b, 2] = 1.0
    for a in range(first, last):
        b = s.server[a]
        if b < 0 or s.seen[b, 2] == 0.0:
            continue
        factor = s.seen[b, 0]
        time = s.seen[b, 1] + factor * t.transfer[layer, b, q]
        if factor > 0.0 or (t.fuse_factor == 0.0 and b != t.source[layer, q]):
            time += t.trip[layer, b, q]
        top = max(top, time)
        s.seen[b, 0] = 0.0
        s.seen[b, 1] = 0.0
        s.seen[b, 2] = 0.0
    return top


def spread(
    t: Tables, c: SampledTables, s: SampledState, group: int, layer: int, q: int
) -> float:
    """Return what `slowest` becomes with shares in place of drawn copies."""
    for a in range(group * c.width, (group + 1) * c.width):
        i = c.expert[a]
        if i < 0:
            continue
        for k in range(s.copies[i]):
            r = s.share[i, q, k]
            if r > 0.0:
                o = s.option[i, k]
                b = t.server[o]
                sent = r - (1.0 - t.fuse_factor) * s.fused[i, q, k]
                s.seen[b, 0] = max(s.seen[b, 0], r)
                s.seen[b, 1] = max(s.seen[b, 1], sent)
                s.seen[b, 2] += r * c.work[i, o]
        for n in range(t.similar_start[i], t.similar_start[i + 1]):
            if s.sub[n, q] > 0.0:
                j = t.similar_to[n]
                o = answering(t, s, j, t.source[layer, q])
                s.seen[t.server[o], 2] += s.sub[n, q] * c.work[j, o]
    top = 0.0
    for b in range(s.seen.shape[0]):
        time = s.seen[b, 2]
        if s.seen[b, 0] > 0.0:
            time += s.seen[b, 0] * t.trip[layer, b, q]
            time += s.seen[b, 1] * t.transfer[layer, b, q]
        top = max(top, time)
    s.seen[:] = 0.0
    return top


def timed(
    t: Tables, c: SampledTables, s: SampledState, group: int, layer: int, q: int
) -> float:
    """Return what a token and layer count in the objective."""
    value = 0.0
    if c.parallel > 0.0:
        value += c.parallel * slowest(t, c, s, group, layer, q)
    if c.fluid > 0.0:
        value += c.fluid * spread(t, c, s, group, layer, q)
    s.knob[WORK] += c.width + 4.0
    return value


def retimed(
    t: Tables, c: SampledTables, s: SampledState, i: int, q: int, keep: bool
) -> float:
    """Draw the calls of an expert by a demand again; return what that adds.

    Parameters
    ----------
    t, c, s
        The state.
    i, q
        Expert and demand.
    keep
        Whether the new times stand; else only the calls do.
    """
    layer = t.layer_of[i]
    more = 0.0
    at = i * t.rate.shape[0] + q
    for n in range(c.start[at], c.start[at + 1]):
        draw(t, c, s, i, q, c.call[n])
    for n in range(c.start[at], c.start[at + 1]):
        group = c.call[n] // c.width
        value = timed(t, c, s, group, layer, q)
        more += value - s.value[group]
        if keep:
            s.knob[SAMPLED] += value - s.value[group]
            s.value[group] = value
    return more


def build(t: Tables, c: SampledTables, s: SampledState) -> None:
    """Add up everything afresh, from copies and shares."""
    s.used[:] = 0.0
    s.tally[:] = 0
    s.load[:] = 0.0
    s.knob[COST] = 0.0
    s.knob[SAMPLED] = 0.0
    s.value[:] = 0.0
    num_q = t.rate.shape[0]
    for i in range(t.layer_of.shape[0]):
        for k in range(s.copies[i]):
            hold(t, s, i, s.option[i, k], IN)
        for q in range(num_q):
            carry(t, c, s, i, q, 1.0)
            at = i * num_q + q
            for n in range(c.start[at], c.start[at + 1]):
                draw(t, c, s, i, q, c.call[n])
    for group in range(s.value.shape[0]):
        q = c.demand[group // c.layers]
        s.value[group] = timed(t, c, s, group, group % c.layers, q)
        s.knob[SAMPLED] += s.value[group]


# -- changes ---------------------------------------------------------------------------


def save(t: Tables, s: SampledState, i: int, n: int) -> None:
    """Note an expert as it is, as the first or second of a move."""
    s.who[n] = i
    s.old_copies[n] = s.copies[i]
    for k in range(s.option.shape[1]):
        s.old_option[n, k] = s.option[i, k]
    first = t.similar_start[i]
    for q in range(t.rate.shape[0]):
        s.old_pruned[n, q] = s.pruned[i, q]
        for k in range(s.option.shape[1]):
            s.old_share[n, q, k] = s.share[i, q, k]
            s.old_fused[n, q, k] = s.fused[i, q, k]
        for e in range(first, t.similar_start[i + 1]):
            s.old_sub[n, e - first, q] = s.sub[e, q]


def begin(s: SampledState) -> None:
    """Note all sums before a move."""
    s.who[0] = NONE
    s.who[1] = NONE
    s.old_used[:] = s.used
    s.old_tally[:] = s.tally
    s.old_load[:] = s.load
    for n in range(2):
        s.old_knob[n] = s.knob[n]


def undo(t: Tables, c: SampledTables, s: SampledState) -> None:
    """Take the present move back."""
    num_q = t.rate.shape[0]
    for n in range(1, -1, -1):
        i = s.who[n]
        if i < 0:
            continue
        first = t.similar_start[i]
        s.copies[i] = s.old_copies[n]
        for k in range(s.option.shape[1]):
            s.option[i, k] = s.old_option[n, k]
        for q in range(num_q):
            s.pruned[i, q] = s.old_pruned[n, q]
            for k in range(s.option.shape[1]):
                s.share[i, q, k] = s.old_share[n, q, k]
                s.fused[i, q, k] = s.old_fused[n, q, k]
            for e in range(first, t.similar_start[i + 1]):
                lend(t, s, e, q, s.old_sub[n, e - first, q])
    for n in range(2):
        i = s.who[n]
        if i < 0:
            continue
        for q in range(num_q):
            retimed(t, c, s, i, q, True)
    s.used[:] = s.old_used
    s.tally[:] = s.old_tally
    s.load[:] = s.old_load
    for n in range(2):
        s.knob[n] = s.old_knob[n]


def lend(t: Tables, s: SampledState, e: int, q: int, share: float) -> None:
    """Set what a similar expert answers of the calls of a demand."""
    j = t.similar_to[e]
    if s.sub[e, q] > 0.0:
        s.lent[j] -= 1
    s.sub[e, q] = share
    if share > 0.0:
        s.lent[j] += 1


def permitted(
    t: Tables, c: SampledTables, s: SampledState, i: int, gone: int, new: int
) -> bool:
    """Say whether an expert may change one copy for another (-1: none), by itself."""
    count = s.copies[i]
    if gone >= 0:
        count -= 1
        if s.lent[i] > 0:
            return False
        for n in range(t.pin_start[i], t.pin_start[i + 1]):
            if t.pin_option[n] == gone:
                return False
    if new >= 0:
        count += 1
        if not t.usable[i, new]:
            return False
        for k in range(s.copies[i]):
            o = s.option[i, k]
            if o != gone and t.server[o] == t.server[new]:
                return False
        if t.group_of[i] >= 0 and s.copies[i] > 0:
            if t.format[new] != t.format[s.option[i, 0]]:
                return False
        elif t.group_of[i] >= 0:
            return False
    if count < 1 or count > c.most:
        return False
    for f in range(t.fails.shape[0]):
        safe = new >= 0 and not t.fails[f, t.server[new]]
        for k in range(s.copies[i]):
            o = s.option[i, k]
            if o != gone and not t.fails[f, t.server[o]]:
                safe = True
        if not safe:
            return False
    return True


def shift(t: Tables, s: SampledState, i: int, gone: int, new: int) -> int:
    """Change the list of copies; return where the new one is.

    Shares move with their copies; the new one serves nothing yet.
    """
    num_q = t.rate.shape[0]
    n = 0
    if gone >= 0:
        while s.option[i, n] != gone:
            n += 1
        s.copies[i] -= 1
        for k in range(n, s.copies[i]):
            s.option[i, k] = s.option[i, k + 1]
            for q in range(num_q):
                s.share[i, q, k] = s.share[i, q, k + 1]
                s.fused[i, q, k] = s.fused[i, q, k + 1]
        n = s.copies[i]
        s.option[i, n] = NONE
        for q in range(num_q):
            s.share[i, q, n] = 0.0
            s.fused[i, q, n] = 0.0
    if new < 0:
        return -1
    n = s.copies[i]
    while n > 0 and s.option[i, n - 1] > new:
        s.option[i, n] = s.option[i, n - 1]
        for q in range(num_q):
            s.share[i, q, n] = s.share[i, q, n - 1]
            s.fused[i, q, n] = s.fused[i, q, n - 1]
        n -= 1
    s.option[i, n] = new
    for q in range(num_q):
        s.share[i, q, n] = 0.0
        s.fused[i, q, n] = 0.0
    s.copies[i] += 1
    return int(n)


def lends(t: Tables, s: SampledState, i: int, q: int) -> bool:
    """Say whether similar experts answer calls of an expert by a demand."""
    for e in range(t.similar_start[i], t.similar_start[i + 1]):
        if s.sub[e, q] > 0.0:
            return True
    return False


def fuse(t: Tables, s: SampledState, i: int, q: int, k: int, part: float) -> None:
    """Let a part of what fits into the segments travel fused to a copy."""
    layer = t.layer_of[i]
    width = 0.0
    if t.server[s.option[i, k]] != t.source[layer, q]:
        for m in range(t.fuse_width.shape[1]):
            width += t.fuse_width[layer, m, q]
    s.fused[i, q, k] = part * min(width, 1.0) * s.share[i, q, k]


def fused_part(t: Tables, s: SampledState, i: int, q: int, n: int) -> float:
    """Return which part of what could be fused was, before the move."""
    layer = t.layer_of[i]
    width = 0.0
    for m in range(t.fuse_width.shape[1]):
        width += t.fuse_width[layer, m, q]
    width = min(width, 1.0)
    could = 0.0
    was = 0.0
    for k in range(s.old_copies[n]):
        if t.server[s.old_option[n, k]] != t.source[layer, q]:
            could += width * s.old_share[n, q, k]
            was += s.old_fused[n, q, k]
    return min(was / could, 1.0) if could > 0.0 else 0.0


def tried(t: Tables, c: SampledTables, s: SampledState, i: int, q: int) -> float:
    """Return what the present answer of a demand comes to, inf if it breaks a row."""
    carry(t, c, s, i, q, 1.0)
    value = np.inf
    if within(c, s):
        value = s.knob[COST] + retimed(t, c, s, i, q, False)
    carry(t, c, s, i, q, -1.0)
    return float(value)


def respond(
    t: Tables,
    c: SampledTables,
    s: SampledState,
    i: int,
    q: int,
    orphan: float,
    new: int,
    part: float,
) -> bool:
    """Give a demand the best answer after a change of copies.

    Parameters
    ----------
    t, c, s
        The state; the calls of the demand are in no load.
    i, q
        Expert and demand.
    orphan
        Share that the copy which is gone served.
    new
        Where the new copy is; -1: there is none.
    part
        Of what can be fused, what is.

    Returns
    -------
    bool
        Whether there is an answer that keeps every row.
    """
    layer = t.layer_of[i]
    num = s.copies[i]
    served = orphan
    for k in range(num):
        s.given[0, k] = s.share[i, q, k]
        s.given[1, k] = s.fused[i, q, k]
        served += s.share[i, q, k]
    if served <= 0.0 and s.pruned[i, q] <= 0.0 and not lends(t, s, i, q):
        orphan = 1.0  # nothing was there to answer it; now something may be
        served = 1.0
    least = np.inf
    for choice in range(2 * num + 1):
        # As it is; then the orphan to one copy; then everything to one copy.
        k = (choice - 1) % num if num > 0 and choice > 0 else -1
        whole = choice > num
        if choice == 0:
            if orphan > 0.0:
                continue
        else:
            if not t.reach[layer, t.server[s.option[i, k]], q]:
                continue
            if not whole and orphan <= 0.0:
                continue
            if whole and (served <= orphan or k != new):
                continue
        for e in range(num):
            s.share[i, q, e] = 0.0 if whole else s.given[0, e]
            s.fused[i, q, e] = 0.0 if whole else s.given[1, e]
        if choice > 0:
            s.share[i, q, k] = served if whole else s.given[0, k] + orphan
            fuse(t, s, i, q, k, part)
        value = tried(t, c, s, i, q)
        if value < least:
            least = value
            for e in range(num):
                s.best[0, e] = s.share[i, q, e]
                s.best[1, e] = s.fused[i, q, e]
    if least == np.inf:
        if t.calls[t.app_of[q], i] > 0.0:
            return False
        for e in range(num):
            s.best[0, e] = 0.0
            s.best[1, e] = 0.0
    for e in range(num):
        s.share[i, q, e] = s.best[0, e]
        s.fused[i, q, e] = s.best[1, e]
    carry(t, c, s, i, q, 1.0)
    retimed(t, c, s, i, q, True)
    return True


def exchange(
    t: Tables, c: SampledTables, s: SampledState, n: int, i: int, gone: int, new: int
) -> bool:
    """Change one copy of an expert for another (-1: none), and all that follows.

    Memory and counts are changed already. Returns whether every row holds; if not the
    move must be taken back.
    """
    save(t, s, i, n)
    num_q = t.rate.shape[0]
    for q in range(num_q):
        carry(t, c, s, i, q, -1.0)
    at = shift(t, s, i, gone, new)
    for q in range(num_q):
        orphan = 0.0
        for k in range(s.old_copies[n]):
            if s.old_option[n, k] == gone:
                orphan = s.old_share[n, q, k]
        if not respond(t, c, s, i, q, orphan, at, fused_part(t, s, i, q, n)):
            return False
    return within(c, s)


# -- moves -----------------------------------------------------------------------------


def wanted(
    t: Tables, c: SampledTables, s: SampledState, call: int, draws: Floats
) -> tuple[int, int]:
    """Draw a change of one copy for the expert of a call: what goes, what comes.

    New copies are sought at the home of the token, where its other calls go, and
    anywhere.
    """
    i = c.expert[call]
    layer = t.layer_of[i]
    q = c.demand[call // (c.width * c.layers)]
    num = s.copies[i]
    old = s.option[i, int(draws[5] * num)] if num > 0 else NONE
    if draws[1] < 0.08:
        return old, -1
    b = t.source[layer, q]
    if draws[1] < 0.45:
        other = s.server[(call // c.width) * c.width + int(draws[2] * c.width)]
        if other >= 0:
            b = other
    elif draws[1] < 0.7:
        b = t.server[int(draws[2] * t.server.shape[0])]
    low = c.option_from[b]
    high = c.option_from[b + 1]
    if high <= low:
        return -1, -1
    new = low + int(draws[3] * (high - low))
    here = answering(t, s, i, b)
    if here >= 0:
        return here, (-1 if new == here else new)
    if draws[4] < 0.4 and num < c.most:
        return -1, new
    return old, new


def partner(
    t: Tables, c: SampledTables, s: SampledState, v: int, i: int, where: float
) -> tuple[int, int]:
    """Return another expert with a copy at a place, and its option; -1: none found."""
    num = t.layer_of.shape[0]
    first = int(where * num)
    for n in range(min(PARTNERS, num)):
        j = (first + n) % num
        if j == i:
            continue
        for k in range(s.copies[j]):
            if t.place[s.option[j, k]] == v:
                return j, int(s.option[j, k])
    return -1, -1


def change_copies(
    t: Tables, c: SampledTables, s: SampledState, call: int, draws: Floats
) -> bool:
    """Draw a change of copies and carry it out; say whether every row holds.

    Where memory is short another expert makes room: it takes the place that is left,
    drops its copy or takes a smaller format.
    """
    i = c.expert[call]
    gone, new = wanted(t, c, s, call, draws)
    if gone < 0 and new < 0:
        return False
    if not permitted(t, c, s, i, gone, new):
        return False
    if gone >= 0:
        hold(t, s, i, gone, OUT)
    j = -1
    leaves = -1
    comes = -1
    if new >= 0:
        hold(t, s, i, new, IN)
        v = t.place[new]
        if s.used[v] > s.room[v]:
            j, leaves = partner(t, c, s, v, i, draws[6])
            if j < 0:
                return False
            if draws[7] < 0.5 and gone >= 0 and t.place[gone] != v:
                comes = c.option_at[t.place[gone], t.format[leaves]]
                if comes < 0:
                    comes = gone
            elif draws[7] < 0.75:
                small = c.option_at[v, int(draws[8] * t.size.shape[1])]
                if small < 0 or (
                    t.size[j, t.format[small]] >= t.size[j, t.format[leaves]]
                ):
                    return False
                comes = small
            if not permitted(t, c, s, j, leaves, comes):
                return False
            hold(t, s, j, leaves, OUT)
            if comes >= 0:
                hold(t, s, j, comes, IN)
    if not held(s):
        return False
    if not exchange(t, c, s, 0, i, gone, new):
        return False
    # The first change may have come to lend what the second would take away.
    return j < 0 or exchange(t, c, s, 1, j, leaves, comes)


def change_shares(
    t: Tables, c: SampledTables, s: SampledState, call: int, draws: Floats
) -> bool:
    """Draw a change of the answers of one demand; say whether every row holds."""
    i = c.expert[call]
    layer = t.layer_of[i]
    q = c.demand[call // (c.width * c.layers)]
    num = s.copies[i]
    first = t.similar_start[i]
    similar = t.similar_start[i + 1] - first
    free = 0.0
    for m in range(t.prune_width.shape[1]):
        free += t.prune_width[layer, m, q]
    save(t, s, i, 0)
    carry(t, c, s, i, q, -1.0)
    part = fused_part(t, s, i, q, 0)
    served = 0.0
    for k in range(num):
        served += s.share[i, q, k]
    if draws[1] < 0.5 and num > 0:  # to one copy, from others or from all
        k = int(draws[2] * num)
        if not t.reach[layer, t.server[s.option[i, k]], q]:
            return False
        moved = 1.0 if draws[3] < 0.5 else draws[4]
        more = 0.0
        for e in range(num):
            if e != k:
                more += moved * s.share[i, q, e]
                s.fused[i, q, e] *= 1.0 - moved
                s.share[i, q, e] *= 1.0 - moved
        for e in range(first, first + similar):
            more += moved * s.sub[e, q]
            lend(t, s, e, q, (1.0 - moved) * s.sub[e, q])
        if more <= 0.0:
            return False
        s.share[i, q, k] += more
        fuse(t, s, i, q, k, part)
    elif draws[1] < 0.7 and t.fuse_width.shape[1] > 0 and num > 0:
        part = draws[2] if draws[3] < 0.5 else (1.0 if draws[4] < 0.5 else 0.0)
        for e in range(num):
            fuse(t, s, i, q, e, part)
    elif draws[1] < 0.85 and similar > 0:
        e = first + int(draws[2] * similar)
        if answering(t, s, t.similar_to[e], t.source[layer, q]) < 0:
            return False
        moved = 1.0 if draws[3] < 0.5 else draws[4]
        more = 0.0
        for k in range(num):
            more += moved * s.share[i, q, k]
            s.fused[i, q, k] *= 1.0 - moved
            s.share[i, q, k] *= 1.0 - moved
        if more <= 0.0:
            return False
        lend(t, s, e, q, s.sub[e, q] + more)
    elif free > 0.0:
        least = 0.0
        for e in range(first, first + similar):
            least += s.sub[e, q]
        new = free * (draws[2] if draws[3] < 0.5 else (1.0 if draws[4] < 0.5 else 0.0))
        new = min(new, 1.0 - least)
        if served <= 0.0:  # pruned as a whole: a copy may begin to serve
            k = int(draws[5] * num) if num > 0 else -1
            if k < 0 or not t.reach[layer, t.server[s.option[i, k]], q]:
                return False
            s.share[i, q, k] = s.pruned[i, q] - new
            if s.share[i, q, k] < 0.0:
                return False
        else:
            ratio = (served + s.pruned[i, q] - new) / served
            if ratio < 0.0:
                return False
            for e in range(num):
                s.share[i, q, e] *= ratio
                s.fused[i, q, e] *= ratio
        s.pruned[i, q] = new
    else:
        return False
    carry(t, c, s, i, q, 1.0)
    if not within(c, s):
        return False
    retimed(t, c, s, i, q, True)
    return True


def walk(
    t: Tables,
    c: SampledTables,
    s: SampledState,
    valid: Ints,
    draws: Floats,
    hot: float,
    cold: float,
) -> None:
    """Try moves one after the other; what is worse is taken with falling odds.

    Parameters
    ----------
    t, c, s
        The state.
    valid
        Calls that moves begin from.
    draws
        Random numbers in [0, 1), (moves, DRAWS).
    hot, cold
        Temperatures at the start and at the end; 0: only what is no worse stays.
    """
    num = draws.shape[0]
    heat = hot
    ratio = math.log(cold / hot) / max(num, 1) if hot > 0.0 else 0.0
    for m in range(num):
        if hot > 0.0:
            heat = hot * math.exp(ratio * m)
        begin(s)
        before = s.knob[COST] + s.knob[SAMPLED]
        call = valid[int(draws[m, 0] * valid.shape[0])]
        if draws[m, 9] < SHARES:
            good = change_shares(t, c, s, call, draws[m])
        else:
            good = change_copies(t, c, s, call, draws[m])
        more = s.knob[COST] + s.knob[SAMPLED] - before
        s.knob[WORK] += 50.0
        if good:
            s.knob[TRIED] += 1.0
            if more <= 0.0 or (heat > 0.0 and draws[m, 10] < math.exp(-more / heat)):
                s.knob[DONE] += 1.0
                continue
            s.knob[UPHILL] += more
        undo(t, c, s)


KERNELS = (
    put,
    answering,
    peak,
    carry,
    hold,
    held,
    within,
    draw,
    slowest,
    spread,
    timed,
    retimed,
    build,
    lend,
    save,
    begin,
    undo,
    permitted,
    shift,
    lends,
    fuse,
    fused_part,
    tried,
    respond,
    exchange,
    wanted,
    partner,
    change_copies,
    change_shares,
    walk,
)
"""What is compiled, callees first."""

ENTRIES = ("build", "walk")
"""What is called from Python."""
