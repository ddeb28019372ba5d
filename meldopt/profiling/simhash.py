"""SimHash: signatures of hidden states whose distance tells the angle between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS = 64


def planes(hidden: int, *, bits: int = BITS, seed: int = 0) -> NDArray[np.float32]:
    """Draw the normals of random hyperplanes; (bits, hidden)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((bits, hidden)).astype(np.float32)


def signatures(
    states: NDArray[np.float32], normals: NDArray[np.float32]
) -> NDArray[np.uint64]:
    """Sign the side of each hyperplane that a state lies on, one bit for each.

    Parameters
    ----------
    states
        Hidden states, (T, hidden).
    normals
        Normals of at most 64 hyperplanes, (bits, hidden).

    Returns
    -------
    ndarray of uint64, shape (T,)
        Bit b is set where the state lies on the side of normal b.
    """
    side = (states @ normals.T > 0).astype(np.uint64)
    places = np.arange(len(normals), dtype=np.uint64)
    signed: NDArray[np.uint64] = np.bitwise_or.reduce(side << places, axis=1)
    return signed


def distances(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Count the bits that differ, element by element."""
    count: NDArray[np.uint8] = np.bitwise_count(one ^ other)
    return count


def cosine_of(distance: float, *, bits: int = BITS) -> float:
    """Return the cosine of two states that differ in so many bits, in expectation."""
    return float(np.cos(np.pi * distance / bits))
