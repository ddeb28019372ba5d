from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from meldopt.compare.statistics import (
    Pair,
    _holm,
    cliques,
    critical_distance,
    friedman,
    interval,
    levelled,
    mean_ratio,
    nemenyi,
    ranks,
    shifted_geometric_mean,
    wilcoxon_pairs,
)

# Demšar (2006), table 6: area under the ROC curve of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf
# on 14 data sets. The printed 0.975 twice of "voting" is a tie only because of
# rounding: the paper ranks these 2 and 3, hence the last digit here.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
LESS_IS_BETTER = 1 - DEMSAR
INF = np.inf


def test_ranks_of_the_published_example() -> None:
    """Mean ranks are those that Demšar prints below table 6."""
    mean = ranks(LESS_IS_BETTER).mean(axis=0)
    assert mean == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)


def test_friedman_of_the_published_example() -> None:
    """The statistics are Demšar's 9.28 and 3.69 where ties are not corrected for."""
    found = friedman(LESS_IS_BETTER)
    assert found is not None
    # scipy divides by 1 - sum(t^3 - t) / (N (k^3 - k)), where N (k^3 - k) = 840. One
    # data set ties all four labels (60), three tie two of them (6 each).
    tied = np.array(
        [
            sum(n**3 - n for n in np.unique(row, return_counts=True)[1])
            for row in ranks(LESS_IS_BETTER)
        ]
    ).sum()
    assert tied == 78
    plain = found.chi2 * (1 - tied / 840)
    assert plain == pytest.approx(9.28, abs=0.005)
    assert 13 * plain / (14 * 3 - plain) == pytest.approx(3.69, abs=0.005)
    assert found.f == pytest.approx(13 * found.chi2 / (14 * 3 - found.chi2))
    # "With four algorithms and 14 data sets ... 2.85 for alpha = 0.05": rejected.
    assert found.p_f < 0.05


@pytest.mark.parametrize(("alpha", "distance"), [(0.05, 1.25), (0.10, 1.12)])
def test_critical_distance_of_the_published_example(
    alpha: float, distance: float
) -> None:
    """Critical distances are those of Demšar, section 3.2.2."""
    assert critical_distance(4, 14, alpha) == pytest.approx(distance, abs=0.005)


@pytest.mark.parametrize(
    ("labels", "quantile"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)]
)
def test_quantiles_of_the_published_table(labels: int, quantile: float) -> None:
    """With one case the distance is q sqrt(k (k + 1) / 6); q is in Demšar's table 5."""
    unit = np.sqrt(labels * (labels + 1) / 6)
    assert critical_distance(labels, 1) / unit == pytest.approx(quantile, abs=1e-3)


def test_p_values_agree_with_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two labels exactly the critical distance apart have p = 0.05."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    distance = critical_distance(3, 2)
    # Mean ranks 1, 2 and 3 of two cases, scaled so that the first two are that apart.
    apart = np.array([[0.0, distance, 2 * distance]] * 2)
    assert nemenyi(apart)[0, 1] == pytest.approx(0.05, abs=1e-6)


def test_own_formula_is_that_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-posthocs the p-values of Nemenyi are the same."""
    pytest.importorskip("scikit_posthocs")
    ranked = ranks(LESS_IS_BETTER)
    with_library = nemenyi(ranked)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert nemenyi(ranked) == pytest.approx(with_library, abs=1e-12)


def test_the_library_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With scikit-posthocs its p-values are the ones that are shown."""

    class Library:
        @staticmethod
        def posthoc_nemenyi_friedman(ranked: np.ndarray) -> Library:
            assert ranked.shape == (14, 4)
            return Library()

        @staticmethod
        def to_numpy() -> np.ndarray:
            return np.full((4, 4), 0.25)

    monkeypatch.setitem(sys.modules, "scikit_posthocs", Library)  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert (nemenyi(ranks(LESS_IS_BETTER)) == 0.25).all()


def test_wilcoxon_of_the_published_example() -> None:
    """C4.5 against C4.5+m: wins, ties and p are those of Demšar's table 2."""
    # He finds R+ = 93 and R- = 12 with two zero differences; 12 is below the critical
    # 21 of alpha = 0.05. Here differences are of logarithms, so we check decisions.
    (pair,) = wilcoxon_pairs(LESS_IS_BETTER[:, :2] + 1e-9)
    assert (pair.wins, pair.ties, pair.losses) == (2, 2, 10)
    assert pair.p is not None
    assert pair.p < 0.05


def test_failed_runs_tie_behind_all_others() -> None:
    """Two failures share the last ranks, whatever objective their plans had."""
    values = np.array([[3.0, INF, 1.0, INF]])
    assert ranks(values).tolist() == [[2.0, 3.5, 1.0, 3.5]]


def test_values_within_tolerance_tie() -> None:
    """A millionth of difference is no win; two of them in a chain are one."""
    values = np.array([[1.0, 1.0 + 0.9e-6, 1.0 + 1.8e-6, INF, np.nan]])
    level = levelled(values)[0]
    assert level[0] == level[1] == 1.0
    assert level[2] == 1.0 + 1.8e-6  # more than a millionth above the least
    assert ranks(values[:, :3]).tolist() == [[1.5, 1.5, 3.0]]
    assert values[0, 1] == 1.0 + 0.9e-6  # the input is left alone


@pytest.mark.parametrize("shape", [(1, 5), (5, 2), (0, 3), (0, 0), (3, 0)])
def test_no_test_where_none_is_defined(shape: tuple[int, int]) -> None:
    """Friedman needs three labels and two cases."""
    assert friedman(np.ones(shape)) is None


