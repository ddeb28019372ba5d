"""The search in `roam` counts what it does, and ends where it is told to."""

from __future__ import annotations

import numpy as np
import pytest
from random_problems import random_case

from meldopt import build_problem, read_instance
from meldopt.solver import DeterministicTime, MaxIterations
from meldopt_solvers.search import roam_lns
from meldopt_solvers.search.incumbent import Incumbent
from meldopt_solvers.search.roam import CHUNK, RoamSearch, solve_roam
from meldopt_solvers.search.roam_lns import (
    ASK,
    MOVE_WORK,
    PLAIN,
    RoamWalk,
    improve_roam,
    roam_search,
)


class Asked:
    """Notes the work at each question; ends at some units."""

    def __init__(self, units):
        self.units, self.works = units, []

    def start(self):
        return self

    def stop(self, iteration, objective, bound=None, work=0.0):
        self.works.append(work)
        return work >= self.units


def searching(problem, stop):
    """Return an incumbent of a problem without a plan."""
    return Incumbent(problem, stop=stop, started=0.0, on_progress=None)


@pytest.mark.parametrize("name", ["tiny/roam-link", "tinymoe/roam-3"])
@pytest.mark.parametrize("units", [0.01, 0.3])
def test_ends_after_the_work_given(name, units):
    """What is done beyond the work given is less than what is done between questions.

    ``tiny`` walks in Python, where a move is ``PLAIN`` times the work; a plan that is
    judged at the end counts, too, and so do the changes of prices of a chunk. Even with
    a hundredth of a second there is a plan.
    """
    problem = build_problem(read_instance(name))
    best = searching(problem, DeterministicTime(units))
    improve_roam(problem, best, np.random.default_rng(0))
    assert units <= best.work <= units + 2 * ASK
    assert best.plan is not None


@pytest.mark.parametrize("name", ["tiny/roam-link", "tinymoe/roam-3"])
def test_asks_before_much_is_done(name):
    """Between two questions there is no more work than ``ASK`` and a judged plan."""
    problem = build_problem(read_instance(name))
    stop = Asked(0.5)
    best = searching(problem, stop)
    improve_roam(problem, best, np.random.default_rng(1))
    judged = roam_lns.OFFER_WORK * (len(problem.pairs) + problem.num_experts)
    assert max(np.diff(stop.works)) <= 1.1 * ASK + judged + roam_lns.ADAPT_WORK


def test_moves_in_python_are_dearer():
    """The same walk is as many times the work in Python as Python is slower."""
    problem = random_case(5, dataflow="roam", infeasible=False).problem
    works = []
    for on in (False, True):
        walk = RoamWalk(problem, compile_=on)
        walk.random(np.random.default_rng(0))
        draws = np.random.default_rng(1).random((400, 5))
        before = walk.work
        walk.anneal(np.arange(problem.num_experts), draws, walk.scale, walk.scale)
        works.append(walk.work - before)
    assert works[0] == pytest.approx(PLAIN * works[1])
    assert works[0] > 10 * works[1] > 10 * 400 * MOVE_WORK


def test_neighbours_of_those_moved_are_counted():
    """One relocation that is carried out changes the fields of that expert's pairs.

    The draws choose the first expert, a relocation (below 0.5), its last option, and
    so hot a walk that it stays.
    """
    problem = build_problem(read_instance("tiny/roam-memory"))
    walk = RoamWalk(problem, compile_=False)
    walk.settle()
    t, s = walk.tables, walk.s
    draws = np.array([[0.0, 0.1, 0.999, 0.5, 0.0]])
    counted = walk.run.walk(walk.packed, walk.live, np.arange(8), draws, 1e9, 1e9)
    assert s.chosen[0] == t.start[1] - 1
    assert counted == t.start[0] + t.near_start[1] - t.near_start[0] > 0
    again = walk.run.walk(walk.packed, walk.live, np.arange(8), draws, 1e9, 1e9)
    assert again == 0  # it is there already


def test_large_chunks_are_cut():
    """Where a move may be dear the criterion is asked within a chunk.

    The walk ends before the prices adapt for the first time: no iteration is over.
    """
    problem = build_problem(read_instance("tinymoe/roam-3"))
    walk = RoamWalk(problem)
    assert roam_lns.CHUNK * walk.dearest > ASK
    best = searching(problem, DeterministicTime(1e-6))
    run = roam_lns._Run(walk, best, np.random.default_rng(0))
    assert run.anneal(run.all, 10**6, walk.scale)
    assert best.iteration == 0
    assert walk.work <= 1.1 * ASK


def test_short_annealings_come_first():
    """With little work the plan has cooled down: better than hot by a wide margin.

    The first full annealing of this instance takes more than a unit of work; cut off
    in its hot part it ended at 0.05 and above.
    """
    problem = build_problem(read_instance("tinymoe/roam-3"))
    found = roam_search(problem, None, DeterministicTime(0.3), 0)
    assert found.objective < 0.035


def test_greedy_mending_counts_its_moves():
    """The annealing that mends a greedy plan counts moves, and ends by them."""
    problem = build_problem(read_instance("tiny/roam-memory"))
    search = RoamSearch(problem, compile_=False)
    fast = RoamSearch(problem, compile_=True)
    for one in (search, fast):
        one.set_prices(1.0)
        one.anneal(CHUNK, 1.0, 0.1, np.random.default_rng(0))
    assert search.work == pytest.approx(CHUNK * search.move_work)
    assert search.work > 10 * fast.work > 0
    best = searching(problem, MaxIterations(10**6))
    solve_roam(problem, best, np.random.default_rng(0), anneal=False)
    assert best.work > 0
