"""Inner loops of the bound in `roam`: messages between the stars of paired experts.

Each expert i has a star: one expert in the middle, a table of costs of (label of i,
label of j) to each other expert j that it meets. Two tables belong to one meeting, one
of each side; their sum is given, how it is split is the dual. A label is a copy that
the expert may have. Softened minima (``tau`` > 0) keep the ascent from getting stuck;
bounds are always taken at ``tau`` = 0. Labels are the servers of an expert, each with
the copies there (its options): rows count options, traversals count servers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]


class StarTables(NamedTuple):
    """What the ascent reads.

    Y labels and F options in all, M meetings, K rows, A entries of options in rows.
    """

    start: Ints  # (N+1,) labels of each expert
    server: Ints  # (Y,) -1: no copy
    option_start: Ints  # (Y+1,) options of each label
    first: Ints  # (M,) expert of a meeting, the smaller one
    second: Ints  # (M,)
    offset: Ints  # (M+1,) its table, labels of the first by labels of the second
    meet_start: Ints  # (N+1,) meetings of each expert
    meet: Ints  # meeting x 2 + (1: the expert is the second)
    there: Floats  # (G, M) traversals/s from the first to the second
    back: Floats  # (G, M)
    layer: Ints  # (N,)
    entry_start: Ints  # (F+1,) rows of each option
    entry_row: Ints  # (A,)
    entry: Floats  # (A,)
    room: Floats  # (N, K) what a row leaves to an expert and those that it meets
    norm: Floats  # (K,) largest entry of each row
    trio: Ints  # (X, 3) meetings of three experts i < j < k: ij, ik, jk
    apart: Ints  # (X,) bit s: the three do not fit on server s together
    trio_at: Ints  # (X, 3) where their tables begin in `share`
    trio_start: Ints  # (M+1,) trios of each meeting
    trio_of: Ints  # trio x 3 + which of its meetings
    part: float  # weight of a trio in a split; that of a star is 1


class StarState(NamedTuple):
    """What the ascent changes."""

    own: Floats  # (F,) cost of an option itself
    cost: Floats  # (G, L, S, S) of a traversal/s, by layer of the target
    one: Floats  # tables of the first expert of each meeting
    two: Floats  # tables of the second, in the same order
    share: Floats  # tables of trios: what each meeting leaves to them
    price: Floats  # (Y, K) of the rows, given each label
    held: Floats  # (Y,) value of a label: its own cost and the minima of its tables
    like: Floats  # (F,) how likely an option is
    flow: Floats  # (G, L, S, S) traversals/s expected, by layer of the target
    square: Floats  # (G, L, S, S) their squares summed


def fade(x: float) -> float:
    """About exp(x) for x <= 0, without its cost; 0 from -16 on.

    How minima are softened changes the path of the ascent, not what it proves.
    """
    y = max(1.0 + x * 0.0625, 0.0)
    y *= y
    y *= y
    y *= y
    return y * y


def soft_row(table: Floats, at: int, num: int, step: int, tau: float) -> float:
    """Minimum of ``num`` entries, softened."""
    low = np.inf
    for r in range(num):
        low = min(low, table[at + r * step])
    if tau <= 0.0 or low == np.inf:
        return low
    heat = 1.0 / tau
    total = 0.0  # at least 1, were it not for rounding
    for r in range(num):
        total += fade((low - table[at + r * step]) * heat)
    return low - tau * math.log(max(total, 1.0))


def priced(t: StarTables, s: StarState, y: int, x: int) -> float:
    """Load of an option in all rows at the prices that hold given label ``y``."""
    total = 0.0
    for n in range(t.entry_start[x], t.entry_start[x + 1]):
        total += s.price[y, t.entry_row[n]] * t.entry[n]
    return total


def loaded(t: StarTables, s: StarState, y: int, z: int, tau: float) -> float:
    """Least priced load of the options of label ``z``, given label ``y``."""
    if s.price.shape[1] == 0:
        return 0.0
    low = np.inf
    for x in range(t.option_start[z], t.option_start[z + 1]):
        low = min(low, priced(t, s, y, x))
    if tau <= 0.0 or t.option_start[z + 1] - t.option_start[z] == 1:
        return low
    total = 0.0
    for x in range(t.option_start[z], t.option_start[z + 1]):
        total += fade((low - priced(t, s, y, x)) / tau)
    return low - tau * math.log(max(total, 1.0))


def base(t: StarTables, s: StarState, i: int, y: int, tau: float) -> float:
    """Least cost of an option of a label, with its load of rows less their room."""
    low = np.inf
    for x in range(t.option_start[y], t.option_start[y + 1]):
        low = min(low, s.own[x] + priced(t, s, y, x))
    if tau > 0.0 and t.option_start[y + 1] - t.option_start[y] > 1:
        total = 0.0
        for x in range(t.option_start[y], t.option_start[y + 1]):
            total += fade((low - s.own[x] - priced(t, s, y, x)) / tau)
        low -= tau * math.log(max(total, 1.0))
    for k in range(s.price.shape[1]):
        low -= s.price[y, k] * t.room[i, k]
    return low


def product(t: StarTables, s: StarState, e: int, o: int, r: int) -> float:
    """Cost of a pair of labels: traversals, and the loads of each given the other.

    ``o`` and ``r`` number all labels; of the first and of the second expert.
    """
    a = t.server[o]
    b = t.server[r]
    total = 0.0
    if a >= 0 and b >= 0:
        to = t.layer[t.second[e]]
        fro = t.layer[t.first[e]]
        for g in range(t.there.shape[0]):
            total += t.there[g, e] * s.cost[g, to, a, b]
            total += t.back[g, e] * s.cost[g, fro, b, a]
    return total + loaded(t, s, o, r, 0.0) + loaded(t, s, r, o, 0.0)


def split(t: StarTables, s: StarState) -> None:
    """Complete the tables of second experts from those of first ones and trios."""
    for e in range(t.first.shape[0]):
        at = t.offset[e]
        for o in range(t.start[t.first[e]], t.start[t.first[e] + 1]):
            for r in range(t.start[t.second[e]], t.start[t.second[e] + 1]):
                if s.one[at] < np.inf:
                    s.two[at] = product(t, s, e, o, r) - s.one[at]
                else:
                    s.two[at] = np.inf
                at += 1
        cells = t.offset[e + 1] - t.offset[e]
        for n in range(t.trio_start[e], t.trio_start[e + 1]):
            at = t.trio_at[t.trio_of[n] // 3, t.trio_of[n] % 3]
            for m in range(cells):
                if s.one[t.offset[e] + m] < np.inf:
                    s.two[t.offset[e] + m] -= s.share[at + m]


def third(
    t: StarTables, s: StarState, c: int, which: int, o: int, r: int, tau: float
) -> float:
    """Least share of the other two meetings of a trio, given a pair of labels.

    ``o`` and ``r`` number the labels of either expert of meeting ``which``.
    """
    i = t.first[t.trio[c, 0]]
    j = t.second[t.trio[c, 0]]
    k = t.second[t.trio[c, 1]]
    num_j = t.start[j + 1] - t.start[j]
    num_k = t.start[k + 1] - t.start[k]
    if which == 0:
        num = num_k
        other = t.start[k]
        a = t.server[t.start[i] + o]
        same = a == t.server[t.start[j] + r]
        at = t.trio_at[c, 1] + o * num_k
        up = 1
        to = t.trio_at[c, 2] + r * num_k
        far = 1
    elif which == 1:
        num = num_j
        other = t.start[j]
        a = t.server[t.start[i] + o]
        same = a == t.server[t.start[k] + r]
        at = t.trio_at[c, 0] + o * num_j
        up = 1
        to = t.trio_at[c, 2] + r
        far = num_k
    else:
        num = t.start[i + 1] - t.start[i]
        other = t.start[i]
        a = t.server[t.start[j] + o]
        same = a == t.server[t.start[k] + r]
        at = t.trio_at[c, 0] + o
        up = num_j
        to = t.trio_at[c, 1] + r
        far = num_k
    full = same and a >= 0 and (t.apart[c] >> a) & 1 == 1
    low = np.inf
    for x in range(num):
        if full and t.server[other + x] == a:
            continue
        low = min(low, s.share[at + x * up] + s.share[to + x * far])
    if tau <= 0.0 or low == np.inf:
        return low
    heat = 1.0 / tau
    total = 0.0
    for x in range(num):
        if full and t.server[other + x] == a:
            continue
        total += fade((low - s.share[at + x * up] - s.share[to + x * far]) * heat)
    return low - tau * math.log(max(total, 1.0))


def trios(t: StarTables, s: StarState, size: Floats) -> float:
    """Sum over trios of the least sum of their shares; ``size``: of magnitudes."""
    total = 0.0
    for c in range(t.trio.shape[0]):
        e = t.trio[c, 0]
        i = t.first[e]
        j = t.second[e]
        low = np.inf
        at = t.trio_at[c, 0]
        for o in range(t.start[i + 1] - t.start[i]):
            for r in range(t.start[j + 1] - t.start[j]):
                if s.share[at] < np.inf:
                    low = min(low, s.share[at] + third(t, s, c, 0, o, r, 0.0))
                at += 1
        total += low
        if low < np.inf:
            size[0] += abs(low)
    return total


def halve(t: StarTables, s: StarState, old: Floats) -> None:
    """Add a change of the cost of traversals to both sides; ``old`` was the cost."""
    num_g = t.there.shape[0]
    for e in range(t.first.shape[0]):
        at = t.offset[e]
        to = t.layer[t.second[e]]
        fro = t.layer[t.first[e]]
        for o in range(t.start[t.first[e]], t.start[t.first[e] + 1]):
            for r in range(t.start[t.second[e]], t.start[t.second[e] + 1]):
                a = t.server[o]
                b = t.server[r]
                if s.one[at] < np.inf and a >= 0 and b >= 0:
                    more = 0.0
                    for g in range(num_g):
                        more += t.there[g, e] * (s.cost[g, to, a, b] - old[g, to, a, b])
                        more += t.back[g, e] * (
                            s.cost[g, fro, b, a] - old[g, fro, b, a]
                        )
                    s.one[at] += 0.5 * more
                    s.two[at] += 0.5 * more
                at += 1


def gather(t: StarTables, s: StarState, tau: float, size: Floats) -> float:
    """Find the value of every label; return the sum over experts of the least.

    ``size`` gets the sum of all magnitudes, for the error of rounding.
    """
    total = 0.0
    size[0] = 0.0
    for i in range(t.start.shape[0] - 1):
        least = np.inf
        for o in range(t.start[i], t.start[i + 1]):
            value = base(t, s, i, o, tau)
            large = abs(value)
            for k in range(s.price.shape[1]):
                large += 2.0 * abs(s.price[o, k] * t.room[i, k])
            for n in range(t.meet_start[i], t.meet_start[i + 1]):
                e = t.meet[n] // 2
                num = t.start[t.second[e] + 1] - t.start[t.second[e]]
                if t.meet[n] % 2 == 0:
                    at = t.offset[e] + (o - t.start[i]) * num
                    part = soft_row(s.one, at, num, 1, tau)
                else:
                    other = t.start[t.first[e] + 1] - t.start[t.first[e]]
                    at = t.offset[e] + (o - t.start[i])
                    part = soft_row(s.two, at, other, num, tau)
                value += part
                large += abs(part)
            s.held[o] = value
            if value < least:
                least = value
                most = large
        total += least
        if least < np.inf:
            size[0] += most
    return total


def meeting(
    t: StarTables, s: StarState, e: int, tau: float, room: Floats, buffer: Floats
) -> None:
    """Split the table of a meeting so that all who share it value its pairs alike.

    Of all splits one is best while the others stay: that each star, and each trio by
    its weight, sees its part of the value of a pair of labels. ``room`` is scratch, at
    least the labels of both experts; ``buffer``, one table and one for each trio.
    """
    i = t.first[e]
    j = t.second[e]
    one = t.start[i + 1] - t.start[i]
    two = t.start[j + 1] - t.start[j]
    cells = one * two
    at = t.offset[e]
    for o in range(one):
        part = soft_row(s.one, at + o * two, two, 1, tau)
        room[o] = s.held[t.start[i] + o] - part if part < np.inf else np.inf
    for r in range(two):
        part = soft_row(s.two, at + r, one, two, tau)
        room[one + r] = s.held[t.start[j] + r] - part if part < np.inf else np.inf
    for o in range(one):
        for r in range(two):
            n = at + o * two + r
            buffer[o * two + r] = room[o] + s.one[n] + room[one + r] + s.two[n]
    used = cells
    for n in range(t.trio_start[e], t.trio_start[e + 1]):
        c = t.trio_of[n] // 3
        which = t.trio_of[n] % 3
        mine = t.trio_at[c, which]
        for o in range(one):
            for r in range(two):
                m = o * two + r
                if buffer[m] < np.inf:
                    rest = third(t, s, c, which, o, r, tau * t.part)
                    buffer[used + m] = rest
                    buffer[m] += s.share[mine + m] + rest
        used += cells
    trios_ = t.trio_start[e + 1] - t.trio_start[e]
    whole = 1.0 / (2.0 + trios_ * t.part)
    for m in range(cells):
        buffer[m] *= whole
    used = cells
    for n in range(t.trio_start[e], t.trio_start[e + 1]):
        mine = t.trio_at[t.trio_of[n] // 3, t.trio_of[n] % 3]
        for m in range(cells):
            if buffer[m] < np.inf:
                s.share[mine + m] = t.part * buffer[m] - buffer[used + m]
            else:
                s.share[mine + m] = np.inf
        used += cells
    for o in range(one):
        s.held[t.start[i] + o] = soft_row(buffer, o * two, two, 1, tau)
    for r in range(two):
        s.held[t.start[j] + r] = soft_row(buffer, r, one, two, tau)
    for o in range(one):
        for r in range(two):
            value = buffer[o * two + r]
            n = at + o * two + r
            if value < np.inf:
                s.one[n] = value - room[o]
                s.two[n] = value - room[one + r]
            else:
                s.one[n] = np.inf
                s.two[n] = np.inf


def sweep(
    t: StarTables, s: StarState, tau: float, back: bool, room: Floats, buffer: Floats
) -> None:
    """Split all meetings anew, one after the other."""
    num = t.first.shape[0]
    for n in range(num):
        meeting(t, s, num - 1 - n if back else n, tau, room, buffer)


def reprice(
    t: StarTables,
    s: StarState,
    old: float,
    tau: float,
    reach: float,
    g: Floats,
    w: Floats,
    u: Floats,
) -> None:
    """Move the prices of rows within each star.

    A damped Newton step for each row alone, no longer than ``reach`` temperatures.
    Tables hold priced loads at the temperature ``old`` and come to hold those at
    ``tau``. ``g`` (2, K), ``w`` (F,), ``u`` (Y,) are scratch.
    """
    num_k = s.price.shape[1]
    for i in range(t.start.shape[0] - 1):
        mine = t.start[i + 1] - t.start[i]
        for o in range(t.start[i], t.start[i + 1]):
            if s.held[o] == np.inf:
                continue
            for k in range(num_k):
                g[0, k] = -t.room[i, k]
                g[1, k] = 1e-300
            low = np.inf
            for x in range(t.option_start[o], t.option_start[o + 1]):
                w[x] = s.own[x] + priced(t, s, o, x)
                low = min(low, w[x])
            total = 0.0
            for x in range(t.option_start[o], t.option_start[o + 1]):
                w[x] = fade((low - w[x]) / tau)
                total += w[x]
            for x in range(t.option_start[o], t.option_start[o + 1]):
                q = w[x] / total
                for n in range(t.entry_start[x], t.entry_start[x + 1]):
                    g[0, t.entry_row[n]] += q * t.entry[n]
                    g[1, t.entry_row[n]] += q * (1 - q) * t.entry[n] ** 2 / tau
            for n in range(t.meet_start[i], t.meet_start[i + 1]):
                e = t.meet[n] // 2
                back = t.meet[n] % 2 == 1
                j = t.first[e] if back else t.second[e]
                num = t.start[j + 1] - t.start[j]
                step = mine if back else 1
                at = t.offset[e] + (o - t.start[i]) * (1 if back else num)
                table = s.two if back else s.one
                for r in range(num):
                    z = t.start[j] + r
                    first = t.option_start[z]
                    last = t.option_start[z + 1]
                    low = np.inf
                    for x in range(first, last):
                        w[x] = priced(t, s, o, x)
                        low = min(low, w[x])
                    u[z] = low
                    if last - first == 1:
                        w[first] = 1.0
                        continue
                    if old > 0.0 and old != tau:
                        total = 0.0
                        for x in range(first, last):
                            total += fade((low - w[x]) / old)
                        u[z] = low - old * math.log(max(total, 1.0))
                    total = 0.0
                    for x in range(first, last):
                        w[x] = fade((low - w[x]) / tau)
                        total += w[x]
                    for x in range(first, last):
                        w[x] /= total
                    if old == tau:
                        u[z] = low - tau * math.log(max(total, 1.0))
                least = soft_row(table, at, num, step, tau)
                for r in range(num):
                    far = (least - table[at + r * step]) / tau
                    if far < -20.0:
                        continue
                    part = fade(far)
                    z = t.start[j] + r
                    for x in range(t.option_start[z], t.option_start[z + 1]):
                        q = part * w[x]
                        for m in range(t.entry_start[x], t.entry_start[x + 1]):
                            a = t.entry[m]
                            g[0, t.entry_row[m]] += q * a
                            g[1, t.entry_row[m]] += q * (1.0 - q) * a * a / tau
            for k in range(num_k):
                most = reach * tau / t.norm[k]
                change = min(max(0.5 * g[0, k] / g[1, k], -most), most)
                s.price[o, k] = max(s.price[o, k] + change, 0.0)
            value = 0.0
            for n in range(t.meet_start[i], t.meet_start[i + 1]):
                e = t.meet[n] // 2
                back = t.meet[n] % 2 == 1
                j = t.first[e] if back else t.second[e]
                num = t.start[j + 1] - t.start[j]
                step = mine if back else 1
                at = t.offset[e] + (o - t.start[i]) * (1 if back else num)
                table = s.two if back else s.one
                for r in range(num):
                    z = t.start[j] + r
                    first = t.option_start[z]
                    last = t.option_start[z + 1]
                    low = np.inf
                    for x in range(first, last):
                        w[x] = priced(t, s, o, x)
                        low = min(low, w[x])
                    if last - first > 1:
                        total = 0.0
                        for x in range(first, last):
                            total += fade((low - w[x]) / tau)
                        low -= tau * math.log(max(total, 1.0))
                    table[at + r * step] += low - u[z]
                value += soft_row(table, at, num, step, tau)
            s.held[o] = value + base(t, s, i, o, tau)


def expect(t: StarTables, s: StarState, tau: float) -> None:
    """Find how likely options are, and the traversals that are expected."""
    s.flow[...] = 0.0
    s.square[...] = 0.0
    chance = np.zeros(s.held.shape[0])
    for i in range(t.start.shape[0] - 1):
        least = np.inf
        for o in range(t.start[i], t.start[i + 1]):
            least = min(least, s.held[o])
        total = 0.0
        for o in range(t.start[i], t.start[i + 1]):
            if least < np.inf:
                chance[o] = fade((least - s.held[o]) / tau)
            total += chance[o]
        for o in range(t.start[i], t.start[i + 1]):
            chance[o] /= max(total, 1e-300)
            low = np.inf
            for x in range(t.option_start[o], t.option_start[o + 1]):
                low = min(low, s.own[x] + priced(t, s, o, x))
            among = 0.0
            for x in range(t.option_start[o], t.option_start[o + 1]):
                s.like[x] = fade((low - s.own[x] - priced(t, s, o, x)) / tau)
                among += s.like[x]
            for x in range(t.option_start[o], t.option_start[o + 1]):
                s.like[x] *= chance[o] / among
    for e in range(t.first.shape[0]):
        i = t.first[e]
        j = t.second[e]
        busy = False
        for g in range(t.there.shape[0]):
            if t.there[g, e] > 0.0 or t.back[g, e] > 0.0:
                busy = True
        if not busy:
            continue
        to = t.layer[j]
        fro = t.layer[i]
        two = t.start[j + 1] - t.start[j]
        for o in range(t.start[i], t.start[i + 1]):
            if chance[o] < 1e-9 or t.server[o] < 0:
                continue
            at = t.offset[e] + (o - t.start[i]) * two
            least = soft_row(s.one, at, two, 1, tau)
            for r in range(two):
                p = chance[o] * fade((least - s.one[at + r]) / tau)
                b = t.server[t.start[j] + r]
                if b < 0 or p < 1e-12:
                    continue
                a = t.server[o]
                for g in range(t.there.shape[0]):
                    w = t.there[g, e]
                    s.flow[g, to, a, b] += p * w
                    s.square[g, to, a, b] += p * w * w
                    w = t.back[g, e]
                    s.flow[g, fro, b, a] += p * w
                    s.square[g, fro, b, a] += p * w * w


def prune(
    t: StarTables,
    s: StarState,
    most: float,
    total: float,
    room: Floats,
    buffer: Floats,
) -> int:
    """Strike out pairs of labels that no plan below ``most`` can have; count them.

    ``held`` must be that of ``tau`` = 0 and ``total`` its bound.
    """
    struck = 0
    num_i = t.start.shape[0] - 1
    low = np.full(num_i, np.inf)
    for i in range(num_i):
        for o in range(t.start[i], t.start[i + 1]):
            low[i] = min(low[i], s.held[o])
        if low[i] == np.inf:
            return 0
    for e in range(t.first.shape[0]):
        i = t.first[e]
        j = t.second[e]
        slack = most - total + low[i] + low[j]
        cells = t.offset[e + 1] - t.offset[e]
        for m in range(cells):
            buffer[m] = 0.0
        one = t.start[i + 1] - t.start[i]
        two = t.start[j + 1] - t.start[j]
        at = t.offset[e]
        for o in range(one):
            part = soft_row(s.one, at + o * two, two, 1, 0.0)
            room[o] = s.held[t.start[i] + o] - part if part < np.inf else np.inf
        for r in range(two):
            part = soft_row(s.two, at + r, one, two, 0.0)
            room[one + r] = s.held[t.start[j] + r] - part if part < np.inf else np.inf
        for n in range(t.trio_start[e], t.trio_start[e + 1]):
            c = t.trio_of[n] // 3
            which = t.trio_of[n] % 3
            mine = t.trio_at[c, which]
            least = np.inf
            for o in range(one):
                for r in range(two):
                    m = o * two + r
                    if s.one[at + m] < np.inf:
                        value = s.share[mine + m] + third(t, s, c, which, o, r, 0.0)
                        buffer[m] += value
                        least = min(least, value)
            slack += least
        for o in range(one):
            for r in range(two):
                n = at + o * two + r
                if s.one[n] == np.inf:
                    continue
                value = room[o] + s.one[n] + room[one + r] + s.two[n]
                if value + buffer[o * two + r] > slack:
                    s.one[n] = np.inf
                    s.two[n] = np.inf
                    struck += 1
    return struck


KERNELS = (
    fade,
    soft_row,
    priced,
    loaded,
    product,
    base,
    split,
    halve,
    gather,
    third,
    trios,
    meeting,
    sweep,
    reprice,
    expect,
    prune,
)
"""What is compiled, callees first."""

ENTRIES = ("split", "halve", "gather", "trios", "sweep", "reprice", "expect", "prune")
"""What is called from Python."""
