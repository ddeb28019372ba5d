"""Draws the experts of tokens, compiled: sets of a fixed size with given odds.

A set of k experts has a probability proportional to the product of their weights
(conditional Poisson sampling): no other law with the same calls is closer to
independence. Draws are numbered by (seed, token), not taken in turn, so that a token is
the same whatever chunk it is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit()(function)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@_compiled
def _mixed(state: np.uint64) -> np.uint64:
    """Scramble 64 bits (splitmix64)."""
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


@_compiled
def _tails(
    weight: NDArray[np.float64], size: int, without: int, tail: NDArray[np.float64]
) -> None:
    """Sum products over sets of 0 … size of the last experts; tail is (E+1, size+1)."""
    count = len(weight)
    for r in range(size + 1):
        tail[count, r] = 0.0
    tail[count, 0] = 1.0
    for j in range(count - 1, -1, -1):
        tail[j, 0] = 1.0
        for r in range(1, size + 1):
            tail[j, r] = tail[j + 1, r]
            if j != without:
                tail[j, r] += weight[j] * tail[j + 1, r - 1]


@_compiled
def inclusion(
    weight: NDArray[np.float64], size: int, without: int
) -> tuple[float, NDArray[np.float64]]:
    """Return the sum over sets of ``size``, and how likely each expert is in one.

    Parameters
    ----------
    weight
        (E,), not negative.
    size
        Experts of a set.
    without
        An expert that is in none; -1 for no such.
    """
    count = len(weight)
    tail = np.zeros((count + 1, size + 1))
    _tails(weight, size, without, tail)
    total = tail[0, size]
    share = np.zeros(count)
    if size == 0 or total <= 0.0:
        return total, share
    head = np.zeros(size)  # products over sets of the experts before j
    head[0] = 1.0
    for j in range(count):
        if j == without:
            continue
        rest = 0.0
        for r in range(size):
            rest += head[r] * tail[j + 1, size - 1 - r]
        share[j] = weight[j] * rest / total
        for r in range(size - 1, 0, -1):
            head[r] += weight[j] * head[r - 1]
    return total, share


@_compiled
def expected(
    paths: NDArray[np.float64],
    inside: NDArray[np.float64],
    before: NDArray[np.float64],
    size: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return how often each call follows, goes with and is the first choice.

    Parameters
    ----------
    paths
        Weight of a call of expert j after first choice i of the layer before, (I, E).
    inside
        Weight of a call of j beside first choice a, (E, E).
    before
        How often each expert was the first choice of the layer before, (I,).
    size
        Calls of a token in the layer.

    Returns
    -------
    tuple of ndarray
        Calls by first choice before, (I, E); other calls by first choice, (E, E);
        first choices by first choice before, (I, E).
    """
    num_i, num_e = paths.shape
    after = np.zeros((num_i, num_e))
    beside = np.zeros((num_e, num_e))
    first = np.zeros((num_i, num_e))
    shares = np.zeros((num_e, num_e))
    mass = np.zeros(num_e)
    for i in range(num_i):
        if before[i] <= 0.0:
            continue
        for a in range(num_e):
            mass[a] = 0.0
            if paths[i, a] > 0.0:
                total, share = inclusion(inside[a] * paths[i], size - 1, a)
                mass[a] = paths[i, a] * total
                shares[a] = share
        whole = mass.sum()
        if whole <= 0.0:
            continue
        for a in range(num_e):
            if mass[a] <= 0.0:
                continue
            odds = before[i] * mass[a] / whole
            first[i, a] = odds
            after[i, a] += odds
            for j in range(num_e):
                after[i, j] += odds * shares[a, j]
                beside[a, j] += odds * shares[a, j]
    return after, beside, first


