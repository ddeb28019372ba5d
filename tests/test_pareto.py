"""The trade-off between two terms: what is proved, and which points are found."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from oracle import optimum

from meldopt import build_problem, read_instance, score
from meldopt.errors import (
    FileFormatError,
    InstanceError,
    SolverError,
    UnsupportedFeatureError,
)
from meldopt.pareto import Certificate, Line, Step, pareto
from meldopt.pareto.plots import plot_front
from meldopt.pareto.scan import _Found, _Scan
from meldopt.problem import TERMS
from meldopt.solver import Status
from meldopt.testing import (
    best_single_copy,
    contract_instance,
    same_plan,
    single_copy_plans,
)

if TYPE_CHECKING:
    from pathlib import Path

    from meldopt.pareto import Front, FrontProgress
    from meldopt.problem import Problem

PAIR = ("serial", "quality")


@pytest.fixture(scope="module", name="tight")
def _tight() -> Problem:
    return build_problem(contract_instance("tight"))


@pytest.fixture(scope="module", name="front")
def _front(tight: Problem) -> Front:
    return pareto(tight, PAIR, points=7, work=500)


@pytest.fixture(scope="module", name="roam")
def _roam() -> Problem:
    """Every plan of it can be listed: one copy of each expert, nothing to share."""
    return build_problem(contract_instance("roam")).replace(max_copies=1)


def _weighted(problem: Problem, first: float, second: float) -> Problem:
    weights = np.zeros(len(TERMS))
    weights[TERMS.index(PAIR[0])], weights[TERMS.index(PAIR[1])] = first, second
    return problem.replace(weights=weights)


def _all_points(problem: Problem, terms: tuple[str, str]) -> list[tuple[float, float]]:
    """Return both terms of every feasible plan of one copy per expert."""
    judged = (score(problem, plan) for plan in single_copy_plans(problem))
    return [
        (one.terms[terms[0]], one.terms[terms[1]]) for one in judged if one.feasible
    ]


def _undominated(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not kept or y < kept[-1][1] - 1e-9 * abs(kept[-1][1]):
            kept.append((x, y))
    return kept


# -- what is proved --------------------------------------------------------------------


def test_lines_and_steps_bound_either_term() -> None:
    """A line bounds by its slope, a step up to its cap; the higher one counts.

    With x + 2 y >= 10, y <= 3 leaves x >= 4 and y <= 2 leaves x >= 6. With the step
    "y <= 2 means x >= 7" y <= 2 leaves 7, and x <= 6.5 means y > 2, where the line
    says y >= 1.75 only.
    """
    proved = Certificate(
        lines=(Line(first=1.0, second=2.0, bound=10.0),),
        steps=(Step(cap=2.0, bound=7.0),),
    )
    assert proved.first_above(3.0) == 4.0
    assert proved.first_above(2.0) == 7.0
    assert proved.second_above(6.5) == 2.0
    assert proved.second_above(8.0) == 1.0


def test_ends_are_proved_by_lines_of_one_term() -> None:
    """Where the second term cannot be as low, no first term is low enough."""
    proved = Certificate(lines=(Line(first=0.0, second=1.0, bound=5.0),))
    assert proved.first_above(4.9) == math.inf
    assert proved.first_above(5.0) == -math.inf
    assert proved.second_above(1e9) == 5.0
    assert Certificate().first_above(1.0) == -math.inf


def test_no_plan_lies_below_the_certificate(tight: Problem, front: Front) -> None:
    """Every plan that can be listed keeps every line and every step."""
    found = _all_points(tight, PAIR)
    assert len(found) > 20
    assert front.certificate.lines
    assert front.certificate.steps
    for line in front.certificate.lines:
        for x, y in found:
            assert line.first * x + line.second * y >= line.bound * (1 - 1e-9)
    for step in front.certificate.steps:
        assert all(x >= step.bound * (1 - 1e-9) for x, y in found if y <= step.cap)


def test_a_plan_below_a_line_is_a_wrong_bound(tight: Problem) -> None:
    """A front whose proofs contradict its plans is refused."""
    plan = best_single_copy(tight)
    assert plan is not None
    scan = _Scan(tight, PAIR, 3, None)
    scan.found.append(_Found(1.0, 1.0, plan, (1.0, 0.0)))
    scan.lines.append(Line(first=1.0, second=1.0, bound=2.1))
    with pytest.raises(SolverError, match="bound"):
        scan.front(interrupted=False)
    scan.lines = [Line(first=1.0, second=1.0, bound=1.9)]
    scan.steps = [Step(cap=0.9, bound=math.inf)]
    assert len(scan.front(interrupted=False).points) == 1
    scan.steps.append(Step(cap=1.1, bound=1.2))
    with pytest.raises(SolverError, match="bound"):
        scan.front(interrupted=False)


# -- the front -------------------------------------------------------------------------


def test_points_are_plans_that_nothing_dominates(tight: Problem, front: Front) -> None:
    """The score of each plan is its point; the first rises and the second falls."""
    assert 2 <= len(front.points) <= 7
    for point in front.points:
        judged = score(tight, point.plan)
        assert judged.feasible
        assert judged.terms["serial"] == point.first
        assert judged.terms["quality"] == point.second
        assert point.first_bound <= point.first
        assert point.second_bound <= point.second
    for a, b in pairwise(front.points):
        assert a.first < b.first
        assert a.second > b.second


def test_ends_and_chords_are_those_of_the_oracle(tight: Problem, front: Front) -> None:
    """Minima of either term and of weighted sums are those of trying everything."""
    x = np.array([point.first for point in front.points])
    y = np.array([point.second for point in front.points])
    exchange = (x[-1] - x[0]) / (y[0] - y[-1])
    for first, second in ((1.0, 0.0), (1.0, exchange), (0.0, 1.0)):
        best = optimum(_weighted(tight, first, second)).objective
        assert (first * x + second * y).min() == pytest.approx(best, rel=1e-5)


def test_caps_find_what_weights_cannot(roam: Problem) -> None:
    """Of a problem whose plans can be listed all three undominated ones are found.

    The middle one, (0.0111, 0.0985), lies above the chord of the others, which is at
    0.0943 there: no weights lead to it.
    """
    terms = ("quality", "serial")
    listed = _undominated(_all_points(roam, terms))
    assert len(listed) == 3
    front = pareto(roam, terms, points=10, work=10_000)
    assert front.exact
    for point, values in zip(front.points, listed, strict=True):
        assert (point.first, point.second) == pytest.approx(values, rel=1e-9)
    assert [point.cap is None for point in front.points] == [True, False, True]
    supported = pareto(roam, terms, points=10, work=10_000, exact=False)
    assert not supported.exact
    assert [point.first for point in supported.points] == pytest.approx(
        [listed[0][0], listed[2][0]]
    )


def test_the_same_work_gives_the_same_front(tight: Problem) -> None:
    """Points, proofs and plans of two runs are equal to the last bit."""
    one, two = (pareto(tight, PAIR, points=4, work=200, seed=3) for _ in range(2))
    assert one.certificate == two.certificate
    assert len(one.points) == len(two.points)
    for a, b in zip(one.points, two.points, strict=True):
        assert (a.first, a.second, a.weights, a.cap) == (
            b.first,
            b.second,
            b.weights,
            b.cap,
        )
        assert same_plan(a.plan, b.plan)


def test_a_range_keeps_points_inside(tight: Problem, front: Front) -> None:
    """All points are in the range of the second term, and some were found there."""
    high = (2 * front.points[0].second + front.points[-1].second) / 3
    low = (front.points[0].second + 2 * front.points[-1].second) / 3
    part = pareto(tight, PAIR, points=4, work=500, span=(low, high))
    assert part.points
    assert all(low <= point.second <= high for point in part.points)


def test_memory_is_traded_off_by_scaling_it(tight: Problem) -> None:
    """Less memory costs time: every listed plan keeps the steps, no plan cheats.

    What a plan takes is its largest sum of sizes at a place over capacity less reserve.
    """
    front = pareto(tight, ("serial", "memory"), points=5, work=300, span=(0.6, 1.4))
    assert len(front.points) >= 2
    free = tight.replace(capacity_bytes=tight.capacity_bytes * 10)
    for plan in single_copy_plans(tight):
        judged = score(free, plan)
        used = np.zeros(tight.num_places)
        for i, v, b in plan.copies.tolist():
            used[v] += tight.size_bytes[i, b] / tight.room_bytes[v]
        if judged.feasible:
            for step in front.certificate.steps:
                low = judged.terms["serial"] < step.bound * (1 - 1e-9)
                assert not low or used.max() > step.cap
    for point in front.points:
        used = np.zeros(tight.num_places)
        for i, v, b in point.plan.copies.tolist():
            used[v] += tight.size_bytes[i, b] / tight.room_bytes[v]
        assert point.second == pytest.approx(used.max())
        assert point.cap is not None
        assert point.second <= point.cap * (1 + 1e-6)
    with pytest.raises(InstanceError, match="two ends above 0"):
        pareto(tight, ("serial", "memory"), points=2, span=(0.0, 1.0))


def test_one_plan_may_be_best_in_both_terms() -> None:
    """Without a trade-off the front is one point, proved in both terms.

    Every expert fits everywhere in 8 bits: nothing is lost and nothing sent.
    """
    problem = build_problem(contract_instance("loose"))
    lossless = problem.replace(format_loss=np.zeros_like(problem.format_loss))
    front = pareto(lossless, ("quality", "serial"), points=4, work=500)
    assert len(front.points) == 1
    assert front.points[0].first == 0


def test_a_start_is_never_lost(tight: Problem) -> None:
    """The ends are at least as good as a plan that the scan started from."""
    plan = best_single_copy(tight)
    assert plan is not None
    judged = score(tight, plan)
    front = pareto(tight, PAIR, points=2, solver="greedy", start=plan, time_limit=1)
    assert front.points[0].first <= judged.terms["serial"]
    assert front.points[-1].second <= judged.terms["quality"]


def test_an_interruption_keeps_what_is_found(tight: Problem) -> None:
    """Ctrl-C after three runs: the points so far, and the proofs of these runs."""

    def watch(progress: FrontProgress) -> None:
        if progress.runs == 3:
            raise KeyboardInterrupt

    front = pareto(tight, PAIR, points=9, work=200, on_progress=watch)
    assert front.interrupted
    assert front.runs == 3
    assert len(front.certificate.lines) == 3
    assert front.points


def test_no_plan_is_a_status() -> None:
    """Where no plan keeps every row, there is no point and the status says so."""
    problem = build_problem(contract_instance("infeasible"))
    front = pareto(problem, PAIR, points=3, work=100)
    assert front.points == ()
    assert front.status is Status.INFEASIBLE
    assert front.largest_gap() is None


@pytest.mark.parametrize(
    ("terms", "keywords", "text"),
    [
        (("serial", "serial"), {}, "expected two different ones"),
        (("serial", "speed"), {}, "terms: got 'speed'"),
        (("serial", "pair"), {}, "dataflow home"),
        (("memory", "serial"), {}, "'memory' as the second"),
        (("parallel", "quality"), {}, "no sampled tokens"),
        (PAIR, {"points": 1}, "points: got 1"),
        (PAIR, {"span": (2.0, 1.0)}, "range: got 2:1"),
    ],
)
def test_bad_questions_are_refused(
    tight: Problem, terms: tuple[str, str], keywords: dict[str, object], text: str
) -> None:
    """Unknown terms, terms of the other dataflow and empty ranges: one line."""
    with pytest.raises(InstanceError, match=text):
        pareto(tight, terms, **keywords)  # type: ignore[arg-type]


def test_parallel_has_no_cap() -> None:
    """Only weighted sums serve `parallel`; asking for caps is refused."""
    problem = build_problem(read_instance("tiny/fluid"))
    with pytest.raises(UnsupportedFeatureError, match="parallel"):
        pareto(problem, ("parallel", "quality"), points=3, work=20, exact=True)


# -- the picture -----------------------------------------------------------------------


def test_the_same_front_gives_the_same_picture(front: Front, tmp_path: Path) -> None:
    """An SVG has both terms and no date in it."""
    one = plot_front(front, tmp_path / "one.svg", title="tight").read_bytes()
    two = plot_front(front, tmp_path / "two.svg", title="tight").read_bytes()
    assert one == two
    assert b"<svg" in one
    with pytest.raises(FileFormatError, match=r"expected one in \.png"):
        plot_front(front, tmp_path / "front.txt", title="tight")
