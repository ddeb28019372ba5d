"""The frame: attempts, the best one, what is ignored, when it ends, and the repair."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt.solver import (
    DeterministicTime,
    MaxIterations,
    MaxRuntime,
    Status,
    StopReason,
)
from meldopt_solvers.baselines.complete import Decision
from meldopt_solvers.baselines.method import (
    Baseline,
    BaselineInfo,
    BaselineParams,
    baseline_info,
)

FORMATS = (("low", 4.0), ("wide", 16.0), ("mid", 8.0))
NEVER = MaxIterations(10**6)


class Stay(Baseline):
    """Every expert on the first server; remembers what it was asked."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="stay",
        summary="all at one place",
        citation="none",
        decides=("placement",),
        sees=("memory",),
    )

    def __init__(self, params=None, *, answer=None):
        super().__init__(params)
        self.asked = []
        self.answer = answer

    def decide(self, problem, view, rng, check):
        self.asked.append(view.format)
        if self.answer is not None:
            return self.answer(view, check)
        return Decision(server=np.zeros(problem.num_experts, dtype=np.int64))


def test_uniform_formats_are_tried_largest_first_and_the_best_is_kept():
    """Four slots for low copies: wide and mid ones break memory."""
    problem = slotted_problem([[0.5, 0.5]], [2, 9], rates=((1, 1.0),), formats=FORMATS)
    solver = Stay()
    result = solver.solve(problem, stop=NEVER, seed=0)
    assert solver.asked == [1, 2, 0]
    assert result.status is Status.FEASIBLE
    assert result.stop_reason is StopReason.FINISHED
    assert set(result.plan.copies[:, 2]) == {0}


def test_the_better_of_two_feasible_attempts_is_kept():
    """All formats fit; the low one reads fewest bytes and nothing is lost."""
    problem = slotted_problem([[0.5, 0.5]], [20], formats=FORMATS)
    result = Stay().solve(problem, stop=NEVER, seed=0)
    assert set(result.plan.copies[:, 2]) == {0}
    limited = slotted_problem(
        [[0.5, 0.5]],
        [20],
        formats=FORMATS,
        profile={"loss": [[[0.1, 0.0, 0.01], [0.1, 0.0, 0.01]]]},
        extra={"objective": {"quality": 1.0}},
    )
    result = Stay().solve(limited, stop=NEVER, seed=0)
    assert set(result.plan.copies[:, 2]) == {1}


def test_if_all_attempts_break_a_row_the_least_broken_is_shown():
    """One slot for five low copies: 4 times over in wide, 0.25 in low; not ranked."""
    problem = slotted_problem([[0.2] * 5], [1], formats=FORMATS)
    result = Stay().solve(problem, stop=NEVER, seed=0)
    assert result.status is Status.VIOLATING
    assert [(one.row, one.amount) for one in result.score.violations] == [
        ("memory", 20.0)  # 5 x 5 bytes in 5
    ]
    assert result.gap is None


def test_a_method_that_decides_formats_has_one_attempt():
    """Its view has no format."""

    class Choose(Stay):
        info = baseline_info(
            name="choose", summary="", citation="", decides=("formats",)
        )

    problem = slotted_problem([[0.5, 0.5]], [20], formats=FORMATS)
    solver = Choose(answer=lambda view, check: Decision(format=np.array([0, 2])))
    result = solver.solve(problem, stop=NEVER, seed=0)
    assert solver.asked == [-1]
    assert result.plan.copies.tolist() == [[0, 0, 0], [1, 0, 2]]
    assert "formats" not in result.ignored


def test_what_a_method_does_not_look_at_is_listed():
    """Facts and rows of the problem, then what the core finds; nothing it has not."""
    problem = slotted_problem(
        [[0.5, 0.5]],
        [20, 20],
        formats=FORMATS,
        limits={"coverage": "any-server", "pin": [
            {"layer": 0, "expert": 0, "server": "s0", "tier": "t0", "format": "low"}
        ]},
    )  # fmt: skip
    result = Stay().solve(problem, stop=NEVER, seed=0)
    assert result.ignored == (
        "calls",
        "network",
        "work",
        "compute",
        "link",
        "coverage",
        "pin",
        "copies",
        "formats",
        "term serial",
    )


def test_estimates_in_place_of_statistics_are_listed():
    """It looks at what is called together, but the instance does not say."""

    class Together(Stay):
        info = baseline_info(
            name="together",
            summary="",
            citation="",
            decides=("placement",),
            sees=("coactivation",),
        )

    def answer(view, check):
        view.coactivation(0)
        return Decision(server=np.zeros(2, dtype=np.int64))

    problem = slotted_problem([[0.5, 0.5]], [2])
    result = Together(answer=answer).solve(problem, stop=NEVER, seed=0)
    assert "coactivation" in result.ignored
    sampled = slotted_problem([[1.0, 1.0]], [2], profile={"sample_experts": [[[0, 1]]]})
    result = Together(answer=answer).solve(sampled, stop=NEVER, seed=0)
    assert "coactivation" not in result.ignored


