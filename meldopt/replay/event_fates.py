"""What becomes of the calls of a step: which copy answers, what is pruned or fused.

Budgets hold for each layer, demand and server. What is not a whole call is carried over
to the next step, so that counts are never off by as much as a token.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from .analytic import mix
from .compiled import part
from .event_state import DROPPED, FUSED

ALONE = 65
"""Distance of a token that has no partner; signatures have at most 64 bits."""


def _choose(x: Any, y: Any, key: Any, row: Any) -> int:
    """Pick one of several options that are not pruned."""
    start, stop = x.keys[key].start, x.keys[key].stop
    if x.hashed:
        before = y.options[start - 1].edge if start > 0 else 0.0
        draw = mix(row, key % x.layer_start[-1], 1)
        target = before + draw * (y.options[stop - 1].edge - before)
        while start < stop - 1 and y.options[start].edge <= target:
            start += 1
        return start  # type: ignore[no-any-return]
    best, most = start, -inf
    for o in range(start, stop):
        option = y.options[o]
        option.credit += option.share
        if option.credit > most:
            best, most = o, option.credit
    y.options[best].credit -= 1.0
    return best  # type: ignore[no-any-return]


choose: Any = part(_choose)


def _nearest(x: Any, y: Any, q: Any, l: Any, i: Any) -> int:  # noqa: E741
    """Return the copy of least time on a server that runs; -1: none."""
    best, least = -1, inf
    for c in range(x.copy_start[i], x.copy_start[i + 1]):
        s = y.copies[c].server
        time = x.net[q, l, s] + y.copies[c].work
        if y.down[s] == 0 and time < least:
            best, least = c, time
    return best


nearest: Any = part(_nearest)


def _prune(x: Any, y: Any, g: Any, count: Any) -> None:
    """Prune what the budget of each link says, smallest gates first."""
    order = y.order[:count]
    order.sort()
    layer = y.engines[g].layer
    n = 0
    while n < count:
        group = order[n] >> np.uint64(40)
        q, s = np.int64(group) // len(y.down), np.int64(group) % len(y.down)
        quota: Any = y.prune_carry[layer, q, s]
        stop = n
        while stop < count and order[stop] >> np.uint64(40) == group:
            m = np.int64(order[stop] & np.uint64(0xFFFFFF))
            quota += x.keys[y.call[g, m, 4]].prune
            stop += 1
        take: Any = min(np.int64(quota + 1e-9), stop - n)
        y.prune_carry[layer, q, s] = quota - take
        for at in range(n, n + take):
            m = np.int64(order[at] & np.uint64(0xFFFFFF))
            y.call[g, m, 3] = DROPPED
            y.call_loss[g, m] = x.keys[y.call[g, m, 4]].prune_loss
        n = stop


def _distance(x: Any, y: Any, z: Any, g: Any, token: Any, earlier: Any) -> int:
    """Return the bits in which a token differs from the most alike earlier one."""
    at = x.layer[y.engines[g].layer]
    base = y.sim[0].base
    mine = z.signature[y.token[g, token, 1] - base, at]
    least = 64
    last: Any = -1
    for entry in earlier:
        other = np.int64((entry >> np.uint64(24)) & np.uint64(0xFFFF))
        if other == last:  # calls of a token stand together
            continue
        last = other
        bits = mine ^ z.signature[y.token[g, other, 1] - base, at]
        differ = 0
        while bits != np.uint64(0) and differ < least:
            bits &= bits - np.uint64(1)
            differ += 1
        least = min(least, differ)
    return least


distance_of: Any = part(_distance)


def _rank(x: Any, y: Any, z: Any, g: Any, entries: Any) -> int:
    """Rank the tokens of a group, most alike first; returns how many there are.

    A rank holds the distance, and where the calls of the token begin. The first token
    has no partner: it is the one that others are fused with.
    """
    tokens, at = 0, 0
    while at < len(entries):
        token = np.int64((entries[at] >> np.uint64(24)) & np.uint64(0xFFFF))
        distance = ALONE if tokens == 0 else 64
        if tokens and len(z.signature):
            distance = distance_of(x, y, z, g, token, entries[:at])
        y.ranked[tokens] = np.uint64((distance << 32) | at)
        tokens += 1
        while at < len(entries) and token == np.int64(
            (entries[at] >> np.uint64(24)) & np.uint64(0xFFFF)
        ):
            at += 1
    y.ranked[:tokens].sort()
    return tokens


rank: Any = part(_rank)


def _fuse_group(x: Any, y: Any, z: Any, g: Any, entries: Any, left: Any) -> int:
    """Fuse up to ``left`` calls of a group, by whole tokens; returns what is left."""
    sim = y.sim[0]
    for n in range(rank(x, y, z, g, entries)):
        distance = np.int64(y.ranked[n] >> np.uint64(32))
        if left == 0 or (x.partners and distance == ALONE):
            break
        first = np.int64(y.ranked[n] & np.uint64(0xFFFFFFFF))
        token = (entries[first] >> np.uint64(24)) & np.uint64(0xFFFF)
        last = first
        while (
            last < len(entries)
            and (entries[last] >> np.uint64(24)) & np.uint64(0xFFFF) == token
        ):
            last += 1
        if last - first > left:
            continue
        for entry in entries[first:last]:
            m = np.int64(entry & np.uint64(0xFFFFFF))
            y.call[g, m, 3] = FUSED
            y.call_loss[g, m] += y.options[y.call[g, m, 2]].fuse_loss
        left -= last - first
        if len(z.signature) and distance < ALONE:
            sim.distance += distance
            sim.partners += 1
    return left  # type: ignore[no-any-return]


fuse_group: Any = part(_fuse_group)


def _fuse(x: Any, y: Any, z: Any, g: Any, count: Any) -> None:
    """Fuse what the budget of each link says, tokens nearest to another one first."""
    order = y.order[:count]
    order.sort()
    layer = y.engines[g].layer
    n = 0
    while n < count:
        group = order[n] >> np.uint64(40)
        q, s = np.int64(group) // len(y.down), np.int64(group) % len(y.down)
        quota = y.fuse_carry[layer, q, s]
        stop = n
        while stop < count and order[stop] >> np.uint64(40) == group:
            m = np.int64(order[stop] & np.uint64(0xFFFFFF))
            quota += y.options[y.call[g, m, 2]].fused
            stop += 1
        take: Any = min(np.int64(quota + 1e-9), stop - n)
        left = fuse_group(x, y, z, g, order[n:stop], take) if take > 0 else 0
        if x.partners:
            y.sim[0].short += left
            left = 0
        y.fuse_carry[layer, q, s] = quota - take + left
        n = stop


prune: Any = part(_prune)
fuse: Any = part(_fuse)
