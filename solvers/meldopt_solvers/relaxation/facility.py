"""Facility location, exactly: what pricing solves for each block.

Facilities cost something to open, clients take the nearest one that is open or go
without. Dual ascent (Erlenkotter [1]_) gives a lower bound and slacks, slacks exclude
facilities, and what is left is enumerated depth first. The functions are kernels of
`meldopt_solvers.relaxation.kernels` and run as Python and compiled.

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

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

NONE: Any = np.int64(-1)

NEAR = 0.002
"""Relative excess of choices whose options are remembered."""

MANY = 48
"""Facilities from which a quick ascent first leaves out what no good set has."""

QUICK, CAREFUL = 4.0, np.inf
"""Steps of a client in that ascent, and in one that stops at every server."""

EXCHANGES = 12
"""Exchanges of facilities of a greedy set, at most."""

EXACT = 1e-11
"""Relative difference at which two values of a block are the same."""


class Facilities(NamedTuple):
    """One block: F facilities and K clients."""

    opening: Floats  # (F,) cost of each facility
    cost: Floats  # (K, F) of a client at a facility; inf: cannot serve
    way: Floats  # (F, K) the same
    bare: Floats  # (K,) if only the forced facilities serve; inf: must be served
    forced: Bools  # (F,) facilities that are open
    server: Ints  # (F,) where it is, and
    owner: Ints  # (F,) of which expert: one copy of an expert on a server
    most: int  # copies of an expert


def ascend(
    y: Facilities, opening: Floats, slack: Floats, dual: Floats, steps: float
) -> float:
    """Raise the duals of clients one after the other; return their sum.

    Each rises to its next server (past those nearer than one of so many steps, of the
    way to servers on average), or until a facility that it reaches already is paid for.
    ``slack`` becomes what is left of each facility's cost of opening: a set of
    open facilities costs at least the sum plus its slacks. ``opening`` takes the place
    of that of the block: what is forced costs nothing more.
    """
    cost, bare, server, owner = y.cost, y.bare, y.server, y.owner
    num_f = opening.shape[0]
    num_c = bare.shape[0]
    total = 0.0
    num_s = 0
    least = 0.0
    first = 0
    for f in range(num_f):  # one copy of an expert on a server: one gift at most
        if server[f] != server[first] or owner[f] != owner[first]:
            first = f
        if f == first:
            least = 0.0
            n = f
            while n < num_f and server[n] == server[f] and owner[n] == owner[f]:
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
            if f > 0 and server[f] == server[f - 1] and owner[f] == owner[f - 1]:
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


def may_join(y: Facilities, f: int, depth: int, stack: Ints) -> bool:
    """Say whether a facility may stand beside those on the stack."""
    same = 0
    for d in range(depth):
        h = stack[d]
        if y.owner[h] == y.owner[f]:
            same += 1
            if y.server[h] == y.server[f]:
                return False
    return bool(same < y.most)


def greedy_set(y: Facilities, listed: Bools, stack: Ints) -> tuple[int, float]:
    """Open the facility that gains most, again and again; return how many, and cost.

    Only those that are listed are looked at, and those that are forced.
    """
    opening, way, bare, forced = y.opening, y.way, y.bare, y.forced
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
            if not may_join(y, f, depth, stack):
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
    y: Facilities, stack: Ints, number: int, total: float
) -> tuple[int, float]:
    """Drop, replace and add facilities while that helps; return as `greedy_set`."""
    opening, way, bare, forced = y.opening, y.way, y.bare, y.forced
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
                    if not may_join(y, f, size, stack):
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
    y: Facilities, steps: float, slack: Floats, dual: Floats, chosen: Ints
) -> tuple[float, float, int]:
    """Return a bound by `ascend` and the cost and number of a `greedy_set`.

    Facilities that the duals pay for make a better start than any others.
    """
    num_f = y.opening.shape[0]
    fixed = 0.0
    free = y.opening.copy()
    for f in range(num_f):
        if y.forced[f]:
            fixed += y.opening[f]
            free[f] = 0.0
    lower = fixed + ascend(y, free, slack, dual, steps)
    if lower == np.inf:
        return np.inf, np.inf, 0
    paid_for = np.empty(num_f, dtype=np.bool_)
    for f in range(num_f):
        paid_for[f] = y.forced[f] or slack[f] <= EXACT * abs(lower)
    number, upper = greedy_set(y, paid_for, chosen)
    if upper == np.inf:
        paid_for[:] = True
        number, upper = greedy_set(y, paid_for, chosen)
    return lower, upper, number


def search(
    y: Facilities, nodes: int, chosen: Ints, near: Bools
) -> tuple[float, float, int, int]:
    """Solve one block, of few facilities; see `locate`."""
    opening, way, bare, forced = y.opening, y.way, y.bare, y.forced
    num_f = opening.shape[0]
    num_c = bare.shape[0]
    slack = np.empty(num_f)
    dual = np.empty(num_c)
    lower, upper, number = approach(y, CAREFUL, slack, dual, chosen)
    if lower == np.inf:
        return np.inf, np.inf, 0, 0
    if upper < np.inf and lower < upper - EXACT * abs(upper):
        number, upper = exchange(y, chosen, number, upper)
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
        if not may_join(y, f, depth, stack):
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
    y: Facilities, nodes: int, chosen: Ints, near: Bools
) -> tuple[float, float, int, int]:
    """Solve one block.

    With many facilities, those that a quick ascent shows to be in no good set are left
    out first.

    Parameters
    ----------
    y
        The block.
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
    num_f = y.opening.shape[0]
    num_c = y.bare.shape[0]
    if num_f < MANY:
        return search(y, nodes, chosen, near)
    slack = np.empty(num_f)
    dual = np.empty(num_c)
    lower, upper, number = approach(y, QUICK, slack, dual, chosen)
    if lower == np.inf:
        return np.inf, np.inf, 0, 0
    kept = np.empty(num_f, dtype=np.int64)
    num = 0
    for f in range(num_f):
        if y.forced[f] or lower + slack[f] <= upper + NEAR * abs(upper):
            kept[num] = f
            num += 1
    kept = kept[:num]
    cost = np.empty((num_c, num))
    way = np.empty((num, num_c))
    for n in range(num):
        for k in range(num_c):
            way[n, k] = y.way[kept[n], k]
            cost[k, n] = y.way[kept[n], k]
    few = Facilities(
        y.opening[kept],
        cost,
        way,
        y.bare,
        y.forced[kept],
        y.server[kept],
        y.owner[kept],
        y.most,
    )
    picked = np.empty_like(chosen)
    close = np.zeros(num, dtype=np.bool_)
    low, high, count, seen = search(few, nodes, picked, close)
    for n in range(num):
        near[kept[n]] = close[n]
    if high <= upper:
        upper = high
        number = count
        for d in range(count):
            chosen[d] = kept[picked[d]]
    # Whatever has a facility that was left out costs more than the greedy set.
    return min(low, upper), upper, number, seen


FACILITY = (ascend, may_join, greedy_set, exchange, approach, search, locate)
"""What is compiled, callees first."""
