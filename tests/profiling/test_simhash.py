"""Signatures tell angles."""

from __future__ import annotations

import numpy as np
import pytest

from meldopt.profiling.simhash import cosine_of, distances, planes, signatures


def test_bits_by_hand() -> None:
    """Bit b is the side of plane b."""
    normals = np.array([[1, 0], [0, 1], [-1, -1]], dtype=np.float32)
    states = np.array([[2, 1], [-1, 3], [-1, -1]], dtype=np.float32)
    assert signatures(states, normals).tolist() == [0b011, 0b010, 0b100]


def test_the_last_bit_is_used() -> None:
    """Sixty-four planes fill the word: no bit is lost to the sign."""
    normals = planes(8)
    states = np.stack([normals[63], -normals[63]])
    signed = signatures(states, normals)
    assert signed.dtype == np.uint64
    assert (signed >> np.uint64(63)).tolist() == [1, 0]
    assert distances(signed[:1], signed[1:]).tolist() == [64]


def test_the_length_of_a_state_does_not_matter() -> None:
    """A state and its multiples have one signature."""
    states = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    normals = planes(16)
    assert np.array_equal(signatures(states, normals), signatures(7 * states, normals))


@pytest.mark.parametrize("cosine", [0.98, 0.9, 0.5, 0.0, -0.7])
def test_distance_estimates_the_angle(cosine: float) -> None:
    """Over many draws of planes the mean share of bits that differ is angle ÷ π; the
    tolerance is five standard errors of a binomial."""
    one = np.zeros((1, 32), dtype=np.float32)
    other = np.zeros((1, 32), dtype=np.float32)
    one[0, 0] = 1.0
    other[0, :2] = cosine, np.sqrt(1 - cosine**2)
    found = []
    for seed in range(200):
        normals = planes(32, seed=seed)
        found.append(
            int(distances(signatures(one, normals), signatures(other, normals))[0])
        )
    share = np.arccos(cosine) / np.pi
    error = np.sqrt(share * (1 - share) / (64 * 200))
    assert abs(np.mean(found) / 64 - share) < 5 * error
    assert cosine_of(64 * share) == pytest.approx(cosine)


def test_planes_depend_on_the_seed_only() -> None:
    """The same seed draws the same planes: signatures of two runs may be compared."""
    assert np.array_equal(planes(12, seed=3), planes(12, seed=3))
    assert not np.array_equal(planes(12, seed=3), planes(12, seed=4))
