"""Counts over the requests of a trace, compiled, and their sampling errors.

Tokens of a request hang together, requests hardly do. So a request is a batch: a mean
is the ratio of two sums over requests, and its standard error comes from how the
requests differ (batch means of unequal size).
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
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit(nogil=True)(function)


class Tally:
    """Sums of what tokens do in cells, by domain, and what their errors need.

    Parameters
    ----------
    domains, cells
        D and C.
    """

    def __init__(self, domains: int, cells: int) -> None:
        # Sums over requests r of x_r, x_r² and x_r · n_r, n_r the tokens of r.
        self.sums = np.zeros((domains, cells))
        self.squares = np.zeros((domains, cells))
        self.products = np.zeros((domains, cells))
        self._mark = np.full(cells, -1, dtype=np.int64)
        self._value = np.zeros(cells)
        self._seen = np.zeros(cells, dtype=np.int64)

    def add(
        self,
        cells: NDArray[np.int64],
        values: NDArray[np.float64],
        request: NDArray[np.int64],
        domain: NDArray[np.int64],
    ) -> None:
        """Add tokens of whole requests.

        Parameters
        ----------
        cells
            Cells that a token adds to, (T, X); a cell may come twice.
        values
            What it adds, (T, X).
        request, domain
            Of each token, (T,); tokens of a request stand together.
        """
        _add(
            np.ascontiguousarray(cells, dtype=np.int64),
            np.ascontiguousarray(values, dtype=np.float64),
            np.ascontiguousarray(request),
            np.ascontiguousarray(domain),
            self.sums,
            self.squares,
            self.products,
            self._mark,
            self._value,
            self._seen,
        )


class Batches:
    """Requests and tokens of each domain.

    Attributes
    ----------
    requests, tokens
        How many, (D,).
    squares
        Sum over requests of the squares of their tokens, (D,).
    """

    def __init__(self, domains: int) -> None:
        self.requests = np.zeros(domains)
        self.tokens = np.zeros(domains)
        self.squares = np.zeros(domains)

    def add(self, request: NDArray[np.int64], domain: NDArray[np.int64]) -> None:
        """Add the tokens of whole requests."""
        first = np.ones(len(request), dtype=bool)
        first[1:] = np.diff(request) != 0
        start = np.flatnonzero(first)
        size = np.diff(np.append(start, len(request))).astype(np.float64)
        of, num_d = domain[start], len(self.tokens)
        self.requests += np.bincount(of, minlength=num_d)
        self.tokens += np.bincount(of, weights=size, minlength=num_d)
        self.squares += np.bincount(of, weights=size**2, minlength=num_d)

    def mean(self, tally: Tally) -> NDArray[np.float64]:
        """Return what is counted per token, (D, C)."""
        result: NDArray[np.float64] = tally.sums / self.tokens[:, None]
        return result

    def error(self, tally: Tally) -> NDArray[np.float64]:
        """Return the standard error of the mean, (D, C); NaN with one request."""
        mean = self.mean(tally)
        spread = (
            tally.squares - 2 * mean * tally.products + mean**2 * self.squares[:, None]
        )
        # What is left of equal sums is rounding.
        spread = np.where(spread > 1e-12 * np.abs(tally.squares), spread, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(
                self.requests > 1, self.requests / (self.requests - 1), np.nan
            )
        result: NDArray[np.float64] = (
            np.sqrt(scale[:, None] * spread) / self.tokens[:, None]
        )
        return result


@_compiled
def _add(
    cells: NDArray[np.int64],
    values: NDArray[np.float64],
    request: NDArray[np.int64],
    domain: NDArray[np.int64],
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    products: NDArray[np.float64],
    mark: NDArray[np.int64],
    value: NDArray[np.float64],
    seen: NDArray[np.int64],
) -> None:
    size = len(request)
    width = cells.shape[1]
    start = 0
    while start < size:
        stop = start
        count = 0
        while stop < size and request[stop] == request[start]:
            for x in range(width):
                cell = cells[stop, x]
                if mark[cell] != request[start]:
                    mark[cell] = request[start]
                    value[cell] = 0.0
                    seen[count] = cell
                    count += 1
                value[cell] += values[stop, x]
            stop += 1
        d = domain[start]
        for n in range(count):
            cell = seen[n]
            x_r = value[cell]
            sums[d, cell] += x_r
            squares[d, cell] += x_r * x_r
            products[d, cell] += x_r * (stop - start)
        start = stop


@_compiled
def followers(
    experts: NDArray[np.int64],
    signature: NDArray[np.uint64],
    request: NDArray[np.int64],
    window: int,
    masks: NDArray[np.uint64],
    limits: NDArray[np.int64],
    num_e: int,
) -> NDArray[np.int64]:
    """Count the calls of each token that follow another one, in one layer.

    Among the calls of an expert in a window, in order, the first leads; a call whose
    signature is near that of a leader follows it, any other leads as well.

    Parameters
    ----------
    experts
        (T, K)
    signature
        (T,)
    request
        (T,); a window lies within a request.
    window
        Tokens of a window.
    masks, limits
        Near is: of the bits in the mask at most so many differ; (M,) each.
    num_e
        Experts of the layer.

    Returns
    -------
    ndarray of int64, shape (T, M)
    """
    size, top_k = experts.shape
    found = np.zeros((size, len(masks)), dtype=np.int64)
    leaders = np.empty((num_e, min(window, size)), dtype=np.uint64)
    leads = np.zeros(num_e, dtype=np.int64)
    for m in range(len(masks)):
        start = 0
        while start < size:
            stop = start
            while (
                stop < size
                and stop - start < window
                and request[stop] == request[start]
            ):
                mine = signature[stop]
                for k in range(top_k):
                    e = experts[stop, k]
                    follows = False
                    for n in range(leads[e]):
                        bits = (leaders[e, n] ^ mine) & masks[m]
                        differ = 0
                        while bits != np.uint64(0) and differ <= limits[m]:
                            bits &= bits - np.uint64(1)
                            differ += 1
                        if differ <= limits[m]:
                            follows = True
                            break
                    if follows:
                        found[stop, m] += 1
                    else:
                        leaders[e, leads[e]] = mine
                        leads[e] += 1
                stop += 1
            for t in range(start, stop):
                for k in range(top_k):
                    leads[experts[t, k]] = 0
            start = stop
    return found
