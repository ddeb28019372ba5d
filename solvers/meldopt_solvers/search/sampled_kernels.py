"""What copies and shares come to on sampled tokens, in Python or compiled.

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

from typing import TYPE_CHECKING, NamedTuple

from .kernels import IN, NONE, Tables

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

COST, SAMPLED, WORK, TRIED, DONE, UPHILL = 0, 1, 2, 3, 4, 5
"""Of `SampledState.knob`: the objective without sampled terms, and these; work; moves
tried and carried out; what refused moves would have cost."""


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
)
"""What is compiled, callees first."""
