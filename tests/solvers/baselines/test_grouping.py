"""Spectral clusters, sizes and exchanges, on graphs whose groups are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from meldopt_solvers.baselines.grouping import (
    common,
    exchange,
    fit_sizes,
    inside,
    ranked,
    spectral_groups,
)


def blocks(label, within=10.0, across=1.0):
    """Weights of a graph with planted groups."""
    label = np.asarray(label)
    weight = np.where(label[:, None] == label[None, :], within, across)
    np.fill_diagonal(weight, 0.0)
    return weight


def same_groups(one, other):
    """Say whether two labellings make the same groups, whatever their names."""
    one, other = np.asarray(one), np.asarray(other)
    return np.array_equal(one[:, None] == one[None, :], other[:, None] == other)


@pytest.mark.parametrize("num", [2, 3, 4])
def test_planted_groups_are_found(num):
    """Experts called ten times as often together are one cluster, in any order."""
    rng = np.random.default_rng(num)
    label = rng.permutation(np.arange(20) % num)
    assert same_groups(spectral_groups(blocks(label), num), label)


def test_clusters_are_the_same_every_time():
    """Nothing is random, and nothing warns on a graph without edges."""
    weight = np.random.default_rng(0).random((12, 12))
    weight = weight + weight.T
    first = spectral_groups(weight, 3)
    assert np.array_equal(first, spectral_groups(weight, 3))
    assert spectral_groups(np.zeros((5, 5)), 2).max() < 2


def test_extreme_numbers_of_clusters():
    """One cluster holds all; as many as experts hold one each."""
    weight = blocks([0, 0, 1, 1])
    assert spectral_groups(weight, 1).tolist() == [0] * 4
    assert spectral_groups(weight, 4).tolist() == [0, 1, 2, 3]
    assert spectral_groups(weight, 9).tolist() == [0, 1, 2, 3]


def test_common_calls_with_groups():
    """Expert 0 has 3 in common with 1 in its group, 5 with 2 in the other."""
    weight = np.array([[0.0, 3, 5], [3, 0, 1], [5, 1, 0]])
    label = np.array([0, 0, 1])
    assert common(weight, label, 2).tolist() == [[3, 5], [3, 1], [6, 0]]
    assert inside(weight, label) == pytest.approx(3 / 9)
    assert inside(np.zeros((3, 3)), label) == 1.0


def test_the_largest_cluster_gets_the_most_slots():
    """Clusters of 1, 3 and 2 experts; slots 2, 1 and 3: they swap names."""
    label = np.array([0, 1, 1, 1, 2, 2])
    assert ranked(label, np.array([2, 1, 3])).tolist() == [1, 2, 2, 2, 0, 0]


def test_the_cheapest_move_fits_sizes():
    """Of {0, 1, 2} one must join {3}: 2 has most in common with 3 and least with 0, 1.

    Moving 2 loses 1 + 1 and gains 4; moving 0 would lose 9 + 1 and gain nothing.
    """
    weight = np.zeros((4, 4))
    for i, j, w in ((0, 1, 9), (0, 2, 1), (1, 2, 1), (2, 3, 4)):
        weight[i, j] = weight[j, i] = w
    two = np.array([2, 2])
    assert fit_sizes(np.array([0, 0, 0, 1]), two, two, weight).tolist() == [0, 0, 1, 1]


def test_moves_take_earlier_ones_into_account():
    """{4} may have three. 2 joins it first (9 against 4); then 3 follows 2.

    With 2 gone 3 has 4 there against 3 here, a gain of 1; 1 would gain only 1/2.
    """
    weight = np.zeros((5, 5))
    for i, j, w in ((2, 4, 9), (2, 3, 4), (0, 3, 3), (1, 4, 0.5)):
        weight[i, j] = weight[j, i] = w
    sizes = np.array([2, 3])
    found = fit_sizes(np.array([0, 0, 0, 0, 1]), sizes, sizes, weight)
    assert found.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("least", "most"), [([0, 0], [1, 2]), ([3, 2], [4, 4]), ([2, 1], [1, 4])]
)
def test_impossible_sizes_are_refused(least, most):
    """Too few places for four experts, too many to be filled, or more than there is."""
    with pytest.raises(ValueError, match="expected bounds for 4 experts"):
        fit_sizes(np.zeros(4, int), np.array(least), np.array(most), np.ones((4, 4)))


def test_sizes_always_come_out():
    """From any labels, any bounds that can hold do hold; nothing moves without need."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        weight = rng.random((9, 9))
        weight = weight + weight.T
        label = rng.integers(0, 3, 9)
        slots = np.bincount(rng.integers(0, 3, 9), minlength=3)
        slack = int(rng.integers(0, 3))
        least, most = np.maximum(slots - slack, 0), slots + slack
        found = fit_sizes(label, least, most, weight)
        size = np.bincount(found, minlength=3)
        assert (least <= size).all()
        assert (size <= most).all()
        own = np.bincount(label, minlength=3)
        if (own >= least).all() and (own <= most).all():
            assert np.array_equal(found, label)


def test_exchanges_bring_common_calls_inside():
    """Two swapped experts of planted groups find back; sizes stay."""
    weight = blocks([0, 0, 0, 1, 1, 1])
    found = exchange(np.array([0, 0, 1, 0, 1, 1]), weight)
    assert found.tolist() == [0, 0, 0, 1, 1, 1]


def test_exchanges_end_where_no_pair_gains():
    """On random graphs the result is a local optimum that brute force confirms."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        weight = rng.random((8, 8))
        weight = np.triu(weight, 1) + np.triu(weight, 1).T
        start = rng.permutation(np.arange(8) % 3)
        found = exchange(start, weight)
        value = inside(weight, found)
        assert value >= inside(weight, start) - 1e-12
        assert np.array_equal(np.bincount(found), np.bincount(start))
        for e, f in itertools.combinations(range(8), 2):
            other = found.copy()
            other[[e, f]] = other[[f, e]]
            assert inside(weight, other) <= value + 1e-9
