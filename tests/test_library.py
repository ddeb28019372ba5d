"""Best plans of the library: the rule for a better one, keeping it, checking it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from meldopt import best as library
from meldopt import build_problem, read_instance, read_plan, score
from meldopt.errors import PlanError, SolverError
from meldopt.library import (
    BestEntry,
    Index,
    checkout_folder,
    instances_folder,
    read_index,
    write_index,
)

if TYPE_CHECKING:
    from meldopt.plan import Plan
    from meldopt.problem import Problem

NAME = "tiny/quality"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A library of one tiny instance and its best plan, which is optimal."""
    folder = tmp_path / "library"
    for part in ("tiny", "best/tiny"):
        (folder / part).mkdir(parents=True)
        for path in (ROOT / "instances" / part).glob("quality.*"):
            shutil.copy(path, folder / part)
    write_index({NAME: read_index(ROOT / "instances")[NAME]}, folder)
    return folder


@pytest.fixture(name="problem")
def _problem(folder: Path) -> Problem:
    return build_problem(read_instance(library.instance_path(folder, NAME)))


@pytest.fixture(name="plan")
def _plan(folder: Path, problem: Problem) -> Plan:
    return read_plan(library.plan_path(folder, NAME), problem)


def _entry(objective: float, bound: float | None = None) -> BestEntry:
    return BestEntry(
        objective=objective,
        bound=bound,
        solver="test",
        seed=0,
        version="0",
        date="2026-01-01",
    )


def _worsen(folder: Path, objective: float, bound: float | None) -> None:
    """Say in the index that the best plan known is worth this."""
    entry = read_index(folder)[NAME]
    worse = msgspec.structs.replace(entry, best=_entry(objective, bound))
    write_index({NAME: worse}, folder)


# -- the rule --------------------------------------------------------------------------


def test_a_plan_is_better_by_what_it_scores(problem: Problem, plan: Plan) -> None:
    """A millionth less is no progress; two are; what its file claims is not read."""
    worth = score(problem, plan).objective
    boast = plan.with_record({"objective": worth / 2, "bound": worth / 2})
    assert not library.judge(problem, boast, _entry(worth)).better
    assert not library.judge(problem, plan, _entry(worth * (1 + 0.9e-6))).better
    verdict = library.judge(problem, plan, _entry(worth * (1 + 2.1e-6)))
    assert verdict.better
    assert verdict.objective == worth
    assert "is better than" in verdict.text()


def test_the_first_plan_is_better_than_none(problem: Problem, plan: Plan) -> None:
    """Where nothing is known, every feasible plan is progress."""
    verdict = library.judge(problem, plan, None)
    assert verdict.better
    assert "the first plan" in verdict.text()


def test_a_plan_that_breaks_a_row_is_never_better(problem: Problem, plan: Plan) -> None:
    """However little it costs; the first broken row is named."""
    cramped = problem.replace(capacity_bytes=problem.capacity_bytes * 0.1)
    verdict = library.judge(cramped, plan, _entry(1e9))
    assert not verdict.feasible
    assert not verdict.better
    assert verdict.text().startswith("the plan breaks memory")


def test_a_plan_below_the_bound_is_an_alarm(problem: Problem, plan: Plan) -> None:
    """Either the bound or the judge is wrong then, which nobody may overlook."""
    worth = score(problem, plan).objective
    with pytest.raises(SolverError, match="bound"):
        library.judge(problem, plan, _entry(worth * 2, worth * 1.5))
    with pytest.raises(SolverError, match="bound"):
        library.judge(problem, plan, _entry(worth), bound=worth * 1.5)


def test_a_higher_bound_is_news(problem: Problem, plan: Plan) -> None:
    """A bound is kept if it is higher than the one known, and only then."""
    worth = score(problem, plan).objective
    known = _entry(worth, worth / 2)
    assert library.judge(problem, plan, known, bound=worth * 0.6).higher
    lower = library.judge(problem, plan, known, bound=worth * 0.4)
    assert not lower.higher
    assert lower.bound == worth / 2


# -- keeping ---------------------------------------------------------------------------


def test_a_better_plan_is_kept_with_its_finder(
    folder: Path, problem: Problem, plan: Plan
) -> None:
    """Plan and index say the same, and the check agrees with them."""
    worth = score(problem, plan).objective
    _worsen(folder, worth * 1.1, worth / 2)
    done = library.keep(NAME, problem, plan, folder=folder, solver="mine", seed=7)
    assert done.better
    entry = read_index(folder)[NAME]
    assert entry.best is not None
    assert (entry.best.objective, entry.best.solver, entry.best.seed) == (
        worth,
        "mine",
        7,
    )
    assert entry.best.bound == worth / 2
    again = read_plan(library.plan_path(folder, NAME), problem)
    assert again.record["objective"] == worth
    assert again.record["gap"] == pytest.approx(0.5)
    assert library.check_instance(NAME, entry, folder).found == ()


