"""Ctrl-C: published methods that iterate keep their best decision so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from baseline_cases import slotted_problem

from meldopt import build_problem, read_instance
from meldopt.score import score
from meldopt.solver import StopReason, make_solver
from meldopt_solvers.baselines.complete import Decision
from meldopt_solvers.baselines.exflow import search
from meldopt_solvers.baselines.method import Baseline, baseline_info


@dataclass
class CtrlC:
    """Raises as Ctrl-C does: after so many iterations, or questions to the criterion.

    Not while HiGHS asks, which has its own way with Ctrl-C: no iteration ends there.
    """

    iterations: int | None = None
    questions: int | None = None
    asked: int = 0

    def start(self):
        self.asked = 0
        return self

    def stop(self, iteration, objective, bound=None, work=0.0):
        self.asked += 1
        if iteration == self.iterations or self.asked == self.questions:
            raise KeyboardInterrupt
        return False


class Slow(Baseline):
    """Moves all experts to the next server at every step, without end."""

    info = baseline_info(
        name="slow", summary="never ends", citation="none", decides=("placement",)
    )

    def decide(self, problem, view, rng, check):
        at = 0
        while True:
            server = np.full(problem.num_experts, at % problem.num_servers)
            check.keep(Decision(server=server))
            check.step()
            at += 1


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_was_kept_last_is_offered(steps):
    """With Ctrl-C at the n-th step the plan is that of the n-th decision kept."""
    problem = slotted_problem([[0.5, 0.5]], [2, 2, 2, 2], rates=((3, 1.0),))
    result = Slow().solve(problem, stop=CtrlC(steps), seed=0)
    assert result.stop_reason is StopReason.INTERRUPTED
    assert result.feasible
    assert (problem.server_of[result.plan.copies[:, 1]] == steps - 1).all()


def test_nothing_kept_is_no_plan():
    """A method that kept nothing, or kept it in an attempt that ended, offers none."""

    class Empty(Slow):
        def decide(self, problem, view, rng, check):
            assert check.kept is None
            if view.format == 1:
                raise KeyboardInterrupt
            check.keep(Decision(server=np.zeros(problem.num_experts, dtype=np.int64)))

    problem = slotted_problem(
        [[0.5, 0.5]], [4], formats=(("low", 4.0), ("mid", 8.0), ("wide", 16.0))
    )
    result = Empty().solve(problem, stop=CtrlC(), seed=0)
    assert result.stop_reason is StopReason.INTERRUPTED
    assert result.plan is None


@pytest.mark.parametrize(
    ("name", "stop", "options"),
    [
        ("exflow", CtrlC(1), {}),  # before the first sweep: the greedy chain
        ("exflow", CtrlC(6), {}),
        ("moetuner", CtrlC(1), {}),  # after the first layer: balanced without HiGHS
        ("moetuner", CtrlC(5), {}),
        ("llm_pq", CtrlC(2), {}),  # the second weight of the loss, or the second order
        ("llm_pq", CtrlC(9), {"method": "heuristic"}),
        ("hetroute", CtrlC(questions=12), {}),
        ("pmq", CtrlC(2), {}),
    ],
)
def test_methods_keep_their_best_so_far(name, stop, options):
    """Ctrl-C in the middle of the first attempt leaves a plan, and score judges it."""
    problem = build_problem(read_instance("tinymoe/edge-4"))
    result = make_solver(name, options).solve(problem, stop=stop, seed=0)
    assert result.stop_reason is StopReason.INTERRUPTED
    assert result.plan is not None
    assert score(problem, result.plan).feasible == result.feasible


def test_edgeshard_keeps_the_published_partition():
    """Ctrl-C while more labels are tried leaves what one label found.

    Each programme asks once a layer, after one question before the attempt: the fifth
    question is the first of the second programme.
    """
    problem = slotted_problem([[0.5, 0.5]] * 3, [6, 6])
    whole = make_solver("edgeshard", {"labels": 1}).solve(problem, stop=CtrlC(), seed=0)
    for questions in (5, 7):
        stop = CtrlC(questions=questions)
        result = make_solver("edgeshard", {}).solve(problem, stop=stop, seed=0)
        assert stop.asked == questions  # so it was interrupted, though it is optimal
        assert np.array_equal(result.plan.copies, whole.plan.copies)


def test_exflow_keeps_ever_better_placements():
    """What is given to keep begins with the chain and gets better each time."""
    rng = np.random.default_rng(0)
    moves = [rng.random((8, 8)) for _ in range(5)]
    slots = np.full((6, 2), 4)
    kept = []
    best = search(
        moves, slots, rng, restarts=20, spent=lambda work: False, keep=kept.append
    )
    crossing = [
        sum(
            move[a[:, None] != b].sum()
            for move, a, b in zip(moves, labels, labels[1:], strict=False)
        )
        for labels in kept
    ]
    assert len(kept) >= 2
    assert crossing == sorted(crossing, reverse=True)
    assert all((a == b).all() for a, b in zip(kept[-1], best, strict=True))
