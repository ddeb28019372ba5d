"""Even clusters: sizes, bounds and the first programme, against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from meldopt_solvers.baselines.clusters import (
    ClusterSizes,
    balanced_clusters,
    clusters_model,
    deviation,
    exchanged,
    least_deviation,
    longest_first,
)


def least_by_enumeration(load, least, most):
    """Return the least deviation of any clusters of allowed sizes."""
    best = np.inf
    for label in itertools.product(range(len(least)), repeat=len(load)):
        size = np.bincount(label, minlength=len(least))
        if (size >= least).all() and (size <= most).all():
            best = min(best, deviation(load, np.array(label), len(least)))
    return best


def holds(model, x):
    """Say whether a solution keeps every row and bound."""
    rows = model.matrix @ x
    return bool(
        (rows >= model.row_lower - 1e-9).all()
        and (rows <= model.row_upper + 1e-9).all()
        and (x >= model.col_lower - 1e-9).all()
        and (x <= model.col_upper + 1e-9).all()
    )


# -- sizes of clusters -----------------------------------------------------------------


def test_clusters_fill_their_slots_over_all_layers():
    """Whatever sizes are taken within the limits, the last layer evens them out."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        slots = rng.integers(0, 4, (5, 4))
        bounds = ClusterSizes(slots, int(rng.integers(0, 3)))
        total = np.zeros(4, dtype=np.int64)
        for layer, row in enumerate(slots):
            least, most = bounds.limits(layer)
            assert (least <= most).all()
            assert least.sum() <= row.sum() <= most.sum()
            size = least.copy()
            while size.sum() < row.sum():  # anything within the limits
                size[rng.choice(np.flatnonzero(size < most))] += 1
            bounds.take(layer, np.repeat(np.arange(4), size))
            total += size
        assert (total == slots.sum(axis=0)).all()


def test_a_cluster_may_differ_by_the_spread():
    """Two slots each, one more or less; after a 3 and a 1 it is the other's turn.

    None is empty, though the first could make up for it.
    """
    bounds = ClusterSizes(np.full((3, 2), 2), 1)
    assert [limit.tolist() for limit in bounds.limits(0)] == [[1, 1], [3, 3]]
    bounds.take(0, np.array([0, 0, 0, 1]))
    assert [limit.tolist() for limit in bounds.limits(1)] == [[1, 2], [2, 4]]
    bounds.take(1, np.array([0, 0, 1, 1]))
    assert [limit.tolist() for limit in bounds.limits(2)] == [[1, 3], [1, 3]]


# -- experts to clusters ---------------------------------------------------------------


def test_deviation_is_summed():
    """Calls 7 and 3, mean 5: 2 + 2."""
    assert deviation(np.array([4.0, 3, 3]), np.array([0, 0, 1]), 2) == 4.0


def test_an_expert_above_the_mean_bounds_the_deviation():
    """8 of 12 calls on two clusters: 2 above the mean of 6 here, 2 missing there."""
    load, none, all_ = np.array([8.0, 2, 2]), np.array([0, 0]), np.array([3, 3])
    assert least_deviation(load, none, all_) == 4.0
    assert least_by_enumeration(load, none, all_) == 4.0


def test_sizes_bound_the_deviation():
    """1 + 1 + 1 + 3, mean 3: one expert of at most one is 3, enough; none lacks 3.

    With three at least in the first, 3 are in it: nothing above the mean. Of 1, 1, 1, 1
    three at least are 1 above the mean of 2, and one at most is 1 below it.
    """
    load = np.array([1.0, 1, 1, 3])
    assert least_deviation(load, np.array([0, 0]), np.array([4, 1])) == 0.0
    assert least_deviation(load, np.array([0, 0]), np.array([4, 0])) == 6.0
    assert least_deviation(load, np.array([3, 0]), np.array([4, 4])) == 0.0
    even = np.ones(4)
    assert least_deviation(even, np.array([3, 0]), np.array([4, 4])) == 2.0
    assert least_deviation(even, np.array([0, 0]), np.array([4, 1])) == 2.0


