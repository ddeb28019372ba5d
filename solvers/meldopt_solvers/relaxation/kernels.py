"""Pricing: the best copies and answers of each block at fixed prices, exactly.

With every row that couples experts priced, what remains is one small problem for each
block (an expert, or a group of similar ones): facility location, where a facility is a
copy that could exist, with its memory as the cost of opening, and a client is a demand
that calls an expert. A share costs what it adds to all loads at their prices. Pruning
and fusion need no clients of their own: fusion is folded into the price of a way, and
pruning turns the price x of a call into ``rest x + sum(width min(x, drop))``, which
grows with x and so commutes with the minimum over copies.

A block is solved exactly: dual ascent (Erlenkotter [1]_) gives a lower bound and
slacks, slacks exclude facilities, and what is left is enumerated depth first. The same
source runs as Python and compiled, as in `meldopt_solvers.search.kernels`.

References
----------
.. [1] Erlenkotter, D. (1978). A dual-based procedure for uncapacitated facility
   location. *Operations Research* 26(6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt_solvers.search.kernels import Tables

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

NONE: Any = np.int64(-1)

FASTMATH = ("nnan", "nsz", "arcp")
"""Beside what `compiled` allows: infinities occur, but are never subtracted."""

NEAR = 0.002
"""Relative excess of choices whose options are remembered."""

MANY = 48
"""Facilities from which a quick ascent first leaves out what no good set has."""

QUICK, CAREFUL = 4.0, np.inf
"""Steps of a client in that ascent, and in one that stops at every server."""

EXCHANGES = 12
"""Exchanges of facilities of a greedy set, at most."""

SAMPLED_NODES = 2_000
"""Sets of copies looked at for a block with clients of sampled calls, at most."""

EXACT = 1e-11
"""Relative difference at which two values of a block are the same."""


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


def ascend(
    opening: Floats,
    cost: Floats,
    bare: Floats,
    opt_server: Ints,
    owner: Ints,
    slack: Floats,
    dual: Floats,
    steps: float,
) -> float:
    """Raise the duals of clients one after the other; return their sum.

    Each rises to its next server (past those nearer than one of so many steps, of the
    way to servers on average), or until a facility that it reaches already is paid for.
    ``slack`` becomes what is left of each facility's cost of opening: a set of
    open facilities costs at least the sum plus its slacks.
    """
    num_f = opening.shape[0]
    num_c = bare.shape[0]
    total = 0.0
    num_s = 0
    least = 0.0
    first = 0
    for f in range(num_f):  # one copy of an expert on a server: one gift at most
        if opt_server[f] != opt_server[first] or owner[f] != owner[first]:
            first = f
        if f == first:
            least = 0.0
            n = f
            while n < num_f and opt_server[n] == opt_server[f] and owner[n] == owner[f]:
                least = min(least, opening[n])
                n += 1
            total += least
        slack[f] = opening[f] - least
    near = np.empty((num_c, num_f))  # of each server, its nearest facility
    listed = np.empty(num_c, dtype=np.int64)  # clients that may rise
    flat = np.zeros(num_c, dtype=np.bool_)  # all facilities are the same to them
    least_rise = np.zeros(num_c)
    for k in range(num_c):
        low = bare[k]
        num_s = 0
        for f in range(num_f):
            x = cost[k, f]
            low = x if x < low else low
            if (
                f > 0
                and opt_server[f] == opt_server[f - 1]
                and owner[f] == owner[f - 1]
            ):
                near[k, num_s - 1] = min(near[k, num_s - 1], x)
            else:
                near[k, num_s] = x
                num_s += 1
        dual[k] = low
        flat[k] = bare[k] == np.inf
        for f in range(num_f):
            flat[k] = flat[k] and (cost[k, f] == low or cost[k, f] == np.inf)
        if low == np.inf:
            return float(np.inf)
        reached = 0
        above = 0.0
        for f in range(num_s):
            if near[k, f] < np.inf:
                reached += 1
                above += near[k, f] - low
        if reached > steps:
            least_rise[k] = above / (reached * steps)
    for late in range(2):  # whoever only asks for some facility would take all slack
        num = 0
        for k in range(num_c):
            if flat[k] == (late == 1):
                listed[num] = k
                num += 1
        while num > 0:
            left = 0
            for n in range(num):
                k = listed[n]
                here = dual[k]
                top = bare[k]
                close = here + least_rise[k]
                for f in range(num_s):
                    z = near[k, f]
                    z = z if z > close else np.inf
                    top = z if z < top else top
                most = np.inf
                for f in range(num_f):
                    x = cost[k, f]
                    x = (x if x > here else here) + slack[f]
                    most = x if x < most else most
                high = most if most < top else top
                if high <= here:
                    continue
                for f in range(num_f):
                    x = cost[k, f]
                    x = high - (x if x > here else here)
                    x = slack[f] - (x if x > 0.0 else 0.0)
                    slack[f] = x if x > 0.0 else 0.0
                dual[k] = high
                if most > top and top < bare[k]:
                    listed[left] = k
                    left += 1
            num = left
    for k in range(num_c):
        total += dual[k]
    return float(total)


def may_join(
    f: int, depth: int, stack: Ints, opt_server: Ints, owner: Ints, most: int
) -> bool:
    """Say whether a facility may stand beside those on the stack."""
    same = 0
    for d in range(depth):
        h = stack[d]
        if owner[h] == owner[f]:
            same += 1
            if opt_server[h] == opt_server[f]:
                return False
    return bool(same < most)


def greedy_set(
    opening: Floats,
    way: Floats,
    bare: Floats,
    forced: Bools,
    listed: Bools,
    opt_server: Ints,
    owner: Ints,
    most: int,
    stack: Ints,
) -> tuple[int, float]:
    """Open the facility that gains most, again and again; return how many, and cost.

    Only those that are listed are looked at, and those that are forced.
    """
    num_f = opening.shape[0]
    num_c = bare.shape[0]
    least = bare.copy()
    depth = 0
    total = 0.0
    for f in range(num_f):
        if forced[f]:
            stack[depth] = f
            depth += 1
            total += opening[f]
    while depth < stack.shape[0]:
        lost = 0
        for k in range(num_c):
            if least[k] == np.inf:
                lost += 1
        best = NONE
        most_served = 0
        most_gain = 0.0
        for f in range(num_f):
            if forced[f] or not listed[f]:
                continue
            if not may_join(f, depth, stack, opt_server, owner, most):
                continue
            gain = -opening[f]
            served = 0
            if lost == 0:
                for k in range(num_c):
                    x = least[k] - way[f, k]
                    gain += x if x > 0.0 else 0.0
            else:
                for k in range(num_c):
                    x = way[f, k]
                    if x < least[k]:
                        if least[k] == np.inf:
                            served += 1
                            gain -= x
                        else:
                            gain += least[k] - x
            if served > most_served or (
                served == most_served
                and (gain > most_gain or (served > 0 and best == NONE))
            ):
                best = f
                most_served = served
                most_gain = gain
        if best == NONE:
            break
        stack[depth] = best
        depth += 1
        total += opening[best]
        for k in range(num_c):
            x = way[best, k]
            least[k] = x if x < least[k] else least[k]
    for k in range(num_c):
        total += least[k]
    return depth, float(total)


def exchange(
    opening: Floats,
    way: Floats,
    bare: Floats,
    forced: Bools,
    opt_server: Ints,
    owner: Ints,
    most: int,
    stack: Ints,
    number: int,
    total: float,
) -> tuple[int, float]:
    """Drop, replace and add facilities while that helps; return as `greedy_set`."""
    num_f = opening.shape[0]
    num_c = bare.shape[0]
    deep = stack.shape[0]
    base = np.empty(num_c)
    for _ in range(EXCHANGES):
        best = total - EXACT * abs(total)
        which = NONE
        enter = NONE
        for d in range(number + 1):
            if d < number and forced[stack[d]]:
                continue
            paid = 0.0
            for k in range(num_c):
                base[k] = bare[k]
            for e in range(number):
                if e == d:
                    continue
                f = stack[e]
                paid += opening[f]
                for k in range(num_c):
                    x = way[f, k]
                    base[k] = x if x < base[k] else base[k]
            if d < number:
                value = paid
                for k in range(num_c):
                    value += base[k]
                if value < best:
                    best = value
                    which = d
                    enter = NONE
                kept = stack[d]
                stack[d] = stack[number - 1]  # so that may_join sees the others only
                size = number - 1
            else:
                kept = NONE
                size = number
            if size < deep:
                for f in range(num_f):
                    if forced[f] or paid + opening[f] >= best:
                        continue
                    if not may_join(f, size, stack, opt_server, owner, most):
                        continue
                    value = paid + opening[f]
                    for k in range(num_c):
                        x = way[f, k]
                        value += x if x < base[k] else base[k]
                    if value < best:
                        best = value
                        which = d
                        enter = f
            if d < number:
                stack[d] = kept
        if which == NONE:
            break
        total = best
        if which == number:
            stack[number] = enter
            number += 1
        elif enter == NONE:
            number -= 1
            stack[which] = stack[number]
        else:
            stack[which] = enter
    return number, total


def approach(
    opening: Floats,
    cost: Floats,
    way: Floats,
    bare: Floats,
    forced: Bools,
    opt_server: Ints,
    owner: Ints,
    most: int,
    steps: float,
    slack: Floats,
    dual: Floats,
    chosen: Ints,
) -> tuple[float, float, int]:
    """Return a bound by `ascend` and the cost and number of a `greedy_set`.

    Facilities that the duals pay for make a better start than any others.
    """
    num_f = opening.shape[0]
    fixed = 0.0
    free = opening.copy()
    for f in range(num_f):
        if forced[f]:
            fixed += opening[f]
            free[f] = 0.0
    lower = fixed + ascend(free, cost, bare, opt_server, owner, slack, dual, steps)
    if lower == np.inf:
        return np.inf, np.inf, 0
    paid_for = np.empty(num_f, dtype=np.bool_)
    for f in range(num_f):
        paid_for[f] = forced[f] or slack[f] <= EXACT * abs(lower)
    number, upper = greedy_set(
        opening, way, bare, forced, paid_for, opt_server, owner, most, chosen
    )
    if upper == np.inf:
        paid_for[:] = True
        number, upper = greedy_set(
            opening, way, bare, forced, paid_for, opt_server, owner, most, chosen
        )
    return lower, upper, number


def search(
    opening: Floats,
    cost: Floats,
    way: Floats,
    bare: Floats,
    forced: Bools,
    opt_server: Ints,
    owner: Ints,
    most: int,
    nodes: int,
    chosen: Ints,
    near: Bools,
) -> tuple[float, float, int, int]:
    """Solve one block, of few facilities; see `locate`."""
    num_f = opening.shape[0]
    num_c = bare.shape[0]
    slack = np.empty(num_f)
    dual = np.empty(num_c)
    lower, upper, number = approach(
        opening,
        cost,
        way,
        bare,
        forced,
        opt_server,
        owner,
        most,
        CAREFUL,
        slack,
        dual,
        chosen,
    )
    if lower == np.inf:
        return np.inf, np.inf, 0, 0
    if upper < np.inf and lower < upper - EXACT * abs(upper):
        number, upper = exchange(
            opening,
            way,
            bare,
            forced,
            opt_server,
            owner,
            most,
            chosen,
            number,
            upper,
        )
    edge = upper - EXACT * abs(upper) if upper < np.inf else upper
    for f in range(num_f):
        near[f] = forced[f] or lower + slack[f] <= upper + NEAR * abs(upper)
    if lower >= edge:
        return min(lower, upper), upper, number, 1
    # What could be part of a better set, the likeliest first.
    listed = np.empty(num_f, dtype=np.int64)
    num = 0
    for f in range(num_f):
        if not forced[f] and lower + slack[f] < upper:
            listed[num] = f
            num += 1
    for n in range(1, num):  # an insertion sort: compiling argsort takes a second
        f = listed[n]
        m = n
        while m > 0 and slack[listed[m - 1]] > slack[f]:
            listed[m] = listed[m - 1]
            m -= 1
        listed[m] = f
    after = np.empty((num + 1, num_c))
    paying = np.empty((num, num_c))  # what clients pay towards opening
    gift = np.zeros(num + 1)  # what facilities that pay for themselves still bring
    for k in range(num_c):
        after[num, k] = np.inf
    for n in range(num - 1, -1, -1):
        gift[n] = gift[n + 1] + min(opening[listed[n]], 0.0)
        for k in range(num_c):
            x = way[listed[n], k]
            after[n, k] = x if x < after[n + 1, k] else after[n + 1, k]
            x = dual[k] - x
            paying[n, k] = x if x > 0.0 else 0.0
    deep = chosen.shape[0]
    stack = np.empty(deep, dtype=np.int64)
    base = 0
    paid = np.zeros(deep + 1)
    charge = np.zeros(deep + 1)
    least = np.empty((deep + 1, num_c))
    pays = np.zeros((deep + 1, num_c))
    for f in range(num_f):
        if forced[f]:
            stack[base] = f
            base += 1
    fixed = 0.0
    for d in range(base):
        fixed += opening[stack[d]]
    paid[base] = fixed
    value = fixed
    for k in range(num_c):
        least[base, k] = bare[k]
        value += bare[k]
    if value < upper:
        upper = value
        edge = upper - EXACT * abs(upper)
        number = base
        for d in range(base):
            chosen[d] = stack[d]
    at = np.zeros(deep + 1, dtype=np.int64)
    depth = base
    seen = 0
    while depth >= base:
        n = at[depth]
        if (
            n >= num
            or depth >= deep
            or lower + charge[depth] + slack[listed[n]] >= edge
        ):
            depth -= 1
            continue
        at[depth] = n + 1
        f = listed[n]
        if not may_join(f, depth, stack, opt_server, owner, most):
            continue
        seen += 1
        if seen > nodes:
            return min(lower, upper), upper, number, seen
        # Beside its slack a facility costs what clients that pay for others pay twice.
        twice = charge[depth] + slack[f]
        for k in range(num_c):
            x = paying[n, k]
            z = pays[depth, k]
            pays[depth + 1, k] = x if x > z else z
            twice += x if x < z else z
        if lower + twice >= edge:
            continue
        charge[depth + 1] = twice
        paid[depth + 1] = paid[depth] + opening[f]
        value = paid[depth + 1]
        best = paid[depth + 1] + gift[n + 1]
        short = lower + twice
        for k in range(num_c):
            x = way[f, k]
            x = x if x < least[depth, k] else least[depth, k]
            least[depth + 1, k] = x
            value += x
            z = after[n + 1, k]
            z = z if z < x else x
            best += z
            z -= dual[k]
            short += z if z > 0.0 else 0.0
        stack[depth] = f
        if value < upper:
            upper = value
            edge = upper - EXACT * abs(upper)
            number = depth + 1
            for d in range(number):
                chosen[d] = stack[d]
        if best < edge and short < edge:
            at[depth + 1] = n + 1
            depth += 1
    return edge, upper, number, seen


def locate(
    opening: Floats,
    cost: Floats,
    way: Floats,
    bare: Floats,
    forced: Bools,
    opt_server: Ints,
    owner: Ints,
    most: int,
    nodes: int,
    chosen: Ints,
    near: Bools,
) -> tuple[float, float, int, int]:
    """Solve one block.

    With many facilities, those that a quick ascent shows to be in no good set are left
    out first.

    Parameters
    ----------
    opening
        Cost of each facility, (F,).
    cost, way
        Of each client at each facility, (K, F), and transposed; inf: cannot serve.
    bare
        Of each client if only the forced facilities serve, (K,); inf: must be served.
    forced
        Facilities that are open.
    opt_server, owner
        Server and expert of a facility: one copy of an expert on a server.
    most
        Largest number of copies of an expert.
    nodes
        Sets to look at, at most; then the bound of the ascent is the answer.
    chosen
        Filled with the open facilities.
    near
        Set for facilities that a choice not much dearer may have.

    Returns
    -------
    lower, upper, number, nodes
        Proven bound, cost of the facilities chosen, how many, and sets looked at.
    """
    num_f = opening.shape[0]
    num_c = bare.shape[0]
    if num_f < MANY:
        return search(
            opening,
            cost,
            way,
            bare,
            forced,
            opt_server,
            owner,
            most,
            nodes,
            chosen,
            near,
        )
    slack = np.empty(num_f)
    dual = np.empty(num_c)
    lower, upper, number = approach(
        opening,
        cost,
        way,
        bare,
        forced,
        opt_server,
        owner,
        most,
        QUICK,
        slack,
        dual,
        chosen,
    )
    if lower == np.inf:
        return np.inf, np.inf, 0, 0
    kept = np.empty(num_f, dtype=np.int64)
    num = 0
    for f in range(num_f):
        if forced[f] or lower + slack[f] <= upper + NEAR * abs(upper):
            kept[num] = f
            num += 1
    kept = kept[:num]
    less_cost = np.empty((num_c, num))
    less_way = np.empty((num, num_c))
    for n in range(num):
        for k in range(num_c):
            less_way[n, k] = way[kept[n], k]
            less_cost[k, n] = way[kept[n], k]
    picked = np.empty_like(chosen)
    close = np.zeros(num, dtype=np.bool_)
    low, high, count, seen = search(
        opening[kept],
        less_cost,
        less_way,
        bare,
        forced[kept],
        opt_server[kept],
        owner[kept],
        most,
        nodes,
        picked,
        close,
    )
    for n in range(num):
        near[kept[n]] = close[n]
    if high <= upper:
        upper = high
        number = count
        for d in range(count):
            chosen[d] = kept[picked[d]]
    # Whatever has a facility that was left out costs more than the greedy set.
    return min(low, upper), upper, number, seen


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
    lower, upper, number, seen = locate(
        opening[:num_f],
        cost[:num_c],
        way,
        bare[:num_c],
        forced[:num_f],
        server,
        own,
        width,
        min(nodes, SAMPLED_NODES) if sampled else nodes,
        chosen,
        near,
    )
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
    ascend,
    may_join,
    greedy_set,
    exchange,
    approach,
    search,
    locate,
    use,
    counts_in,
    stands_in,
    price_block,
    price_layers,
)
"""What is compiled, callees first."""

ENTRIES = ("price_layers",)
"""What is called from Python."""
