"""Curves of pruning and fusion: how wide their segments are, and what they lose.

A trace says how many calls have small gates and how many tokens are alike. What it
costs to prune or fuse them it does not say: that scale is measured with the model
(``meldopt profile record``), given, or the fallback below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.errors import InstanceError
from meldopt.profiling.statistics import rising

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from meldopt.trace import Trace

PRUNE_SCALE = 0.14
"""Nats that a pruned call loses per square of its gate's share of the token's gates,
where nobody measured it: median over the layers of the first tiny model, with three
quarters of all second calls dropped. Its layers lay between 0.1 and 0.7."""

FUSE_SCALE = 0.05
"""Nats that a fused call loses per (1 - cosine) of the hidden states, where nobody
measured it: median over the layers of that model at cosines of 0.8 and more. Layers lay
between 0.02 and 0.44."""

HALVES = 0x7C00
"""Finite float16 numbers of 0 or more; their bits are ordered like them."""


class GateCounts:
    """How many calls have which gate, by layer, largest gates of tokens left out."""

    def __init__(self, layers: int, top_k: int) -> None:
        self.top_k = top_k
        self.tokens = 0
        self.calls = np.zeros((layers, HALVES), dtype=np.int64)
        self.squares = np.zeros((layers, HALVES))  # of shares

    def add(self, gates: NDArray[np.float16]) -> None:
        """Count the gates of some tokens, (T, L, K)."""
        share = shares(gates)[:, :, 1:]
        bits = gates[:, :, 1:].view(np.uint16) & np.uint16(0x7FFF)  # -0 is 0
        for layer in range(len(self.calls)):
            mine = bits[:, layer].ravel()
            weights = share[:, layer].ravel() ** 2
            self.calls[layer] += np.bincount(mine, minlength=HALVES)
            self.squares[layer] += np.bincount(mine, weights, minlength=HALVES)
        self.tokens += len(gates)

    def thresholds(self, ends: Sequence[float]) -> NDArray[np.float16]:
        """Return the smallest gates up to which shares of a layer's calls lie.

        Parameters
        ----------
        ends
            Shares of all calls of a layer, rising, at most (K - 1) / K; (M,).

        Returns
        -------
        ndarray of float16, shape (L, M)
        """
        wanted = np.array(ends) * self.top_k * self.tokens * (1 - 1e-12)
        bits = np.empty((len(self.calls), len(wanted)), dtype=np.uint16)
        for layer, calls in enumerate(self.calls):
            bits[layer] = np.searchsorted(np.cumsum(calls), wanted)
        return bits.view(np.float16)

    def squares_below(self, layer: int, end: float) -> float:
        """Add the squared shares of the smallest gates, per call of the layer.

        Parameters
        ----------
        layer
            Which layer.
        end
            Up to this share of all calls of the layer.
        """
        calls = self.calls[layer]
        held = np.flatnonzero(calls)
        total = np.concatenate([[0], np.cumsum(calls[held])])
        squares = np.concatenate([[0.0], np.cumsum(self.squares[layer][held])])
        every = self.top_k * self.tokens
        return float(np.interp(end * every, total, squares) / every)


def shares(gates: NDArray[np.float16]) -> NDArray[np.float64]:
    """Return each gate's share of the gates of its token and layer, (T, L, K)."""
    wide = gates.astype(np.float64)
    total = wide.sum(axis=2, keepdims=True)
    # A token whose gates are all 0 is as one with equal gates.
    equal = np.full_like(wide, 1 / wide.shape[2])
    share: NDArray[np.float64] = np.divide(wide, total, out=equal, where=total > 0)
    return share


def prune_ends(ends: Sequence[float], top_k: int) -> tuple[float, ...]:
    """Return the shares of calls that can be pruned: never a token's largest gate."""
    return tuple(end for end in ends if end * top_k <= top_k - 1 + 1e-12)


def prune_losses(
    gates: GateCounts,
    ends: NDArray[np.float64],
    measured: Mapping[str, NDArray[Any]],
    scale: float | None,
) -> tuple[NDArray[np.float64], bool]:
    """Return nats per call of the segments of pruning, (L, M).

    A measured curve is read at the shares of the segments. Beyond its end, losses go on
    as squares of the gates' shares, on the scale of the layer's curve.

    Parameters
    ----------
    gates
        Of the trace.
    ends
        Shares of a layer's calls where segments end, (L, M).
    measured
        Arrays of a profile, with ``prune_width`` and ``prune_loss`` or without.
    scale
        Nats per squared share, in place of what is measured.

    Returns
    -------
    tuple of ndarray and bool
        The losses, and whether they were measured.
    """
    known = scale is None and "prune_width" in measured
    each = PRUNE_SCALE if scale is None else scale
    losses = np.zeros(ends.shape)
    for layer, row in enumerate(ends):
        at, lost = np.zeros(1), np.zeros(1)
        if known:
            width = measured["prune_width"].mean(axis=0)[layer]
            loss = measured["prune_loss"].mean(axis=0)[layer]
            at = np.concatenate([at, np.cumsum(width)])
            lost = np.concatenate([lost, np.cumsum(width * loss)])
            squares = gates.squares_below(layer, at[-1])
            each = float(lost[-1] / squares) if squares > 0 else 0.0
        stops = np.concatenate([[0.0], row])
        total = np.interp(stops, at, lost)
        beyond = gates.squares_below(layer, at[-1])
        total += [
            each * max(gates.squares_below(layer, stop) - beyond, 0.0)
            for stop in np.maximum(stops, at[-1])
        ]
        width = np.diff(stops)
        slope = np.divide(
            np.diff(total), width, out=np.zeros_like(width), where=width > 0
        )
        losses[layer] = growing(slope, width)
    return losses, known


def growing(
    slope: NDArray[np.float64], width: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pool segments whose losses fall; an empty one is as the one before it."""
    empty = width <= 0
    pooled = slope.copy()  # if all are empty, nothing says better
    if not empty.all():
        pooled[~empty] = rising(slope[~empty], width[~empty])
        pooled[empty] = 0.0
    result: NDArray[np.float64] = np.maximum.accumulate(pooled)
    return result


def near(trace: Trace, distances: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return masks and limits of the segments of fusion: which signatures are near.

    Signatures of a drawn trace say how many leading bits tokens of a segment share;
    those of a model differ in few bits, wherever these are.
    """
    bits = trace.header.signature_bits
    every = (1 << bits) - 1
    prefixes = trace.header.about.get("signature_prefix_bits")
    if isinstance(prefixes, list) and prefixes:
        ok = all(isinstance(p, int) and 0 <= p <= bits for p in prefixes)
        if not ok or sorted(prefixes, reverse=True) != prefixes:
            raise InstanceError(
                f"{trace.place}: $.about.signature_prefix_bits: got {prefixes}, "
                f"expected numbers of bits that fall, at most {bits}"
            )
        return [every & ~((1 << (bits - p)) - 1) for p in prefixes], [0] * len(prefixes)
    return [every] * len(distances), list(distances)


def fuse_cost(
    masks: Sequence[int], limits: Sequence[int], bits: int
) -> NDArray[np.float64]:
    """Return 1 - cosine of the least similar tokens of each segment, (M,).

    Bits outside the mask differ by chance, half of them; nothing is nearer than half a
    bit.
    """
    distance = [
        max(limit + (bits - mask.bit_count()) / 2, 0.5)
        for mask, limit in zip(masks, limits, strict=True)
    ]
    result: NDArray[np.float64] = 1 - np.cos(np.pi * np.array(distance) / bits)
    return result