def test_the_bound_holds():
    """On random cases it is never above what enumeration finds."""
    rng = np.random.default_rng(7)
    tight = 0
    for _ in range(40):
        load = rng.pareto(1.0, 5)
        slots = np.bincount(rng.integers(0, 3, 5), minlength=3)
        least, most = np.maximum(slots - 1, 0), slots + 1
        best = least_by_enumeration(load, least, most)
        bound = least_deviation(load, least, most)
        assert bound <= best + 1e-9
        tight += bound >= best - 1e-9
    assert tight >= 10


def test_the_longest_come_first():
    """5, 4, 3, 2 on two clusters of two: 5 | 4, then 3 to the 4, 2 to the 5."""
    two = np.array([2, 2])
    label = longest_first(np.array([2.0, 5, 3, 4]), two, two)
    assert label.tolist() == [0, 0, 1, 1]


def test_clusters_that_lack_experts_are_filled():
    """At least two in each: the last two go to the cluster that has none.

    10 alone outweighs the rest, so all others would go to the second cluster.
    """
    label = longest_first(np.array([10.0, 1, 1, 1]), np.array([2, 0]), np.array([4, 4]))
    assert np.bincount(label).tolist() == [2, 2]


def test_exchanges_balance():
    """{6, 5} and {2, 1}: exchanging 5 and 1 leaves 7 and 7."""
    load = np.array([6.0, 5, 2, 1])
    found = exchanged(load, np.array([0, 0, 1, 1]), 2)
    assert deviation(load, found, 2) == 0.0
    assert np.bincount(found).tolist() == [2, 2]


def test_an_empty_cluster_is_left_empty():
    """Two experts, three clusters: the idlest has nothing to exchange."""
    found = exchanged(np.array([3.0, 1.0]), np.array([0, 1]), 3)
    assert sorted(found.tolist()) == [0, 1]


@pytest.mark.parametrize("gap", [1e-6, 0.025])
def test_clusters_are_optimal_within_the_gap(gap):
    """The first programme against enumeration, sizes between bounds."""
    rng = np.random.default_rng(1)
    least, most = np.array([1, 1, 2]), np.array([3, 3, 4])
    for _ in range(6):
        load = rng.exponential(1.0, 7)
        label, exact = balanced_clusters(
            load, least, most, gap=gap, balanced=0.0, nodes=None
        )
        assert exact
        size = np.bincount(label, minlength=3)
        assert ((least <= size) & (size <= most)).all()
        found = deviation(load, label, 3)
        best = least_by_enumeration(load, least, most)
        assert best - 1e-9 <= found <= best / (1 - gap) + 1e-6


def test_clusters_are_a_solution_of_the_first_programme():
    """The start keeps every row, and its objective is its deviation in means."""
    rng = np.random.default_rng(2)
    load = rng.random(6)
    label = np.array([0, 1, 0, 1, 1, 0])
    model, start = clusters_model(load, np.array([2, 2]), np.array([4, 4]), label)
    assert holds(model, start)
    found = model.true_objective(float(model.objective @ start))
    assert found == pytest.approx(deviation(load, label, 2) / (load.sum() / 2))


def test_a_layer_without_calls_has_clusters():
    """No calls at all: any clusters of the right sizes, and no division by zero."""
    two = np.array([2, 2])
    label, exact = balanced_clusters(
        np.zeros(4), two, two, gap=0.025, balanced=1e-3, nodes=10
    )
    assert exact
    assert np.bincount(label).tolist() == [2, 2]


def test_what_is_not_proved_is_said():
    """A spent budget leaves the exchanges' result, and says that it may not be best.

    9 and 1 against 5 and 2, mean 8.5, deviate by 3; the bound, of 9 alone, is 1.
    """
    two = np.array([2, 2])
    load = np.array([9.0, 5.0, 2.0, 1.0])
    label, exact = balanced_clusters(
        load, two, two, gap=0.025, balanced=0.0, nodes=None, spent=lambda: True
    )
    assert not exact
    assert deviation(load, label, 2) == 3.0


def test_many_experts_are_balanced_without_a_programme():
    """256 experts in 16 clusters: within a thousandth of all calls, and at once."""
    load = np.random.default_rng(3).pareto(2.0, 256) + 0.1
    load = np.minimum(load, 10.0)
    sixteen = np.full(16, 16)
    label = exchanged(load, longest_first(load, sixteen, sixteen), 16)
    assert np.bincount(label).tolist() == [16] * 16
    assert deviation(load, label, 16) <= 1e-3 * load.sum()
