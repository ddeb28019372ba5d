"""What a run says in the long term: where its start is cut off, and how sure a mean is.

A run begins empty, so its first requests wait less than later ones: they are left out.
Waits of neighbouring requests are alike, so the interval of a mean comes from means of
batches of consecutive requests, which are nearly independent.

References
----------
.. [1] White, K. P. (1997). An effective truncation heuristic for bias reduction in
   simulation output. *Simulation*, 69(6). https://doi.org/10.1177/003754979706900601
.. [2] White, K. P., Cobb, M. J., & Spratt, S. C. (2000). A comparison of five
   steady-state truncation heuristics for simulation. *Winter Simulation Conference*,
   755–760. Groups of five are theirs.
.. [3] Schmeiser, B. (1982). Batch size effects in the analysis of simulation output.
   *Operations Research*, 30(3). https://doi.org/10.1287/opre.30.3.556
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP = 5
"""Values that MSER-5 averages before it looks."""

LEAST_GROUPS = 10
"""With fewer groups nothing is cut."""

BATCHES = 20
"""Batches of an interval."""

LEAST_BATCHES = 5
"""With fewer batches there is no interval."""

LEAST_VALUES = 5
"""Values that a batch has at least."""

LEVEL = 0.95
"""Confidence of an interval."""

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Mean with its interval, and quantiles, of values in their order.

    ``low`` and ``high`` are nan without an interval, all but ``count`` without values.
    """

    count: int
    mean: float
    low: float
    high: float
    quantiles: tuple[float, ...]


def mser(values: NDArray[np.float64]) -> int:
    """Return how many values to leave out at the start, by MSER-5.

    The cut has the least estimated variance of the mean of what is left, over cuts at
    groups of five in the first half.

    Parameters
    ----------
    values
        In order of time, (R,); finite.
    """
    count = len(values) // GROUP
    if count < LEAST_GROUPS:
        return 0
    means = values[: count * GROUP].reshape(count, GROUP).mean(axis=1)
    # Shifted, so that sums of squares keep their digits.
    back = means[::-1] - means.mean()
    left = np.arange(1, count + 1)
    spread = np.cumsum(back**2) - np.cumsum(back) ** 2 / left
    error = (np.maximum(spread, 0.0) / left**2)[::-1]  # of cutting 0, 1, … groups
    return GROUP * int(np.argmin(error[: count // 2 + 1]))


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the interval of a mean by batch means and Student's t; nan if too few.

    Parameters
    ----------
    values
        In order of time, (R,); finite.
    """
    count = min(BATCHES, len(values) // LEAST_VALUES)
    if count < LEAST_BATCHES:
        return nan, nan
    from scipy.special import stdtrit

    edges = np.arange(count) * len(values) // count
    size = np.diff(edges, append=len(values))
    means = np.add.reduceat(values, edges) / size
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * float(means.std(ddof=1))
    mean = float(values.mean())
    return mean - half / sqrt(count), mean + half / sqrt(count)


def sample(values: NDArray[np.float64]) -> Sample:
    """Summarise values in their order; those that are not finite do not count."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return Sample(
            count=0, mean=nan, low=nan, high=nan, quantiles=(nan,) * len(QUANTILES)
        )
    low, high = interval(kept)
    return Sample(
        count=len(kept),
        mean=float(kept.mean()),
        low=low,
        high=high,
        quantiles=tuple(np.quantile(kept, QUANTILES).tolist()),
    )


def known(value: float) -> float | None:
    """Return the number, or None in place of what JSON does not know."""
    return float(value) if isfinite(value) else None
