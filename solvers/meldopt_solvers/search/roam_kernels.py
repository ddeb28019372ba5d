"""Inner loops of the search in `roam`: one copy per expert, changes by pair.

As in `kernels`, the functions work on named tuples of arrays, in Python or compiled.
The merit of a state is its objective plus the excess of each row at its price; a change
is found from the pairs, entries and exits of the experts that move.
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

NOWHERE: Any = np.int64(-1)
"""Option of an expert without a copy."""

IN: Any = np.int64(1)
OUT: Any = np.int64(-1)
"""Signs of what is added and taken away."""


class RoamTables(NamedTuple):
    """What the search reads.

    Loads are those of rows: processors, links, caps, nats/s and seconds/s of
    applications, in this order; X in all.
    """

    layer_of: Ints  # (N,)
    place: Ints  # (O,)
    format: Ints  # (O,)
    server: Ints  # (O,)
    processor: Ints  # (O,)
    usable_start: Ints  # (N+1,)
    usable: Ints  # options of each expert, NOWHERE among them where it may have none
    size: Floats  # (N, B)
    work: Floats  # (N, O) busy seconds per second
    worth: Floats  # (N, O) part of the objective that needs no pair
    nats: Floats  # (G, N, B) nats/s
    share: Floats  # (G, N) calls/s
    pair_start: Ints  # (N+1,) pairs that an expert is part of
    pair_other: Ints
    pair_back: Bools  # whether the expert is the target
    pair_weight: Floats  # (entries,) traversals/s
    pair_rate: Floats  # (G, entries)
    home: Ints  # (Q,)
    app_of: Ints  # (Q,)
    entry: Floats  # (Q, N) traversals/s
    exit: Floats  # (Q, N)
    ends: Bools  # (N,) whether it has entries or exits
    cost: Floats  # (S, S) objective per traversal/s
    distance: Floats  # (S, S)
    route_start: Ints  # (S*S+1,)
    route_link: Ints
    cap_start: Ints  # (L*S*S+1,)
    cap_row: Ints
    bytes_out: float
    limit: Floats  # (X,)
    norm: Floats  # (X,)
    room: Floats  # (V,)
    room_norm: Floats  # (V,)
    count_start: Ints  # (N+1,)
    count_row: Ints
    count_option: Bools  # (R, O)
    count_lower: Ints  # (R,)
    count_upper: Ints  # (R,)
    group_of: Ints  # (N,)
    at: Ints  # first processor, link, cap, quality, latency; end
    bottleneck: float  # weight per s/s
    latency: bool  # whether any application has a target


class RoamState(NamedTuple):
    """What the search changes."""

    option: Ints  # (N,)
    load: Floats  # (X,)
    used: Floats  # (V,)
    tally: Ints  # (R,) copies in each count row
    cell: Floats  # (L, S) work by layer and server, s/s
    price: Floats  # (X,) of an excess of one norm
    room_price: Floats  # (V,)
    count_price: Floats  # (R,)
    group_format: Ints  # (U,)
    value: Floats  # objective, without bottleneck
    best: Ints  # (N,) best state without excess
    best_value: Floats  # its objective


def flow(t: RoamTables, s: RoamState, a: int, b: int, layer: int, w: float) -> None:
    """Add traversals from one server to another to links, and caps of a layer."""
    k = a * t.cost.shape[0] + b
    for n in range(t.route_start[k], t.route_start[k + 1]):
        s.load[t.at[1] + t.route_link[n]] += w * t.bytes_out
    if layer >= 0:
        k += layer * t.cost.shape[0] * t.cost.shape[0]
        for n in range(t.cap_start[k], t.cap_start[k + 1]):
            s.load[t.cap_row[n]] += w
    s.value[0] += w * t.cost[a, b]


def put(t: RoamTables, s: RoamState, i: int, sign: int) -> None:
    """Add what an expert at its option loads, or take it away.

    Pairs count with the experts that have a place; a pair with itself counts once.
    """
    o = s.option[i]
    if o < 0:
        return
    a = t.server[o]
    b = t.format[o]
    layer = t.layer_of[i]
    s.used[t.place[o]] += sign * t.size[i, b]
    s.load[t.processor[o]] += sign * t.work[i, o]
    s.cell[layer, a] += sign * t.work[i, o]
    s.value[0] += sign * t.worth[i, o]
    num_g = t.share.shape[0]
    for g in range(num_g):
        s.load[t.at[3] + g] += sign * t.nats[g, i, b]
        if t.latency:
            calls = t.share[g, i]
            total = 0.0
            for h in range(num_g):
                total += t.share[h, i]
            if total > 0.0:
                s.load[t.at[4] + g] += sign * t.work[i, o] * calls / total
    for n in range(t.pair_start[i], t.pair_start[i + 1]):
        j = t.pair_other[n]
        p = s.option[j]
        if p < 0:
            continue
        c = t.server[p]
        w = sign * t.pair_weight[n]
        if t.pair_back[n]:
            flow(t, s, c, a, layer, w)
            far = t.distance[c, a]
        else:
            flow(t, s, a, c, t.layer_of[j], w)
            far = t.distance[a, c]
        if t.latency:
            for g in range(num_g):
                s.load[t.at[4] + g] += sign * t.pair_rate[g, n] * far
    if t.ends[i]:
        for q in range(t.home.shape[0]):
            h = t.home[q]
            w = sign * t.entry[q, i]
            if w != 0.0:
                flow(t, s, h, a, layer, w)
                if t.latency:
                    s.load[t.at[4] + t.app_of[q]] += w * t.distance[h, a]
            w = sign * t.exit[q, i]
            if w != 0.0:
                flow(t, s, a, h, NOWHERE, w)
                if t.latency:
                    s.load[t.at[4] + t.app_of[q]] += w * t.distance[a, h]
    for n in range(t.count_start[i], t.count_start[i + 1]):
        r = t.count_row[n]
        if t.count_option[r, o]:
            s.tally[r] += sign


def move(t: RoamTables, s: RoamState, i: int, o: int) -> None:
    """Give an expert another option."""
    put(t, s, i, OUT)
    s.option[i] = o
    put(t, s, i, IN)


def objective(t: RoamTables, s: RoamState) -> float:
    """Objective of the state."""
    total = s.value[0]
    if t.bottleneck > 0.0:
        for layer in range(s.cell.shape[0]):
            top = 0.0
            for c in range(s.cell.shape[1]):
                top = max(top, s.cell[layer, c])
            total += t.bottleneck * top
    return float(total)


def charge(t: RoamTables, s: RoamState) -> float:
    """Excess of all rows at their prices; 0 if every row holds."""
    total = 0.0
    for r in range(t.limit.shape[0]):
        over = (s.load[r] - t.limit[r]) / t.norm[r]
        if over > 1e-7:
            total += s.price[r] * over
    for v in range(t.room.shape[0]):
        over = (s.used[v] - t.room[v]) / t.room_norm[v]
        if over > 1e-7:
            total += s.room_price[v] * over
    for r in range(s.tally.shape[0]):
        total += s.count_price[r] * max(
            0, s.tally[r] - t.count_upper[r], t.count_lower[r] - s.tally[r]
        )
    return total


def note(t: RoamTables, s: RoamState, value: float, excess: float) -> None:
    """Keep a state without excess if it is the best."""
    if excess <= 0.0 and value < s.best_value[0]:
        s.best_value[0] = value
        for i in range(s.option.shape[0]):
            s.best[i] = s.option[i]


def fits(t: RoamTables, s: RoamState, i: int, o: int) -> bool:
    """Say whether an option is one of an expert's, in the format of its group."""
    if o >= 0:
        group = t.group_of[i]
        if group >= 0 and s.group_format[group] != t.format[o]:
            return False
    found = False
    for n in range(t.usable_start[i], t.usable_start[i + 1]):
        if t.usable[n] == o:
            found = True
    return found


