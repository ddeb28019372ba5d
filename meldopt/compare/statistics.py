"""What differences between solvers are worth: means, intervals, ranks and tests.

All functions take a table of values, (cases, labels), less is better, inf for a failed
run; `meldopt.compare.standing.Standing.value` is one. Nothing here reads a clock or
draws without a seed.

References
----------
.. [1] Demšar, J. (2006). Statistical comparisons of classifiers over multiple data
   sets. *Journal of Machine Learning Research* 7, 1-30.
.. [2] Holm, S. (1979). A simple sequentially rejective multiple test procedure.
   *Scandinavian Journal of Statistics* 6, 65-70.
.. [3] Efron, B. (1987). Better bootstrap confidence intervals. *Journal of the American
   Statistical Association* 82, 171-185.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.tolerance import allowed

from .standing import ratio_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ALPHA = 0.05
"""Level of the tests; intervals hold ``1 - ALPHA``."""

RESAMPLES = 9999
"""Samples of a bootstrap."""


def shifted_geometric_mean(values: NDArray[np.float64], shift: float) -> float | None:
    """Return ``exp(mean(log(values + shift))) - shift`` of the finite values.

    Parameters
    ----------
    values
        Non-negative; any shape. Those that are not finite are left out.
    shift
        Above 0 where a value may be 0.

    Returns
    -------
    float or None
        None without a finite value.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    with np.errstate(divide="ignore"):  # the log of 0 is -inf, and its mean exp is 0
        return float(np.exp(np.log(finite + shift).mean()) - shift)


def mean_ratio(ratios: NDArray[np.float64]) -> float | None:
    """Return the geometric mean of the finite ratios, None without one.

    It is 1 more than the shifted geometric mean, shift 1, of the excess over the best:
    a solver that is at the best of some cases is no problem for it.
    """
    return shifted_geometric_mean(ratios, 0.0)


