"""What bits, pruning and fusion cost: synthetic losses of published magnitude.

Nobody has published the loss of every expert of every model in every format. These are
drawn: the sums are in line with published tables, the spread over layers and experts is
in line with measured ones, and the numbers of one expert mean nothing.

Loss of a format: if every expert of the model were stored with ``bits`` effective bits
per weight, the losses would add to `uniform_loss` nats per token (0.01 at 4.5, 0.05 at
3.5, 0.3 at 2.5, a quarter for each bit more beyond). The loss per call is that sum,
shared out by the sensitivity of the layer (the first layers up to four times the last)
and of the expert (log-normal, and falling with the square root of its calls: an expert
that is called often loses more in all, but less at each call).

Curves: calls with the smallest gates go first, so the loss of pruning grows with the
cube of the share pruned; fusing loses as a small trained model did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .digits import rounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_BITS = (2.5, 3.5, 4.5)
_NATS = (0.3, 0.05, 0.01)
_PER_BIT = 4.0  # less loss for each bit more, beyond the table
_LOSSLESS = 16.0  # bits per weight from which on nothing is lost
_EARLY = 3.0  # how much more sensitive the first layer is than the last
_EXPERT = 0.15  # log-normal spread of experts
_FORMAT = 0.1  # log-normal spread of (expert, format)

PRUNE_WIDTHS = (0.15, 0.15, 0.2)
"""Share of all calls in each segment of the pruning curve: smallest gates first."""

PRUNE_QUARTER = 0.004
"""Nats per token of pruning the quarter of all calls with the smallest gates."""

FUSE_WIDTHS = (0.23, 0.13)
"""Share of tokens whose cosine is at least 0.98, and 0.95 beyond that."""

FUSE_NATS = (0.001, 0.010)
"""Nats per token of fusing them in all layers, cumulative."""

_FUSE_FIRST = 6.0  # how much more sensitive to fusion the first layer is


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A convex loss curve by layer: widths and loss per call of its segments."""

    width: NDArray[np.float64]  # (1, L, M)
    loss: NDArray[np.float64]  # (1, L, M)


def uniform_loss(bits: float) -> float:
    """Return nats per token when all experts have so many bits per weight."""
    if bits >= _LOSSLESS:
        return 0.0
    if bits > _BITS[-1]:
        return float(_NATS[-1] * _PER_BIT ** (_BITS[-1] - bits))
    if bits < _BITS[0]:
        slope = float(np.log(_NATS[0] / _NATS[1]))
        return float(_NATS[0] * np.exp(slope * (_BITS[0] - bits)))
    return float(np.exp(np.interp(bits, _BITS, np.log(_NATS))))


def format_losses(
    rng: np.random.Generator,
    calls: NDArray[np.float64],
    bits: Sequence[float],
    *,
    scale: float,
) -> NDArray[np.float64]:
    """Draw nats per call of every expert in every format.

    Parameters
    ----------
    rng
        Where randomness comes from.
    calls
        Calls per token, (D, L, E).
    bits
        Effective bits per weight of each format.
    scale
        Factor on all losses.

    Returns
    -------
    ndarray of float64, shape (1, N, B)
        The same for all domains; fewer bits never lose less.
    """
    pooled = calls.mean(axis=0)
    layers, experts = pooled.shape
    shape = _early(layers)[:, None] * np.exp(
        _EXPERT * rng.standard_normal((layers, experts))
    )
    mean = pooled.mean(axis=1, keepdims=True)
    shape = shape * np.sqrt(mean / np.maximum(pooled, mean / 100))
    noise = np.exp(_FORMAT * rng.standard_normal((layers, experts, len(bits))))
    loss = np.zeros((layers, experts, len(bits)))
    for b, width in enumerate(bits):
        each = shape * noise[:, :, b]
        loss[:, :, b] = uniform_loss(width) * scale * each / (pooled * each).sum()
    # Noise must not make a wider format worse than a narrower one.
    order = np.argsort([-width for width in bits], kind="stable")
    loss[:, :, order] = np.maximum.accumulate(loss[:, :, order], axis=2)
    return rounded(loss.reshape(1, layers * experts, len(bits)))


def prune_curve(
    rng: np.random.Generator,
    *,
    layers: int,
    top_k: int,
    scale: float,
    spread: float,
    widths: Sequence[float] = PRUNE_WIDTHS,
    kept: int | None = None,
) -> Curve:
    """Draw the curve of pruning: how much it costs to drop calls, by layer.

    ``spread`` is the log-normal spread of sensitivity over layers; the sum over layers
    is ``scale`` times the published magnitude whatever it is. Only the ``kept`` least
    sensitive layers have a curve at all, if given.
    """
    edges = np.concatenate([[0.0], np.cumsum(widths)])
    total = PRUNE_QUARTER * (edges / 0.25) ** 3
    share = _shares(rng, layers, spread, _early(layers))
    return _curve(widths, np.diff(total), share, top_k, scale, kept)


def fuse_curve(
    rng: np.random.Generator,
    *,
    layers: int,
    top_k: int,
    scale: float,
    spread: float,
    widths: Sequence[float] = FUSE_WIDTHS,
    kept: int | None = None,
) -> Curve:
    """Draw the curve of fusion: how much it costs to send one state for several."""
    first = np.ones(layers)
    first[0] = _FUSE_FIRST
    share = _shares(rng, layers, spread, first)
    total = np.interp(
        np.cumsum(widths), [0.0, *np.cumsum(FUSE_WIDTHS)], [0.0, *FUSE_NATS]
    )
    return _curve(widths, np.diff(total, prepend=0.0), share, top_k, scale, kept)


def _early(layers: int) -> NDArray[np.float64]:
    """Return the sensitivity of layers: the first ones lose more; (L,)."""
    depth = np.arange(layers) / layers
    early: NDArray[np.float64] = 1.0 + _EARLY * np.exp(-8.0 * depth)
    return early


def _shares(
    rng: np.random.Generator,
    layers: int,
    spread: float,
    sensitivity: NDArray[np.float64],
) -> NDArray[np.float64]:
    weight = sensitivity * np.exp(spread * rng.standard_normal(layers))
    share: NDArray[np.float64] = weight / weight.sum()
    return share


def _curve(
    widths: Sequence[float],
    nats: NDArray[np.float64],
    share: NDArray[np.float64],
    top_k: int,
    scale: float,
    kept: int | None,
) -> Curve:
    width = np.tile(np.array(widths, dtype=np.float64), (1, len(share), 1))
    if kept is not None:
        width[:, np.argsort(share, kind="stable")[kept:]] = 0.0
    loss = scale * nats / (np.array(widths) * top_k) * share[:, None]
    return Curve(width=width, loss=rounded(loss[None]))
