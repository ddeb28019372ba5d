"""Similar experts at home: who answers, in which order, and within which budget."""

from __future__ import annotations

import numpy as np
from baseline_cases import slotted_problem

from meldopt_solvers.baselines.substitution import substitutes


def case(similar, loss):
    """Experts 0 and 1 at the home, 2 and 3 on another server; all called alike."""
    problem = slotted_problem(
        [[0.25] * 4],
        [2, 2],
        profile={"similar": similar, "similar_loss": [loss]},
    )
    copies = np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 0]])
    # At home a call takes 0.02 s of work, away 0.1 s.
    cost = np.array([[0.02, 0.02, 0.1, 0.1]])
    return problem, copies, cost, np.zeros((1, 4))


def test_a_similar_expert_at_home_answers_a_remote_call():
    """Expert 2 is answered by 0, not by 1 whose loss is larger."""
    problem, copies, cost, loss = case([[2, 0], [2, 1]], [0.1, 0.3])
    rows = substitutes(problem, copies, cost, loss, np.array([1.0]))
    assert rows.tolist() == [[0, 2, 0]]


def test_the_budget_goes_to_the_most_seconds_per_nat():
    """A quarter of the calls at 0.2 and 0.1 nats a call: 0.05 and 0.025 a token.

    With 0.03 nats only the second fits; with 0.08 both do.
    """
    problem, copies, cost, loss = case([[2, 0], [3, 1]], [0.2, 0.1])
    few = substitutes(problem, copies, cost, loss, np.array([0.03]))
    assert few.tolist() == [[0, 3, 1]]
    both = substitutes(problem, copies, cost, loss, np.array([0.08]))
    assert both.tolist() == [[0, 2, 0], [0, 3, 1]]


def test_only_a_copy_at_home_answers_and_only_if_it_saves():
    """A similar expert away does not help; one that saves nothing is not asked."""
    problem, copies, cost, loss = case([[2, 3], [0, 1]], [0.0, 0.0])
    assert not len(substitutes(problem, copies, cost, loss, np.array([1.0])))


def test_a_nat_has_a_price():
    """0.08 s saved at 0.1 nats are worth it at 0.5 s a nat, not at 1 s."""
    problem, copies, cost, loss = case([[2, 0]], [0.1])
    left = np.array([1.0])
    assert len(substitutes(problem, copies, cost, loss, left, 0.5)) == 1
    assert len(substitutes(problem, copies, cost, loss, left, 1.0)) == 0
