"""Sums by index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def sum_by(
    index: NDArray[np.int64], values: NDArray[Any], size: int
) -> NDArray[np.float64]:
    """Add up values that share an index; (size,)."""
    total: NDArray[np.float64] = np.bincount(
        index, weights=values, minlength=size
    ).astype(np.float64)
    return total