def test_a_plan_that_is_not_better_changes_nothing(
    folder: Path, problem: Problem, plan: Plan
) -> None:
    """Not a byte of the index or of the plan."""
    files = [folder / "index.json", library.plan_path(folder, NAME)]
    before = [path.read_bytes() for path in files]
    done = library.keep(NAME, problem, plan, folder=folder, solver="mine", seed=0)
    assert not done.better
    assert [path.read_bytes() for path in files] == before


def test_a_higher_bound_keeps_the_plan(
    folder: Path, problem: Problem, plan: Plan
) -> None:
    """Finder, date and copies stay; bound and gap are new."""
    worth = score(problem, plan).objective
    _worsen(folder, worth, worth / 2)
    done = library.keep(
        NAME, problem, plan, folder=folder, solver="mine", seed=0, bound=worth * 0.9
    )
    assert done.higher
    assert not done.better
    best = read_index(folder)[NAME].best
    assert best == _entry(worth, worth * 0.9)
    again = read_plan(library.plan_path(folder, NAME), problem)
    assert again.record["gap"] == pytest.approx(0.1)


def test_a_broken_plan_is_refused(folder: Path, problem: Problem, plan: Plan) -> None:
    """With one line, and nothing written."""
    cramped = problem.replace(capacity_bytes=problem.capacity_bytes * 0.1)
    before = (folder / "index.json").read_bytes()
    with pytest.raises(PlanError, match=f"{NAME}: the plan breaks memory"):
        library.keep(NAME, cramped, plan, folder=folder, solver="mine", seed=0)
    assert (folder / "index.json").read_bytes() == before


def test_large_plans_are_written_without_white_space(
    folder: Path, problem: Problem, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read back as the same plan, without the budgets that can be computed."""
    path = library.plan_path(folder, NAME)
    for limit, lines in ((1e9, True), (10, False)):
        monkeypatch.setattr(library, "LARGE_BYTES", limit)
        library.keep(NAME, problem, plan, folder=folder, solver="x", seed=0, force=True)
        assert (path.read_bytes().count(b"\n") > 10) == lines
        again = read_plan(path, problem)
        assert score(problem, again).objective == score(problem, plan).objective


# -- checking --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"digest": "sha256:0"}, "digest: got sha256:"),
        ({"experts": 9}, "experts: got 8, expected 9"),
        ({"model": "mixtral-8x7b"}, "model: got None, expected mixtral-8x7b"),
        ({"best": None}, "do not agree"),
        ({"best": _entry(1.0)}, "objective: got"),
    ],
)
def test_the_check_notices(folder: Path, changes: dict[str, object], text: str) -> None:
    """Whatever of the index is not so is found."""
    entry = read_index(folder)[NAME]
    assert library.check_instance(NAME, entry, folder).found == ()
    wrong = msgspec.structs.replace(entry, **changes)
    found = library.check_instance(NAME, wrong, folder).found
    assert any(text in line for line in found)


# -- the library -----------------------------------------------------------------------


def test_a_checkout_is_told_from_a_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folder inside the package is no checkout: nobody writes there."""
    from meldopt import library as place

    assert checkout_folder() == instances_folder() == ROOT / "instances"
    inside = tmp_path / "meldopt" / "_instances"
    monkeypatch.setattr(place, "_PACKAGE", tmp_path / "meldopt")
    monkeypatch.setattr(place, "instances_folder", lambda: inside)
    assert place.checkout_folder() is None


def test_an_index_without_models_is_still_read(tmp_path: Path) -> None:
    """The index of an earlier release has no models in it."""
    entries = read_index(ROOT / "instances")
    old = msgspec.to_builtins(Index(format_version=1, instances={NAME: entries[NAME]}))
    del old["instances"][NAME]["model"]
    (tmp_path / "index.json").write_bytes(msgspec.json.encode(old))
    assert read_index(tmp_path)[NAME].model is None


def test_a_plan_of_another_instance_is_refused(plan: Plan) -> None:
    """Its digest says so, whatever its name is."""
    other = build_problem(read_instance("tiny/memory"))
    with pytest.raises(PlanError, match="expected 'tiny"):
        library.judge(other, plan, None)
