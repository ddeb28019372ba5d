"""Pricing: the best copies and answers of each block at fixed prices, exactly.

With every row that couples experts priced, what remains is one small problem for each
block (an expert, or a group of similar ones): facility location, where a facility is a
copy that could exist, with its memory as the cost of opening, and a client is a demand
that calls an expert. A share costs what it adds to all loads at their prices. Pruning
and fusion need no clients of their own: fusion is folded into the price of a way, and
pruning turns the price x of a call into ``rest x + sum(width min(x, drop))``, which
grows with x and so commutes with the minimum over copies.

A block is solved exactly (`facility`). The same source runs as Python and compiled, as
in `meldopt_solvers.search.kernels`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .facility import FACILITY, NONE, Facilities, locate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt_solvers.search.kernels import Tables

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

FASTMATH = ("nnan", "nsz", "arcp")
"""Beside what `compiled` allows: infinities occur, but are never subtracted."""

SAMPLED_NODES = 2_000
"""Sets of copies looked at for a block with clients of sampled calls, at most."""


class PriceTables(NamedTuple):
    """Prices at which blocks are solved, laid out by layer."""

    net: Floats  # (L, S, Q) of a call that goes to a server, fusion folded in; inf: no
    serial: Floats  # (Q,) of a second
    nat: Floats  # (Q,)
    omega: Floats  # (L, V) of a second of work, beside `serial`
    drop: Floats  # (L, M, Q) of a pruned call
    rest: Floats  # (L, Q) share of a call that no segment can prune
    memory: Floats  # (V,) of a byte
    counted: Floats  # (R,) of a copy
    timed: Floats  # (N, Q, K) weight of the fastest answer of sampled calls; or none
    load: Floats  # (N, Q, K) weight of work at a weighted server
    visit: Floats  # (N, Q, K) weight of the way to a weighted server
    swift: Floats  # (L, S, Q, K) time of the way of a sampled call by kind; inf: no
    lean: Floats  # (L, S, Q) weight of each server


class Blocks(NamedTuple):
    """Which experts are solved together, and what is to be found for them."""

    start: Ints  # (Y+1,) members of each block, in order of layers
    member: Ints  # (N,)
    layer_start: Ints  # (L+1,) blocks of each layer
    must_start: Ints  # (Y+1,) count rows of which a block must hold a copy
    must_row: Ints
    only: Ints  # (Y,) format that a block is restricted to; -1: none
    skip: Bools  # (Y,) blocks that are left out


class Found(NamedTuple):
    """What pricing found; sums are by layer."""

    lower: Floats  # (Y,) proven
    upper: Floats  # (Y,) of the copies that were found
    option: Ints  # (N, C) of each expert; -1: none
    sent: Floats  # (L, Q, S) calls/s that leave a demand's source for a server
    busy: Floats  # (L, V) seconds of work per second
    spent: Floats  # (L, G) the same by application
    nats: Floats  # (L, G) nats/s, without those of fusion
    memory: Floats  # (L, V) bytes
    counted: Floats  # (L, R) copies
    nodes: Ints  # (L,) sets of copies looked at
    near: Bools  # (N, O) options that a slightly worse choice might use


def folded(t: Tables, p: PriceTables, layer: int, q: int, x: float) -> float:
    """Price of a call that costs x to answer, after pruning what is dearer."""
    if p.rest[layer, q] >= 1.0:
        return x
    y = p.rest[layer, q] * x if p.rest[layer, q] > 0.0 else 0.0
    for m in range(t.prune_width.shape[1]):
        y += t.prune_width[layer, m, q] * min(x, p.drop[layer, m, q])
    return y


def copy_price(
    t: Tables, p: PriceTables, j: int, o: int, layer: int, g: int, q: int
) -> float:
    """Price of the work and the loss of one call of demand q at a copy of expert j."""
    v = t.place[o]
    b = t.format[o]
    work = t.flop[j] * t.s_per_flop[v, b] + t.size[j, b] * t.s_per_byte[v]
    return float((p.serial[q] + p.omega[layer, v]) * work + p.nat[q] * t.loss[g, j, b])


def copy_work(t: Tables, j: int, o: int) -> float:
    """Seconds of one call at a copy of expert j."""
    v = t.place[o]
    b = t.format[o]
    return float(t.flop[j] * t.s_per_flop[v, b] + t.size[j, b] * t.s_per_byte[v])


def sampled_cost(
    t: Tables,
    p: PriceTables,
    i: int,
    j: int,
    o: int,
    layer: int,
    q: int,
    kind: int,
    alone: bool,
) -> float:
    """Weighted time of the sampled calls of i, if a copy of j answers; inf: cannot be.

    Either of the calls by themselves, or of what they take of weighted servers.
    """
    c = t.server[o]
    way = p.swift[layer, c, q, kind]
    if i != j:
        way = np.inf
        for n in range(t.similar_start[i], t.similar_start[i + 1]):
            if t.similar_to[n] == j and c == t.source[layer, q]:
                way = 0.0  # it is there already
    if way == np.inf:
        return float(np.inf)
    work = copy_work(t, j, o)
    if alone:
        return float(p.timed[i, q, kind] * (way + work))
    taken = p.load[i, q, kind] * work + p.visit[i, q, kind] * way
    return float(p.lean[layer, c, q] * taken)


def answer_price(
    t: Tables, p: PriceTables, i: int, j: int, o: int, layer: int, q: int
) -> float:
    """Price of one call of expert i answered by a copy of expert j; inf: cannot be."""
    c = t.server[o]
    g = t.app_of[q]
    x = copy_price(t, p, j, o, layer, g, q)
    if i == j:
        return float(x + p.net[layer, c, q])
    if c != t.source[layer, q]:
        return float(np.inf)
    for n in range(t.similar_start[i], t.similar_start[i + 1]):
        if t.similar_to[n] == j:
            return float(x + p.nat[q] * t.similar_loss[g, n])
    return float(np.inf)


def counts_in(t: Tables, i: int, o: int, r: int) -> bool:
    """Say whether a copy counts in a count row."""
    for n in range(t.count_start[i], t.count_start[i + 1]):
        if t.count_row[n] == r:
            return bool(t.count_option[r, o])
    return False


def stands_in(t: Tables, y: Blocks, block: int, i: int, o: int, other: int) -> bool:
    """Say whether option o of an expert counts wherever another one must."""
    for n in range(y.must_start[block], y.must_start[block + 1]):
        r = y.must_row[n]
        if counts_in(t, i, other, r) and not counts_in(t, i, o, r):
            return False
    return True


def price_block(
    t: Tables, p: PriceTables, y: Blocks, out: Found, layer: int, block: int, nodes: int
) -> None:
    """Solve a block and add what its copies and answers use to the sums of a layer."""
    first = y.start[block]
    num_m = y.start[block + 1] - first
    num_q = t.rate.shape[0]
    num_o = t.place.shape[0]
    num_g = t.calls.shape[0]
    num_x = t.fails.shape[0]
    sampled = p.timed.shape[0] > 0
    num_k = p.timed.shape[2]
    # Facilities: the copies that could exist, without those that another one on the
    # same place could stand in for at no loss, even if they answered all calls.
    own = np.empty(num_m * num_o, dtype=np.int64)
    opt = np.empty(num_m * num_o, dtype=np.int64)
    opening = np.empty(num_m * num_o)
    forced = np.zeros(num_m * num_o, dtype=np.bool_)
    inner = np.empty((num_m * num_o, num_g))
    seconds = np.zeros(num_m * num_o)  # of sampled calls, weighted, if it answers all
    num_f = 0
    pinned = 0
    split = False  # a pin in another format than the one that is left
    first_q = np.full(num_g, NONE, dtype=np.int64)
    calls = np.zeros(num_g)  # calls/s of the whole block
    for q in range(num_q - 1, -1, -1):
        g = t.app_of[q]
        first_q[g] = q
        for a in range(num_m):
            calls[g] += t.rate[q] * t.calls[g, y.member[first + a]]
    for a in range(num_m):
        i = y.member[first + a]
        start = num_f
        for n in range(t.pin_start[i], t.pin_start[i + 1]):
            b = t.format[t.pin_option[n]]
            split = split or (y.only[block] >= 0 and b != y.only[block])
        for o in range(num_o):
            b = t.format[o]
            v = t.place[o]
            if not t.usable[i, o] or (y.only[block] >= 0 and b != y.only[block]):
                continue
            opening[num_f] = t.size[i, b] * p.memory[v]
            for n in range(t.count_start[i], t.count_start[i + 1]):
                if t.count_option[t.count_row[n], o]:
                    opening[num_f] += p.counted[t.count_row[n]]
            forced[num_f] = False
            for n in range(t.pin_start[i], t.pin_start[i + 1]):
                if t.pin_option[n] == o:
                    forced[num_f] = True
            for g in range(num_g):
                if first_q[g] >= 0:
                    inner[num_f, g] = copy_price(t, p, i, o, layer, g, first_q[g])
            own[num_f] = a
            opt[num_f] = o
            beaten = False
            weight = 0.0  # of a second of work of sampled calls of the whole block
            for h in range(num_m if sampled else 0):
                for q in range(num_q):
                    lean = p.lean[layer, t.server[o], q]
                    for kind in range(num_k):
                        k = y.member[first + h]
                        weight += p.timed[k, q, kind] + lean * p.load[k, q, kind]
            if sampled:
                seconds[num_f] = weight * copy_work(t, i, o)
            n = start
            while n < num_f and not forced[num_f]:
                if t.place[opt[n]] == v and stands_in(t, y, block, i, opt[n], o):
                    least = opening[n] + max(seconds[n] - seconds[num_f], 0.0)
                    for g in range(num_g):
                        if first_q[g] >= 0 and inner[n, g] > inner[num_f, g]:
                            least += calls[g] * (inner[n, g] - inner[num_f, g])
                    if least <= opening[num_f]:
                        beaten = True
                        break
                n += 1
            if beaten:
                continue
            n = start
            while n < num_f:  # and those that this one beats
                worse = t.place[opt[n]] == v and not forced[n]
                if worse and stands_in(t, y, block, i, o, opt[n]):
                    least = opening[num_f] + max(seconds[num_f] - seconds[n], 0.0)
                    for g in range(num_g):
                        if first_q[g] >= 0 and inner[n, g] < inner[num_f, g]:
                            least += calls[g] * (inner[num_f, g] - inner[n, g])
                    worse = opening[n] >= least
                else:
                    worse = False
                if worse:
                    num_f -= 1
                    for m in range(n, num_f + 1):  # this one moves too
                        own[m] = own[m + 1]
                        opt[m] = opt[m + 1]
                        opening[m] = opening[m + 1]
                        forced[m] = forced[m + 1]
                        seconds[m] = seconds[m + 1]
                        for g in range(num_g):
                            inner[m, g] = inner[m + 1, g]
                else:
                    n += 1
            if forced[num_f]:
                pinned += 1
            num_f += 1
    num_must = y.must_start[block + 1] - y.must_start[block]
    most_c = num_m * ((1 + 2 * num_k) * num_q + num_x + 1) + num_must
    cost = np.empty((most_c, num_f))
    server = np.empty(num_f, dtype=np.int64)
    for f in range(num_f):
        server[f] = t.server[opt[f]]
    bare = np.empty(most_c)
    who = np.empty(most_c, dtype=np.int64)
    asks = np.empty(most_c, dtype=np.int64)
    num_c = 0
    must = False
    for a in range(num_m):
        i = y.member[first + a]
        for q in range(num_q):
            g = t.app_of[q]
            mass = t.rate[q] * t.calls[g, i]
            if mass <= 0.0:
                continue
            for f in range(num_f):
                if own[f] == a:
                    x = inner[f, g] + p.net[layer, server[f], q]
                else:
                    j = y.member[first + own[f]]
                    x = answer_price(t, p, i, j, opt[f], layer, q)
                cost[num_c, f] = mass * folded(t, p, layer, q, x)
            bare[num_c] = mass * folded(t, p, layer, q, np.inf)
            must = must or bare[num_c] == np.inf
            who[num_c] = a
            asks[num_c] = q
            num_c += 1
    num_r = num_c
    for a in range(num_m if sampled else 0):
        i = y.member[first + a]
        for n in range(2 * num_k * num_q):
            q = n // (2 * num_k)
            kind = n // 2 % num_k
            alone = n % 2 == 0
            if (p.timed[i, q, kind] if alone else p.load[i, q, kind]) <= 0.0:
                continue
            for f in range(num_f):
                j = y.member[first + own[f]]
                cost[num_c, f] = sampled_cost(t, p, i, j, opt[f], layer, q, kind, alone)
            bare[num_c] = np.inf
            num_c += 1
    nothing = 0.0  # what it costs to have no copy, if that may be
    for k in range(num_c):
        nothing += bare[k]
    if t.may_miss and num_m > 1:
        num_x = 0  # whoever is missing needs no cover: left out, a relaxation
    for a in range(num_m):
        for n in range(-1, num_x):  # a copy at all, and one outside each failure set
            if n < 0 and (t.may_miss or num_x > 0 or (must and num_m == 1)):
                continue
            for f in range(num_f):
                safe = own[f] == a and (n < 0 or not t.fails[n, server[f]])
                cost[num_c, f] = 0.0 if safe else np.inf
            bare[num_c] = np.inf
            num_c += 1
    for n in range(y.must_start[block], y.must_start[block + 1]):
        r = y.must_row[n]
        for f in range(num_f):
            i = y.member[first + own[f]]
            cost[num_c, f] = 0.0 if counts_in(t, i, opt[f], r) else np.inf
        bare[num_c] = np.inf
        num_c += 1
    way = np.empty((num_f, num_c))
    for f in range(num_f):
        for k in range(num_c):
            way[f, k] = cost[k, f]
            if forced[f] and way[f, k] < bare[k]:
                bare[k] = way[f, k]
    width = out.option.shape[1]
    chosen = np.empty(max(num_m * width, pinned), dtype=np.int64)
    near = np.zeros(num_f, dtype=np.bool_)
    facilities = Facilities(
        opening[:num_f],
        cost[:num_c],
        way,
        bare[:num_c],
        forced[:num_f],
        server,
        own,
        width,
    )
    most = min(nodes, SAMPLED_NODES) if sampled else nodes
    lower, upper, number, seen = locate(facilities, most, chosen, near)
    for f in range(num_f):
        if near[f]:
            out.near[y.member[first + own[f]], opt[f]] = True
    if split:
        lower = np.inf
        upper = np.inf
    empty = t.may_miss and num_x > 0 and pinned == 0 and num_must == 0
    if empty and not split and nothing <= upper:
        lower = min(lower, nothing)
        upper = nothing
        number = 0
    out.lower[block] = lower
    out.upper[block] = upper
    out.nodes[layer] += seen
    for a in range(num_m):
        for n in range(width):
            out.option[y.member[first + a], n] = NONE
    if upper == np.inf:
        return
    for d in range(number):
        f = chosen[d]
        i = y.member[first + own[f]]
        for n in range(width):
            if out.option[i, n] == NONE:
                out.option[i, n] = opt[f]
                break
        v = t.place[opt[f]]
        out.memory[layer, v] += t.size[i, t.format[opt[f]]]
        for n in range(t.count_start[i], t.count_start[i + 1]):
            if t.count_option[t.count_row[n], opt[f]]:
                out.counted[layer, t.count_row[n]] += 1.0
    for k in range(num_r):
        i = y.member[first + who[k]]
        q = asks[k]
        mass = t.rate[q] * t.calls[t.app_of[q], i]
        best = np.inf
        which = NONE
        for d in range(number):
            f = chosen[d]
            if own[f] == who[k]:
                x = inner[f, t.app_of[q]] + p.net[layer, server[f], q]
            else:
                j = y.member[first + own[f]]
                x = answer_price(t, p, i, j, opt[f], layer, q)
            if x < best:
                best = x
                which = f
        j = i if which == NONE else y.member[first + own[which]]
        use(
            t, p, out, layer, q, i, j, NONE if which == NONE else opt[which], best, mass
        )


def use(
    t: Tables,
    p: PriceTables,
    out: Found,
    layer: int,
    q: int,
    i: int,
    j: int,
    o: int,
    x: float,
    mass: float,
) -> None:
    """Add the loads of calls of i that are answered by copy o of j at the price x."""
    g = t.app_of[q]
    served = p.rest[layer, q]
    for m in range(t.prune_width.shape[1]):
        width = t.prune_width[layer, m, q]
        if x <= p.drop[layer, m, q]:
            served += width
        else:
            out.nats[layer, g] += mass * width * t.prune_loss[layer, m, q]
    if o == NONE or served <= 0.0:
        return
    v = t.place[o]
    b = t.format[o]
    work = t.flop[j] * t.s_per_flop[v, b] + t.size[j, b] * t.s_per_byte[v]
    out.busy[layer, v] += mass * served * work
    out.spent[layer, g] += mass * served * work
    loss = t.loss[g, j, b]
    if i == j:
        out.sent[layer, q, t.server[o]] += mass * served
    else:
        for n in range(t.similar_start[i], t.similar_start[i + 1]):
            if t.similar_to[n] == j:
                loss += t.similar_loss[g, n]
    out.nats[layer, g] += mass * served * loss


def price_layers(
    t: Tables, p: PriceTables, y: Blocks, out: Found, layers: Ints, nodes: int
) -> None:
    """Solve the blocks of some layers."""
    for n in range(layers.shape[0]):
        layer = layers[n]
        for block in range(y.layer_start[layer], y.layer_start[layer + 1]):
            if not y.skip[block]:
                price_block(t, p, y, out, layer, block, nodes)


KERNELS = (
    folded,
    copy_price,
    copy_work,
    sampled_cost,
    answer_price,
    *FACILITY,
    use,
    counts_in,
    stands_in,
    price_block,
    price_layers,
)
"""What is compiled, callees first."""

ENTRIES = ("price_layers",)
"""What is called from Python."""
