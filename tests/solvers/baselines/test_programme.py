"""Integer programmes within a budget: a part of the time, nodes, and Ctrl-C."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from meldopt.engines.outcome import Outcome
from meldopt.formulations.linear import LinearBuilder
from meldopt_solvers.baselines import programme
from meldopt_solvers.baselines.programme import part_of_time, solve_programme


def budget(left, over=False):
    """Return a budget with so much time left."""
    return SimpleNamespace(time_left_s=left, spent=lambda: over)


def knapsack():
    """Two of three things, the dearest left out: 1 + 2."""
    build = LinearBuilder()
    x = build.add_columns(
        "x", [np.arange(3)], upper=1.0, cost=[3.0, 1.0, 2.0], integer=True
    )
    build.add_rows("two", [np.zeros(1)], [(np.zeros(3, int), x.range, 1.0)], lower=2)
    return build.build()


def test_a_part_of_the_time_ends_it(monkeypatch):
    """An eighth of 80 s is over after 10 s, whatever the budget says."""
    now = [100.0]
    monkeypatch.setattr(programme, "perf_counter", lambda: now[0])
    spent = part_of_time(budget(80.0))
    now[0] = 109.0
    assert not spent()
    now[0] = 110.0
    assert spent()


def test_the_budget_ends_it():
    """Without a limit on time only the budget counts."""
    assert not part_of_time(budget(math.inf))()
    assert part_of_time(budget(math.inf, over=True))()


def test_a_programme_is_solved():
    """From the worst solution to the best one."""
    model = knapsack()
    outcome = solve_programme(
        model, np.array([1.0, 0, 1]), gap=1e-6, nodes=None, spent=lambda: False
    )
    assert outcome.status == "optimal"
    assert outcome.x.round().tolist() == [0, 1, 1]


def test_an_interruption_is_passed_on(monkeypatch):
    """Ctrl-C in the engine is Ctrl-C of the run."""
    broken = Outcome(
        status="unknown", x=None, objective=None, bound=None, interrupted=True
    )
    monkeypatch.setattr(programme, "solve_highs", lambda *_, **__: broken)
    with pytest.raises(KeyboardInterrupt):
        solve_programme(
            knapsack(), np.zeros(3), gap=0.0, nodes=None, spent=lambda: False
        )
