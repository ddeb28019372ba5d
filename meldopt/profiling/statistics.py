"""What a trace says about calls and gates, sequence by sequence.

Layers may have different numbers of experts; experts are numbered over all layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .sampling import Estimate, by_domain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.trace import Trace


def calls_by_sequence(trace: Trace) -> NDArray[np.float64]:
    """Count calls per token of each expert in each sequence; (N, R)."""
    chunk = trace.load()
    start = _starts(trace)
    num_n, num_r = int(start[-1]), trace.num_requests
    experts = chunk.experts.astype(np.int64) + start[:-1, None]
    row = chunk.token_request[:, None, None]
    index = (row * num_n + experts).ravel()
    counts = np.bincount(index, minlength=num_r * num_n).reshape(num_r, num_n)
    tokens = np.bincount(chunk.token_request, minlength=num_r)
    return counts.T / tokens


def calls(trace: Trace) -> Estimate:
    """Count calls per token of each expert by domain, with errors; (N, D)."""
    return by_domain(calls_by_sequence(trace), trace.requests.application)


def gate_quantiles(trace: Trace, shares: tuple[float, ...]) -> NDArray[np.float64]:
    """Gates that a share of a layer's calls lies below, largest gates left out.

    Parameters
    ----------
    trace
        The trace.
    shares
        Shares of all calls of a layer, the largest gate of each token included in what
        is counted but never dropped; each at most (K − 1) / K.

    Returns
    -------
    ndarray of float64, shape (L, shares)
    """
    gates = trace.load().gates.astype(np.float64)[:, :, 1:]
    num_k = trace.header.top_k
    kept = np.array(shares) * num_k / (num_k - 1)
    return np.quantile(gates, kept, axis=(0, 2)).T


def rising(
    slope: NDArray[np.float64], width: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pool adjacent segments whose losses fall: the convex curve of least squares.

    Parameters
    ----------
    slope, width
        Loss per call and width of each segment, (M,).
    """
    groups: list[tuple[float, float, int]] = []
    for value, weight in zip(slope.tolist(), width.tolist(), strict=True):
        groups.append((value, weight, 1))
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (a, u, m), (b, v, n) = groups[-2:]
            mean = (a * u + b * v) / (u + v) if u + v > 0 else max(a, b)
            groups[-2:] = [(mean, u + v, m + n)]
    return np.concatenate([np.full(count, value) for value, _, count in groups])


def _starts(trace: Trace) -> NDArray[np.int64]:
    """First expert of each layer in the numbering over all layers; (L + 1,)."""
    return np.concatenate([[0], np.cumsum(trace.header.experts)]).astype(np.int64)
