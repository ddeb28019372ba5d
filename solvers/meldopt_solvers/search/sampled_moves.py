"""The walk on sampled tokens: which changes are tried, and which ones stay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import sampled_changes
from .kernels import IN, NONE, OUT
from .sampled_changes import (
    KEEP,
    begin,
    exchange,
    fuse,
    fused_part,
    lend,
    permitted,
    save,
    undo,
)
from .sampled_kernels import (
    COST,
    DONE,
    SAMPLED,
    TRIED,
    UPHILL,
    WORK,
    answering,
    build,
    carry,
    held,
    hold,
    retimed,
    within,
)

if TYPE_CHECKING:
    from .kernels import Tables
    from .sampled_kernels import Floats, Ints, SampledState, SampledTables

DRAWS = 11
"""Random numbers of a move."""

PARTNERS = 24
"""Experts that are looked at for one with a copy at a place."""

SHARES = 0.35
"""Part of the moves that change shares only."""

FIRST: Any = np.int64(0)
SECOND: Any = np.int64(1)
"""Experts of a move. Not literals, for each of which numba would compile anew."""


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
    if not exchange(t, c, s, FIRST, i, gone, new):
        return False
    # The first change may have come to lend what the second would take away.
    return j < 0 or exchange(t, c, s, SECOND, j, leaves, comes)


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
    save(t, s, i, FIRST)
    carry(t, c, s, i, q, -1.0)
    part = fused_part(t, s, i, q, FIRST)
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
    retimed(t, c, s, i, q, KEEP)
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
    *sampled_changes.KERNELS,
    wanted,
    partner,
    change_copies,
    change_shares,
    walk,
)
"""What is compiled, callees first."""

ENTRIES = (build.__name__, walk.__name__)
"""What is called from Python."""
