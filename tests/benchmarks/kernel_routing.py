"""The routing that the rows of the measured kernel tables were timed under.

The tables name a distribution, not the calls of each expert. The source's collector
makes them so: ``balanced`` deals experts out in strides; a power law draws a weight for
each expert, rounds to whole calls, caps an expert at one call a token, and deals what
is missing to the experts with the fewest calls. The draws themselves are not on
record: a row gets the mean of `DRAWS` draws of our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """What one rank gets, in the mean of the draws.

    Attributes
    ----------
    calls, touched
        Calls of experts of the rank, and different experts among them.
    arriving
        Calls, of any rank, of the tokens that call an expert of this one.
    """

    calls: float
    touched: float
    arriving: float


def balanced_choices(tokens: int, experts: int, top_k: int) -> NDArray[np.int64]:
    """Return the experts of each token, dealt out in strides; (tokens, top_k)."""
    stride = math.ceil(experts / top_k)
    first = np.arange(tokens)
    if tokens < stride:
        first = first * stride / tokens
    choices: NDArray[np.int64] = (first[:, None] + np.arange(top_k) * stride).astype(
        np.int64
    ) % experts
    return choices


def power_law_calls(
    tokens: int,
    experts: int,
    top_k: int,
    exponent: float,
    generator: np.random.Generator,
    ranks: int = 1,
) -> NDArray[np.int64]:
    """Draw the calls of each expert under a power law; they add to tokens x top_k."""
    low, high = (1.0, tokens * 0.8) if tokens * top_k > experts else (0.01, 2.0)
    power = 1.0 - exponent
    uniform = generator.random(experts)
    weight = ((high**power - low**power) * uniform + low**power) ** (1.0 / power)
    calls = np.round(weight / weight.sum() * tokens * top_k).astype(np.int64)
    calls = np.minimum(calls, tokens)
    return _deal(calls, tokens * top_k - int(calls.sum()), tokens, ranks)


def _deal(
    calls: NDArray[np.int64], missing: int, cap: int, ranks: int
) -> NDArray[np.int64]:
    """Add calls one by one to the experts with the fewest, rank by rank in turn.

    If there are too many, take them one by one from the experts with the most.
    """
    sign = 1 if missing > 0 else -1
    blocks = calls.reshape(ranks, -1).copy()
    left = abs(missing)
    while left:
        before = left
        for rank in range(ranks):
            share = -(-left // (ranks - rank))
            left -= _level(blocks[rank], share, cap, sign)
        if left == before:  # all experts are at their cap
            break
    return blocks.ravel()


def _level(block: NDArray[np.int64], amount: int, cap: int, sign: int) -> int:
    """Raise the lowest (or lower the highest) entries in place; return the change."""
    done = 0
    while done < amount:
        edge = int(block.min() if sign > 0 else block.max())
        end = cap if sign > 0 else 0
        if edge == end:
            break
        at = np.flatnonzero(block == edge)
        beyond = block[block * sign > edge * sign] * sign
        step = (int(beyond.min()) if len(beyond) else end * sign) - edge * sign
        rounds = min(step, (amount - done) // len(at))
        if rounds:
            block[at] += sign * rounds
            done += rounds * len(at)
        else:
            block[at[: amount - done]] += sign
            done = amount
    return done


def _choices(calls: NDArray[np.int64], tokens: int, top_k: int) -> NDArray[np.int64]:
    """Deal the calls of experts, busiest first, to one token after the other."""
    order = np.argsort(-calls, kind="stable")
    return np.repeat(order, calls[order]).reshape(top_k, tokens).T


def routed(
    tokens: int, experts: int, top_k: int, ranks: int, distribution: str
) -> Routed:
    """Return what the rank that a row times gets.

    Under a power law that is the busiest rank, else the first.
    """
    each = experts // ranks
    if distribution == "balanced":
        rank = balanced_choices(tokens, experts, top_k) // each
        found = [_of_rank(balanced_choices(tokens, experts, top_k), rank == 0)]
    else:
        exponent = float(distribution.rpartition("_")[2])
        seed = [tokens, experts, top_k, round(100 * exponent)]
        generator = np.random.default_rng(seed)
        found = []
        for _ in range(DRAWS):
            calls = power_law_calls(tokens, experts, top_k, exponent, generator, ranks)
            busiest = int(np.argmax(calls.reshape(ranks, -1).sum(axis=1)))
            choices = _choices(calls, tokens, top_k)
            found.append(_of_rank(choices, choices // each == busiest))
    mean_calls, mean_touched, mean_arriving = np.mean(found, axis=0).tolist()
    return Routed(calls=mean_calls, touched=mean_touched, arriving=mean_arriving)


def _of_rank(
    choices: NDArray[np.int64], here: NDArray[np.bool_]
) -> tuple[int, int, int]:
    arriving = int(here.any(axis=1).sum()) * choices.shape[1]
    return int(here.sum()), len(np.unique(choices[here])), arriving
