"""Fit the compute model to measured times of expert batches.

The model is that of `meldopt.replay.compute`, written over arrays of measurements. A
benchmark that runs the same experts again and again reads small sets of them from the
last-level cache; a server that runs all layers of a model does not. `predict` knows of
the cache so that such rows can be used, and the fitted values do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A set of experts that is swept again and again is read from the cache if it is
# smaller than the first multiple of the cache's size, from memory if it is larger than
# the second, and in between in part.
_CACHED, _NOT_CACHED = 0.8, 1.3
_CACHE_SPEED = 5.0  # rate of the cache ÷ rate of the memory

_ROBUST_FROM = 0.1  # errors of log time beyond this count linearly

# Bounds: efficiencies are shares of a peak; overheads from 0.1 µs to 1 ms.
_LOWER = np.array([0.05, 0.01, 0.0, np.log(1e-7), np.log(1e-2)])
_UPPER = np.array([1.0, 1.0, 1.0, np.log(1e-3), np.log(3e2)])
_START = np.array([0.8, 0.5, 0.5, np.log(2e-5), np.log(3.0)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Peak rates of a device: bytes/s, FLOP/s, and bytes of its last-level cache."""

    read_bytes_per_s: float
    flops: float
    cache_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batches:
    """Measured batches; arrays of shape (n,).

    Attributes
    ----------
    calls, touched
        Calls of a batch and different experts among them; means, if it was drawn.
    flop, size_bytes
        FLOP of one call, bytes of the weights of one expert.
    hidden_bytes
        Bytes of the hidden state of one call.
    seconds
        Measured time.
    """

    calls: NDArray[np.float64]
    touched: NDArray[np.float64]
    flop: NDArray[np.float64]
    size_bytes: NDArray[np.float64]
    hidden_bytes: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Batches:
        """Return some of the rows."""
        return Batches(**{name: getattr(self, name)[rows] for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What is fitted; see `meldopt.catalogue.ComputeFacts` for the meaning."""

    read_efficiency: float
    flop_efficiency: float
    exposed: float
    overhead_s: float
    passes: float


def predict(
    efficiency: Efficiency, rates: Rates, batches: Batches
) -> NDArray[np.float64]:
    """Return the seconds of each batch, (n,)."""
    read_bytes = batches.touched * batches.size_bytes
    read = read_bytes / (rates.read_bytes_per_s * efficiency.read_efficiency)
    if rates.cache_bytes:
        times = read_bytes / rates.cache_bytes
        missed = np.clip((times - _CACHED) / (_NOT_CACHED - _CACHED), 0.0, 1.0)
        read = read * (missed + (1.0 - missed) / _CACHE_SPEED)
    compute = batches.calls * batches.flop / (rates.flops * efficiency.flop_efficiency)
    time: NDArray[np.float64] = (
        np.maximum(read, compute)
        + efficiency.exposed * np.minimum(read, compute)
        + batches.calls
        * batches.hidden_bytes
        * efficiency.passes
        / rates.read_bytes_per_s
        + efficiency.overhead_s
    )
    return time


def relative_error(
    efficiency: Efficiency, rates: Rates, batches: Batches
) -> NDArray[np.float64]:
    """Return |predicted ÷ measured − 1| of each batch, (n,)."""
    error: NDArray[np.float64] = np.abs(
        predict(efficiency, rates, batches) / batches.seconds - 1.0
    )
    return error


def fit(rates: Rates, batches: Batches) -> Efficiency:
    """Return the values that fit best: least squares of log time, outliers damped.

    Raises
    ------
    ValueError
        If there are fewer rows than values to fit, or a time is not positive.
    """
    # scipy.optimize takes a while to import, and replay itself does not fit.
    from scipy.optimize import least_squares

    if len(batches) < len(_START):
        raise ValueError(f"batches: got {len(batches)}, expected >= {len(_START)}")
    if not (batches.seconds > 0).all():
        raise ValueError(f"seconds: got {batches.seconds.min()}, expected > 0")
    measured = np.log(batches.seconds)

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        predicted = predict(_efficiency(values), rates, batches)
        return np.asarray(np.log(predicted) - measured)

    found = least_squares(
        residuals,
        _START,
        bounds=(_LOWER, _UPPER),
        loss="soft_l1",
        f_scale=_ROBUST_FROM,
    )
    return _efficiency(found.x)


def _efficiency(values: NDArray[np.float64]) -> Efficiency:
    read, flop, exposed, overhead, passes = (float(value) for value in values)
    return Efficiency(
        read_efficiency=read,
        flop_efficiency=flop,
        exposed=exposed,
        overhead_s=float(np.exp(overhead)),
        passes=float(np.exp(passes)),
    )
