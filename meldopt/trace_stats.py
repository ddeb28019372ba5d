"""What a trace shows: skew, drift, and how far one layer or token predicts the next.

Everything is counted in one pass over the chunks; what is held is of size layers ×
experts × experts, not of the number of tokens.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .trace import Chunk, Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceStatistics:
    """Statistics of a trace.

    Attributes
    ----------
    requests, tokens
        How many; tokens that have a row.
    duration_s, requests_per_s, gap_cv
        From the first arrival to the last; arrivals per second; standard deviation
        over mean of the gaps between them. None for a single request, or if all arrive
        at once.
    prompt_tokens, output_tokens
        Means over requests.
    application_requests, application_tokens
        (G,)
    calls
        Calls per token, (L, E); 0 beyond a layer's experts.
    application_calls
        The same for each application, (G, L, E); NaN without tokens.
    gates
        Mean gate of each choice, the first first, (K,).
    skew
        Calls of the busiest expert over the mean, (L,).
    entropy
        Of calls, over that of equal calls, (L,): 1 if all are called alike.
    drift
        Total variation between the calls of the first and the second half of the
        tokens, (L,); NaN with one token.
    application_drift
        Total variation between the calls of two applications, mean over layers,
        (G, G); NaN without tokens.
    hit, hit_popular, hit_chance
        How many of the calls of a layer in the second half of the tokens are among the
        top_k experts that most often followed the first choice of the layer before in
        the first half; among the top_k most called of the first half; and among any
        top_k, (L,). NaN for the first layer.
    common, common_chance
        Share of its experts that a token has in common with the token before it in its
        request, and with any token, (L,).
    """

    requests: int
    tokens: int
    duration_s: float
    requests_per_s: float | None
    gap_cv: float | None
    prompt_tokens: float
    output_tokens: float
    application_requests: NDArray[np.int64]  # (G,)
    application_tokens: NDArray[np.int64]  # (G,)
    calls: NDArray[np.float64]  # (L, E)
    application_calls: NDArray[np.float64]  # (G, L, E)
    gates: NDArray[np.float64]  # (K,)
    skew: NDArray[np.float64]  # (L,)
    entropy: NDArray[np.float64]  # (L,)
    drift: NDArray[np.float64]  # (L,)
    application_drift: NDArray[np.float64]  # (G, G)
    hit: NDArray[np.float64]  # (L,)
    hit_popular: NDArray[np.float64]  # (L,)
    hit_chance: NDArray[np.float64]  # (L,)
    common: NDArray[np.float64]  # (L,)
    common_chance: NDArray[np.float64]  # (L,)


class _Counts:
    """Counts that grow chunk by chunk."""

    def __init__(self, trace: Trace) -> None:
        head = trace.header
        self.trace = trace
        num_l, num_e = head.num_layers, max(head.experts)
        self.widest = num_e
        self.top_k = head.top_k
        self.half = (head.tokens + 1) // 2
        self.tokens = 0
        num_g = len(head.applications)
        self.calls = np.zeros((2, num_g, num_l, num_e), dtype=np.int64)
        self.steps = np.zeros((2, max(num_l - 1, 0), num_e, num_e), dtype=np.int64)
        self.by_application = np.zeros(num_g, dtype=np.int64)
        self.gates = np.zeros(head.top_k)
        self.common = np.zeros(num_l, dtype=np.int64)
        self.neighbours = 0
        self._last: tuple[int, NDArray[Any]] | None = None

    def take(self, chunk: Chunk) -> None:
        """Count a chunk; one that lies across the middle is cut there."""
        cut = self.half - self.tokens
        if 0 < cut < len(chunk):
            self._take(chunk.take(slice(0, cut)), 0)
            self._take(chunk.take(slice(cut, None)), 1)
        else:
            self._take(chunk, 0 if cut > 0 else 1)

    def _take(self, chunk: Chunk, half: int) -> None:
        if not len(chunk):
            return
        size, num_l, top_k = chunk.experts.shape
        num_e = self.widest
        application = self.trace.requests.application[chunk.token_request]
        num_g = len(self.by_application)
        self.by_application += np.bincount(application, minlength=num_g)
        self.gates += chunk.gates.sum(axis=(0, 1), dtype=np.float64)
        experts = chunk.experts.astype(np.int64)
        for layer in range(num_l):
            here = experts[:, layer]
            flat = (application[:, None] * num_e + here).ravel()
            self.calls[half, :, layer] += np.bincount(
                flat, minlength=num_g * num_e
            ).reshape(num_g, num_e)
            if layer:
                flat = (experts[:, layer - 1, :1] * num_e + here).ravel()
                self.steps[half, layer - 1] += np.bincount(
                    flat, minlength=num_e * num_e
                ).reshape(num_e, num_e)
        request = chunk.token_request
        if self._last is not None:
            experts = np.concatenate([self._last[1][None], experts])
            request = np.concatenate([[self._last[0]], request])
        follows = request[1:] == request[:-1]
        after, before = experts[1:][follows], experts[:-1][follows]
        for a, b in itertools.product(range(top_k), repeat=2):
            self.common += (after[:, :, a] == before[:, :, b]).sum(axis=0)
        self.neighbours += int(follows.sum())
        self._last = (int(request[-1]), experts[-1])
        self.tokens += size


def trace_statistics(trace: Trace) -> TraceStatistics:
    """Count the statistics of a trace in one pass.

    Raises
    ------
    TraceError
        If the trace turns out to hold what no trace may hold.
    """
    counts = _Counts(trace)
    for chunk in trace.chunks():
        counts.take(chunk)
    head, requests = trace.header, trace.requests
    num_l, top_k = head.num_layers, head.top_k
    real = np.arange(counts.widest)[None, :] < np.array(head.experts)[:, None]
    total = counts.calls.sum(axis=(0, 1))
    calls = total / counts.tokens
    width = np.array(head.experts, dtype=np.float64)
    share = calls / top_k
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(share > 0, share * np.log(share), 0.0).sum(axis=1)
        entropy = np.where(width > 1, entropy / np.log(np.maximum(width, 2)), 1.0)
        by_half = counts.calls.sum(axis=1).astype(np.float64)
        halves = by_half / by_half.sum(axis=2, keepdims=True)
        drift = 0.5 * np.abs(halves[0] - halves[1]).sum(axis=1)
        by_application = counts.calls.sum(axis=0).astype(np.float64)
        own = by_application / counts.by_application[:, None, None]
    num_g = len(head.applications)
    between = np.zeros((num_g, num_g))
    for a, b in itertools.combinations(range(num_g), 2):
        apart = 0.5 * np.abs(own[a] - own[b]).sum(axis=1).mean() / top_k
        between[a, b] = between[b, a] = apart
    nothing = counts.by_application == 0
    between[nothing] = between[:, nothing] = np.nan
    hit, popular = _hits(counts, real)
    gaps = np.diff(requests.arrival_s)
    span = float(requests.arrival_s[-1] - requests.arrival_s[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        common = counts.common / (counts.neighbours * top_k)
    return TraceStatistics(
        requests=len(requests),
        tokens=counts.tokens,
        duration_s=span,
        requests_per_s=len(gaps) / span if span > 0 else None,
        gap_cv=float(gaps.std() / gaps.mean()) if span > 0 else None,
        prompt_tokens=float(requests.prompt_tokens.mean()),
        output_tokens=float(requests.output_tokens.mean()),
        application_requests=np.bincount(requests.application, minlength=num_g),
        application_tokens=counts.by_application,
        calls=calls,
        application_calls=own,
        gates=counts.gates / (counts.tokens * num_l),
        skew=calls.max(axis=1) / (top_k / width),
        entropy=entropy,
        drift=drift,
        application_drift=between,
        hit=hit,
        hit_popular=popular,
        hit_chance=np.concatenate([[np.nan], top_k / width[1:]]),
        common=common,
        common_chance=(calls**2).sum(axis=1) / top_k,
    )


def _hits(
    counts: _Counts, real: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predict the second half from the first: by first choice, and by popularity."""
    num_l = len(real)
    hit, popular = np.full(num_l, np.nan), np.full(num_l, np.nan)
    for layer in range(1, num_l):
        learnt, seen = counts.steps[:, layer - 1]
        if not seen.sum():
            continue
        pooled = learnt.sum(axis=0).astype(np.float64)
        # Popularity decides between successors that were seen equally often.
        score = learnt + (pooled / max(pooled.sum(), 1.0))[None, :]
        score = np.where(real[layer][None, :], score, -1.0)
        best = np.argsort(-score, axis=1, kind="stable")[:, : counts.top_k]
        hit[layer] = np.take_along_axis(seen, best, axis=1).sum() / seen.sum()
        most = np.argsort(-np.where(real[layer], pooled, -1.0), kind="stable")[
            : counts.top_k
        ]
        popular[layer] = seen[:, most].sum() / seen.sum()
    return hit, popular
