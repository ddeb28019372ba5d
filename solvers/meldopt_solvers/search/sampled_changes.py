"""Changes of copies and shares on sampled tokens: carried out, answered, taken back.

A change is noted before it is made, for one or two experts, so that it can be taken
back. When copies change each demand gets the best answer that keeps every row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import sampled_kernels
from .kernels import NONE
from .sampled_kernels import COST, carry, retimed, within

if TYPE_CHECKING:
    from .kernels import Tables
    from .sampled_kernels import Floats, Ints, SampledState, SampledTables

KEEP: Any = np.bool_(True)
TRY: Any = np.bool_(False)
"""Whether new times stand. Not literals, for each of which numba would compile anew."""


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


def copy(source: Floats | Ints, target: Floats | Ints) -> None:
    """Copy an array; compiled, a slice would bring the making of error texts along."""
    for n in range(source.shape[0]):
        target[n] = source[n]


def begin(s: SampledState) -> None:
    """Note all sums before a move."""
    s.who[0] = NONE
    s.who[1] = NONE
    copy(s.used, s.old_used)
    copy(s.tally, s.old_tally)
    copy(s.load, s.old_load)
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
            retimed(t, c, s, i, q, KEEP)
    copy(s.old_used, s.used)
    copy(s.old_tally, s.tally)
    copy(s.old_load, s.load)
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
        value = s.knob[COST] + retimed(t, c, s, i, q, TRY)
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
    retimed(t, c, s, i, q, KEEP)
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


KERNELS = (
    *sampled_kernels.KERNELS,
    copy,
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
)
"""What is compiled, callees first."""
