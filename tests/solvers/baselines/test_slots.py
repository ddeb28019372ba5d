"""Slots of servers: equal parts under caps, spread evenly over layers; matching."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from meldopt import build_problem, read_instance
from meldopt_solvers.baselines.slots import (
    equal_parts,
    layer_slots,
    match_groups,
    spread_slots,
    time_of_groups,
)
from meldopt_solvers.baselines.view import View


@pytest.mark.parametrize(
    ("total", "caps", "parts"),
    [
        (12, [20, 20, 20], [4, 4, 4]),  # memory allows equal parts
        (10, [20, 20, 20, 20], [3, 3, 2, 2]),  # the first ones are one larger
        (12, [2, 20, 20], [2, 5, 5]),  # the small one is full, the others share
        (12, [2, 4, 6], [2, 4, 6]),  # all are full
        (12, [1, 2, 3], [2, 4, 6]),  # too small together: in proportion
        (5, [1, 1, 1], [2, 2, 1]),  # likewise, rounded
        (4, [0, 0], [2, 2]),  # nothing fits anywhere
        (3, [0, 5, 5], [0, 2, 1]),
    ],
)
def test_parts_are_equal_where_caps_allow(total, caps, parts):
    """Parts as even as caps allow; in proportion to caps that are too small."""
    assert equal_parts(total, np.array(caps)).tolist() == parts


def test_parts_are_the_most_even_ones():
    """On all small cases: within caps, and no expert could move to even them out."""
    for caps in itertools.product(range(5), repeat=3):
        for total in range(sum(caps) + 1):
            parts = equal_parts(total, np.array(caps))
            assert parts.sum() == total
            assert (parts <= caps).all()
            for one, other in itertools.permutations(range(3), 2):
                if parts[other] < caps[other]:
                    assert parts[one] - parts[other] <= 1


def test_slots_are_spread_over_layers():
    """Two servers of 6 and 2: of four experts a layer, three and one."""
    slots = spread_slots(np.array([4, 4]), np.array([6, 2]))
    assert slots.tolist() == [[3, 1], [3, 1]]


def test_slots_fill_rows_and_columns_evenly():
    """Random parts: exact sums, and no layer more than one off its even share."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 9, 5)
        total = int(sizes.sum())
        cuts = np.sort(rng.integers(0, total + 1, 3))
        parts = np.diff(np.concatenate([[0], cuts, [total]]))
        slots = spread_slots(sizes, parts)
        assert (slots.sum(axis=1) == sizes).all()
        assert (slots.sum(axis=0) == parts).all()
        even = np.cumsum(sizes)[:, None] * parts / total
        assert np.abs(np.cumsum(slots, axis=0) - even).max() < 2


def test_slots_of_an_instance_fit_into_memory():
    """Every format that fits at all gives slots that fit; the largest does not."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    fits = []
    for format_ in range(problem.num_formats):
        view = View(problem, format_)
        slots = layer_slots(view)
        assert (slots.sum(axis=1) == 16).all()
        fits.append(bool((slots.sum(axis=0) <= view.slots).all()))
    assert fits == [int(View(problem, b).slots.sum()) >= 96 for b in range(4)]
    assert set(fits) == {True, False}


def test_groups_go_where_they_are_cheapest():
    """Costs 1 and 1 on the other server against 5 and 5 on the own one."""
    cost = np.array([[5.0, 1.0], [1.0, 5.0]])
    everywhere = np.ones((2, 2), dtype=bool)
    assert match_groups(cost, everywhere).tolist() == [1, 0]
    # Of different sizes they stay.
    assert match_groups(cost, np.eye(2, dtype=bool)).tolist() == [0, 1]


def test_groups_avoid_what_cannot_be_reached():
    """An infinite cost is taken only where nothing else fits."""
    cost = np.array([[np.inf, 9.0], [1.0, 1.0]])
    assert match_groups(cost, np.ones((2, 2), dtype=bool)).tolist() == [1, 0]
    assert match_groups(cost, np.eye(2, dtype=bool)).tolist() == [0, 1]


def test_time_of_groups_sums_over_their_calls():
    """The cost of a group is the sum over its experts of calls times mean time."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    view = View(problem, 3)
    label = np.arange(16) % 4
    cost = time_of_groups(view, 2, label, 4)
    time, load = view.mean_time(2), view.load[view.experts(2)]
    for g, s in itertools.product(range(4), range(4)):
        best = time[:, problem.places_of[s]].min(axis=1)
        by_hand = (load * best)[label == g].sum()
        assert cost[g, s] == pytest.approx(by_hand)
