"""``meldopt instances``: list, check, best, and submitting a better plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from meldopt import build_problem, library, read_instance, read_plan, score
from meldopt.best import instance_path, plan_path
from meldopt.files import write_bytes
from meldopt.library import read_index, write_index
from meldopt.plan import Plan, write_plan

if TYPE_CHECKING:
    from .conftest import Invoke

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("tiny/quality", "tiny/roam-quality", "tiny/tiers")
NAME = "tiny/quality"


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose library has three tiny instances."""
    folder = tmp_path / "checkout" / "instances"
    index = read_index(ROOT / "instances")
    for name in NAMES:
        for path in (instance_path(folder, name), plan_path(folder, name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "instances" / path.relative_to(folder), path)
    write_index({name: index[name] for name in NAMES}, folder)
    monkeypatch.setattr(library, "instances_folder", lambda: folder)
    return folder


@pytest.fixture(name="worse")
def _worse(folder: Path) -> float:
    """Let the best plan known be 1 % worse than the one in the checkout's file."""
    entry = read_index(folder)[NAME]
    assert entry.best is not None
    objective = entry.best.objective * 1.01
    best = msgspec.structs.replace(entry.best, objective=objective, bound=None)
    write_index(
        read_index(folder) | {NAME: msgspec.structs.replace(entry, best=best)}, folder
    )
    return objective


@pytest.fixture(name="plan")
def _plan(folder: Path, here: Path) -> Path:
    """The optimal plan of one of them, as somebody submits it."""
    problem = build_problem(read_instance(instance_path(folder, NAME)))
    plan = read_plan(plan_path(folder, NAME), problem)
    write_plan(plan, here / "mine.plan.json", problem=problem)
    return here / "mine.plan.json"


# -- list ------------------------------------------------------------------------------


def test_alone_it_lists(run: Invoke, folder: Path) -> None:
    """Without a command the table is that of ``list``: names, sizes, best plans."""
    alone, listed = run("instances"), run("instances", "list")
    assert alone.exit_code == listed.exit_code == 0
    assert alone.stdout == listed.stdout
    row = next(line for line in alone.stdout.splitlines() if NAME in line.split())
    assert row.split()[1:5] == [
        "8",
        "2",
        "2",
        "2",
    ]  # experts, servers, demands, formats
    assert "3 of 3 instances" in alone.stdout


def test_the_list_is_filtered(run: Invoke, folder: Path) -> None:
    """By family, model, dataflow and number of experts; patterns are allowed."""

    def names(*options: object) -> list[str]:
        return run("instances", "list", "--names", *options).stdout.split()

    assert names() == list(NAMES)
    assert names("--family", "t?ny") == list(NAMES)
    assert names("--family", "metro") == []
    assert names("--dataflow", "roam") == ["tiny/roam-quality"]
    assert names("--model", "mixtral*") == []
    assert names("--min-experts", 8, "--dataflow", "home") == ["tiny/quality"]
    assert names("--max-experts", 7) == ["tiny/tiers"]


def test_the_list_as_json_has_sizes_and_digests(run: Invoke, folder: Path) -> None:
    """Programs get what the index knows, and where the plan is."""
    known = json.loads(run("instances", "--json").stdout)["instances"]
    entry = read_index(folder)[NAME]
    mine = next(one for one in known if one["name"] == NAME)
    assert mine["digest"] == entry.digest
    assert mine["experts"] == entry.experts
    assert entry.best is not None
    assert mine["objective"] == entry.best.objective
    assert mine["best_plan"] == str(plan_path(folder, NAME))


def test_the_gap_of_a_proved_plan_is_nought(run: Invoke, folder: Path) -> None:
    """Best plans of tiny instances were enumerated: their files name no gap."""
    listed = json.loads(run("instances", "list", "--json").stdout)["instances"]
    assert [one["gap"] for one in listed] == [0.0] * len(NAMES)
    shown = json.loads(run("instances", "best", NAME, "--json").stdout)
    assert shown["gap"] == 0.0


def test_options_of_the_list_come_after_it(run: Invoke, folder: Path) -> None:
    """An option before the name of another command is not dropped silently."""
    done = run("instances", "--family", "tiny", "check")
    assert done.exit_code == 2
    assert "come after" in done.stderr


# -- check -----------------------------------------------------------------------------


def test_check_says_ok_of_each(run: Invoke, folder: Path) -> None:
    """All of them, or those that patterns name; an unknown name is refused."""
    done = run("instances", "check")
    assert done.exit_code == 0
    assert [line.split(": ok")[0] for line in done.stdout.splitlines()] == list(NAMES)
    one = run("instances", "check", "tiny/t*", "--json")
    report = json.loads(one.stdout)["instances"]
    assert [entry["name"] for entry in report] == ["tiny/tiers"]
    assert report[0]["found"] == []
    unknown = run("instances", "check", "tiny/nothing")
    assert unknown.exit_code == 2
    assert "no bundled instance" in unknown.stderr


def test_check_notices_what_is_wrong(run: Invoke, folder: Path, worse: float) -> None:
    """One instance whose plan is not worth what the index says: exit code 1."""
    done = run("instances", "check")
    assert done.exit_code == 1
    assert f"{NAME}: objective: got" in done.stdout
    instance_path(folder, "tiny/tiers").unlink()
    assert "tiny/tiers: " in run("instances", "check", "tiny/tiers").stdout


# -- best ------------------------------------------------------------------------------


def test_best_shows_and_exports(run: Invoke, folder: Path, here: Path) -> None:
    """The exported plan is worth what the index says."""
    shown = run("instances", "best", NAME)
    assert shown.exit_code == 0
    best = read_index(folder)[NAME].best
    assert best is not None
    assert f"objective {best.objective:.6g}" in shown.stdout
    done = run("instances", "best", NAME, "-o", "best.plan.json")
    assert done.exit_code == 0
    problem = build_problem(read_instance(instance_path(folder, NAME)))
    plan = read_plan(here / "best.plan.json", problem)
    assert score(problem, plan).objective == pytest.approx(best.objective, rel=1e-9)
    facts = json.loads(run("instances", "best", NAME, "--json").stdout)
    assert facts["objective"] == best.objective
    assert facts["solver"] == best.solver


def test_best_of_nothing(run: Invoke, folder: Path) -> None:
    """An instance without a plan: exit code 1; one that is not there: 2."""
    entry = read_index(folder)[NAME]
    write_index({NAME: msgspec.structs.replace(entry, best=None)}, folder)
    plan_path(folder, NAME).unlink()
    assert run("instances", "best", NAME).exit_code == 1
    assert run("instances", "best", "tiny/nothing").exit_code == 2


# -- submitting ------------------------------------------------------------------------


def test_a_better_plan_is_told_and_kept_only_if_asked(
    run: Invoke, folder: Path, worse: float, plan: Path
) -> None:
    """``--submit`` writes nothing; with ``--keep`` index and plan are new."""
    before = (folder / "index.json").read_bytes()
    done = run("instances", "best", NAME, "--submit", plan)
    assert done.exit_code == 0
    assert "is better than" in done.stdout
    assert (folder / "index.json").read_bytes() == before
    kept = run("instances", "best", NAME, "--submit", plan, "--keep", "--by", "Ada")
    assert kept.exit_code == 0
    assert kept.stdout.rstrip().endswith("kept")
    best = read_index(folder)[NAME].best
    assert best is not None
    assert best.objective < worse
    assert best.solver == "Ada"
    assert run("instances", "check").exit_code == 0
    # Once it is kept it is no news any more.
    again = run("instances", "best", NAME, "--submit", plan, "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["better"] is False


def test_a_broken_plan_is_told_with_its_row(
    run: Invoke, folder: Path, worse: float, plan: Path, here: Path
) -> None:
    """A plan with an expert missing is not better, whatever it costs."""
    problem = build_problem(read_instance(instance_path(folder, NAME)))
    whole = read_plan(plan, problem)
    expert = whole.copies[:, 0].max()
    part = Plan.of(problem, whole.copies[whole.copies[:, 0] != expert])
    write_plan(part, here / "part.plan.json", problem=problem)
    done = run("instances", "best", NAME, "--submit", "part.plan.json", "--keep")
    assert done.exit_code == 1
    assert "the plan breaks" in done.stdout
    facts = json.loads(
        run("instances", "best", NAME, "--submit", "part.plan.json", "--json").stdout
    )
    assert facts["feasible"] is False
    assert facts["violations"]


def test_a_wheel_is_not_written_into(
    run: Invoke,
    folder: Path,
    worse: float,
    plan: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a checkout a plan can be judged but not kept."""
    monkeypatch.setattr(library, "_PACKAGE", folder.parent)
    assert run("instances", "best", NAME, "--submit", plan).exit_code == 0
    done = run("instances", "best", NAME, "--submit", plan, "--keep")
    assert done.exit_code == 2
    assert "expected a checkout" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--keep",),
        ("--by", "Ada"),
        ("--submit", "a.json", "-o", "b.json"),
        ("-o", "-", "--json"),
        ("--submit", "missing.json"),
    ],
)
def test_bad_options_are_refused(
    run: Invoke, folder: Path, here: Path, options: tuple[str, ...]
) -> None:
    """Options that do not go together, or a file that is not there: exit code 2."""
    assert run("instances", "best", NAME, *options).exit_code == 2


def test_a_broken_index_is_told(run: Invoke, folder: Path) -> None:
    """The instances are listed all the same, with a warning."""
    write_bytes(folder / "index.json", b"{}")
    done = run("instances")
    assert done.exit_code == 0
    assert NAME in done.stdout
    assert "warning" in done.stderr