@pytest.mark.parametrize("part", ["decides", "sees"])
def test_unknown_words_are_refused(part):
    """What a method says of itself is said in the words of the frame."""
    said = {"decides": ("placement",), "sees": ("calls",)}
    said[part] = ("magic",)
    with pytest.raises(ValueError, match="got 'magic', expected one of"):
        baseline_info(name="x", summary="", citation="", **said)


def test_capabilities_follow_from_what_is_decided():
    """What is completed by the common rules is no capability of the method."""
    info = baseline_info(
        name="x",
        summary="",
        citation="",
        decides=("placement", "copies", "shares"),
        sees=("budgets",),
        dataflows=("home",),
    )
    assert info.capabilities == {"home", "copies", "budgets"}


def test_nothing_is_decided_without_time():
    """A criterion that stops at once leaves no plan, and says so."""
    solver = Stay()
    problem = slotted_problem([[0.5, 0.5]], [20])
    result = solver.solve(problem, stop=MaxRuntime(0.0), seed=0)
    assert solver.asked == []
    assert result.status is Status.UNKNOWN
    assert result.stop_reason is StopReason.CRITERION


def test_a_method_may_find_nothing():
    """None is no plan."""
    solver = Stay(answer=lambda view, check: None)
    problem = slotted_problem([[0.5, 0.5]], [20])
    result = solver.solve(problem, stop=NEVER, seed=0)
    assert result.status is Status.UNKNOWN
    assert result.stop_reason is StopReason.FINISHED


def test_iterations_of_a_method_count():
    """A method that polls is told when the run ends; later attempts are left out."""
    seen = []

    def answer(view, check):
        while not check.step(0.5):
            seen.append(view.format)
        return Decision(server=np.zeros(2, dtype=np.int64))

    problem = slotted_problem([[0.5, 0.5]], [20], formats=FORMATS)
    result = Stay(answer=answer).solve(problem, stop=MaxIterations(4), seed=0)
    assert seen == [1, 1, 1]
    assert result.stop_reason is StopReason.CRITERION
    assert set(result.plan.copies[:, 2]) == {1}


def test_work_of_a_method_counts():
    """Half a unit a step: a budget of one and a half ends the third step."""
    seen = []

    def answer(view, check):
        while not check.step(0.5):
            seen.append(view.format)
        return Decision(server=np.zeros(2, dtype=np.int64))

    problem = slotted_problem([[0.5, 0.5]], [20])
    Stay(answer=answer).solve(problem, stop=DeterministicTime(1.5), seed=0)
    assert len(seen) == 2


def test_ctrl_c_keeps_the_best_so_far():
    """The second attempt is interrupted; the plan of the first one is returned."""

    def answer(view, check):
        if view.format == 2:
            raise KeyboardInterrupt
        return Decision(server=np.zeros(2, dtype=np.int64))

    problem = slotted_problem([[0.5, 0.5]], [20], formats=FORMATS)
    result = Stay(answer=answer).solve(problem, stop=NEVER, seed=0)
    assert result.stop_reason is StopReason.INTERRUPTED
    assert set(result.plan.copies[:, 2]) == {1}


def test_time_left_is_that_of_the_criterion():
    """Engines are given no more time than the run has, and no limit without one."""
    left = []

    def answer(view, check):
        left.append(check.time_left_s)

    problem = slotted_problem([[0.5, 0.5]], [20])
    Stay(answer=answer).solve(problem, stop=NEVER, seed=0)
    Stay(answer=answer).solve(problem, stop=MaxRuntime(1000.0), seed=0)
    assert left[0] == np.inf
    assert 0.0 < left[1] <= 1000.0


def test_repair_leaves_what_needs_none():
    """The wide attempt breaks memory, the low one does not: nothing is mended.

    The objective is the loss, so that a mended wide plan would be better.
    """
    problem = slotted_problem(
        [[0.5, 0.5]],
        [2, 9],
        formats=FORMATS,
        profile={"loss": [[[0.1, 0.0, 0.01], [0.1, 0.0, 0.01]]]},
        extra={"objective": {"quality": 1.0}},
    )
    plain = Stay().solve(problem, stop=NEVER, seed=0)
    mended = Stay(BaselineParams(repair=True)).solve(problem, stop=NEVER, seed=0)
    assert plain.feasible
    assert mended.plan.copies.tolist() == plain.plan.copies.tolist()
    assert mended.params == {"repair": True}


def test_repair_makes_a_feasible_row():
    """Ten low copies in a server of eight: some move to the other one."""
    problem = slotted_problem([[0.1] * 10], [2, 9], formats=FORMATS)
    assert not Stay().solve(problem, stop=NEVER, seed=0).feasible
    mended = Stay(BaselineParams(repair=True)).solve(problem, stop=NEVER, seed=0)
    assert mended.feasible


def test_repair_is_honest_where_there_is_no_plan():
    """Ten experts, room for nine: the plan stays violating."""
    problem = slotted_problem([[0.1] * 10], [4, 5])
    result = Stay(BaselineParams(repair=True)).solve(
        problem, stop=MaxIterations(50), seed=0
    )
    assert result.status is Status.VIOLATING