def test_all_equal_is_no_difference() -> None:
    """Where everything ties everywhere p is 1 and nobody is told apart."""
    found = friedman(np.ones((4, 3)))
    assert found is not None
    assert (found.chi2, found.p_chi2, found.f, found.p_f) == (0.0, 1.0, 0.0, 1.0)
    assert (found.p_pair > 0.99).all()


def test_all_cases_agree() -> None:
    """Where all cases rank alike F has no upper end and p is 0."""
    found = friedman(np.array([[1.0, 2.0, 3.0]] * 6))
    assert found is not None
    assert found.chi2 == pytest.approx(12.0)  # N (k - 1), its largest value
    assert found.f == INF
    assert found.p_f == 0.0


def test_bars_join_what_is_not_told_apart() -> None:
    """Each bar is as long as can be, and none lies inside another."""
    mean = np.array([1.0, 1.5, 2.4, 4.0, 9.0])
    assert cliques(mean, 1.5) == [(0, 2)]
    assert cliques(mean, 1.6) == [(0, 2), (2, 3)]
    assert cliques(mean, 0.1) == []
    assert cliques(mean, 100.0) == [(0, 4)]


def test_pairs_by_hand() -> None:
    """Five wins of five have the least p that five cases can have, 2 / 2^5."""
    values = np.array([[1.0, 2.0 + n / 10, 1.0] for n in range(5)])
    pairs = {(pair.first, pair.second): pair for pair in wilcoxon_pairs(values)}
    assert pairs[0, 1].p == pytest.approx(0.0625)
    assert pairs[1, 2].p == pytest.approx(0.0625)
    assert (pairs[0, 2].p, pairs[0, 2].ties) == (1.0, 5)


def test_holm_by_hand() -> None:
    """Of 0.01 to 0.04 the least is times 4, the next times 3; none falls below it."""
    p = {(0, 1): 0.02, (0, 2): 0.04, (0, 3): 0.01, (1, 2): 0.03, (1, 3): None}
    pairs = [
        Pair(first=a, second=b, wins=0, ties=0, losses=0, ratio=None, p=value)
        for (a, b), value in p.items()
    ]
    # 0.01 x 4 = 0.04; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.04 x 1 = 0.04, so 0.06.
    corrected = [pair.holm for pair in _holm(pairs)]
    assert corrected[:4] == pytest.approx([0.06, 0.06, 0.04, 0.06])
    assert corrected[4] is None


def test_ties_speak_for_no_difference() -> None:
    """Cases that tie are split evenly: they make a difference less sure."""
    won = [[1.0, 2.0 + n / 10] for n in range(8)]
    (few,) = wilcoxon_pairs(np.array(won + [[1.0, 1.0]] * 8))
    (many,) = wilcoxon_pairs(np.array(won + [[1.0, 1.0]] * 20))
    assert few.p is not None
    assert many.p is not None
    assert few.p < many.p


def test_pairs_against_one() -> None:
    """With a reference only its pairs are tested, it being the second."""
    pairs = wilcoxon_pairs(np.ones((3, 4)), against=2)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 2), (1, 2), (3, 2)]


def test_failing_loses_a_case() -> None:
    """A failure is worse than every value, and does not enter the mean ratio."""
    values = np.array([[1.0, 2.0], [INF, 5.0], [INF, INF], [4.0, INF], [1.0, np.nan]])
    (pair,) = wilcoxon_pairs(values)
    assert (pair.wins, pair.ties, pair.losses) == (2, 1, 1)
    assert pair.ratio == pytest.approx(0.5)  # of the first case alone


def test_pairs_without_a_case_have_no_p() -> None:
    """Labels that never met are not tested, and do not count for Holm."""
    values = np.array([[1.0, np.nan, 2.0], [np.nan, 1.0, np.nan]])
    pairs = {(pair.first, pair.second): pair for pair in wilcoxon_pairs(values)}
    assert pairs[0, 1].p is None
    assert pairs[0, 1].holm is None
    assert pairs[0, 2].holm == pairs[0, 2].p


def test_means_by_hand() -> None:
    """Geometric means: sqrt(1 x 4) = 2, and with shift 1: sqrt(2 x 8) - 1 = 3."""
    assert mean_ratio(np.array([1.0, 4.0, INF, np.nan])) == pytest.approx(2.0)
    assert shifted_geometric_mean(np.array([1.0, 7.0]), 1.0) == pytest.approx(3.0)
    assert mean_ratio(np.array([INF])) is None
    assert mean_ratio(np.array([0.0, 1.0])) == 0.0


def test_intervals() -> None:
    """They are seeded, hold the mean, and say nothing of one case."""
    ratios = np.array([1.0, 1.1, 1.3, 1.2, 2.0, INF])
    found = interval(ratios)
    assert found is not None
    low, high = found
    mean = mean_ratio(ratios)
    assert mean is not None
    assert 1.0 < low < mean < high < 2.0
    assert interval(ratios) == found
    assert interval(ratios, seed=1) != found
    assert interval(np.array([1.5])) is None
    assert interval(np.array([1.5, 1.5])) == pytest.approx((1.5, 1.5))
    assert interval(np.array([1.0, 2.0])) is not None


def test_interval_of_many_is_that_of_the_normal_distribution() -> None:
    """Of 400 log-normal ratios it is about 1.96 standard errors wide on each side."""
    logs = np.random.default_rng(0).normal(0.2, 0.1, 400)
    found = interval(np.exp(logs))
    assert found is not None
    low, high = np.log(found)
    error = logs.std(ddof=1) / 20
    assert (high - low) / (2 * error) == pytest.approx(1.96, abs=0.1)
