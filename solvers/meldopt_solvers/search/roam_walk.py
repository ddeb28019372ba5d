"""Inner loops of the fast search in `roam`: a move costs a few table look-ups.

The field of an expert holds what it would pay for its pairs on each server while all
others stay. A relocation is judged by two of its entries, a swap by four and one
correction; only accepted moves update the fields of the neighbours. As in
`roam_kernels` the functions work on named tuples, in Python or compiled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]


class WalkTables(NamedTuple):
    """What the walk reads; F options, E ends of pairs, K rows, Z rows of traversals."""

    start: Ints  # (N+1,) options of each expert
    place: Ints  # (F,) -1: no copy
    server: Ints  # (F,)
    kind: Ints  # (F,) format
    linear: Floats  # (F,) cost of an option itself
    work: Floats  # (F,) s/token
    entry_start: Ints  # (F+1,) rows of each option
    entry_row: Ints
    entry: Floats
    limit: Floats  # (K,)
    norm: Floats  # (K,)
    near_start: Ints  # (N+1,) paired experts, ascending
    near: Ints  # (E,)
    out: Floats  # (G, E) traversals/s to the other
    back: Floats  # (G, E) and from it
    layer: Ints  # (N,)
    cost: Floats  # (G, L, S, S) of a traversal/s, by layer of the target
    crossing: Floats  # (Z, G, L, S, S) load of a traversal/s
    own: Floats  # (Z, F) load of an option itself
    room: Floats  # (Z,) limits of the rows of traversals
    group_of: Ints  # (N,) uniform group, -1: none
    bottleneck: float


class WalkState(NamedTuple):
    """What the walk changes."""

    chosen: Ints  # (N,) option of each expert
    field: Floats  # (N, S) priced cost of its pairs
    load: Floats  # (K,)
    price: Floats  # (K,) of an excess of one norm
    flow: Floats  # (Z,) loads of the rows of traversals
    toll: Floats  # (Z,) their prices
    priced: Floats  # (G, L, S, S) cost of a traversal with tolls
    cell: Floats  # (L, S) work
    group: Ints  # (U,) format of each uniform group
    total: Floats  # objective without bottleneck; number of rows broken
    best: Ints  # (N,) best state that breaks no row
    best_value: Floats


def between(t: WalkTables, cost: Floats, i: int, n: int, a: int, b: int) -> float:
    """Cost of the pair at entry ``n`` of expert ``i``: itself on a, the other on b."""
    if a < 0 or b < 0:
        return 0.0
    j = t.near[n]
    total = 0.0
    for g in range(t.out.shape[0]):
        total += t.out[g, n] * cost[g, t.layer[j], a, b]
        total += t.back[g, n] * cost[g, t.layer[i], b, a]
    return float(total)


def settle(t: WalkTables, s: WalkState) -> None:
    """Compute everything anew from the options chosen and the priced costs."""
    num = t.start.shape[0] - 1
    num_s = s.field.shape[1]
    s.field[...] = 0.0
    s.load[:] = 0.0
    s.flow[:] = 0.0
    s.cell[...] = 0.0
    total = 0.0
    for i in range(num):
        x = s.chosen[i]
        a = t.server[x]
        total += t.linear[x]
        if a >= 0:
            s.cell[t.layer[i], a] += t.work[x]
        for n in range(t.entry_start[x], t.entry_start[x + 1]):
            s.load[t.entry_row[n]] += t.entry[n]
        for z in range(t.room.shape[0]):
            s.flow[z] += t.own[z, x]
        for n in range(t.near_start[i], t.near_start[i + 1]):
            b = t.server[s.chosen[t.near[n]]]
            for c in range(num_s):
                s.field[i, c] += between(t, s.priced, i, n, c, b)
            if t.near[n] > i:
                total += between(t, t.cost, i, n, a, b)
                for z in range(t.room.shape[0]):
                    s.flow[z] += between(t, t.crossing[z], i, n, a, b)
    s.total[0] = total
    s.total[1] = 0.0
    for k in range(t.limit.shape[0]):
        if s.load[k] > t.limit[k]:
            s.total[1] += 1.0


def top(s: WalkState, layer: int) -> float:
    """Work of the busiest server of a layer."""
    most = 0.0
    for c in range(s.cell.shape[1]):
        most = max(most, s.cell[layer, c])
    return float(most)


def value(t: WalkTables, s: WalkState) -> float:
    """Objective of the state."""
    total = s.total[0]
    if t.bottleneck > 0.0:
        for layer in range(s.cell.shape[0]):
            total += t.bottleneck * top(s, layer)
    return float(total)


def shift(t: WalkTables, s: WalkState, x: int, sign: float) -> float:
    """Add the loads of an option to the rows; return how their charge changes."""
    change = 0.0
    for n in range(t.entry_start[x], t.entry_start[x + 1]):
        k = t.entry_row[n]
        before = s.load[k] - t.limit[k]
        s.load[k] += sign * t.entry[n]
        after = s.load[k] - t.limit[k]
        if before > 0.0:
            s.total[1] -= 1.0
            change -= s.price[k] * before / t.norm[k]
        if after > 0.0:
            s.total[1] += 1.0
            change += s.price[k] * after / t.norm[k]
    return change


def work_shift(t: WalkTables, s: WalkState, i: int, x: int, sign: float) -> None:
    """Add the work of an option to its cell."""
    if t.server[x] >= 0:
        s.cell[t.layer[i], t.server[x]] += sign * t.work[x]


def tolls(t: WalkTables, s: WalkState, x: int) -> float:
    """Priced load of an option itself in the rows of traversals."""
    total = 0.0
    for z in range(t.room.shape[0]):
        total += s.toll[z] * t.own[z, x]
    return total


def pair_cost(s: WalkState, i: int, a: int) -> float:
    """Cost of the pairs of an expert on a server; none without a copy."""
    return s.field[i, a] if a >= 0 else 0.0


def put(t: WalkTables, s: WalkState, i: int, x: int) -> None:
    """Move an expert whose loads are accounted for: fields, flows, total."""
    old = s.chosen[i]
    a = t.server[old]
    b = t.server[x]
    s.total[0] += t.linear[x] - t.linear[old]
    for z in range(t.room.shape[0]):
        s.flow[z] += t.own[z, x] - t.own[z, old]
    s.chosen[i] = x
    if a == b:
        return
    num_s = s.field.shape[1]
    for n in range(t.near_start[i], t.near_start[i + 1]):
        j = t.near[n]
        c = t.server[s.chosen[j]]
        s.total[0] += between(t, t.cost, i, n, b, c) - between(t, t.cost, i, n, a, c)
        for z in range(t.room.shape[0]):
            s.flow[z] += between(t, t.crossing[z], i, n, b, c)
            s.flow[z] -= between(t, t.crossing[z], i, n, a, c)
        for g in range(t.out.shape[0]):
            w = t.out[g, n]
            v = t.back[g, n]
            to = t.layer[j]
            fro = t.layer[i]
            for d in range(num_s):
                if b >= 0:
                    s.field[j, d] += w * s.priced[g, to, b, d]
                    s.field[j, d] += v * s.priced[g, fro, d, b]
                if a >= 0:
                    s.field[j, d] -= w * s.priced[g, to, a, d]
                    s.field[j, d] -= v * s.priced[g, fro, d, a]


def note(t: WalkTables, s: WalkState) -> None:
    """Keep the state if it breaks no row and is the best."""
    if s.total[1] > 0.5:
        return
    for z in range(t.room.shape[0]):
        if s.flow[z] > t.room[z]:
            return
    now = value(t, s)
    if now < s.best_value[0] - 1e-12 * abs(now):
        s.best_value[0] = now
        for i in range(s.chosen.shape[0]):  # a slice takes long to compile
            s.best[i] = s.chosen[i]


def fits(t: WalkTables, s: WalkState, i: int, x: int) -> bool:
    """Say whether an option has the format of the group of its expert."""
    group = t.group_of[i]
    return bool(group < 0 or t.place[x] < 0 or s.group[group] == t.kind[x])


def at_place(t: WalkTables, s: WalkState, i: int, x: int, draw: float) -> int:
    """Option of an expert at the place of ``x``: in its own format, or a random one."""
    kind = t.kind[s.chosen[i]]
    found = 0
    for y in range(t.start[i], t.start[i + 1]):
        if t.place[y] == t.place[x] and fits(t, s, i, y):
            if t.kind[y] == kind and draw < 0.7:
                return int(y)
            found += 1
    if found == 0:
        return -1
    left = int(draw * 997.0) % found
    for y in range(t.start[i], t.start[i + 1]):
        if t.place[y] == t.place[x] and fits(t, s, i, y):
            if left == 0:
                return int(y)
            left -= 1
    return -1


def pair_of(t: WalkTables, i: int, j: int) -> int:
    """Entry of ``j`` among the paired experts of ``i``, or -1."""
    low = t.near_start[i]
    high = t.near_start[i + 1]
    while low < high:
        middle = (low + high) // 2
        if t.near[middle] < j:
            low = middle + 1
        else:
            high = middle
    if low < t.near_start[i + 1] and t.near[low] == j:
        return int(low)
    return -1


def walk(
    t: WalkTables, s: WalkState, who: Ints, draws: Floats, hot: float, cold: float
) -> int:
    """Relocate and swap some experts, annealing; count the neighbours of those moved.

    ``draws`` holds five numbers of [0, 1) for each move; the temperature falls from
    ``hot`` to ``cold`` geometrically. What is returned is the work of accepted moves:
    how many fields of neighbours they changed.
    """
    moves = draws.shape[0]
    cooling = math.exp(math.log(cold / hot) / max(moves, 1))
    heat = hot
    changed = 0
    for m in range(moves):
        heat *= cooling
        i = who[int(draws[m, 0] * who.shape[0])]
        old = s.chosen[i]
        a = t.server[old]
        j = -1
        other = -1
        new = -1
        if draws[m, 1] < 0.5 or who.shape[0] < 2:
            num = t.start[i + 1] - t.start[i]
            new = t.start[i] + int(draws[m, 2] * num)
            if new == old or not fits(t, s, i, new):
                continue
        else:
            j = who[int(draws[m, 2] * who.shape[0])]
            other = s.chosen[j]
            if i == j or t.place[old] < 0 or t.place[other] < 0:
                continue
            if t.place[old] == t.place[other]:
                continue
            new = at_place(t, s, i, other, draws[m, 3])
            other = at_place(t, s, j, old, draws[m, 3])
            if new < 0 or other < 0:
                continue
        b = t.server[new]
        change = t.linear[new] - t.linear[old]
        change += pair_cost(s, i, b) - pair_cost(s, i, a)
        change += tolls(t, s, new) - tolls(t, s, old)
        last = -1
        if j >= 0:
            last = s.chosen[j]
            change += t.linear[other] - t.linear[last]
            change += pair_cost(s, j, a) - pair_cost(s, j, b)
            change += tolls(t, s, other) - tolls(t, s, last)
            n = pair_of(t, i, j)
            if n >= 0:
                change += between(t, s.priced, i, n, b, a)
                change += between(t, s.priced, i, n, a, b)
                change -= between(t, s.priced, i, n, a, a)
                change -= between(t, s.priced, i, n, b, b)
        broken = s.total[1]
        before = 0.0
        if t.bottleneck > 0.0:
            before = top(s, t.layer[i])
            if j >= 0 and t.layer[j] != t.layer[i]:
                before += top(s, t.layer[j])
        change += shift(t, s, old, -1.0) + shift(t, s, new, 1.0)
        work_shift(t, s, i, old, -1.0)
        work_shift(t, s, i, new, 1.0)
        if j >= 0:
            change += shift(t, s, last, -1.0) + shift(t, s, other, 1.0)
            work_shift(t, s, j, last, -1.0)
            work_shift(t, s, j, other, 1.0)
        if t.bottleneck > 0.0:
            after = top(s, t.layer[i])
            if j >= 0 and t.layer[j] != t.layer[i]:
                after += top(s, t.layer[j])
            change += t.bottleneck * (after - before)
        if change <= 0.0 or draws[m, 4] < math.exp(-change / heat):
            put(t, s, i, new)
            changed += t.near_start[i + 1] - t.near_start[i]
            if j >= 0:
                put(t, s, j, other)
                changed += t.near_start[j + 1] - t.near_start[j]
            if s.total[1] < 0.5 and (change < 0.0 or broken > 0.5):
                note(t, s)
        else:
            shift(t, s, new, -1.0)
            shift(t, s, old, 1.0)
            work_shift(t, s, i, new, -1.0)
            work_shift(t, s, i, old, 1.0)
            if j >= 0:
                shift(t, s, other, -1.0)
                shift(t, s, last, 1.0)
                work_shift(t, s, j, other, -1.0)
                work_shift(t, s, j, last, 1.0)
    return int(changed)


KERNELS = (
    between,
    settle,
    top,
    value,
    shift,
    work_shift,
    tolls,
    pair_cost,
    put,
    note,
    fits,
    at_place,
    pair_of,
    walk,
)
"""What is compiled, callees first."""

ENTRIES = ("settle", "value", "note", "walk")
"""What is called from Python."""