@_compiled
def draw(
    seed: np.uint64,
    token: NDArray[np.int64],
    domain: NDArray[np.int64],
    counts: NDArray[np.int64],
    alone: NDArray[np.float64],
    order: NDArray[np.float64],
    first: NDArray[np.float64],
    paths: NDArray[np.float64],
    inside: NDArray[np.float64],
    quantiles: NDArray[np.float64],
    experts: NDArray[np.uint16],
    gates: NDArray[np.float32],
) -> None:
    """Draw experts and gates of tokens into ``experts`` and ``gates``, (T, L, K).

    Parameters
    ----------
    seed
        Of the whole trace.
    token, domain
        Number that decides the draws, and domain of each token, (T,).
    counts
        Experts of each layer, (L,).
    alone
        Sums over sets of the last experts, (D, L, E + 1, K + 1): `tails_of`.
    order
        Weight of an expert to come early in the order of gates, (D, L, E).
    first, paths, inside
        First choices by first choice before, running sums (D, L, E, E), and the
        weights of `expected`; of length 0 if layers do not depend on each other.
    quantiles
        Gates by share of calls with smaller ones, (D, L, X).
    """
    num_l, top_k = experts.shape[1], experts.shape[2]
    widest = alone.shape[2] - 1
    tail = np.zeros((widest + 1, top_k + 1))
    chosen = np.zeros(top_k, dtype=np.int64)
    level = np.zeros(top_k)
    coupled = first.shape[0] > 0
    top = quantiles.shape[2] - 1
    for t in range(len(token)):
        state = _mixed(_mixed(seed) + _GOLDEN * np.uint64(token[t] + 1))
        d = domain[t]
        last = 0
        for layer in range(num_l):
            count = counts[layer]
            found = 0
            if coupled:
                state += _GOLDEN
                u = float(_mixed(state) >> np.uint64(11)) / 9007199254740992.0
                row = first[d, layer, last]
                low, high = 0, count - 1
                u *= row[count - 1]
                while low < high:
                    middle = (low + high) // 2
                    if row[middle] > u:
                        high = middle
                    else:
                        low = middle + 1
                chosen[0] = low
                found = 1
                if top_k > 1:
                    _tails(
                        inside[d, layer, low, :count] * paths[d, layer, last, :count],
                        top_k - 1,
                        low,
                        tail,
                    )
                last = low
            need = top_k - found
            at = 0
            for r in range(need, 0, -1):
                # The next expert is the first whose tail no longer holds the draw.
                state += _GOLDEN
                u = float(_mixed(state) >> np.uint64(11)) / 9007199254740992.0
                low, high = at, count - r
                if coupled:
                    u *= tail[at, r]
                    while low < high:
                        middle = (low + high) // 2
                        if tail[middle + 1, r] <= u:
                            high = middle
                        else:
                            low = middle + 1
                else:
                    u *= alone[d, layer, at, r]
                    while low < high:
                        middle = (low + high) // 2
                        if alone[d, layer, middle + 1, r] <= u:
                            high = middle
                        else:
                            low = middle + 1
                chosen[found] = low
                found += 1
                at = low + 1
            # Order of gates: the more called come first more often.
            for n in range(1 if coupled else 0, top_k - 1):
                total = 0.0
                for m in range(n, top_k):
                    total += order[d, layer, chosen[m]]
                state += _GOLDEN
                u = float(_mixed(state) >> np.uint64(11)) / 9007199254740992.0
                u *= total
                pick = n
                for m in range(n, top_k):
                    pick = m
                    u -= order[d, layer, chosen[m]]
                    if u < 0.0:
                        break
                chosen[n], chosen[pick] = chosen[pick], chosen[n]
            for n in range(top_k):
                state += _GOLDEN
                level[n] = float(_mixed(state) >> np.uint64(11)) / 9007199254740992.0
                # Insertion: the largest first.
                m = n
                while m > 0 and level[m - 1] < level[m]:
                    level[m - 1], level[m] = level[m], level[m - 1]
                    m -= 1
            for n in range(top_k):
                experts[t, layer, n] = chosen[n]
                place = level[n] * top
                cell = int(place)
                part = place - cell
                low_gate = quantiles[d, layer, cell]
                gates[t, layer, n] = low_gate + part * (
                    quantiles[d, layer, min(cell + 1, top)] - low_gate
                )


@_compiled
def tails_of(weight: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Sum products over sets of 0 … size of the last experts; (E + 1, size + 1)."""
    tail = np.zeros((len(weight) + 1, size + 1))
    _tails(weight, size, -1, tail)
    return tail


@_compiled
def sign(
    seed: np.uint64,
    token: NDArray[np.int64],
    segment: NDArray[np.int64],
    keep: NDArray[np.uint64],
    mask: np.uint64,
    before: NDArray[np.uint64],
    signature: NDArray[np.uint64],
) -> None:
    """Draw signatures into ``signature``, (T, L).

    Parameters
    ----------
    seed
        Of the whole trace.
    token
        Number of each token, (T,).
    segment
        Segment of fusion in which a token is like the one before it, (T, L); -1 if in
        none.
    keep
        Bits that it then shares, by segment, (M,).
    mask
        All bits of a signature.
    before
        Signature of the token before the first, (L,); that of the last on return.
    """
    num_l = signature.shape[1]
    for t in range(len(token)):
        state = ~_mixed(_mixed(seed) + _GOLDEN * np.uint64(token[t] + 1))
        for layer in range(num_l):
            state += _GOLDEN
            fresh = _mixed(state) & mask
            m = segment[t, layer]
            if m >= 0:
                fresh = (before[layer] & keep[m]) | (fresh & ~keep[m])
            signature[t, layer] = fresh
            before[layer] = fresh