def interval(
    ratios: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, float] | None:
    """Return a confidence interval of `mean_ratio` over the cases.

    The bootstrap of scipy [3]_: bias-corrected and accelerated, by percentiles where
    that has no value; ``1 - ALPHA``. Cases are drawn, not runs: seeds of one case are
    not independent of each other.

    Parameters
    ----------
    ratios
        One for each case; those that are not finite and positive are left out.
    seed
        Of the bootstrap.

    Returns
    -------
    (float, float) or None
        None with fewer than two cases: they say nothing of their spread.
    """
    from scipy.stats import bootstrap

    logs = np.log(ratios[np.isfinite(ratios) & (ratios > 0)])
    if len(logs) < 2:
        return None
    if np.ptp(logs) == 0:
        return float(np.exp(logs[0])), float(np.exp(logs[0]))
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a degenerate distribution: nan
            found = bootstrap(
                (logs,),
                np.mean,
                confidence_level=1 - ALPHA,
                n_resamples=RESAMPLES,
                batch=max(1, 2_000_000 // len(logs)),
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return float(np.exp(found.low)), float(np.exp(found.high))


# -- ranks -----------------------------------------------------------------------------


def levelled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace values of a case that are equal within tolerance by the least of them."""
    level = values.copy()
    for row in level:
        least = -math.inf
        for at in np.argsort(row):
            value = float(row[at])
            if math.isfinite(value) and value <= least + allowed(least):
                row[at] = least
            else:
                least = value
    return level


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank the labels of each case; (cases, labels).

    1 is best. Ties share the mean of their ranks; failed runs tie behind all others.
    """
    from scipy.stats import rankdata

    if not values.size:
        return np.zeros(values.shape)
    ranked: NDArray[np.float64] = rankdata(levelled(values), axis=1)
    return ranked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Friedman:
    """Whether labels differ at all, and by how much mean ranks must differ.

    Attributes
    ----------
    num_cases
        Cases that were ranked.
    mean_rank
        Of each label; (labels,).
    chi2, p_chi2
        The statistic of Friedman, corrected for ties, and its p-value.
    f, p_f
        The statistic of Iman and Davenport and its p-value; less conservative.
    distance
        The critical distance of Nemenyi at `ALPHA`.
    p_pair
        p-values of Nemenyi, (labels, labels).
    """

    num_cases: int
    mean_rank: NDArray[np.float64]
    chi2: float
    p_chi2: float
    f: float
    p_f: float
    distance: float
    p_pair: NDArray[np.float64]


def friedman(values: NDArray[np.float64]) -> Friedman | None:
    """Test whether labels differ [1]_, section 3.2.2.

    Parameters
    ----------
    values
        (cases, labels) without nan.

    Returns
    -------
    Friedman or None
        None with fewer than three labels or two cases: the test is not defined.
    """
    from scipy.stats import f as f_distribution
    from scipy.stats import friedmanchisquare

    num_cases, num_labels = values.shape
    if num_cases < 2 or num_labels < 3:
        return None
    ranked = ranks(values)
    if (ranked == ranked[0, 0]).all():  # all tie everywhere: no statistic, no doubt
        chi2, p_chi2 = 0.0, 1.0
    else:
        chi2, p_chi2 = map(float, friedmanchisquare(*ranked.T))
    room = num_cases * (num_labels - 1) - chi2
    # All cases agree on every rank: the statistic has no upper end.
    f = (num_cases - 1) * chi2 / room if room > 1e-9 * chi2 else np.inf
    free = num_labels - 1
    mean_rank = ranked.mean(axis=0)
    return Friedman(
        num_cases=num_cases,
        mean_rank=mean_rank,
        chi2=chi2,
        p_chi2=p_chi2,
        f=float(f),
        p_f=float(f_distribution.sf(f, free, free * (num_cases - 1))),
        distance=critical_distance(num_labels, num_cases),
        p_pair=nemenyi(ranked),
    )


def critical_distance(num_labels: int, num_cases: int, alpha: float = ALPHA) -> float:
    """Return the difference of mean ranks that is significant, by Nemenyi [1]_."""
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(1 - alpha, num_labels, np.inf) / np.sqrt(2)
    return float(quantile * _rank_error(num_labels, num_cases))


def nemenyi(ranked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values of all pairs by the test of Nemenyi, (labels, labels).

    By scikit-posthocs (extra ``report``) where it is installed, else by the same
    formula on scipy's studentized range.

    Parameters
    ----------
    ranked
        As `ranks` returns them.
    """
    from scipy.stats import studentized_range

    if importlib.util.find_spec("scikit_posthocs") is not None:
        library: Any = importlib.import_module("scikit_posthocs")
        table: NDArray[np.float64]
        table = library.posthoc_nemenyi_friedman(ranked).to_numpy()
        return table
    num_cases, num_labels = ranked.shape
    mean = ranked.mean(axis=0)
    apart = np.abs(mean[:, None] - mean) / _rank_error(num_labels, num_cases)
    p: NDArray[np.float64] = studentized_range.sf(
        apart * np.sqrt(2), num_labels, np.inf
    )
    np.fill_diagonal(p, 1.0)
    return p


def _rank_error(num_labels: int, num_cases: int) -> float:
    """Return the standard error of the difference of two mean ranks."""
    return float(np.sqrt(num_labels * (num_labels + 1) / (6 * num_cases)))


def cliques(mean_rank: NDArray[np.float64], distance: float) -> list[tuple[int, int]]:
    """Return the bars of a critical-difference diagram.

    Parameters
    ----------
    mean_rank
        Of each label, sorted.
    distance
        As `critical_distance` returns it.

    Returns
    -------
    list of (int, int)
        First and last index of each largest run of two or more labels that are not
        told apart.
    """
    bars: list[tuple[int, int]] = []
    for first, low in enumerate(mean_rank):
        last = int(np.searchsorted(mean_rank, low + distance, side="right")) - 1
        if last > first and (not bars or last > bars[-1][1]):
            bars.append((first, last))
    return bars


# -- pairs -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two labels on the cases that both were run on.

    Attributes
    ----------
    first, second
        Indices of the labels.
    wins, ties, losses
        Cases that the first is better, equal and worse on.
    ratio
        Geometric mean of first / second over the cases that both solved.
    p
        Two-sided p-value of the signed ranks of Wilcoxon; 1 if all cases tie, None
        without a case.
    holm
        The same, corrected for the number of pairs by Holm.
    """

    first: int
    second: int
    wins: int
    ties: int
    losses: int
    ratio: float | None
    p: float | None
    holm: float | None = None


def wilcoxon_pairs(
    values: NDArray[np.float64], against: int | None = None
) -> list[Pair]:
    """Test pairs of labels by Wilcoxon's signed ranks, corrected by Holm [2]_.

    Differences are of logarithms of ratios, so that large instances do not decide. A
    case that one of two failed on counts as a difference above every other, so that a
    solver gains nothing by failing. Zero differences are split evenly, as [1]_ does.

    Parameters
    ----------
    values
        (cases, labels); nan: not run.
    against
        Index of a label: only its pairs with the others, it being the second. All
        pairs without one.
    """
    labels = range(values.shape[1])
    wanted: Sequence[tuple[int, int]] = (
        list(combinations(labels, 2))
        if against is None
        else [(k, against) for k in labels if k != against]
    )
    pairs = [_pair(values, first, second) for first, second in wanted]
    return _holm(pairs)


def _pair(values: NDArray[np.float64], first: int, second: int) -> Pair:
    from scipy.stats import wilcoxon

    both = values[:, [first, second]]
    both = both[~np.isnan(both).any(axis=1)]
    ratio = ratio_to(both[:, 0], both[:, 1])
    with np.errstate(divide="ignore"):
        difference = np.log(ratio)
    finite = np.isfinite(difference)
    largest = float(np.abs(difference[finite]).max(initial=0.0)) + 1.0
    difference = np.clip(difference, -largest, largest)
    p: float | None = None
    if len(both):
        p = 1.0
        if difference.any():
            # scipy is exact for few cases and takes the normal distribution for many.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found: Any = wilcoxon(difference, zero_method="zsplit")
            p = float(found.pvalue)
    return Pair(
        first=first,
        second=second,
        wins=int((difference < 0).sum()),
        ties=int((difference == 0).sum()),
        losses=int((difference > 0).sum()),
        ratio=mean_ratio(ratio[finite & np.isfinite(both).all(axis=1)]),
        p=p,
    )


def _holm(pairs: list[Pair]) -> list[Pair]:
    """Correct the p-values: the n-th least of m times m - n + 1, never falling."""
    tested = sorted(
        (pair for pair in pairs if pair.p is not None),
        key=lambda pair: (pair.p, pair.first, pair.second),
    )
    corrected: dict[tuple[int, int], float] = {}
    least = 0.0
    for n, pair in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - n) * (pair.p or 0.0)))
        corrected[pair.first, pair.second] = least
    return [
        Pair(
            first=pair.first,
            second=pair.second,
            wins=pair.wins,
            ties=pair.ties,
            losses=pair.losses,
            ratio=pair.ratio,
            p=pair.p,
            holm=corrected.get((pair.first, pair.second)),
        )
        for pair in pairs
    ]
