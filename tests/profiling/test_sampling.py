"""Batch means: errors that say how far off a mean is."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.profiling.sampling import (
    Estimate,
    agreement,
    by_domain,
    over_domains,
    rank_correlation,
)


def test_by_hand() -> None:
    """Two domains of two sequences: means 2 and 5, errors |difference| ÷ 2."""
    batches = np.array([[1.0, 4.0, 3.0, 6.0]])
    found = by_domain(batches, np.array([0, 1, 0, 1]))
    assert found.mean.tolist() == [[2.0, 5.0]]
    assert found.error == pytest.approx(np.array([[1.0, 1.0]]))
    mean = over_domains(found)
    assert mean.mean.tolist() == [3.5]
    assert mean.error == pytest.approx(np.array([np.sqrt(2) / 2]))


def test_errors_cover_the_truth() -> None:
    """Of many samples with known mean, about 95 % lie within two errors (t with 14
    degrees of freedom in each of two domains); and sequences that hang together have
    larger errors than their tokens would suggest."""
    rng = np.random.default_rng(0)
    domain = np.repeat([0, 1], 15)
    draws = rng.normal(size=(4000, 30)) + np.array([1.0, 3.0])[domain]
    found = over_domains(by_domain(draws, domain))
    inside = np.abs(found.mean - 2.0) <= 2 * found.error
    assert 0.92 < inside.mean() < 0.97


def test_agreement_of_equals() -> None:
    """An estimate agrees with itself, and one of half the size has ratio one half."""
    one = Estimate(mean=np.array([1.0, 2.0, 4.0]), error=np.full(3, 0.1))
    half = Estimate(mean=one.mean / 2, error=one.error)
    same, smaller = agreement(one, one), agreement(one, half)
    assert (same.ratio, same.rank_correlation, same.within_two_errors) == (1, 1, 1)
    assert smaller.ratio == 0.5
    assert smaller.rank_correlation == pytest.approx(1.0)
    assert smaller.within_two_errors == 0.0


def test_rank_correlation_of_a_constant_is_undefined() -> None:
    """Ranks of equals say nothing; the answer is NaN and no warning."""
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))
    assert rank_correlation(np.arange(4.0), -np.arange(4.0)) == pytest.approx(-1.0)
