"""Which experts are called together: activation paths and sampled tokens.

Tokens of a layer are thought of as the points of a circle of length one, and its
experts as arcs as long as they are called often, laid end to end in some order and
wound around the circle: every point lies on ``top_k`` arcs of different experts, and
every expert is on exactly its calls. The first choice is one of them, with a weight
that grows with its calls. Averages over several orders keep all this and are less
extreme. Between layers a share of the tokens keeps its place on the circle, the rest
draws a new one: the marginals are exact whatever the share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import InstanceError

from .digits import rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ORDERS = 8  # of arcs inside a layer
_FIRST = 1.5  # first choices are more skewed than calls: their exponent
_STEPS = 40
MAX_PAIRS = 4_000_000
"""Most pairs that a generated profile may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Traversals per token for the dataflow ``roam``.

    Attributes
    ----------
    pairs
        Ordered pairs of experts, (R, 2).
    weight
        Traversals per token, (D, R).
    entry, exit
        From the home to each expert and from each expert home, (D, N).
    primary
        How often an expert is the first choice, (D, L, E).
    """

    pairs: NDArray[np.int64]
    weight: NDArray[np.float64]
    entry: NDArray[np.float64]
    exit: NDArray[np.float64]
    primary: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arcs:
    """One order of arcs: where the circle is cut, and who is called between cuts."""

    length: NDArray[np.float64]  # (I,) of each interval
    members: NDArray[np.int64]  # (I, k) experts called there
    first: NDArray[np.float64]  # (I, k) chance of each to be the first choice


def _arcs(order: NDArray[np.int64], calls: NDArray[np.float64], top_k: int) -> _Arcs:
    ends = np.cumsum(calls[order])
    ends *= top_k / ends[-1]
    cuts = np.unique(np.concatenate([[0.0, 1.0], ends[:-1] % 1.0]))
    length = np.diff(cuts)
    middle = (cuts[:-1] + cuts[1:]) / 2
    turns = middle[:, None] + np.arange(top_k)[None, :]
    at = np.minimum(np.searchsorted(ends, turns), len(order) - 1)
    members = order[at]
    weight = calls[members] ** _FIRST
    return _Arcs(
        length=length,
        members=members,
        first=weight / weight.sum(axis=1, keepdims=True),
    )


def paths(
    rng: np.random.Generator,
    calls: NDArray[np.float64],
    top_k: int,
    *,
    dependence: float,
) -> Paths:
    """Draw activation paths whose marginals are the calls.

    Parameters
    ----------
    rng
        Where randomness comes from.
    calls
        Calls per token, (D, L, E).
    top_k
        Calls per token and layer.
    dependence
        Normalised mutual information between the first choice of a layer and a call
        of the next, mean over domains and layers: 0 for none.

    Returns
    -------
    Paths
        Pairs from the first choice of a layer to each call of the next, and from each
        call of a layer to its first choice; entry at every call of the first layer,
        exit at the first choice of the last.

    Raises
    ------
    InstanceError
        If there would be too many pairs, or no paths are as dependent.
    """
    domains, layers, experts = calls.shape
    if layers * experts * experts * 2 > MAX_PAIRS:
        raise InstanceError(
            f"parameters.dataflow: got 'roam' with {layers} layers of {experts} "
            f"experts, expected at most {MAX_PAIRS} pairs; take fewer layers"
        )
    orders = [[rng.permutation(experts) for _ in range(_ORDERS)] for _ in range(layers)]
    primary = np.zeros_like(calls)
    inside = np.zeros((domains, layers, experts, experts))
    extreme = np.zeros((domains, max(layers - 1, 0), experts, experts))
    for d in range(domains):
        before: _Arcs | None = None
        for layer in range(layers):
            for order in orders[layer]:
                arcs = _arcs(order, calls[d, layer], top_k)
                mass = arcs.length[:, None] * arcs.first / _ORDERS
                np.add.at(primary[d, layer], arcs.members, mass)
                for slot in range(top_k):
                    np.add.at(
                        inside[d, layer],
                        (arcs.members, arcs.members[:, slot, None]),
                        mass[:, slot, None],
                    )
            if before is not None:
                arcs = _arcs(orders[layer][0], calls[d, layer], top_k)
                extreme[d, layer - 1] = _kept(before, arcs, experts)
            before = _arcs(orders[layer][0], calls[d, layer], top_k)
    # The extreme coupling has the first choices of one order as its rows; scaling rows
    # to the average and spreading what is left over keeps both marginals.
    alone = primary[:, :-1, :, None] * calls[:, 1:, None, :]
    tied = _with_rows(extreme, primary[:, :-1], calls[:, 1:])
    share = _mixture(alone, tied, dependence)
    between = share * tied + (1 - share) * alone
    return _listed(between, inside, calls, primary)


def _kept(before: _Arcs, after: _Arcs, experts: int) -> NDArray[np.float64]:
    """Couple first choices and next calls of tokens that keep their place; (E, E)."""
    one, other = np.cumsum(before.length), np.cumsum(after.length)
    cuts = np.unique(np.concatenate([[0.0], one, other]))
    cuts = cuts[cuts <= 1.0]
    middle = (cuts[:-1] + cuts[1:]) / 2
    length = np.diff(cuts)
    a = np.minimum(np.searchsorted(one, middle), len(one) - 1)
    b = np.minimum(np.searchsorted(other, middle), len(other) - 1)
    table = np.zeros((experts, experts))
    for slot in range(before.members.shape[1]):
        np.add.at(
            table,
            (before.members[a, slot, None], after.members[b]),
            (length * before.first[a, slot])[:, None],
        )
    return table


def _with_rows(
    table: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Change the rows' sums to ``rows`` times top_k, keeping columns; (D, L, E, E)."""
    top_k = columns.sum(axis=-1)[..., None]
    have = table.sum(axis=-1) / top_k
    keep = np.divide(rows, have, out=np.zeros_like(rows), where=have > 0)
    kept = table * np.minimum(keep, 1.0)[..., None]
    short = rows * top_k - kept.sum(axis=-1)
    missing = columns - kept.sum(axis=-2)
    total = short.sum(axis=-1)[..., None, None]
    fill = short[..., :, None] * missing[..., None, :]
    spread: NDArray[np.float64] = kept + np.divide(
        fill, total, out=np.zeros_like(fill), where=total > 1e-12
    )
    return np.maximum(spread, 0.0)


