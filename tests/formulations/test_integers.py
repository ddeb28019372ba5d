"""Rows of integers lose no point of the rows of floats that they stand for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meldopt.formulations.integers import common_unit, whole_row
from meldopt.tolerance import FEASIBILITY

numbers = st.floats(-1e9, 1e9, allow_subnormal=False).filter(
    lambda x: x == 0 or abs(x) > 1e-6
)


@given(
    values=st.lists(numbers, min_size=1, max_size=7),
    point=st.integers(0, 127),
)
def test_no_point_is_lost(values, point):
    """Whatever satisfies the row of floats satisfies that of integers."""
    row = np.array(values)
    points = np.array(list(itertools.product((0, 1), repeat=len(row))))
    # The limit is what one of the points uses: a tight row.
    limit = float(row @ points[point % len(points)])
    whole, top = whole_row(row, limit)
    inside = points @ row <= limit
    assert (points[inside] @ whole <= top).all()


@given(
    values=st.lists(st.floats(1.0, 1e6), min_size=1, max_size=7), where=st.floats(0, 1)
)
def test_what_is_let_in_is_within_tolerance(values, where):
    """Points that only the integers let in exceed the limit within tolerance."""
    row = np.array(values)
    limit = float(row.sum()) * where + 1.0
    whole, top = whole_row(row, limit)
    points = np.array(list(itertools.product((0, 1), repeat=len(row))))
    let_in = points @ whole <= top
    assert (points[let_in] @ row <= limit * (1 + FEASIBILITY)).all()


@given(
    multiples=st.lists(st.integers(1, 5000), min_size=1, max_size=8),
    unit=st.floats(1e-12, 1e12),
)
def test_multiples_are_found(multiples, unit):
    """Values that are whole multiples of a unit are recognised, scaled or not."""
    found = common_unit(np.array(multiples) * unit)
    assert found is not None
    assert found / unit == pytest.approx(np.gcd.reduce(multiples), rel=1e-9)


@given(
    multiples=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    top=st.integers(1, 99),
)
def test_whole_numbers_are_exact(multiples, top):
    """A row of whole multiples lets in exactly the points that the floats let in."""
    row = np.array(multiples) * 0.1
    whole, most = whole_row(row, top * 0.1)
    for point in itertools.product((0, 1), repeat=len(row)):
        assert (np.array(point) @ whole <= most) == (
            np.array(point) @ np.array(multiples) <= top
        )


def test_no_common_unit():
    """Numbers without a common unit are not forced into one."""
    assert common_unit(np.array([1.0, np.sqrt(2), np.pi])) is None
