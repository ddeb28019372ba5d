"""The bundled instances: in step with their index, small ones re-scored."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from meldopt import build_problem, read_instance, read_plan, score
from meldopt.files import arrays_to_bytes, read_arrays
from meldopt.generate import generate_with_plan
from meldopt.library import best_plan, instance_names, read_index, write_index
from meldopt.plan import Plan

FOLDER = Path(__file__).resolve().parents[1] / "instances"
SMALL_EXPERTS = 1100  # instances of so many experts are re-scored here, others by make


def _script(name):
    spec = importlib.util.spec_from_file_location(
        f"instances_{name}", FOLDER / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


check = _script("check")
INDEX = read_index(FOLDER)


def test_the_index_lists_what_is_there():
    """Every file is in the index and every entry has a file and a plan or none."""
    assert sorted(INDEX) == instance_names()
    for name, entry in INDEX.items():
        assert (entry.best is not None) == (best_plan(name) is not None), name


def test_the_seven_hard_ones_are_there():
    """All seven have a plan, and no row of them was loosened without the check."""
    assert set(check.HARD) <= set(INDEX)
    assert len(check.HARD) == 7
    for name in check.HARD:
        assert INDEX[name].best is not None, name


@pytest.mark.parametrize(
    "name", [name for name, e in INDEX.items() if e.experts <= SMALL_EXPERTS]
)
def test_small_instances_pass_the_check(name):
    """Digest, sizes, feasibility, objective and hardness are as the index says."""
    assert check.check(name, INDEX[name]) == []


def test_the_index_is_written_sorted_and_reads_back(tmp_path):
    """The same entries give the same bytes, whatever their order."""
    write_index(dict(reversed(list(INDEX.items()))), tmp_path)
    written = (tmp_path / "index.json").read_text()
    assert read_index(tmp_path) == INDEX
    assert list(json.loads(written)["instances"]) == sorted(INDEX)


@pytest.fixture(name="library")
def _library(tmp_path):
    """A library of one hard instance, to be spoilt."""
    name = "mixtral-8x7b/metro-4"
    for folder in ("mixtral-8x7b", "best/mixtral-8x7b"):
        (tmp_path / folder).mkdir(parents=True)
        for path in (FOLDER / folder).glob("metro-4.*"):
            shutil.copy(path, tmp_path / folder)
    return name, tmp_path


def test_the_check_notices_a_wrong_objective(library):
    """An index that promises more than the plan is worth is refused."""
    name, folder = library
    entry = INDEX[name]
    better = msgspec.structs.replace(
        entry,
        best=msgspec.structs.replace(entry.best, objective=entry.best.objective / 2),
    )
    assert any("objective: got" in line for line in check.check(name, better, folder))
    assert check.check(name, entry, folder) == []


def test_the_check_notices_a_bound_above_the_objective(library):
    """A bound above a feasible objective is a bug, never a result."""
    name, folder = library
    entry = INDEX[name]
    wrong = msgspec.structs.replace(
        entry, best=msgspec.structs.replace(entry.best, bound=entry.best.objective * 2)
    )
    assert any("bound: got" in line for line in check.check(name, wrong, folder))


def test_the_check_notices_a_plan_that_is_gone(library):
    """An entry with a plan but no file is refused."""
    name, folder = library
    (folder / "best" / f"{name}.plan.json").unlink()
    found = check.check(name, INDEX[name], folder)
    assert "best plan: missing" in found


def test_loose_plans_are_not_hard():
    """With twice the slack asked for no row is tight and the conditions fail."""
    made, plan = generate_with_plan(
        "star",
        name="loose",
        seed=1,
        parameters={"layers": 3, "servers": 3, "tightness": 0.5},
    )
    problem = build_problem(made)
    found = check.hardness(problem, plan, score(problem, plan))
    assert any("tight memory: got 0" in line for line in found)
    assert any("quality budgets: got 0" in line for line in found)


def test_a_best_plan_is_kept_only_if_it_is_better(library, monkeypatch, capsys):
    """A worse plan changes nothing; a plan of another instance is refused."""
    make = _script("make")
    name, folder = library
    monkeypatch.setattr(make, "FOLDER", folder)
    write_index({name: INDEX[name]}, folder)
    problem = build_problem(read_instance(folder / f"{name}.json"))
    path = folder / "best" / f"{name}.plan.json"
    before = path.read_bytes()
    make.best(name, path, None)
    assert path.read_bytes() == before
    assert "is not better" in capsys.readouterr().out
    plan = read_plan(path, problem)
    missing = Plan.of(problem, plan.copies[1:])
    with pytest.raises(SystemExit, match="the plan breaks"):
        make.keep(name, problem, missing, solver="test", seed=0)


def test_the_same_arrays_pack_to_the_same_bytes():
    """Arrays beside an instance do not depend on the time of writing."""
    path = FOLDER / "mixtral-8x7b" / "metro-4.npz"
    assert arrays_to_bytes(read_arrays(path)) == path.read_bytes()