def normalised_information(table: NDArray[np.float64]) -> float:
    """Return the mean mutual information of joint tables over the smaller entropy.

    Parameters
    ----------
    table
        Joint weights of any scale, (..., E, E).
    """
    if not table.size:
        return 0.0
    joint = table / table.sum(axis=(-2, -1), keepdims=True)
    rows, columns = joint.sum(axis=-1), joint.sum(axis=-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = joint / (rows[..., :, None] * columns[..., None, :])
        shared = np.where(joint > 0, joint * np.log(ratio), 0.0).sum(axis=(-2, -1))
        entropy = [
            -np.where(p > 0, p * np.log(p), 0.0).sum(axis=-1) for p in (rows, columns)
        ]
    least = np.minimum(*entropy)
    value = np.divide(shared, least, out=np.zeros_like(shared), where=least > 0)
    return float(value.mean())


def _mixture(
    alone: NDArray[np.float64], tied: NDArray[np.float64], wanted: float
) -> float:
    if not alone.size or wanted <= 0:
        return 0.0
    most = normalised_information(tied)
    if wanted > most:
        raise InstanceError(
            f"parameters.dependence: got {wanted:g}, expected at most {most:.3g}, "
            "what this popularity allows"
        )
    lower, upper = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (lower + upper) / 2
        if normalised_information(middle * tied + (1 - middle) * alone) < wanted:
            lower = middle
        else:
            upper = middle
    return float(rounded(np.array([upper]))[0])


def _listed(
    between: NDArray[np.float64],
    inside: NDArray[np.float64],
    calls: NDArray[np.float64],
    primary: NDArray[np.float64],
) -> Paths:
    domains, layers, experts = calls.shape
    pairs: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float64]] = []
    for layer in range(layers):
        first = layer * experts
        if layer:
            found = np.argwhere(between[:, layer - 1].max(axis=0) > 0)
            pairs.append(found + np.array([first - experts, first]))
            weights.append(between[:, layer - 1, found[:, 0], found[:, 1]])
        gather = inside[:, layer].copy()
        gather[:, np.arange(experts), np.arange(experts)] = 0.0
        found = np.argwhere(gather.max(axis=0) > 0)
        pairs.append(found + first)
        weights.append(gather[:, found[:, 0], found[:, 1]])
    entry = np.zeros_like(calls)
    entry[:, 0] = calls[:, 0]
    leave = np.zeros_like(calls)
    leave[:, -1] = primary[:, -1]
    return Paths(
        pairs=np.concatenate(pairs).astype(np.int64),
        weight=rounded(np.concatenate(weights, axis=1)),
        entry=rounded(entry.reshape(domains, -1)),
        exit=rounded(leave.reshape(domains, -1)),
        primary=primary,
    )


def sampled_tokens(
    rng: np.random.Generator,
    calls: NDArray[np.float64],
    top_k: int,
    *,
    count: int,
    dependence: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the experts of sampled tokens, as likely as the calls say.

    Returns
    -------
    tuple of ndarray
        Experts of each token and layer, the first choice first, (T, L, k); domain of
        each token, (T,). Domains take turns.
    """
    domains, layers, experts = calls.shape
    orders = [[rng.permutation(experts) for _ in range(_ORDERS)] for _ in range(layers)]
    domain = np.arange(count) % domains
    chosen = np.zeros((count, layers, top_k), dtype=np.int64)
    place = rng.random(count)
    for layer in range(layers):
        # The square root: a token that keeps its place in two orders out of many.
        moved = rng.random(count) >= np.sqrt(dependence)
        fresh = rng.random(count)
        order = np.where(moved, rng.integers(_ORDERS, size=count), 0)
        place = np.where(moved, fresh, place)
        draw = rng.random(count)
        for d in range(domains):
            for n in range(_ORDERS):
                mine = np.flatnonzero((domain == d) & (order == n))
                if not len(mine):
                    continue
                arcs = _arcs(orders[layer][n], calls[d, layer], top_k)
                edge = np.cumsum(arcs.length)
                at = np.minimum(np.searchsorted(edge, place[mine]), len(edge) - 1)
                first = np.cumsum(arcs.first[at], axis=1) < draw[mine, None]
                slot = np.minimum(first.sum(axis=1), top_k - 1)
                members = arcs.members[at]
                turn = (np.arange(top_k)[None, :] + slot[:, None]) % top_k
                chosen[mine, layer] = np.take_along_axis(members, turn, axis=1)
    return chosen, domain.astype(np.int64)
