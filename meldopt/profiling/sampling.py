"""Means over tokens with their sampling error, from means over sequences.

Tokens of a sequence hang together, sequences hardly do. So a sequence is a batch, and
the error of a mean is the spread of the batch means (batch means method).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """Means with their standard errors, of equal shapes."""

    mean: NDArray[np.float64]
    error: NDArray[np.float64]


def by_domain(batches: NDArray[np.float64], domain: NDArray[np.int64]) -> Estimate:
    """Average the batches of each domain.

    Parameters
    ----------
    batches
        A value of each sequence, (..., R).
    domain
        Domain of each sequence, (R,), each with two sequences at least.

    Returns
    -------
    Estimate
        Of shape (..., D).
    """
    means, errors = [], []
    for number in range(int(domain.max()) + 1):
        mine = batches[..., domain == number]
        means.append(mine.mean(axis=-1))
        errors.append(mine.std(axis=-1, ddof=1) / np.sqrt(mine.shape[-1]))
    return Estimate(mean=np.stack(means, axis=-1), error=np.stack(errors, axis=-1))


def over_domains(estimate: Estimate) -> Estimate:
    """Average over the last axis with equal weights, as strata."""
    num_d = estimate.mean.shape[-1]
    return Estimate(
        mean=estimate.mean.mean(axis=-1),
        error=np.sqrt((estimate.error**2).sum(axis=-1)) / num_d,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How estimates agree with those from tokens that were not used for them.

    Attributes
    ----------
    number
        How many were compared.
    ratio
        Sum of the new estimates ÷ sum of the old ones; NaN if that is 0.
    rank_correlation
        Spearman's, 1 if both order alike; NaN if either is constant.
    within_two_errors
        Share of differences of at most two standard errors of the difference.
    """

    number: int
    ratio: float
    rank_correlation: float
    within_two_errors: float


def agreement(old: Estimate, new: Estimate) -> Agreement:
    """Compare two estimates of the same quantities from different tokens."""
    spread = np.sqrt(old.error**2 + new.error**2)
    before = float(old.mean.sum())
    close = np.abs(new.mean - old.mean) <= 2 * spread
    return Agreement(
        number=old.mean.size,
        ratio=float(new.mean.sum() / before) if before > 0 else float("nan"),
        rank_correlation=rank_correlation(old.mean.ravel(), new.mean.ravel()),
        within_two_errors=float(close.mean()),
    )


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; NaN if either is constant."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(one), rankdata(other)])
    if (ranks.std(axis=1) == 0).any():
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])
