"""Rows of floats -> rows of integers, without losing a point.

CP-SAT knows integers only. A row becomes one of integer coefficients that every integer
point of the old row satisfies, so that a bound of the new model is one of the old:

- if the coefficients are multiples of a common unit (sizes in bytes, whole costs), they
  are divided by it, which is exact;
- otherwise a small unit is chosen and coefficients of non-negative variables are
  rounded down. The row is then weaker by at most one unit per non-zero variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLACK = 1e-9
"""Relative excess of a limit that a row forgives, far less than `score` does."""

ROUNDING = 1e-9
"""Units are so small that all rounding in a row is at most this part of its limit."""

_WHOLE = 1e-8
_LARGEST = 2**22
_CLIP = 2.0**53


def common_unit(values: NDArray[np.float64]) -> float | None:
    """Return the largest number that all values are whole multiples of, if any.

    Only multiples up to about four million are looked for: then floats tell a multiple
    from its neighbours with certainty.
    """
    sizes = np.unique(np.abs(values[values != 0]))
    if not len(sizes):
        return 1.0
    top = float(sizes[-1])
    unit = top
    for value in sizes.tolist():
        one, other = max(unit, value), min(unit, value)
        while other > 1e-9 * top:
            one, other = other, abs(one - round(one / other) * other)
        unit = one
        if unit * _LARGEST < top:
            return None
    unit = top / round(top / unit)  # without the rounding of Euclid's remainders
    ratio = sizes / unit
    return unit if (np.abs(ratio - np.rint(ratio)) <= _WHOLE).all() else None


def whole_row(
    values: NDArray[np.float64], limit: float
) -> tuple[NDArray[np.int64], int]:
    """Turn ``values @ x <= limit`` into integers, for variables that are 0 or 1.

    Returns
    -------
    tuple of ndarray of int64 and int
        Coefficients and limit of a row that holds wherever the given one holds.
    """
    allowed = limit + SLACK * abs(limit)
    unit = common_unit(values)
    if unit is not None:
        whole = np.rint(values / unit)
        # Coefficients may be off by rounding of floats; the limit makes up for it.
        off = float(np.abs(values / unit - whole).sum())
        top = np.floor(allowed / unit + off + _WHOLE)
    else:
        largest = float(np.abs(values).max())
        size = max(abs(limit), largest * 1e-6)
        unit = max(ROUNDING * size / len(values), largest / _CLIP * len(values))
        whole, top = np.floor(values / unit), np.floor(allowed / unit)
    if (whole >= 0).all() and top >= 0:
        # What alone exceeds the limit need not be any larger than that.
        whole = np.minimum(whole, top + 1)
    top = min(max(top, -_CLIP), float(whole[whole > 0].sum()))
    return whole.astype(np.int64), int(top)
