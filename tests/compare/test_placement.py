from __future__ import annotations

import numpy as np
import pytest

from meldopt.builder import build_problem
from meldopt.compare.placement import placement_of
from meldopt.compare.plan_plots import draw_front, draw_links, draw_placement
from meldopt.compare.plots import picture
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import Plan, read_plan
from meldopt.problem import Problem
from meldopt.score import score

Case = tuple[Problem, Plan]


@pytest.fixture(scope="module", params=["tinymoe/edge-4", "tiny/roam-link"])
def case(request: pytest.FixtureRequest) -> Case:
    """Return an instance and its best plan."""
    problem = build_problem(read_instance(request.param))
    return problem, read_plan(best_plan(request.param) or "", problem)


def test_every_copy_is_counted(case: Case) -> None:
    """Copies add up; bits are means over them; bytes are those of the memory rows."""
    problem, plan = case
    found = placement_of(problem, plan)
    assert found.copies.sum() == plan.num_copies
    assert found.copies.shape == (problem.num_servers, problem.num_layers)
    assert (np.isnan(found.bits) == (found.copies == 0)).all()
    total = np.nansum(found.bits * found.copies)
    assert total == pytest.approx(problem.bits_per_weight[plan.copies[:, 2]].sum())
    rows = score(problem, plan).rows
    assert found.bytes == pytest.approx(
        sum(row.value for row in rows if row.row == "memory")
    )


def test_loads_are_parts_of_limits(case: Case) -> None:
    """A feasible plan is nowhere above 1; links are those of the cluster."""
    problem, plan = case
    found = placement_of(problem, plan)
    assert (found.memory <= 1 + 1e-6).all()
    assert (found.busy <= 1 + 1e-6).all()
    assert [link[:2] for link in found.links] == list(problem.labels.links)
    assert max(link[2] for link in found.links) <= 1 + 1e-6
    rows = {row.where: row for row in score(problem, plan).rows if row.row == "link"}
    for source, target, load in found.links:
        row = rows[f"{source} -> {target}"]
        assert load == pytest.approx(row.value / row.limit)


def test_a_server_too_full_is_seen(case: Case) -> None:
    """A plan that breaks a row shows a part above 1."""
    problem, plan = case
    small = problem.replace(capacity_bytes=problem.reserve_bytes + 1.0)
    assert placement_of(small, plan).memory.max() > 1


def test_pictures(case: Case) -> None:
    """Servers and layers are named; the same plan gives the same bytes."""
    pytest.importorskip("matplotlib")
    problem, plan = case
    found = placement_of(problem, plan)
    for draw in (draw_placement, draw_links):
        first = picture(lambda draw=draw: draw(found), "svg")  # type: ignore[misc]
        again = picture(lambda draw=draw: draw(found), "svg")  # type: ignore[misc]
        assert first == again
        for name in problem.labels.servers:
            assert f"<!-- {name}" in first.decode()


def test_front_of_many() -> None:
    """Solvers on the front have marks of their own; others are counted."""
    pytest.importorskip("matplotlib")
    labels = [f"m{k}" for k in range(30)]
    points = np.column_stack([np.arange(30.0), 40 - np.arange(30.0), np.full(30, 1e9)])
    points[:20, 1] = 50.0
    front = np.arange(30) >= 20
    drawn = picture(lambda: draw_front(labels, points, front, ("s", "nats")), "svg")
    text = drawn.decode()
    assert "<!-- m20 -->" in text
    assert "<!-- m0 -->" not in text
    assert "<!-- 22 others -->" in text
