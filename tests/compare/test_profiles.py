from __future__ import annotations

import numpy as np
import pytest
from run_records import record

from meldopt.compare.profiles import gap_curves, pareto_front, performance_profile
from meldopt.compare.records import TrainedRecord
from meldopt.compare.standing import best_bounds

INF = np.inf


def test_profile_by_hand() -> None:
    """Ratios 1, 1, 2 and 2, 1, failed: at 1, at 2 and at the end."""
    ratio = np.array([[1.0, 2.0], [1.0, 1.0], [2.0, INF]])
    profile = performance_profile(ratio, ["a", "b"], steps=3)
    assert profile.labels == ("a", "b")
    assert profile.tau[0] == 1.0
    assert profile.tau[-1] > 2.0  # the last step is seen
    assert profile.share[:, 0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert profile.share[:, -1].tolist() == pytest.approx([1.0, 2 / 3])


def test_profile_never_falls_and_best_comes_first() -> None:
    """Curves rise; labels are sorted by the area below them."""
    rng = np.random.default_rng(3)
    ratio = 1 + rng.exponential(0.5, (20, 6)) * np.arange(1, 7)
    ratio[0, 0] = INF
    profile = performance_profile(ratio, list("fedcba"))
    assert (np.diff(profile.share, axis=1) >= 0).all()
    assert (np.diff(profile.area) <= 1e-12).all()
    assert ((profile.area >= 0) & (profile.area <= 1)).all()


def test_profile_of_failures() -> None:
    """Who fails everywhere has a curve at 0; nothing divides by zero."""
    profile = performance_profile(np.full((3, 2), INF), ["a", "b"])
    assert (profile.share == 0).all()
    assert performance_profile(np.zeros((0, 2)), ["a", "b"]).share.shape[0] == 2


def test_far_ratios_do_not_flatten_the_rest() -> None:
    """The axis is cut at 100; what is behind it is not reached."""
    profile = performance_profile(np.array([[1.0, 1e6]]), ["a", "b"])
    assert profile.tau[-1] == 100.0
    assert profile.share[1].max() == 0.0


def test_gap_over_time_by_hand() -> None:
    """Objective 2 at 1 s and 1.25 at 4 s against bound 1: gaps 1, 1/2 and 1/5."""
    run = record(
        "f/a",
        "x",
        1.25,
        bound=1.0,
        history=[(1.0, 2.0, None), (4.0, 1.25, 0.5)],
        runtime_s=10.0,
        time_limit_s=10.0,
    )
    curves = gap_curves([run], best_bounds([run]))
    at = np.searchsorted(curves.time_s, [0.95, 1.05, 3.9, 4.1, 9.99]) - 1
    assert curves.plan[0, at].tolist() == pytest.approx([1.0, 0.5, 0.5, 0.2, 0.2])
    # Its own bound is 0.5 from 4 s on, and 1 at the end only.
    assert curves.proof[0, at].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.6, 0.6])
    assert curves.proof[0, -1] == pytest.approx(0.2)
    # 1 s at 1, 3 s at 0.5 and 6 s at 0.2 of 10 s.
    assert curves.integral[0] == pytest.approx((1 + 1.5 + 1.2) / 10)


def test_violating_plans_have_no_gap() -> None:
    """A plan that breaks a row is none, at any time."""
    good = record("f/a", "x", 2.0, bound=1.0)
    bad = record("f/a", "y", 1.0, status="violating", history=[(0.1, 1.0, None)])
    curves = gap_curves([bad, good], best_bounds([bad, good]))
    assert curves.labels == ("x", "y")
    assert (curves.plan[1] == 1.0).all()


def test_no_bound_no_curve() -> None:
    """Of an instance without any bound nobody knows a gap."""
    assert gap_curves([record("f/a", "x", 2.0)], {}).labels == ()
    assert gap_curves([], {}).labels == ()


def test_never_proved_is_no_line() -> None:
    """Who has no bound of its own has no curve of proof."""
    runs = [record("f/a", "x", 2.0), record("f/a", "y", 2.0, bound=1.0)]
    curves = gap_curves(runs, best_bounds(runs))
    nothing = dict(zip(curves.labels, np.isnan(curves.proof).all(axis=1), strict=True))
    assert nothing == {"x": True, "y": False}


def test_a_plan_judged_twice_counts_once() -> None:
    """Records of one solve share its history, against the bound where it was made."""
    changes = {
        "train": "f/train",
        "train_digest": "sha256:t",
        "solve": "sha256:one",
        "trained": TrainedRecord(objective=4.0, bound=2.0, gap=0.5),
        "history": [(1.0, 4.0, 2.0)],
    }
    runs = [record("f/a", "x", 9.0, **changes), record("f/b", "x", 8.0, **changes)]
    curves = gap_curves(runs, best_bounds(runs))
    assert curves.num_runs == (1,)
    assert curves.plan[0, -1] == pytest.approx(0.5)


def test_front_by_hand() -> None:
    """(1, 3) and (2, 1) are on it, twice where they stand twice; (2, 3) is not."""
    points = np.array(
        [[1.0, 3.0], [2.0, 1.0], [2.0, 3.0], [1.0, 3.0], [np.nan, 0.0], [2.0, 2.0]]
    )
    assert pareto_front(points).tolist() == [True, True, False, True, False, False]
    assert pareto_front(np.zeros((0, 3))).tolist() == []


def test_front_is_what_nothing_dominates() -> None:
    """By the definition, pair by pair, on random points of three axes."""
    points = np.random.default_rng(5).integers(0, 5, (60, 3)).astype(float)
    expected = [
        not any((p <= q).all() and (p < q).any() for p in points) for q in points
    ]
    assert pareto_front(points).tolist() == expected
