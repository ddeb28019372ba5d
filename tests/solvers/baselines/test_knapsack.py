"""The multiple-choice knapsack against enumeration, and what it says of itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from meldopt_solvers.baselines.knapsack import choose


def enumerated(cost, size, budget, group, required):
    """Return the least cost over all choices, None if none is allowed."""
    rows, columns = np.arange(len(cost)), range(cost.shape[1])
    picks = np.array(list(itertools.product(columns, repeat=len(cost))))
    fine = size[rows, picks].sum(axis=1) <= budget * (1 + 1e-12)
    for g in np.unique(group):
        for b in required:
            fine &= (picks[:, group == g] == b).any(axis=1)
    total = np.where(fine, cost[rows, picks].sum(axis=1), np.inf)
    return float(total.min()) if np.isfinite(total.min()) else None


@pytest.mark.parametrize("kind", ["integers", "floats", "equal sizes", "gaps"])
def test_is_the_optimum(kind):
    """On random problems it finds what enumeration finds, and says that it is exact."""
    rng, solved = np.random.default_rng(5), 0
    for _ in range(150):
        items, columns = rng.integers(1, 7), rng.integers(1, 4)
        size = rng.integers(1, 8, (items, columns)).astype(float)
        cost = rng.integers(0, 9, (items, columns)).astype(float)
        if kind == "floats":
            cost = rng.random((items, columns)) - 0.2
        if kind == "equal sizes":
            size[:] = size[0]
        if kind == "gaps":
            cost[rng.random((items, columns)) < 0.2] = np.inf
        group = rng.integers(0, 2, items)
        required = rng.permutation(columns)[: rng.integers(0, 3)].tolist()
        budget = float(rng.integers(0, int(size.max(axis=1).sum()) + 2))
        best = enumerated(cost, size, budget, group, required)
        found = choose(cost, size, budget, group=group, required=required)
        assert (found is None) == (best is None)
        if found is not None:
            solved += 1
            assert found.exact
            assert found.cost == pytest.approx(best, abs=1e-9)
            assert found.size <= budget * (1 + 1e-9)
            for g in np.unique(group):
                assert set(required) <= set(found.choice[group == g].tolist())
    assert solved >= 30


@pytest.mark.parametrize("sizes", ["widths", "random"])
def test_required_columns_are_optimal(sizes):
    """Groups that must hold two columns are solved as enumeration solves them."""
    rng, group = np.random.default_rng(7), np.array([0, 0, 0, 0, 1, 1, 1])
    for _ in range(150):
        size = np.tile([4.0, 2.0, 1.0], (7, 1))
        if sizes == "random":
            size = rng.integers(1, 30, (7, 3)).astype(float)
        cost = rng.random((7, 1)) ** 3 * np.sort(rng.random((7, 3)), axis=1)
        budget = rng.uniform(size.min(axis=1).sum(), size.max(axis=1).sum())
        required = rng.permutation(3)[:2].tolist()
        best = enumerated(cost, size, budget, group, required)
        found = choose(cost, size, budget, group=group, required=required)
        assert (found is None) == (best is None)
        if found is not None:
            assert found.cost == pytest.approx(best, abs=1e-12)


def test_price_alone_would_be_wrong():
    """Where the relaxation rounds badly the dynamic programme finds the optimum.

    Room for 10: the item of best gain per byte (6 for 5) leaves 5 unused; the two of
    size 5 that gain 5 each fit together with it or not: 6 + 5 = 11 is the best.
    """
    cost = np.array([[0.0, 6.0], [0.0, 5.0], [0.0, 9.0]])
    size = np.array([[5.0, 0.0], [5.0, 0.0], [8.0, 0.0]])
    found = choose(cost, size, 10.0)
    assert found is not None
    assert found.choice.tolist() == [0, 0, 1]
    assert found.cost == 9.0


def test_large_problem_is_exact_and_fits():
    """14,848 experts with two required formats a layer are solved to the end."""
    rng = np.random.default_rng(0)
    num, layers = 14_848, 58
    size = np.tile([8.25, 4.5, 3.5, 2.5], (num, 1))
    loss = rng.pareto(1.5, num)[:, None] * np.array([0.01, 0.1, 0.4, 1.5])
    loss = loss * rng.uniform(0.8, 1.2, loss.shape)
    group = np.arange(num) // (num // layers)
    found = choose(loss, size, 4.0 * num, group=group, required=(0, 1))
    assert found is not None
    assert found.exact
    assert 4.0 * num - 2.5 < found.size <= 4.0 * num
    for layer in range(layers):
        assert {0, 1} <= set(found.choice[group == layer].tolist())


def test_says_when_it_gave_up():
    """With no states to spare it returns a choice that fits and is not called exact."""
    rng = np.random.default_rng(3)
    cost = rng.random((40, 3))
    size = rng.integers(1, 1000, (40, 3)).astype(float)
    budget = 0.4 * size.max(axis=1).sum()
    full, cut = choose(cost, size, budget), choose(cost, size, budget, most_states=0)
    assert full is not None
    assert cut is not None
    assert full.exact
    assert not cut.exact
    assert cut.size <= budget
    assert cut.cost >= full.cost


def test_no_items():
    """Nothing to choose is a choice."""
    found = choose(np.zeros((0, 2)), np.zeros((0, 2)), 0.0)
    assert found is not None
    assert (found.cost, found.size, found.exact) == (0.0, 0.0, True)
