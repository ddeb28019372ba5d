"""The common repair keeps what it can of a plan, and mends what breaks a row."""

from __future__ import annotations

import numpy as np
import pytest
from baseline_cases import slotted_problem
from searched import feasible_share

from meldopt.plan import Plan
from meldopt.score import score
from meldopt.solver import MaxIterations
from meldopt_solvers.baselines.contiguous import ContiguousSolver, EngineParams
from meldopt_solvers.baselines.mending import adapted_copies, heaviest, mend_plan
from meldopt_solvers.baselines.method import Budget
from meldopt_solvers.search.incumbent import Incumbent


def mended(problem, copies, seed=0):
    """Mend a plan with given copies; None if no plan was found that keeps all rows."""
    stop = MaxIterations(10**6)
    best = Incumbent(problem, stop=stop, started=0.0, on_progress=None)
    plan = Plan.of(problem, np.array(copies, dtype=np.int64))
    assert not score(problem, plan).feasible
    rng = np.random.default_rng(seed)
    mend_plan(problem, plan, rng, best, Budget(best, stop, 0.0))
    if best.plan is not None and score(problem, best.plan).feasible:
        return best.plan
    return None


@pytest.mark.parametrize(("dataflow", "least"), [("home", 0.9), ("roam", 0.95)])
def test_mends_plans_with_every_kind_of_row(dataflow, least):
    """On random problems that have a plan, nearly all are mended (28 % need none)."""
    repair = ContiguousSolver(EngineParams(repair=True))
    share, _ = feasible_share(repair, dataflow, MaxIterations(300))
    assert share >= least


def test_no_more_experts_move_than_must():
    """Eleven in ten slots far from home: one moves, although all would like to."""
    problem = slotted_problem([[1 / 16] * 16], [16, 10], copies=1)
    copies = [[i, 1 if i < 11 else 0, 0] for i in range(16)]
    plan = mended(problem, copies)
    moved = (plan.copies != np.array(copies)).any(axis=1).sum()
    assert moved == 1


def test_shares_are_tried_before_copies():
    """Two copies, each fast enough for half of the calls: no copy changes.

    A call takes 0.02 s, of which 30 a second fill 0.6 of a server; at most 0.45 may be
    busy, and a demand by default takes the copy at home for all of them.
    """
    problem = slotted_problem(
        [[1.0]], [1, 1], rates=((0, 30.0),), limits={"busy": 0.45}
    )
    copies = [[0, 0, 0], [0, 1, 0]]
    plan = mended(problem, copies)
    assert plan.copies.tolist() == copies
    assert len(plan.served) == 2


def test_one_copy_stays_one_where_that_is_enough():
    """A busy server is relieved by a move, although both homes would like a copy.

    40 calls a second of 0.02 s fill one server to 0.8 and two to 0.4 each.
    """
    problem = slotted_problem(
        [[0.25] * 4],
        [4, 4],
        rates=((0, 20.0), (1, 20.0)),
        limits={"busy": 0.65},
        links=[(0, 1, 1.0)],
    )
    plan = mended(problem, [[i, 0, 0] for i in range(4)])
    assert plan.num_copies == 4


def test_too_large_formats_become_smaller():
    """Wide copies fill the only server twice; low ones fit, and the loss is bounded."""
    problem = slotted_problem([[0.5, 0.5]], [1], formats=(("wide", 16.0), ("low", 4.0)))
    plan = mended(problem, [[0, 0, 0], [1, 0, 0]])
    assert (plan.copies[:, 2] == 1).sum() >= 1


def test_pins_forbidden_copies_and_limits_are_adapted_first():
    """The pin replaces the copy elsewhere if one copy is all; what may not be goes."""
    copy = {"layer": 0, "expert": 0, "server": "s1", "tier": "t0", "format": "full"}
    other = {"layer": 0, "expert": 1, "server": "s0", "tier": "t0", "format": "full"}
    problem = slotted_problem(
        [[0.5, 0.3, 0.2]],
        [3, 3],
        copies=1,
        limits={"pin": [copy], "forbid": [other]},
    )
    copies = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert adapted_copies(problem, copies).tolist() == [[0, 1, 0], [2, 0, 0]]
    assert mended(problem, copies).copies.tolist() == [[0, 1, 0], [1, 1, 0], [2, 0, 0]]


def test_uniform_groups_take_the_format_of_most():
    """Two of three copies are low: all become low."""
    problem = slotted_problem(
        [[0.5, 0.3, 0.2]],
        [9],
        formats=(("wide", 16.0), ("low", 4.0)),
        limits={"uniform": [{"name": "layer", "layers": [0]}]},
    )
    copies = np.array([[0, 0, 1], [1, 0, 0], [2, 0, 1]])
    assert adapted_copies(problem, copies)[:, 2].tolist() == [1, 1, 1]


def test_the_heaviest_experts_of_a_broken_row_come_first():
    """Excess 3 asks for loads of 6: 5 and 4 do; the second row asks for one more."""
    load = np.array([[1.0, 0], [5, 0], [4, 0], [0, 2], [2, 0], [0, 0], [1, 0], [0, 0],
                     [0, 0], [0, 0], [0, 0], [0, 0]])  # fmt: skip
    assert heaviest(load, np.array([3.0, 0.5])).tolist() == [1, 2, 3]