def partner(t: RoamTables, s: RoamState, i: int, o: int, p: int) -> int:
    """Return the option at the place of ``p`` in the format of ``o``, else ``p``."""
    for n in range(t.usable_start[i], t.usable_start[i + 1]):
        k = t.usable[n]
        if k >= 0 and t.place[k] == t.place[p] and t.format[k] == t.format[o]:
            return int(k)
    return p


def build(t: RoamTables, s: RoamState, order: Ints) -> None:
    """Place experts one after the other where the merit rises least."""
    for k in range(order.shape[0]):
        i = order[k]
        put(t, s, i, OUT)
        s.option[i] = NOWHERE
        best = np.inf
        chosen = NOWHERE
        for n in range(t.usable_start[i], t.usable_start[i + 1]):
            o = t.usable[n]
            if not fits(t, s, i, o):
                continue
            s.option[i] = o
            put(t, s, i, IN)
            merit = objective(t, s) + charge(t, s)
            put(t, s, i, OUT)
            if merit < best:
                best = merit
                chosen = o
        s.option[i] = chosen
        put(t, s, i, IN)


def anneal(
    t: RoamTables, s: RoamState, draws: Floats, hot: float, cold: float
) -> float:
    """Relocate and swap experts; return the merit at the end.

    ``draws`` holds four numbers of [0, 1) for each move; the temperature falls from
    ``hot`` to ``cold`` geometrically.
    """
    num = s.option.shape[0]
    moves = draws.shape[0]
    value = objective(t, s)
    excess = charge(t, s)
    note(t, s, value, excess)
    merit = value + excess
    ratio = math.log(cold / hot) / max(moves, 1)
    for m in range(moves):
        heat = hot * math.exp(ratio * m)
        i = int(draws[m, 0] * num)
        o = s.option[i]
        j = NOWHERE
        p = NOWHERE
        if draws[m, 1] < 0.5 or num < 2:
            low = t.usable_start[i]
            high = t.usable_start[i + 1]
            if high <= low:
                continue
            new = t.usable[low + int(draws[m, 2] * (high - low))]
            if new == o or not fits(t, s, i, new):
                continue
            move(t, s, i, new)
        else:
            j = int(draws[m, 2] * num)
            p = s.option[j]
            if i == j or o < 0 or p < 0 or t.place[o] == t.place[p]:
                continue
            new = partner(t, s, i, o, p)
            other = partner(t, s, j, p, o)
            if not fits(t, s, i, new) or not fits(t, s, j, other):
                continue
            move(t, s, i, new)
            move(t, s, j, other)
        value = objective(t, s)
        excess = charge(t, s)
        after = value + excess
        if after <= merit or draws[m, 3] < math.exp((merit - after) / heat):
            merit = after
            if excess <= 0.0:
                note(t, s, value, excess)
        else:
            if j >= 0:
                move(t, s, j, p)
            move(t, s, i, o)
    return merit


KERNELS = (
    flow,
    put,
    move,
    objective,
    charge,
    note,
    fits,
    partner,
    build,
    anneal,
)
"""What is compiled, callees first."""

ENTRIES = ("put", "move", "objective", "charge", "build", "anneal")
"""What is called from Python."""
