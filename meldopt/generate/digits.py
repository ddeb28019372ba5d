"""Six significant digits: generated numbers that every machine agrees on.

The last bits of ``exp`` and ``log`` differ between libraries and processors. Numbers
that end up in an instance are rounded, so that its digest does not depend on them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS = 6
"""Significant digits of a generated number."""


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round every number of an array to `DIGITS` significant digits."""
    flat = [float(f"{value:.{DIGITS}g}") for value in values.ravel().tolist()]
    return np.array(flat, dtype=np.float64).reshape(values.shape)


def rounded_up(value: float, digits: int) -> float:
    """Return the smallest number of so many significant digits that is not less."""
    if value <= 0:
        return 0.0
    near = float(f"{value:.{digits}g}")
    if near >= value:
        return near
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{near + step:.{digits}g}")


def rounded_to_sum(
    values: NDArray[np.float64], total: float, *, most: float
) -> NDArray[np.float64]:
    """Round rows to `DIGITS` digits so that each still adds to ``total``.

    What rounding left over goes to the largest number of the row that stays within
    ``most``; sums are exact (``fsum``), so the result is the same everywhere.

    Parameters
    ----------
    values
        Rows that add to ``total``; any leading axes.
    total
        What every row adds to.
    most
        The largest number allowed.
    """
    table = rounded(values).reshape(-1, values.shape[-1])
    for row in table:
        left = total - math.fsum(row.tolist())
        room = row + left <= most
        target = int(np.argmax(np.where(room, row, -1.0)))
        row[target] = float(f"{row[target] + left:.12g}")  # no tail of noise
    return table.reshape(values.shape)
