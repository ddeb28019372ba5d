from __future__ import annotations

import math

import numpy as np
import pytest
from run_records import fingerprint, record, replayed

from meldopt.compare.records import TrainedRecord
from meldopt.compare.standing import (
    best_bounds,
    contradictions,
    ratio_to,
    standing,
)
from meldopt.errors import MeldoptError
from meldopt.library import BestEntry, IndexEntry

INF = math.inf


def library(bound: float) -> dict[str, IndexEntry]:
    """Return an index that knows the instance f/a."""
    best = BestEntry(
        objective=2.0,
        bound=bound,
        solver="dual",
        seed=0,
        version="1",
        date="2026-01-01",
    )
    entry = IndexEntry(
        digest=fingerprint("f/a"),
        dataflow="home",
        layers=2,
        experts=8,
        servers=2,
        demands=1,
        formats=2,
        recipe=False,
        best=best,
    )
    return {"f/a": entry}


def test_median_over_seeds() -> None:
    """Of 1, 3 and 2 it is 2; one failure of three leaves the larger of the others."""
    runs = [
        record("f/a", "x", value, seed=n) for n, value in enumerate((1.0, 3.0, 2.0))
    ]
    assert standing(runs).value.tolist() == [[2.0]]
    runs[0] = record("f/a", "x", 1.0, seed=0, status="violating")
    found = standing(runs)
    assert found.value.tolist() == [[3.0]]
    assert found.entries[0, 0].spread == (2.0, 3.0)
    runs[1] = record("f/a", "x", None, seed=1, status="crashed")
    assert standing(runs).value.tolist() == [[INF]]


def test_a_violating_plan_never_wins() -> None:
    """The best of a case is a plan that keeps every row, however cheap another is."""
    found = standing(
        [
            record("f/a", "cheat", 0.1, status="violating"),
            record("f/a", "honest", 2.0),
        ]
    )
    assert found.best.tolist() == [2.0]
    assert found.ratio.tolist() == [[INF, 1.0]]
    assert found.ever_ranked.tolist() == [False, True]


def test_nobody_is_the_best_of_a_case_that_all_failed() -> None:
    """Where every plan breaks a row no ratio is finite."""
    runs = [record("f/a", label, 1.0, status="violating") for label in "xy"]
    found = standing(runs)
    assert np.isinf(found.ratio).all()
    assert found.complete.tolist() == [False]


def test_what_makes_a_case() -> None:
    """Limits, what was planned on and the rule of shares tell cases apart; seeds do
    not."""
    runs = [
        record("f/a", "x", 1.0),
        record("f/a", "x", 1.0, seed=1),
        record("f/a", "x", 1.0, time_limit_s=60.0),
        record("f/a", "x", 1.0, time_limit_s=None, work=3.0),
        record("f/a", "x", 1.0, train="f/b", train_digest="sha256:b"),
        record("f/a", "x", 1.0, train="f/b", train_digest="sha256:b", shares="best"),
    ]
    found = standing(runs)
    assert [case.limit for case in found.cases] == [
        "10 s",
        "60 s",
        "work 3",
        "10 s",
        "10 s",
    ]
    assert [case.planned_on for case in found.cases[3:]] == ["f/b", "f/b (best)"]
    assert len(standing(runs, trained=False).cases) == 3


def test_not_run_is_not_failed() -> None:
    """Only cases that every label was run on are complete."""
    runs = [
        record("f/a", "x", 1.0),
        record("f/a", "y", None, status="hung"),
        record("f/b", "x", 1.0),
        record("f/c", "x", None),
        record("f/c", "y", None),
    ]
    found = standing(runs)
    assert np.isnan(found.value[1, 1])
    assert found.complete.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("value", "reference", "ratio"),
    [
        (3.0, 2.0, 1.5),
        (2.0 + 1e-7, 2.0, 1.0),
        (-1.0, -2.0, 1.5),
        (1.0, 0.0, INF),
        (0.0, 0.0, 1.0),
        (INF, 2.0, INF),
        (2.0, INF, 0.0),
        (INF, INF, 1.0),
        (math.nan, 1.0, math.nan),
    ],
)
def test_ratios(value: float, reference: float, ratio: float) -> None:
    """1 + (value - reference) / |reference|, with failures at the ends."""
    found = float(ratio_to(np.array(value), np.array(reference)))
    assert found == pytest.approx(ratio, nan_ok=True)


def test_replay_is_a_case_for_each_trace() -> None:
    """Values are those of the replay; who could not be replayed has failed there."""
    runs = [
        record("f/a", "x", 1.0, replay={"t": replayed(4.0), "u": replayed(1.0)}),
        record("f/a", "y", 2.0, replay={"t": replayed(2.0)}),
        record("f/a", "z", 0.5, status="violating", replay={"t": replayed(0.1)}),
        record("f/b", "x", 1.0),
    ]
    found = standing(runs, "p99_s")
    assert [case.trace for case in found.cases] == ["t", "u"]
    assert found.value[0].tolist() == [8.0, 4.0, INF]
    assert found.value[1, 0] == 2.0
    assert np.isnan(found.value[1, 1])  # not replayed there yet
    assert found.value[1, 2] == INF


def test_best_bound_of_anyone() -> None:
    """The largest counts: of a run whose plan failed, of a training, of the library."""
    runs = [
        record("f/a", "x", 3.0, bound=1.0),
        record("f/a", "y", 1.0, status="violating", bound=1.5),
        record(
            "f/b",
            "z",
            3.0,
            train="f/c",
            train_digest="sha256:c",
            trained=TrainedRecord(objective=5.0, bound=4.0, gap=0.2),
        ),
    ]
    bounds = best_bounds(runs)
    assert (bounds[fingerprint("f/a")].value, bounds[fingerprint("f/a")].by) == (
        1.5,
        "y",
    )
    assert bounds["sha256:c"].value == 4.0
    assert fingerprint("f/b") not in bounds
    assert best_bounds(runs, library(1.9))[fingerprint("f/a")].by == "library (dual)"
    assert best_bounds(runs, library(1.2))[fingerprint("f/a")].by == "y"
    # Rounding takes nobody's proof away.
    assert best_bounds(runs, library(1.5 + 1e-9))[fingerprint("f/a")].by == "y"


def test_contradictions_are_said() -> None:
    """A plan below a bound, or of a problem without a plan, is reported."""
    runs = [
        record("f/a", "x", 1.0),
        record("f/a", "y", None, status="infeasible"),
        record("f/b", "x", 2.0, bound=2.0),
    ]
    lines = contradictions(runs, best_bounds(runs, library(1.5)))
    assert len(lines) == 2
    assert "the bound 1.5 of library (dual) is above the objective 1 of x" in lines[0]
    assert "y proved that there is no plan, but x has one" in lines[1]
    assert contradictions(runs[2:], best_bounds(runs[2:])) == []


def test_unknown_label() -> None:
    """A label that no run has is refused, with those that there are."""
    with pytest.raises(MeldoptError, match=r"got solver 'q', expected one of: x"):
        standing([record("f/a", "x", 1.0)]).column("q")


def test_nothing() -> None:
    """Without records there are no cases, and nothing breaks."""
    found = standing([])
    assert found.value.shape == (0, 0)
    assert found.best.shape == (0,)
    assert found.families == ()
